"""Galileo's encoder (Tseng et al. 2025, arXiv:2502.09356): tokens of band groups, patches, months.

    space-time  [B,H,W,T,c] -> patches -> [B,h,w,T,Dv] -+
    space       [B,H,W,c]   -> patches -> [B,h,w,Dv]   -+  + [channel | step | month | place]
    time        [B,T,c]     -> linear  -> [B,T,Dv]     -+
    static      [B,c]       -> linear  -> [B,Dv]       -+
    -> [B,N,Dv], of which some are seen [B,N] -> layers, stacked and scanned -> norm -> [B,N,Dv]

N runs over space-time (row, column, step, group), space (row, column, group), time (step, group)
and static tokens (group), of the groups that an input has. A token that is not seen is read by
nothing: no value under it changes any output bit, and leaving its group out gives the same numbers
for the others. The patch is what the shapes say, 1 .. `base_patch` pixels (`nn.FlexPatch`).

Numbers as in the public encoder without early exits; written from a description of it. Not here:
the predictor and targets of its pretraining; units and normalisation (`galileo_inputs`).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import GalileoConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import FlexPatch, LayerNorm, Linear, stack

from .clip_vit import ViTBlock
from .galileo_groups import GROUPS, KINDS, GalileoInputs, Group, Kind
from .months import month_table
from .seen import masked_mean, run_seen

AXES: dict[Kind, str] = {
    "space_time": "bhwtgd",
    "space": "bhwgd",
    "time": "btgd",
    "static": "bgd",
}
"""Of the tokens of each kind: batch, row, column, step, group, width."""


class Galileo(nnx.Module):
    """The encoder."""

    def __init__(self, config: GalileoConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        c = config
        self.config = c
        self.remat: Remat = remat

        def maps(kind: Kind) -> Any:
            made = {}
            for group in GROUPS:
                count = len(group.channels)
                if group.kind == kind and group.spatial:
                    made[group.name] = FlexPatch(c.base_patch, c.width, channels=count, rngs=rngs)
                elif group.kind == kind:
                    made[group.name] = Linear(count, c.width, rngs=rngs)
            return nnx.Dict(made)

        def channels(kind: Kind) -> nnx.Param:
            shape = (sum(g.kind == kind for g in GROUPS), c.width // 4)
            return nnx.Param(normal(0.02)(rngs.params(), shape, jnp.float32))

        self.maps: Any = nnx.Dict({kind: maps(kind) for kind in KINDS})
        self.channel = nnx.Dict({kind: channels(kind) for kind in KINDS})
        self.layers = stack(
            lambda r: ViTBlock(c.width, c.heads, c.mlp_dim, "gelu", c.norm_eps, rngs=r),
            c.layers,
            rngs,
        )
        self.norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)

    def __call__(self, inputs: GalileoInputs) -> tuple[Float[Array, "B N Dv"], Bool[Array, "B N"]]:
        """Tokens after the last norm, and which are seen; the others hold the bias of that norm.

        Raises:
          ConfigError: see `GalileoInputs.check`.
        """
        x, seen = self.embed_tokens(inputs)
        x = run_seen(self.layers, x, seen, remat=self.remat)
        return self.norm(x), seen

    def pooled(self, inputs: GalileoInputs) -> Float[Array, "B Dv"]:
        """The mean of the seen tokens, the embedding of the paper; 0 where there is none."""
        return masked_mean(*self(inputs))

    def pooled_per_patch(
        self, inputs: GalileoInputs
    ) -> tuple[Float[Array, "B P Dv"], Bool[Array, "B P"]]:
        """For each patch, row by row, the mean of its own seen tokens and of those without a place.

        The second value says which patches have a seen token of their own.
        """
        x, seen = self(inputs)
        (h, _), t, at = inputs.grid(), inputs.month.shape[1], 0
        tokens, masks, own = [], [], 0
        for kind in KINDS:
            places = h * h if "h" in AXES[kind] else 1
            count = len(inputs.groups(kind)) * (t if "t" in AXES[kind] else 1)
            part = slice(at, at := at + places * count)
            own += count if "h" in AXES[kind] else 0
            shape = (x.shape[0], places, count)
            of_place = x[:, part].reshape(*shape, x.shape[2])
            tokens.append(jnp.broadcast_to(of_place, (shape[0], h * h, count, x.shape[2])))
            of_place = seen[:, part].reshape(shape)
            masks.append(jnp.broadcast_to(of_place, (shape[0], h * h, count)))
        joined = jnp.concatenate(masks, axis=2)
        return masked_mean(jnp.concatenate(tokens, axis=2), joined), joined[:, :, :own].any(axis=2)

    def embed_tokens(
        self, inputs: GalileoInputs
    ) -> tuple[Float[Array, "B N Dv"], Bool[Array, "B N"]]:
        """What enters the layers, 0 where not seen, and what is seen."""
        c, quarter = self.config, self.config.width // 4
        inputs.check(c.base_patch, c.max_steps)
        (h, p), (b, t) = inputs.grid(), inputs.month.shape
        # What is added, side by side, each with its axes: where a kind lacks one, zeros.
        step = jnp.asarray(step_table(c.max_steps, quarter)[:t])
        months = jnp.take(jnp.asarray(month_table(quarter)), inputs.month, axis=0)
        place = place_codes(inputs.gsd, h, p, quarter)
        parts, masks = [], []
        for kind in KINDS:
            groups = inputs.groups(kind)
            if not groups:
                continue
            tokens, seen = zip(*(self._project(g, inputs, p) for g in groups), strict=True)
            x, s = jnp.stack(tokens, axis=-2), jnp.stack(seen, axis=-1)
            of_kind = [g for g in GROUPS if g.kind == kind]
            rows = np.asarray([of_kind.index(g) for g in groups])
            tables = ((self.channel[kind][...][rows], "gd"), (step, "td"), (months, "btd"),
                      (place, "bhwd"))  # fmt: skip
            shape = (*x.shape[:-1], quarter)
            added = [_along(table, axes, AXES[kind], shape) for table, axes in tables]
            x = x + jnp.concatenate(added, axis=-1).astype(x.dtype)
            parts.append(x.reshape(b, -1, c.width))
            masks.append(s.reshape(b, -1))
        x, seen = jnp.concatenate(parts, axis=1), jnp.concatenate(masks, axis=1)
        x = jnp.where(seen[:, :, None], x, jnp.zeros_like(x))
        return constrain(x, "batch", "length", "embed"), seen

    def _project(self, group: Group, inputs: GalileoInputs, p: int) -> tuple[Array, Array]:
        """One group's tokens without what is added to them, and which are seen."""
        x, seen = inputs.values[group.name], inputs.seen[group.name]
        project = self.maps[group.kind][group.name]
        pixels = jnp.repeat(jnp.repeat(seen, p, 1), p, 2) if group.spatial else seen
        x = jnp.where(pixels[..., None], x, jnp.zeros_like(x))  # before any product with it
        if not group.spatial:
            return project(x), seen
        if group.kind == "space":
            return project(x, p).reshape(*seen.shape, -1), seen
        x = jnp.moveaxis(x, 3, 1)
        y = project(x.reshape(-1, *x.shape[2:]), p)
        y = y.reshape(seen.shape[0], seen.shape[3], *seen.shape[1:3], -1)
        return jnp.moveaxis(y, 1, 3), seen


def step_table(count: int, width: int) -> np.ndarray:
    """[count, width]: sines, then cosines, of k w_i.

    w_i = 10000^(-i / (2 width)): the usual exponent is twice that, but the model was trained so.
    """
    angle = np.arange(count)[:, None] * _waves(width)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def place_codes(gsd: Float[Array, " B"], h: int, p: int, width: int) -> Float[Array, "B h h W"]:
    """Where a patch lies in its window, in steps of 10 m: [code of its column | of its row]."""
    metres = (
        jnp.arange(h, dtype=jnp.float32)[None, :] * (gsd.astype(jnp.float32) * (p / 10))[:, None]
    )
    angle = metres[:, :, None] * jnp.asarray(_waves(width // 2), jnp.float32)[None, None]
    code = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    shape = (code.shape[0], h, h, width // 2)
    column, row = (jnp.broadcast_to(x, shape) for x in (code[:, None], code[:, :, None]))
    return jnp.concatenate([column, row], axis=-1)


def _waves(width: int) -> np.ndarray:
    return 10000.0 ** (-np.arange(width // 2) / (2 * width))


def _along(table: Array, axes: str, wanted: str, shape: tuple[int, ...]) -> Array:
    """A table spread over the axes that it lacks; zeros where it has one that is not wanted."""
    if set(axes) - set(wanted):
        return jnp.zeros(shape, table.dtype)
    own = [table.shape[axes.index(a)] if a in axes else 1 for a in wanted]
    return jnp.broadcast_to(table.reshape(own), shape)
