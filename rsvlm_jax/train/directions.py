"""Gradient to direction, by `OptimizerConfig.kind`; the length of the step is set elsewhere.

    adamw      m / sqrt(v)                                    2 floats a parameter
    sgd        the gradient                                   none
    adafactor  m of (g / sqrt(row x column)), clipped         1/2 float, and rows and columns
    muon       m without its singular values, for matrices    1 float; adamw's 2 for all else

Directions have a size of about one an entry (but sgd's), so one learning rate serves all kinds.
The layers of a stack are arrays of their own to every kind: a kernel [layers, in, out] has rows,
columns and singular values layer by layer, and so has a stack of ConvNeXt's or of LoRA's factors.

Eight-bit Adam is not here: optax has none, and no maintained JAX library does.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from rsvlm_jax.config import OptimizerConfig
from rsvlm_jax.core import base_path, map_with_path
from rsvlm_jax.core.shapes import Array

RMS = 0.2
"""Root mean square of Muon's direction: that which AdamW's has in practice (arXiv 2502.16982)."""

_STACKED = re.compile(r"(^|/)(layers|cross|blocks)/")
_NO_MATRIX = re.compile(r"(^decoder/lm_head|^head/out|/(patch|project|date|depthwise))/kernel$")
"""Kernels whose inputs or outputs are no hidden width: Muon is not for them."""


def direction(config: OptimizerConfig) -> optax.GradientTransformation:
    """The part of the optimiser between clipping and weight decay."""
    if config.kind == "adamw":
        return optax.scale_by_adam(config.b1, config.b2, config.eps)
    if config.kind == "adafactor":
        return _adafactor(config)
    if config.kind == "muon":
        return _muon(config)
    return optax.identity()


def _adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    """As for large vision transformers (Zhai et al. 2021, section 3.4): the decay of the second
    moment rises to b2 and no further, and the first moment is kept in bfloat16."""

    def decay(step: Any, exponent: Any) -> Array:
        t = jnp.asarray(step + 1, jnp.float32)
        return jnp.minimum(jnp.float32(config.b2), 1.0 - t**-exponent)

    rms = optax.scale_by_factored_rms(epsilon=config.eps**2, decay_rate_fn=decay)
    steps = [rms, optax.stateless(_clip_by_layer)]
    if config.b1:
        steps.append(optax.ema(config.b1, debias=False, accumulator_dtype=jnp.bfloat16))
    return optax.chain(*steps)


def _clip_by_layer(updates: Any, params: Any = None) -> Any:
    """Root mean square at most one, of every array and every layer of a stack."""
    del params

    def clip(path: str, u: Array) -> Array:
        axes = tuple(range(_stacked_axes(path), u.ndim))
        rms = jnp.sqrt(jnp.mean(jnp.square(u), axis=axes, keepdims=True))
        return u / jnp.maximum(1.0, rms)

    return map_with_path(clip, updates)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Jordan et al. 2024, with AdamW for what is no matrix."""

    def label(params: Any) -> Any:
        return map_with_path(lambda path, x: "matrix" if is_matrix(path, x) else "rest", params)

    def axes(updates: Any) -> Any:
        last = optax.contrib.MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,))
        return jax.tree.map(lambda _: last, updates)

    def even(updates: Any, params: Any = None) -> Any:
        """Every entry's root mean square is `RMS`, whatever the shape."""
        del params
        return jax.tree.map(lambda u: u * (RMS * max(u.shape[-2:]) ** 0.5), updates)

    matrix = optax.chain(
        optax.contrib.scale_by_muon(beta=config.b1, weight_dimension_numbers=axes),
        optax.stateless(even),
    )
    rest = optax.scale_by_adam(config.b1, config.b2, config.eps)
    return optax.multi_transform({"matrix": matrix, "rest": rest}, label)


def is_matrix(path: str, x: Any) -> bool:
    """Whether Muon takes a parameter: kernels between hidden widths, and their LoRA factors."""
    kernel = base_path(path)
    if not kernel.endswith("/kernel") or _NO_MATRIX.search(kernel):
        return False
    return len(x.shape) == _stacked_axes(path) + 2


def _stacked_axes(path: str) -> int:
    return 1 if _STACKED.search(path) else 0
