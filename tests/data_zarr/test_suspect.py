"""What deserves a look is found, and what does not is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from small_cube import HEIGHT, WIDTH, create, optical

from data_zarr import open_cube, sample_path
from data_zarr.suspect import layout_of, suspicions

SEASON = [f"2021-{m:02d}-10" for m in (6, 8, 10, 12)] + [f"2022-{m:02d}-10" for m in (2, 4, 6)]


def rules(cube) -> set[str]:
    return {s.rule for s in suspicions(cube)}


def series(path, level, dates=SEASON, platform="sentinel-2a", license="CC0-1.0", **changes):
    """A cube whose reflectance is `level[t]` on date t, with noise."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (len(dates), 13, HEIGHT, WIDTH))
    pixels = ((np.array(level)[:, None, None, None] + noise) * 1e4).astype(np.int16)
    bandsets = [optical(dates=dates, platform=platform, **changes.pop("optical", {}))]
    with create(path, bandsets=bandsets, targets=[], license=license, **changes) as writer:
        for y, x in writer.regions():
            n = writer.shard
            writer.write("s2_l1c", y, x, pixels[..., y : y + n, x : x + n])
    return open_cube(path)


def test_a_step_at_baseline_04(tmp_path):
    cube = series(tmp_path / "a.zarr", [0.1] * 4 + [0.2] * 3)
    (found,) = suspicions(cube)
    assert found.rule == "no step at 2022-01-25"
    assert found.found == "the median rises by 0.100"
    assert "take offsets from the metadata" in str(found)


@pytest.mark.parametrize(
    ("level", "platform"),
    [
        ([0.1] * 7, "sentinel-2a"),
        ([0.1] * 4 + [0.3] * 3, "sentinel-2a"),  # a fire, not an offset
        ([0.1] * 4 + [0.2] * 3, "landsat-8"),
    ],
)
def test_no_step_where_there_is_none(tmp_path, level, platform):
    assert rules(series(tmp_path / "a.zarr", level, platform=platform)) == set()


def test_negative_and_twice_scaled_reflectances(tmp_path):
    assert rules(series(tmp_path / "a.zarr", [-0.005] * 7)) == {"reflectances are positive"}
    tiny = series(tmp_path / "b.zarr", [0.2] * 7, optical={"scale": 1e-6})
    assert rules(tiny) == {"reflectances of some surface"}


def test_hardly_anything_is_clear(tmp_path):
    pixels = np.full((3, 13, HEIGHT, WIDTH), 2000, np.int16)
    valid = np.random.default_rng(0).random((3, HEIGHT, WIDTH)) < 0.02
    with create(tmp_path / "a.zarr", bandsets=[optical()], targets=[], license="MIT") as writer:
        writer.write("s2_l1c", 0, 0, pixels, valid)
    assert rules(open_cube(tmp_path / "a.zarr")) == {"at least 5% of the pixels are clear"}


def test_no_licence(intact):
    found = suspicions(open_cube(intact.path))
    assert [s.rule for s in found] == ["a license"]
    assert found[0].found == "none"


def test_chunks_and_layouts(tmp_path):
    dates = [f"2020-{m:02d}-10" for m in range(1, 13)]
    image = series(tmp_path / "a.zarr", [0.1] * 12, dates, layout="image", shard=128)
    assert layout_of(image.bandsets["s2_l1c"]) == "image"
    assert rules(image) == {"a layout for time series"}
    by_layout = {
        name: series(tmp_path / f"{name}.zarr", [0.1] * 7, layout=name, shard=128)
        for name in ("series", "balanced")
    }
    for name, cube in by_layout.items():
        assert layout_of(cube.bandsets["s2_l1c"]) == name
        assert rules(cube) == set()
    tiny = series(tmp_path / "b.zarr", [0.1] * 7, shard=16)
    assert rules(tiny) == {"chunks of at least 16 kB"}


def test_shipped_cubes_are_told_what_they_are():
    assert rules(open_cube(sample_path("spain_s1s2"))) == set()
    assert rules(open_cube(sample_path("slovenia_s2"))) == {"chunks of at least 16 kB"}
