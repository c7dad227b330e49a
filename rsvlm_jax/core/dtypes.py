"""The dtype policy: master weights and reductions in float32, compute in the configured type."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def compute_dtype(name: str) -> jnp.dtype:
    """`VLMConfig.dtype` as a JAX dtype."""
    return jnp.dtype({"float32": jnp.float32, "bfloat16": jnp.bfloat16}[name])


def cast_floats(tree: Any, dtype: Any) -> Any:
    """Floating leaves to `dtype`; integers and booleans stay."""

    def cast(x: Any) -> Any:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
