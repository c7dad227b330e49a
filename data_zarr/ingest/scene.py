"""What a source says of itself before a pixel is read: scenes of layers, as plain data.

    source.inspect(wanted) -> Found(scenes, notes)
      Scene   one acquisition: instant (UTC), platform, one Layer a band asked for, quality Masks
      Layer   one two-dimensional array on disk, its grid, and how its numbers become physical
      Mask    a quality layer and which of its numbers are refused

A source is done once it has been inspected: `data_zarr.ingest.native` reads any layer, so a task
carries no source, only this. Physical value = stored * scale + offset, then `curve` where there is
one; `units` says whether backscatter is linear power or dB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from data_zarr.grid import Grid
from data_zarr.sensors import Band, BandSet, Number

Units = Literal["", "db", "linear"]


@dataclasses.dataclass(frozen=True)
class Dark:
    """How the haze of a layer is found from its own dark pixel (`data_zarr.atmosphere`).

    Attributes:
      method: "dos1" or "cost".
      sun: W m-2 um-1 at the mean distance.
      cosine: of the solar zenith angle.
      distance: Earth to Sun in astronomical units.
      number: the stored number of the dark object; None looks it up in the histogram.
      share: of the known pixels that may be darker than it.
    """

    method: Literal["dos1", "cost"]
    sun: Number
    cosine: Number
    distance: Number
    number: Number | None = None
    share: Number = 0.01


@dataclasses.dataclass(frozen=True)
class Layer:
    """One two-dimensional array on disk.

    Attributes:
      path: of a raster (anything rasterio opens), or of the store that holds `variable`.
      grid: north-up, as `native.read` returns the rows.
      dtype: of the stored numbers.
      index: channel of a raster, from 1.
      variable: array in a NetCDF, Zarr, HDF5 or NumPy file; "" for a raster.
      select: its other dimensions and where along them this layer lies.
      axes: names of its row and column dimensions.
      flip: rows are stored from the south up.
      scale, offset, nodata: see the module docstring; `nodata` is a stored number.
      curve: (a, b, c) of rho = (a L - b) / (1 + c (a L - b)), L being the scaled number.
      dark: haze to find before the first task; then it has gone into scale and offset.
    """

    path: str
    grid: Grid
    dtype: str
    index: int = 1
    variable: str = ""
    select: tuple[tuple[str, int], ...] = ()
    axes: tuple[str, str] = ("y", "x")
    flip: bool = False
    scale: Number = 1.0
    offset: Number = 0.0
    nodata: Number | None = None
    units: Units = ""
    curve: tuple[Number, Number, Number] | None = None
    dark: Dark | None = None

    @property
    def name(self) -> str:
        """For people: file, and what in it."""
        return f"{self.path}: {self.variable}" if self.variable else f"{self.path}#{self.index}"


@dataclasses.dataclass(frozen=True)
class Mask:
    """A quality layer: a pixel is refused where a bit is set, or its number listed or too large.

    Attributes:
      bits: refused when any is set.
      values: refused numbers.
      allowed: if given, all other numbers are refused.
      above: if given, larger numbers are refused: a probability.
    """

    layer: Layer
    bits: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    allowed: tuple[int, ...] = ()
    above: Number | None = None

    def refused(self, numbers: np.ndarray) -> np.ndarray:
        """True where a pixel may not be used.

        >>> Mask(layer=None, bits=(3,), values=(7,)).refused(np.array([0, 8, 12, 7]))
        array([False,  True,  True,  True])
        """
        out = np.isin(numbers, self.values)
        if self.bits:
            word = sum(1 << b for b in self.bits)
            out = out | ((numbers & np.asarray(word, numbers.dtype)) != 0)
        if self.allowed:
            out = out | ~np.isin(numbers, self.allowed)
        if self.above is not None:
            out = out | (numbers > self.above)
        return out


@dataclasses.dataclass(frozen=True)
class Scene:
    """One acquisition. `name` is that of the product, without its folder: it goes into the cube."""

    name: str
    date: np.datetime64
    platform: str
    layers: tuple[Layer, ...]
    masks: tuple[Mask, ...] = ()


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source holds; `notes` are lines for people."""

    scenes: tuple[Scene, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a band set asks of its sources: bands of a sensor's row, in channel order.

    Attributes:
      where: the band set, for messages.
      static: one undated layer is expected.
    """

    bands: tuple[Band, ...]
    row: BandSet
    where: str
    static: bool = False

    @property
    def reflectance(self) -> bool:
        """True where the numbers are reflectances, so that a scale must be known."""
        return self.row.kind == "optical" and all(b.unit == "1" for b in self.bands)


@runtime_checkable
class Source(Protocol):
    """A frozen dataclass of a recipe that can say what it holds, from metadata alone.

    `path` is a file or a glob; relative ones belong to the folder of the recipe.
    """

    @property
    def path(self) -> str: ...

    def inspect(self, wanted: Wanted) -> Found:
        """The scenes, each with one layer for every band asked for, in that order.

        Raises:
          CubeError: nothing found, or metadata that are missing, wrong or contradictory.
        """
        ...


def to_json(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Scenes as JSON values; each grid is written once."""
    grids: dict[Grid, int] = {}

    def layer(item: Layer) -> dict[str, Any]:
        record = {
            f.name: getattr(item, f.name)
            for f in dataclasses.fields(item)
            if getattr(item, f.name) != f.default
        }
        record["grid"] = grids.setdefault(item.grid, len(grids))
        return record

    rows = [
        {
            "name": s.name,
            "date": int(s.date.astype("datetime64[s]").astype("int64")),
            "platform": s.platform,
            "layers": [layer(x) for x in s.layers],
            "masks": [
                {**{k: getattr(m, k) for k in ("bits", "values", "allowed", "above")},
                 "layer": layer(m.layer)}
                for m in s.masks
            ],
        }
        for s in scenes
    ]  # fmt: skip
    return {"grids": [dataclasses.asdict(g) for g in grids], "scenes": rows}


def from_json(content: dict[str, Any]) -> tuple[Scene, ...]:
    """Inverse of `to_json`, for scenes whose haze is known."""
    grids = [Grid(**{**g, "transform": tuple(g["transform"])}) for g in content["grids"]]

    def layer(record: dict[str, Any]) -> Layer:
        more = {k: tuple(record[k]) for k in ("axes", "curve") if k in record}
        if "select" in record:
            more["select"] = tuple((str(d), int(i)) for d, i in record["select"])
        return Layer(**{**record, **more, "grid": grids[record["grid"]]})

    def mask(record: dict[str, Any]) -> Mask:
        rules = {k: tuple(record[k]) for k in ("bits", "values", "allowed")}
        return Mask(layer(record["layer"]), **rules, above=record["above"])

    return tuple(
        Scene(
            name=row["name"],
            date=np.datetime64(row["date"], "s"),
            platform=row["platform"],
            layers=tuple(layer(x) for x in row["layers"]),
            masks=tuple(mask(m) for m in row["masks"]),
        )
        for row in content["scenes"]
    )
