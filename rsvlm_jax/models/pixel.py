"""The `pixel` front: one token for each date of a band set that never becomes a frame.

    Observation [B,T,C,H,W] -> masked window mean [B,T,C], with indices [B,T,F]
      -> z-score, missing flag, bins -> linear -> [B,T,Dv]

For weather, terrain, index series and point series. A band without a valid pixel enters as 0 with
its flag set; a date without any is not valid.

Bins (`InputConfig.bins`) are the piecewise linear encoding of Gorishniy et al. 2022
(arXiv:2203.05556): of knots k_0 < .. < k_n, quantiles of the training split, a value gives
clip((x - k_i) / (k_i+1 - k_i), 0, 1) - 1/2 for each bin, so that a linear map after it is any
piecewise linear function of a band. With lags (`InputConfig.lags`) each date, counted back from the
last that is valid, has a map of its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import BandSetSpec, InputConfig
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.nn import Linear, Stat

from .planes import composite, plane_count
from .spectral.plan import index_slots
from .spectral.recombine import slot_values


class PixelFront(nnx.Module):
    """One token a date.

    Args:
      spec: the band set; scale and offset are applied here.
      width: Dv.
      config: of the input; indices, bins and lags are read. None: none of them.

    Raises:
      ConfigError: an index that the bands do not give.
    """

    def __init__(
        self,
        spec: BandSetSpec,
        width: int,
        config: InputConfig | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        config = config or InputConfig(spec.name, front="pixel")
        self.spec, self.bins = spec, config.bins
        indices = config.spectral.indices
        self.indices = index_slots(spec, indices) if indices else ()
        self.lags = (config.dates or 1) if config.lags else 1
        count = len(spec.bands) + len(self.indices)
        self.mean = Stat(jnp.zeros((count,), jnp.float32))
        self.std = Stat(jnp.ones((count,), jnp.float32))
        knots = jnp.linspace(-2.0, 2.0, self.bins + 1, dtype=jnp.float32)
        self.knots = Stat(jnp.tile(knots[None], (count, 1))) if self.bins else None
        self.project = Linear((2 + self.bins) * count, self.lags * width, rngs=rngs)

    def set_stats(
        self,
        mean: Float[Array, " F"],
        std: Float[Array, " F"],
        knots: Float[Array, "F K"] | None = None,
    ) -> None:
        """Statistics over the training split, in physical units; `knots` with bins, ascending."""
        self.mean[...], self.std[...] = mean, std
        if self.knots is not None and knots is not None:
            self.knots[...] = knots

    def values(self, obs: Observation) -> tuple[Float[Array, "B T F"], Bool[Array, "B T F"]]:
        """Bands and indices, each the mean over its valid pixels, and which have one."""
        values = obs.physical(self.spec)
        valid = jnp.broadcast_to(obs.valid, values.shape)
        if self.indices:
            made = [slot_values(values, valid, slot) for slot in self.indices]
            extra, there = (jnp.stack(x, axis=2) for x in zip(*made, strict=True))
            values = jnp.concatenate([values, jnp.where(there, extra, 0.0)], axis=2)
            valid = jnp.concatenate([valid, there], axis=2)
        count = valid.sum(axis=(3, 4), dtype=jnp.float32)
        return values.sum(axis=(3, 4)) / jnp.maximum(count, 1.0), count > 0

    @property
    def plane_count(self) -> int:
        """F of `planes`."""
        return plane_count(len(self.spec.bands), len(self.spec.bands))

    def planes(self, obs: Observation) -> Float[Array, "B H W F"]:
        """The bands as a dense head reads them, pixel by pixel."""
        values = obs.physical(self.spec)
        c = values.shape[2]
        mean, std = (x[...][:c][None, None, :, None, None] for x in (self.mean, self.std))
        return composite((values - mean) / std, jnp.broadcast_to(obs.valid, values.shape))

    def __call__(self, obs: Observation) -> tuple[Float[Array, "B T Dv"], Bool[Array, "B T"]]:
        mean, there = self.values(obs)
        z = (mean - self.mean[...][None, None]) / self.std[...][None, None]
        parts = [jnp.where(there, z, 0.0), (~there).astype(jnp.float32)]
        if self.knots is not None:
            low, high = self.knots[...][:, :-1], self.knots[...][:, 1:]
            # Quantiles of a band that often has one value fall together: such a bin says nothing.
            wide = there[..., None] & (high > low)[None, None]
            size = jnp.where(high > low, high - low, 1.0)
            share = jnp.clip((mean[..., None] - low[None, None]) / size[None, None], 0.0, 1.0)
            parts.append(jnp.where(wide, share - 0.5, 0.0).reshape(*mean.shape[:2], -1))
        tokens, dated = self.project(jnp.concatenate(parts, axis=-1)), there.any(axis=2)
        if self.lags > 1:
            # Valid dates after each: 0 of the last one.
            count = dated.astype(jnp.int32)
            later = jnp.cumsum(count[:, ::-1], axis=1)[:, ::-1] - count
            own = jax.nn.one_hot(jnp.clip(later, 0, self.lags - 1), self.lags, dtype=tokens.dtype)
            tokens = tokens.reshape(*tokens.shape[:2], self.lags, -1)
            tokens = (tokens * own[..., None]).sum(axis=2)
        return tokens, dated
