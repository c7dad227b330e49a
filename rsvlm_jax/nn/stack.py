"""Repeated blocks: parameters stacked on axis 0, applied by one scan.

Compile time and the number of leaves do not grow with depth: a stack of n blocks is one block
whose every parameter has a leading axis of n.

    layers = stack(lambda rngs: Block(64, rngs=rngs), 12, rngs)      kernel [12, 64, 64]
    x, _ = scan(layers, lambda layer, x: (layer(x), None), x)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx

M = TypeVar("M", bound=nnx.Module)


def stack(make_layer: Callable[[nnx.Rngs], M], n: int, rngs: nnx.Rngs) -> M:
    """`n` blocks, each with its own random numbers, as one module with a leading axis."""

    @nnx.split_rngs(splits=n)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(r: nnx.Rngs) -> M:
        return make_layer(r)

    return make(rngs)


def scan(
    layers: nnx.Module,
    fn: Callable[..., tuple[Any, Any]],
    x: Any,
    *per_layer: Any,
    remat: bool = False,
) -> tuple[Any, Any]:
    """Apply stacked blocks one after the other.

    Args:
      layers: made by `stack`. Read only: a block must not change its variables.
      fn: `(layer, x, *slices) -> (x, y)`.
      x: what is carried from block to block.
      per_layer: pytrees with a leading axis of n, handed to `fn` a slice at a time.
      remat: recompute a block's activations in the backward pass instead of keeping them.

    Returns:
      The last `x`, and the `y` of all blocks stacked on axis 0.
    """
    graphdef, state = nnx.split(layers)

    def body(carry: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        layer_state, *slices = inputs
        return fn(nnx.merge(graphdef, layer_state), carry, *slices)

    # Inside a scan the barrier against merging the two passes is not needed (see jax.checkpoint).
    body = jax.checkpoint(body, prevent_cse=False) if remat else body
    return jax.lax.scan(body, x, (state, *per_layer))
