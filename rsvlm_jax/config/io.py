"""Frozen dataclasses to JSON and back, exactly; an unknown key is refused with a suggestion."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from typing import Any, TypeVar

from .errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values (tuples become lists)."""
    return dataclasses.asdict(config)


def to_json(config: Any) -> str:
    return json.dumps(to_dict(config), indent=2, sort_keys=True) + "\n"


def strict_json(value: Any, indent: int | None = None) -> str:
    """JSON that every parser takes: null for a number that is not finite, text for an object."""
    return json.dumps(_strict(value), indent=indent, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if getattr(value, "shape", None) == ():  # a NumPy scalar
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def from_json(cls: type[T], text: str, *, where: str = "config") -> T:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as e:
        raise ConfigError(f"not JSON ({e})", where=where) from e
    return from_dict(cls, data, where=where)


def from_dict(cls: type[T], data: Any, *, where: str | None = None) -> T:
    """Rebuild `cls` from `to_dict`'s output.

    Raises:
      ConfigError: unknown key (with the nearest known one), missing key, or wrong type.
    """
    where = where or cls.__name__
    if not isinstance(data, dict):
        raise ConfigError("not a table", where=where, expected="an object", found=repr(data)[:60])
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise ConfigError(
                "unknown key",
                where=f"{where}.{key}",
                expected=f"one of {', '.join(fields)}",
                remedy=f"did you mean {near[0]!r}?" if near else None,
            )
    for name, f in fields.items():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and name not in data:
            raise ConfigError("a key is missing", where=where, expected=name)
    return cls(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in data.items()})


def _by_kind(options: list[Any], value: dict[str, Any], where: str) -> Any:
    """Of several dataclasses the one whose default `kind` is that of `value`."""
    kinds = {o.__dataclass_fields__["kind"].default: o for o in options}
    kind = value.get("kind")
    if kind not in kinds:
        raise ConfigError(
            "unknown choice", where=f"{where}.kind", expected=" | ".join(kinds), found=kind
        )
    return kinds[kind]


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        if len(options) == 1:
            return _value(options[0], value, where)
        if isinstance(value, dict) and all(dataclasses.is_dataclass(o) for o in options):
            return from_dict(_by_kind(options, value, where), value, where=where)
        for option in options:
            if isinstance(option, type) and isinstance(value, option):
                return value
        raise ConfigError("wrong type", where=where, expected=hint, found=repr(value))
    if origin is typing.Literal:
        if value not in args:
            near = difflib.get_close_matches(str(value), [str(a) for a in args], n=1)
            raise ConfigError(
                "unknown choice",
                where=where,
                expected=" | ".join(map(str, args)),
                found=value,
                remedy=f"did you mean {near[0]!r}?" if near else None,
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError("wrong type", where=where, expected="a list", found=repr(value))
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_value(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(args) != len(value):
            raise ConfigError(
                "wrong length", where=where, expected=len(args), found=f"{len(value)} values"
            )
        return tuple(_value(a, v, where) for a, v in zip(args, value, strict=True))
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where=where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        raise ConfigError("wrong type", where=where, expected=hint.__name__, found=repr(value))
    return value
