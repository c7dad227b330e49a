"""Published benchmarks: their scores as they define them, and their numbers beside ours.

    biomassters   mean over chips of the RMSE over a chip's pixels       map [H,W], target [H,W]
    agbd          RMSE over footprints, the central pixel of each        mean [n], y [n]

Data comes from cubes that `data_zarr.readers` writes. A published number stands here only where its
source could be read; each says where. A row of ours is comparable only if the split is the
published one: `Row.note` says what it was. REO-Instruct's tables (arXiv 2511.16853) could not be
read; its README says no number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from data_zarr.cube import Cube
from data_zarr.sampling import WindowTable
from rsvlm_jax.config import DataError
from rsvlm_jax.metrics import ratio, regression_table

Protocol = Literal["biomassters", "agbd"]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the comparison.

    Attributes:
      metric: as the protocol defines it.
      source: of a published number; "measured" of ours.
      note: what keeps it from being compared without a thought.
    """

    protocol: Protocol
    system: str
    metric: str
    value: float
    source: str
    note: str = ""


_WINNERS = "github.com/drivendataorg/the-biomassters, readme: private score"
_CHIPS = "mean over chips of RMSE, Mg/ha"

PUBLISHED: tuple[Row, ...] = (
    Row("biomassters", "1st place, U-Net with attention over months", _CHIPS, 27.63, _WINNERS),
    Row("biomassters", "2nd place, Swin-UNETR", _CHIPS, 27.68, _WINNERS),
    Row("biomassters", "3rd place, U-Net++ ensemble", _CHIPS, 28.04, _WINNERS),
    Row("biomassters", "MATLAB bonus prize, 1-D CNN and 3-D U-Net", _CHIPS, 31.08, _WINNERS),
    Row(
        "agbd",
        "best of the data set's baselines",
        "RMSE, Mg/ha",
        60.0,
        "summary of arXiv 2406.04928: near 60",
        "a rounded figure; its table was not read",
    ),
)
"""Numbers whose source was read."""


def chip_rmse(mean: np.ndarray, target: np.ndarray, size: int) -> tuple[float, float]:
    """(sum over chips of the RMSE over their known pixels, number of chips with one).

    Args:
      mean, target: [H, W], chips of `size` side by side; NaN: unknown.

    Raises:
      DataError: arrays that do not fit, or no chip.
    """
    rows, columns = target.shape[0] // size, target.shape[1] // size
    if mean.shape != target.shape or (rows * size, columns * size) != target.shape:
        raise DataError(
            "a map that does not fit the chips",
            where="chip_rmse",
            expected=f"{target.shape}, multiples of {size}",
            found=mean.shape,
        )

    def chips(layer: np.ndarray) -> np.ndarray:
        cut = layer.astype(np.float64).reshape(rows, size, columns, size)
        return cut.transpose(0, 2, 1, 3).reshape(rows * columns, size * size)

    off = np.square(chips(mean) - chips(target))
    known = np.isfinite(off)
    count = known.sum(axis=1)
    each = np.sqrt(np.where(known, off, 0).sum(axis=1) / np.maximum(count, 1))
    return float(each[count > 0].sum()), float((count > 0).sum())


def window_map(table: WindowTable, values: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map [H, W] whose pixels have the value of their window; NaN where there is none."""
    out = np.full((height, width), np.nan)
    for y, x, value in zip(table.y.tolist(), table.x.tolist(), values.tolist(), strict=True):
        out[y : y + table.size, x : x + table.size] = value
    return out


def biomassters_row(system: str, cube: Cube, mean: np.ndarray, note: str = "") -> Row:
    """Ours of a map [H, W] over a cube of `data_zarr.readers.biomassters`.

    Raises:
      DataError: no such cube, or no chip with map and target.
    """
    patches: Any = cube.attrs.get("patches")
    if not isinstance(patches, dict) or "size" not in patches:
        raise DataError(
            "no chips in this cube",
            where=cube.path,
            expected="a cube of data_zarr.readers.biomassters",
            found=cube.title,
        )
    value = float(ratio(chip_rmse(mean, np.asarray(cube.target("agb")), int(patches["size"]))))
    return _ours("biomassters", system, _CHIPS, value, note)


def agbd_row(system: str, y: np.ndarray, mean: np.ndarray, note: str = "") -> Row:
    """Ours over footprints [n]. Raises DataError: none that is known."""
    value = float(regression_table(y, mean)["rmse"])
    return _ours("agbd", system, "RMSE, Mg/ha", value, note)


def beside_published(ours: Sequence[Row]) -> list[Row]:
    """Rows of ours among the published ones of their protocols, best first."""
    protocols = {row.protocol for row in ours}
    rows = [*ours, *(row for row in PUBLISHED if row.protocol in protocols)]
    return sorted(rows, key=lambda row: (row.protocol, row.value))


def table_text(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = ["| protocol | system | metric | value | source | note |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row.protocol, row.system, row.metric, f"{row.value:.2f}", row.source, row.note)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ours(protocol: Protocol, system: str, metric: str, value: float, note: str) -> Row:
    if not math.isfinite(value):
        raise DataError("nothing to score", where=f"{protocol}: {system}", found=value)
    return Row(protocol, system, metric, value, "measured", note)
