"""ConvNeXt: three-channel frames to the maps of its stages, as tokens.

    images [F,H,W,3] -> patches, norm                        hidden state 0  [F,h,w,D1]
      stage 1:           blocks, stacked and scanned         hidden state 1  [F,h,w,D1]
      stage i > 1:       norm, 2x2 patches, blocks           hidden state i  [F,h/2,w/2,Di]
    -> chosen hidden states at the grid of the first of them, joined along channels  [F,P,Dv]

    block:  x -> depthwise 7x7 -> norm -> MLP over channels -> * layer_scale -> + x

Numbers as in `transformers.ConvNextModel(...).hidden_states` for images of any size and shape:
rows and columns that fill no whole patch are not read. Dropping of paths in training is not here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import lecun_normal

from rsvlm_jax.config import ConfigError, ConvNextConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import LayerNorm, Mlp, PatchEmbed, scan, stack
from rsvlm_jax.nn.linear import expand_last

KERNEL = 7
"""Edge of the depthwise filters."""

EPS = 1e-6
"""Of all norms but the last, whatever the config says: so in every ConvNeXt that was published."""


class DepthwiseConv(nnx.Module):
    """One square filter of odd size a channel, zeros around the map.

    A torch kernel [C, 1, row, column] becomes `kernel` [(row, column), C].
    """

    def __init__(self, d: int, size: int, *, rngs: nnx.Rngs) -> None:
        self.size = size
        self.kernel = nnx.Param(lecun_normal()(rngs.params(), (size * size, d), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((d,), jnp.float32))

    def __call__(self, x: Float[Array, "F H W D"]) -> Float[Array, "F H W D"]:
        d = x.shape[-1]
        around = (self.size // 2, self.size // 2)
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype).reshape(self.size, self.size, 1, d),
            window_strides=(1, 1),
            padding=(around, around),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=d,
        )
        return y + expand_last(self.bias[...], y)


class ConvNextBlock(nnx.Module):
    """Depthwise convolution, then an MLP of four times the width at every cell."""

    def __init__(self, d: int, config: ConvNextConfig, *, rngs: nnx.Rngs) -> None:
        self.depthwise = DepthwiseConv(d, KERNEL, rngs=rngs)
        self.norm = LayerNorm(d, eps=EPS, rngs=rngs)
        self.mlp = Mlp(d, 4 * d, config.activation, rngs=rngs)
        self.layer_scale = (
            nnx.Param(jnp.full((d,), config.layer_scale, jnp.float32))
            if config.layer_scale > 0
            else None
        )

    def __call__(self, x: Float[Array, "F H W D"]) -> Float[Array, "F H W D"]:
        y = self.norm(self.depthwise(x))
        y = self.mlp(y.reshape(y.shape[0], -1, y.shape[3])).reshape(x.shape)
        if self.layer_scale is not None:
            y = y * expand_last(self.layer_scale[...], y)
        return constrain(x + y, "batch", None, None, "embed")


class ConvNextStage(nnx.Module):
    """Blocks of one width; from the second stage on, half the grid of what comes in.

    Args:
      d_in: width of the stage before; None for the first stage, which keeps its map.
    """

    def __init__(
        self, d_in: int | None, d: int, depth: int, config: ConvNextConfig, *, rngs: nnx.Rngs
    ) -> None:
        if d_in is None:
            self.down_norm = self.down = None
        else:
            self.down_norm = LayerNorm(d_in, eps=EPS, rngs=rngs)
            self.down = PatchEmbed(2, d, channels=d_in, bias=True, rngs=rngs)
        self.blocks = stack(lambda r: ConvNextBlock(d, config, rngs=r), depth, rngs)

    def __call__(self, x: Float[Array, "F H W D"], remat: Remat) -> Float[Array, "F h w E"]:
        if self.down_norm is not None and self.down is not None:
            x = patch_map(self.down, self.down_norm(x))
        x, _ = scan(self.blocks, lambda block, x: (block(x), None), x, remat=remat)
        return x


class ConvNextTower(nnx.Module):
    """The tower. Paths of its parameters, blocks stacked on axis 0::

    patch/{kernel,bias}  patch_norm/{scale,bias}  post_norm/{scale,bias} (`pool`)
    stages/I/down_norm/{scale,bias}  stages/I/down/{kernel,bias} (but for the first)
    stages/I/blocks/{depthwise,mlp/fc1,mlp/fc2}/{kernel,bias}
    stages/I/blocks/norm/{scale,bias}  stages/I/blocks/layer_scale
    """

    def __init__(self, config: ConvNextConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        self.config = config
        self.remat: Remat = remat
        widths = config.widths
        self.patch = PatchEmbed(config.patch_size, widths[0], bias=True, rngs=rngs)
        self.patch_norm = LayerNorm(widths[0], eps=EPS, rngs=rngs)
        before = (None, *widths[:-1])
        self.stages = nnx.List(
            ConvNextStage(d_in, d, depth, config, rngs=rngs)
            for d_in, d, depth in zip(before, widths, config.depths, strict=True)
        )
        self.post_norm = (
            LayerNorm(widths[-1], eps=config.norm_eps, rngs=rngs) if config.pool else None
        )

    def __call__(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F P Dv"]:
        """Tokens in raster order; P is `ConvNextConfig.tokens` for images of `image_size`."""
        wanted = [self.config.stage_of(s) for s in self.config.feature_stages]
        states = self.hidden_states(images, max(wanted))
        height, width = states[wanted[0]].shape[1:3]
        x = jnp.concatenate([resized(states[i], height, width) for i in wanted], axis=3)
        return constrain(x.reshape(x.shape[0], -1, x.shape[3]), "batch", "length", "embed")

    def pooled(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F Dv"]:
        """The mean of the last map, normalised: `pooler_output` in Hugging Face.

        Raises:
          ConfigError: a tower without `pool`.
        """
        if self.post_norm is None:
            raise ConfigError("nothing to pool with", where="ConvNextConfig.pool", expected="True")
        last = self.hidden_states(images)[-1]
        return self.post_norm(last.astype(jnp.float32).mean((1, 2)).astype(last.dtype))

    def hidden_states(
        self, images: Float[Array, "F H W 3"], last: int | None = None
    ) -> list[Float[Array, "F h w D"]]:
        """Maps 0 .. `last` (all unless given), as Hugging Face's `hidden_states`."""
        x = self.patch_norm(patch_map(self.patch, images))
        states = [constrain(x, "batch", None, None, "embed")]
        for stage in self.stages[:last]:
            states.append(stage(states[-1], self.remat))
        return states


def patch_map(embed: PatchEmbed, x: Float[Array, "F H W D"]) -> Float[Array, "F h w E"]:
    """Patch tokens as a map: a convolution whose stride is its size."""
    y = embed(x)
    grid = x.shape[1] // embed.patch_size, x.shape[2] // embed.patch_size
    return y.reshape(y.shape[0], *grid, y.shape[2])


def resized(x: Float[Array, "F H W D"], height: int, width: int) -> Float[Array, "F h w D"]:
    """Bilinear over the grid (cell centres, antialiased); the identity where the grid is right."""
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear")
