"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases, GELU, tied embeddings.

Numbers as in `transformers.GPT2LMHeadModel`, whose fused q, k and v are three kernels here; what a
decoder is and where its forward pass ends, see `rsvlm_jax.models.decoder`.
"""

from __future__ import annotations

from typing import overload

from flax import nnx
from jax.typing import DTypeLike

from rsvlm_jax.config import GPT2Config
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.nn import Attention, Embed, KVCache, LayerNorm, Mask, Mlp, stack

from .decoder import DecoderBlock, empty_cache, through_layers, tied_scores


def _block(c: GPT2Config, rngs: nnx.Rngs) -> DecoderBlock:
    return DecoderBlock(
        LayerNorm(c.width, eps=c.norm_eps, rngs=rngs),
        Attention(c.width, c.heads, rngs=rngs),
        LayerNorm(c.width, eps=c.norm_eps, rngs=rngs),
        Mlp(c.width, c.mlp_dim, c.activation, rngs=rngs),
    )


class GPT2(nnx.Module):
    """The decoder. Paths of its parameters, kernels (in, out), layers stacked on axis 0::

    embed/embedding  position/embedding  layers/norm{1,2}/{scale,bias}
    layers/attention/{q,k,v,o}/{kernel,bias}  layers/mlp/fc{1,2}/{kernel,bias}
    norm/{scale,bias}
    """

    def __init__(self, config: GPT2Config, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        self.config = config
        self.remat: Remat = remat
        self.embed = Embed(config.vocab_size, config.width, axes=("vocab", "embed"), rngs=rngs)
        self.position = Embed(config.max_length, config.width, rngs=rngs)
        self.layers = stack(lambda r: _block(config, r), config.layers, rngs)
        self.norm = LayerNorm(config.width, eps=config.norm_eps, rngs=rngs)

    @overload
    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Mask | Bool[Array, "#B #H L S"],
        position: Int[Array, "B L"],
    ) -> Float[Array, "B L D"]: ...

    @overload
    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Mask | Bool[Array, "#B #H L S"],
        position: Int[Array, "B L"],
        cache: KVCache,
    ) -> tuple[Float[Array, "B L D"], KVCache]: ...

    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Mask | Bool[Array, "#B #H L S"],
        position: Int[Array, "B L"],
        cache: KVCache | None = None,
    ) -> Float[Array, "B L D"] | tuple[Float[Array, "B L D"], KVCache]:
        """Hidden states after the final norm.

        Args:
          x: embeddings of tokens, without positions; their dtype is the compute dtype.
          mask: S is L; with a cache a table of its slots (`rsvlm_jax.nn.cache_mask`).
          position: within each segment, below `max_length`.
          cache: written from its `length` on; the new tokens' slots must have been claimed
            (`KVCache.claim`). Given one, the result is `(hidden, cache)`.
        """
        x = x + self.position(position).astype(x.dtype)
        x, cache = through_layers(self.layers, x, mask, position, cache, remat=self.remat)
        hidden = self.norm(x)
        return hidden if cache is None else (hidden, cache)

    def logits(self, hidden: Float[Array, "B *rest D"]) -> Float[Array, "B *rest V"]:
        """Scores of the vocabulary, accumulated in float32."""
        return tied_scores(self.embed, hidden)

    def empty_cache(self, batch: int, slots: int, dtype: DTypeLike) -> KVCache:
        """A cache of this decoder's shape."""
        return empty_cache(self.config, batch, slots, dtype)
