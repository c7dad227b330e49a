"""The figure of a run, for a colleague: image, reference, prediction, interval, scatter, table.

    +-----------------+-----------------+-----------------+
    | image           | reference       | prediction      |     maps [H, W], one colour scale for
    +-----------------+-----------------+-----------------+     reference and prediction
    | interval width  | scatter, 1:1    | figures, notes  |
    +-----------------+-----------------+-----------------+

The scatter and its figures are of held-out windows; the map comes from whatever model the caller
says in `notes`. Takes arrays and labels, opens no cube.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from data_zarr.grid import Grid

from .panels import (
    ACCENT,
    INK,
    SOFT,
    color_bar,
    fold_edges,
    new_figure,
    place,
    save,
    scale_bar,
    show_map,
    stretch,
    tallness,
)
from .regression import Row

FOLD_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")
"""Okabe and Ito's palette for categories, which colour-blind readers can tell apart."""

VALUE_COLORS = "viridis"
WIDTH_COLORS = "magma"

LEFT, PITCH, SIDE, HEAD, GAP, FOOT, MAX_HEIGHT = 0.75, 4.35, 3.1, 0.75, 1.05, 0.8, 4.5
"""Inches: left margin, distance of columns, edge of a panel; height of the heading, between the
rows, under them; tallest map. Fixed: layout engines shrink what stands beside a wide map."""

TITLE: dict[str, Any] = {"fontsize": 14, "weight": "bold", "color": INK}
HEADING: dict[str, object] = {"fontsize": 10, "weight": "bold"}
MONO: dict[str, object] = {"family": "monospace"}
NOTE: dict[str, object] = {"fontsize": 8, "color": SOFT}


def demo_figure(
    path: str | os.PathLike[str],
    *,
    rgb: np.ndarray,
    prediction: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    reference: np.ndarray,
    y: np.ndarray,
    oof: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
    fold: np.ndarray,
    grid: Grid,
    title: str,
    label: str,
    unit: str = "1",
    fold_map: np.ndarray | None = None,
    image_title: str = "True colour",
    limits: tuple[float, float] | None = None,
    row: Row | None = None,
    notes: Sequence[str] = (),
    table: Sequence[Row] = (),
) -> Path:
    """Draws and writes the PNG.

    Args:
      path: of the PNG; its directory is made.
      rgb: [H, W, 3], any units, NaN where unknown; stretched from its 2nd to its 98th percentile.
        For radar a pseudo-RGB frame, with `image_title` saying which channel is what.
      prediction, lower, upper: [H, W], target units, NaN where unknown.
      reference: [H, W], the same support as the prediction (window means, not single pixels).
      y, oof, lo, hi: [n], observed, predicted and interval of held-out windows.
      fold: [n], colours of the scatter.
      grid: of the maps.
      title, label, unit: heading; name and unit of the target ("1" for a share).
      fold_map: [H, W], drawn as thin lines over the reference, or None.
      limits: of the colour scale and the scatter; None takes the range of all values shown.
      row: the model's row of the benchmark, printed beside the scatter.
      notes: lines printed below it.
      table: rows of the benchmark (model, r2, rmse), printed as a small table.

    Raises:
      ConfigError: the path cannot be written.
    """
    tall = tallness(grid)
    wide = min(SIDE, MAX_HEIGHT / tall)
    map_height = wide * tall
    second = HEAD + map_height + GAP
    height = second + max(map_height, SIDE) + FOOT
    figure = new_figure(LEFT + 3 * PITCH, height)
    figure.text(LEFT / 3 / (LEFT + 3 * PITCH), 1 - 0.12 / height, title, va="top", **TITLE)
    image_ax, reference_ax, prediction_ax = (
        place(figure, LEFT + k * PITCH, HEAD, wide, map_height) for k in range(3)
    )
    width_ax = place(figure, LEFT, second, wide, map_height)
    scatter_ax = place(figure, LEFT + PITCH, second, SIDE, SIDE)
    text_ax = place(figure, LEFT + 2 * PITCH, second, PITCH, height - second - FOOT / 2)
    name = label if unit in ("", "1") else f"{label} ({unit})"
    if limits is None:
        shown = np.concatenate([np.ravel(a) for a in (prediction, reference, y, oof)])
        limits = float(np.nanmin(shown)), float(np.nanmax(shown))
    scale = {"vmin": limits[0], "vmax": limits[1], "cmap": VALUE_COLORS}

    show_map(image_ax, stretch(rgb), grid, image_title, first=True)
    scale_bar(image_ax, grid)
    lines = "" if fold_map is None else " (lines: tiles of the folds)"
    shown = show_map(reference_ax, reference, grid, f"Reference{lines}", **scale)
    color_bar(shown, reference_ax, name)
    if fold_map is not None:
        fold_edges(reference_ax, fold_map, grid)
    shown = show_map(prediction_ax, prediction, grid, "Prediction", **scale)
    color_bar(shown, prediction_ax, name)
    spread = upper - lower
    style = {"cmap": WIDTH_COLORS, "vmin": 0, "first": True}
    shown = show_map(width_ax, spread, grid, "Width of the 90 % interval", **style)
    color_bar(shown, width_ax, f"width of {name}" if unit in ("", "1") else unit)
    _scatter(scatter_ax, y, oof, lo, hi, fold, limits, name)
    _figures(text_ax, row, table, notes, unit)
    crs = f"EPSG:{grid.epsg}" if grid.epsg else "CRS without EPSG code"
    about = f"{crs} · {grid.height} × {grid.width} pixels of {grid.gsd:.1f} m"
    figure.text(LEFT / 3 / (LEFT + 3 * PITCH), 0.12 / height, about, fontsize=8, color=SOFT)
    return save(figure, path)


def _scatter(
    ax: Axes,
    y: np.ndarray,
    oof: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
    fold: np.ndarray,
    limits: tuple[float, float],
    name: str,
) -> None:
    known = np.isfinite(y)
    y, oof, lo, hi, fold = (np.asarray(a)[known] for a in (y, oof, lo, hi, fold))
    error = np.stack([np.maximum(oof - lo, 0), np.maximum(hi - oof, 0)])
    alpha = float(np.clip(50 / max(len(y), 1), 0.05, 0.4))  # many bars must not hide the points
    ax.errorbar(y, oof, yerr=error, fmt="none", ecolor=SOFT, elinewidth=0.5, alpha=alpha, zorder=1)
    folds = np.unique(fold)
    for i, f in enumerate(folds):
        here = fold == f
        color = FOLD_COLORS[i % len(FOLD_COLORS)]
        style = {"s": 16, "edgecolor": "white", "linewidth": 0.3, "zorder": 2}
        ax.scatter(y[here], oof[here], color=color, label=str(f), **style)
    pad = 0.04 * (limits[1] - limits[0])
    ends = (limits[0] - pad, limits[1] + pad)
    ax.plot(ends, ends, color=ACCENT, linewidth=1, zorder=3)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    ax.set_aspect("equal")
    ax.set_xlabel(f"observed {name}", fontsize=8, color=SOFT)
    ax.set_ylabel(f"predicted {name}", fontsize=8, color=SOFT)
    ax.tick_params(labelsize=7, colors=SOFT, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    if len(folds) <= len(FOLD_COLORS):
        # Above the axes, where no point can lie.
        ax.legend(
            ncols=len(folds),
            fontsize=7,
            labelcolor=SOFT,
            loc="lower left",
            bbox_to_anchor=(-0.03, 0.975),
            frameon=False,
            handletextpad=0.1,
            columnspacing=0.8,
        )
    title = "Held-out windows by fold, 90 % intervals"
    ax.set_title(title, fontsize=10, color=INK, loc="left", pad=18)


def _figures(
    ax: Axes,
    row: Row | None,
    table: Sequence[Row],
    notes: Sequence[str],
    unit: str,
) -> None:
    """Metrics of the model, the other models beneath, then notes; wrapped to the panel."""
    ax.set_axis_off()
    inches = ax.figure.get_figure(root=True).get_size_inches()[1] * ax.get_position().height
    suffix = "" if unit in ("", "1") else f" {unit}"
    lines: list[tuple[str, dict[str, object]]] = []
    if row is not None:
        lines.append((f"{row['model']}, {row['n']} held-out windows", HEADING))
        places = decimals(row["rmse"])
        lines.append((f"R²       {row['r2']:8.3f}", MONO))
        for key, text in (("rmse", "RMSE"), ("mae", "MAE"), ("bias", "bias"), ("crps", "CRPS")):
            lines.append((f"{text:<8} {row[key]:8.{places}f}{suffix}", MONO))
        lines.append((_coverage(row), MONO))
    if table:
        lines += [("", {}), ("On the same folds", HEADING)]
        wide = max(len(str(r["model"])) for r in table)
        for r in table:
            rmse = f"{r['rmse']:.{decimals(r['rmse'])}f}"
            lines.append((f"{r['model']!s:<{wide}}  R² {r['r2']:6.3f}  RMSE {rmse}", MONO))
    if notes:
        lines.append(("", {}))
        wrapped = [part for note in notes for part in textwrap.wrap(note, 58)]
        lines += [(part, NOTE) for part in wrapped]
    # Shares of the panel's height: a line takes 0.185 inches, less where there are too many.
    step = min(0.185 / inches, 0.99 / max(len(lines), 1))
    top = 1.0
    for text, style in lines:
        options: dict[str, Any] = {"fontsize": 9, "color": INK, **style}
        ax.text(0.0, top, text, transform=ax.transAxes, va="top", ha="left", **options)
        top -= step if text else step / 2


def decimals(error: float) -> int:
    """Decimal places that show three digits of an error: 0.128, 23.9."""
    return 3 if not error > 0 else int(np.clip(2 - np.floor(np.log10(error)), 0, 6))


def _coverage(row: Row) -> str:
    text = f"coverage {row['picp90']:8.1%}"
    if "picp90_lo" in row:
        text += f"  (95 %: {row['picp90_lo']:.1%} to {row['picp90_hi']:.1%})"
    return text
