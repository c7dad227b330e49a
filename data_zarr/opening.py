"""What opening a cube looks at: metadata, coordinates, dates; refuses what would damage silently.

Parts of `data_zarr.cube.Cube`, which calls them in order. Nothing here reads a pixel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
)
from data_zarr.grid import Grid
from data_zarr.manifest import Manifest
from data_zarr.read import read_array
from data_zarr.remote import RemotePath
from data_zarr.sensors import PLATFORMS
from data_zarr.sites import Sites


def small_files(manifest: Manifest, attrs: dict[str, Any]) -> list[str]:
    """Keys of metadata and coordinates: what opening reads."""
    large = [f"{b}/{a}/" for b in attrs.get("bandsets", ()) for a in (PIXELS, VALID)]
    large += [f"{TARGETS}/{t}/" for t in attrs.get("targets", ())]
    return [k for k in manifest.files if k.endswith("zarr.json") or not k.startswith((*large,))]


def root_attributes(path: Path | RemotePath) -> dict[str, Any]:
    """Attributes of the root group; CubeError for what is no cube, or of another version."""
    document = path / "zarr.json"
    try:
        text = document.read_text()
        if isinstance(document, RemotePath):
            document.check_ranges()
    except (FileNotFoundError, NotADirectoryError) as error:
        if isinstance(path, RemotePath) or not path.exists():
            raise CubeError(
                "no such cube",
                where=path,
                expected="a folder that data_zarr.create_cube wrote",
                found="nothing at this path",
                remedy="check the path",
            ) from error
        old = any((path / n).exists() for n in (".zgroup", ".zarray", ".zmetadata"))
        raise CubeError(
            "not a Zarr v3 store",
            where=path,
            expected="zarr.json",
            found="Zarr v2" if old else "none",
            remedy="write it again with data_zarr.create_cube" if old else None,
        ) from error
    except OSError as error:
        raise CubeError("cannot reach the cube", where=path, found=str(error)) from error
    except UnicodeDecodeError as error:
        raise CubeError("unreadable metadata", where=document, found=str(error)[:120]) from error
    try:
        attrs = json.loads(text)["attributes"]
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


def place_of(manifest: Manifest, attrs: dict[str, Any]) -> Grid | Sites:
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


def open_band_set(manifest: Manifest, name: str, grid: Grid | Sites) -> BandSetInfo:
    """The record of a band set, its metadata, coordinates and dates held against each other."""
    where = f"{manifest.root}: {name}"
    document = metadata_of(manifest, name)
    array = metadata_of(manifest, f"{name}/{PIXELS}")
    try:
        attrs = document["attributes"]
        bands = tuple(BandInfo.from_attributes(b) for b in attrs["bands"])
        shape = tuple(array["shape"])
        shards = tuple(array["chunk_grid"]["configuration"]["chunk_shape"])
        chunks = tuple(array["codecs"][0]["configuration"]["chunk_shape"])
        static = bool(attrs["static"])
        kind, nodata = attrs["kind"], decode_number(attrs["nodata"])
        source = attrs.get("source", "")
        valid_axes = len(metadata_of(manifest, f"{name}/{VALID}")["shape"])
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
    check_axes(manifest, name, own)
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
    try:
        manifest.raw(f"{name}/time/zarr.json")
    except CubeError as error:
        raise CubeError(
            "no dates",
            where=where,
            expected="a time coordinate",
            found="none",
            remedy="write the cube again with dates, or declare the band set static",
        ) from error
    dates = read_array(manifest, f"{name}/time").astype("datetime64[s]")
    stored = read_array(manifest, f"{name}/platform")
    meanings = metadata_of(manifest, f"{name}/platform")["attributes"]["flag_meanings"].split()
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


def open_target(manifest: Manifest, name: str, grid: Grid | Sites) -> TargetInfo:
    """The record of a target; CubeError when it is not of the cube's shape."""
    document = metadata_of(manifest, f"{TARGETS}/{name}")
    shape = (grid.height,) if isinstance(grid, Sites) else (grid.height, grid.width)
    if tuple(document["shape"]) != shape:
        raise CubeError(
            "target and grid differ",
            where=f"{manifest.root}: {TARGETS}/{name}",
            expected=shape,
            found=tuple(document["shape"]),
        )
    return TargetInfo.from_attributes(name, document.get("attributes", {}))


def check_axes(manifest: Manifest, name: str, grid: Grid | Sites) -> None:
    """Refuses a group whose coordinates are not those of its grid or of the cube's sites."""
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


def metadata_of(manifest: Manifest, node: str) -> dict[str, Any]:
    """The document of a group or array."""
    try:
        return json.loads(manifest.raw(f"{node}/zarr.json"))
    except (CubeError, ValueError, KeyError) as error:
        raise CubeError(
            "missing metadata",
            where=f"{manifest.root}: {node}",
            expected="zarr.json",
            found=str(error)[:120],
        ) from error
