"""Opening a cube: `open_cube(path) -> Cube`, the only door. Nothing else opens a store.

A `Cube` knows names, grid, dates and encodings; pixels come from `Cube.reader()` (raw windows by
index, for training and inference) or `Cube.to_xarray()` (labelled, lazy, decoded, for people).
Opening reads metadata and coordinates only, and refuses what would damage silently: no CRS, no
dates, unsorted or repeated instants, bands that two places of the store name in another order,
an unfinished or edited cube.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import (
    FORMAT,
    LABELS,
    PIXELS,
    READABLE,
    TARGETS,
    VALID,
    BandInfo,
    BandSetInfo,
    TargetInfo,
    check_dates,
    decode_number,
    near_miss,
)
from data_zarr.grid import Grid
from data_zarr.manifest import Manifest
from data_zarr.read import Reader, read_array
from data_zarr.sensors import PLATFORMS
from data_zarr.sites import Sites

if TYPE_CHECKING:
    import xarray

__all__ = ["BandInfo", "BandSetInfo", "Cube", "Grid", "TargetInfo", "open_cube"]


class Cube:
    """An open cube. Cheap to pickle: it travels as its path.

    Attributes:
      path, title: where it lies and what it is called.
      grid: rows, columns, CRS of the finest pixels; the `Sites` of a point cube.
      bandsets, targets: by name, in the order they were written.
      attrs: attributes of the root group (licence, provenance, ...).
    """

    def __init__(self, path: Path):
        self.path = path
        self.attrs = _root_attributes(path)
        self.manifest = Manifest.read(path)
        self.title = str(self.attrs.get("title", path.name))
        self.grid: Grid | Sites = _place(self.manifest, self.attrs)
        self.bandsets: dict[str, BandSetInfo] = {
            name: _open_band_set(self.manifest, name, self.grid) for name in self.attrs["bandsets"]
        }
        self.targets: dict[str, TargetInfo] = {
            name: _open_target(path, name, self.grid) for name in self.attrs["targets"]
        }
        metadata = [k for k in self.manifest.files if k.endswith("zarr.json")]
        for error in self.manifest.problems(metadata, deep=True):
            error.remedy = "undo the edit, or seal the cube again"
            raise error

    def __reduce__(self) -> tuple[Any, ...]:
        return Cube, (self.path,)

    def __repr__(self) -> str:
        sets = ", ".join(f"{n} {'x'.join(map(str, b.shape))}" for n, b in self.bandsets.items())
        return f"Cube({self.title!r}, {sets}, targets: {', '.join(self.targets) or 'none'})"

    @property
    def points(self) -> bool:
        """Places instead of a raster: `grid` is `Sites`."""
        return isinstance(self.grid, Sites)

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Of the sites of a point cube, [S] each: groups to split by; none for a raster."""
        return dict(self.grid.labels) if isinstance(self.grid, Sites) else {}

    def grid_of(self, name: str) -> Grid | Sites:
        """The grid of a band set's own pixels, or the sites."""
        info = self.bandset(name)
        return self.grid.coarse(info.factor) if isinstance(self.grid, Grid) else self.grid

    def bandset(self, name: str) -> BandSetInfo:
        """A band set by name; CubeError with near misses."""
        if name not in self.bandsets:
            raise CubeError(
                "no such band set",
                where=self.path,
                expected="one of " + ", ".join(self.bandsets),
                found=repr(name),
                remedy=near_miss(name, self.bandsets),
            )
        return self.bandsets[name]

    def reader(
        self, bandset: str, bands: Sequence[str] | None = None, preload: bool = False
    ) -> Reader:
        """Raw windows of a band set.

        Args:
          bands: native or common names, in the order wanted; all bands by default.
          preload: keep the whole array in memory, so that a read is a NumPy slice.

        Raises:
          CubeError: unknown band set or band, or no band at all; a chunk that is missing or of
            another size.
        """
        info = self.bandset(bandset)
        where = f"{self.path}: {bandset}"
        if bands is not None and not len(bands):
            raise CubeError(
                "no band asked for",
                where=where,
                expected=f"some of {', '.join(info.band_names)}",
                found="an empty list",
                remedy="leave `bands` out to read all",
            )
        channels = None if bands is None else tuple(info.index(b, where) for b in bands)
        return Reader(self.path, info, channels, preload=preload)

    def target(self, name: str) -> np.ndarray:
        """A target layer, float32 [H, W] ([S, 1] for points), NaN where unknown."""
        if name not in self.targets:
            raise CubeError(
                "no such target",
                where=self.path,
                expected="one of " + ", ".join(self.targets),
                found=repr(name),
                remedy=near_miss(name, self.targets),
            )
        values = read_array(self.manifest, f"{TARGETS}/{name}")
        return values[:, None] if self.points else values

    def to_xarray(self, bandset: str, *, chunks: Any = None) -> xarray.Dataset:
        """A lazy, CF-decoded dataset: physical `pixels` with NaN for nodata, and `valid`.

        Args:
          chunks: as in `xarray.open_zarr`; None reads on demand without dask, {} gives dask.
        """
        import xarray as xr

        info = self.bandset(bandset)
        data = xr.open_zarr(
            self.path,
            group=bandset,
            consolidated=False,
            zarr_format=3,
            chunks=chunks,
            decode_coords="all",
        )
        scales = {(b.scale, b.offset) for b in info.bands}
        if len(scales) > 1:  # CF packs one pair an array, so several are applied here
            scale = xr.DataArray([b.scale for b in info.bands], dims="band")
            offset = xr.DataArray([b.offset for b in info.bands], dims="band")
            attrs = data[PIXELS].attrs
            data[PIXELS] = (data[PIXELS] * scale + offset).assign_attrs(attrs)
        return data

    def digest(self) -> str:
        """SHA-256 over every file of the cube, from its manifest."""
        return self.manifest.digest()


def open_cube(path: str | os.PathLike[str]) -> Cube:
    """Opens a cube.

    Raises:
      CubeError: nothing there, not Zarr v3, not a cube or of another format version, incomplete,
        edited since it was written, without CRS, without dates, with unsorted or repeated dates,
        with bands in contradictory order.
    """
    return Cube(Path(path).absolute())


def _root_attributes(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CubeError(
            "no such cube",
            where=path,
            expected="a folder that data_zarr.create_cube wrote",
            found="nothing at this path",
            remedy="check the path",
        )
    document = path / "zarr.json"
    if not document.is_file():
        old = any((path / n).exists() for n in (".zgroup", ".zarray", ".zmetadata"))
        raise CubeError(
            "not a Zarr v3 store",
            where=path,
            expected="zarr.json",
            found="Zarr v2" if old else "none",
            remedy="write it again with data_zarr.create_cube" if old else None,
        )
    try:
        attrs = json.loads(document.read_text())["attributes"]
    except (ValueError, KeyError) as error:
        raise CubeError("unreadable metadata", where=document, found=str(error)[:120]) from error
    if attrs.get("format") != FORMAT or attrs.get("format_version") not in READABLE:
        raise CubeError(
            "unknown layout",
            where=path,
            expected=f"format {FORMAT!r} version {' or '.join(map(str, READABLE))}",
            found=f"{attrs.get('format')!r} version {attrs.get('format_version')!r}",
            remedy="a cube of a newer release, or a Zarr store that is not a cube",
        )
    return attrs


def _place(manifest: Manifest, attrs: dict[str, Any]) -> Grid | Sites:
    """The grid of a raster cube, or the sites of a point cube, from its group of labels."""
    if attrs.get("featureType") != "timeSeries":
        return Grid.from_attributes(attrs, manifest.root)
    names = {k.split("/")[1] for k in manifest.under(LABELS) if k.count("/") > 1}
    columns = {n: read_array(manifest, f"{LABELS}/{n}") for n in sorted(names)}
    try:
        ids, lon, lat = (columns.pop(k) for k in ("site", "lon", "lat"))
    except KeyError as error:
        raise CubeError(
            "sites without a place", where=manifest.root, found=f"no {error}"
        ) from error
    sites = Sites(ids, lon, lat, columns, attrs.get("site_gsd"))
    sites.check(manifest.root)
    return sites


def _open_band_set(manifest: Manifest, name: str, grid: Grid | Sites) -> BandSetInfo:
    where = f"{manifest.root}: {name}"
    document = _metadata(manifest.root, name)
    array = _metadata(manifest.root, f"{name}/{PIXELS}")
    try:
        attrs = document["attributes"]
        bands = tuple(BandInfo.from_attributes(b) for b in attrs["bands"])
        shape = tuple(array["shape"])
        shards = tuple(array["chunk_grid"]["configuration"]["chunk_shape"])
        chunks = tuple(array["codecs"][0]["configuration"]["chunk_shape"])
        static = bool(attrs["static"])
        kind, nodata = attrs["kind"], decode_number(attrs["nodata"])
        source = attrs.get("source", "")
        valid_axes = len(_metadata(manifest.root, f"{name}/{VALID}")["shape"])
        factor, year_known = int(attrs.get("factor", 1)), bool(attrs.get("year_known", True))
    except (KeyError, IndexError, TypeError) as error:
        raise CubeError("damaged metadata", where=where, found=f"no {error}") from error
    stored_names = tuple(str(b) for b in read_array(manifest, f"{name}/band"))
    names = tuple(b.name for b in bands)
    if stored_names != names or len(names) != shape[1]:
        raise CubeError(
            "bands permuted or missing",
            where=where,
            expected=f"the order of the band coordinate: {', '.join(stored_names)}",
            found=f"{', '.join(names)} in the band metadata, {shape[1]} channels",
            remedy="which wavelength belongs to which channel is unknown: write the cube again",
        )
    mask_axes, points = len(shape), isinstance(grid, Sites)
    own = grid if isinstance(grid, Sites) else grid.coarse(factor)
    if points:
        shape, shards, chunks = ((*v, 1) for v in (shape, shards, chunks))
    if len(shape) != 4 or shape[2:] != (own.height, own.width):
        raise CubeError(
            "band set and grid differ",
            where=where,
            expected=f"{own.height} x {own.width} pixels",
            found=" x ".join(map(str, shape[2:])),
        )
    _check_axes(manifest, name, own)
    if static:
        dates = np.full(shape[0], np.datetime64("NaT"), "datetime64[s]")
        platform = np.zeros(shape[0], np.int32)
    else:
        dates, platform = _dates(manifest, name, shape, grid, where)
    return BandSetInfo(
        name=name,
        kind=kind,
        bands=bands,
        dates=dates,
        platform=platform,
        dtype=np.dtype(array["data_type"]),
        nodata=nodata,
        static=static,
        shape=shape,
        chunks=chunks,
        shards=shards,
        valid_per_band=valid_axes == mask_axes,
        source=source,
        factor=factor,
        year_known=year_known,
        points=points,
    )


def _dates(
    manifest: Manifest, name: str, shape: tuple[int, ...], grid: Grid | Sites, where: str
) -> tuple[np.ndarray, np.ndarray]:
    if not (manifest.root / name / "time" / "zarr.json").is_file():
        raise CubeError(
            "no dates",
            where=where,
            expected="a time coordinate",
            found="none",
            remedy="write the cube again with dates, or declare the band set static",
        )
    dates = read_array(manifest, f"{name}/time").astype("datetime64[s]")
    stored = read_array(manifest, f"{name}/platform")
    meanings = _metadata(manifest.root, f"{name}/platform")["attributes"]["flag_meanings"].split()
    # By name: a cube written with another release keeps its meaning.
    rows = {i: PLATFORMS.index(m) if m in PLATFORMS else 0 for i, m in enumerate(meanings)}
    if strange := sorted({*np.unique(stored).tolist()} - rows.keys()):
        raise CubeError(
            "platform outside the cube's own table",
            where=f"{where}/platform",
            expected=f"0 .. {len(meanings) - 1}",
            found=", ".join(map(str, strange)),
            remedy="write the cube again with the names of its platforms",
        )
    platform = np.asarray([rows[i] for i in range(len(meanings))], np.int32)[stored]
    sites = grid.ids if isinstance(grid, Sites) else ()
    fits = dates.shape == (shape[0],) or (len(sites) and dates.shape == (shape[0], len(sites)))
    if not fits or platform.shape != dates.shape:
        raise CubeError(
            "dates and pixels differ", where=where, expected=shape[0], found=list(dates.shape)
        )
    check_dates(dates, platform, where, sites)
    return dates, platform


def _open_target(path: Path, name: str, grid: Grid | Sites) -> TargetInfo:
    document = _metadata(path, f"{TARGETS}/{name}")
    shape = (grid.height,) if isinstance(grid, Sites) else (grid.height, grid.width)
    if tuple(document["shape"]) != shape:
        raise CubeError(
            "target and grid differ",
            where=f"{path}: {TARGETS}/{name}",
            expected=shape,
            found=tuple(document["shape"]),
        )
    return TargetInfo.from_attributes(name, document.get("attributes", {}))


def _check_axes(manifest: Manifest, name: str, grid: Grid | Sites) -> None:
    if isinstance(grid, Sites):
        for column, expected in (("site", grid.ids), ("lon", grid.lon), ("lat", grid.lat)):
            found = read_array(manifest, f"{name}/{column}")
            same = (found == expected) | (found != found) & (expected != expected)
            if found.shape != expected.shape or not same.all():
                raise CubeError(
                    f"coordinate {column} disagrees with the cube's sites",
                    where=f"{manifest.root}: {name}/{column}",
                    remedy="another order of sites, or an edited coordinate",
                )
        return
    for axis, expected in (("y", grid.y), ("x", grid.x)):
        found = read_array(manifest, f"{name}/{axis}")
        step = abs(grid.transform[4 if axis == "y" else 0])
        if found.shape != expected.shape or not np.allclose(
            found, expected, rtol=0, atol=step / 10
        ):
            raise CubeError(
                f"coordinate {axis} disagrees with the transform",
                where=f"{manifest.root}: {name}/{axis}",
                expected=f"{expected[0]:.6f} .. {expected[-1]:.6f}",
                found=f"{found[0]:.6f} .. {found[-1]:.6f}" if found.size else "nothing",
                remedy="ascending y, swapped axes or an edited transform",
            )


def _metadata(root: Path, node: str) -> dict[str, Any]:
    path = root / node / "zarr.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CubeError(
            "missing metadata",
            where=f"{root}: {node}",
            expected="zarr.json",
            found=str(error)[:120],
        ) from error
