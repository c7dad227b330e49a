"""The folds of a cube in words: JSON facts, one line each for people, a table of 80 columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.table import Table

from .cubefolds import CubeFolds, finite_range, is_category


def folds_facts(found: CubeFolds) -> dict[str, Any]:
    """Everything that `rsvlm cube folds` says, as JSON values."""
    v = found.variogram
    rows = []
    for f, (s, r) in enumerate(zip(found.splits, found.reports, strict=True)):
        y = np.zeros(0) if found.values is None else found.values[s.test]
        y = y[np.isfinite(y)]
        number = len(y) > 0 and not is_category(found.cube, found.target)
        rows.append(
            {
                "fold": f,
                "name": found.names[f],
                "train": r.train_windows,
                "test": r.test_windows,
                "left_out": len(found.train_table) - r.train_windows
                if not found.places
                else len(found.fold_of) - r.train_windows - r.test_windows,
                "shared_pixels": r.shared_pixels,
                "shared_places": r.shared_places,
                "distance_pixels": None if found.places else r.min_distance,
                "distance_metres": r.min_distance_metres,
                "nearer_than_range": r.nearer_than_range,
                "target_n": len(y),
                "target_mean": float(y.mean()) if number else None,
                "target_std": float(y.std()) if number else None,
                "ok": r.ok,
            }
        )
    return {
        "cube": str(found.cube.path),
        "title": found.cube.title,
        "kind": "places" if found.places else "raster",
        "block": found.block,
        "block_unit": "km" if found.places else "pixels",
        "group": found.request.group,
        "window": None if found.places else found.request.window,
        "buffer": found.buffer,
        "buffer_unit": "m" if found.places else "pixels",
        "stratify": found.request.stratify,
        "target": found.target,
        "variogram": None
        if v is None
        else {
            "model": v.model,
            "found": v.found,
            "range_metres": finite_range(v),
            "nugget": v.nugget,
            "sill": v.sill,
        },
        "folds": rows,
        "ok": all(r["ok"] for r in rows),
    }


def distance(metres: float | None) -> str:
    """Metres for people: "90 m", "12.2 km"."""
    if metres is None or not math.isfinite(metres):
        return "-"
    return f"{metres / 1000:.3g} km" if metres >= 10_000 else f"{metres:.4g} m"


def describe(facts: dict[str, Any]) -> list[str]:
    """What was dealt, and the range of the target, in one line each."""
    if facts["group"]:
        dealt = f"label {facts['group']!r} dealt whole"
    elif facts["kind"] == "places":
        dealt = f"blocks of {facts['block']:.3g} km"
    else:
        dealt = f"tiles of {facts['block']} pixels, windows of {facts['window']}"
    strata = f", {facts['stratify']} strata" if facts["stratify"] else ""
    places = facts["buffer_unit"] == "m"
    buffer = distance(float(facts["buffer"])) if places else f"{facts['buffer']} pixels"
    lines = [f"{len(facts['folds'])} folds: {dealt}{strata}; buffer {buffer}"]
    v = facts["variogram"]
    if v is not None:
        reach = (
            f"range {distance(v['range_metres'])}" if v["range_metres"] is not None else "no range"
        )
        share = v["nugget"] / max(v["nugget"] + v["sill"], 1e-300)
        lines.append(
            f"target {facts['target']}: {v['model']} variogram, {reach}, nugget {share:.0%}"
        )
    return lines


def folds_page(facts: dict[str, Any]) -> Table:
    """The report as a table of at most 80 columns."""
    places = facts["kind"] == "places"
    table = Table(
        title="\n".join([facts["title"], *describe(facts)]),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    heads = [
        "fold",
        "train",
        "test",
        "left out",
        "shared",
        "px",
        "nearest",
        "< range",
        "target",
        "",
    ]
    if places:
        heads.remove("px")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for r in facts["folds"]:
        near, metres = r["nearer_than_range"], r["distance_metres"]
        mean, std = r["target_mean"], r["target_std"]
        cells = [
            *(f"{r[k]}" for k in ("name", "train", "test", "left_out")),
            f"{r['shared_places'] if places else r['shared_pixels']}",
            f"{r['distance_pixels'] or 0:.0f}",
            distance(metres),
            "-" if near is None else f"{near:.0%}",
            "-" if mean is None else f"{mean:.3g} ± {std:.3g}",
            "" if r["ok"] else "LEAK",
        ]
        if places:
            del cells[5]
        table.add_row(*cells)
    return table
