"""The synthetic cube: deterministic, valid, and silent about the truth."""

import json

import numpy as np
import pytest

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.schema import validate
from data_zarr.sensors import PLATFORMS
from data_zarr.world import PRESETS, acquire, make_world, oracle, scene, timeline
from data_zarr.world.fields import stream
from data_zarr.world.scene import STATE

SEEDS = (0, 1)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    return {s: make_world(root / f"{s}.zarr", seed=s, preset="small") for s in SEEDS}


def test_the_same_seed_gives_the_same_bits(worlds, tmp_path):
    again = make_world(tmp_path / "again.zarr", seed=0, preset="small")
    assert again.bandsets.keys() == worlds[0].bandsets.keys()
    for name in again.bandsets:
        for a, b in zip(
            again.reader(name).read(0, 0, 128, 128),
            worlds[0].reader(name).read(0, 0, 128, 128),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(again.target("agb"), worlds[0].target("agb"))


def test_another_seed_gives_another_world(worlds):
    assert abs(np.corrcoef(*(w.target("agb").ravel() for w in worlds.values()))[0, 1]) < 0.5
    dates = [timeline(s, PRESETS["small"], "s2_l2a") for s in SEEDS]
    assert (dates[0] != dates[1]).any()


def test_a_purpose_does_not_disturb_another():
    a = stream(0, "speckle", 1).random(4)
    stream(0, "clouds", 1).random(100)
    np.testing.assert_array_equal(a, stream(0, "speckle", 1).random(4))
    assert (a != stream(0, "speckle", 2).random(4)).all()


def test_it_is_a_valid_cube_with_the_announced_content(worlds):
    cube = worlds[0]
    report = validate(cube, deep=True)
    assert report.ok, [r for r in report.rows if r.level == "error"]
    assert {n: b.shape[:2] for n, b in cube.bandsets.items()} == {
        "s2_l2a": (5, 10),
        "landsat_sr6": (2, 6),
        "s1_db": (6, 2),
        "dem": (1, 1),
    }
    assert (cube.targets["agb"].unit, cube.targets["agb"].bounds) == ("Mg/ha", (0.0, 500.0))
    assert cube.targets["agb_trend"].unit == "Mg/ha/year"
    assert len(np.unique(cube.bandsets["s2_l2a"].platform)) == 2
    assert len(np.unique(cube.bandsets["landsat_sr6"].platform)) == 2
    assert not set(cube.bandsets["s2_l2a"].dates) & set(cube.bandsets["landsat_sr6"].dates)
    assert cube.grid.gsd == pytest.approx(10.0, rel=1e-3)


def test_the_cube_does_not_hold_the_answer(worlds):
    text = json.dumps({k: str(v) for k, v in worlds[0].attrs.items()})
    assert not any(f'"{n}"' in text for n in STATE)
    np.testing.assert_array_equal(worlds[0].target("agb"), scene(0, "small").agb)


def test_size_and_years_replace_those_of_the_preset(tmp_path):
    cube = make_world(tmp_path / "w.zarr", seed=3, preset="small", size=50, years=4.0)
    assert (cube.grid.height, cube.grid.width) == (50, 50)
    dates = cube.bandsets["s2_l2a"].dates
    days = (dates[-1] - dates[0]) / np.timedelta64(1, "D")
    assert 2.4 * 365 < days < 4 * 365
    assert oracle(cube).shape == (50, 50)


def test_lines_of_bad_requests(tmp_path, intact):
    with pytest.raises(CubeError) as e:
        make_world(tmp_path / "w.zarr", seed=0, preset="tiny")
    assert str(e.value) == "no such preset; expected one of small, full; found tiny"
    for bad in ({"seed": -1}, {"seed": 0, "size": 4}, {"seed": 0, "years": 0.0}):
        with pytest.raises(CubeError, match="impossible world; expected seed >= 0, size >= 16"):
            make_world(tmp_path / "w.zarr", **bad)
    with pytest.raises(CubeError, match="the oracle knows synthetic worlds only in"):
        oracle(open_cube(intact.path))


def test_an_existing_cube_is_replaced_only_on_demand(tmp_path):
    path = tmp_path / "w.zarr"
    make_world(path, seed=0, size=32)
    with pytest.raises(CubeError, match="cube exists"):
        make_world(path, seed=1, size=32)
    cube = make_world(path, seed=1, size=32, overwrite=True)
    assert cube.attrs["world"]["seed"] == 1


def test_landsat_pixels_are_coarse_and_landsat_7_has_gaps(worlds):
    cube = worlds[0]
    pixels, valid = cube.reader("landsat_sr6").read(0, 0, 126, 126)
    blocks = pixels.reshape(2, 6, 42, 3, 42, 3)
    assert (blocks == blocks[:, :, :, :1, :, :1]).all()
    gaps = acquire.scan_gaps(128)[:126, :126]
    assert 0.05 < gaps.mean() < 0.3
    names = cube.bandsets["landsat_sr6"].platform
    assert not valid[1, 0][gaps].any()  # dates alternate: the second is Landsat 7
    assert names.tolist() == [PLATFORMS.index("landsat-8"), PLATFORMS.index("landsat-7")]
    assert valid[0, 0][gaps].any()
