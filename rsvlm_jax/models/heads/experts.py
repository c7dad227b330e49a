"""A mixture of experts after the MLP trunk, gated by the target and by a rough value of it.

    features [B,Dv] -> rough value (linear, z) [B,K] -> odds of each of E value ranges -+-> gate
                       a bias of each target and expert [K,E] --------------------------+  [B,K,E]
    features + sum over experts of gate * expert(features) -> [B,K,Dv] -> own columns of `out`

Ranges hold equal shares of the training targets, so that experts are loaded evenly where the gate
is right; the loss `balance` is the cross-entropy of the gate to the range of the true target. The
usual load-balancing loss multiplies two means over a batch, which is no sum over samples: halves of
a batch would not add up to the whole (see `rsvlm_jax.train.losses`). All experts are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal
from jax.scipy.special import ndtri

from rsvlm_jax.config import HeadConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.nn import Linear, Mlp, Stat, scan, stack

from .piecewise import log_between
from .pooled import MlpHead
from .predictive import Standardised
from .support import ranges_of

SOFTNESS = 0.25
"""Standard deviations over which one range goes over into the next."""


class ExpertsHead(MlpHead):
    """`MlpHead` with `experts` MLPs side by side before the last layer."""

    def __init__(
        self,
        config: HeadConfig,
        visual_tokens: int,
        width: int,
        d_language: int | None,
        planes: int | None = None,
        *,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(config, visual_tokens, width, d_language, planes, remat=remat, rngs=rngs)
        k, e = config.targets, config.experts
        self.experts = stack(
            lambda r: Mlp(width, config.channel_dim, "gelu", length=None, rngs=r), e, rngs
        )
        self.rough = Linear(width, k, init=normal(0.01), rngs=rngs)
        self.gate = nnx.Param(jnp.zeros((k, e), jnp.float32))
        between = ndtri(jnp.arange(1, e, dtype=jnp.float32) / e)
        self.target_ranges = Stat(jnp.tile(between[None], (k, 1)))

    def set_support(self, z: Sequence[np.ndarray]) -> list[int]:
        found = [ranges_of(one, self.config.experts) for one in z]
        self.target_ranges[...] = jnp.asarray(found, jnp.float32)
        return super().set_support(z)

    def _predict(self, features: Float[Array, "B Dv"], rng: Array | None) -> Standardised:
        features = self._dropped(features, rng)
        rough = self.rough(features)[:, :, None]
        ranges = log_between((rough - self.target_ranges[...][None]) / SOFTNESS)
        gate = jax.nn.log_softmax(ranges + self.gate[...][None], axis=-1)
        one = features[:, None]
        _, said = scan(self.experts, lambda expert, x: (x, expert(x)), one, remat=self.remat)
        mixed = one + jnp.einsum("bke,ebd->bkd", jnp.exp(gate), said[:, :, 0])
        k = self.config.targets
        raw = self.out(mixed).reshape(*mixed.shape[:2], -1, k)
        own = jnp.diagonal(raw, axis1=1, axis2=3)  # [B,R,K]: of each target its own columns
        return self._distribution(
            jnp.swapaxes(own, 1, 2), gate=gate, ranges=self.target_ranges[...]
        )
