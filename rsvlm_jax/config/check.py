"""Checks that the configuration dataclasses share."""

from __future__ import annotations

import difflib
import math
import re

from .errors import ConfigError


def positive(config: object, *fields: str) -> None:
    """Refuse a field that is not a size: zero, negative, or beyond any real model."""
    for f in fields:
        value = getattr(config, f)
        if not 0 < value < 2**31:
            where = f"{type(config).__name__}.{f}"
            raise ConfigError("not a size", where=where, expected="1 .. 2^31 - 1", found=value)


def in_range(config: object, field: str, *, least: float, below: float = math.inf) -> None:
    """Refuse a number outside least <= x < below, and NaN."""
    value = getattr(config, field)
    if not least <= value < below:
        raise ConfigError(
            "impossible number",
            where=f"{type(config).__name__}.{field}",
            expected=f">= {least:g}" + (f" and < {below:g}" if below < math.inf else ""),
            found=value,
        )


def one_of(value: object, known: tuple[str, ...], where: str) -> None:
    """Refuse a word that is none of those known, with the nearest."""
    if value not in known:
        raise ConfigError(
            "unknown choice",
            where=where,
            expected=" | ".join(known),
            found=repr(value),
            remedy=near_or_none(str(value), known),
        )


def near_or_none(word: str, known: tuple[str, ...]) -> str | None:
    """The remedy that names the nearest known word, if one is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else None


def regex(pattern: str, where: str) -> None:
    """Refuse what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as e:
        raise ConfigError(
            f"not a regular expression ({e})", where=where, found=repr(pattern)
        ) from e


def divides(config: object, part: str, whole: str) -> None:
    a, b = getattr(config, part), getattr(config, whole)
    if b % a:
        raise ConfigError(
            f"{whole} is not a multiple of {part}",
            where=type(config).__name__,
            expected=f"{whole} % {part} == 0",
            found=f"{b} % {a}",
        )


def layers_exist(config: object, wanted: tuple[int, ...], layers: int) -> None:
    """Hidden states by number, as in Hugging Face: 0 the embedding, -1 the last layer's output."""
    where = f"{type(config).__name__}.feature_layers"
    if not wanted:
        raise ConfigError("no layer is returned", where=where, expected="one or more")
    for layer in wanted:
        if type(layer) is not int or not -layers - 1 <= layer <= layers:
            raise ConfigError(
                "no such layer",
                where=where,
                expected=f"{-layers - 1} .. {layers}",
                found=layer,
            )
