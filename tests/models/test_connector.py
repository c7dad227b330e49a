"""Connectors and the number of visual tokens."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled
from flax import nnx

from rsvlm_jax.config import (
    ConfigError,
    ConnectorConfig,
    InputConfig,
    TemporalConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat
from rsvlm_jax.models.connector import Connector, token_count
from rsvlm_jax.nn.mlp import ACTIVATIONS

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "layers", "activation"),
    [
        ("linear", 1, "gelu"),
        ("mlp1x_gelu", 1, "gelu"),
        ("mlp2x_gelu", 2, "gelu"),
        ("mlp2x_gelu", 2, "relu"),
        ("mlp3x_gelu", 3, "quick_gelu"),
        ("mlp11x_gelu", 11, "silu"),
    ],
)
def test_formula(kind: str, layers: int, activation: str, bias: bool) -> None:
    config = ConnectorConfig(kind, activation, bias)  # type: ignore[arg-type]
    c = filled(lambda: Connector(config, 4, 6, rngs=nnx.Rngs(0)))
    found = flat(nnx.state(c))
    leaves = ("kernel", "bias") if bias else ("kernel",)
    assert found.keys() == {f"fc{i}/{leaf}" for i in range(1, layers + 1) for leaf in leaves}
    wanted = X
    for i in range(1, layers + 1):
        wanted = wanted @ found[f"fc{i}/kernel"]
        if bias:
            wanted = wanted + found[f"fc{i}/bias"][None, None]
        if i < layers:
            wanted = ACTIVATIONS[activation](wanted)
    np.testing.assert_allclose(c(X), wanted, rtol=1e-5, atol=1e-5)
    assert c(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_activation_of_llava_is_the_exact_gelu() -> None:
    c = filled(lambda: Connector(ConnectorConfig(), 4, 6, rngs=nnx.Rngs(0)))
    found = flat(nnx.state(c))
    hidden = X @ found["fc1/kernel"] + found["fc1/bias"][None, None]
    hidden = hidden * 0.5 * (1 + jax.scipy.special.erf(hidden / np.float32(np.sqrt(2))))
    wanted = hidden @ found["fc2/kernel"] + found["fc2/bias"][None, None]
    np.testing.assert_allclose(c(X), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp0x_gelu", "mlp2x", "identity", "mlp100x_gelu"])
def test_no_such_connector(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"no such connector in ConnectorConfig.kind"):
        ConnectorConfig(kind)


CONFIG = VLMConfig(
    inputs=(InputConfig("s2_l2a"),),
    vision=ViTConfig(image_size=8, patch_size=4, width=8, layers=2, heads=2, mlp_dim=8),
    temporal=TemporalConfig(budget=8),
)


def test_a_budget_is_the_count() -> None:
    assert token_count(CONFIG, frames=1000, points=70) == 8


def test_without_a_budget_all_tokens_count() -> None:
    config = dataclasses.replace(CONFIG, temporal=TemporalConfig(budget=None))
    assert token_count(config, frames=5, points=7) == 5 * 4 + 7


def test_no_visual_tokens() -> None:
    config = dataclasses.replace(CONFIG, temporal=TemporalConfig(budget=None))
    with pytest.raises(ConfigError, match=r"no visual tokens in token_count; .* 0 frames"):
        token_count(config)
