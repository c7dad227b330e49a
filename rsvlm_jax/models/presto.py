"""Presto (Tseng et al. 2023, arXiv:2304.14065): one pixel's months as tokens of band groups.

    latlon          -> linear -> [B,1,Dv] ------------------------------+
    x [B,T,17]      -> linear of each group -> [B,T or 1,Dv]  -+        |
    dynamic world   -> table                -> [B,T,Dv]       -+ + [month | channel | step]
    -> [B,N,Dv], of which some are seen [B,N] -> layers, stacked and scanned
    pooled:   the mean of what is seen -> norm            [B,Dv]
    tokens:   norm of each                                [B,N,Dv]
    decoder:  tokens, a mask token elsewhere -> layers -> a linear map of each group -> [B,T,17]

N runs over the place (one token), then the groups in the order of `GROUPS`, each with its steps in
order; terrain has one token, of the first step. A group's token is seen where all its features are.
A token that is not seen is read by nothing: no value under it changes any output bit.

Numbers as in the public model; written from a description of it. One thing is ours: a place that is
not known (NaN) has no token, where the original has no such case. Not here: units and
normalisation (`presto_inputs`), masks and losses of pretraining.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import ConfigError, PrestoConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Embed, LayerNorm, Linear, stack
from rsvlm_jax.nn.linear import expand_last

from .clip_vit import ViTBlock
from .months import month_table, unit_vector
from .seen import masked_mean, run_seen

FEATURES = ("VV", "VH", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12",
            "temperature_2m", "total_precipitation", "elevation", "slope", "NDVI")  # fmt: skip
"""Of the last axis of `PrestoInputs.x`."""

MISSING = 9
"""Class of Dynamic World that stands for none."""


class Group(NamedTuple):
    """Features that share a token."""

    name: str
    features: tuple[int, ...]


GROUPS: tuple[Group, ...] = (
    Group("S1", (0, 1)),
    Group("S2_RGB", (2, 3, 4)),
    Group("S2_Red_Edge", (5, 6, 7)),
    Group("S2_NIR_10m", (8,)),
    Group("S2_NIR_20m", (9,)),
    Group("S2_SWIR", (10, 11)),
    Group("ERA5", (12, 13)),
    Group("SRTM", (14, 15)),
    Group("NDVI", (16,)),
)
"""In the order of their tokens and channel embeddings; after them comes Dynamic World."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class PrestoInputs:
    """Series of single places.

    Attributes:
      x: normalised values, by `FEATURES`.
      seen: which of them are there.
      dynamic_world: class 0 .. 8, or `MISSING`.
      lonlat: degrees; NaN where unknown.
      month: 0 (January) .. 11, of each step.
    """

    x: Float[Array, "B T 17"]
    seen: Bool[Array, "B T 17"]
    dynamic_world: Int[Array, "B T"]
    lonlat: Float[Array, "B 2"]
    month: Int[Array, "B T"]


class Presto(nnx.Module):
    """The encoder, and with `config.decoder` what reconstructs its input."""

    def __init__(self, config: PrestoConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        c = config
        self.config = c
        self.remat: Remat = remat
        self.maps = nnx.Dict({g.name: Linear(len(g.features), c.width, rngs=rngs) for g in GROUPS})
        self.latlon = Linear(3, c.width, rngs=rngs)
        self.dynamic_world = Embed(MISSING + 1, c.width, rngs=rngs)
        channel = normal(0.02)(rngs.params(), (len(GROUPS) + 1, c.width // 4), jnp.float32)
        self.channel = nnx.Param(channel)
        self.layers = stack(
            lambda r: ViTBlock(c.width, c.heads, c.mlp_dim, "gelu", c.norm_eps, rngs=r),
            c.layers,
            rngs,
        )
        self.norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.decoder = PrestoDecoder(c, remat=remat, rngs=rngs) if c.decoder else None

    def __call__(self, inputs: PrestoInputs) -> tuple[Float[Array, "B N Dv"], Bool[Array, "B N"]]:
        """Tokens after the last norm, 0 where not seen, and which are seen.

        Raises:
          ConfigError: more steps than the encoder has positions for.
        """
        x, seen = self._run(inputs)
        x = self.norm(x)
        return jnp.where(seen[:, :, None], x, jnp.zeros_like(x)), seen

    def pooled(self, inputs: PrestoInputs) -> Float[Array, "B Dv"]:
        """The norm of the mean of what is seen, the embedding of the paper; 0 where nothing is."""
        x, seen = self._run(inputs)
        pooled = self.norm(masked_mean(x, seen))
        return jnp.where(seen.any(axis=1)[:, None], pooled, jnp.zeros_like(pooled))

    def reconstruct(
        self, inputs: PrestoInputs
    ) -> tuple[Float[Array, "B T 17"], Float[Array, "B T 9"]]:
        """What the decoder makes of the seen tokens: values by `FEATURES`, normalised, and logits
        of Dynamic World's classes.

        Raises:
          ConfigError: a model without a decoder; see `__call__`.
        """
        if self.decoder is None:
            raise ConfigError("no decoder", where="PrestoConfig.decoder", expected="True")
        return self.decoder(*self(inputs), inputs.month, self.channel[...])

    def embed_tokens(
        self, inputs: PrestoInputs
    ) -> tuple[Float[Array, "B N Dv"], Bool[Array, "B N"]]:
        """What enters the layers, 0 where not seen, and what is seen."""
        c, t = self.config, inputs.month.shape[1]
        if t > c.max_steps:
            raise ConfigError(
                "a series longer than Presto has positions for",
                where="PrestoInputs", expected=f"at most {c.max_steps}", found=t,
            )  # fmt: skip
        known = jnp.isfinite(inputs.lonlat).all(axis=1)
        degrees = jnp.where(known[:, None], inputs.lonlat, 0.0)
        place = self.latlon(unit_vector(degrees).astype(inputs.x.dtype))[:, None]
        added = _added(inputs.month, self.channel[...], c.width, c.width // 4, c.max_steps)
        tokens, masks = [place], [known[:, None]]
        for row, group in enumerate(GROUPS):
            index = np.asarray(group.features)
            x, seen = inputs.x[:, :, index], inputs.seen[:, :, index].all(axis=2)
            e = added[row]
            if group.name == "SRTM":
                x, seen, e = x[:, :1], seen[:, :1], e[:, :1]
            x = jnp.where(seen[:, :, None], x, jnp.zeros_like(x))
            tokens.append(self.maps[group.name](x) + e.astype(x.dtype))
            masks.append(seen)
        world = self.dynamic_world(inputs.dynamic_world) + added[len(GROUPS)]
        tokens.append(world.astype(inputs.x.dtype))
        masks.append(inputs.dynamic_world != MISSING)
        x, seen = jnp.concatenate(tokens, axis=1), jnp.concatenate(masks, axis=1)
        x = jnp.where(seen[:, :, None], x, jnp.zeros_like(x))
        return constrain(x, "batch", "length", "embed"), seen

    def _run(self, inputs: PrestoInputs) -> tuple[Array, Array]:
        x, seen = self.embed_tokens(inputs)
        return run_seen(self.layers, x, seen, remat=self.remat), seen


class PrestoDecoder(nnx.Module):
    """Values of every group and step from the tokens that were seen."""

    def __init__(self, config: PrestoConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        c, width = config, config.decoder_width
        self.config = c
        self.remat: Remat = remat
        self.embed = Linear(c.width, width, rngs=rngs)
        self.mask_token = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.layers = stack(
            lambda r: ViTBlock(
                width, c.decoder_heads, c.decoder_mlp_dim, "gelu", c.norm_eps, rngs=r
            ),
            c.decoder_layers,
            rngs,
        )
        self.norm = LayerNorm(width, eps=c.norm_eps, rngs=rngs)
        self.maps = nnx.Dict({g.name: Linear(width, len(g.features), rngs=rngs) for g in GROUPS})
        self.dynamic_world = Linear(width, MISSING, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B N Dv"],
        seen: Bool[Array, "B N"],
        month: Int[Array, "B T"],
        channel: Float[Array, "G W"],
    ) -> tuple[Float[Array, "B T 17"], Float[Array, "B T 9"]]:
        b, t = month.shape
        x = self.embed_tokens(tokens, seen, month, channel)
        x = self.norm(run_seen(self.layers, x, jnp.ones(x.shape[:2], bool), remat=self.remat))
        features, at = [], 1
        for group in GROUPS:
            count = 1 if group.name == "SRTM" else t
            y = self.maps[group.name](x[:, at : at + count])
            features.append(jnp.broadcast_to(y, (b, t, y.shape[2])))
            at += count
        return jnp.concatenate(features, axis=2), self.dynamic_world(x[:, at:])

    def embed_tokens(
        self, tokens: Array, seen: Array, month: Array, channel: Array
    ) -> Float[Array, "B N E"]:
        """What enters the decoder's layers."""
        c = self.config
        x = self.embed(tokens)
        x = jnp.where(seen[:, :, None], x, expand_last(self.mask_token[...], x))
        half = (c.decoder_width - channel.shape[1]) // 2
        added = _added(month, channel, c.decoder_width, half, c.max_steps)
        added[_SRTM] = added[_SRTM][:, :1]
        nothing = jnp.zeros((x.shape[0], 1, c.decoder_width), jnp.float32)
        return x + jnp.concatenate([nothing, *added], axis=1).astype(x.dtype)


_SRTM = [g.name for g in GROUPS].index("SRTM")


def _added(
    month: Array, channel: Array, width: int, of_month: int, steps: int
) -> list[Float[Array, "B T W"]]:
    """What is added to the tokens of each group: [month | channel | step], of terrain the channel.

    Args:
      of_month: columns of the month; the step has what is left.
    """
    (b, t), c = month.shape, channel.shape[1]
    of_step = width - c - of_month
    table = jnp.take(jnp.asarray(month_table(of_month)), month, axis=0)
    step = jnp.broadcast_to(jnp.asarray(step_table(steps, of_step)[:t])[None], (b, t, of_step))
    made = []
    for row in range(channel.shape[0]):
        own = jnp.broadcast_to(channel[row][None, None], (b, t, c))
        parts = [table, own, step]
        if row == _SRTM:
            parts = [jnp.zeros_like(table), own, jnp.zeros_like(step)]
        made.append(jnp.concatenate(parts, axis=2))
    return made


def step_table(count: int, width: int) -> np.ndarray:
    """[count, width]: of position k, sines in even and cosines in odd columns of k w_i.

    w_i = 1000^(-2 floor(i / 2) / width): the base is not the usual one.
    """
    column = np.arange(width)
    angle = np.arange(count)[:, None] * 1000.0 ** (-2 * (column // 2) / width)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)
