"""The pixel front: masked window means, missing flags."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from bandsets import WEATHER, garbage, observation, random_observation
from flax import nnx

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
