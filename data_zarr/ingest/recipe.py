"""What a cube is to be built from: `Recipe`, frozen dataclasses with no pixel and no open file.

    Recipe(title, license, provenance,
           bandsets=(BandSetRecipe("s2_l2a", (GeoTiffs("*.tif"),), resampling="nearest"),),
           grid=GridSpec(resolution=10), targets=(TargetRecipe("agb", "agb.tif"),))

The same in TOML, and as a Python file that defines `recipe() -> Recipe`: `data_zarr.ingest.load`.
What a source can be is in `data_zarr.ingest.sources`. Whatever the files themselves do not say, or
say in contradiction, is refused; nothing is guessed.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import near_miss
from data_zarr.ingest.encode import Overflow
from data_zarr.ingest.scene import Source
from data_zarr.ingest.warp import RESAMPLING, Resampling
from data_zarr.journal import LEVEL, Codec
from data_zarr.layout import CHUNK, Layout
from data_zarr.sensors import BANDSETS, Band, BandSet, Number, find_band


@dataclasses.dataclass(frozen=True)
class GridSpec:
    """The grid of the cube; what is left out comes from the first scene of the first band set.

    Attributes:
      crs: "EPSG:32633" or WKT.
      resolution: pixel size in units of the CRS.
      bounds: (xmin, ymin, xmax, ymax), outer edges; a whole number of pixels.
      like: a raster whose grid is taken whole.
    """

    crs: str | None = None
    resolution: Number | None = None
    bounds: tuple[Number, Number, Number, Number] | None = None
    like: str | None = None


@dataclasses.dataclass(frozen=True)
class BandSetRecipe:
    """One band set: its sources, joined in time.

    Attributes:
      name: of the group in the cube.
      sources: see `data_zarr.ingest.sources`.
      sensor: row of `data_zarr.sensors.BANDSETS` that its bands are; `name` by default.
      bands: native or common names, in channel order; all of the sensor by default.
      resampling: must be said where a source lies on another grid than the cube.
      factor: pixels this many times as large as the cube's.
      dtype, scale, offset, nodata: of the stored numbers; by default those of the source, with the
        lowest offset where scenes differ, and a nodata that is not 0.
      overflow: "refuse" a value that the dtype cannot hold, or make it "invalid".
      duplicates: "refuse" a platform that repeats an instant, or "mosaic" the two, first by name.
      valid_per_band: keep a mask for each band.
      static: one undated layer.
    """

    name: str
    sources: tuple[Source, ...]
    sensor: str | None = None
    bands: tuple[str, ...] = ()
    resampling: Resampling | None = None
    factor: int = 1
    dtype: str | None = None
    scale: Number | None = None
    offset: Number | None = None
    nodata: Number | None = None
    overflow: Overflow = "refuse"
    duplicates: Literal["refuse", "mosaic"] = "refuse"
    valid_per_band: bool = False
    static: bool = False

    @property
    def row(self) -> BandSet:
        """The sensor's row; CubeError with a near miss."""
        name = self.sensor or self.name
        if name not in BANDSETS:
            raise CubeError(
                "no such sensor",
                where=f"band set {self.name!r}",
                expected="one of " + ", ".join(BANDSETS),
                found=repr(name),
                remedy=near_miss(name, BANDSETS) or "say it with `sensor`",
            )
        return BANDSETS[name]

    @property
    def wanted(self) -> tuple[Band, ...]:
        """The bands, in channel order."""
        row = self.row
        return tuple(row.bands[find_band(row, b)] for b in self.bands) or row.bands


@dataclasses.dataclass(frozen=True)
class TargetRecipe:
    """A target layer from one channel of a raster; float32, NaN where unknown.

    Attributes:
      path, index: raster and channel, from 1.
      scale, offset, nodata: physical = stored * scale + offset; nodata beside the raster's own.
      kind: categories are never mixed: they take "nearest", or nothing where the grids agree.
    """

    name: str
    path: str
    index: int = 1
    unit: str = "1"
    long_name: str = ""
    description: str = ""
    bounds: tuple[Number, Number] | None = None
    kind: Literal["continuous", "category"] = "continuous"
    categories: tuple[tuple[int, str], ...] = ()
    resampling: Resampling | None = None
    scale: Number = 1.0
    offset: Number = 0.0
    nodata: Number | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A cube to be built.

    Attributes:
      title, license, provenance: go into the cube.
      layout, shard, codec, level: see `data_zarr.create_cube`.
      attrs: more root attributes, JSON values.
    """

    title: str
    license: str
    provenance: str
    bandsets: tuple[BandSetRecipe, ...]
    grid: GridSpec = GridSpec()
    targets: tuple[TargetRecipe, ...] = ()
    layout: Layout = "balanced"
    shard: int = 256
    codec: Codec = "zstd"
    level: int = LEVEL
    attrs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Refuses what is wrong in itself, before any file is looked for."""
        names = [b.name for b in self.bandsets]
        if not names or len(set(names)) != len(names):
            raise CubeError("band sets repeated or none", where="recipe", found=", ".join(names))
        if self.shard < 1 or (self.shard > CHUNK and self.shard % CHUNK):
            raise CubeError("shard", where="recipe", expected=f"a multiple of {CHUNK}",
                            found=self.shard)  # fmt: skip
        for bandset in self.bandsets:
            where = f"band set {bandset.name!r}"
            bands = [b.name for b in bandset.wanted]
            if len(set(bands)) != len(bands):
                raise CubeError("bands repeated", where=where, found=", ".join(bands))
            if not bandset.sources:
                raise CubeError("no sources", where=where, expected="one or more", found="none")
            _check_resampling(bandset.resampling, where)
            if bandset.factor < 1:
                raise CubeError("factor", where=where, expected=">= 1", found=bandset.factor)
            check_encoding(bandset.dtype, bandset.scale, bandset.offset, where)
        for target in self.targets:
            where = f"target {target.name!r}"
            _check_resampling(target.resampling, where)
            if target.kind == "category" and target.resampling not in (None, "nearest"):
                raise CubeError(
                    "categories cannot be mixed",
                    where=where,
                    expected='resampling "nearest"',
                    found=repr(target.resampling),
                )

    def at(self, folder: Path) -> Recipe:
        """The recipe with relative paths taken from `folder`."""

        def resolved(item: Any) -> Any:
            changes = {}
            for field in ("path", "like", "table", "curves"):
                value = getattr(item, field, None)
                if isinstance(value, str) and value and not _absolute(value):
                    changes[field] = str(folder / value)
            return dataclasses.replace(item, **changes) if changes else item

        return dataclasses.replace(
            self,
            grid=resolved(self.grid),
            targets=tuple(resolved(t) for t in self.targets),
            bandsets=tuple(
                dataclasses.replace(b, sources=tuple(resolved(s) for s in b.sources))
                for b in self.bandsets
            ),
        )


def _absolute(path: str) -> bool:
    return path.startswith(("/", "~")) or "://" in path


def check_encoding(
    dtype: str | None, scale: Number | None, offset: Number | None, where: str
) -> None:
    """Refuses a dtype that no cube has, and a scale that makes one value of all numbers, or none.

    What is None is not said.
    """
    try:
        kind = "f" if dtype is None else np.dtype(dtype).kind
    except TypeError:
        kind = ""
    if kind not in ("i", "u", "f"):
        raise CubeError(
            "no such dtype",
            where=where,
            expected="integers or floats, e.g. int16",
            found=repr(dtype),
        )
    finite = math.isfinite(1.0 if scale is None else scale) and math.isfinite(offset or 0.0)
    if not finite or scale == 0:
        raise CubeError(
            "impossible scale",
            where=where,
            expected="a finite scale other than 0, and a finite offset",
            found=f"scale {scale}, offset {offset}",
        )


def _check_resampling(value: str | None, where: str) -> None:
    if value is not None and value not in RESAMPLING:
        raise CubeError(
            "no such resampling",
            where=where,
            expected="one of " + ", ".join(RESAMPLING),
            found=repr(value),
            remedy=near_miss(str(value), RESAMPLING),
        )
