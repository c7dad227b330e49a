"""Numbers out of a decoder that writes them: n texts a row, all of them well-formed.

    model, batch with <reg>*W -> prompt before the block, read once -> keys and values, n times
        u = (1/2 .. n - 1/2) / n  -> W characters each -> values [B, n], ascending

A draw inverts the cumulative distribution of the allowed characters, one after the other, and goes
on with what is left of u, as arithmetic decoding does. So n evenly spaced u are a systematic sample
of the texts' distribution: nothing is random, no row depends on its neighbours, and of unsigned
"digits", whose texts sort as their values, the draws are its very quantiles.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.numbers import CHARACTERS, NumberFormat
from rsvlm_jax.mesh.rules import RULES, batch_sharding, replicated, resolve
from rsvlm_jax.metrics import crps_chain
from rsvlm_jax.models.vlm import readable

from .engine import read_prompt, read_token
from .machine import TokenMachine

DRAWS = 32
"""n: 5 and 95 % lie between the second and the third of them from either end."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
    """An empirical distribution of one target.

    Attributes:
      values: in target units, ascending; NaN where a prompt has no place for a number.
    """

    values: Float[Array, "B n"]

    @property
    def mean(self) -> Float[Array, "B 1"]:
        return self.values.mean(axis=1, keepdims=True)

    @property
    def median(self) -> Float[Array, "B 1"]:
        return self.quantile(0.5)

    @property
    def spread(self) -> Float[Array, "B 1"]:
        """Half the width of the central 68 %, at least a thousandth of the value's size: a text
        that is sure of all its digits still has a scale that errors can be measured by."""
        half = (self.quantile(0.84) - self.quantile(0.16)) / 2
        return jnp.maximum(half, 1e-3 * jnp.maximum(jnp.abs(self.median), 1e-3))

    def crps(self, y: Float[Array, "B 1"]) -> Float[Array, "B 1"]:
        """With 1 / n of the probability at each draw."""
        n = self.values.shape[1]
        step = jnp.broadcast_to(jnp.arange(n + 1, dtype=jnp.float32) / n, (len(y), n + 1))
        # Every draw is two knots, where the distribution function rises.
        knots, below = jnp.repeat(self.values, 2, axis=1), jnp.repeat(step, 2, axis=1)[:, 1:-1]
        return crps_chain(y[:, 0], knots, below)[:, None]

    def quantile(self, q: float) -> Float[Array, "B 1"]:
        """Linear between the draws, which stand at (i - 1/2) / n; `q` in (0, 1)."""
        n = self.values.shape[1]
        at = jnp.clip(jnp.float32(q * n - 0.5), 0.0, n - 1.0)
        low = jnp.floor(at).astype(jnp.int32)
        high = jnp.minimum(low + 1, n - 1)
        share = at - low.astype(jnp.float32)
        a, b = (jax.lax.dynamic_slice_in_dim(self.values, i, 1, axis=1) for i in (low, high))
        return a + share * (b - a)


def number_machine(form: NumberFormat, ids: tuple[int, ...], rows: int) -> TokenMachine:
    """The automaton of a format, for `generate(..., machine=...)`.

    Args:
      ids: of `CHARACTERS`.
      rows: of the decoder's table.
    """
    token_class = np.zeros(rows, np.int64)
    token_class[list(ids)] = np.arange(1, len(ids) + 1)
    rules = form.rules
    table = np.concatenate([np.full((len(rules), 1), -1), rules], axis=1)
    need = np.zeros(len(rules), np.int64)
    for state in range(len(rules) - 2, -1, -1):  # a state leads to later ones only
        need[state] = 1 + need[rules[state][rules[state] >= 0]].min()
    return TokenMachine.of(token_class, table, need)


def make_number_step(
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    params: Any,
    form: NumberFormat,
    ids: tuple[int, ...],
    bounds: tuple[float, float] | None,
    *,
    plan: str = "fsdp_tensor",
    draws: int = DRAWS,
) -> Any:
    """`step(params, stats, batch) -> Drawn`, replicated.

    Args:
      params: only their structure and shapes are read.
      ids: of `CHARACTERS`.
      bounds: values are clipped to them.

    The batch holds W `<reg>` where the number is to stand (`Processor.regress_prompt`); what stands
    from there on is not read.
    """
    low, high = bounds or (-np.inf, np.inf)

    def step(params: Any, stats: Any, batch: Batch) -> Drawn:
        model = nnx.merge(graphdef, params, stats)
        is_number = jnp.asarray(batch.tokens) == model.reg_token
        before = jnp.cumsum(is_number, axis=1, dtype=jnp.int32) == 0
        visual, visual_valid = model.encode_visual(batch)
        slot = jnp.asarray(batch.image_slot)
        prefix = model.embed(batch.tokens, slot, visual)
        valid = (jnp.asarray(batch.segment) > 0) & readable(slot, visual_valid)
        machine = number_machine(form, ids, model.decoder.config.vocab_size)
        texts = draw_texts(model.decoder, prefix, valid & before, machine, ids, form.width, draws)
        values = jnp.sort(jnp.clip(values_of(form, texts), low, high), axis=1)
        return Drawn(jnp.where(is_number.any(axis=1)[:, None], values, jnp.nan))

    place = resolve(params, RULES[plan], mesh)
    jitted = jax.jit(
        step,
        in_shardings=(place, replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )

    def call(params: Any, stats: Any, batch: Batch) -> Drawn:
        with jax.set_mesh(mesh):
            return jitted(params, stats, batch)

    return call


def draw_texts(
    decoder: Any,
    prefix: Float[Array, "B L D"],
    valid: Any,
    machine: TokenMachine,
    ids: tuple[int, ...],
    width: int,
    draws: int,
) -> Any:
    """Texts as indices into `CHARACTERS`, i32 [B, n, W]; see the module."""
    b, length = prefix.shape[:2]
    hidden, position, cache = read_prompt(decoder, length + width, prefix, valid, None)
    rows = jnp.repeat(jnp.arange(b, dtype=jnp.int32), draws)
    hidden, position, cache = hidden[rows], position[rows], cache.rows(rows)
    u = (jnp.arange(draws, dtype=jnp.float32) + 0.5) / draws
    u = jnp.tile(u, b)
    columns, alive = jnp.asarray(ids, jnp.int32), jnp.ones(len(rows), bool)

    def write(carry: Any, at: Any) -> tuple[Any, Any]:
        hidden, cache, state, u = carry
        fits = jnp.take(machine.allowed(state, width - at), columns, axis=1)
        scores = jnp.take(decoder.logits(hidden)[:, 0].astype(jnp.float32), columns, axis=1)
        share = jax.nn.softmax(jnp.where(fits, scores, -jnp.inf), axis=1)
        chosen, u = _invert(share, fits, u)
        token = jnp.take(columns, chosen)
        hidden, cache = read_token(decoder, token, alive, position + at, cache, prefix.dtype)
        return (hidden, cache, machine.step(state, token), u), chosen

    begin = hidden, cache, machine.begin(len(rows)), u
    _, texts = jax.lax.scan(write, begin, jnp.arange(width, dtype=jnp.int32))
    return texts.T.reshape(b, draws, width)


def _invert(share: Any, fits: Any, u: Any) -> tuple[Any, Any]:
    """The character in whose share u lies, and where in that share it lies."""
    upper = jnp.cumsum(share, axis=1)
    upper = upper / upper[:, -1:]  # rounding apart it ends at 1
    inside = fits & (u[:, None] < upper)
    last = share.shape[1] - 1 - jnp.argmax(fits[:, ::-1], axis=1)
    chosen = jnp.where(inside.any(axis=1), jnp.argmax(inside, axis=1), last).astype(jnp.int32)
    width = jnp.take_along_axis(share, chosen[:, None], axis=1)[:, 0]
    start = jnp.take_along_axis(upper, chosen[:, None], axis=1)[:, 0] - width
    # A share of 0 was not chosen but by rounding; the largest float below 1 stays inside.
    rest = (u - start) / jnp.maximum(width, 1e-30)
    return chosen, jnp.clip(rest, 0.0, 1.0 - 2.0**-24)


def values_of(form: NumberFormat, texts: Any) -> Any:
    """Values of texts: indices [..., W] into `CHARACTERS` -> f32 [...]."""
    digit = (texts - CHARACTERS.index("0")).astype(jnp.float32)
    minus = texts == CHARACTERS.index("-")
    n = form.digits
    if form.kind == "p10":
        mantissa = digit[..., 1 : n + 1] @ jnp.asarray(
            10.0 ** np.arange(n - 1, -1, -1), jnp.float32
        )
        exponent = jnp.where(minus[..., n + 2], -digit[..., n + 3], digit[..., n + 3])
        value = mantissa * jnp.power(jnp.float32(10), exponent)
        return jnp.where(minus[..., 0], -value, value)
    at = [i for i in range(form.signed, form.width) if i != form.signed + n - form.decimals]
    at = at if form.decimals else list(range(form.signed, form.width))
    value = digit[..., np.array(at)] @ jnp.asarray(10.0 ** np.arange(n - 1, -1, -1), jnp.float32)
    value = value / jnp.float32(10**form.decimals)
    return jnp.where(minus[..., 0], -value, value) if form.signed else value
