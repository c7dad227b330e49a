"""Makes `slovenia_s2.zarr` from the example EOPatch of eo-learn.

Source: sentinel-hub/eo-learn, `example_data/TestEOPatch` (MIT, commit 303e7585): REFERENCE_SCENES,
NDVI, IS_VALID, LULC, DEM as .npy, `timestamps.json`, `bbox.geojson`. The five 13-band scenes carry
no dates and are not in time order: each is dated here by its own NDVI, which must equal one date
of the NDVI series bit for bit.

    python -m data_zarr.samples.make_slovenia_s2 --source DIR --out slovenia_s2.zarr
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, create_cube

SCENE_DATES = ("2015-07-11", "2015-07-31", "2015-08-20", "2015-08-30", "2015-09-09")
"""What the match must find, in time order."""

B04, B08 = 3, 7

SENTINEL_2B_LAUNCH = np.datetime64("2017-03-07")
"""Before it there was one Sentinel-2: scenes without a platform in their metadata are 2A's."""

LAND_COVER = (
    (0, "no data"),
    (1, "cultivated land"),
    (2, "forest"),
    (3, "grassland"),
    (4, "shrubland"),
    (5, "water"),
    (6, "wetlands"),
    (7, "tundra"),
    (8, "artificial surface"),
    (9, "bareland"),
    (10, "snow and ice"),
)
"""eo-learn, `example_data/lulc_classes.py`; the same in `land_cover_svn_fastai/lulc_codes.txt`."""
NO_DATA, FOREST, ARTIFICIAL = 0, 2, 8

PROVENANCE = """\
Example EOPatch of eo-learn (sentinel-hub/eo-learn, example_data/TestEOPatch, commit 303e7585), \
Sentinel-2 Level 1C by Sentinel Hub. Contains modified Copernicus Sentinel data [2015-2017]. \
Established: grid from bbox.geojson, row 0 in the north (sun-facing slopes of the DEM are brighter \
only so); reflectances are whole multiples of 0.0001 and stored without loss; band order from the \
equality of NDVI(B08, B04) with the NDVI series, which also dates the scenes; Level 1C, for there \
is a B10; platform Sentinel-2A before 2017-03-07, when 2B was launched; meaning of the land-cover \
codes from example_data/lulc_classes.py. \
Not established: platform after 2017-03-07; year and producer of the land-cover map; source and \
vertical datum of the DEM; the cloud detector behind IS_VALID (the inverse of CLM)."""


def date_scenes(scenes: np.ndarray, ndvi: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Row of the NDVI series for each scene [S]; each must equal exactly one date.

    Args:
      scenes: reflectance float32 [S, H, W, 13].
      ndvi: float32 [T, H, W].
      times: datetime64[s] [T].
    """
    rows = []
    for scene in scenes:
        own = (scene[..., B08] - scene[..., B04]) / (scene[..., B08] + scene[..., B04])
        hits = [t for t in range(len(ndvi)) if np.array_equal(own, ndvi[t])]
        if len(hits) != 1:
            raise SystemExit(f"a scene matches {len(hits)} dates of the NDVI series, not one")
        rows.append(hits[0])
    found = tuple(str(d) for d in np.sort(times[rows]).astype("datetime64[D]"))
    if found != SCENE_DATES:
        raise SystemExit(f"scenes dated {found}, expected {SCENE_DATES}")
    return np.asarray(rows)


def check_land_cover(codes: np.ndarray, scenes: np.ndarray, clear: np.ndarray) -> None:
    """The codes mean what the source says: forest is commonest, darkest in red and SWIR.

    Args:
      codes: [H, W].
      scenes: reflectance [S, H, W, 13], of which `clear` [S] are cloud-free.
    """
    present = [c for c in np.unique(codes) if c != NO_DATA]
    count = {c: int((codes == c).sum()) for c in present}
    mean = scenes[clear].mean(axis=0)
    red = {c: float(mean[codes == c, B04].mean()) for c in present}
    swir = {c: float(mean[codes == c, 11].mean()) for c in present}
    ndvi = {
        c: float(((mean[..., B08] - mean[..., B04]) / (mean[..., B08] + mean[..., B04]))[
            codes == c
        ].mean())
        for c in present
    }  # fmt: skip
    if not (
        max(count, key=count.__getitem__) == FOREST
        and min(red, key=red.__getitem__) == FOREST
        and min(swir, key=swir.__getitem__) == FOREST
        and min(ndvi, key=ndvi.__getitem__) == ARTIFICIAL
    ):
        raise SystemExit(f"land-cover codes look permuted: {count=} {red=} {swir=} {ndvi=}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder with the files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)

    def load(name: str) -> np.ndarray:
        return np.load(args.source / f"{name}.npy")

    scenes, ndvi = load("REFERENCE_SCENES"), load("NDVI")[..., 0]
    valid, codes, dem = load("IS_VALID")[..., 0], load("LULC")[..., 0], load("DEM")[..., 0]
    stamps = json.loads((args.source / "timestamps.json").read_text())
    times = np.asarray(stamps, "datetime64[s]")
    ring = json.loads((args.source / "bbox.geojson").read_text())["coordinates"][0]
    xs, ys = [p[0] for p in ring], [p[1] for p in ring]
    grid = Grid.from_bounds(32633, (min(xs), min(ys), max(xs), max(ys)), *codes.shape)

    rows = date_scenes(scenes, ndvi, times)
    order = np.argsort(times[rows])
    scenes, rows = scenes[order], rows[order]
    check_land_cover(codes, scenes, np.all(valid[rows], axis=(1, 2)))

    stored = np.rint(scenes.astype(np.float64) * 1e4).astype(np.int16)
    if not np.array_equal((stored * 1e-4).astype(np.float32), scenes):
        raise SystemExit("reflectances are not whole multiples of 0.0001")
    # NDVI of reflectances that come in steps of 1e-4 itself comes in steps of about
    # 1e-4 / (nir + red) >= 1e-4: rounding to 1e-4 is below what the source resolves.
    series = np.rint(ndvi.astype(np.float64) * 1e4).astype(np.int16)
    height = np.rint(dem).astype(np.int16)
    if not np.array_equal(height.astype(np.float32), dem):
        raise SystemExit("terrain heights are not whole metres")

    def platforms(dates: np.ndarray) -> list[str]:
        return ["sentinel-2a" if d < SENTINEL_2B_LAUNCH else "unknown" for d in dates]

    msi, index, terrain = (BANDSETS[n] for n in ("s2_l1c", "ndvi", "dem"))
    tree_cover = np.where(codes == NO_DATA, np.nan, (codes == FOREST).astype(np.float32))
    land_cover = np.where(codes == NO_DATA, np.nan, codes.astype(np.float32))
    writer = create_cube(
        args.out,
        grid=grid,
        bandsets=[
            BandSetData(
                "s2_l1c",
                "optical",
                msi.bands,
                times[rows],
                platforms(times[rows]),
                scale=1e-4,
                source="REFERENCE_SCENES: top-of-atmosphere reflectance; mask: IS_VALID. "
                "2015-07-31 and 2015-08-20 are all cloud",
            ),
            BandSetData(
                "ndvi",
                "covariate",
                index.bands,
                times,
                platforms(times),
                scale=1e-4,
                nodata=-32768,
                source="NDVI: (B08 - B04) / (B08 + B04) of Level 1C, rounded to 0.0001; mask: "
                "IS_VALID",
            ),
            BandSetData(
                "dem",
                "covariate",
                terrain.bands,
                static=True,
                source="DEM: height in whole metres; source and vertical datum not established",
            ),
        ],
        targets=[
            TargetInfo(
                "tree_cover",
                "tree-cover fraction",
                "1",
                (0.0, 1.0),
                description="1 where the land-cover map says forest (code 2), 0 elsewhere, "
                "unknown where it says no data (code 0); its mean over a window is the fraction. "
                "Shrubland counts as 0",
            ),
            TargetInfo(
                "land_cover",
                "land cover",
                "1",
                kind="category",
                description="LULC. Codes from eo-learn, example_data/lulc_classes.py; checked "
                "here: forest is the commonest class and the darkest in red and SWIR, artificial "
                "surface the least green. Year and producer of the map are not stated",
                categories=LAND_COVER,
            ),
        ],
        shard=128,
        title="Sentinel-2 time series, Slovenia 2015-2017",
        license="MIT (eo-learn); Copernicus Sentinel data: free, full and open, see LICENSES",
        provenance=PROVENANCE,
        level=9,
        overwrite=args.overwrite,
    )
    with writer:
        writer.write("s2_l1c", 0, 0, stored.transpose(0, 3, 1, 2), valid[rows])
        writer.write("ndvi", 0, 0, series[:, None], valid)
        writer.write("dem", 0, 0, height[None, None])
        writer.write_target("tree_cover", 0, 0, tree_cover)
        writer.write_target("land_cover", 0, 0, land_cover)


if __name__ == "__main__":
    main()
