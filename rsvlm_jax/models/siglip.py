"""SigLIP's vision tower: no class token, learned positions, attention pooling.

    images [F,H,W,3] -> patches with bias [F,P,Dv] -> + position             hidden state 0
                     -> layers, stacked and scanned                          hidden states 1..n
                     -> chosen hidden states, joined                         [F,P,Dv]
    with `pool`:        last hidden state -> post_norm                       [F,P,Dv]
    and `head`:         -> head: a learned query reads all tokens, then norm and MLP   [F,Dv]

Numbers as in `transformers.SiglipVisionModel` with `interpolate_pos_encoding=True`. Its
`hidden_states` end before `post_norm`, so feature layer -1 is not its `last_hidden_state`. Edges
that do not fill a patch are not read (so400m: 384 = 27 * 14 + 6). Not here: the text tower.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import ConfigError, SiglipConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, Embed, LayerNorm, Mlp, PatchEmbed, stack
from rsvlm_jax.nn.linear import spread
from rsvlm_jax.nn.position import resize_positions

from .clip_vit import ViTBlock
from .features import join, run_layers


class PoolingHead(nnx.Module):
    """One learned query attends to all tokens; then `x + mlp(norm(x))` (Lee et al. 2019)."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        self.probe = nnx.Param(normal(0.02)(rngs.params(), (c.width,), jnp.float32))
        self.attention = Attention(c.width, c.heads, rngs=rngs)
        self.norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.mlp = Mlp(c.width, c.mlp_dim, c.activation, rngs=rngs)

    def __call__(self, x: Float[Array, "F P Dv"]) -> Float[Array, "F Dv"]:
        probe = spread(self.probe[...], (x.shape[0], 1, x.shape[2]), x.dtype)
        y = self.attention(probe, memory=x)
        return (y + self.mlp(self.norm(y)))[:, 0]


class SiglipVisionTower(nnx.Module):
    """The tower; what it returns is set by `feature_layers` and `feature_join` of its config."""

    def __init__(self, config: SiglipConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        c = config
        rows, columns = c.grid
        self.config = c
        self.remat: Remat = remat
        self.patch = PatchEmbed(c.patch_size, c.width, bias=True, rngs=rngs)
        self.position = Embed(rows * columns, c.width, rngs=rngs)
        self.layers = stack(
            lambda r: ViTBlock(c.width, c.heads, c.mlp_dim, c.activation, c.norm_eps, rngs=r),
            c.layers,
            rngs,
        )
        self.post_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs) if c.pool else None
        self.head = PoolingHead(c, rngs=rngs) if c.pool and c.head else None

    def __call__(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F P Dv"]:
        """Tokens of all feature layers; for square images of `image_size` the shape is
        [F, `config.tokens`, `config.out_width`]."""
        c = self.config
        _, chosen = self._run(images, c.feature_layers)
        return join(chosen, c.feature_join, skip=0)

    def last_hidden_state(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F P Dv"]:
        """The last layer's output after the final norm, as Hugging Face's `last_hidden_state`.

        Raises:
          ConfigError: a tower without `pool`.
        """
        if self.post_norm is None:
            raise ConfigError("no final norm", where="SiglipConfig.pool", expected="True")
        return self.post_norm(self._run(images, ())[0])

    def pooled(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F Dv"]:
        """Hugging Face's `pooler_output`; SigLIP compares it with text as it is, normalised.

        Raises:
          ConfigError: a tower without `pool`, or without a head.
        """
        if self.head is None:
            field = "head" if self.config.pool else "pool"
            raise ConfigError(
                "nothing to pool with", where=f"SiglipConfig.{field}", expected="True"
            )
        return self.head(self.last_hidden_state(images))

    def _run(self, images: Array, wanted: tuple[int, ...]) -> tuple[Array, tuple[Array, ...]]:
        c = self.config
        grid = images.shape[1] // c.patch_size, images.shape[2] // c.patch_size
        x = self.patch(images)
        table = resize_positions(self.position.embedding[...], c.grid, grid)
        x = constrain(x + spread(table, x.shape, x.dtype), "batch", "length", "embed")
        return run_layers(self.layers, x, c.layers, wanted, remat=self.remat)
