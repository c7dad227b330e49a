"""Llama and its kin: RMSNorm, RoPE, grouped-query attention, SwiGLU.

One module for Llama, Vicuna, Mistral (sliding window), Qwen2 and Qwen2.5 (biases of q, k and v)
and Qwen3 (norms of q and k): the config says what is there. Numbers as in `transformers`' classes
of these names; what a decoder is and where its forward pass ends, see `rsvlm_jax.models.decoder`.
"""

from __future__ import annotations

from typing import overload

from flax import nnx
from jax.typing import DTypeLike

from rsvlm_jax.config import LlamaConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.nn import Attention, Embed, KVCache, Linear, Mask, RMSNorm, SwiGLU, stack, turns

from .decoder import DecoderBlock, empty_cache, head_scores, through_layers, tied_scores


def _block(c: LlamaConfig, rngs: nnx.Rngs) -> DecoderBlock:
    return DecoderBlock(
        RMSNorm(c.width, eps=c.norm_eps, rngs=rngs),
        Attention(
            c.width,
            c.heads,
            c.kv_heads,
            head_dim=c.head_width,
            bias=c.qkv_bias,
            o_bias=c.o_bias,
            qk_norm=c.norm_eps if c.qk_norm else None,
            rngs=rngs,
        ),
        RMSNorm(c.width, eps=c.norm_eps, rngs=rngs),
        SwiGLU(c.width, c.mlp_dim, bias=c.mlp_bias, rngs=rngs),
    )


class Llama(nnx.Module):
    """The decoder. Paths of its parameters, kernels (in, out), layers stacked on axis 0::

        embed/embedding  layers/norm1/scale  layers/attention/{q,k,v,o}/kernel
        layers/norm2/scale  layers/mlp/{gate,up,down}/kernel  norm/scale  lm_head/kernel

    `lm_head` is there only where the embeddings are not tied; beside the kernels stands a `bias`,
    and `layers/attention/{q,k}_norm/scale`, where the config asks for it.
    """

    def __init__(self, config: LlamaConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        self.config = config
        self.remat: Remat = remat
        vocabulary = config.vocab_size
        self.embed = Embed(vocabulary, config.width, axes=("vocab", "embed"), rngs=rngs)
        self.layers = stack(lambda r: _block(config, r), config.layers, rngs)
        self.norm = RMSNorm(config.width, eps=config.norm_eps, rngs=rngs)
        self.lm_head = (
            None
            if config.tie_embeddings
            else Linear(config.width, vocabulary, bias=False, axes=("embed", "vocab"), rngs=rngs)
        )

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
          x: embeddings; their dtype is the compute dtype.
          mask: S is L; with a cache a table of its slots (`rsvlm_jax.nn.cache_mask`).
          position: within each segment, for RoPE and the sliding window.
          cache: written from its `length` on; the new tokens' slots must have been claimed
            (`KVCache.claim`). Given one, the result is `(hidden, cache)`.
        """
        c = self.config
        x, cache = through_layers(
            self.layers,
            x,
            mask,
            position,
            cache,
            turns=turns(position, c.head_width, c.rope_theta, c.rope_scaling, c.max_length),
            window=c.sliding_window,
            remat=self.remat,
        )
        hidden = self.norm(x)
        return hidden if cache is None else (hidden, cache)

    def logits(self, hidden: Float[Array, "B *rest D"]) -> Float[Array, "B *rest V"]:
        """Scores of the vocabulary, accumulated in float32."""
        if self.lm_head is None:
            return tied_scores(self.embed, hidden)
        return head_scores(self.lm_head, hidden)

    def empty_cache(self, batch: int, slots: int, dtype: DTypeLike) -> KVCache:
        """A cache of this decoder's shape."""
        return empty_cache(self.config, batch, slots, dtype)
