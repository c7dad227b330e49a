"""STAC items on disk, against odc-stac as an independent reader, and their contradictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import raster, recipe

from data_zarr import open_cube
from data_zarr.errors import CubeError
from data_zarr.ingest import BandSetRecipe, GridSpec, build, make_plan
from data_zarr.ingest.sources import Stac

BANDS = ("B02", "B04", "B08")
COMMON = {"B02": "blue", "B04": "red", "B08": "nir"}
EDGE = 40


def write(folder: Path, day: int, offset: float | None = -0.1, **properties: Any) -> np.ndarray:
    """An item with three bands and a scene classification; returns the numbers."""
    values = np.random.default_rng(day).integers(1200, 6000, (3, EDGE, EDGE)).astype(np.uint16)
    values[0, 0, 0] = 0
    scl = np.full((EDGE, EDGE), 4, np.uint8)
    scl[5, 6] = 9
    assets: dict[str, Any] = {}
    packed = {} if offset is None else {"offset": offset}
    for band, layer in zip(BANDS, values, strict=True):
        raster(folder / f"{day}_{band}.tif", layer, nodata=0)
        assets[COMMON[band]] = {
            "href": f"./{day}_{band}.tif",
            "type": "image/tiff; application=geotiff",
            "roles": ["data"],
            "eo:bands": [{"name": band, "common_name": COMMON[band]}],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, **packed}],
        }
    raster(folder / f"{day}_SCL.tif", scl)
    assets["scl"] = {"href": f"./{day}_SCL.tif", "type": "image/tiff; application=geotiff",
                     "roles": ["data"]}  # fmt: skip
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
        "id": f"S2A_33TVM_202206{day:02d}",
        "geometry": {"type": "Point", "coordinates": [15.0, 45.0]},
        "bbox": [15.0, 45.1, 15.01, 45.2],
        "properties": {
            "datetime": f"2022-06-{day:02d}T10:00:31Z",
            "platform": "sentinel-2a",
            "proj:epsg": 32633,
            "proj:shape": [EDGE, EDGE],
            "proj:transform": [10, 0, 500000, 0, -10, 5000000],
            "s2:processing_baseline": "04.00",
            **properties,
        },
        "assets": assets,
        "links": [],
    }
    (folder / f"{day}.json").write_text(json.dumps(item))
    return values


def item(folder: Path, **more: Any) -> BandSetRecipe:
    source = Stac(str(folder / "*.json"), quality="scl", **more)
    return BandSetRecipe("s2_l2a", (source,), bands=BANDS)


def test_items_as_odc_stac_reads_them(tmp_path: Path) -> None:
    import odc.stac
    import pystac

    numbers = {day: write(tmp_path, day) for day in (11, 1)}
    build(recipe(item(tmp_path)), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    info = cube.bandsets["s2_l2a"]
    assert [str(d) for d in info.dates] == ["2022-06-01T10:00:31", "2022-06-11T10:00:31"]
    assert {(b.scale, b.offset) for b in info.bands} == {(1e-4, -0.1)}
    pixels, valid = cube.reader("s2_l2a").read(0, 0, EDGE, EDGE)
    for t, day in enumerate((1, 11)):
        known = numbers[day] != 0
        np.testing.assert_array_equal(pixels[t][known], numbers[day][known])
        assert not valid[t, 0, 5, 6]
        assert not valid[t, 0, 0, 0]
        assert valid[t].sum() == EDGE * EDGE - 2

    items = [pystac.Item.from_file(str(tmp_path / f"{d}.json")) for d in (1, 11)]
    other = odc.stac.load(items, bands=[COMMON[b] for b in BANDS], crs="EPSG:32633", resolution=10)
    for c, band in enumerate(BANDS):
        theirs = other[COMMON[band]].values
        np.testing.assert_array_equal(pixels[:, c][theirs != 0], theirs[theirs != 0])


def test_warped_items_as_odc_stac_reads_them(tmp_path: Path) -> None:
    """Nearest neighbours in another CRS: two programs, the same pixels."""
    import odc.stac
    import pystac
    from odc.geo.geobox import GeoBox

    write(tmp_path, 1)
    step = 0.0001
    bounds = (15.0005, 45.1510, 15.0045, 45.1530)
    grid = GridSpec(crs="EPSG:4326", resolution=step, bounds=bounds)
    bands = BandSetRecipe("s2_l2a", (Stac(str(tmp_path / "1.json")),), bands=BANDS,
                          resampling="nearest")  # fmt: skip
    build(recipe(bands, grid=grid), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    h, w = cube.grid.height, cube.grid.width
    pixels, valid = cube.reader("s2_l2a").read(0, 0, h, w)
    box = GeoBox.from_bbox(bounds, crs="EPSG:4326", resolution=step)
    one = pystac.Item.from_file(str(tmp_path / "1.json"))
    other = odc.stac.load([one], bands=["red"], geobox=box, resampling="nearest")["red"].values[0]
    assert other.shape == (h, w)
    assert valid[0, 0].mean() > 0.9
    same = pixels[0, 1][valid[0, 0]] == other[valid[0, 0]]
    assert same.mean() > 0.95  # odc-stac leaves GDAL's approximate transformer on


def test_a_collection_and_an_item_collection(tmp_path: Path) -> None:
    for day in (1, 11):
        write(tmp_path, day)
    links = [{"rel": "item", "href": f"./{d}.json", "type": "application/json"} for d in (1, 11)]
    extent = {"spatial": {"bbox": [[15, 45, 16, 46]]}, "temporal": {"interval": [[None, None]]}}
    (tmp_path / "c").mkdir()
    links = [{**link, "href": f".{link['href']}"} for link in links]
    (tmp_path / "c" / "collection.json").write_text(
        json.dumps({"type": "Collection", "id": "c", "stac_version": "1.0.0", "description": "c",
                    "license": "CC0-1.0", "extent": extent, "links": links})
    )  # fmt: skip
    rows = [json.loads((tmp_path / f"{d}.json").read_text()) for d in (1, 11)]
    (tmp_path / "d.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
    for path in ("c/collection.json", "d.geojson"):
        source = Stac(str(tmp_path / path), quality="scl")
        plan = make_plan(recipe(BandSetRecipe("s2_l2a", (source,), bands=BANDS)))
        assert len(plan.bandsets[0].scenes) == 2


def test_no_baseline(tmp_path: Path) -> None:
    write(tmp_path, 1, **{"s2:processing_baseline": None})
    with pytest.raises(CubeError, match=r"no processing baseline .*told from the date"):
        make_plan(recipe(item(tmp_path)))


def test_offset_missing_in_an_item(tmp_path: Path) -> None:
    write(tmp_path, 1, offset=None)
    with pytest.raises(CubeError, match=r"offset missing in the metadata .* at baseline 04\.00"):
        make_plan(recipe(item(tmp_path)))
    plan = make_plan(recipe(item(tmp_path, offset=-0.1)))
    assert plan.bandsets[0].data.offset == [-0.1] * 3


@pytest.mark.parametrize(
    ("offset", "properties"),
    [
        (-0.1, {"earthsearch:boa_offset_applied": True}),
        (0.0, {"earthsearch:boa_offset_applied": False}),
        (0.0, {}),
        (-0.1, {"s2:processing_baseline": "02.14"}),
    ],
)
def test_contradictory_offset(tmp_path: Path, offset: float, properties: dict[str, Any]) -> None:
    write(tmp_path, 1, offset=offset, **properties)
    with pytest.raises(CubeError, match="contradictory offset"):
        make_plan(recipe(item(tmp_path)))


def test_offset_that_the_catalogue_applied(tmp_path: Path) -> None:
    write(tmp_path, 1, offset=0.0, **{"earthsearch:boa_offset_applied": True})
    assert make_plan(recipe(item(tmp_path))).bandsets[0].data.offset == [0.0] * 3


def test_projection_that_is_not_the_rasters(tmp_path: Path) -> None:
    write(tmp_path, 1, **{"proj:epsg": 32632})
    with pytest.raises(CubeError, match=r"item and raster differ .* EPSG:32632; found EPSG:32633"):
        make_plan(recipe(item(tmp_path)))


def test_not_an_item(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("{}")
    with pytest.raises(CubeError, match="not a STAC item"):
        make_plan(recipe(item(tmp_path)))
