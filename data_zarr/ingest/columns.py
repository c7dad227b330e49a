"""Columns by name of CSV, Parquet, NumPy and HDF5 files, as they are: [N], or [N, T].

Nothing is unpickled; text of any kind becomes str.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import near_miss
from data_zarr.ingest.sources.files import files
from data_zarr.ingest.stores import HDF5, NUMPY, hdf5_module, open_array

Columns = dict[str, np.ndarray]


def column(columns: Columns, name: str, where: str) -> np.ndarray:
    """A column by name; CubeError with a near miss."""
    if name not in columns:
        raise CubeError(
            "no such column", where=where, expected="one of " + ", ".join(list(columns)[:30]),
            found=repr(name), remedy=near_miss(name, columns),
        )  # fmt: skip
    return columns[name]


def read_columns(
    path: str, header: Sequence[str], split: Mapping[str, tuple[str, ...]], where: str
) -> Columns:
    """All columns of the files.

    Args:
      path: a file, or a glob: .npy files are a column each, all others are laid below each other,
        with the column "file". A single number in .npz or .h5 is that of every row of its file.
      header: names of the columns of a CSV that has none.
      split: array -> names along its last axis, each a column of its own.

    Raises:
      CubeError: unreadable, or without rows. An array of another length than most is no column.
    """
    paths = files(path, where)
    suffix = Path(paths[0]).suffix
    columns: Columns = {}
    if suffix == ".npy":
        for path in paths:
            with open_array(path, "") as (array, _):
                columns[Path(path).stem] = _text(np.asarray(array[...]))
    elif suffix in NUMPY or suffix in HDF5:
        parts_of = [_arrays(path) for path in paths]
        same = {tuple(sorted(p)) for p in parts_of}
        if len(same) > 1:
            raise CubeError("tables of other columns", where=where, expected=sorted(parts_of[0]))
        columns = {k: np.concatenate([p[k] for p in parts_of]) for k in parts_of[0]}
    else:
        columns = _tables(paths, suffix, header, where)
    for name, parts in split.items():
        values = column(columns, name, where)
        if values.ndim < 2 or values.shape[-1] != len(parts):
            raise CubeError("names and array differ", where=f"{where}, {name}",
                            expected=f"{len(parts)} along the last axis",
                            found=list(values.shape))  # fmt: skip
        columns |= {part: values[..., i] for i, part in enumerate(parts)}
        del columns[name]
    lengths = collections.Counter(len(v) for v in columns.values())
    if not columns or lengths.most_common(1)[0][0] < 1:
        raise CubeError("no rows", where=where, expected="at least one", found="none")
    # What has another length says something else, e.g. the names of bands: it is no column.
    n = lengths.most_common(1)[0][0]
    return {k: v for k, v in columns.items() if len(v) == n}


def _arrays(path: str) -> Columns:
    """The arrays of a .npz or HDF5 file, single numbers repeated, and the stem of the file."""
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as content:
            names = list(content.files)
    else:
        h5py = hdf5_module(path)
        with h5py.File(path, "r") as file:
            names = [k for k, v in file.items() if isinstance(v, h5py.Dataset)]
    columns = {}
    for name in names:
        with open_array(path, name) as (array, _):
            columns[name] = _text(np.asarray(array[...]))
    rows = max((len(v) for v in columns.values() if v.ndim), default=1)
    columns = {k: v if v.ndim else np.repeat(v, rows) for k, v in columns.items()}
    return {**columns, "file": np.repeat(Path(path).stem, rows)}


def _tables(paths: list[str], suffix: str, header: Sequence[str], where: str) -> Columns:
    import pandas as pd

    frames = []
    for path in paths:
        try:
            if suffix == ".parquet":
                frame = pd.read_parquet(path)
            elif suffix in (".csv", ".txt"):
                options: dict[str, Any] = {"header": None, "names": list(header)} if header else {}
                frame = pd.read_csv(path, skipinitialspace=True, **options)
            else:
                raise CubeError("not a table", where=path,
                                expected=".csv, .parquet, .npz, .npy or .h5", found=suffix,
                                )  # fmt: skip
        except (OSError, ValueError, ImportError) as error:
            raise CubeError("unreadable table", where=path, found=str(error)[:160]) from error
        if suffix in (".csv", ".txt") and not header:
            first = pd.read_csv(path, skipinitialspace=True, header=None, nrows=1, dtype=str)
            names = collections.Counter(first.iloc[0].dropna().tolist())
            if twice := [name for name, n in names.items() if n > 1]:
                raise CubeError("columns of one name", where=path, found=", ".join(twice),
                                expected="a name for each column")  # fmt: skip
        frames.append(frame.assign(file=Path(path).stem))
    if len({tuple(f.columns) for f in frames}) > 1:
        raise CubeError("tables of other columns", where=where, expected=list(frames[0].columns))
    whole = pd.concat(frames, ignore_index=True)
    return {str(k): _text(whole[k].to_numpy()) for k in whole.columns}


def _text(values: np.ndarray) -> np.ndarray:
    """Text of any kind as str; numbers as they are."""
    if values.dtype.kind == "S":
        return values.astype(str)
    if values.dtype.kind in "OT":
        return np.asarray(
            [v.decode() if isinstance(v, bytes) else "" if v != v or v is None else str(v)
             for v in values.ravel().tolist()]
        ).reshape(values.shape)  # fmt: skip
    return values
