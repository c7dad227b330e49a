"""DINOv2's vision tower: layer scale, GELU or gated MLP, positions interpolated to the image.

    images [F,H,W,3] -> patches with bias [F,P,Dv], masked ones replaced
                     -> CLS in front, + position                             hidden state 0
                     -> layers, stacked and scanned                          hidden states 1..n
                     -> chosen hidden states, CLS dropped, joined            [F,P,Dv]
    with `final_norm`:  each chosen one -> post_norm
    with `pool`:        last hidden state -> post_norm -> its CLS            [F,Dv]

Numbers as in `transformers.Dinov2Model`, whose `hidden_states` end before the final norm. The
position table is that of an image of `table_size`; edges that do not fill a patch are not read.
Not here: register tokens (another class), stochastic depth.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import ConfigError, Dinov2Config
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, Embed, LayerNorm, Mlp, PatchEmbed, SwiGLU, stack
from rsvlm_jax.nn.linear import expand_last, spread
from rsvlm_jax.nn.position import resize_positions

from .features import join, run_layers


class Dinov2Block(nnx.Module):
    """Pre-norm self-attention and MLP, each branch scaled channel by channel before it is added."""

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs) -> None:
        c = config

        def scale() -> nnx.Param | None:
            if c.layer_scale is None:
                return None
            return nnx.Param(jnp.full((c.width,), c.layer_scale, jnp.float32))

        self.norm1 = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.attention = Attention(c.width, c.heads, rngs=rngs)
        self.scale1 = scale()
        self.norm2 = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.mlp = (
            SwiGLU(c.width, c.mlp_dim, bias=True, rngs=rngs)
            if c.swiglu
            else Mlp(c.width, c.mlp_dim, c.activation, rngs=rngs)
        )
        self.scale2 = scale()

    def __call__(self, x: Float[Array, "F S Dv"]) -> Float[Array, "F S Dv"]:
        x = x + _scaled(self.attention(self.norm1(x)), self.scale1)
        return x + _scaled(self.mlp(self.norm2(x)), self.scale2)


def _scaled(y: Float[Array, "F S Dv"], scale: nnx.Param | None) -> Float[Array, "F S Dv"]:
    return y if scale is None else y * expand_last(scale[...], y)


class Dinov2Tower(nnx.Module):
    """The tower; what it returns is set by `feature_layers`, `feature_join` and `keep_cls`."""

    def __init__(self, config: Dinov2Config, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        c = config
        side = c.table_size // c.patch_size
        self.config = c
        self.remat: Remat = remat
        self.patch = PatchEmbed(c.patch_size, c.width, bias=True, rngs=rngs)
        self.cls = nnx.Param(normal(0.02)(rngs.params(), (c.width,), jnp.float32))
        self.mask_token = nnx.Param(jnp.zeros((c.width,), jnp.float32)) if c.mask_token else None
        self.position = Embed(side * side + 1, c.width, rngs=rngs)
        self.layers = stack(lambda r: Dinov2Block(c, rngs=r), c.layers, rngs)
        normed = c.pool or c.final_norm
        self.post_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs) if normed else None

    def __call__(
        self, images: Float[Array, "F H W 3"], masked: Bool[Array, "F P"] | None = None
    ) -> Float[Array, "F Pk Dv"]:
        """Tokens of all feature layers; for square images of `image_size` the shape is
        [F, `config.tokens`, `config.out_width`].

        Args:
          masked: patches that are replaced by the mask token (DINOv2's pretraining).

        Raises:
          ConfigError: `masked` for a tower without `mask_token`.
        """
        c = self.config
        _, chosen = self._run(images, masked, c.feature_layers)
        if c.final_norm:
            assert self.post_norm is not None
            chosen = tuple(self.post_norm(x) for x in chosen)
        return join(chosen, c.feature_join, skip=0 if c.keep_cls else 1)

    def last_hidden_state(
        self, images: Float[Array, "F H W 3"], masked: Bool[Array, "F P"] | None = None
    ) -> Float[Array, "F S Dv"]:
        """The last layer's output after the final norm, class token first, as Hugging Face's.

        Raises:
          ConfigError: a tower without `pool`.
        """
        if self.post_norm is None:
            raise ConfigError("no final norm", where="Dinov2Config.pool", expected="True")
        return self.post_norm(self._run(images, masked, ())[0])

    def pooled(
        self, images: Float[Array, "F H W 3"], masked: Bool[Array, "F P"] | None = None
    ) -> Float[Array, "F Dv"]:
        """Hugging Face's `pooler_output`: the class token after the final norm.

        Raises:
          ConfigError: a tower without `pool`.
        """
        return self.last_hidden_state(images, masked)[:, 0]

    def _run(
        self, images: Array, masked: Array | None, wanted: tuple[int, ...]
    ) -> tuple[Array, tuple[Array, ...]]:
        c = self.config
        side = c.table_size // c.patch_size
        grid = images.shape[1] // c.patch_size, images.shape[2] // c.patch_size
        x = self.patch(images)
        if masked is not None:
            if self.mask_token is None:
                raise ConfigError("no mask token", where="Dinov2Config.mask_token", expected="True")
            x = jnp.where(masked[:, :, None], expand_last(self.mask_token[...], x), x)
        f, _, width = x.shape
        cls = spread(self.cls[...], (f, 1, width), x.dtype)
        x = jnp.concatenate([cls, x], axis=1)
        table = self.position.embedding[...]
        if grid != (side, side):
            table = jnp.concatenate(
                [table[:1], resize_positions(table[1:], (side, side), grid)], axis=0
            )
        x = constrain(x + spread(table, x.shape, x.dtype), "batch", "length", "embed")
        return run_layers(self.layers, x, c.layers, wanted, remat=self.remat)
