"""Connectors and the number of visual tokens."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import ConfigError, ConnectorConfig, TemporalConfig, llava15_7b, nano
from rsvlm_jax.core import flat
from rsvlm_jax.models.connector import Connector, token_count

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
def test_formula(kind: str) -> None:
    c = Connector(ConnectorConfig(kind), 4, 6, rngs=nnx.Rngs(0))
    wanted = X @ c.fc1.kernel[...]
    if kind == "mlp2x_gelu":
        wanted = jax.nn.gelu(wanted, approximate=False) @ c.fc2.kernel[...]
    np.testing.assert_allclose(c(X), wanted, rtol=1e-5, atol=1e-5)
    layers = {path.split("/")[0] for path in flat(nnx.state(c))}
    assert layers == ({"fc1", "fc2"} if kind == "mlp2x_gelu" else {"fc1"})
    assert c(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_budget_is_the_count() -> None:
    assert token_count(nano(), frames=1000, points=70) == 8
    assert token_count(llava15_7b()) == 64


def test_without_a_budget_all_tokens_count() -> None:
    config = dataclasses.replace(nano(), temporal=TemporalConfig(budget=None))
    assert token_count(config, frames=5, points=7) == 5 * 4 + 7


def test_no_visual_tokens() -> None:
    config = dataclasses.replace(nano(), temporal=TemporalConfig(budget=None))
    with pytest.raises(ConfigError, match=r"no visual tokens in token_count; .* 0 frames"):
        token_count(config)
