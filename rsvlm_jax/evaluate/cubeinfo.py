"""What a cube is, as facts: position, bands, dates, clear share, chunks, sizes, suspicions.

Facts are JSON values; `cubepage` prints them. The share of clear pixels is exact for a cube of up
to `EXACT` bytes; of a larger one it comes from chunks spread over it, and the facts say so.
"""

from __future__ import annotations

import collections
import json
import math
from typing import Any

import numpy as np

from data_zarr.cube import Cube
from data_zarr.format import PIXELS, BandSetInfo
from data_zarr.sensors import PLATFORMS
from data_zarr.suspect import layout_of, suspicions

EXACT = 2 * 2**30
"""Bytes of a band set, before compression, of which every mask is read."""
SAMPLE = 64
"""Windows that are read of a larger one."""
STRIP = 256
"""Rows and columns that are read at a time."""


def cube_facts(cube: Cube) -> dict[str, Any]:
    """Everything that `rsvlm cube info` says, as JSON values."""
    grid: Any = cube.grid
    points = cube.points
    bandsets = {name: _bandset(cube, info) for name, info in cube.bandsets.items()}
    stored = sum(entry.size for entry in cube.manifest.files.values())
    raw = sum(b["raw_bytes"] for b in bandsets.values())
    raw += 4 * grid.height * grid.width * len(cube.targets)
    return {
        "path": str(cube.path),
        "title": cube.title,
        "kind": "places" if points else "raster",
        **(_places(cube) if points else _raster(grid)),
        "height": grid.height,
        "width": grid.width,
        "gsd_metres": None if math.isnan(grid.gsd) else round(grid.gsd, 3),
        "license": str(cube.attrs.get("license") or "not stated"),
        "provenance": str(cube.attrs.get("provenance") or "not stated"),
        "files": len(cube.manifest.files),
        "stored_bytes": stored,
        "raw_bytes": raw,
        "compression": round(raw / max(stored, 1), 2),
        "bandsets": bandsets,
        "targets": {
            name: {
                "long_name": t.long_name,
                "unit": t.unit,
                "kind": t.kind,
                "bounds": None if t.bounds is None else list(t.bounds),
                **_values(cube.target(name)),
            }
            for name, t in cube.targets.items()
        },
        "warnings": [
            {"rule": s.rule, "where": s.where, "found": s.found, "remedy": s.remedy}
            for s in suspicions(cube)
        ],
    }


def _raster(grid: Any) -> dict[str, Any]:
    code = f"EPSG:{grid.epsg}" if grid.epsg else grid.crs_wkt.split("\n")[0][:60]
    return {
        "crs": code,
        "bounds": list(grid.bounds),
        "lonlat_bounds": [round(float(v), 6) for v in grid.lonlat_bounds] if grid.placed else None,
    }


def _places(cube: Cube) -> dict[str, Any]:
    bounds = cube.grid.bounds
    box = None if np.isnan(bounds).any() else list(bounds)
    labels = cube.labels
    return {
        "crs": "EPSG:4326",
        "bounds": box,
        "lonlat_bounds": None if box is None else [round(v, 6) for v in box],
        "labels": {name: len(np.unique(values)) for name, values in labels.items()},
    }


def _values(layer: np.ndarray) -> dict[str, Any]:
    known = layer[np.isfinite(layer)]
    return {
        "known_percent": round(100 * known.size / max(layer.size, 1), 1),
        "min": float(known.min()) if known.size else None,
        "max": float(known.max()) if known.size else None,
    }


def _bandset(cube: Cube, info: BandSetInfo) -> dict[str, Any]:
    times, share, exact = clear_share(cube, info.name)
    own = [np.asarray(info.dates).ravel(), np.asarray(info.platform).ravel()]
    known = ~np.isnat(own[0])
    counts = collections.Counter(PLATFORMS[p] for p in own[1][known])
    files = cube.manifest.files
    stored = sum(files[k].size for k in cube.manifest.under(info.name))
    raw = math.prod(info.shape) * info.dtype.itemsize
    mask = math.prod(info.shape) if info.valid_per_band else math.prod(info.shape) // info.shape[1]
    nodata = info.nodata
    return {
        "kind": info.kind,
        "bands": [
            {
                "name": b.name,
                "common_name": b.common_name,
                "wavelength_um": b.wavelength,
                "scale": b.scale,
                "offset": b.offset,
                "unit": b.unit,
            }
            for b in info.bands
        ],
        "dates": [] if info.static else [str(t) for t in times],
        "own_dates": info.dates.ndim > 1,
        "year_known": info.year_known,
        "platforms": dict(counts),
        "valid_percent": [round(100 * float(s), 1) for s in share],
        "valid_exact": exact,
        "factor": info.factor,
        "points": cube.points,
        "dtype": str(info.dtype),
        "nodata": None if nodata is None or math.isnan(nodata) else nodata,
        "shape": list(info.shape),
        "chunks": list(info.chunks),
        "shards": None if info.shards is None else list(info.shards),
        "layout": layout_of(info),
        "codec": _codec(cube, info.name),
        "chunk_bytes": math.prod(info.chunks) * info.dtype.itemsize,
        "stored_bytes": stored,
        "raw_bytes": raw + mask,
        "compression": round((raw + mask) / max(stored, 1), 2),
    }


def _codec(cube: Cube, bandset: str) -> str:
    """The codecs of the inner chunks by name, e.g. "blosc/zstd, crc32c"."""
    document = json.loads(cube.manifest.raw(f"{bandset}/{PIXELS}/zarr.json"))
    inner = document["codecs"][0].get("configuration", {}).get("codecs", document["codecs"])
    names = []
    for codec in inner:
        settings = codec.get("configuration", {})
        level = settings.get("clevel", settings.get("level"))
        name = f"{codec['name']}/{settings['cname']}" if "cname" in settings else codec["name"]
        names.append(name if level is None else f"{name} {level}")
    return ", ".join(n for n in names if n != "bytes")


def clear_share(cube: Cube, bandset: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Days, share of clear pixels on each, float64, and whether all pixels were counted.

    Where each place has its own dates: months instead of days, share of the dates in each.
    """
    info = cube.bandset(bandset)
    reader = cube.reader(bandset)
    height, width = info.shape[2:]
    across = min(STRIP, width)
    down = max(STRIP, STRIP**2 // across)  # a point cube is one column
    windows = [(y, x) for y in range(0, height, down) for x in range(0, width, across)]
    exact = math.prod(info.shape) * info.dtype.itemsize <= EXACT
    if not exact:
        windows = windows[:: -(-len(windows) // SAMPLE)]
    own = info.dates.ndim == 2
    months = info.dates.astype("datetime64[M]") if own else info.dates.astype("datetime64[D]")
    times = np.unique(months[~np.isnat(months)]) if own else months
    clear, seen = np.zeros(len(times)), np.zeros(len(times))
    for y, x in windows:
        _, valid = reader.read(y, x, min(down, height - y), min(across, width - x))
        good = np.asarray(valid.all(axis=1))
        if own:
            when = months[:, y : y + down]
            there = ~np.isnat(when)
            row = np.searchsorted(times, when[there])
            clear += np.bincount(row, good[..., 0][there], minlength=len(times))
            seen += np.bincount(row, minlength=len(times))
        else:
            clear += good.sum(axis=(1, 2))
            seen += good[0].size
    return times, clear / np.maximum(seen, 1), exact
