"""Modules for tests: with random variables everywhere, or as they are initialised.

Initial values hide mistakes (fusion blocks start as the identity, biases at 0), and compiling
an initialiser costs more than most tests that use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.core import map_with_path

M = TypeVar("M", bound=nnx.Module)

FAST = {"xla_backend_optimization_level": 0}
"""Compiler options of what runs once or twice: compiles in a third of the time."""

CONSTANT = {
    "mean": 0.0,
    "std": 1.0,
    "low": 0.0,
    "high": 1.0,
    "target_mean": 0.0,
    "target_std": 1.0,
    "target_low": -np.inf,
    "target_high": np.inf,
}
"""Statistics, by the last word of their path."""


def filled(make: Callable[[], M], seed: int = 0) -> M:
    """What `make` returns, kernels of variance 1 / inputs, all else of a tenth around its usual."""
    rng = np.random.default_rng(seed)

    def fill(path: str, leaf: Any) -> jax.Array:
        word = path.split("/")[-1]
        if word in CONSTANT:
            return jnp.full(leaf.shape, CONSTANT[word], leaf.dtype)
        x = rng.normal(size=leaf.shape)
        if word == "kernel":
            x = x / np.sqrt(leaf.shape[-2])
        else:
            x = 0.1 * x + (1.0 if word == "scale" else 0.0)
        return jnp.asarray(x, leaf.dtype)

    graphdef, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graphdef, map_with_path(fill, state))


def initialised(make: Callable[[], M]) -> M:
    """What `make` returns, its initialisers compiled as one program, without optimisation."""
    graphdef, _ = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graphdef, jax.jit(lambda: nnx.state(make()), compiler_options=FAST)())


def shapes(model: nnx.Module, fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(model, *args)` in shapes and dtypes only; the model may be abstract."""
    graphdef, state = nnx.split(model)
    return jax.eval_shape(lambda s, *a: fn(nnx.merge(graphdef, s), *a), state, *args)
