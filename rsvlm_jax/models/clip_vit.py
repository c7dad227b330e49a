"""CLIP's vision tower: three-channel frames to patch tokens of one or several layers.

    images [F,H,W,3] -> patches [F,P,Dv] -> CLS in front, + position -> pre_norm     hidden state 0
                     -> layers, stacked and scanned                          hidden states 1..n
                     -> chosen hidden states, CLS dropped, joined            [F,P,Dv]
    with `pool`:        last hidden state's CLS -> post_norm                 [F,Dv]
                     -> projection, where there is one                       [F,E]

Numbers as in `transformers.CLIPVisionModelWithProjection` with `interpolate_pos_encoding=True`:
images of another size than `image_size`, square or not, read an interpolated position table. Not
here: the text tower; images are normalised before (`rsvlm_jax.models.spectral.to_encoder`).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import ConfigError, ViTConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.config.vision import Activation
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, Embed, LayerNorm, Linear, Mask, Mlp, PatchEmbed, stack
from rsvlm_jax.nn.linear import spread
from rsvlm_jax.nn.position import resize_positions

from .features import join, run_layers


class ViTBlock(nnx.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_dim: int,
        activation: Activation,
        eps: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.norm1 = LayerNorm(width, eps=eps, rngs=rngs)
        self.attention = Attention(width, heads, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=eps, rngs=rngs)
        self.mlp = Mlp(width, mlp_dim, activation, rngs=rngs)

    def __call__(
        self, x: Float[Array, "F S Dv"], mask: Mask | None = None
    ) -> Float[Array, "F S Dv"]:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class CLIPVisionTower(nnx.Module):
    """The tower; what it returns is set by `feature_layers`, `feature_join` and `keep_cls`."""

    def __init__(self, config: ViTConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        c = config
        rows, columns = c.grid
        self.config = c
        self.remat: Remat = remat
        self.patch = PatchEmbed(c.patch_size, c.width, rngs=rngs)
        self.cls = nnx.Param(normal(0.02)(rngs.params(), (c.width,), jnp.float32))
        self.position = Embed(rows * columns + 1, c.width, rngs=rngs)
        self.pre_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.layers = stack(
            lambda r: ViTBlock(c.width, c.heads, c.mlp_dim, c.activation, c.norm_eps, rngs=r),
            c.layers,
            rngs,
        )
        self.post_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs) if c.pool else None
        self.projection = (
            Linear(c.width, c.projection_dim, bias=False, rngs=rngs)
            if c.projection_dim is not None
            else None
        )

    def __call__(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F P Dv"]:
        """Tokens of all feature layers; for square images of `image_size` the shape is
        [F, `config.tokens`, `config.out_width`].

        Raises:
          ConfigError: an edge that is no multiple of the patch.
        """
        c = self.config
        _, chosen = self._run(images, c.feature_layers)
        return join(chosen, c.feature_join, skip=0 if c.keep_cls else 1)

    def last_hidden_state(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F S Dv"]:
        """What the last layer gives, class token first, as Hugging Face's `last_hidden_state`."""
        return self._run(images, ())[0]

    def pooled(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F Dv"]:
        """Hugging Face's `pooler_output`: the class token after the final norm.

        Raises:
          ConfigError: a tower without `pool`.
        """
        if self.post_norm is None:
            raise ConfigError("nothing to pool with", where="ViTConfig.pool", expected="True")
        return self.post_norm(self.last_hidden_state(images)[:, 0])

    def embed_image(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F E"]:
        """The image's vector in the space that it shares with text, not normalised.

        Raises:
          ConfigError: a tower without `projection_dim`.
        """
        if self.projection is None:
            raise ConfigError(
                "no projection", where="ViTConfig.projection_dim", expected="a width", found=None
            )
        return self.projection(self.pooled(images))

    def _run(self, images: Array, wanted: tuple[int, ...]) -> tuple[Array, tuple[Array, ...]]:
        x = self._embed(images)
        return run_layers(self.layers, x, self.config.layers, wanted, remat=self.remat)

    def _embed(self, images: Array) -> Array:
        size = self.config.patch_size
        if images.shape[1] % size or images.shape[2] % size:
            raise ConfigError(
                "an image that does not divide into patches",
                where="CLIPVisionTower",
                expected=f"multiples of {size}",
                found=f"{images.shape[1]} x {images.shape[2]}",
            )
        grid = images.shape[1] // size, images.shape[2] // size
        x = self.patch(images)
        f, _, width = x.shape
        cls = spread(self.cls[...], (f, 1, width), x.dtype)
        x = jnp.concatenate([cls, x], axis=1)
        table = self.position.embedding[...]
        if grid != self.config.grid:
            table = jnp.concatenate(
                [table[:1], resize_positions(table[1:], self.config.grid, grid)], axis=0
            )
        x = x + spread(table, x.shape, x.dtype)
        return self.pre_norm(constrain(x, "batch", "length", "embed"))
