"""Frozen dataclasses as pytrees."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def pytree_dataclass(cls: type[T]) -> type[T]:
    """Register a frozen dataclass as a pytree; fields with metadata `static=True` are structure.

    Unlike `jax.tree_util.register_dataclass`, unflattening does not run `__init__`: trees of
    shapes, shardings and tracers take the same form as trees of arrays, and the array types that
    tests check on construction would refuse them.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    leaves = [f.name for f in fields if not f.metadata.get("static")]
    static = [f.name for f in fields if f.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

    def flatten_with_keys(x: Any):
        children = [(k, getattr(x, n)) for k, n in zip(keys, leaves, strict=True)]
        return children, tuple(getattr(x, n) for n in static)

    def flatten(x: Any):
        return [getattr(x, n) for n in leaves], tuple(getattr(x, n) for n in static)

    def unflatten(aux: tuple, children: Any) -> Any:
        new = object.__new__(cls)
        for name, value in zip(leaves, children, strict=True):
            object.__setattr__(new, name, value)
        for name, value in zip(static, aux, strict=True):
            object.__setattr__(new, name, value)
        return new

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
