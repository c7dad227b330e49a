"""What the language models share: the interface, the pre-norm block, the pass through the layers.

    tokens [B,L] -> embed -> [B,L,D] (the caller puts visual tokens in) -> layers -> norm -> hidden
    hidden [B,L,D] -> logits [B,L,V]

The forward pass ends at the hidden states: losses apply the language head in chunks, heads read
the states themselves. Which tokens see which is the caller's mask (`rsvlm_jax.nn.masks`); only a
sliding window, which belongs to the model, is laid over it here. Which decoder a config makes says
`rsvlm_jax.models.language`.
"""

from __future__ import annotations

from typing import Any, Protocol, overload, runtime_checkable

from flax import nnx
from jax.typing import DTypeLike

from rsvlm_jax.config import DecoderConfig
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Attention, Embed, KVCache, Linear, Turns, scan, window_mask


@runtime_checkable
class Decoder(Protocol):
    """A language model as generation, losses and the vision-language model use it."""

    @property
    def config(self) -> DecoderConfig: ...

    @property
    def embed(self) -> Embed: ...

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

    def logits(self, hidden: Float[Array, "B *rest D"]) -> Float[Array, "B *rest V"]: ...

    def empty_cache(self, batch: int, slots: int, dtype: DTypeLike) -> KVCache: ...


class DecoderBlock(nnx.Module):
    """Pre-norm self-attention and feed-forward, each added to what came in."""

    def __init__(
        self, norm1: nnx.Module, attention: Attention, norm2: nnx.Module, mlp: nnx.Module
    ) -> None:
        self.norm1: Any = norm1
        self.attention = attention
        self.norm2: Any = norm2
        self.mlp: Any = mlp

    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "#B #H L L"],
        turns: Turns | None,
    ) -> Float[Array, "B L D"]:
        x = x + self.attention(self.norm1(x), mask, turns=turns)
        return x + self.mlp(self.norm2(x))

    def cached(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 L S"],
        turns: Turns | None,
        k: Float[Array, "B S Hkv Dh"],
        v: Float[Array, "B S Hkv Dh"],
        at: Int[Array, " B"],
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B S Hkv Dh"], Float[Array, "B S Hkv Dh"]]:
        """As `__call__`, over this layer's cache (see `Attention.cached`)."""
        y, k, v = self.attention.cached(self.norm1(x), mask, k, v, at, turns=turns)
        x = x + y
        return x + self.mlp(self.norm2(x)), k, v


def through_layers(
    layers: DecoderBlock,
    x: Float[Array, "B L D"],
    mask: Bool[Array, "#B #H L S"],
    position: Int[Array, "B L"],
    cache: KVCache | None,
    *,
    turns: Turns | None = None,
    window: int | None = None,
    remat: bool = False,
) -> tuple[Float[Array, "B L D"], KVCache | None]:
    """Stacked blocks one after the other, and the cache with the new tokens in it.

    Args:
      mask: S is L, or the cache's slots.
      window: keys a token reads at most, by position; None: all that the mask allows.
    """
    x = constrain(x, "batch", "length", "embed")
    if cache is None:
        if window is not None:
            mask = mask & window_mask(position, position, window)
        x, _ = scan(layers, lambda layer, x: (layer(x, mask, turns), None), x, remat=remat)
        return x, None

    cache = cache.place(position)
    if window is not None:
        mask = mask & window_mask(position, cache.position, window)
    at = cache.length

    def block(layer: DecoderBlock, x: Array, k: Array, v: Array) -> tuple[Array, tuple]:
        x, k, v = layer.cached(x, mask, turns, k, v, at)
        return x, (k, v)

    x, (k, v) = scan(layers, block, x, cache.k, cache.v)
    return x, cache.advance(k, v, by=x.shape[1])


def tied_scores(embed: Embed, hidden: Float[Array, "B *rest D"]) -> Float[Array, "B *rest V"]:
    """Scores of the vocabulary by the embedding table, accumulated in float32."""
    return _placed(embed.attend(hidden))


def head_scores(head: Linear, hidden: Float[Array, "B *rest D"]) -> Float[Array, "B *rest V"]:
    """Scores of the vocabulary by a head of its own, accumulated in float32."""
    return _placed(head.scores(hidden))


def _placed(scores: Float[Array, "B *rest V"]) -> Float[Array, "B *rest V"]:
    return constrain(scores, "batch", *(None,) * (scores.ndim - 2), "vocab")


def empty_cache(config: DecoderConfig, batch: int, slots: int, dtype: DTypeLike) -> KVCache:
    """A cache of a decoder's shape."""
    c = config
    return KVCache.empty(c.layers, batch, slots, c.kv_heads, c.head_width, dtype)
