"""Two towers on the same frames."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import FAST, filled
from flax import nnx

from rsvlm_jax.config import ConfigError, ConvNextConfig, Dinov2Config, MixedConfig, ViTConfig
from rsvlm_jax.core import flat
from rsvlm_jax.models.mixed import MixedTower

FIRST = Dinov2Config(
    image_size=12, table_size=8, patch_size=4, width=6, layers=2, heads=3, mlp_dim=8
)
SECOND = ConvNextConfig(
    image_size=16,
    patch_size=2,
    widths=(4, 5),
    depths=(1, 1),
    layer_scale=0.5,
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.25, 2.0),
)
CONFIG = MixedConfig(first=FIRST, second=SECOND)
FRAMES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 12, 12, 3)), jnp.float32)


def mixed(config: MixedConfig = CONFIG) -> MixedTower:
    return filled(lambda: MixedTower(config, rngs=nnx.Rngs(0)))


def apply(model: nnx.Module, images: jax.Array) -> jax.Array:
    graphdef, state = nnx.split(model)
    return jax.jit(lambda s, x: nnx.merge(graphdef, s)(x), compiler_options=FAST)(state, images)


def test_kinds() -> None:
    assert CONFIG.kind == "mixed"
    assert (CONFIG.first, CONFIG.second) == (FIRST, SECOND)


def test_each_reads_the_frames_in_its_own_size_and_normalisation() -> None:
    model = mixed()
    out = apply(model, FRAMES)
    assert out.shape == (2, CONFIG.tokens, CONFIG.out_width) == (2, 9, 11)
    np.testing.assert_allclose(out[..., :6], apply(model.first, FRAMES), rtol=1e-5, atol=1e-5)

    plain = np.asarray(FRAMES) * np.array(FIRST.std) + np.array(FIRST.mean)  # in [0, 1]
    plain = jax.image.resize(plain.astype(np.float32), (2, 16, 16, 3), "bilinear")
    own = (np.asarray(plain) - np.array(SECOND.mean)) / np.array(SECOND.std)
    tokens = apply(model.second, jnp.asarray(own, jnp.float32)).reshape(2, 4, 4, 5)
    wanted = jax.image.resize(tokens, (2, 3, 3, 5), "bilinear").reshape(2, 9, 5)
    np.testing.assert_allclose(out[..., 6:], wanted, rtol=1e-4, atol=1e-4)


def test_frames_of_any_size_are_resized() -> None:
    frames = jnp.asarray(np.random.default_rng(1).standard_normal((1, 20, 9, 3)), jnp.float32)
    assert apply(mixed(), frames).shape == (1, 9, 11)


def test_one_grid_needs_no_resizing_of_tokens() -> None:
    config = MixedConfig(first=FIRST, second=dataclasses.replace(SECOND, image_size=12))
    assert config.first.grid == config.second.grid == (3, 3)
    model = mixed(dataclasses.replace(config, second=dataclasses.replace(
        config.second, mean=FIRST.mean, std=FIRST.std
    )))  # fmt: skip
    np.testing.assert_allclose(
        apply(model, FRAMES)[..., 6:], apply(model.second, FRAMES), rtol=1e-5, atol=1e-5
    )


def test_gradients_reach_both_towers_and_the_frames() -> None:
    graphdef, state = nnx.split(mixed())

    def loss(state: Any, frames: jax.Array) -> jax.Array:
        return jnp.square(nnx.merge(graphdef, state)(frames)).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=FAST)
    of_state, of_frames = gradient(state, FRAMES)
    for path, value in flat(of_state).items():
        # A shift of all keys changes no softmax.
        if not path.endswith("k/bias"):
            assert (np.abs(value) > 1e-7).any(), path
    assert (np.abs(of_frames) > 0).all()


def test_bfloat16_compute() -> None:
    out, full = apply(mixed(), FRAMES.astype(jnp.bfloat16)), apply(mixed(), FRAMES)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), full, atol=0.06 * float(full.std()))


@pytest.mark.parametrize(
    "first",
    [
        ViTConfig(image_size=8, patch_size=4, width=4, layers=1, heads=1, mlp_dim=4, keep_cls=True),
        dataclasses.replace(FIRST, feature_layers=(0, 1)),
    ],
)
def test_more_than_one_token_a_cell_is_refused(first: Any) -> None:
    with pytest.raises(ConfigError, match=r"one token a grid cell in MixedConfig.first"):
        MixedConfig(first=first, second=SECOND)
