"""Pictures of a trend: maps of slope, significance and what else there is, or series of sites.

    raster   | slope | significance | break | forecast |       those that the method gives
    sites    one row a site: observations, line and the band of its interval

Read from what was written, so a finished result is drawn again without computing.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from data_zarr.grid import Grid
from rsvlm_jax.run.trend import Trends
from rsvlm_jax.run.trend_methods import OUTSIDE

from .panels import INK, SOFT, color_bar, new_figure, place, save, scale_bar, show_map, tallness
from .trendseries import series_figure

MOST = 1200
"""Pixels of a side of what is drawn; of larger maps every n-th."""

LEFT, PITCH, SIDE, HEAD, FOOT, MAX_HEIGHT = 0.75, 4.4, 3.1, 0.95, 1.25, 4.6
"""Inches, as in `figure.py`."""

DIVERGING = "PuOr"
CLASSES = {
    "significant decrease": "#b35806",
    "decrease, not significant": "#fee0b6",
    "increase, not significant": "#d8daeb",
    "significant increase": "#542788",
    "no answer": "#9e9e9e",
    "not asked for": "#ffffff",
}
"""The ends of the colour scale of the slope, and greys."""


def trend_figure(made: Trends, path: str | os.PathLike[str], *, sites: int = 6) -> Path:
    """Draws the result of a trend.

    Args:
      sites: of a cube of places, how many.

    Raises:
      ConfigError: the path cannot be written.
    """
    if not isinstance(made.source.grid, Grid):
        return series_figure(made, path, sites=sites)
    return _maps(made, made.source.grid, path)


def _maps(made: Trends, grid: Grid, path: str | os.PathLike[str]) -> Path:
    step = -(-max(grid.height, grid.width) // MOST)
    data = made.open()
    layers = {str(name): v[::step, ::step].to_numpy() for name, v in data.data_vars.items()}
    panels = [draw for name, draw in PANELS.items() if name in layers]
    tall = tallness(grid)
    wide = min(SIDE, MAX_HEIGHT / tall)
    foot = FOOT if _significance in panels else FOOT - 0.5
    width, height = LEFT + len(panels) * PITCH, HEAD + wide * tall + foot
    figure = new_figure(width, height)
    source, report = made.source, made.report
    title = textwrap.shorten(
        f"{source.name}: {source.cube.title}", int(9 * width), placeholder=" ..."
    )
    figure.text(
        0.25 / width, 1 - 0.12 / height, title, va="top", fontsize=13, weight="bold", color=INK
    )
    days = [str(d)[:10] for d in (source.dates[0], source.dates[-1])]
    about = f"{len(source.dates)} dates, {days[0]} to {days[1]} · {made.options.words()}"
    figure.text(0.25 / width, 1 - 0.42 / height, about, va="top", fontsize=8, color=SOFT)
    for k, draw in enumerate(panels):
        ax = place(figure, LEFT + k * PITCH, HEAD, wide, wide * tall)
        draw(ax, layers, grid, made, k == 0)
        if k == 0:
            scale_bar(ax, grid)
    codes = ", ".join(f"{n} {c}" for n, c in report.codes.items())
    crs = f"EPSG:{grid.epsg}" if grid.epsg else "CRS without EPSG code"
    every = "" if step == 1 else f" · every {step}th pixel drawn"
    below = f"{crs} · {grid.height} × {grid.width} pixels of {grid.gsd:.1f} m · {codes}{every}"
    figure.text(0.25 / width, 0.12 / height, below, fontsize=7.5, color=SOFT)
    return save(figure, path)


def _slope(ax: Axes, layers: dict[str, Any], grid: Grid, made: Trends, first: bool) -> None:
    slope = layers["slope"]
    limit = _limit(slope)
    shown = show_map(
        *(ax, slope, grid, "Slope"), first=first, cmap=DIVERGING, vmin=-limit, vmax=limit
    )
    unit = made.source.unit
    per = "per year" if unit in ("", "1") else f"{unit} per year"
    color_bar(shown, ax, f"{made.source.name} {per}")


def _significance(ax: Axes, layers: dict[str, Any], grid: Grid, made: Trends, first: bool) -> None:
    """Sign of the slope by whether it is believed after the correction over the map."""
    kept = layers["p_corrected"] <= made.options.alpha
    up = layers["slope"] > 0
    tested = np.isfinite(layers["p_corrected"])
    kind = np.where(up, np.where(kept, 3, 2), np.where(kept, 0, 1))
    kind = np.where(tested, kind, np.where(layers["code"] == OUTSIDE, 5, 4))
    colors = ListedColormap(list(CLASSES.values()))
    norm = BoundaryNorm(np.arange(len(CLASSES) + 1) - 0.5, len(CLASSES))
    alpha = made.options.alpha
    title = f"Significance (corrected p ≤ {alpha:g})"
    show_map(ax, kind, grid, title, first=first, cmap=colors, norm=norm)
    there = [i for i in range(len(CLASSES)) if i < 4 or (kind == i).any()]
    names = list(CLASSES)
    handles = [
        Patch(
            facecolor=CLASSES[names[i]], edgecolor=SOFT, linewidth=0.3,
            label=f"{(kind == i).mean():.1%} {names[i]}",
        )
        for i in there
    ]  # fmt: skip
    inches = ax.get_position().height * ax.figure.get_figure(root=True).get_size_inches()[1]
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(-0.01, -0.38 / inches), ncols=2,
        fontsize=7, frameon=False, labelcolor=SOFT, handlelength=1.0, borderaxespad=0,
        columnspacing=1.2,
    )  # fmt: skip


def _break(ax: Axes, layers: dict[str, Any], grid: Grid, made: Trends, first: bool) -> None:
    """Decimal years: what is close in time is close in colour."""
    date = layers["break_date"]
    days = date.astype("datetime64[D]").astype(np.float64)
    year = np.where(np.isnat(date), np.nan, 1970 + days / 365.2425)
    shown = show_map(ax, year, grid, "Change: when (grey: none)", first=first, cmap="viridis")
    known = year[np.isfinite(year)]
    months = known.size > 0 and np.ptp(known) < 3
    color_bar(shown, ax, "year and month" if months else "year")
    if shown.colorbar is not None:
        shown.colorbar.formatter = FuncFormatter(lambda v, _: _dated(v) if months else f"{v:.0f}")
        shown.colorbar.update_ticks()


def _dated(year: float) -> str:
    """Year and month."""
    return f"{int(year // 1)}-{int(year % 1 * 12) + 1:02d}"


def _magnitude(ax: Axes, layers: dict[str, Any], grid: Grid, made: Trends, first: bool) -> None:
    size = layers["break_magnitude"]
    limit = _limit(size)
    style = {"cmap": DIVERGING, "vmin": -limit, "vmax": limit}
    shown = show_map(ax, size, grid, "Change: how much", first=first, **style)
    color_bar(shown, ax, _named(made))


def _forecast(ax: Axes, layers: dict[str, Any], grid: Grid, made: Trends, first: bool) -> None:
    title = f"Forecast for {made.options.at}"
    shown = show_map(ax, layers["forecast"], grid, title, first=first, cmap="viridis")
    color_bar(shown, ax, _named(made))


def _width(ax: Axes, layers: dict[str, Any], grid: Grid, made: Trends, first: bool) -> None:
    width = layers["forecast_hi"] - layers["forecast_lo"]
    title = f"Width of its {100 * (1 - made.options.alpha):g} % interval"
    shown = show_map(ax, width, grid, title, first=first, cmap="magma", vmin=0)
    color_bar(shown, ax, _named(made))


def _limit(values: np.ndarray) -> float:
    """The 98th percentile of the size of what is known."""
    known = np.abs(values[np.isfinite(values)])
    return (float(np.percentile(known, 98)) if known.size else 1.0) or 1.0


def _named(made: Trends) -> str:
    unit = made.source.unit
    return made.source.name if unit in ("", "1") else f"{made.source.name} ({unit})"


PANELS = {
    "slope": _slope,
    "slope_lo": _significance,
    "break_date": _break,
    "break_magnitude": _magnitude,
    "forecast": _forecast,
    "forecast_lo": _width,
}
"""What is drawn where a variable is there."""
