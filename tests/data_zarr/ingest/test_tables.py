"""Tables of plots to point cubes: columns to bands, dates or months, sites, labels, targets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from data_zarr import open_cube, validate
from data_zarr.errors import CubeError
from data_zarr.ingest import (
    PointBandSet,
    PointRecipe,
    PointTarget,
    Table,
    build,
    from_toml,
    load_recipe,
    make_plan,
)
from data_zarr.ingest.table import read_rows

FRAME = pd.DataFrame(
    {
        "plot": ["a", "a", "b", "a", "c", "b"],
        "x": [15.0, 15.0, 15.1, 15.0, 15.2, 15.1],
        "y": [46.0, 46.0, 46.1, 46.0, 46.2, 46.1],
        "day": ["2020-03-01", "2020-01-01", "2020-05-01", "2020-02-01", "2021-01-01", "2020-04-01"],
        "red": [0.3, 0.1, 0.5, 0.2, 0.6, 0.4],
        "nir": [0.33, 0.11, 0.55, np.nan, 0.66, 0.44],
        "state": ["S", "S", "T", "S", "U", "T"],
        "agb": [100.0, 100.0, 50.0, 100.0, np.nan, 50.0],
        "class": ["oak", "oak", "ash", "oak", "", "ash"],
    }
)
BANDS = {"red": "red", "nir08": "nir"}


def recipe(path: Path, *targets: PointTarget, **more: Any) -> PointRecipe:
    table = Table(str(path), lon="x", lat="y", rows="observation", site="plot", date="day",
                  labels={"state": "state"}, platform="landsat-8", gsd=30)  # fmt: skip
    bands = PointBandSet("landsat_sr6", BANDS)
    return PointRecipe("plots", "CC0-1.0", "a test", **{"table": table, "bandsets": (bands,),
                                                        "targets": targets, **more})  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "npz", "h5"])
def test_observations_of_sites(tmp_path: Path, kind: str) -> None:
    """Rows of a site come to its own dates, in order; what is missing is not valid."""
    path = tmp_path / f"plots.{kind}"
    columns = {c: FRAME[c].to_numpy() for c in FRAME}
    texts = {k: v.astype(str) if v.dtype.kind in "OT" else v for k, v in columns.items()}
    if kind == "csv":
        FRAME.to_csv(path, index=False)
    elif kind == "npz":
        np.savez(path, **texts)
    else:
        with h5py.File(path, "w") as file:
            for k, v in texts.items():
                file[k] = v.astype("S") if v.dtype.kind == "U" else v
    targets = (PointTarget("agb", "agb", unit="Mg ha-1"), PointTarget("tree", "class"))
    build(recipe(path, *targets), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    info = cube.bandsets["landsat_sr6"]
    assert cube.points
    assert cube.grid.ids.tolist() == ["a", "b", "c"]
    assert info.dates[:, 0].astype(str).tolist() == [
        "2020-01-01T00:00:00", "2020-02-01T00:00:00", "2020-03-01T00:00:00"]  # fmt: skip
    assert np.isnat(info.dates[2, 1])
    assert (info.platform[0] == 7).all()
    pixels, valid = cube.reader("landsat_sr6").read(0, 0, 3, 1)
    np.testing.assert_allclose(pixels[:, 0, 0, 0], [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(pixels[:2, 1, 1, 0], [0.44, 0.55], rtol=1e-6)
    assert valid[:, 0, :, 0].tolist() == [[True] * 3, [False, True, False], [True, False, False]]
    assert cube.target("agb").ravel()[:2].tolist() == [100.0, 50.0]
    assert cube.targets["tree"].categories == ((0, "ash"), (1, "oak"))
    assert cube.target("tree").ravel()[:2].tolist() == [1.0, 0.0]
    assert math.isnan(cube.target("tree").ravel()[2])
    assert cube.labels["state"].tolist() == ["S", "T", "U"]
    assert validate(cube, deep=True).ok


def test_each_row_a_site_with_months(tmp_path: Path) -> None:
    """Arrays in files of their own, split by name; months without years; a static band set."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3, 3)).astype(np.float32)
    values[:, :, 2] = values[:, :1, 2]
    np.save(tmp_path / "features.npy", values)
    np.save(tmp_path / "month.npy", np.asarray([[3, 4, 4], [10, 11, 0], [0, 1, 2], [5, 6, 7]]))
    np.save(tmp_path / "latlon.npy", np.asarray([[46.0, 15], [47, 16], [48, 17], [49, 18]]))
    np.save(tmp_path / "site.npy", np.asarray(["x", "x", "y", "z"]))
    np.save(tmp_path / "test.npy", np.asarray([0, 0, 1, 1]))
    table = Table(
        str(tmp_path / "*.npy"), month="month", first_month=0,
        split={"features": ("VV", "VH", "height"), "latlon": ("lat", "lon")},
        labels={"site_name": "site", "is_test": "test"},
    )  # fmt: skip
    sets = (
        PointBandSet("s1_db", {"VV": "VV", "VH": "VH"}, units="db"),
        PointBandSet("dem", {"elevation": "height"}, static=True),
    )
    target = PointTarget("moisture", "height", unit="%")
    build(recipe(tmp_path, target, table=table, bandsets=sets), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    info = cube.bandsets["s1_db"]
    assert not info.year_known
    assert info.dates.astype("datetime64[D]").astype(str).T.tolist() == [
        ["2001-04-15", "2001-05-08", "2001-05-23"],
        ["2001-11-15", "2001-12-15", "2002-01-15"],
        ["2001-01-15", "2001-02-15", "2001-03-15"],
        ["2001-06-15", "2001-07-15", "2001-08-15"],
    ]
    pixels, _ = cube.reader("s1_db").read(0, 0, 4, 1)
    np.testing.assert_array_equal(pixels[..., 0], values.transpose(1, 2, 0)[:, :2])
    assert cube.bandsets["dem"].static
    np.testing.assert_array_equal(cube.target("moisture").ravel(), values[:, 0, 2])
    assert cube.labels["is_test"].tolist() == [0, 0, 1, 1]


def test_files_of_pixels_with_quality_bits(tmp_path: Path) -> None:
    """One file a site, without a header; ordinal days; integers stay integers; flags by name."""
    day = np.datetime64("2020-01-01").astype("O").toordinal()
    for i, name in enumerate(("p", "q")):
        rows = [(day + 16 * t, 500 + i, 3000 + t, (64, 8, 64)[t]) for t in range(3)]
        rows[1] = (rows[1][0], -9999, 3001, 8)
        text = "\n".join(", ".join(map(str, r)) for r in rows)
        (tmp_path / f"{name}.csv").write_text(text + "\n")
    table = Table(str(tmp_path / "*.csv"), lon=-120.0, lat=45.0, rows="observation", site="file",
                  header=("day", "red", "nir", "qa"), date="day", date_form="ordinal")  # fmt: skip
    bands = PointBandSet("landsat_sr6", BANDS, scale=1e-4, nodata=-9999, quality="qa",
                         dtype="int16", valid_per_band=True)  # fmt: skip
    build(recipe(tmp_path, table=table, bandsets=(bands,)), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    assert cube.grid.ids.tolist() == ["p", "q"]
    info = cube.bandsets["landsat_sr6"]
    assert str(info.dates[1, 0])[:10] == "2020-01-17"
    assert (str(info.dtype), info.bands[0].scale) == ("int16", 1e-4)
    pixels, valid = cube.reader("landsat_sr6").read(0, 0, 2, 1)
    assert pixels[:, :, 1, 0].tolist() == [[501, 3000], [-9999, 3001], [501, 3002]]
    assert valid[:, :, 0, 0].tolist() == [[True, True], [False, False], [True, True]]


def test_places_in_metres(tmp_path: Path) -> None:
    FRAME.assign(x=500000.0, y=5000000.0).to_csv(tmp_path / "p.csv")
    table = Table(str(tmp_path / "p.csv"), lon="x", lat="y", crs="EPSG:32633",
                  rows="observation", site="plot", date="day")  # fmt: skip
    sites = read_rows(table).sites
    np.testing.assert_allclose(sites.lon, 15.0, atol=1e-9)
    np.testing.assert_allclose(sites.lat, 45.1535, atol=1e-3)


TOML = """
title = "plots"
license = "CC0-1.0"
provenance = "a test"

[table]
path = "plots.csv"
lon = "x"
lat = "y"
rows = "observation"
site = "plot"
date = "day"
labels = {state = "state"}
platform = "landsat-8"
gsd = 30

[[bandset]]
name = "landsat_sr6"
columns = {red = "red", nir08 = "nir"}

[[target]]
name = "agb"
column = "agb"
unit = "Mg ha-1"
"""


def test_toml_of_points(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "plots.csv", index=False)
    (tmp_path / "r.toml").write_text(TOML)
    loaded = load_recipe(tmp_path / "r.toml")
    assert loaded == recipe(tmp_path / "plots.csv", PointTarget("agb", "agb", unit="Mg ha-1"))
    assert make_plan(loaded).describe()["sites"] == 3
    built = build(tmp_path / "r.toml", tmp_path / "c.zarr")
    assert built.digest == open_cube(tmp_path / "c.zarr").digest()
    with pytest.raises(CubeError, match=r"unknown key 'montth' .* did you mean 'month'"):
        from_toml(TOML.replace('date = "day"', 'montth = "day"'))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"agb": [1.0, 2, 3, 4, 5, 6]}, r"a column changes .*, agb; .* 3 at site 'a'; rows = .si"),
        ({"x": [15.0, 15.1, 15, 15, 15, 15]}, "a column changes with the date in table .*, x"),
        ({"day": ["2020-01-01"] * 5 + [None]}, "date missing in table"),
        ({"day": ["2020-01-01"] * 6}, "a platform repeats an instant"),
        ({"day": ["2020-01-01T00:00Z", *FRAME["day"][1:]]}, "mixed time zones"),
        ({"y": FRAME["y"] + 80}, r"degrees outside the earth .* may be swapped"),
        ({"red": list("abcdef")}, "text in a band"),
    ],
)
def test_bad_tables(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    FRAME.assign(**change).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(CubeError, match=problem):
        build(recipe(tmp_path / "p.csv", PointTarget("agb", "agb")), tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.parametrize(
    ("factor", "scale", "problem"),
    [
        (10000, 1.0, r"impossible reflectances in .* digital numbers\?; state the scale"),
        (1, 1e-4, "scaled twice"),
        (1, 0.0, "impossible scale"),
    ],
)
def test_digital_numbers_in_a_table(
    tmp_path: Path, factor: float, scale: float, problem: str
) -> None:
    FRAME.assign(red=FRAME["red"] * factor, nir=FRAME["nir"] * factor).to_csv(tmp_path / "p.csv")
    bands = PointBandSet("landsat_sr6", BANDS, scale=scale)
    with pytest.raises(CubeError, match=problem):
        build(recipe(tmp_path / "p.csv", bandsets=(bands,)), tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_columns_of_one_name(tmp_path: Path) -> None:
    FRAME.rename(columns={"nir": "red"}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(CubeError, match=r"columns of one name in .*p\.csv; .* found red"):
        make_plan(recipe(tmp_path / "p.csv"))


def test_bad_recipes_of_tables(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "p.csv", index=False)
    path = tmp_path / "p.csv"
    bands = PointBandSet("landsat_sr6", {"red": "rde"})
    with pytest.raises(CubeError, match=r"no such column .* found 'rde'; did you mean 'red'"):
        make_plan(recipe(path, bandsets=(bands,)))
    bands = PointBandSet("s1_db", {"VV": "red"})
    with pytest.raises(CubeError, match="units of the backscatter are not stated"):
        make_plan(recipe(path, bandsets=(bands,)))
    with pytest.raises(CubeError, match=r"no sources match .* none at .*q\.csv"):
        make_plan(recipe(tmp_path / "q.csv"))
    months = Table(str(path), lon="x", lat="y", month="red")
    with pytest.raises(CubeError, match=r"not months .* expected 1\.\.12"):
        make_plan(recipe(path, table=months))


def test_pickled_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", red=np.asarray([{"a": 1}], object))
    with pytest.raises(CubeError, match="pickled array"):
        make_plan(recipe(tmp_path / "a.npz"))
