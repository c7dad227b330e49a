"""What all heads share: which tokens they read, the last layer, the statistics of the target.

    knowledge [B,Q,D] -> reverse projection, 2-layer MLP -> [B,Q,Dv] --+
    visual    [B,N,Dv] ------------------------------------------------+-> [B,N+Q,Dv]
      -> trunk (`MixerHead` and others) -> features [B,Dv] -> linear -> [B,K,R] -> Predictive

After REO-VLM (arXiv 2412.16583), which names the reverse projection of knowledge from the language
model and the visual tokens, and leaves out sizes, masks, pooling and output; those are ours.
Statistics of the target live here and travel with the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import HeadConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.nn import LayerNorm, Linear, Mlp, Stat

from .dense import PixelTrunk
from .locscale import Gaussian, Laplace
from .outputs import distribution, has_bins, numbers
from .predictive import Standardised
from .support import support_of

SIGMAS = 3.0
"""Bins cover so many standard deviations to each side before `set_support`."""


class Head(nnx.Module):
    """Regression from visual and knowledge tokens; a subclass says how tokens become features.

    Args:
      visual_tokens: N.
      width: Dv.
      d_language: D; None without a language model (visual tokens only).
      planes: F, what each pixel shows; only of a dense head, which answers about every pixel:
        B * H * W rows in place of B, windows first, then rows and columns.
      remat: what of each block's activations is kept for the backward pass.
    """

    reads_visual = True
    """Whether visual tokens are read beside knowledge."""

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
        self.config = config
        self.remat: Remat = remat
        if d_language is None:
            tokens, self.reverse = visual_tokens, None
        else:
            tokens = visual_tokens + config.reg_tokens
            self.reverse = Mlp(d_language, width, d_out=width, length=None, rngs=rngs)
        self.blocks: Any = self._make_blocks(tokens, width, rngs)
        self.norm = LayerNorm(width, rngs=rngs)
        assert planes is not None or config.dense == "no"  # `VisionLanguageModel` counts them
        dense = planes if config.dense != "no" else None
        # Assigned once: NNX tells modules from constants at the first assignment.
        self.pixels = None if dense is None else PixelTrunk(dense, width, remat=remat, rngs=rngs)
        k = config.targets
        self.out = Linear(width, numbers(config) * k, init=normal(0.01), rngs=rngs)
        self.target_mean = Stat(jnp.zeros((k,), jnp.float32))
        self.target_std = Stat(jnp.ones((k,), jnp.float32))
        self.target_low = Stat(jnp.full((k,), -jnp.inf, jnp.float32))
        self.target_high = Stat(jnp.full((k,), jnp.inf, jnp.float32))
        self.readout = Stat(jnp.zeros((width, k), jnp.float32)) if config.readout else None
        self.readout_at = Stat(jnp.zeros((width,), jnp.float32)) if config.readout else None
        if has_bins(config):
            edges = jnp.linspace(-SIGMAS, SIGMAS, config.bins + 1, dtype=jnp.float32)
            self.target_edges = Stat(jnp.tile(edges[None], (k, 1)))
            self.target_share = Stat(jnp.full((k, config.bins), 1 / config.bins, jnp.float32))
            self.target_outside = Stat(jnp.zeros((k,), jnp.float32))

    def _make_blocks(self, tokens: int, width: int, rngs: nnx.Rngs) -> nnx.Module | None:
        """The trunk's blocks; None where it has none."""
        raise NotImplementedError

    def _features(
        self, x: Float[Array, "B S Dv"], valid: Bool[Array, "B S"]
    ) -> Float[Array, "B Dv"]:
        """Float32, whatever `x` is."""
        raise NotImplementedError

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

    def set_support(self, z: Sequence[np.ndarray]) -> list[int]:
        """What the output has to know of the training targets beside `set_target`.

        Args:
          z: of each target, the standardised values of the training split.

        Returns:
          Of each target, how many values lie outside the bins, where they count as at the edge;
          `target_outside` keeps it.
        """
        found = [support_of(one, self.config) for one in z if has_bins(self.config)]
        if found:
            self.target_edges[...] = jnp.asarray([f.edges for f in found], jnp.float32)
            self.target_share[...] = jnp.asarray([f.share for f in found], jnp.float32)
            self.target_outside[...] = jnp.asarray([f.outside for f in found], jnp.float32)
        return [f.outside for f in found] or [0] * len(z)

    def set_readout(self, x: np.ndarray, z: Sequence[np.ndarray], of: Sequence[np.ndarray]) -> None:
        """Fit the readout by ridge (`HeadConfig.readout`).

        Args:
          x: mean visual token of every training window [n, Dv]; NaN where it has none: such
            windows take no part.
          z: of each target, its known values, standardised; of: their rows of `x`. Slopes are those
            of a ridge with an intercept, which the head itself learns.
        """
        if self.readout is None or self.readout_at is None:
            return
        x = x.astype(np.float64)
        at = np.nanmean(x, axis=0)
        penalty = self.config.readout * max(float(np.nanvar(x, axis=0).mean()), 1e-12)
        found = []
        for values, rows in zip(z, of, strict=True):
            seen = np.isfinite(x[rows, 0])
            values, rows = values[seen], rows[seen]
            some = x[rows] - x[rows].mean(axis=0)
            gram = some.T @ some + penalty * len(rows) * np.eye(x.shape[1])
            found.append(np.linalg.solve(gram, some.T @ (values - values.mean())))
        self.readout[...] = jnp.asarray(np.stack(found, axis=1), jnp.float32)
        self.readout_at[...] = jnp.asarray(at, jnp.float32)

    def __call__(self, encoded: Encoded, *, rng: Array | None = None) -> Standardised:
        """The prediction, in float32. `rng` is given in training, for dropout.

        Of a dense head, with a row for each pixel (see `planes` above).
        """
        x = constrain(encoded.visual, "batch", None, "embed")
        valid = constrain(encoded.visual_valid, "batch", None)
        if self.reverse is not None:
            knowledge = self.reverse(encoded.knowledge).astype(x.dtype)
            known = jnp.broadcast_to(encoded.has_knowledge[:, None], knowledge.shape[:2])
            if self.reads_visual:
                knowledge = jnp.concatenate([x, knowledge], axis=1)
                known = jnp.concatenate([valid, known], axis=1)
            x, valid = knowledge, known
        features = self._features(x, valid)
        if self.pixels is not None:
            assert encoded.planes is not None
            features = self.pixels(encoded.planes, *self._read(encoded), features)
        made = self._predict(features, rng)
        if self.readout is None or self.readout_at is None:
            return made
        assert isinstance(made, Gaussian | Laplace)
        mean = mean_of_valid(encoded.visual, encoded.visual_valid) - self.readout_at[...][None]
        some = encoded.visual_valid.any(axis=1)[:, None]
        return dataclasses.replace(
            made, loc=made.loc + jnp.where(some, mean @ self.readout[...], 0.0)
        )

    def _read(self, encoded: Encoded) -> tuple[Float[Array, "B N Dv"], Bool[Array, "B N"]]:
        """The tokens that pixels read (`HeadConfig.dense`)."""
        if self.config.dense == "visual":
            return encoded.visual, encoded.visual_valid
        assert self.reverse is not None  # `VLMConfig` checks
        assert encoded.placed is not None
        return self.reverse(encoded.placed).astype(encoded.visual.dtype), encoded.visual_valid

    def _predict(self, features: Float[Array, "B Dv"], rng: Array | None) -> Standardised:
        raw = self.out(self._dropped(features, rng))
        raw = raw.reshape(raw.shape[0], -1, self.config.targets)
        return self._distribution(jnp.swapaxes(raw, 1, 2))

    def _dropped(self, x: Float[Array, "*shape"], rng: Array | None) -> Float[Array, "*shape"]:
        if rng is None or self.config.dropout == 0:
            return x
        keep = jax.random.bernoulli(rng, 1 - self.config.dropout, x.shape)
        return jnp.where(keep, x / (1 - self.config.dropout), 0.0)

    def _distribution(self, raw: Float[Array, "B K R"], **more: Array) -> Standardised:
        units = {
            "target_mean": self.target_mean[...],
            "target_std": self.target_std[...],
            "low": self.target_low[...],
            "high": self.target_high[...],
            "transform": self.config.transform,
            **more,
        }
        if not has_bins(self.config):
            return distribution(raw, self.config, units)
        bins = self.target_edges[...], self.target_share[...]
        return distribution(raw, self.config, units, bins)


def mean_of_valid(x: Float[Array, "B S Dv"], valid: Bool[Array, "B S"]) -> Float[Array, "B Dv"]:
    """Over the valid tokens, in float32; 0 where none is."""
    x = jnp.where(valid[:, :, None], x.astype(jnp.float32), 0.0)
    count = valid.sum(axis=1, dtype=jnp.float32)[:, None]
    return x.sum(axis=1) / jnp.maximum(count, 1.0)
