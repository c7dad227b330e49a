"""The files of a finished trend: what makes sure that they are whole, and those made from the Zarr.

    digests(OUT, names)        SHA-256 by name; a folder's is of its files and their names
    write_beside(OUT, ...)     trend.tif and code.tif, or trend.csv, from trend.zarr

What is made from the Zarr store can be made again, so a result that lacks it is not computed anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.grid import Grid
from data_zarr.maps import remove_leftovers, write_geotiff
from data_zarr.sites import Sites

from .trend_methods import OUTSIDE
from .trend_table import write_table

STORE = "trend.zarr"
RASTERS, TABLES = ("trend.tif", "code.tif"), ("trend.csv",)
FILES = (STORE, *RASTERS, *TABLES, "trend.json")


def digests(out: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those that there are."""
    return {name: _digest(out / name) for name in names if (out / name).exists()}


def intact(out: Path, known: dict[str, str]) -> set[str]:
    """Names of the files that are as they were written."""
    found = digests(out, known)
    return {name for name, digest in known.items() if found.get(name) == digest}


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        sha.update(file.relative_to(path).as_posix().encode())
        with open(file, "rb") as content:
            sha.update(hashlib.file_digest(content, "sha256").digest())
    return sha.hexdigest()


def clear(out: Path) -> None:
    """What runs that were killed have left of files that were not whole yet."""
    for name in FILES:
        remove_leftovers(out / name)


def forget_blocks(out: Path) -> None:
    """Finished blocks, once the result is there."""
    shutil.rmtree(out / "blocks", ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array of the Zarr store as a layer that is read by rows, under another type."""

    array: Any
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self.array[rows]).astype(self.dtype)


def beside(grid: Grid | Sites, geotiff: bool) -> tuple[str, ...]:
    """Names of what is made from the Zarr store."""
    return TABLES if isinstance(grid, Sites) else RASTERS if geotiff else ()


def write_beside(
    out: Path, grid: Grid | Sites, variables: dict[str, Any], described: dict[str, Any],
    names: Sequence[str],
) -> None:  # fmt: skip
    """Writes what is made from the Zarr store.

    Args:
      variables: attributes by name.
      described: attributes of all.
      names: of `beside`, those that are wanted.
    """
    import zarr

    group: Any = zarr.open_group(out / STORE, mode="r")
    if isinstance(grid, Sites):
        if names:
            write_table(out / TABLES[0], grid, {v: group[v] for v in variables}, list(variables))
        return
    tags = {k: str(v) for k, v in described.items()}
    if RASTERS[0] in names:
        floats = np.dtype(np.float32)
        layers = {v: Stored(group[v], floats) for v in variables if v != "code"}
        write_geotiff(
            out / RASTERS[0], grid, layers, tags=tags, description=str(described["title"]),
            unit={v: str(a.get("units", "")) for v, a in variables.items()},
        )  # fmt: skip
    if RASTERS[1] in names:
        table = {k: str(variables["code"][k]) for k in ("flag_values", "flag_meanings")}
        codes = Stored(group["code"], np.dtype(np.uint8))
        write_geotiff(
            out / RASTERS[1], grid, {"code": codes}, nodata=OUTSIDE, tags={**tags, **table}
        )
