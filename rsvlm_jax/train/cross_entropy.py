"""Next-token cross-entropy whose logits never exist for all positions at once.

Most positions of a conversation (images, questions, padding) are not supervised. Each device sorts
its own positions, the supervised ones first, and applies the language head to chunks until none is
left; the other chunks are neither multiplied nor differentiated. Two devices, chunks of three::

    device 0   . . a b . . c . . d .     a b c | d . . | . . . | . .
    device 1   . e . . . . . . . . .     e . . | . . . | . . . | . .      two chunks are computed

Nothing moves between devices but the language head, as in any layer, and the number of chunks,
which is that of the device with most supervised positions. Loss and gradient of a chunk are
computed together, so the head is multiplied once forward and twice backward, and no logits stay.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.mesh.constraints import ACTIVATIONS, constrain

CHUNK = 2**26
"""Logits that exist at once on a device (256 MiB of float32), or on all that share its rows."""


def text_loss(
    decoder: Any,
    hidden: Float[Array, "B L D"],
    tokens: Int[Array, "B L"],
    weight: Float[Array, "B L"],
    *,
    chunk: int = CHUNK,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of `tokens[:, l]` given `hidden[:, l - 1]`, weighted by `weight[:, l]`.

    Where all logits fit into one chunk, all positions are computed at once.

    Args:
      decoder: has `.logits(hidden) -> [B, l, V]` and `config.vocab_size`.
      chunk: logits that may exist at once.
    """
    b, length, _ = hidden.shape
    vocabulary = decoder.config.vocab_size
    # Before the loss: a label that is never used must not make it NaN.
    labels = jnp.where(weight > 0, tokens, 0)

    def next_one(x: Array) -> Array:
        # Labels move, not states: each state is scored where it was computed.
        return jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)

    if max(1, chunk // (b * vocabulary)) >= length:
        sums = _errors(decoder.logits(hidden), next_one(labels), next_one(weight))
        return sums, weight[:, 1:].sum()

    rows = by_device(hidden)
    labels, weights = by_device(next_one(labels)), by_device(next_one(weight))
    positions = min(max(1, chunk // vocabulary), rows.shape[2])
    sums = _supervised(decoder.logits, rows, labels, weights, positions)
    return sums, weight[:, 1:].sum()


def _errors(logits: Array, labels: Array, weight: Array) -> Float[Array, ""]:
    logits = logits.astype(jnp.float32)
    right = jnp.take_along_axis(logits, labels[:, :, None], axis=-1)[:, :, 0]
    error = jax.nn.logsumexp(logits, axis=-1) - right
    return jnp.sum(jnp.where(weight > 0, error * weight, 0.0))


def by_device(x: Array) -> Array:
    """[B, L, ...] as [devices of the batch, devices of the length, positions of each, ...]."""
    across, along = _parts("batch", x.shape[0]), _parts("length", x.shape[1])
    b, length, *rest = x.shape
    x = x.reshape(across, b // across, along, length // along, *rest)
    x = jnp.swapaxes(x, 1, 2).reshape(across, along, -1, *rest)
    return constrain(x, "batch", "length", *(None,) * (x.ndim - 2))


def _parts(axis: str, size: int) -> int:
    """Into how many parts the mesh in force splits an axis of activations."""
    shape = jax.sharding.get_abstract_mesh().shape
    parts = math.prod(shape.get(name.removesuffix("?"), 1) for name in ACTIVATIONS[axis])
    return 1 if size % parts else parts


class _Chunks(NamedTuple):
    """Positions of every device, supervised ones first, in whole chunks.

    Attributes:
      order: the position that stands at a place.
      place: the place of a position.
      used: chunks with a supervised position on some device.
    """

    order: Int[Array, "across along padded"]
    place: Int[Array, "across along n"]
    labels: Int[Array, "across along padded"]
    weight: Float[Array, "across along padded"]
    used: Int[Array, ""]


def _sorted(labels: Array, weight: Array, positions: int) -> _Chunks:
    supervised: Bool[Array, "across along n"] = weight > 0
    order = jnp.argsort(~supervised, axis=2, stable=True).astype(jnp.int32)
    count = supervised.sum(axis=2, keepdims=True, dtype=jnp.int32)
    ahead = jnp.cumsum(supervised, axis=2, dtype=jnp.int32)
    index = jnp.arange(weight.shape[2], dtype=jnp.int32)[None, None, :]
    place = jnp.where(supervised, ahead - 1, count + index - ahead)
    room = ((0, 0), (0, 0), (0, -weight.shape[2] % positions))
    order, labels, weight = (
        jnp.pad(x, room)
        for x in (order, *(jnp.take_along_axis(x, order, axis=2) for x in (labels, weight)))
    )
    return _Chunks(order, place, labels, weight, -(-count.max() // positions))


def _supervised(
    logits: Callable[[Array], Array],
    hidden: Float[Array, "across along n D"],
    labels: Int[Array, "across along n"],
    weight: Float[Array, "across along n"],
    positions: int,
) -> Float[Array, ""]:
    """The sum of errors, by chunks of `positions` on every device."""
    across, along, _, width = hidden.shape
    of_chunk = jax.ShapeDtypeStruct((across, along * positions, width), hidden.dtype)
    # The head's arrays become arguments, so that they can have gradients of their own.
    head, arrays = jax.closure_convert(logits, of_chunk)
    error = functools.partial(_error_of_chunk, head, positions)

    @jax.custom_vjp
    def run(arrays: Any, hidden: Array, chunks: _Chunks) -> Array:
        def body(i: Array, sums: Array) -> Array:
            return sums + error(arrays, _states(hidden, chunks, i, positions), chunks, i)

        return jax.lax.fori_loop(0, chunks.used, body, jnp.float32(0))

    def forward(arrays: Any, hidden: Any, chunks: Any) -> tuple[Array, Any]:
        moved = [x.perturbed for x in arrays]
        args = arrays, hidden, chunks
        args = jax.tree.map(lambda x: x.value, args, is_leaf=lambda x: hasattr(x, "perturbed"))
        sums, *slopes = _with_slopes(error, positions, moved, *args)
        return sums, slopes

    def backward(slopes: Any, g: Array) -> tuple[Any, Array, None]:
        scaled = jax.tree.map(lambda x: (x.astype(jnp.float32) * g).astype(x.dtype), slopes)
        return *scaled, None

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run(arrays, hidden, _sorted(labels, weight, positions))


def _with_slopes(
    error: Callable[..., Array],
    positions: int,
    moved: list[bool],
    arrays: list[Array],
    hidden: Array,
    chunks: _Chunks,
) -> tuple[Array, list[Array | None], Array]:
    """The sum of errors, and its slopes for the arrays of the head that are `moved` (None for
    others) and for the hidden states."""
    moving = [x for x, m in zip(arrays, moved, strict=True) if m]

    def in_place(some: list[Any], others: list[Any]) -> list[Any]:
        rest = iter(some)
        return [next(rest) if m else x for x, m in zip(others, moved, strict=True)]

    def body(i: Array, carry: tuple) -> tuple:
        sums, of_head, of_states = carry

        def objective(moving: list[Array], states: Array) -> Array:
            return error(in_place(moving, arrays), states, chunks, i)

        slope = jax.value_and_grad(objective, (0, 1))
        found, (more, of_chunk) = slope(moving, _states(hidden, chunks, i, positions))
        of_head = jax.tree.map(jnp.add, of_head, more)
        at = i * positions
        return (
            sums + found,
            of_head,
            jax.lax.dynamic_update_slice_in_dim(of_states, of_chunk, at, axis=2),
        )

    padded = jnp.zeros((*chunks.order.shape, hidden.shape[-1]), hidden.dtype)
    padded = constrain(padded, "batch", "length", None, None)
    start = jnp.float32(0), jax.tree.map(jnp.zeros_like, moving), padded
    sums, of_head, of_states = jax.lax.fori_loop(0, chunks.used, body, start)
    of_hidden = jnp.take_along_axis(of_states, chunks.place[..., None], axis=2)
    return sums, in_place(of_head, [None] * len(arrays)), of_hidden


def _error_of_chunk(
    head: Callable[..., Array],
    positions: int,
    arrays: list[Array],
    states: Float[Array, "across along positions D"],
    chunks: _Chunks,
    i: Array,
) -> Float[Array, ""]:
    def flat(x: Array) -> Array:
        x = x.reshape(x.shape[0], x.shape[1] * positions, *x.shape[3:])
        return constrain(x, "batch", "length", *(None,) * (x.ndim - 2))

    labels, weight = (flat(_cut(x, i, positions)) for x in (chunks.labels, chunks.weight))
    return _errors(head(flat(states), *arrays), labels, weight)


def _states(hidden: Array, chunks: _Chunks, i: Array, positions: int) -> Array:
    index = _cut(chunks.order, i, positions)
    return jnp.take_along_axis(hidden, index[..., None], axis=2)


def _cut(x: Array, i: Array, positions: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, i * positions, positions, axis=2)
