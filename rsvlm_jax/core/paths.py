"""Names for the leaves of a tree: "decoder/layers/attention/q/kernel".

Sharding rules, weight tables, optimiser groups and checkpoints all speak of these paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

LORA_A, LORA_B = "_lora_a", "_lora_b"
"""What the paths of LoRA's factors have after the path of their kernel."""


def base_path(path: str) -> str:
    """The path of the kernel that a LoRA factor belongs to; any other path is its own."""
    return path.removesuffix(LORA_A).removesuffix(LORA_B)


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
