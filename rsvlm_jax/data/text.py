"""The text side of a batch: prompts as fixed-length arrays, answers as words.

One function lays out the prompts of training and of inference, so that they cannot differ:

    plain      <s> <image>*N <reg>*Q
    question   <s> <image>*N {question}\\n                                   the model goes on
    pair       <s> <image>*N {question}\\n The tree cover is <reg>*Q . </s>
    weight      0     0          0          1    1    1   1  1  0..0  1  1

`weight[l]` supervises `tokens[l]`. The first `<reg>` is the model's own decision and supervised;
the further ones are forced (`generate` appends them as a block), so they carry no loss. Padding is
on the right, with `segment` 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rsvlm_jax.config import DataError

from .numbers import NumberFormat
from .tokenizer import IMAGE, REG, Tokenizer


@dataclasses.dataclass(frozen=True)
class Text:
    """Prompts as arrays: i32 (`weight` f32) of shape [L], or [B, L] for several.

    `answer` i32 [] or [B]: the position at which the answer begins, -1 where there is none.
    """

    tokens: np.ndarray
    segment: np.ndarray
    position: np.ndarray
    weight: np.ndarray
    image_slot: np.ndarray
    answer: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """Number of positions before the padding: i64 [] or [B]."""
        return np.asarray((self.segment > 0).sum(-1))

    def take(self, rows: np.ndarray) -> Text:
        """Rows of a table of prompts: [R, L] -> [B, L]."""
        return Text(*(np.asarray(a[rows]) for a in _arrays(self)))

    def repeat(self, n: int) -> Text:
        """One prompt for `n` samples: [L] -> [n, L]."""
        return Text(*(np.repeat(a[None], n, axis=0) for a in _arrays(self)))


def stack(texts: Sequence[Text]) -> Text:
    """A table of prompts: R times [L] -> [R, L]."""
    return Text(*(np.stack(a) for a in zip(*map(_arrays, texts), strict=True)))


def ids_of(
    tokenizer: Tokenizer, visual: int, reg: int, question: str | None, answer: str | None
) -> tuple[list[int], list[float]]:
    """Token ids and weights of a prompt, not padded; without question and answer: plain.

    Args:
      visual, reg: N and Q, lengths of the two placeholder blocks.
      answer: may hold `<reg>` once; None leaves the prompt open for the model.

    Raises:
      DataError: an empty question, or one that holds a placeholder; an answer with two `<reg>`.
    """
    ids = [] if tokenizer.bos is None else [tokenizer.bos]
    ids += [tokenizer.image] * visual
    if question is None and answer is None:
        ids += [tokenizer.reg] * reg
        return ids, [0.0] * len(ids)
    if question is not None:
        if not question.strip():
            raise DataError("an empty question", where="question", expected="some words")
        ids += _words(tokenizer, question.strip() + "\n", "question")
    weights = [0.0] * len(ids)
    if answer is None:
        return ids, weights
    pieces = answer.split(REG)
    if len(pieces) > 2:
        raise DataError(
            f"an answer holds {REG} more than once",
            where="answer",
            expected="one number",
            found=len(pieces) - 1,
        )
    for i, piece in enumerate(pieces):
        if i:
            ids += [tokenizer.reg] * reg
            weights += [1.0] + [0.0] * (reg - 1)
        words = _words(tokenizer, piece.strip(), "answer") if piece.strip() else []
        ids += words
        weights += [1.0] * len(words)
    return [*ids, tokenizer.eos], [*weights, 1.0]


def pad(tokenizer: Tokenizer, ids: list[int], weights: list[float], length: int) -> Text:
    """Arrays of `length` positions.

    Raises:
      DataError: more ids than `length`. Nothing is ever cut: not a visual token, not a word.
    """
    n = len(ids)
    if n > length:
        raise DataError(
            "the prompt is too long",
            where="prompt",
            expected=f"at most {length} tokens, {ids.count(tokenizer.image)} of them visual",
            found=n,
            remedy='ask in fewer words (a model trained on templates="plain" takes no question)',
        )
    tokens = np.full(length, tokenizer.pad, np.int32)
    tokens[:n] = ids
    segment = (np.arange(length) < n).astype(np.int32)
    weight = np.zeros(length, np.float32)
    weight[:n] = weights
    image = (tokens == tokenizer.image) & (segment > 0)
    slot = np.where(image, np.cumsum(image) - 1, -1).astype(np.int32)
    answer = np.array(weight.argmax() if weight.any() else -1, np.int32)
    position = np.where(segment > 0, np.arange(length), 0).astype(np.int32)
    return Text(tokens, segment, position, weight, slot, answer)


def fill_numbers(
    text: Text, values: np.ndarray, known: np.ndarray, form: NumberFormat, tokenizer: Tokenizer
) -> Text:
    """Prompts whose `<reg>` block is the sample's number in words, each of them supervised.

    Args:
      text: [B, L]; rows without `<reg>` stay as they are.
      values, known: [B]; a row whose value is not known keeps its `<reg>`.
    """
    block = text.tokens == tokenizer.reg
    block &= known[:, None]
    tokens, weight = text.tokens.copy(), np.where(block, np.float32(1), text.weight)
    filled = np.flatnonzero(block.any(1))
    tokens[block] = form.tokens(values[filled], tokenizer).reshape(-1)
    return dataclasses.replace(text, tokens=tokens, weight=weight)


def check_placeholders(text: Text, tokenizer: Tokenizer, visual: int, reg: int) -> None:
    """Refuse prompts that do not hold N `<image>` and either no or Q `<reg>`.

    Raises:
      DataError: names the first sample of the batch that is wrong, and its counts.
    """
    tokens = np.atleast_2d(text.tokens)
    images, regs = (tokens == tokenizer.image).sum(1), (tokens == tokenizer.reg).sum(1)
    wrong = (images != visual) | ((regs != reg) & (regs != 0))
    if wrong.any():
        b = int(wrong.argmax())
        raise DataError(
            "placeholders do not match the model",
            where=f"sample {b} of the batch",
            expected=f"{visual} {IMAGE} and 0 or {reg} {REG}",
            found=f"{images[b]} {IMAGE} and {regs[b]} {REG}",
        )


def format_number(
    value: float, lo: float | None = None, hi: float | None = None, unit: str = "1"
) -> str:
    """ "132 Mg/ha (90 %: 101-168)": decimals such that the interval's width has two digits.

    Without an interval, three significant digits. Unit "1" is not written; a value that is not
    finite becomes "no estimate".
    """
    if not math.isfinite(value):
        return "no estimate"
    unit = "" if unit in ("", "1") else f" {unit}"
    if lo is None or hi is None or not (math.isfinite(lo) and math.isfinite(hi)):
        return f"{_fixed(value, _decimals(abs(value), 3))}{unit}"
    decimals = _decimals(hi - lo, 2) if hi > lo else _decimals(abs(value), 3)
    a, b = _fixed(lo, decimals), _fixed(hi, decimals)
    between = " to " if "-" in a + b else "-"
    return f"{_fixed(value, decimals)}{unit} (90 %: {a}{between}{b})"


def _decimals(size: float, digits: int) -> int:
    if size <= 0:
        return 0
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), 9)


def _fixed(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no minus sign on zero


def _words(tokenizer: Tokenizer, text: str, where: str) -> list[int]:
    ids = tokenizer.encode(text)
    if not tokenizer.control.isdisjoint(ids):
        raise DataError(
            f"a placeholder in the {where}",
            where=where,
            expected=f"plain words: the processor places {IMAGE}, {REG}, <s> and </s> itself",
            found=repr(text[:60]),
        )
    return ids


def _arrays(text: Text) -> tuple[np.ndarray, ...]:
    return (
        *(text.tokens, text.segment, text.position),
        *(text.weight, text.image_slot, text.answer),
    )
