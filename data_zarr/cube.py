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
    FORMAT_VERSION,
    PIXELS,
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

if TYPE_CHECKING:
    import xarray

__all__ = ["BandInfo", "BandSetInfo", "Cube", "Grid", "TargetInfo", "open_cube"]


class Cube:
    """An open cube. Cheap to pickle: it travels as its path.

    Attributes:
      path, title: where it lies and what it is called.
      grid: rows, columns, CRS.
      bandsets, targets: by name, in the order they were written.
      attrs: attributes of the root group (licence, provenance, ...).
    """

    def __init__(self, path: Path):
        self.path = path
        self.attrs = _root_attributes(path)
        self.manifest = Manifest.read(path)
        self.title = str(self.attrs.get("title", path.name))
        self.grid = Grid.from_attributes(self.attrs, path)
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
        """A target layer, float32 [H, W], NaN where unknown."""
        if name not in self.targets:
            raise CubeError(
                "no such target",
                where=self.path,
                expected="one of " + ", ".join(self.targets),
                found=repr(name),
                remedy=near_miss(name, self.targets),
            )
        return read_array(self.manifest, f"{TARGETS}/{name}")

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
    if attrs.get("format") != FORMAT or attrs.get("format_version") != FORMAT_VERSION:
        raise CubeError(
            "unknown layout",
            where=path,
            expected=f"format {FORMAT!r} version {FORMAT_VERSION}",
            found=f"{attrs.get('format')!r} version {attrs.get('format_version')!r}",
            remedy="a cube of a newer release, or a Zarr store that is not a cube",
        )
    return attrs


def _open_band_set(manifest: Manifest, name: str, grid: Grid) -> BandSetInfo:
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
    if (shape[2], shape[3]) != (grid.height, grid.width):
        raise CubeError(
            "band set and grid differ",
            where=where,
            expected=f"{grid.height} x {grid.width} pixels",
            found=f"{shape[2]} x {shape[3]}",
        )
    _check_axes(manifest, name, grid)
    if static:
        dates = np.full(shape[0], np.datetime64("NaT"), "datetime64[s]")
        platform = np.zeros(shape[0], np.int32)
    else:
        dates, platform = _dates(manifest, name, shape[0], where)
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
        valid_per_band=valid_axes == 4,
        source=source,
    )


def _dates(manifest: Manifest, name: str, n: int, where: str) -> tuple[np.ndarray, np.ndarray]:
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
    if strange := sorted({int(p) for p in stored} - rows.keys()):
        raise CubeError(
            "platform outside the cube's own table",
            where=f"{where}/platform",
            expected=f"0 .. {len(meanings) - 1}",
            found=", ".join(map(str, strange)),
            remedy="write the cube again with the names of its platforms",
        )
    platform = np.asarray([rows[int(p)] for p in stored], np.int32)
    if len(dates) != n or len(platform) != n:
        raise CubeError("dates and pixels differ", where=where, expected=n, found=len(dates))
    check_dates(dates, platform, where)
    return dates, platform


def _open_target(path: Path, name: str, grid: Grid) -> TargetInfo:
    document = _metadata(path, f"{TARGETS}/{name}")
    if tuple(document["shape"]) != (grid.height, grid.width):
        raise CubeError(
            "target and grid differ",
            where=f"{path}: {TARGETS}/{name}",
            expected=(grid.height, grid.width),
            found=tuple(document["shape"]),
        )
    return TargetInfo.from_attributes(name, document.get("attributes", {}))


def _check_axes(manifest: Manifest, name: str, grid: Grid) -> None:
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
