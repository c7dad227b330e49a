"""Pieces of a prompt, from which ids and labels are made; and `Row`, what comes of them.

A template writes pieces, not a string: text that a user wrote stays text, whatever it spells. The
texts between two images or special tokens are one section, encoded at once, as LLaVA encodes a
conversation at once::

    "... USER: " | image | "\\nwhat? ASSISTANT:" " a lake" (answer) | token </s> (answer)
    `- section -'          `------------- section ----------'

A token is supervised if its first character stands in an answer. The space before an answer belongs
to it: Llama writes " a" as one token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from rsvlm_jax.config import DataError

from .tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Piece:
    """One part of a prompt.

    Attributes:
      kind: "text", "token" (a special one, by `token`), "image" or "reg" (placeholders).
      answer: whether the model is to learn it.
    """

    kind: Literal["text", "token", "image", "reg"]
    text: str = ""
    token: int = -1
    answer: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """One conversation as ids, not padded.

    Attributes:
      ids: an image is P' times the id of its placeholder.
      weight: `weight[l]` supervises `ids[l]`; 1 exactly where LLaVA's label is not -100.
      images: in the order of the text.
      cut: tokens at the right that did not fit.
    """

    ids: list[int]
    weight: list[float]
    images: int
    cut: int = 0

    @property
    def supervised(self) -> bool:
        """Whether anything is left to learn; a conversation without is dropped by its reader."""
        return any(self.weight)


def text(content: str, *, answer: bool = False) -> Piece:
    return Piece("text", content, answer=answer)


@dataclasses.dataclass(frozen=True)
class Widths:
    """Ids of the two placeholders, how often each is written, and what comes before a section.

    Attributes:
      fresh: a section after an image is encoded like the first of a prompt (LLaVA splits the prompt
        at its images and encodes each part by itself); False: like one after a special token.
    """

    image: int
    per_image: int
    reg: int
    per_reg: int
    fresh: bool = True


def encode(tokenizer: Tokenizer, pieces: Sequence[Piece], widths: Widths, *, bos: bool) -> Row:
    """Ids and weights of a prompt.

    Args:
      bos: begin with the tokenizer's beginning.

    Raises:
      DataError: see `Tokenizer.plain`.
    """
    ids: list[int] = []
    weight: list[float] = []
    section: list[Piece] = []
    first, images = True, 0

    def flush() -> None:
        found, starts = tokenizer.plain("".join(p.text for p in section), first=first)
        answer = [p.answer for p in section for _ in p.text]
        ids.extend(found)
        weight.extend(float(answer[min(at, len(answer) - 1)]) for at in starts)
        section.clear()

    if bos and tokenizer.bos is not None:
        ids.append(tokenizer.bos)
        weight.append(0.0)
    for piece in pieces:
        if piece.kind == "text":
            section.append(piece)
            continue
        flush()
        first = False
        if piece.kind == "token":
            ids.append(piece.token)
            weight.append(float(piece.answer))
        elif piece.kind == "image":
            ids += [widths.image] * widths.per_image
            weight += [0.0] * widths.per_image
            images, first = images + 1, widths.fresh
        else:  # the model decides on the first alone; the others follow it
            ids += [widths.reg] * widths.per_reg
            weight += [float(piece.answer)] + [0.0] * (widths.per_reg - 1)
    flush()
    if weight:
        weight[0] = 0.0  # there is nothing before it
    return Row(ids, weight, images)


def fit(row: Row, length: int, *, image: int, prompt: bool) -> Row:
    """The row cut at the right to `length` positions.

    Args:
      image: id of the placeholder.
      prompt: a prompt is never cut.

    Raises:
      DataError: an image would be cut or left out, or it is a prompt.
    """
    n = len(row.ids)
    if n <= length:
        return row
    last = max((i for i, token in enumerate(row.ids) if token == image), default=-1)
    if prompt or last >= length:
        raise DataError(
            "the prompt is longer than the context" if prompt else "an image does not fit",
            where="conversation",
            expected=f"at most {length} tokens, {row.ids.count(image)} of them visual",
            found=n,
            remedy="ask in fewer words, with fewer images, or drop the earliest turns",
        )
    return Row(row.ids[:length], row.weight[:length], row.images, n - length)
