"""`rsvlm cube show`: what is drawn is what `to_encoder` hands to the tower."""

from __future__ import annotations

import numpy as np
import pytest

from data_zarr import open_cube, sample_path
from rsvlm_jax.config import DataError, InputConfig, SpectralConfig
from rsvlm_jax.data.observe import observation
from rsvlm_jax.data.specs import bandset_specs
from rsvlm_jax.evaluate import cubeframes
from rsvlm_jax.evaluate.cubeframes import quicklook, show
from rsvlm_jax.models.spectral import frame_stats, make_plan, recombine, to_encoder


@pytest.fixture
def panels(monkeypatch):
    """The panels that would be drawn."""
    found = []
    monkeypatch.setattr(cubeframes, "show_cube", lambda out, panels, **_: found.extend(panels))
    return found


def draw(cube, **changes):
    options = {"bandset": None, "spectral": SpectralConfig(), "dates": 8, "size": 256}
    return show(cube, "unused.png", **{**options, **changes})


@pytest.mark.parametrize("stretch", ["zscore", "minmax"])
@pytest.mark.parametrize("size", [None, 48])
def test_panels_are_the_images_of_the_encoder(panels, stretch, size):
    """The same path by hand: recombine, statistics, `to_encoder`; drawn from 0 to 1."""
    cube = open_cube(sample_path("slovenia_s2"))
    spectral = SpectralConfig(stretch=stretch)
    draw(cube, bandset="s2_l1c", spectral=spectral, size=64, at=(10, 20), image_size=size)
    (spec,) = bandset_specs(cube, (InputConfig("s2_l1c", spectral=spectral),))
    plan = make_plan(spec, spectral)
    pixels, valid = cube.reader("s2_l1c").read(10, 20, 64, 64)
    obs = observation(spec, pixels[None], valid[None], date=cube.bandsets["s2_l1c"].dates)
    frames = recombine(obs, plan)
    images = to_encoder(frames, frame_stats(plan, [obs]), size or 64, stretch=stretch)
    edge = size or 64
    expected = np.asarray(images).reshape(5, len(plan.groups), edge, edge, 3) * 0.25 + 0.5
    assert len(panels) == 5 * len(plan.groups)
    for i, panel in enumerate(panels):
        t, g = divmod(i, len(plan.groups))
        low, high = panel.limits
        shown = (panel.pixels - low) / (high - low)
        assert panel.valid.all() == bool(frames.valid[0, t, g].all())
        np.testing.assert_allclose(
            shown[panel.valid], expected[t, g][panel.valid], rtol=1e-3, atol=2e-3
        )
        assert panel.linear


def test_every_date_group_band_and_wavelength(panels):
    rows = draw(open_cube(sample_path("spain_s1s2")), size=32)
    assert {(p.bandset, p.date) for p in panels} == {
        ("s1_db", "2019-09-17"),
        ("s2_l1c", "2019-09-18"),
    }
    colours = [r for r in rows if r["group"] == "true_colour"]
    assert [r["bands"] for r in colours] == [("B04",), ("B03",), ("B02",)]
    waves = [r["wavelengths"][0] for r in colours]
    assert waves == pytest.approx([0.665, 0.560, 0.492], abs=1e-3)
    (radar,) = [p for p in panels if p.bandset == "s1_db"]
    assert [s.name for s in radar.slots] == ["VV", "VH", "VV - VH"]


def test_no_frames_to_show(monkeypatch):
    cube = open_cube(sample_path("slovenia_s2"))
    monkeypatch.setattr(cube, "bandsets", {"dem": cube.bandsets["dem"]})
    with pytest.raises(DataError, match=r"no band set makes frames in .*; found dem"):
        draw(cube)
    assert quicklook(cube) == (None, "")


def test_quicklook_takes_the_clearest_date_and_thins():
    cube = open_cube(sample_path("slovenia_s2"))
    image, caption = quicklook(cube, side=50)
    assert image is not None
    assert image.shape == (51, 50, 3)
    assert caption == "s2_l1c, B04, B03, B02, 2015-07-11"
    pixels, _ = cube.reader("s2_l1c", bands=["B04", "B03", "B02"]).read(0, 0, 101, 100)
    whole = np.moveaxis(pixels[0, :, ::2, ::2], 0, -1) * 1e-4
    np.testing.assert_allclose(image, whole, rtol=1e-5)
