"""Modules with random variables everywhere, made without compiling an initialiser.

Initial values hide mistakes (fusion blocks start as the identity, biases at 0), and making them
costs more than the test that uses them.
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
