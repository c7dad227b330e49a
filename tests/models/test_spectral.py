"""Spectral recombination: which band goes where, and that masks and gradients are exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandsets import (
    L1C,
    L2A,
    LANDSAT,
    LANDSAT8,
    MODIS,
    RGB,
    S2,
    THEOS,
    WEATHER,
    garbage,
    observation,
    optical,
    random_observation,
    sar,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import BandSetSpec, BandSpec, ConfigError, DataError, SpectralConfig
from rsvlm_jax.models.spectral import make_plan, recombine

WAVELENGTH = SpectralConfig()


def names(plan) -> dict[str, str]:
    """Group -> bands of its slots."""
    rows: dict[str, list[str]] = {}
    for row in plan.describe():
        rows.setdefault(row.group, []).append("+".join(row.bands))
    return {group: " ".join(bands) for group, bands in rows.items()}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            L1C,
            {
                "true_colour": "B04 B03 B02",
                "nir": "B08 B04 B03",
                "swir": "B12 B11 B8A",
                "red_edge": "B07 B06 B05",
                "atmosphere": "B10 B09 B01",
            },
        ),
        (
            L2A,
            {
                "true_colour": "B04 B03 B02",
                "nir": "B08 B04 B03",
                "swir": "B12 B11 B8A",
                "red_edge": "B07 B06 B05",
                "atmosphere": "B09 B04 B01",
            },
        ),
        (LANDSAT, {"true_colour": "R G B", "nir": "N R G", "swir": "S2 S1 N"}),
        (LANDSAT8, {"true_colour": "R G B", "nir": "N R G", "swir": "S2 S1 N", "rest1": "R G C"}),
        (THEOS, {"true_colour": "R G B", "nir": "N R G"}),
        (RGB, {"true_colour": "R G B"}),
        (MODIS, {"true_colour": "1 4 3", "nir": "2 1 4", "swir": "7 6 2", "rest1": "5 1 4"}),
        (optical("pan", [("P", 0.675)]), {"rest1": "P P P"}),
        (optical("mod09q1", [("red", 0.645), ("nir", 0.8585)]), {"rest1": "nir red red"}),
        (
            optical("rapideye", [*((b.name, b.wavelength) for b in THEOS.bands), ("E", 0.71)]),
            {"true_colour": "R G B", "nir": "N R G", "red_edge": "N E R"},
        ),
    ],
    ids=lambda x: x.name if isinstance(x, BandSetSpec) else "",
)
def test_wavelength_groups(spec, expected):
    plan = make_plan(spec, WAVELENGTH)
    assert names(plan) == expected
    assert plan.unused == ()


def test_groups_do_not_depend_on_names_or_order():
    shuffled = optical("x", [(f"b{i}", w) for i, (_, w) in enumerate(reversed(S2))])
    one, other = make_plan(L1C, WAVELENGTH), make_plan(shuffled, WAVELENGTH)
    assert [r.wavelengths for r in one.describe()] == [r.wavelengths for r in other.describe()]


@given(st.lists(st.floats(0.38, 2.49), min_size=1, max_size=40, unique=True))
@settings(deadline=None)
def test_every_band_is_used_and_slots_run_long_to_short(wavelengths):
    spec = optical("any", [(f"b{i}", w) for i, w in enumerate(wavelengths)], fwhm=0.01)
    plan = make_plan(spec, WAVELENGTH)
    assert plan.unused == ()
    for g in plan.groups:
        at = [np.dot(s.weights or (1.0,), [wavelengths[c] for c in s.channels]) for s in g.slots]
        assert at == sorted(at, reverse=True)


def test_narrow_bands_are_averaged_by_overlap():
    """Red window 0.62-0.69: the first of three bands lies half outside of it."""
    bands = [("a", 0.62), ("b", 0.65), ("c", 0.67), ("g", 0.56), ("v", 0.49)]
    plan = make_plan(optical("hyper", bands, fwhm=0.01), WAVELENGTH)
    red = plan.groups[0].slots[0]
    assert (red.op, red.channels) == ("average", (0, 1, 2))
    np.testing.assert_allclose(red.weights, [0.2, 0.4, 0.4], rtol=1e-6)


def test_unknown_fwhm_is_taken_from_the_sampling_distance():
    bands = [("a", 0.63), ("b", 0.64), ("c", 0.65), ("g", 0.56), ("v", 0.49)]
    plan = make_plan(optical("hyper", bands, fwhm=None), WAVELENGTH)
    np.testing.assert_allclose(plan.groups[0].slots[0].weights, [1 / 3] * 3, rtol=1e-6)


def test_hyperspectral_gives_a_handful_of_groups():
    bands = [(f"b{i}", 0.4 + 0.0065 * i) for i in range(300)]
    plan = make_plan(optical("enmap", bands, fwhm=0.0065), WAVELENGTH)
    assert plan.unused == ()
    assert [g.name for g in plan.groups] == [
        "true_colour",
        "nir",
        "swir",
        "red_edge",
        "atmosphere",
        "rest1",
    ]


@pytest.mark.parametrize(
    ("plan", "spec", "expected", "unused"),
    [
        ("drop", L2A, ["B01 B02 B03", "B04 B05 B06", "B07 B08 B8A", "B09 B11 B12"], []),
        ("drop", L1C, ["B01 B02 B03", "B04 B05 B06", "B07 B08 B8A", "B09 B10 B11"], ["B12"]),
        (
            "pad",
            L1C,
            ["B01 B02 B03", "B04 B05 B06", "B07 B08 B8A", "B09 B10 B11", "B12 B12 B12"],
            [],
        ),
        ("pad", THEOS, ["B G R", "N N N"], []),
        ("pad", MODIS, ["1 2 3", "4 5 6", "7 7 7"], []),
        ("pad", optical("two", [("a", 0.5), ("b", 0.6)]), ["a b b"], []),
    ],
)
def test_published_baselines(plan, spec, expected, unused):
    """EarthMind drops the last incomplete triple, EarthDial repeats its last channel."""
    made = make_plan(spec, SpectralConfig(plan=f"consecutive_{plan}"))
    rows = names(made)
    assert rows.pop("unused", "").split() == unused
    assert list(rows.values()) == expected


VV, VH = -8.0, -15.0


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        ("ratio_db", VV - VH),
        ("mean_db", (VV + VH) / 2),
        ("diff_linear", 10 ** (VV / 10) - 10 ** (VH / 10)),
        ("copy", VV),
    ],
)
@pytest.mark.parametrize("bands", [("VV", "VH"), ("VH", "VV"), ("HH", "HV")])
def test_sar_pseudo_rgb(third, expected, bands):
    spec = sar(*bands)
    co_first = bands[0] in ("VV", "HH")
    stored = jnp.asarray([VV, VH] if co_first else [VH, VV]).reshape(1, 1, 2, 1, 1)
    frames = recombine(observation(spec, stored), make_plan(spec, SpectralConfig(sar_third=third)))
    np.testing.assert_allclose(frames.pixels.ravel(), [VV, VH, expected], rtol=1e-6)


def test_orbits_are_kept_apart():
    plan = make_plan(sar("VV_asc", "VH_asc", "VV_desc", "VH_desc"), WAVELENGTH)
    assert [g.slots[2].channels for g in plan.groups] == [(0, 1), (2, 3)]


def test_indices_are_one_more_frame():
    plan = make_plan(LANDSAT, SpectralConfig(indices=("ndvi", "ndmi", "nbr")))
    values = jnp.asarray([0.05, 0.08, 0.06, 0.40, 0.20, 0.10]).reshape(1, 1, 6, 1, 1)
    frames = recombine(observation(LANDSAT, values), plan)
    expected = [(0.40 - 0.06) / 0.46, (0.40 - 0.20) / 0.60, (0.40 - 0.10) / 0.50]
    np.testing.assert_allclose(frames.pixels[0, 0, -1].ravel(), expected, rtol=1e-6)


def test_index_of_averaged_bands():
    bands = [("a", 0.63), ("b", 0.65), ("c", 0.67), ("n", 0.86)]
    spec = optical("hyper", bands, fwhm=0.01)
    values = jnp.asarray([0.1, 0.2, 0.3, 0.6]).reshape(1, 1, 4, 1, 1)
    plan = make_plan(spec, SpectralConfig(indices=("ndvi",)))
    frames = recombine(observation(spec, values), plan)
    np.testing.assert_allclose(frames.pixels[0, 0, -1].ravel(), [0.5] * 3, rtol=1e-6)


@pytest.mark.parametrize("red", [-0.4, -0.5, 0.0])
def test_index_without_a_safe_denominator_is_not_valid(red):
    spec = optical("rn", [("r", 0.66), ("n", 0.86)])
    plan = make_plan(spec, SpectralConfig(indices=("ndvi",)))
    values = jnp.asarray([red, 0.4 if red else 0.0]).reshape(1, 1, 2, 1, 1)

    def total(x):
        frames = recombine(observation(spec, x), plan)
        return frames.pixels[:, :, -1].sum(), frames.valid[0, 0, :, 0, 0]

    (value, valid), gradient = jax.value_and_grad(total, has_aux=True)(values)
    assert list(valid) == [True, False]
    assert value == 0
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        (L1C, WAVELENGTH),
        (L1C, SpectralConfig(plan="consecutive_pad")),
        (LANDSAT, SpectralConfig(indices=("ndvi", "ndmi", "nbr"))),
        (optical("hyper", [(f"b{i}", 0.4 + 0.01 * i) for i in range(50)], fwhm=0.01), WAVELENGTH),
        *[(sar("VV", "VH"), SpectralConfig(sar_third=t)) for t in ("ratio_db", "diff_linear")],
    ],
)
def test_gradient_reaches_every_band(spec, config):
    plan = make_plan(spec, config)
    obs = random_observation(spec, 1, 1, 2, share=1.1)

    def total(x):
        return jnp.square(recombine(observation(spec, x), plan).pixels).sum()

    by_band = jnp.abs(jax.grad(total)(obs.pixels)).sum(axis=(0, 1, 3, 4))
    assert (by_band > 0).all()


@pytest.mark.parametrize("missing", range(13))
def test_a_frame_pixel_needs_all_its_bands(missing):
    plan = make_plan(L1C, WAVELENGTH)
    valid = np.ones((1, 1, 13, 1, 2), bool)
    valid[0, 0, missing, 0, 1] = False
    frames = recombine(observation(L1C, np.ones((1, 1, 13, 1, 2), np.float32), valid), plan)
    for g, group in enumerate(plan.groups):
        uses = any(missing in s.channels for s in group.slots)
        assert frames.valid[0, 0, g, 0].tolist() == [True, not uses]
        assert frames.pixels[0, 0, g, 0, 1].tolist() == [0.0 if uses else 1.0] * 3


def test_an_averaged_slot_needs_one_of_its_bands():
    bands = [("a", 0.63), ("b", 0.65), ("c", 0.67), ("g", 0.56), ("v", 0.49)]
    spec = optical("hyper", bands, fwhm=0.01)
    valid = np.ones((1, 1, 5, 1, 2), bool)
    valid[0, 0, :2, 0, 0] = False
    valid[0, 0, :3, 0, 1] = False
    values = np.arange(1.0, 6.0, dtype=np.float32).reshape(1, 1, 5, 1, 1).repeat(2, -1)
    frames = recombine(observation(spec, values, valid), make_plan(spec, WAVELENGTH))
    assert frames.valid[0, 0, 0, 0].tolist() == [True, False]
    np.testing.assert_allclose(frames.pixels[0, 0, 0, 0, 0], [3.0, 4.0, 5.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        (L1C, SpectralConfig(indices=("ndvi", "ndmi", "nbr"))),
        (sar("VV", "VH"), SpectralConfig(sar_third="diff_linear")),
        (optical("hyper", [(f"b{i}", 0.4 + 0.01 * i) for i in range(50)], fwhm=0.01), WAVELENGTH),
    ],
)
def test_invalid_values_change_no_bit(spec, config):
    plan = make_plan(spec, config)
    run = jax.jit(lambda obs: recombine(obs, plan))
    obs = random_observation(spec)
    clean, dirty = run(obs), run(garbage(obs))
    assert np.array_equal(clean.pixels, dirty.pixels)
    assert np.array_equal(clean.valid, dirty.valid)


def test_scale_and_offset_are_applied():
    spec = BandSetSpec(
        "s2",
        "optical",
        tuple(BandSpec(n, None, w, 0.03, 1e-4, -0.1) for n, w in S2[1:4]),
    )
    stored = jnp.asarray([2000, 3000, 4000], jnp.int16).reshape(1, 1, 3, 1, 1)
    frames = recombine(observation(spec, stored), make_plan(spec, WAVELENGTH))
    np.testing.assert_allclose(frames.pixels.ravel(), [0.3, 0.2, 0.1], rtol=1e-5)


def test_covariates_are_sent_to_the_pixel_front():
    with pytest.raises(ConfigError, match=r"in inputs\.era5; .*found kind 'covariate'; use front="):
        make_plan(WEATHER, WAVELENGTH)


@pytest.mark.parametrize("plan", ["wavelength", "consecutive_drop", "consecutive_pad"])
def test_missing_wavelength(plan):
    spec = BandSetSpec("drone", "optical", (*RGB.bands, BandSpec("extra")))
    with pytest.raises(DataError, match=r"no wavelength in drone\.extra; expected a centre"):
        make_plan(spec, SpectralConfig(plan=plan))


def test_linear_sar_is_refused():
    with pytest.raises(DataError, match=r"not in decibels in s1\.VV; expected unit dB; found"):
        make_plan(sar("VV", "VH", unit="1"), WAVELENGTH)


def test_one_polarisation_is_refused():
    with pytest.raises(ConfigError, match=r"expected VV and VH, or HH and HV; found VV$"):
        make_plan(sar("VV"), WAVELENGTH)


def test_too_few_bands_for_a_dropping_plan():
    with pytest.raises(ConfigError, match=r"gives no frame in inputs\.two; .*bands a, b$"):
        make_plan(optical("two", [("a", 0.5), ("b", 0.6)]), SpectralConfig(plan="consecutive_drop"))


@pytest.mark.parametrize(
    ("spec", "index", "message"),
    [
        (LANDSAT, "ndvl", "unknown index in .*expected one of ndvi, .*found ndvl"),
        (THEOS, "nbr", r"bands of 'nbr' are missing in inputs\.theos.*expected nir08 and swir22"),
        (sar("VV", "VH"), "ndvi", "need an optical band set"),
    ],
)
def test_impossible_index(spec, index, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(spec, SpectralConfig(indices=(index,)))
