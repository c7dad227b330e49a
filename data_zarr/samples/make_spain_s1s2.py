"""Makes `spain_s1s2.zarr` from one chip of Sen1Floods11.

Source: cloudtostreet/Sen1Floods11, `sample/` (commit b9e460d), chip Spain_7370579: Sentinel-1 and
Sentinel-2 GeoTIFFs on one grid, imagery only. The flood label of that chip is left out: the
repository states no licence for it, while the imagery is Copernicus Sentinel data.

    python -m data_zarr.samples.make_spain_s1s2 --source DIR --out spain_s1s2.zarr
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS, canonical_band
from data_zarr.write import BandSetData, create_cube

S1_DATE, S2_DATE = "2019-09-17", "2019-09-18"
"""Sen1Floods11_Metadata.geojson, entry Spain: s1_date, s2_date (days; no time of day is given)."""

CIRRUS = "B10"

PROVENANCE = """\
Sen1Floods11 (cloudtostreet/Sen1Floods11, sample/, commit b9e460d), chip Spain_7370579, imagery \
only. Contains modified Copernicus Sentinel data [2019]. \
Established: dates, Sentinel-1 pass (descending, relative orbit 110) from \
Sen1Floods11_Metadata.geojson, days without time of day; Sentinel-2 Level 1C and Sentinel-1 GRD \
from docs/README.md; band names and grid from the GeoTIFFs; Sentinel-2 numbers are reflectance x \
10000 without offset: they were made in 2019 or 2020, before processing baseline 04.00 brought \
the offset of -1000 (2022-01-25), and with it B10 would be below -0.09 everywhere; Sentinel-1 \
numbers are dB, for they are negative where power could not be. \
Not established: platforms (2A or 2B, 1A or 1B); whether backscatter is sigma0 or gamma0 and \
terrain-corrected; there is no cloud mask: B10 stays below 0.002, so there is no high cloud."""


def read(path: Path) -> tuple[np.ndarray, tuple[str, ...], Any]:
    """(pixels [C, H, W], band names, open profile) of a GeoTIFF."""
    import rasterio

    with rasterio.open(path) as file:
        return file.read(), tuple(file.descriptions), file.profile


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder with the GeoTIFFs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)

    optical, optical_names, profile = read(args.source / "Spain_7370579_S2.tif")
    radar, radar_names, radar_profile = read(args.source / "Spain_7370579_S1.tif")
    msi, sar = BANDSETS["s2_l1c"], BANDSETS["s1_db"]
    if tuple(canonical_band(n) for n in optical_names) != msi.band_names:
        raise SystemExit(f"bands of the Sentinel-2 file: {optical_names}")
    if radar_names != sar.band_names:
        raise SystemExit(f"bands of the Sentinel-1 file: {radar_names}")
    for key in ("transform", "crs", "height", "width"):
        if profile[key] != radar_profile[key]:
            raise SystemExit(f"the two files differ in {key}")
    if (optical == profile["nodata"]).any() or not np.isfinite(radar).all():
        raise SystemExit("the chip has gaps: it had none")
    cirrus = optical[msi.band_names.index(CIRRUS)]
    if cirrus.max() >= 20:
        raise SystemExit("B10 is not that of a clear Level 1C scene without offset")

    grid = Grid.from_epsg(
        profile["crs"].to_epsg(), tuple(profile["transform"])[:6], *optical.shape[1:]
    )
    red, nir = (optical[msi.band_names.index(b)].astype(np.float64) for b in ("B04", "B08"))
    writer = create_cube(
        args.out,
        grid=grid,
        bandsets=[
            BandSetData(
                "s1_db",
                "sar",
                sar.bands,
                [S1_DATE],
                dtype="float32",
                nodata=np.nan,
                source="backscatter in dB as in the source, float32",
            ),
            BandSetData(
                "s2_l1c",
                "optical",
                msi.bands,
                [S2_DATE],
                scale=1e-4,
                source="top-of-atmosphere reflectance x 10000 as in the source, no offset",
            ),
        ],
        targets=[
            TargetInfo(
                "ndvi",
                "NDVI of the Sentinel-2 scene",
                "1",
                (-1.0, 1.0),
                description="(B08 - B04) / (B08 + B04), top of atmosphere, a day after the "
                "Sentinel-1 pass",
            )
        ],
        title="Sentinel-1 and Sentinel-2 a day apart, Spain 2019",
        license="Copernicus Sentinel data: free, full and open, see LICENSES",
        provenance=PROVENANCE,
        level=9,
        overwrite=args.overwrite,
    )
    with writer:
        writer.write("s1_db", 0, 0, radar[None])
        writer.write("s2_l1c", 0, 0, optical[None])
        writer.write_target("ndvi", 0, 0, (nir - red) / (nir + red))


if __name__ == "__main__":
    main()
