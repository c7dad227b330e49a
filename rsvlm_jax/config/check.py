"""Checks that the configuration dataclasses share."""

from __future__ import annotations

import difflib
import functools
import math
import re
import types
import typing
from typing import Any

from .errors import ConfigError


def positive(config: object, *fields: str) -> None:
    """Refuse a field that is not a size: zero, negative, or beyond any real model."""
    for f in fields:
        value = getattr(config, f)
        if not 0 < value < 2**31:
            where = f"{type(config).__name__}.{f}"
            raise ConfigError("not a size", where=where, expected="1 .. 2^31 - 1", found=value)


def choices(config: object) -> None:
    """Refuse a word that the `Literal` of its field does not have, in whatever field of `config`.

    A field may be of words or None, or a tuple of words.
    """
    for name, known, several in _literals(type(config)):
        value, where = getattr(config, name), f"{type(config).__name__}.{name}"
        if not several:
            one_of(value, known, where)
        elif isinstance(value, tuple):
            for i, word in enumerate(value):
                one_of(word, known, f"{where}[{i}]")
        else:
            raise ConfigError("not a tuple", where=where, expected="(word, ...)", found=repr(value))


@functools.cache
def _literals(config: type) -> tuple[tuple[str, tuple[Any, ...], bool], ...]:
    """Of each field of words: its name, the words, and whether it is a tuple of them."""
    found = []
    for name, hint in typing.get_type_hints(config).items():
        several = typing.get_origin(hint) is tuple
        inner = typing.get_args(hint)[0] if several else hint
        either = typing.get_origin(inner) in (typing.Union, types.UnionType)
        known: list[Any] = []
        for option in typing.get_args(inner) if either else (inner,):
            if option is types.NoneType:
                known.append(None)
            elif typing.get_origin(option) is typing.Literal:
                known += typing.get_args(option)
            else:  # a number, say: what else it may be is for its own check
                break
        else:
            found.append((name, tuple(known), several))
    return tuple(found)


def in_range(
    config: object, field: str, *, least: float, below: float = math.inf, most: float = math.inf
) -> None:
    """Refuse a number outside least <= x < below, or over `most`; and NaN."""
    value = getattr(config, field)
    if not least <= value < below or value > most:
        raise ConfigError(
            "impossible number",
            where=f"{type(config).__name__}.{field}",
            expected=f">= {least:g}"
            + (f" and < {below:g}" if below < math.inf else "")
            + (f" and <= {most:g}" if most < math.inf else ""),
            found=value,
        )


def one_of(value: object, known: tuple[Any, ...], where: str) -> None:
    """Refuse a word that is none of those known, with the nearest."""
    if value not in known:
        raise ConfigError(
            "unknown choice",
            where=where,
            expected=" | ".join(map(str, known)),
            found=repr(value),
            remedy=near_or_none(str(value), tuple(map(str, known))),
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
