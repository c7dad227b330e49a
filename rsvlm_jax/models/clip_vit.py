"""CLIP's vision tower: three-channel frames to patch tokens of one or several layers.

    images [F,S,S,3] -> patches [F,P,Dv] -> CLS in front, + position -> pre_norm     hidden state 0
                     -> layers, stacked and scanned                          hidden states 1..n
                     -> chosen hidden states, CLS dropped, joined along P    [F, P * chosen, Dv]

Numbers as in `transformers.CLIPVisionModel(...).hidden_states`. Not here: the pooled output with
its post-norm and projection, which no vision-language model of this family reads; images are
normalised before (`rsvlm_jax.models.spectral.to_encoder`).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import ViTConfig
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, Embed, LayerNorm, Mlp, PatchEmbed, scan, stack


class ViTBlock(nnx.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs) -> None:
        self.norm1 = LayerNorm(config.width, eps=config.norm_eps, rngs=rngs)
        self.attention = Attention(config.width, config.heads, rngs=rngs)
        self.norm2 = LayerNorm(config.width, eps=config.norm_eps, rngs=rngs)
        self.mlp = Mlp(config.width, config.mlp_dim, config.activation, rngs=rngs)

    def __call__(self, x: Float[Array, "F S Dv"]) -> Float[Array, "F S Dv"]:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CLIPVisionTower(nnx.Module):
    """The tower; what it returns is set by `feature_layers` and `keep_cls` of its config."""

    def __init__(self, config: ViTConfig, *, remat: bool = False, rngs: nnx.Rngs) -> None:
        side = config.image_size // config.patch_size
        self.config = config
        self.remat = remat
        self.patch = PatchEmbed(config.patch_size, config.width, rngs=rngs)
        self.cls = nnx.Param(normal(0.02)(rngs.params(), (config.width,), jnp.float32))
        self.position = Embed(side * side + 1, config.width, rngs=rngs)
        self.pre_norm = LayerNorm(config.width, eps=config.norm_eps, rngs=rngs)
        self.layers = stack(lambda r: ViTBlock(config, rngs=r), config.layers, rngs)

    def __call__(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F P Dv"]:
        """P counts the tokens of all feature layers: `ViTConfig.tokens`."""
        x = self.patch(images)
        f, _, width = x.shape
        cls = jnp.broadcast_to(self.cls[...].astype(x.dtype)[None, None], (f, 1, width))
        x = jnp.concatenate([cls, x], axis=1)
        x = x + self.position.embedding[...].astype(x.dtype)[None]
        x = self.pre_norm(constrain(x, "batch", "length", "embed"))

        config = self.config
        wanted = [i % (config.layers + 1) for i in config.feature_layers]
        # Only the chosen states are kept: stacking every layer's would cost `layers` times that.
        kept = tuple(x for _ in wanted)

        def block(layer: ViTBlock, carry: tuple, index: Array) -> tuple[tuple, None]:
            x, kept = carry
            x = layer(x)
            kept = tuple(jnp.where(index == w, x, k) for w, k in zip(wanted, kept, strict=True))
            return (x, kept), None

        index = jnp.arange(1, config.layers + 1, dtype=jnp.int32)
        (_, kept), _ = scan(self.layers, block, (x, kept), index, remat=self.remat)
        start = 0 if config.keep_cls else 1
        return jnp.concatenate([k[:, start:] for k in kept], axis=1)
