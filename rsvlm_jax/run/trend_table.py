"""The trends of sites as a table: a row a site, its columns the variables.

Not for rasters. NaN is an empty field; a date is written as one.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.sites import Sites

from .rundir import write_atomic
from .series import EPOCH
from .trend_methods import CODES, DAYS, OUTSIDE, VARIABLES


def rows_of(
    sites: Sites, layers: Mapping[str, Any], variables: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each site that was asked for: `site lon lat`, the variables, and what `code` means.

    Args:
      layers: [S, 1] each; NaN becomes None.
    """
    values = {name: np.asarray(layers[name][:]).reshape(-1) for name in variables}
    rows = []
    for i, site in enumerate(sites.ids):
        code = int(values["code"][i])
        if code == OUTSIDE:
            continue
        place = {"lon": _number(sites.lon[i]), "lat": _number(sites.lat[i])}
        found = {name: _shown(name, v[i]) for name, v in values.items()}
        rows.append({"site": str(site), **place, **found, "meaning": CODES[code]})
    return rows


def write_table(
    path: str | os.PathLike[str],
    sites: Sites,
    layers: Mapping[str, Any],
    variables: Sequence[str],
) -> None:
    """Writes the rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["site", "lon", "lat", *variables, "meaning"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows_of(sites, layers, variables))
    write_atomic(Path(path), text.getvalue())


def _shown(name: str, value: Any) -> Any:
    if np.dtype(VARIABLES[name].dtype).kind != "f":
        return int(value)
    if VARIABLES[name].unit == DAYS and np.isfinite(value):
        return str(np.datetime64(f"{EPOCH}-01-01", "D") + np.timedelta64(int(value), "D"))
    return _number(value)


def _number(value: Any) -> float | None:
    """A float as short as it can be read back exactly."""
    if not np.isfinite(value):
        return None
    return float(str(value)) if np.asarray(value).dtype == np.float32 else float(value)
