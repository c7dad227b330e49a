"""The chat template that comes with a tokenizer, rendered by `transformers`, as pieces.

The template renders marks in the place of what is said; only then is what is said put in, as plain
text. So a user who writes "<|im_end|>" has written ten characters, and where each answer stands is
known. Ids are those of `apply_chat_template`: of the processor of a model with images (which begins
with the tokenizer's beginning where the template did not write it), else of the tokenizer (which
never does).

What is learnt: from where the prompt of an answer ends (`add_generation_prompt`) to the answer's
end token; where the template writes none, to the last word.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from typing import Any

from rsvlm_jax.config import ConfigError

from .messages import Message, split_images
from .pieces import Piece, text
from .templates import answer, question
from .tokenizer import Tokenizer

_MARK = "\ufdd1{}\ufdd2"
_MARKS = re.compile("\ufdd1([0-9]+)\ufdd2")
_PARTS = re.compile(r"""\[\s*['"]type['"]\s*\]|\.type\b|\(\s*['"]type['"]""")


def lay_out(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    ends: Collection[int],
    *,
    images: bool,
    reg: bool,
) -> tuple[list[Piece], bool]:
    """The pieces of a conversation that `check_turns` let pass, and whether to begin with `bos`.

    Args:
      ends: ids of which each ends an answer.
      images: of a model with images.
      reg: whether `<reg>` in an answer is a placeholder.

    Raises:
      ConfigError: a template that raises, or that does not write each message once, in order.
    """
    # Templates of models with images ask for the parts of a message, most others for its text.
    parts_first = images and bool(_PARTS.search(tokenizer.chat_template or ""))
    try:
        said, filling, whole = _marked(messages, parts_first, reg, tokenizer)
    except ConfigError as problem:
        try:
            said, filling, whole = _marked(messages, not parts_first, reg, tokenizer)
        except ConfigError:
            raise problem from None
    spots = _MARKS.finditer(whole)
    pieces: list[Piece] = []
    at, learnt = 0, False
    for spot, (i, words) in zip(spots, filling, strict=True):
        before = whole[at : spot.start()]
        answers = messages[i].role == "assistant"
        if learnt:
            pieces += _closing(tokenizer, before, ends)
        elif answers:
            opened = _render(tokenizer, said[:i], True)
            own = len(opened) - at if whole.startswith(opened) else len(before)
            pieces += _parsed(tokenizer, before[:own])
            pieces += _parsed(tokenizer, before[own:], answer=True)
        else:
            pieces += _parsed(tokenizer, before)
        pieces += words
        at, learnt = spot.end(), answers
    rest = whole[at:]
    pieces += _closing(tokenizer, rest, ends) if learnt else _parsed(tokenizer, rest)
    begins = next((p for p in pieces if p.kind != "text" or p.text), None)
    written = begins is not None and begins.kind == "token" and begins.token == tokenizer.bos
    return pieces, images and tokenizer.starts and not written


def _marked(
    messages: Sequence[Message], by_parts: bool, reg: bool, tokenizer: Tokenizer
) -> tuple[list[dict[str, Any]], list[tuple[int, list[Piece]]], str]:
    """The messages with marks for their texts; the message of each mark and what it hides; all of
    it rendered.

    Args:
      by_parts: a message is a list of images and texts, and the template writes the images.
    """
    said: list[dict[str, Any]] = []
    filling: list[tuple[int, list[Piece]]] = []

    def mark(i: int, pieces: list[Piece]) -> str:
        filling.append((i, pieces))
        return _MARK.format(len(filling) - 1)

    for i, message in enumerate(messages):
        content = message.content.strip()
        if message.role == "assistant":
            pieces = answer(content, reg)
        elif message.role == "user" and not by_parts:
            pieces = question(content)
        else:
            pieces = [text("".join(split_images(content)))]
        if not by_parts:
            said.append({"role": message.role, "content": mark(i, pieces)})
            continue
        texts = split_images(content) if message.role == "user" else [content]
        parts: list[dict[str, str]] = []
        for k, words in enumerate(texts):
            if k:
                parts.append({"type": "image"})
            words = words.strip() if len(texts) == 2 else words
            if words:
                hidden = [text(words)] if message.role == "user" else pieces
                parts.append({"type": "text", "text": mark(i, hidden)})
        said.append({"role": message.role, "content": parts})
    whole = _render(tokenizer, said, messages[-1].role == "user")
    found = [int(m[1]) for m in _MARKS.finditer(whole)]
    if found != list(range(len(filling))):
        raise ConfigError(
            "the chat template does not write each text once, in order", where="tokenizer",
            expected=f"texts 0 .. {len(filling) - 1}", found=found,
        )  # fmt: skip
    return said, filling, whole


def _closing(tokenizer: Tokenizer, said: str, ends: Collection[int]) -> list[Piece]:
    """What follows an answer: learnt as far as its end, if it has one."""
    pieces = _parsed(tokenizer, said)
    end = next((i for i, p in enumerate(pieces) if p.kind == "token"), None)
    if end is None or pieces[end].token not in ends:
        return pieces
    learnt = [Piece(p.kind, p.text, p.token, True) for p in pieces[: end + 1]]
    return [*learnt, *pieces[end + 1 :]]


def _parsed(tokenizer: Tokenizer, said: str, *, answer: bool = False) -> list[Piece]:
    """A template's own text, whose special tokens are meant as such."""
    pieces: list[Piece] = []
    at = 0
    for found in _specials(tokenizer).finditer(said):
        token = tokenizer.specials[found[0]]
        words = said[at : found.start()]
        pieces.append(text(words.rstrip() if token.lstrip else words, answer=answer))
        at = found.end()
        if token.rstrip:
            at += len(said[at:]) - len(said[at:].lstrip())
        if found[0] == tokenizer.image_text:
            pieces.append(Piece("image"))
        else:
            index = tokenizer.id_of(found[0])
            assert index is not None
            pieces.append(Piece("token", token=index, answer=answer))
    return [*pieces, text(said[at:], answer=answer)]


@functools.lru_cache(maxsize=8)
def _specials(tokenizer: Tokenizer) -> re.Pattern[str]:
    longest_first = sorted(tokenizer.specials, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def _render(tokenizer: Tokenizer, said: Sequence[dict[str, Any]], prompt: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    known = {n: tokenizer.roles[n] for n in names if tokenizer.roles.get(n) is not None}
    try:
        rendered, _ = render_jinja_template(
            [list(said)],
            chat_template=tokenizer.chat_template,
            add_generation_prompt=prompt,
            **known,
        )
    except Exception as e:  # jinja's many, and what a template raises itself
        raise ConfigError(
            "the chat template refuses these messages", where="tokenizer", found=e
        ) from e
    return rendered[0]
