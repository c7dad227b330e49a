"""`rsvlm cube build`: a cube from a recipe and the archives that it names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from .options import parse, say


@dataclasses.dataclass(frozen=True)
class Build:
    """Build a cube from a recipe; run again, it goes on where it stopped."""

    recipe: Positional[Path]
    """A .toml file, or a .py file that defines `recipe() -> Recipe`."""
    out: Path | None = None
    """Path of the new store; the recipe's name with .zarr by default, in the working directory."""
    root: Path | None = None
    """Folder at which relative paths of the recipe start; that of the recipe by default."""
    scheduler: str = "threads"
    """threads, processes (a local dask cluster), or an address such as tcp://host:8786."""
    workers: int | None = None
    """Threads or processes; the number of cores by default."""
    dry_run: bool = False
    """Check everything that needs no pixel and print what would be built."""
    overwrite: bool = False
    """Replace a store that is there."""


def build(args: Sequence[str]) -> dict[str, object]:
    """Parse, plan, build."""
    o = parse(Build, args, prog="rsvlm cube build")
    from data_zarr.ingest import build_plan, load_recipe, make_plan

    from .progress import Bars

    plan = make_plan(load_recipe(o.recipe, o.root))
    facts = plan.describe()
    for line in _lines(facts):
        say(line)
    if o.dry_run:
        for doubt in facts["warnings"]:
            say(f"warning: {doubt}")
        return {"dry_run": True, **facts}
    out = o.out or Path(o.recipe.stem + ".zarr")
    with Bars() as bars:
        built = build_plan(
            plan,
            out,
            scheduler=o.scheduler,
            workers=o.workers,
            overwrite=o.overwrite,
            progress=lambda done, total: bars.update("shards", done, total),
        )
    say(f"built: {out}, {built.written} of {built.tasks} shards in this run")
    return {
        "cube": str(out),
        "digest": built.digest,
        "tasks": built.tasks,
        "written": built.written,
        "notes": list(built.notes),
        "warnings": list(built.warnings),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    """The plan for people."""
    if "sites" in facts:
        return _point_lines(facts)
    grid = facts["grid"]
    west, south, east, north = grid["lonlat"]
    lines = [
        f"{facts['title']}: {_bytes(facts['bytes'])} uncompressed, {facts['tasks']} shards of "
        f"{facts['shard']} pixels, layout {facts['layout']}",
        f"grid: {grid['crs'][:40]}, {grid['shape'][0]} x {grid['shape'][1]} pixels of "
        f"{grid['resolution'][0]:g}, {west:.4f}..{east:.4f} E, {south:.4f}..{north:.4f} N",
    ]
    for b in facts["bandsets"]:
        dates = b["dates"]
        when = f"{len(dates)} dates {dates[0][:10]}..{dates[-1][:10]}" if dates else "static"
        lines.append(
            f"{b['name']}: {' x '.join(map(str, b['shape']))} {b['dtype']}, {when}, "
            f"{', '.join(b['platforms']) or 'no platform'}; resampling {b['resampling']}"
        )
        packed: dict[tuple[float, float], list[str]] = {}
        for band in b["bands"]:
            packed.setdefault((band["scale"], band["offset"]), []).append(band["name"])
        lines += [
            f"  {' '.join(names)}: stored * {scale:g} {'-' if offset < 0 else '+'} {abs(offset):g}"
            for (scale, offset), names in packed.items()
            if not math.isnan(scale)
        ]
    for t in facts["targets"]:
        lines.append(f"target {t['name']} [{t['unit']}]; resampling {t['resampling'] or 'none'}")
    return lines + [f"note: {n}" for n in facts["notes"]]


def _point_lines(facts: dict[str, Any]) -> list[str]:
    where = "at unknown places"
    if facts["lonlat"]:
        west, south, east, north = facts["lonlat"]
        where = f"{west:.4f}..{east:.4f} E, {south:.4f}..{north:.4f} N"
    when = " ".join(d[:10] for d in facts["dates"]) or "undated"
    lines = [
        f"{facts['title']}: {facts['sites']} sites, {where}, {facts['dates_a_site']} dates a site, "
        f"{when}",
        f"labels: {', '.join(facts['labels']) or 'none'}",
    ]
    for b in facts["bandsets"]:
        lines.append(
            f"{b['name']}: {' x '.join(map(str, b['shape']))} {b['dtype']}, "
            f"{b['valid']:.0%} valid: {' '.join(b['bands'])}"
        )
    lines += [f"target {t['name']} [{t['unit']}]: {t['known']:.0%} known" for t in facts["targets"]]
    return lines


def _bytes(count: int) -> str:
    n = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
