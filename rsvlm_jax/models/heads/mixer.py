"""The four-layer MLP-mixer regression head.

    knowledge [B,Q,D] -> reverse projection, 2-layer MLP -> [B,Q,Dv] --+
    visual    [B,N,Dv] ------------------------------------------------+-> [B,N+Q,Dv]
      -> mixer blocks -> norm -> mean over valid tokens -> linear -> loc, scale [B,K]

After REO-VLM (arXiv 2412.16583), which names the four MLP-mixer layers, the reverse projection of
knowledge from the language model and the visual tokens, and leaves out sizes, masks, pooling and
output; those are ours. Statistics of the target live here and travel with the checkpoint.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import HeadConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.nn import LayerNorm, Linear, MixerBlock, Mlp, Stat, scan, stack

from .predictive import Gaussian

MIN_SCALE = 1e-3
"""Floor of the standardised scale: a perfectly fitted sample keeps a finite likelihood."""

UNIT_SCALE = 0.5413248546129181
"""softplus of this is 1: an untrained head predicts N(mean, std) of the target."""


class MixerHead(nnx.Module):
    """Regression from visual and knowledge tokens.

    Args:
      visual_tokens: N.
      width: Dv.
      d_language: D; None without a language model (visual tokens only).
      remat: what of each block's activations is kept for the backward pass.
    """

    def __init__(
        self,
        config: HeadConfig,
        visual_tokens: int,
        width: int,
        d_language: int | None,
        *,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        self.remat: Remat = remat
        if d_language is None:
            tokens, self.reverse = visual_tokens, None
        else:
            tokens = visual_tokens + config.reg_tokens
            self.reverse = Mlp(d_language, width, d_out=width, length=None, rngs=rngs)
        self.blocks = stack(
            lambda r: MixerBlock(tokens, width, config.token_dim, config.channel_dim, rngs=r),
            config.layers,
            rngs,
        )
        self.norm = LayerNorm(width, rngs=rngs)
        self.out = Linear(width, 2 * config.targets, init=normal(0.01), rngs=rngs)
        shape = (config.targets,)
        self.target_mean = Stat(jnp.zeros(shape, jnp.float32))
        self.target_std = Stat(jnp.ones(shape, jnp.float32))
        self.target_low = Stat(jnp.full(shape, -jnp.inf, jnp.float32))
        self.target_high = Stat(jnp.full(shape, jnp.inf, jnp.float32))

    def set_target(
        self,
        mean: Float[Array, " K"],
        std: Float[Array, " K"],
        low: Float[Array, " K"],
        high: Float[Array, " K"],
    ) -> None:
        """Statistics of the *transformed* target over the training split, and bounds of the target
        itself (infinite for none)."""
        self.target_mean[...], self.target_std[...] = mean, std
        self.target_low[...], self.target_high[...] = low, high

    def __call__(self, encoded: Encoded, *, rng: Array | None = None) -> Gaussian:
        """The prediction, in float32. `rng` is given in training, for dropout."""
        x = constrain(encoded.visual, "batch", None, "embed")
        valid = constrain(encoded.visual_valid, "batch", None)
        if self.reverse is not None:
            knowledge = self.reverse(encoded.knowledge).astype(x.dtype)
            known = jnp.broadcast_to(encoded.has_knowledge[:, None], knowledge.shape[:2])
            x = jnp.concatenate([x, knowledge], axis=1)
            valid = jnp.concatenate([valid, known], axis=1)
        x, _ = scan(self.blocks, lambda block, x: (block(x, valid), None), x, remat=self.remat)
        x = jnp.where(valid[:, :, None], self.norm(x.astype(jnp.float32)), 0.0)
        count = valid.sum(axis=1, dtype=jnp.float32)[:, None]
        pooled = x.sum(axis=1) / jnp.maximum(count, 1.0)
        if rng is not None and self.config.dropout > 0:
            keep = jax.random.bernoulli(rng, 1 - self.config.dropout, pooled.shape)
            pooled = jnp.where(keep, pooled / (1 - self.config.dropout), 0.0)
        loc, raw = jnp.split(self.out(pooled), 2, axis=-1)
        return Gaussian(
            loc=loc,
            scale=jax.nn.softplus(raw + UNIT_SCALE) + MIN_SCALE,
            target_mean=self.target_mean[...],
            target_std=self.target_std[...],
            low=self.target_low[...],
            high=self.target_high[...],
            transform=self.config.transform,
        )
