"""What a cube is, as facts and as a page for a terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_zarr.cube import Cube
from data_zarr.format import BandSetInfo
from data_zarr.schema import Report

STRIP = 256
"""Rows that are read at a time when valid pixels are counted."""


def cube_facts(cube: Cube) -> dict[str, Any]:
    """Everything that `rsvlm cube info` says, as JSON values. Reads all validity masks."""
    grid = cube.grid
    return {
        "path": str(cube.path),
        "title": cube.title,
        "crs": f"EPSG:{grid.epsg}" if grid.epsg else grid.crs_wkt.split("\n")[0],
        "height": grid.height,
        "width": grid.width,
        "gsd_metres": None if np.isnan(grid.gsd) else round(grid.gsd, 3),
        "license": str(cube.attrs.get("license", "not stated")),
        "bandsets": {name: _bandset(cube, info) for name, info in cube.bandsets.items()},
        "targets": {
            name: {
                "long_name": t.long_name,
                "unit": t.unit,
                "kind": t.kind,
                "known_percent": round(100 * float(np.isfinite(cube.target(name)).mean()), 1),
            }
            for name, t in cube.targets.items()
        },
    }


def _bandset(cube: Cube, info: BandSetInfo) -> dict[str, Any]:
    share = valid_share(cube, info.name)
    known = np.unique(info.dates[~np.isnat(info.dates)]) if info.dates.ndim == 2 else info.dates
    dates = [] if info.static else [str(d.astype("datetime64[D]")) for d in known]
    return {
        "kind": info.kind,
        "bands": [
            {"name": b.name, "common_name": b.common_name, "wavelength_um": b.wavelength}
            for b in info.bands
        ],
        "dates": dates,
        "valid_percent": [round(100 * float(s), 1) for s in share],
        "dtype": str(info.dtype),
        "shape": list(info.shape),
        "chunks": list(info.chunks),
        "shards": None if info.shards is None else list(info.shards),
    }


def valid_share(cube: Cube, bandset: str) -> np.ndarray:
    """Share of valid pixels by date, float64 [T]."""
    reader = cube.reader(bandset)
    height, width = reader.info.shape[2:]
    total = np.zeros(reader.info.shape[0])
    for y in range(0, height, STRIP):
        h = min(STRIP, height - y)
        _, valid = reader.read(y, 0, h, width)
        total += valid.all(axis=1).sum(axis=(1, 2))
    return total / (height * width)


def facts_page(facts: dict[str, Any]) -> Table:
    """The facts as one table."""
    table = Table(
        title=f"{facts['title']}: {facts['height']} x {facts['width']} pixels of "
        f"{facts['gsd_metres'] or np.nan:.1f} m, {facts['crs']}",
        title_justify="left",
        caption=f"licence: {facts['license']}",
        caption_justify="left",
    )
    for head in ("band set", "bands (wavelength in µm)", "dates", "valid", "chunks / shards"):
        table.add_column(head)
    for name, b in facts["bandsets"].items():
        table.add_row(name, _bands(b), _dates(b), _valid(b), _chunks(b))
    for name, t in facts["targets"].items():
        known = f"{t['known_percent']:.0f} %"
        table.add_row(f"target {name}", f"{t['long_name']} [{t['unit']}]", "", known, "")
    return table


def _bands(b: dict[str, Any]) -> str:
    words = []
    for band in b["bands"]:
        common = f" {band['common_name']}" if band["common_name"] else ""
        wave = "" if band["wavelength_um"] is None else f" {band['wavelength_um']:.3f}"
        words.append(f"{band['name']}{common}{wave}")
    return ", ".join(words)


def _dates(b: dict[str, Any]) -> str:
    dates = b["dates"]
    if not dates:
        return "static"
    return ", ".join(dates) if len(dates) <= 6 else f"{len(dates)}: {dates[0]} .. {dates[-1]}"


def _valid(b: dict[str, Any]) -> str:
    shares = b["valid_percent"]
    if len(shares) <= 6:
        return ", ".join(f"{s:.0f} %" for s in shares)
    return f"{np.mean(shares):.0f} % ({min(shares):.0f} .. {max(shares):.0f})"


def _chunks(b: dict[str, Any]) -> str:
    shards = "" if b["shards"] is None else " / " + "x".join(map(str, b["shards"]))
    return "x".join(map(str, b["chunks"])) + shards


def print_facts(facts: dict[str, Any]) -> None:
    Console().print(facts_page(facts))


def print_report(report: Report) -> None:
    """Every rule of a validation: level, rule, place, expected, found."""
    console = Console()
    for row in report.rows:
        found = f"; expected {row.expected}; found {row.found}" if row.level != "ok" else ""
        console.print(f"{row.level:5} {row.rule} ({row.where}){found}", markup=False)
    console.print("valid" if report.ok else "NOT valid")
