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

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike

from rsvlm_jax.config import DecoderConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import (
    Attention,
    Embed,
    KVCache,
    Linear,
    Mask,
    Readable,
    Slots,
    Turns,
    key_mask,
    scan,
    unstack,
    window_mask,
)
from rsvlm_jax.nn.slots import AllSlots, by_layer, in_a_stack


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
        mask: Mask | Bool[Array, "#B #H L L"],
        turns: Turns | None,
    ) -> Float[Array, "B L D"]:
        x = x + self.attention(self.norm1(x), mask, turns=turns)
        return constrain(x + self.mlp(self.norm2(x)), "batch", "length", "embed")

    def cached(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 L S"],
        turns: Turns | None,
        slots: Slots,
        at: Int[Array, ""],
        layer: Int[Array, ""] | int | None = None,
        prefix: Readable | None = None,
    ) -> tuple[Float[Array, "B L D"], Slots]:
        """As `__call__`, over slots of keys and values (see `Attention.cached`)."""
        y, slots = self.attention.cached(
            self.norm1(x), mask, slots, at, layer=layer, prefix=prefix, turns=turns
        )
        x = x + y
        return x + self.mlp(self.norm2(x)), slots


def through_layers(
    layers: nnx.Module,
    x: Float[Array, "B L D"],
    mask: Mask | Bool[Array, "#B #H L S"],
    position: Int[Array, "B L"],
    cache: KVCache | None,
    *,
    turns: Turns | None = None,
    window: int | None = None,
    remat: Remat = "none",
) -> tuple[Float[Array, "B L D"], KVCache | None]:
    """Stacked or unrolled blocks one after the other, and the cache with the new tokens in it.

    A stack of slots is carried through the scan and written in place: a step reads the weights and
    the slots once and writes one slot a layer.

    Args:
      mask: S is L; with a cache a table of its slots.
      window: keys a token reads at most, by position; None: all that the mask allows.
    """
    x = constrain(x, "batch", "length", "embed")
    if cache is None:
        if isinstance(mask, Mask):
            mask = mask.within(window)
        elif window is not None:
            mask = mask & window_mask(position, position, window)
        x, _ = scan(layers, lambda layer, x: (layer(x, mask, turns), None), x, remat=remat)
        return x, None

    assert not isinstance(mask, Mask), "slots are read by a table"
    cache = cache.place(position)
    if window is not None:
        mask = mask & window_mask(position, cache.position, window)
    x, slots = _through_slots(layers, x, mask, position, cache, turns, window)
    return x, cache.advance(slots, by=x.shape[1])


def _through_slots(
    layers: nnx.Module,
    x: Array,
    mask: Array,
    position: Array,
    cache: KVCache,
    turns: Turns | None,
    window: int | None,
) -> tuple[Array, AllSlots]:
    """The last layer's output, and the slots of all with the new tokens in them."""
    at, shared = cache.used, cache.shared
    if shared is not None:
        reach = key_mask(shared.valid)
        if window is not None:
            reach = reach & window_mask(position, shared.position, window)

    def before(slots: Slots | None) -> Readable | None:
        return None if slots is None else Readable(slots, reach, common=True)

    if isinstance(layers, nnx.List):
        common = (None,) * len(layers) if shared is None else by_layer(shared.slots)
        written = []
        for layer, own, prefix in zip(layers, by_layer(cache.slots), common, strict=True):
            x, slots = layer.cached(x, mask, turns, own, at, prefix=before(prefix))
            written.append(slots)
        return x, tuple(written)

    def block(layer: DecoderBlock, carry: tuple, index: Array, prefix: Slots | None) -> tuple:
        x, slots = carry
        return layer.cached(x, mask, turns, slots, at, index, before(prefix)), None

    stack = in_a_stack(cache.slots, x.shape[0])
    common = None if shared is None else in_a_stack(shared.slots, 1)
    index = jnp.arange(stack.k.shape[0], dtype=jnp.int32)
    carry, _ = scan(layers, block, (x, stack), index, common)
    return carry


def tied_scores(embed: Embed, hidden: Float[Array, "B *rest D"]) -> Float[Array, "B *rest V"]:
    """Scores of the vocabulary by the embedding table, accumulated in float32."""
    return _placed(embed.attend(hidden))


def head_scores(head: Linear, hidden: Float[Array, "B *rest D"]) -> Float[Array, "B *rest V"]:
    """Scores of the vocabulary by a head of its own, accumulated in float32."""
    return _placed(head.scores(hidden))


def _placed(scores: Float[Array, "B *rest V"]) -> Float[Array, "B *rest V"]:
    rest = ("length",) if scores.ndim == 3 else (None,) * (scores.ndim - 2)
    return constrain(scores, "batch", *rest, "vocab")


def empty_cache(config: DecoderConfig, batch: int, slots: int, dtype: DTypeLike) -> KVCache:
    """A cache of a decoder's shape."""
    c = config
    return KVCache.empty(c.layers, batch, slots, c.kv_heads, c.head_width, dtype)


def unstacked(decoder: Decoder) -> Decoder:
    """The same decoder to decode with: on one CPU device its layers one by one, else unchanged.

    XLA copies a layer out of its stack before each product on a CPU, which is twice the traffic of
    a decode step; GPUs and TPUs read it where it lies. The layers are views of the same memory
    (`rsvlm_jax.nn.unstack`). The price is a program that is as long as the model is deep. Quantised
    layers stay a stack: of unrolled ones XLA makes the floats before the loop, all of them.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nnx.Module) or isinstance(layers, nnx.List):
        return decoder
    for leaf in jax.tree.leaves(nnx.state(layers)):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return decoder
        if isinstance(leaf, Tracer):
            return decoder
        devices = leaf.devices() if isinstance(leaf, Array) else {jax.devices()[0]}  # else NumPy's
        if len(devices) > 1 or {d.platform for d in devices} != {"cpu"}:
            return decoder
    other: Any = nnx.merge(*nnx.split(decoder))
    other.layers = unstack(layers)
    return other
