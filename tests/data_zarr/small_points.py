"""A small point cube of known numbers: nine sites with months of their own, and shared ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.format import TargetInfo
from data_zarr.sensors import BANDSETS
from data_zarr.sites import Sites
from data_zarr.write import BandSetData, create_cube

S, T = 9, 4
NAT = np.datetime64("NaT")


def sites(**changes: Any) -> Sites:
    found: dict[str, Any] = {
        "ids": [f"plot-{i}" for i in range(S)],
        "lon": 10.0 + 0.5 * np.arange(S),
        "lat": 46.0 - 0.25 * np.arange(S),
        "labels": {
            "region": ["alps"] * 4 + ["karst"] * 3 + ["coast"] * 2,
            "year": np.arange(2015, 2015 + S),
            "is_test": np.arange(S) % 3 == 0,
        },
    }
    return Sites(**{**found, **changes})


def own_dates() -> np.ndarray:
    """[T, S]: site i has 4 - i % 3 dates, 16 days apart, from day i on."""
    dates = np.datetime64("2001-03-01", "s") + np.arange(T)[:, None] * np.timedelta64(16, "D")
    dates = dates + np.arange(S) * np.timedelta64(1, "D")
    dates[np.arange(T)[:, None] >= T - np.arange(S) % 3] = NAT
    return dates


def optical(**changes: Any) -> BandSetData:
    row = BANDSETS["s2_l2a"]
    data = BandSetData(
        "s2_l2a", row.kind, row.bands[:3], own_dates(), "sentinel-2a", scale=1e-4, year_known=False
    )
    return dataclasses.replace(data, **changes)


def radar(**changes: Any) -> BandSetData:
    row, dates = BANDSETS["s1_db"], ["2001-03-05", "2001-04-05"]
    data = BandSetData("s1_db", row.kind, row.bands, dates, dtype="float32", nodata=np.nan)
    return dataclasses.replace(data, **changes)


def numbers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    c = {"s2_l2a": 3, "s1_db": 2}
    return {
        "s2_l2a": rng.integers(200, 5000, (T, c["s2_l2a"], S, 1)).astype(np.int16),
        "s1_db": rng.normal(-12, 3, (2, c["s1_db"], S, 1)).astype(np.float32),
        "valid": rng.random((T, S, 1)) < 0.8,
        "moisture": np.append(rng.random(S - 1) * 100, np.nan).astype(np.float32),
    }


def create(path: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "grid": sites(),
        "bandsets": [optical(), radar()],
        "targets": [TargetInfo("moisture", "live fuel moisture", "%", (0.0, 500.0))],
        "title": "points",
        "license": "none",
        "provenance": "made by the tests",
    }
    return create_cube(path, **{**arguments, **changes})


def write(path: Path, **changes: Any) -> dict[str, np.ndarray]:
    found = numbers()
    with create(path, **changes) as writer:
        writer.write("s2_l2a", 0, 0, found["s2_l2a"], found["valid"])
        writer.write("s1_db", 0, 0, found["s1_db"])
        writer.write_target("moisture", 0, 0, found["moisture"])
    return found
