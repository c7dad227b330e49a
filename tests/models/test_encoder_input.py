"""Statistics, stretch and mask-aware resizing."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandsets import L1C, LANDSAT, RGB, garbage, observation, random_observation
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import DataError, SpectralConfig, ViTConfig
from rsvlm_jax.models.spectral import (
    Frames,
    FrameStats,
    SpectralFront,
    frame_stats,
    make_plan,
    patch_valid,
    recombine,
    to_encoder,
)

UNIT = FrameStats(*(jnp.full((1, 3), v, jnp.float32) for v in (0, 1, 0, 1)))


def frames_of(image, valid=None) -> Frames:
    """One frame from [H,W] values, the same in all three slots."""
    image = jnp.asarray(image, jnp.float32)
    valid = jnp.ones(image.shape, bool) if valid is None else jnp.asarray(valid)
    pixels = jnp.where(valid[..., None], jnp.stack([image] * 3, -1), 0.0)
    return Frames(pixels[None, None, None], valid[None, None, None], jnp.zeros((1,), jnp.int32))


def test_stats_are_those_of_all_valid_pixels():
    plan = make_plan(LANDSAT, SpectralConfig())
    batches = [random_observation(LANDSAT, b, 2, 4, seed=b) for b in (1, 3, 2)]
    stats = frame_stats(plan, iter(batches))
    frames = [recombine(obs, plan) for obs in batches]
    for g in range(3):
        rows = np.concatenate([np.asarray(f.pixels[:, :, g])[f.valid[:, :, g]] for f in frames])
        rows = rows.astype(np.float64)
        np.testing.assert_allclose(stats.mean[g], rows.mean(0), rtol=1e-6)
        np.testing.assert_allclose(stats.std[g], rows.std(0), rtol=1e-6)
        np.testing.assert_allclose(stats.low[g], np.percentile(rows, 2, axis=0), rtol=1e-6)
        np.testing.assert_allclose(stats.high[g], np.percentile(rows, 98, axis=0), rtol=1e-6)


def test_percentiles_of_a_sample_stay_close_and_moments_stay_exact():
    plan = make_plan(RGB, SpectralConfig())
    batches = [random_observation(RGB, 4, 2, 16, seed=s) for s in range(4)]
    full, part = (frame_stats(plan, batches, sample=n) for n in (10**6, 500))
    assert np.array_equal(full.mean, part.mean)
    np.testing.assert_allclose(part.low, full.low, atol=0.02)
    np.testing.assert_allclose(part.high, full.high, atol=0.02)
    again = frame_stats(plan, batches, sample=500)
    assert np.array_equal(part.low, again.low)


def test_stats_survive_a_large_offset():
    """Naive sums of squares lose this in float32; merging moments in float64 does not."""
    pixels = 1e5 + np.random.default_rng(0).normal(0, 1, (2, 1, 3, 16, 16))
    stats = frame_stats(
        make_plan(RGB, SpectralConfig()), [observation(RGB, pixels.astype(np.float32))]
    )
    np.testing.assert_allclose(stats.std, 1.0, rtol=0.1)


def test_stats_of_nothing_are_refused():
    obs = observation(RGB, np.ones((1, 1, 3, 2, 2), np.float32), np.zeros((1, 1, 1, 2, 2), bool))
    with pytest.raises(DataError, match="no valid pixel to normalise by in rgb, group true_colour"):
        frame_stats(make_plan(RGB, SpectralConfig()), [obs])


def test_a_constant_band_is_refused():
    pixels = np.random.default_rng(0).random((1, 1, 3, 4, 4), np.float32)
    pixels[:, :, 1] = 0.3
    with pytest.raises(DataError, match=r"constant over the training split in rgb, .*slot G"):
        frame_stats(make_plan(RGB, SpectralConfig()), [observation(RGB, pixels)])


def test_zscore_and_minmax():
    stats = FrameStats(*(jnp.full((1, 3), v, jnp.float32) for v in (0.3, 0.1, 0.2, 0.4)))
    image = [[0.1, 0.2], [0.3, 0.5]]
    z = to_encoder(frames_of(image), stats, 2)[0, :, :, 0]
    np.testing.assert_allclose(z, [[-2, -1], [0, 2]], atol=1e-5)
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
    m = to_encoder(frames_of(image), stats, 2, stretch="minmax", mean=mean, std=std)[0]
    np.testing.assert_allclose(m[..., 0], [[-1, -1], [0, 1]], atol=1e-5)
    np.testing.assert_allclose(m[..., 1], [[-1, -1], [1, 3]], atol=1e-5)
    np.testing.assert_allclose(m[..., 2], [[0, 0], [0.5, 1]], atol=1e-5)


def test_same_size_is_untouched():
    image = np.random.default_rng(0).normal(size=(8, 8))
    assert np.array_equal(to_encoder(frames_of(image), UNIT, 8)[0, :, :, 1], image.astype("f4"))


@pytest.mark.parametrize(("source", "size"), [(8, 4), (25, 8), (5, 8), (8, 16), (9, 9)])
@given(seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=10)
def test_resizing_a_constant_gives_the_constant_whatever_the_mask(source, size, seed):
    rng = np.random.default_rng(seed)
    valid = rng.random((source, source)) < 0.5
    out = np.asarray(to_encoder(frames_of(np.full((source, source), 2.0), valid), UNIT, size))
    assert np.all((np.abs(out - 2) < 1e-5) | (out == 0))


def test_shrinking_averages_valid_pixels_only():
    image = np.array([[1.0, 3.0], [100.0, 5.0]])
    valid = np.array([[True, True], [False, True]])
    out = to_encoder(frames_of(image, valid), UNIT, 1)
    np.testing.assert_allclose(out.ravel(), 3.0, rtol=1e-6)


def test_shrinking_reads_every_source_pixel():
    def total(x):
        return to_encoder(frames_of(x), UNIT, 4).sum()

    assert (jax.grad(total)(jnp.ones((16, 16))) > 0).all()


@pytest.mark.parametrize(("source", "size", "patch"), [(8, 8, 4), (16, 8, 4), (4, 8, 4)])
def test_a_patch_is_valid_by_one_pixel(source, size, patch):
    valid = np.zeros((source, source), bool)
    valid[source - 1, 0] = True
    found = patch_valid(frames_of(np.ones((source, source)), valid), size, patch)
    assert found.shape == (1, 1, 1, (size // patch) ** 2)
    assert found.ravel().tolist() == [False, False, True, False]


def test_patches_and_image_agree_on_what_is_there():
    valid = np.random.default_rng(0).random((20, 20)) < 0.05
    frames = frames_of(np.ones((20, 20)), valid)
    image = np.asarray(to_encoder(frames, UNIT, 8))[0, :, :, 0]
    there = image.reshape(4, 2, 4, 2).any(axis=(1, 3)).ravel()
    assert np.array_equal(patch_valid(frames, 8, 2).ravel(), there)


@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize("stretch", ["zscore", "minmax"])
def test_invalid_values_change_no_bit_and_gradients_are_finite(size, stretch):
    vit = ViTConfig(image_size=size, patch_size=4, width=8, layers=1, heads=1, feature_layers=(0,))
    front = SpectralFront(L1C, SpectralConfig(stretch=stretch), vit)
    obs = random_observation(L1C, share=0.6)
    front.set_stats(frame_stats(front.plan, [obs]))
    run = jax.jit(lambda o: front(o))
    (image, valid), (image2, valid2) = run(obs), run(garbage(obs))
    assert image.shape == (2, 15, size, size, 3)
    assert np.array_equal(image, image2)
    assert np.array_equal(valid, valid2)

    def total(x):
        return jnp.square(front(dataclasses.replace(obs, pixels=x))[0]).sum()

    gradient = jax.jit(jax.grad(total))(garbage(obs).pixels)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~np.asarray(obs.valid)] == 0).all()
