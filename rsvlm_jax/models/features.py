"""Hidden states of chosen layers of a transformer tower, joined as its config says.

    x [F,S,Dv] -> layers, scanned -> last [F,S,Dv]
                                     chosen: one [F,S,Dv] for each feature layer
    chosen -> the first `skip` tokens dropped -> joined along S or along Dv

Numbered as Hugging Face numbers `hidden_states`: 0 what enters the layers, i what the i-th gives;
a norm after the last layer is not part of them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config.training import Remat
from rsvlm_jax.config.vision import FeatureJoin
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import scan
from rsvlm_jax.nn.stack import first_layers


def run_layers(
    layers: nnx.Module,
    x: Float[Array, "F S Dv"],
    depth: int,
    wanted: tuple[int, ...],
    *,
    remat: Remat,
) -> tuple[Float[Array, "F S Dv"], tuple[Float[Array, "F S Dv"], ...]]:
    """The last hidden state that is computed, and those of `wanted` (negative ones from the end).

    Layers above the highest of `wanted` are not run (of LLaVA's -2 the last one); without `wanted`
    all are. Only the chosen states are kept: stacking every layer's would cost `depth` times that.
    """
    wanted = tuple(i % (depth + 1) for i in wanted)
    if wanted and max(wanted) < depth:
        depth = max(wanted)
        layers = first_layers(layers, depth)

    def block(layer: Callable[[Array], Array], carry: tuple, index: Array) -> tuple[tuple, None]:
        x, chosen = carry
        x = constrain(layer(x), "batch", "length", "embed")
        chosen = tuple(jnp.where(index == w, x, c) for w, c in zip(wanted, chosen, strict=True))
        return (x, chosen), None

    index = jnp.arange(1, depth + 1, dtype=jnp.int32)
    (last, chosen), _ = scan(layers, block, (x, tuple(x for _ in wanted)), index, remat=remat)
    return last, chosen


def join(
    chosen: tuple[Float[Array, "F S Dv"], ...], how: FeatureJoin, *, skip: int
) -> Float[Array, "F P Dw"]:
    """Feature layers in their order; the first `skip` tokens of each (class token) are dropped."""
    return jnp.concatenate([x[:, skip:] for x in chosen], axis=1 if how == "tokens" else 2)
