"""Repeated blocks: parameters stacked on axis 0, applied by one scan.

Compile time and the number of leaves do not grow with depth: a stack of n blocks is one block
whose every parameter has a leading axis of n.

    layers = stack(lambda rngs: Block(64, rngs=rngs), 12, rngs)      kernel [12, 64, 64]
    x, _ = scan(layers, lambda layer, x: (layer(x), None), x)

What the backward pass finds in memory is a policy (`TrainConfig.remat`) by names that layers give
to their tensors: "q", "k", "v" (after RoPE), "context" (what attention gives), "gate", "up" (before
the MLP's activation). A block's input is always kept.

    none           everything            save_context   context
    full           nothing               save_qkv_mlp   q, k, v, context, gate, up
                                         offload        q, k, v, context, in the host's memory

`unstack` takes a stack apart again where copying a block out of it costs more than compiling all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import checkpoint_policies as policies
from jax.sharding import NamedSharding, PartitionSpec

from rsvlm_jax.config.training import Remat

M = TypeVar("M", bound=nnx.Module)


def stack(make_layer: Callable[[nnx.Rngs], M], n: int, rngs: nnx.Rngs) -> M:
    """`n` blocks, each with its own random numbers, as one module with a leading axis."""

    @nnx.split_rngs(splits=n)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(r: nnx.Rngs) -> M:
        return make_layer(r)

    return make(rngs)


def first_layers(layers: M, n: int) -> M:
    """The first `n` blocks of a stack, or of one that `unstack` took apart."""
    if isinstance(layers, nnx.List):
        return nnx.List(list(layers)[:n])  # type: ignore[return-value]
    graphdef, state = nnx.split(layers)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x[:n], state))


def unstack(layers: nnx.Module) -> nnx.Module:
    """The blocks of a stack, which lies on one CPU device, one by one.

    They are views of the stack's memory wherever a block begins at a multiple of 64 bytes, and
    keep it alive; small blocks that do not are copied.
    """
    graphdef, state = nnx.split(layers)
    leaves, tree = jax.tree.flatten(state)
    count = leaves[0].shape[0]
    placed = [getattr(leaf, "committed", False) for leaf in leaves]  # those of NumPy are nowhere
    whole = [
        (np.asarray(x), _of_block(x) if p else None) for x, p in zip(leaves, placed, strict=True)
    ]

    def block(i: int) -> nnx.Module:
        parts = [jax.device_put(x[i], place, may_alias=True) for x, place in whole]
        return nnx.merge(graphdef, jax.tree.unflatten(tree, parts))

    return nnx.List([block(i) for i in range(count)])


def _of_block(leaf: jax.Array) -> Any:
    """Where one block of a stack lies: a placement by axes loses that of the stack."""
    place = leaf.sharding
    if isinstance(place, NamedSharding):
        return NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))
    return place


def scan(
    layers: nnx.Module,
    fn: Callable[..., tuple[Any, Any]],
    x: Any,
    *per_layer: Any,
    remat: Remat = "none",
) -> tuple[Any, Any]:
    """Apply stacked blocks one after the other.

    Args:
      layers: made by `stack`, or by `unstack`: then the blocks are unrolled. Read only: a block
        must not change its variables.
      fn: `(layer, x, *slices) -> (x, y)`.
      x: what is carried from block to block.
      per_layer: pytrees with a leading axis of n, handed to `fn` a slice at a time.
      remat: what of a block's activations is kept for the backward pass; of unrolled blocks all is.

    Returns:
      The last `x`, and the `y` of all blocks stacked on axis 0.
    """
    if isinstance(layers, nnx.List):
        made = []
        for i, layer in enumerate(layers):
            slices = jax.tree.map(lambda a, i=i: a[i], per_layer)
            x, y = fn(layer, x, *slices)
            made.append(y)
        return x, jax.tree.map(lambda *ys: jnp.stack(ys), *made)

    graphdef, state = nnx.split(layers)

    def body(carry: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        layer_state, *slices = inputs
        return fn(nnx.merge(graphdef, layer_state), carry, *slices)

    # A loop of one turn is none to XLA.
    looped = jax.tree.leaves(state)[0].shape[0] > 1
    return jax.lax.scan(remembered(body, remat, looped=looped), x, (state, *per_layer))


ATTENTION = ("q", "k", "v", "context")
NAMES = {"save_context": ATTENTION[-1:], "save_qkv_mlp": (*ATTENTION, "gate", "up")}
FUSED = "dot_product_attention_fwd_wrapper"
"""cuDNN's kernel: what it keeps for its backward pass bears no name, so it is told by this one."""


def remembered(
    body: Callable[..., Any], remat: Remat, *, looped: bool = False
) -> Callable[..., Any]:
    """`body`, a block of arrays, with what its backward pass may not keep computed again.

    Args:
      looped: it is that of a scan of several turns, where the barrier against merging the two
        passes is not needed (see `jax.checkpoint`).
    """
    if remat == "none":
        return body
    barrier = not looped
    if remat == "full":
        return jax.checkpoint(body, prevent_cse=barrier)
    if remat == "offload":
        named = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(ATTENTION),
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        named = policies.save_only_these_names(*NAMES[remat])

    def policy(primitive: Any, *args: Any, **params: Any) -> Any:
        return primitive.name == FUSED or named(primitive, *args, **params)

    return jax.checkpoint(body, prevent_cse=barrier, policy=policy)
