"""A Llama-style decoder on embeddings: RMSNorm, RoPE, grouped-query attention, SwiGLU.

    tokens [B,L] -> embed -> [B,L,D] (the caller puts visual tokens in) -> layers -> norm -> hidden
    hidden [B,L,D] -> logits [B,L,V]

The forward pass ends at the hidden states: losses apply the language head in chunks, heads read
the states themselves. Numbers as in `transformers.LlamaForCausalLM`; which tokens see which is
the caller's mask (`rsvlm_jax.nn.masks`).
"""

from __future__ import annotations

from typing import overload

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rsvlm_jax.config import LlamaConfig
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, Embed, KVCache, Linear, RMSNorm, SwiGLU, scan, stack


class LlamaBlock(nnx.Module):
    """Pre-norm self-attention and SwiGLU."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.norm1 = RMSNorm(config.width, eps=config.norm_eps, rngs=rngs)
        self.attention = Attention(
            config.width,
            config.heads,
            config.kv_heads,
            bias=False,
            rope_theta=config.rope_theta,
            rngs=rngs,
        )
        self.norm2 = RMSNorm(config.width, eps=config.norm_eps, rngs=rngs)
        self.mlp = SwiGLU(config.width, config.mlp_dim, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "#B #H L L"],
        position: Int[Array, "B L"],
    ) -> Float[Array, "B L D"]:
        x = x + self.attention(self.norm1(x), mask, position=position)
        return x + self.mlp(self.norm2(x))

    def cached(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 L S"],
        position: Int[Array, "B L"],
        k: Float[Array, "B S Hkv Dh"],
        v: Float[Array, "B S Hkv Dh"],
        at: Int[Array, " B"],
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B S Hkv Dh"], Float[Array, "B S Hkv Dh"]]:
        """As `__call__`, over this layer's cache (see `Attention.cached`)."""
        y, k, v = self.attention.cached(self.norm1(x), mask, position, k, v, at)
        x = x + y
        return x + self.mlp(self.norm2(x)), k, v


class Llama(nnx.Module):
    """The decoder. Paths of its parameters, kernels (in, out), layers stacked on axis 0::

        embed/embedding  layers/norm1/scale  layers/attention/{q,k,v,o}/kernel
        layers/norm2/scale  layers/mlp/{gate,up,down}/kernel  norm/scale  lm_head/kernel

    `lm_head` is there only where the embeddings are not tied.
    """

    def __init__(self, config: LlamaConfig, *, remat: bool = False, rngs: nnx.Rngs) -> None:
        self.config = config
        self.remat = remat
        self.embed = Embed(config.vocab_size, config.width, rngs=rngs)
        self.layers = stack(lambda r: LlamaBlock(config, rngs=r), config.layers, rngs)
        self.norm = RMSNorm(config.width, eps=config.norm_eps, rngs=rngs)
        self.lm_head = (
            None
            if config.tie_embeddings
            else Linear(config.width, config.vocab_size, bias=False, rngs=rngs)
        )

    @overload
    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "#B #H L S"],
        position: Int[Array, "B L"],
    ) -> Float[Array, "B L D"]: ...

    @overload
    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "#B #H L S"],
        position: Int[Array, "B L"],
        cache: KVCache,
    ) -> tuple[Float[Array, "B L D"], KVCache]: ...

    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "#B #H L S"],
        position: Int[Array, "B L"],
        cache: KVCache | None = None,
    ) -> Float[Array, "B L D"] | tuple[Float[Array, "B L D"], KVCache]:
        """Hidden states after the final norm.

        Args:
          x: embeddings; their dtype is the compute dtype.
          mask: S is L, or the cache's slots where there is a cache (`rsvlm_jax.nn.cache_mask`).
          position: within each segment, for RoPE.
          cache: written from its `length` on; the new tokens' slots must have been claimed
            (`KVCache.claim`). Given one, the result is `(hidden, cache)`.
        """
        x = constrain(x, "batch", "length", "embed")
        if cache is None:
            x, _ = scan(
                self.layers,
                lambda layer, x: (layer(x, mask, position), None),
                x,
                remat=self.remat,
            )
            return self.norm(x)

        at = cache.length

        def block(layer: LlamaBlock, x: Array, k: Array, v: Array) -> tuple[Array, tuple]:
            x, k, v = layer.cached(x, mask, position, k, v, at)
            return x, (k, v)

        x, (k, v) = scan(self.layers, block, x, cache.k, cache.v)
        return self.norm(x), cache.advance(k, v, by=x.shape[1])

    def logits(self, hidden: Float[Array, "B *rest D"]) -> Float[Array, "B *rest V"]:
        """Scores of the vocabulary, accumulated in float32."""
        if self.lm_head is None:
            scores = self.embed.attend(hidden)
        else:
            scores = jnp.matmul(
                hidden,
                self.lm_head.kernel[...].astype(hidden.dtype),
                preferred_element_type=jnp.float32,
            )
        return constrain(scores, "batch", *(None,) * (scores.ndim - 2), "vocab")

    def empty_cache(self, batch: int, slots: int, dtype: DTypeLike) -> KVCache:
        """A cache of this decoder's shape."""
        c = self.config
        return KVCache.empty(c.layers, batch, slots, c.kv_heads, c.head_width, dtype)
