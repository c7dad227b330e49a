"""Arrays in NetCDF, Zarr, HDF5 and NumPy files, undecoded: (array that slices, its dimensions).

NetCDF and Zarr name their dimensions; HDF5 and NumPy have none, there they are called "0", "1", ...
Pickled arrays are refused.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.errors import CubeError

NAMED = (".nc", ".nc4", ".cdf", ".zarr")
HDF5 = (".h5", ".hdf5", ".he5")
NUMPY = (".npy", ".npz")


@contextlib.contextmanager
def open_dataset(path: str) -> Iterator[Any]:
    """An xarray dataset whose numbers are as they are stored; times neither decoded.

    Raises:
      CubeError: unreadable, or of a kind that is not known here.
    """
    import xarray as xr

    if Path(path).suffix not in NAMED:
        raise CubeError(
            "not a dataset", where=path, expected="one of " + ", ".join(NAMED), found=path[-12:]
        )
    keep: dict[str, Any] = {"decode_cf": False, "cache": False, "chunks": None}
    if path.endswith(".zarr"):
        keep |= {"engine": "zarr", "consolidated": False}
    try:
        data = xr.open_dataset(path, **keep)
    except (OSError, ValueError, KeyError) as error:
        raise CubeError("unreadable dataset", where=path, found=str(error)[:160]) from error
    with data:
        yield data


@contextlib.contextmanager
def open_array(path: str, variable: str) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """An array and the names of its dimensions.

    Raises:
      CubeError: unreadable, or no such array.
    """
    suffix = Path(path).suffix
    if suffix in NUMPY:
        array = _numpy(path, variable, os.stat(path).st_mtime_ns)
        yield array, tuple(map(str, range(array.ndim)))
    elif suffix in HDF5:
        h5py = hdf5_module(path)
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise CubeError("unreadable HDF5", where=path, found=str(error)[:160]) from error
        with file:
            found = file.get(variable)
            if not isinstance(found, h5py.Dataset):
                raise no_array(path, variable, list(file))
            yield found, tuple(map(str, range(found.ndim)))
    else:
        with open_dataset(path) as data:
            if variable not in data.variables:
                raise no_array(path, variable, list(data.variables))
            yield data.variables[variable], tuple(map(str, data.variables[variable].dims))


def hdf5_module(where: object) -> Any:
    """h5py, or one line that says how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise CubeError(
            "cannot read HDF5 without h5py", where=where, remedy="pip install 'rsvlm-jax[geo]'"
        ) from error
    return h5py


def no_array(path: str, variable: str, known: list[Any]) -> CubeError:
    """The error for an array that a file has not."""
    return CubeError(
        "no such array",
        where=path,
        expected="one of " + ", ".join(map(str, known[:20])),
        found=repr(variable),
    )


@functools.lru_cache(maxsize=8)
def _numpy(path: str, variable: str, stamp: int) -> np.ndarray:
    """An array of a .npy or .npz file; `stamp` is its time of change."""
    try:
        content = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CubeError("unreadable NumPy file", where=path, found=str(error)[:160]) from error
    if isinstance(content, np.ndarray):
        return content
    with content:
        if variable not in content.files:
            raise no_array(path, variable, content.files)
        try:
            return content[variable]
        except ValueError as error:
            raise CubeError(
                "pickled array", where=f"{path}: {variable}", expected="numbers or text",
                found="objects, which could run code when read",
            ) from error  # fmt: skip
