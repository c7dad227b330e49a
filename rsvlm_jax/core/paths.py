"""Names for the leaves of a tree: "decoder/layers/attention/q/kernel".

Sharding rules, weight tables, optimiser groups and checkpoints all speak of these paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax

LORA_A, LORA_B = "_lora_a", "_lora_b"
"""What the paths of LoRA's factors have after the path of their kernel."""

INT8, NF4, SCALE = "_int8", "_nf4", "_scale"
"""What the paths of a quantised array's codes and scales have after the path that it had."""

NF4_BLOCK = 64
"""Inputs that share a scale in nf4; they are never parted."""

_BESIDE = re.compile(r"(?<=kernel)_(lora_[ab]|int8|nf4|scale)$|(?<=embedding)_(int8|scale)$")


def base_path(path: str) -> str:
    """The path of the array that a LoRA factor, codes or scales belong to; else the path itself."""
    return _BESIDE.sub("", path)


def is_lora(path: str) -> bool:
    """Whether a factor of LoRA has this path."""
    return path.endswith((LORA_A, LORA_B))


def is_quantized(path: str) -> bool:
    """Whether codes or scales of a quantised array have this path."""
    return base_path(path) != path and not is_lora(path)


def path_str(path: tuple[Any, ...]) -> str:
    """A JAX key path as words joined by "/"; NNX's `.value` ends are left out."""
    words = []
    for key in path:
        for attr in ("key", "name", "idx"):
            if hasattr(key, attr):
                words.append(str(getattr(key, attr)))
                break
        else:
            raise TypeError(f"unknown key in a tree path: {key!r}")
    if words and words[-1] == "value":
        words.pop()
    return "/".join(words)


def flat(tree: Any) -> dict[str, Any]:
    """Leaves by path, in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_str(p): x for p, x in leaves}


def map_with_path(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`fn(path, leaf, *leaves)` over the leaves of trees of one shape."""
    return jax.tree_util.tree_map_with_path(lambda p, *x: fn(path_str(p), *x), tree, *rest)
