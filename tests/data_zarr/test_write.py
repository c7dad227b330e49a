"""Writing: sharded, checksummed, restartable, and refusing what no cube may hold."""

from __future__ import annotations

import dataclasses
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from small_cube import DATES, HEIGHT, SHARD, WIDTH, Small, create, grid, optical, radar

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, CubeWriter, create_cube, write_geotiff, write_map


def _region(array: np.ndarray, y: int, x: int) -> np.ndarray:
    return array[..., y : y + SHARD, x : x + SHARD]


def _fill(writer: CubeWriter, small: Small, places: Any) -> None:
    for y, x in places:
        writer.write("s2_l1c", y, x, _region(small.pixels, y, x), _region(small.valid, y, x))
        writer.write("s1_db", y, x, _region(small.radar, y, x))
        writer.write_target("agb", y, x, _region(small.target, y, x))


def test_every_chunk_carries_a_checksum(intact: Small) -> None:
    for array in ("s2_l1c/pixels", "s2_l1c/valid", "s1_db/pixels", "targets/agb"):
        codec = json.loads((intact.path / array / "zarr.json").read_text())["codecs"][0]
        assert codec["name"] == "sharding_indexed"
        names = [c["name"] for c in codec["configuration"]["codecs"]]
        assert names == ["bytes", "blosc", "crc32c"]
        assert codec["configuration"]["index_codecs"][-1]["name"] == "crc32c"


def test_fill_is_never_zero(intact: Small) -> None:
    fills = {
        a: json.loads((intact.path / a / "pixels" / "zarr.json").read_text())["fill_value"]
        for a in ("s2_l1c", "s1_db")
    }
    assert fills == {"s2_l1c": -9999, "s1_db": "NaN"}


def test_shard_by_shard_in_any_order_by_many_writers(tmp_path: Path, intact: Small) -> None:
    """Same files, byte for byte, as from one call; the writers are pickled copies."""
    path = tmp_path / "small.zarr"
    writer = create(path)
    places = list(writer.regions())[::-1]
    assert places[-1] == (0, 0)
    assert len(places) == 4
    copies = [pickle.loads(pickle.dumps(writer)) for _ in places]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda c: _fill(c[0], intact, [c[1]]), zip(copies, places, strict=True)))
    writer.close()
    assert open_cube(path).digest() == open_cube(intact.path).digest()


def test_a_stopped_run_resumes(tmp_path: Path, intact: Small) -> None:
    path = tmp_path / "small.zarr"
    first = create(path)
    _fill(first, intact, [(0, 0), (0, 64)])
    with pytest.raises(CubeError, match=r"cube is not finished in .*s2_l1c.*none at row 64, col"):
        first.close()
    with pytest.raises(CubeError, match="incomplete cube"):
        open_cube(path)
    again = create(path)
    missing = [p for p in again.regions() if not again.done("s2_l1c", *p)]
    assert missing == [(64, 0), (64, 64)]
    _fill(again, intact, missing)
    again.close()
    assert open_cube(path).digest() == open_cube(intact.path).digest()
    assert not (path / ".writing").exists()


def test_a_run_stopped_while_laying_out_resumes(tmp_path: Path, intact: Small) -> None:
    path = tmp_path / "small.zarr"
    create(path)
    mark = path / ".writing" / "template.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "written": False}))
    (path / "s1_db" / "zarr.json").unlink()
    with create(path) as writer:
        _fill(writer, intact, writer.regions())
    assert open_cube(path).digest() == open_cube(intact.path).digest()


def test_an_exception_leaves_no_manifest(tmp_path: Path, intact: Small) -> None:
    path = tmp_path / "small.zarr"

    def fail(writer: CubeWriter) -> None:
        with writer:
            _fill(writer, intact, writer.regions())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(create(path))
    with pytest.raises(CubeError, match="incomplete cube"):
        open_cube(path)


def test_a_shard_that_changes_after_writing_is_noticed(tmp_path: Path, intact: Small) -> None:
    """The journal's digest is that of the moment of writing, not of closing."""
    path = tmp_path / "small.zarr"
    with create(path) as writer:
        _fill(writer, intact, writer.regions())
        file = path / "s2_l1c/pixels/c/0/0/0/0"
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(CubeError, match="corrupt chunk"):
        open_cube(path).reader("s2_l1c").read(0, 0, 8, 8)


def test_unfinished_cube_of_other_arguments(tmp_path: Path) -> None:
    create(tmp_path / "c.zarr")
    with pytest.raises(CubeError, match=r"an unfinished cube of other arguments in .*overwrite"):
        create(tmp_path / "c.zarr", title="another")
    create(tmp_path / "c.zarr", title="another", overwrite=True)


def test_cube_exists(small: Small) -> None:
    with pytest.raises(CubeError, match=r"cube exists in .*small\.zarr; pass overwrite=True"):
        create(small.path)
    assert open_cube(small.path).title == "small"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_cube_is_never_deleted(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CubeError, match="something else lies at the output"):
        create(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CubeError) as caught:
        create(tmp_path / "file" / "c.zarr")
    line = str(caught.value)
    assert line.startswith(f"cannot write the cube in {tmp_path}/file/c.zarr; expected a writable")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("place", [(0, 0, 64, 32), (0, 1, 64, 64), (1, 0, 99, 70), (64, 0, 64, 70)])
def test_region_of_partial_shards(tmp_path: Path, intact: Small, place: Any) -> None:
    y, x, h, w = place
    writer = create(tmp_path / "c.zarr")
    with pytest.raises(CubeError, match="region is not made of whole shards"):
        writer.write("s2_l1c", y, x, np.zeros((3, 13, h, w), np.int16))


@pytest.mark.parametrize(
    ("pixels", "valid", "problem"),
    [
        (np.zeros((3, 13, 64, 64), np.float32), None, "expected int16 .* found float32"),
        (np.zeros((2, 13, 64, 64), np.int16), None, r"found int16 \[2, 13, 64, 64\]"),
        (np.zeros((3, 13, 64, 64), np.int16), np.ones((3, 64, 63), bool), "mask does not fit"),
    ],
)
def test_wrong_pixels(tmp_path: Path, pixels: np.ndarray, valid: Any, problem: str) -> None:
    with pytest.raises(CubeError, match=problem):
        create(tmp_path / "c.zarr").write("s2_l1c", 0, 0, pixels, valid)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dates": DATES[::-1]}, "dates are not sorted in s2_l1c"),
        ({"platform": "sentinel-2a"}, "a platform repeats an instant in s2_l1c"),
        ({"dates": None}, "no dates in s2_l1c"),
        ({"dates": ("2019-05-01", "NaT", "2019-06-01")}, "date missing in s2_l1c"),
        ({"static": True}, "no dates in s2_l1c"),
        ({"platform": ("sentinel-2a",)}, "platforms and dates differ"),
        ({"platform": "sputnik"}, "no such platform"),
        ({"platform": 64}, r"no such platform in s2_l1c; .* or a row 0 \.\. \d+; found 64"),
        ({"platform": (1, 1, -1)}, "no such platform in s2_l1c; .* found -1"),
        ({"platform": (64, 64, 64)}, "no such platform in s2_l1c; .* found 64"),
        ({"platform": (1, 1, 2.5)}, "no such platform in s2_l1c; .* found 2.5"),
        ({"nodata": 0}, "nodata cannot mark a missing value"),
        ({"nodata": 70000}, "nodata cannot mark a missing value"),
        ({"dtype": "float32"}, "nodata of a float band set"),
        ({"bands": BANDSETS["s2_l1c"].bands[:1] * 2}, "bands repeated"),
    ],
)
def test_band_set_that_no_cube_may_hold(tmp_path: Path, changes: Any, problem: str) -> None:
    with pytest.raises(CubeError, match=problem):
        create(tmp_path / "c.zarr", bandsets=[optical(**changes)])
    assert not (tmp_path / "c.zarr").exists()


def test_cube_without_crs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match="no CRS"):
        create(tmp_path / "c.zarr", grid=dataclasses.replace(grid(), crs_wkt=""))


@pytest.mark.parametrize(
    ("layout", "chunks"),
    [("series", (64, 1, 64, 64)), ("balanced", (1, 1, 64, 64)), ("image", (1, 1, 128, 128))],
)
def test_layouts_and_long_series(tmp_path: Path, layout: Any, chunks: tuple[int, ...]) -> None:
    """70 dates: shards of 64 and 6 dates, the same numbers whatever the chunks."""
    path, rng = tmp_path / "c.zarr", np.random.default_rng(1)
    dates = np.datetime64("2015-01-01") + np.arange(70) * 16
    series = BandSetData("ndvi", "covariate", BANDSETS["ndvi"].bands, dates, scale=1e-4)
    pixels = rng.integers(-1000, 9000, (70, 1, HEIGHT, WIDTH)).astype(np.int16)
    with create(path, bandsets=[series], targets=[], layout=layout, shard=128) as writer:
        writer.write("ndvi", 0, 0, pixels)
    info = open_cube(path).bandsets["ndvi"]
    assert (info.chunks, info.shards) == (chunks, (64, 1, 128, 128))
    np.testing.assert_array_equal(open_cube(path).reader("ndvi").read(90, 60, 10, 10)[0],
                                  pixels[:, :, 90:, 60:])  # fmt: skip


def test_mask_for_each_band(tmp_path: Path, intact: Small) -> None:
    path = tmp_path / "c.zarr"
    valid = np.random.default_rng(2).random(intact.pixels.shape) < 0.5
    with create(path, bandsets=[optical(valid_per_band=True)], targets=[]) as writer:
        writer.write("s2_l1c", 0, 0, intact.pixels, valid)
    reader = open_cube(path).reader("s2_l1c", ["B04", "B08"])
    expected = (valid & (intact.pixels != -9999))[:, [3, 7], :9, :9]
    np.testing.assert_array_equal(reader.read(0, 0, 9, 9)[1], expected)


def test_static_layer(tmp_path: Path) -> None:
    path, row = tmp_path / "c.zarr", BANDSETS["dem"]
    dem = BandSetData("dem", row.kind, row.bands, static=True)
    with create(path, bandsets=[dem], targets=[]) as writer:
        writer.write("dem", 0, 0, np.full((1, 1, HEIGHT, WIDTH), 700, np.int16))
    info = open_cube(path).bandsets["dem"]
    assert info.static
    assert np.isnat(info.dates).all()
    assert open_cube(path).to_xarray("dem")["pixels"].shape == (1, 1, HEIGHT, WIDTH)


def test_categories_survive(tmp_path: Path) -> None:
    classes = ((0, "no data"), (2, "forest"), (8, "artificial surface"))
    path = tmp_path / "c.zarr"
    cover = TargetInfo("cover", kind="category", categories=classes)
    with create(path, bandsets=[radar()], targets=[cover]) as writer:
        writer.write("s1_db", 0, 0, np.zeros((1, 2, HEIGHT, WIDTH), np.float32))
        writer.write_target("cover", 0, 0, np.full((HEIGHT, WIDTH), 2.0))
    assert open_cube(path).targets["cover"].categories == classes
    attrs = dict(zarr.open_array(path / "targets" / "cover", mode="r").attrs)
    assert attrs["flag_meanings"] == "no_data forest artificial_surface"


def test_map_opens_georeferenced_in_plain_xarray(tmp_path: Path) -> None:
    values = np.random.default_rng(3).random((HEIGHT, WIDTH)).astype(np.float32)
    values[0, 0] = np.nan
    out = write_map(
        tmp_path / "map.zarr", grid(), {"agb": (values, {"units": "Mg ha-1"})}, {"title": "map"}
    )
    data = xr.open_zarr(out, consolidated=False, chunks=None, decode_coords="all")
    np.testing.assert_array_equal(data["agb"].values, values)
    assert data["agb"].attrs["units"] == "Mg ha-1"
    assert data.attrs["title"] == "map"
    assert "EPSG" in data["spatial_ref"].attrs["crs_wkt"]
    write_map(out, grid(), {"agb": (values, {})})  # again: replaces the old one whole
    assert [p.name for p in tmp_path.iterdir()] == ["map.zarr"]


def test_geotiff(tmp_path: Path) -> None:
    import rasterio

    values = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    out = write_geotiff(
        tmp_path / "map.tif", grid(), {"agb": values, "width": values * 2}, unit="Mg ha-1",
        description="a map",
    )  # fmt: skip
    with rasterio.open(out) as file:
        assert file.crs.to_epsg() == 32633
        assert tuple(file.transform)[:6] == grid().transform
        assert file.descriptions == ("agb", "width")
        assert file.units == ("Mg ha-1", "Mg ha-1")
        assert np.isnan(file.nodata)
        np.testing.assert_array_equal(file.read(2), values * 2)


def test_geotiff_without_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with pytest.raises(CubeError, match=r"cannot write GeoTIFF without rasterio in .*\[geo\]"):
        write_geotiff(tmp_path / "map.tif", grid(), {"a": np.zeros((HEIGHT, WIDTH))})


@pytest.mark.parametrize("kind", ["zarr", "tif"])
def test_unwritable_map(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    values = np.zeros((HEIGHT, WIDTH), np.float32)
    path = tmp_path / "file" / f"m.{kind}"

    def write() -> Path:
        if kind == "zarr":
            return write_map(path, grid(), {"a": (values, {})})
        return write_geotiff(path, grid(), {"a": values})

    with pytest.raises(CubeError, match=f"cannot write the map in {path}") as caught:
        write()
    assert caught.value.exit_code == 2


def test_map_of_another_shape(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match="layer does not fit the grid"):
        write_map(tmp_path / "m.zarr", grid(), {"a": (np.zeros((3, 3)), {})})
    assert not list(tmp_path.iterdir())


def test_create_cube_is_exported() -> None:
    import data_zarr

    assert data_zarr.create_cube is create_cube
    assert all(getattr(data_zarr, name) is not None for name in data_zarr.__all__)
