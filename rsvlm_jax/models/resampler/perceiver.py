"""The multi-level perceiver (LHRS-Bot, Muhtar et al. 2024): queries for each feature layer.

    tokens [F, levels * p, Dv] --split--> level 1 [F,p,Dv] + queries [F,n1,Dv] -> layers -> norm --+
                                          level 2 [F,p,Dv] + queries [F,n2,Dv] -> layers -> norm --+
                                          ...                                                      |
                                                                              [F, n1 + n2 + .., Dv]

    layer:  attention of the queries to [features; queries], + x -> MLP, + x      (pre-norm)

The shallower a level, the more queries it is given (64, 48, 32 in the paper). A layer is that of
Flamingo's resampler (Alayrac et al. 2022): keys and values are the normed features followed by
the normed queries as they stand at that layer.

Ours, where LHRS-Bot's paper is silent: the norms after the last layer, biases, and no change of
width (the connector does that). Its released code differs in two places: it runs the same layers
for every level, which `share_layers` does here, where otherwise each level has its own; and there
the queries among the keys stay as they were at the start.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import ConfigError, PerceiverConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, LayerNorm, Mlp, scan, stack
from rsvlm_jax.nn.linear import spread


class PerceiverBlock(nnx.Module):
    """Pre-norm attention to features and queries together, then an MLP, both residual."""

    def __init__(self, config: PerceiverConfig, width: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.norm_memory = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, config.heads, rngs=rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, config.mlp_dim, "gelu", rngs=rngs)

    def __call__(
        self, x: Float[Array, "F N Dv"], memory: Float[Array, "F P Dv"]
    ) -> Float[Array, "F N Dv"]:
        query = self.norm1(x)
        both = jnp.concatenate([self.norm_memory(memory), query], axis=1)
        x = x + self.attention(query, memory=both)
        return constrain(x + self.mlp(self.norm2(x)), "batch", "length", "embed")


class PerceiverLevel(nnx.Module):
    """`query` [n,Dv], `layers` (stacked; None where they are shared) and `norm` of one level."""

    def __init__(
        self,
        config: PerceiverConfig,
        queries: int,
        width: int,
        *,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ) -> None:
        self.remat: Remat = remat
        self.query = nnx.Param(normal(0.02)(rngs.params(), (queries, width), jnp.float32))
        self.layers = None if config.share_layers else _layers(config, width, rngs)
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(
        self, memory: Float[Array, "F P Dv"], shared: PerceiverBlock | None = None
    ) -> Float[Array, "F N Dv"]:
        """`shared`: the stack of all levels."""
        layers = shared if self.layers is None else self.layers
        assert layers is not None
        query = self.query[...]
        x = spread(query, (len(memory), *query.shape), memory.dtype)
        x, _ = scan(layers, lambda layer, x: (layer(x, memory), None), x, remat=self.remat)
        return self.norm(x)


def _layers(config: PerceiverConfig, width: int, rngs: nnx.Rngs) -> PerceiverBlock:
    return stack(lambda r: PerceiverBlock(config, width, rngs=r), config.layers, rngs)


class Perceiver(nnx.Module):
    """The resampler; its parameters stand under `levels/I/`, shared layers under `layers/`.

    Args:
      width: Dv, kept.

    Raises:
      ConfigError: `width` is not a multiple of the heads.
    """

    def __init__(
        self, config: PerceiverConfig, width: int, *, remat: Remat = "none", rngs: nnx.Rngs
    ) -> None:
        if width % config.heads:
            raise ConfigError(
                "the encoder width is not a multiple of the perceiver's heads",
                where="PerceiverConfig.heads",
                expected=f"a divisor of {width}",
                found=config.heads,
            )
        self.layers = _layers(config, width, rngs) if config.share_layers else None
        self.levels = nnx.List(
            PerceiverLevel(config, n, width, remat=remat, rngs=rngs) for n in config.queries
        )

    def __call__(self, tokens: Float[Array, "F P Dv"]) -> Float[Array, "F N Dv"]:
        """Levels in the order of the tower's `feature_layers`, each with as many tokens."""
        features = jnp.split(tokens, len(self.levels), axis=1)
        made = [level(x, self.layers) for level, x in zip(self.levels, features, strict=True)]
        return jnp.concatenate(made, axis=1)
