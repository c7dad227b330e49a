"""Dates, and the masked compression of all visual tokens to a budget.

    tokens [B,S,Dv] + scale * date part + platform + group      S = band sets x dates x groups x P
      budget None:  in order                                -> [B,S,Dv], bool[B,S]
      budget N:     N latents, cross-attention to the valid -> [B,N,Dv], bool[B,N]

Time is real dates, never slots: permuting the dates of a sample together with their metadata
leaves the latents unchanged. A token that is not valid is read by nothing; a sample without any
valid token gives zeros, `valid` False, and finite gradients. What tells the patches of a frame
apart is the position embedding of the vision tower.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import TemporalConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, Embed, LayerNorm, Linear, Mask, Mlp, scan, stack

YEAR = 365.2425
"""Days of a mean Gregorian year."""

Select = Callable[[Array, Array], tuple[Array, Array]]
"""Of tokens [B,S,Dv] and their validity those that are kept (`rsvlm_jax.models.selection`)."""


def date_features(
    date: Float[Array, "B S"],
    year_known: Bool[Array, "B S"],
    gap: Float[Array, "B S"],
    harmonics: int,
) -> Float[Array, "B S F"]:
    """F = 2 * harmonics + 4 numbers of order one for each date; all 0 for an undated (NaN) token.

    Sine and cosine of the day of year in `harmonics` multiples; decades since 2020, 0 where the
    year is unknown, and the flag that it is known; log of the gap to the previous valid date in
    years, 0 where there is none (NaN), and the flag that there is one.
    """
    dated = ~jnp.isnan(date)
    day = jnp.where(dated, date, 0.0)
    angle = (2 * jnp.pi / YEAR) * jnp.mod(day, YEAR)
    multiples = jnp.arange(1, harmonics + 1, dtype=jnp.float32)[None, None, :]
    angles = angle[:, :, None] * multiples
    known = dated & year_known
    decades = jnp.where(known, day / (10 * YEAR) - 2.0, 0.0)
    follows = dated & ~jnp.isnan(gap)
    since = jnp.where(follows, jnp.log1p(jnp.where(follows, gap, 0.0) / 30.0), 0.0)
    columns = [decades, known.astype(jnp.float32), since, follows.astype(jnp.float32)]
    features = jnp.concatenate(
        [jnp.sin(angles), jnp.cos(angles), jnp.stack(columns, axis=-1)], axis=-1
    )
    return jnp.where(dated[:, :, None], features, 0.0)


def previous_gap(date: Float[Array, "B S"], valid: Bool[Array, "B S"]) -> Float[Array, "B S"]:
    """Days from the latest earlier date that has a valid token; NaN for the first, or undated."""
    dates = jnp.sort(jnp.where(valid & ~jnp.isnan(date), date, jnp.inf), axis=1)
    before = jax.vmap(lambda row, x: jnp.searchsorted(row, x, side="left"))(dates, date) - 1
    earlier = jnp.take_along_axis(dates, jnp.maximum(before, 0), axis=1)
    return jnp.where((before >= 0) & ~jnp.isnan(date), date - earlier, jnp.nan)


class FusionBlock(nnx.Module):
    """Pre-norm cross-attention of the latents to the tokens, then an MLP, both residual.

    The last kernel of both branches starts at 0, so that a new block is the identity.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.norm_memory = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, rngs=rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, 2 * width, "gelu", rngs=rngs)
        for last in (self.attention.o, self.mlp.fc2):
            last.kernel[...] = jnp.zeros_like(last.kernel[...])

    def __call__(
        self,
        x: Float[Array, "B N Dv"],
        memory: Float[Array, "B S Dv"],
        mask: Mask,
    ) -> Float[Array, "B N Dv"]:
        x = x + self.attention(self.norm1(x), mask, memory=self.norm_memory(memory))
        return x + self.mlp(self.norm2(x))


class TemporalFusion(nnx.Module):
    """Adds what is known about each token, then compresses.

    Args:
      config: see `TemporalConfig`.
      width: Dv.
      groups: rows of the group embedding, over all band sets and fronts.
      remat: what of each block's activations is kept for the backward pass.
    """

    def __init__(
        self,
        config: TemporalConfig,
        width: int,
        groups: int,
        *,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ) -> None:
        self.remat: Remat = remat
        self.harmonics, self.date_dropout = config.harmonics, config.date_dropout
        self.token_dropout = config.token_dropout
        self.date = Linear(2 * config.harmonics + 4, width, rngs=rngs)
        self.date_scale = nnx.Param(jnp.full((1,), config.scale_init, jnp.float32))
        self.platform = Embed(config.platforms, width, rngs=rngs)
        self.group = Embed(groups, width, rngs=rngs)
        if config.budget is None:
            self.query = self.blocks = None
            return
        # Small, and the blocks add nothing yet: all latents start near the masked mean.
        query = 0.02 * jax.random.normal(rngs.params(), (config.budget, width), jnp.float32)
        self.query = nnx.Param(query)
        self.blocks = stack(lambda r: FusionBlock(width, config.heads, rngs=r), config.layers, rngs)

    def __call__(
        self,
        tokens: Float[Array, "B S Dv"],
        valid: Bool[Array, "B S"],
        date: Float[Array, "B S"],
        platform: Int[Array, "B S"],
        group: Int[Array, "B S"],
        *,
        year_known: Bool[Array, "B S"],
        select: Select | None = None,
        rng: Array | None = None,
    ) -> tuple[Float[Array, "B N Dv"], Bool[Array, "B N"]]:
        """Visual tokens for the language model, 0 where not valid.

        Args:
          date: days since 2000-01-01; NaN for an undated token, which gets no date part.
          platform: row of the sensor table.
          group: over all band sets and fronts.
          year_known: False where only the day of year is real.
          select: keeps some of the tokens, after dates are known and before compression.
          rng: given in training: hides the dates of a share of the samples (`date_dropout`), and
            a share of the tokens (`token_dropout`).
        """
        # Whole sequences: they are short of dates and long of tokens, and the tokens end here.
        valid, date, platform, group, year_known = (
            constrain(x, "batch", None) for x in (valid, date, platform, group, year_known)
        )
        if rng is not None and self.token_dropout > 0:
            shown = 1 - self.token_dropout
            valid &= jax.random.bernoulli(jax.random.fold_in(rng, 1), shown, valid.shape)
        tokens = constrain(tokens, "batch", None, "embed")
        known = self._describe(date, valid, year_known, rng)
        known += self.platform(jnp.where(valid, platform, 0)) + self.group(group)
        tokens = tokens + known.astype(tokens.dtype)
        tokens = jnp.where(valid[:, :, None], tokens, jnp.zeros_like(tokens))
        if select is not None:
            tokens, valid = select(tokens, valid)
            tokens = constrain(tokens, "batch", None, "embed")
        if self.query is None or self.blocks is None:
            return tokens, valid

        count = valid.sum(axis=1, dtype=jnp.float32)[:, None]
        mean = tokens.astype(jnp.float32).sum(axis=1) / jnp.maximum(count, 1.0)
        latents = (mean[:, None] + self.query[...][None]).astype(tokens.dtype)
        mask = Mask.keys(valid)

        def read(block: FusionBlock, x: Array) -> tuple[Array, None]:
            return block(x, tokens, mask), None

        latents, _ = scan(self.blocks, read, latents, remat=self.remat)
        some = jnp.broadcast_to(valid.any(axis=1)[:, None], latents.shape[:2])
        latents = jnp.where(some[:, :, None], latents, jnp.zeros_like(latents))
        return constrain(latents, "batch", "length", "embed"), some

    def _describe(
        self, date: Array, valid: Array, year_known: Array, rng: Array | None
    ) -> Float[Array, "B S Dv"]:
        """The date part of each token."""
        features = date_features(date, year_known, previous_gap(date, valid), self.harmonics)
        shown = ~jnp.isnan(date)
        if rng is not None and self.date_dropout > 0:
            keep = jax.random.bernoulli(rng, 1 - self.date_dropout, (date.shape[0], 1))
            shown &= keep
        part = self.date(features) * self.date_scale[...][None, None]
        return jnp.where(shown[:, :, None], part, 0.0)
