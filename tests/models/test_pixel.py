"""The pixel front: masked window means, missing flags."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from bandsets import LANDSAT, RGB, WEATHER, garbage, observation, random_observation
from flax import nnx

from rsvlm_jax.config import ConfigError, InputConfig, SpectralConfig
from rsvlm_jax.models.pixel import PixelFront


def front() -> PixelFront:
    """A front that passes its features through: token = (z of both bands, both missing flags)."""
    made = PixelFront(WEATHER, 4, rngs=nnx.Rngs(0))
    made.project.kernel[...] = jnp.eye(4)
    return made


def test_masked_mean_zscore_and_flags():
    pixels = np.zeros((1, 2, 2, 1, 3), np.float32)
    pixels[0, 0, 0, 0], pixels[0, 0, 1, 0] = [280, 290, 999], [1, 1, 1]
    valid = np.zeros((1, 2, 2, 1, 3), bool)
    valid[0, 0, 0, 0] = [True, True, False]
    model = front()
    model.set_stats(jnp.asarray([275.0, 0.0]), jnp.asarray([10.0, 1.0]))
    tokens, there = model(observation(WEATHER, pixels, valid))
    np.testing.assert_allclose(tokens[0, 0], [1.0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(tokens[0, 1], [0, 0, 1, 1], atol=1e-5)
    assert there.tolist() == [[True, False]]


def test_a_mask_may_be_shared_by_all_bands():
    obs = observation(WEATHER, np.ones((1, 1, 2, 2, 2), np.float32))
    tokens, there = front()(obs)
    np.testing.assert_allclose(tokens[0, 0], [1, 1, 0, 0], atol=1e-6)
    assert there.all()


def test_invalid_values_change_no_bit():
    obs = random_observation(WEATHER, share=0.3)
    for a, b in zip(front()(obs), front()(garbage(obs)), strict=True):
        assert np.array_equal(a, b)


def test_bins_are_piecewise_linear_and_bounded():
    """Knots 0, 1, 3: 2 fills the first bin and half of the second; far values leave no bin."""
    config = InputConfig(WEATHER.name, "pixel", bins=2)
    made = PixelFront(WEATHER, 8, config, rngs=nnx.Rngs(0))
    made.project.kernel[...] = jnp.eye(8)
    knots = jnp.asarray([[0.0, 1.0, 3.0], [5.0, 5.0, 6.0]])  # the first bin of `tp` is empty
    made.set_stats(jnp.zeros(2), jnp.ones(2), knots)
    pixels = np.zeros((1, 3, 2, 1, 1), np.float32)
    pixels[0, :, 0, 0, 0], pixels[0, :, 1, 0, 0] = [2, 99, -99], [6, 5, 5]
    valid = np.ones(pixels.shape, bool)
    valid[0, 2, 1] = False
    tokens, _ = made(observation(WEATHER, pixels, valid))
    np.testing.assert_allclose(tokens[0, 0, 4:], [0.5, 0.0, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(tokens[0, 1, 4:], [0.5, 0.5, 0, -0.5], atol=1e-6)
    np.testing.assert_allclose(tokens[0, 2, 4:], [-0.5, -0.5, 0, 0], atol=1e-6)


def test_lags_count_back_from_the_last_valid_date():
    config = InputConfig(WEATHER.name, "pixel", dates=3, lags=True)
    made = PixelFront(WEATHER, 1, config, rngs=nnx.Rngs(0))
    made.project.kernel[...] = jnp.asarray([[1.0, 10.0, 100.0]] + [[0.0] * 3] * 3)
    pixels = np.ones((2, 3, 2, 1, 1), np.float32)
    valid = np.ones(pixels.shape, bool)
    valid[1, 2] = False  # the second series ends a date earlier
    tokens, _ = made(observation(WEATHER, pixels, valid))
    assert tokens[0, :, 0].tolist() == [100, 10, 1]
    assert tokens[1, :2, 0].tolist() == [10, 1]


def test_indices_join_the_bands():
    config = InputConfig(RGB.name, "pixel", spectral=SpectralConfig(indices=("ndvi",)))
    with pytest.raises(ConfigError, match="the bands of 'ndvi' are missing"):
        PixelFront(RGB, 4, config, rngs=nnx.Rngs(0))
    made = PixelFront(LANDSAT, 4, config, rngs=nnx.Rngs(0))
    pixels = np.full((1, 1, 6, 1, 1), 0.1, np.float32)
    pixels[0, 0, 3] = 0.3
    values, there = made.values(observation(LANDSAT, pixels))
    assert there.all()
    np.testing.assert_allclose(values[0, 0, 6], 0.5, atol=1e-6)  # (0.3 - 0.1) / (0.3 + 0.1)
    obs = random_observation(LANDSAT, share=0.3)
    for a, b in zip(made.values(obs), made.values(garbage(obs)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"front": "rgb", "bins": 4}, "bins and lags are of the pixel front"),
        ({"front": "pixel", "lags": True}, "how many lags is unknown"),
        ({"front": "pixel", "bins": -1}, "InputConfig.bins"),
    ],
)
def test_impossible_inputs(wrong, match):
    with pytest.raises(ConfigError, match=match):
        InputConfig("s2", **wrong)
