"""Networks that others would train from nothing: U-Net on composites, U-TAE on series. Small.

    values  per band set [B,T,C,h,w], standardised, 0 where not valid
    valid   per band set bool [B,T,1|C,h,w]
    angle   per band set [B,T], day of year as an angle, 0 without a date
        -> [B,s,s], standardised target of every pixel

U-Net: Ronneberger et al. 2015, arXiv:1505.04597, on the masked mean and deviation over dates.
U-TAE: Garnot and Landrieu 2021, arXiv:2107.07933: dates are encoded apart, attention over dates at
the coarse level (L-TAE, arXiv:2007.00586) weighs the fine level too. Of places, where there is no
level to go down to, what is left of it is L-TAE. Sizes are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.core.shapes import Array, Bool, Float

HEADS, KEY, HARMONICS = 4, 8, 3
MAX_LEVELS = 3


class Shape(NamedTuple):
    """Of a band set: dates, channels, channels of its mask, edge of a window in its pixels."""

    dates: int
    channels: int
    masks: int
    size: int


class Conv(nnx.Module):
    """A 3x3 convolution as one product: nine shifted copies, [N,h,w,9C] @ [9C,D].

    In a loop XLA's convolution for CPUs takes many times longer.
    """

    def __init__(self, inner: int, out: int, *, rngs: nnx.Rngs) -> None:
        self.map = nnx.Linear(9 * inner, out, rngs=rngs)

    def __call__(self, x: Float[Array, "N h w c"]) -> Float[Array, "N h w d"]:
        h, w = x.shape[1:3]
        wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [wide[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return self.map(jnp.concatenate(shifts, axis=-1))


class Block(nnx.Module):
    """Two 3x3 convolutions with norm over channels and GELU, on [N,h,w,C]."""

    def __init__(self, inner: int, out: int, *, rngs: nnx.Rngs) -> None:
        self.first = Conv(inner, out, rngs=rngs)
        self.second = Conv(out, out, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(out, rngs=rngs) for _ in range(2)])

    def __call__(self, x: Float[Array, "N h w c"]) -> Float[Array, "N h w d"]:
        x = nnx.gelu(self.norms[0](self.first(x)))
        return nnx.gelu(self.norms[1](self.second(x)))


class UNet(nnx.Module):
    """One image of masked means, deviations and shares of valid dates, down and up again.

    Args:
      shapes: of the band sets.
      size: edge of a window in pixels of the cube.
    """

    def __init__(
        self, shapes: Sequence[Shape], size: int, *, width: int = 24, rngs: nnx.Rngs
    ) -> None:
        self.size = size
        levels, edge = 0, size
        while edge >= 4 and edge % 2 == 0 and levels < MAX_LEVELS:
            levels, edge = levels + 1, edge // 2
        inner = sum(2 * s.channels + s.masks for s in shapes)
        widths = [width * 2**i for i in range(levels + 1)]
        self.down = nnx.List(
            [Block(a, b, rngs=rngs) for a, b in itertools.pairwise([inner, *widths])]
        )
        pairs = list(itertools.pairwise(widths))
        self.up = nnx.List([Block(a + b, a, rngs=rngs) for a, b in reversed(pairs)])
        self.out = nnx.Linear(width, 1, rngs=rngs)

    def __call__(
        self,
        values: Sequence[Float[Array, "B _ _ _ _"]],
        valid: Sequence[Bool[Array, "B _ _ _ _"]],
        angle: Sequence[Float[Array, "B _"]],
    ) -> Float[Array, "B s s"]:
        pairs = zip(values, valid, strict=True)
        x = jnp.concatenate([_fitted(composite(v, ok), self.size) for v, ok in pairs], axis=-1)
        skips = []
        for i, block in enumerate(self.down):
            x = block(_halved(x) if i else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(jnp.concatenate([_fitted(x, skip.shape[1]), skip], axis=-1))
        return self.out(x)[..., 0]


class UTAE(nnx.Module):
    """Dates encoded apart, weighed by attention, and decoded; see the module. Args as `UNet`."""

    def __init__(
        self, shapes: Sequence[Shape], size: int, *, width: int = 24, rngs: nnx.Rngs
    ) -> None:
        self.size = size
        self.fronts = nnx.List([DatedFront(s, width, rngs=rngs) for s in shapes])
        self.mix = nnx.Linear(width * len(shapes), width, rngs=rngs)
        self.out = nnx.Linear(width, 1, rngs=rngs)

    def __call__(
        self,
        values: Sequence[Float[Array, "B _ _ _ _"]],
        valid: Sequence[Bool[Array, "B _ _ _ _"]],
        angle: Sequence[Float[Array, "B _"]],
    ) -> Float[Array, "B s s"]:
        parts = zip(self.fronts, values, valid, angle, strict=True)
        made = [_fitted(front(v, ok, a), self.size) for front, v, ok, a in parts]
        return self.out(nnx.gelu(self.mix(jnp.concatenate(made, axis=-1))))[..., 0]


class DatedFront(nnx.Module):
    """One band set to features of every pixel [B,h,w,D], whatever its dates."""

    def __init__(self, shape: Shape, width: int, *, rngs: nnx.Rngs) -> None:
        self.coarse = shape.size >= 4 and shape.size % 2 == 0
        wide = 2 * width if self.coarse else width
        self.fine = Block(shape.channels + shape.masks, width, rngs=rngs)
        if self.coarse:
            self.deep = Block(width, wide, rngs=rngs)
            self.join = Block(width + wide, width, rngs=rngs)
        self.attend = LTAE(wide, rngs=rngs)

    def __call__(
        self,
        values: Float[Array, "B T C h w"],
        valid: Bool[Array, "B T M h w"],
        angle: Float[Array, "B T"],
    ) -> Float[Array, "B h w D"]:
        b, t = values.shape[:2]
        both = jnp.concatenate([values, valid.astype(jnp.float32)], axis=2)
        x = jnp.moveaxis(both.reshape(b * t, *both.shape[2:]), 1, -1)
        fine = self.fine(x)
        ok = jnp.moveaxis(valid.any(axis=2), 1, -1)  # [B,h,w,T]
        deep = self.deep(_halved(fine)) if self.coarse else fine
        if self.coarse:
            h, w = ok.shape[1] // 2, ok.shape[2] // 2
            ok = ok.reshape(b, h, 2, w, 2, t).any(axis=(2, 4))
        h, w, d = deep.shape[1:]
        series = jnp.moveaxis(deep.reshape(b, t, h, w, d), 1, 3).reshape(-1, t, d)
        angles = jnp.broadcast_to(angle[:, None, None, :], (b, h, w, t)).reshape(-1, t)
        out, weight = self.attend(series, angles, ok.reshape(-1, t))
        out = out.reshape(b, h, w, d)
        if not self.coarse:
            return out
        # The fine level is collapsed by the same weights, heads over groups of channels.
        weight = _fitted(weight.reshape(b, h, w, HEADS * t), fine.shape[1])
        weight = weight.reshape(*weight.shape[:3], HEADS, t)
        groups = fine.reshape(b, t, *fine.shape[1:3], HEADS, -1)
        skip = jnp.einsum("bthwgc,bhwgt->bhwgc", groups, weight)
        skip = skip.reshape(*skip.shape[:3], -1)
        return self.join(jnp.concatenate([_fitted(out, skip.shape[1]), skip], axis=-1))


class LTAE(nnx.Module):
    """Lightweight attention over dates: one learned query a head, channels dealt to the heads."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.place = nnx.Linear(2 * HARMONICS, width, rngs=rngs)
        self.key = nnx.Linear(width, HEADS * KEY, rngs=rngs)
        self.query = nnx.Param(jax.random.normal(rngs.params(), (HEADS, KEY)) * KEY**-0.5)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.out_norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N T D"], angle: Float[Array, "N T"], valid: Bool[Array, "N T"]
    ) -> tuple[Float[Array, "N D"], Float[Array, "N G T"]]:
        """What the dates say together, and how much each head took of each; 0 where none is."""
        n, t, d = x.shape
        harmonics = jnp.arange(1, HARMONICS + 1, dtype=jnp.float32)
        turned = angle[..., None] * harmonics[None, None, :]
        x = self.norm(x) + self.place(jnp.concatenate([jnp.sin(turned), jnp.cos(turned)], -1))
        keys = self.key(x).reshape(n, t, HEADS, KEY)
        logits = jnp.einsum("ntgk,gk->ngt", keys, self.query[...]) * KEY**-0.5
        ok = valid[:, None, :]
        weight = jnp.where(ok, jax.nn.softmax(jnp.where(ok, logits, -1e9), axis=-1), 0.0)
        mixed = jnp.einsum("ntgc,ngt->ngc", x.reshape(n, t, HEADS, d // HEADS), weight)
        return nnx.gelu(self.out_norm(self.out(mixed.reshape(n, d)))), weight


def composite(
    values: Float[Array, "B T C h w"], valid: Bool[Array, "B T M h w"]
) -> Float[Array, "B h w D"]:
    """Masked mean and deviation over dates, and the share of valid ones: D = 2 C + M channels."""
    ok = jnp.broadcast_to(valid, values.shape).astype(jnp.float32)
    count = jnp.maximum(ok.sum(axis=1), 1.0)
    mean = (values * ok).sum(axis=1) / count
    square = ((values - mean[:, None]) ** 2 * ok).sum(axis=1) / count
    share = valid.astype(jnp.float32).mean(axis=1)
    deviation = jnp.sqrt(square + 1e-6)
    return jnp.moveaxis(jnp.concatenate([mean, deviation, share], axis=1), 1, -1)


def _halved(x: Float[Array, "N h w c"]) -> Float[Array, "N _ _ c"]:
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def _fitted(x: Float[Array, "N h w c"], size: int) -> Float[Array, "N size size c"]:
    """Every pixel repeated until there are `size`."""
    k = size // x.shape[1]
    return x if k == 1 else jnp.repeat(jnp.repeat(x, k, axis=1), k, axis=2)


NETWORKS = {"unet": UNet, "utae": UTAE}
