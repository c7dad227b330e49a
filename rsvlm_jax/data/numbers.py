"""Numbers as text of a fixed number of characters, each a token of its own: for comparison.

    "digits"  132.4 -> 1 3 2 . 4               places before the point by the training targets
    "p10"     132.4 -> + 1 3 2 4 E - 1         sign, mantissa, exponent: +1324E-1

Language models write numbers; this is the fair form of it, one token a digit and the same width for
every number, so that a number is a block of W tokens where a head has its Q `<reg>`. P10 is that of
RegressLM (Song et al. 2024), its exponent in two characters so that `float` reads the text. What
may follow what is a table of few states (`rules`), from which `rsvlm_jax.generate.numbers` makes
the machine of constrained decoding. Not here: tokens of a number that a head predicts (`text`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rsvlm_jax.config import ConfigError, DataError

from .tokenizer import Tokenizer

CHARACTERS = "-+.E0123456789"
"""All that stands in a number; digits and signs ascend, so that texts of one width sort as their
values do (negative "digits" and exponents apart)."""

NON_ZERO, ANY = "123456789", "0123456789"

LARGEST_EXPONENT = 9


@dataclasses.dataclass(frozen=True)
class NumberFormat:
    """How numbers are written.

    Attributes:
      kind: see the module.
      digits: of "digits" all of them, of "p10" those of the mantissa.
      decimals: of "digits", behind the point.
      signed: of "digits", whether a sign stands before it; "p10" always has one.
    """

    kind: Literal["digits", "p10"]
    digits: int = 4
    decimals: int = 0
    signed: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 9 or not 0 <= self.decimals < max(self.digits, 1):
            raise ConfigError(
                "impossible digits",
                where="NumberFormat",
                expected="1 .. 9 digits, fewer of them behind the point",
                found=f"digits={self.digits}, decimals={self.decimals}",
            )

    @property
    def width(self) -> int:
        """W, characters of every number."""
        if self.kind == "p10":
            return self.digits + 4
        return self.signed + self.digits + (self.decimals > 0)

    @property
    def largest(self) -> float:
        """Of the values that can be written; others are written as it."""
        top = 10**self.digits - 1
        return top * 10.0**LARGEST_EXPONENT if self.kind == "p10" else top / 10**self.decimals

    def write(self, value: float) -> str:
        """The number in W characters, rounded to what can be written.

        Exact to half a unit of the last decimal ("digits"), or to 5 * 10^-digits of the value
        ("p10", beneath whose smallest mantissa digits are lost).

        Raises:
          DataError: not a finite number.
        """
        if not math.isfinite(value):
            raise DataError("no number to write", where="NumberFormat", found=value)
        low = -self.largest if self.kind == "p10" or self.signed else 0.0
        value = min(max(value, low), self.largest)
        if self.kind == "digits":
            whole = self.digits + (self.decimals > 0)
            text = f"{abs(value):0{whole}.{self.decimals}f}"
            if not self.signed:
                return text
            return ("-" if value < 0 and float(text) else "+") + text
        exponent = 0
        if value:
            exponent = math.floor(math.log10(abs(value))) - self.digits + 1
            exponent = max(exponent, -LARGEST_EXPONENT)
        mantissa = round(abs(value) * 10.0**-exponent)
        if mantissa >= 10**self.digits:  # 9999.7 became 10000
            mantissa, exponent = round(mantissa / 10), exponent + 1
        if mantissa < 10 ** (self.digits - 1):  # smaller than what has all its digits: nothing
            mantissa = exponent = 0
        sign = "-" if value < 0 and mantissa else "+"
        return f"{sign}{mantissa:0{self.digits}d}E{exponent:+d}"

    def read(self, text: str) -> float | None:
        """The value of W characters; None where `rules` would not have let them be written."""
        table, state = self.rules, 0
        if len(text) != self.width:
            return None
        for character in text:
            column = CHARACTERS.find(character)
            state = -1 if column < 0 else int(table[state, column])
            if state < 0:
                return None
        return float(text) + 0.0  # + 0.0: no minus sign on zero

    @functools.cached_property
    def rules(self) -> np.ndarray:
        """i64 [S, len(CHARACTERS)]: the state that a character leads to, -1 where it may not come.

        State 0 is before the first character, the last state behind the last one; all texts are W
        long. Every value of "p10" has one text: no leading zero but in 0 itself, "+0000E+0".
        """
        if self.kind == "digits":
            slots = ["-+"] * self.signed + [ANY] * (self.digits - self.decimals)
            slots += ["."] * (self.decimals > 0) + [ANY] * self.decimals
            return _table([dict.fromkeys(slot, i + 1) for i, slot in enumerate(slots)] + [{}])
        n = self.digits
        # 0 sign | 1 after + | 2 after - | 3 .. n+2 mantissa | of zero: n+3 .. | the end
        first, zero = 3, n + 3
        exponent = 2 * n + 3
        after_e, plus, minus, zero_e, zero_plus, end = range(exponent, exponent + 6)
        states: list[dict[str, int]] = [{"-": 2, "+": 1}]
        states += [{"0": zero, **dict.fromkeys(NON_ZERO, first)}, dict.fromkeys(NON_ZERO, first)]
        states += [dict.fromkeys(ANY, first + i + 1) for i in range(n - 1)] + [{"E": after_e}]
        states += [{"0": zero + i + 1} for i in range(n - 1)] + [{"E": zero_e}]
        states += [{"+": plus, "-": minus}, dict.fromkeys(ANY, end), dict.fromkeys(NON_ZERO, end)]
        states += [{"+": zero_plus}, {"0": end}, {}]
        return _table(states)

    def ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Ids of `CHARACTERS`.

        Raises:
          ConfigError: a tokenizer that has no token for one of them.
        """
        found = {c: tokenizer.id_of(c) for c in CHARACTERS}
        lacking = [c for c, i in found.items() if i is None]
        if lacking:
            raise ConfigError(
                "numbers as text need a token for each character",
                where="DataConfig.number",
                expected=f"a tokenizer with {' '.join(CHARACTERS)}, or number='head'",
                found=f"none for {' '.join(lacking)}",
            )
        return tuple(i for i in found.values() if i is not None)

    def tokens(self, values: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
        """Ids of numbers: [B] -> i32 [B, W]."""
        ids = self.ids(tokenizer)
        rows = [[ids[CHARACTERS.index(c)] for c in self.write(float(v))] for v in values]
        return np.array(rows, np.int32).reshape(len(values), self.width)


def number_format(
    kind: Literal["digits", "p10"],
    digits: int,
    values: np.ndarray,
    bounds: tuple[float, float] | None,
) -> NumberFormat:
    """The format for a target.

    "digits" has as many places before the point as the bounds need, or half as much again as the
    largest training target; the other digits stand behind it.

    Args:
      values: training targets [n], NaN = none.

    Raises:
      DataError: no finite value; ConfigError: more places than digits.
    """
    if kind == "p10":
        return NumberFormat(kind, digits)
    known = values[np.isfinite(values)]
    if not len(known):
        raise DataError("no training window has a target", where="DataConfig.number")
    low, high = bounds or (-math.inf, math.inf)
    largest = max(_end(known.max(), high), _end(-known.min(), -low))
    places = max(math.floor(math.log10(largest)) + 1, 1) if largest > 0 else 1
    if places > digits:
        raise ConfigError(
            "too few digits for the target",
            where="DataConfig.number_digits",
            expected=f">= {places}, for values up to {largest:g}",
            found=digits,
        )
    signed = bool(low < 0 if math.isfinite(low) else known.min() < 0)
    return NumberFormat(kind, digits, digits - places, signed)


def _end(seen: float, bound: float) -> float:
    return float(bound) if math.isfinite(bound) else 1.5 * float(seen)


def _table(states: Sequence[dict[str, int]]) -> np.ndarray:
    table = np.full((len(states), len(CHARACTERS)), -1)
    for i, following in enumerate(states):
        for character, state in following.items():
            table[i, CHARACTERS.index(character)] = state
    return table
