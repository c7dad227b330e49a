"""BLIP-2's querying transformer (Li et al. 2023): learned queries read the tokens of a frame.

    queries [F,N,D] -> norm -> layer 0 -> layer 1 -> ... -> [F,N,D]          memory [F,P,Dv]

    layer i:  self-attention among the queries, + x, norm
              every n-th layer, from the first on: cross-attention to the memory, + x, norm
              MLP, + x, norm

Numbers as in `transformers.Blip2QFormerModel` given `query_embeds` and `encoder_hidden_states`.
Not here: its text half and dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import QFormerConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, LayerNorm, Mlp, scan, stack
from rsvlm_jax.nn.linear import spread
from rsvlm_jax.nn.stack import remembered

M = TypeVar("M", bound=nnx.Module)


class QFormerBlock(nnx.Module):
    """Post-norm self-attention and MLP; between the two there may stand a `QFormerCross`."""

    def __init__(self, config: QFormerConfig, *, rngs: nnx.Rngs) -> None:
        d, eps = config.width, config.norm_eps
        self.attention = Attention(d, config.heads, rngs=rngs)
        self.norm1 = LayerNorm(d, eps=eps, rngs=rngs)
        self.mlp = Mlp(d, config.mlp_dim, config.activation, rngs=rngs)
        self.norm2 = LayerNorm(d, eps=eps, rngs=rngs)

    def attend(self, x: Float[Array, "F N D"]) -> Float[Array, "F N D"]:
        return self.norm1(x + self.attention(x))

    def feed(self, x: Float[Array, "F N D"]) -> Float[Array, "F N D"]:
        return constrain(self.norm2(x + self.mlp(x)), "batch", "length", "embed")


class QFormerCross(nnx.Module):
    """Post-norm cross-attention to tokens of width `d_in`."""

    def __init__(self, config: QFormerConfig, d_in: int, *, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config.width, config.heads, d_memory=d_in, rngs=rngs)
        self.norm = LayerNorm(config.width, eps=config.norm_eps, rngs=rngs)

    def __call__(
        self, x: Float[Array, "F N D"], memory: Float[Array, "F P Dv"]
    ) -> Float[Array, "F N D"]:
        return self.norm(x + self.attention(x, memory=memory))


class Blip2QFormer(nnx.Module):
    """The transformer without its queries. Paths, stacked on axis 0::

        norm/{scale,bias}
        layers/{attention/{q,k,v,o},mlp/{fc1,fc2}}/{kernel,bias}  layers/norm{1,2}/{scale,bias}
        cross/attention/{q,k,v,o}/{kernel,bias}  cross/norm/{scale,bias}

    `layers` holds all layers; `cross` one entry for every n-th of them.

    Args:
      d_in: width of the tokens that are read.
    """

    def __init__(
        self, config: QFormerConfig, d_in: int, *, remat: Remat = "none", rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.remat: Remat = remat
        crosses = -(-config.layers // config.cross_attention_frequency)
        self.norm = LayerNorm(config.width, eps=config.norm_eps, rngs=rngs)
        self.layers = stack(lambda r: QFormerBlock(config, rngs=r), config.layers, rngs)
        self.cross = stack(lambda r: QFormerCross(config, d_in, rngs=r), crosses, rngs)

    def __call__(
        self, queries: Float[Array, "F N D"], memory: Float[Array, "F P Dv"]
    ) -> Float[Array, "F N D"]:
        """Layers run in groups of n, the first of a group with its cross-attention::

        n = 2, 5 layers:   [0x 1] [2x 3]  scanned       [4x]  what is left
        """
        n = self.config.cross_attention_frequency
        groups = self.config.layers // n
        x = self.norm(constrain(queries, "batch", "length", "embed"))
        if groups:
            grouped = _each(self.layers, lambda a: a[: groups * n].reshape(groups, n, *a.shape[1:]))
            graphdef, crosses = nnx.split(_each(self.cross, lambda a: a[:groups]))

            def step(layers: QFormerBlock, x: Array, cross: Any) -> tuple[Array, None]:
                return self._group(layers, n, nnx.merge(graphdef, cross), x, memory), None

            x, _ = scan(grouped, step, x, crosses)
        if left := self.config.layers % n:
            layers = _each(self.layers, lambda a: a[groups * n :])
            x = self._group(layers, left, _each(self.cross, lambda a: a[-1]), x, memory)
        return x

    def _group(
        self, layers: QFormerBlock, count: int, cross: QFormerCross, x: Array, memory: Array
    ) -> Array:
        """`count` stacked layers of which the first one reads `memory`; `remat` is of each."""
        first = _each(layers, lambda a: a[0])

        def read(x: Array) -> Array:
            return first.feed(cross(first.attend(x), memory))

        def think(layer: QFormerBlock, x: Array) -> tuple[Array, None]:
            return layer.feed(layer.attend(x)), None

        x = remembered(read, self.remat)(x)
        if count > 1:
            x, _ = scan(_each(layers, lambda a: a[1:]), think, x, remat=self.remat)
        return x


class QFormer(nnx.Module):
    """The resampler: `former` (a `Blip2QFormer`) and its learned `query` [N,D].

    Args:
      d_in: Dv.
    """

    def __init__(
        self, config: QFormerConfig, d_in: int, *, remat: Remat = "none", rngs: nnx.Rngs
    ) -> None:
        shape = (config.queries, config.width)
        self.query = nnx.Param(normal(0.02)(rngs.params(), shape, jnp.float32))
        self.former = Blip2QFormer(config, d_in, remat=remat, rngs=rngs)

    def __call__(self, tokens: Float[Array, "F P Dv"]) -> Float[Array, "F N D"]:
        query = self.query[...]
        return self.former(spread(query, (len(tokens), *query.shape), tokens.dtype), tokens)


def _each(module: M, fn: Callable[[Array], Array]) -> M:
    """The module with `fn` of every array: a part of a stack, or a stack of stacks."""
    graphdef, state = nnx.split(module)
    return nnx.merge(graphdef, jax.tree.map(fn, state))
