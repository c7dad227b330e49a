"""Series of sites with their trend: observations, the line, the band of its interval.

    site A   · ··· · ·--·-·-·----   line with its interval, turned about the middle of the series
    site B   ...

Drawn from the result and the cube; nothing is fitted here.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rsvlm_jax.run.methods import CODES, EPOCH, OUTSIDE
from rsvlm_jax.run.trend import Trends

from .panels import ACCENT, INK, SOFT, new_figure, save

DOTS, LINE = "#4c78a8", ACCENT
HEAD, ROW, FOOT = 1.1, 1.75, 0.5
"""Inches: heading and legend, a row of axes with the gap under it, the axis of time."""


def series_figure(made: Trends, path: str | os.PathLike[str], *, sites: int) -> Path:
    """Draws up to `sites` sites, evenly chosen among those that were asked for.

    Raises:
      ConfigError: the path cannot be written.
    """
    source, result = made.source, made.open().load()
    asked = np.flatnonzero(result["code"].to_numpy() != OUTSIDE)
    some = np.unique(np.linspace(0, len(asked) - 1, min(max(sites, 1), len(asked))).round())
    chosen = asked[some.astype(int)]
    width, height = 9.0, HEAD + ROW * len(chosen) + FOOT
    figure = new_figure(width, height)
    title = f"{source.name}: {source.cube.title}"
    title = textwrap.shorten(title, int(9.5 * width), placeholder=" ...")
    figure.text(
        0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=12, weight="bold", color=INK
    )
    about = f"{len(chosen)} of {len(asked)} sites · {made.options.words()}"
    figure.text(0.1 / width, 1 - 0.36 / height, about, va="top", fontsize=8, color=SOFT)
    axes = figure.subplots(len(chosen), 1, squeeze=False, sharex=True)[:, 0]
    figure.subplots_adjust(
        left=0.75 / width, right=1 - 0.2 / width, top=1 - HEAD / height, bottom=FOOT / height,
        hspace=0.42,
    )  # fmt: skip
    for ax, site in zip(axes, chosen, strict=True):
        _site(ax, made, result.isel(site=int(site)), int(site))
    axes[-1].set_xlabel("year", fontsize=8, color=SOFT)
    level = f"{100 * (1 - made.options.alpha):g} % interval of the slope"
    handles: list[Any] = [
        Line2D(
            [], [], color=DOTS, marker="o", markersize=3, linestyle="none", label="observations"
        ),
        Line2D([], [], color=LINE, linewidth=1.6, label="Theil-Sen line"),
        Patch(facecolor=LINE, alpha=0.22, linewidth=0, label=level),
    ]
    figure.legend(
        handles=handles, loc="upper left", fontsize=7.5, frameon=False, labelcolor=SOFT, ncols=3,
        bbox_to_anchor=(0.06 / width, 1 - 0.56 / height), borderaxespad=0,
    )  # fmt: skip
    return save(figure, path)


def _site(ax: Axes, made: Trends, found: Any, site: int) -> None:
    series = made.source.read((site, 0, site + 1, 1))
    years, values = np.atleast_2d(series.years(EPOCH))[0] + EPOCH, series.values[0, 0]
    known = np.isfinite(values) & np.isfinite(years)
    t, v = years[known], values[known]
    ax.plot(t, v, color=DOTS, marker="o", markersize=1.8, alpha=0.55, linestyle="none", zorder=2)
    slope, low, high = (float(found[k]) for k in ("slope", "slope_lo", "slope_hi"))
    name = str(found["site"].item())
    if np.isfinite(slope) and len(t):
        ends = np.array([t.min(), t.max()])
        middle = float(np.median(t))
        at = slope * (middle - EPOCH) + float(found["intercept"])
        grid = np.linspace(ends[0], ends[1], 50) - middle
        ax.fill_between(
            *(grid + middle, at + np.minimum(low * grid, high * grid)),
            at + np.maximum(low * grid, high * grid),
            color=LINE,
            alpha=0.22,
            linewidth=0,
            zorder=3,
        )
        ax.plot(ends, at + slope * (ends - middle), color=LINE, linewidth=1.6, zorder=4)
        low98, high98 = np.percentile(v, (0.5, 99.5))
        pad = 0.12 * (high98 - low98) or 0.05
        ax.set_ylim(low98 - pad, high98 + pad)
        unit = "" if made.source.unit in ("", "1") else f" {made.source.unit}"
        words = (
            f"{slope:+.3g}{unit} per year [{low:+.3g}, {high:+.3g}], "
            f"p {_p(float(found['p_corrected']))} corrected, n {int(found['n'])}"
        )
    else:
        words = f"no answer: {CODES[int(found['code'])]}, n {int(found['n'])}"
    ax.set_title(f"{textwrap.shorten(name, 44, placeholder='...')}   {words}", fontsize=8,
                 color=INK, loc="left", pad=3)  # fmt: skip
    ax.set_ylabel(made.source.name, fontsize=7.5, color=SOFT)
    ax.tick_params(labelsize=7, colors=SOFT, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    for spine in ax.spines.values():
        spine.set_edgecolor(SOFT)
        spine.set_linewidth(0.5)


def _p(value: float) -> str:
    return "unknown" if not np.isfinite(value) else "< 0.001" if value < 1e-3 else f"{value:.3f}"
