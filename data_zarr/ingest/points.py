"""Point cubes from a table: what `PointRecipe` says, `build_points` writes.

    PointRecipe(title, license, provenance, table=Table("plots.csv", date="day"),
                bandsets=(PointBandSet("s2_l2a", {"B02": "blue", "B04": "red"}),),
                targets=(PointTarget("agb", "agb", unit="Mg ha-1"),))

A table fits into memory: it is read whole, and written shard by shard of sites.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.ingest.choose import encoding_of, nodata_of
from data_zarr.ingest.encode import encode
from data_zarr.ingest.recipe import BandSetRecipe, check_encoding
from data_zarr.ingest.scene import Layer, Units
from data_zarr.ingest.table import Rows, Table, read_rows
from data_zarr.ingest.warp import known
from data_zarr.journal import LEVEL, Codec
from data_zarr.layout import BandSetData, Layout
from data_zarr.sensors import Number, find_band
from data_zarr.write import create_cube

NOWHERE = Grid("", None, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), 1, 1)


@dataclasses.dataclass(frozen=True)
class PointBandSet:
    """A band set from columns.

    Attributes:
      columns: band (native or common name) -> column; channels are in the order of the sensor.
      sensor: row of `data_zarr.sensors.BANDSETS`; `name` by default.
      scale, offset, nodata: of the numbers in the table: physical = number * scale + offset.
      units: "db" or "linear" for backscatter, which is stored in dB.
      valid_range: numbers of the table outside it are missing, as a product says of saturation.
      dtype: stored; by default integers stay integers and floats become physical float32.
      quality: column of the sensor's quality band; `reject`: its flags, or the usual ones.
      static: one value a site, without a date.
    """

    name: str
    columns: dict[str, str]
    sensor: str | None = None
    scale: Number = 1.0
    offset: Number = 0.0
    nodata: Number | None = None
    valid_range: tuple[Number, Number] | None = None
    units: Units = ""
    dtype: str | None = None
    quality: str = ""
    reject: tuple[str, ...] | None = None
    static: bool = False
    valid_per_band: bool = False


@dataclasses.dataclass(frozen=True)
class PointTarget:
    """A target from a column, one value a site. Text is a category, its codes in sorted order."""

    name: str
    column: str
    unit: str = "1"
    long_name: str = ""
    description: str = ""
    bounds: tuple[Number, Number] | None = None
    kind: Literal["continuous", "category"] = "continuous"
    nodata: Number | None = None


@dataclasses.dataclass(frozen=True)
class PointRecipe:
    """A point cube to be built; see `Recipe` for what is not said here."""

    title: str
    license: str
    provenance: str
    table: Table
    bandsets: tuple[PointBandSet, ...]
    targets: tuple[PointTarget, ...] = ()
    layout: Layout = "balanced"
    shard: int | None = None
    codec: Codec = "zstd"
    level: int = LEVEL
    attrs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def at(self, folder: Path) -> PointRecipe:
        """The recipe with the table's relative path taken from `folder`."""
        path = str(folder / self.table.path)
        return dataclasses.replace(self, table=dataclasses.replace(self.table, path=path))


@dataclasses.dataclass(frozen=True, eq=False)
class PointPlan:
    """The cube of a table, whole: band sets with their pixels [T, C, S, 1] and masks alike."""

    recipe: PointRecipe
    rows: Rows
    bandsets: tuple[tuple[BandSetData, np.ndarray, np.ndarray], ...]
    targets: tuple[tuple[TargetInfo, np.ndarray], ...]

    @property
    def tasks(self) -> int:
        return len(self.bandsets) + len(self.targets)

    def describe(self) -> dict[str, Any]:
        """What would be built, as JSON values."""
        sites, dates = self.rows.sites, self.rows.dates
        span = [] if dates is None else [str(np.nanmin(dates)), str(np.nanmax(dates))]
        return {
            "title": self.recipe.title,
            "sites": len(sites),
            "lonlat": [] if math.isnan(sites.bounds[0]) else list(sites.bounds),
            "dates_a_site": 0 if dates is None else len(dates),
            "dates": span,
            "labels": list(sites.labels),
            "bandsets": [
                {"name": d.name, "shape": list(p.shape[:3]), "dtype": str(p.dtype),
                 "bands": [b.name for b in d.bands], "valid": float(v.mean()),
                 "year_known": d.year_known}
                for d, p, v in self.bandsets
            ],
            "targets": [{"name": t.name, "unit": t.unit, "known": float(np.isfinite(v).mean())}
                        for t, v in self.targets],
            "layout": self.recipe.layout,
            "tasks": self.tasks,
            "notes": [],
            "warnings": [],
        }  # fmt: skip


def plan_points(recipe: PointRecipe) -> PointPlan:
    """Reads the table and brings it to sites, dates and bands.

    Raises:
      CubeError: what `read_rows` refuses; bands or columns that do not exist.
    """
    names = [b.name for b in recipe.bandsets]
    if not names or len(set(names)) != len(names):
        raise CubeError("band sets repeated or none", where="recipe", found=", ".join(names))
    rows = read_rows(recipe.table, f"table {recipe.table.path}")
    bandsets = tuple(_bandset(b, rows) for b in recipe.bandsets)
    targets = tuple(_target(t, rows) for t in recipe.targets)
    return PointPlan(recipe, rows, bandsets, targets)


def write_points(plan: PointPlan, out: str | os.PathLike[str], *, overwrite: bool = False) -> str:
    """Writes the cube of a plan; returns its digest."""
    recipe = plan.recipe
    with create_cube(
        out,
        grid=plan.rows.sites,
        bandsets=[data for data, _, _ in plan.bandsets],
        targets=[info for info, _ in plan.targets],
        layout=recipe.layout,
        shard=recipe.shard,
        title=recipe.title,
        license=recipe.license,
        provenance=recipe.provenance,
        attrs=recipe.attrs,
        codec=recipe.codec,
        level=recipe.level,
        overwrite=overwrite,
    ) as writer:
        for data, pixels, valid in plan.bandsets:
            if not writer.done(data.name, 0, 0):
                writer.write(data.name, 0, 0, pixels, valid)
        for info, values in plan.targets:
            if not writer.done(info.name, 0, 0):
                writer.write_target(info.name, 0, 0, values)
    return open_cube(out).digest()


def _bandset(item: PointBandSet, rows: Rows) -> tuple[BandSetData, np.ndarray, np.ndarray]:
    where = f"band set {item.name!r}"
    row = BandSetRecipe(item.name, (), item.sensor).row
    columns = {row.bands[find_band(row, b)].name: c for b, c in item.columns.items()}
    if len(columns) != len(item.columns) or not columns:
        raise CubeError("bands repeated or none", where=where, found=", ".join(item.columns))
    check_encoding(item.dtype, item.scale, item.offset, where)
    bands = tuple(b for b in row.bands if b.name in columns)
    if not item.static and rows.dates is None:
        raise CubeError("no dates", where=where, expected="`date` or `month` in the table",
                        found="neither", remedy="or static = true")  # fmt: skip
    if item.units == "" and row.kind == "sar":
        raise CubeError("units of the backscatter are not stated", where=where,
                        expected='"db" or "linear"', found="neither")  # fmt: skip
    stored, valid = [], []
    cells = [
        rows.of_site(columns[b.name], where)[None] if item.static
        else rows.cells(columns[b.name], where)
        for b in bands
    ]  # fmt: skip
    kind = np.result_type(*cells)
    if kind.kind not in "iufb":
        raise CubeError("text in a band", where=where, expected="numbers", found=str(kind))
    layer = Layer(item.name, NOWHERE, str(kind), scale=item.scale, offset=item.offset,
                  nodata=item.nodata, units=item.units)  # fmt: skip
    shape = BandSetRecipe(item.name, (), item.sensor, dtype=item.dtype,
                          scale=item.scale if item.dtype else None,
                          offset=item.offset if item.dtype else None)  # fmt: skip
    to = encoding_of(shape, [layer], where)
    to = dataclasses.replace(to, nodata=nodata_of(shape, to.dtype))
    for band, values in zip(bands, cells, strict=True):
        numbers = values.astype(kind)
        ok = known(numbers, item.nodata)
        if item.valid_range is not None:
            ok &= (numbers >= item.valid_range[0]) & (numbers <= item.valid_range[1])
        if not item.static:
            ok &= rows.order >= 0
        plain, good = encode(numbers, ok, layer, to, f"{where}, {band.name}")
        stored.append(plain)
        valid.append(good)
    data = BandSetData(
        name=item.name,
        kind=row.kind,
        bands=bands,
        dates=None if item.static else rows.dates,
        platform="unknown" if item.static else rows.platform,
        scale=to.scale,
        offset=to.offset,
        nodata=to.nodata,
        static=item.static,
        dtype=to.dtype,
        valid_per_band=item.valid_per_band,
        source=row.source,
        year_known=not rows.table.month,
    )
    pixels, mask = np.stack(stored, 1)[..., None], np.stack(valid, 1)[..., None]
    if item.quality:
        mask = mask & ~_refused(item, rows, where)[:, None, :, None]
    return data, pixels, mask


def _refused(item: PointBandSet, rows: Rows, where: str) -> np.ndarray:
    from data_zarr.radiometry import clear_mask

    row = BandSetRecipe(item.name, (), item.sensor).row
    return ~clear_mask(rows.cells(item.quality, where), row, item.reject)


def _target(item: PointTarget, rows: Rows) -> tuple[TargetInfo, np.ndarray]:
    where = f"target {item.name!r}"
    values = rows.of_site(item.column, where)
    categories: tuple[tuple[int, str], ...] = ()
    kind = item.kind
    if values.dtype.kind == "U":
        names = sorted({v for v in values.tolist() if v})
        categories, kind = tuple(enumerate(names)), "category"
        codes = {name: float(code) for code, name in categories}
        numbers = np.asarray([codes.get(v, math.nan) for v in values.tolist()], np.float32)
    else:
        numbers = np.where(known(values, item.nodata), values, math.nan).astype(np.float32)
    info = TargetInfo(
        name=item.name,
        long_name=item.long_name,
        unit=item.unit,
        bounds=item.bounds,
        kind=kind,
        description=item.description,
        categories=categories,
    )
    return info, numbers
