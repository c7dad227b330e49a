"""A cube of places, looked at: the bands of a few sites over time, dates that are not valid marked.

rows: sites, columns: band sets
             s2_l2a                      s1_db
plot-0       [lines, one a band]         [lines]
             x x   (dates not valid)
"""

from __future__ import annotations

import os
import textwrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, DateFormatter, MonthLocator
from matplotlib.lines import Line2D

from data_zarr.cube import Cube
from data_zarr.format import BandSetInfo
from rsvlm_jax.config import DataError

from .panels import ACCENT, INK, SOFT, new_figure, save

MAX_LEGEND = 14
HEAD, ROW = 1.45, 1.45
"""Inches: heading and legends, and a row of axes with the gap under it."""


def show_series(
    cube: Cube, out: str | os.PathLike[str], *, bandset: str | None, sites: int
) -> list[dict[str, Any]]:
    """Draws up to `sites` evenly chosen sites; returns what stands in each column.

    Args:
      bandset: one band set, or None for all that have dates.

    Raises:
      DataError: no band set with dates. CubeError: no such band set.
      ConfigError: the path cannot be written.
    """
    names = [bandset] if bandset else [n for n, b in cube.bandsets.items() if not b.static]
    if not names:
        raise DataError(
            "no series to show", where=cube.path, expected="a band set with dates", found="none"
        )
    infos = [cube.bandset(name) for name in names]
    places: Any = cube.grid
    count = min(sites, places.height)
    chosen = np.unique(np.linspace(0, places.height - 1, count).round().astype(int))
    wide, high = 5.2 * len(infos) + 0.9, HEAD + ROW * len(chosen) + 0.6
    figure = new_figure(wide, high)
    title = f"{cube.title}: {len(chosen)} of {places.height} places"
    heading = textwrap.shorten(title, int(9.5 * wide), placeholder=" ...")
    figure.text(
        0.1 / wide, 1 - 0.1 / high, heading, va="top", fontsize=12, color=INK, weight="bold"
    )
    axes = figure.subplots(len(chosen), len(infos), squeeze=False, sharex="col", sharey="col")
    figure.subplots_adjust(
        left=0.95 / wide,
        right=1 - 0.15 / wide,
        top=1 - HEAD / high,
        bottom=0.6 / high,
        hspace=0.14,
        wspace=0.45 / 4.7,
    )
    for j, info in enumerate(infos):
        for i, site in enumerate(chosen):
            _site(axes[i, j], cube, info, int(site))
            if j == 0:
                axes[i, j].set_ylabel(_label(cube, int(site)), fontsize=7.5, color=INK)
        _dates(axes[-1, j], info)
        axes[0, j].set_title(_heading(info), fontsize=9, color=INK, loc="left")
        _legend(axes[0, j], info)
    marker = Line2D([], [], color=ACCENT, marker="x", markersize=5, linestyle="none")
    figure.legend(
        *([marker], ["not valid"]),
        loc="lower right",
        fontsize=8,
        frameon=False,
        labelcolor=SOFT,
    )
    save(figure, out, dpi=110)
    return [
        {"bandset": info.name, "sites": [str(places.ids[s]) for s in chosen], "bands": b}
        for info, b in ((info, list(info.band_names)) for info in infos)
    ]


def _site(ax: Axes, cube: Cube, info: BandSetInfo, site: int) -> None:
    pixels, valid = cube.reader(info.name).read(site, 0, 1, 1)
    own = info.dates if info.dates.ndim == 1 else info.dates[:, site]
    some = ~np.isnat(own)
    when = own[some].astype("datetime64[s]").astype("O")
    stored, known = pixels[some, :, 0, 0].astype(np.float64), valid[some, :, 0, 0]
    known = np.broadcast_to(known, stored.shape)
    for c, (band, color) in enumerate(zip(info.bands, _colors(info), strict=True)):
        value = np.where(known[:, c], stored[:, c] * band.scale + band.offset, np.nan)
        dots = known[:, c]
        ax.plot(when[dots], value[dots], color=color, linewidth=0.8, marker="o", markersize=2.2)
    lost = ~known.all(axis=1)
    bottom = np.full(int(lost.sum()), 0.03)
    ax.plot(
        *(when[lost], bottom),
        color=ACCENT,
        marker="x",
        markersize=4,
        markeredgewidth=1,
        linestyle="none",
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )
    ax.tick_params(labelsize=7, colors=SOFT, length=2)
    for spine in ax.spines.values():
        spine.set_edgecolor(SOFT)
        spine.set_linewidth(0.5)


def _colors(info: BandSetInfo) -> list[Any]:
    """Short wavelengths blue, long ones red; others in their order."""
    n = len(info.bands)
    waves = [b.wavelength for b in info.bands if b.wavelength is not None]
    rank = np.argsort(np.argsort(waves)) if len(waves) == n else np.arange(n)
    scale = matplotlib.colormaps["turbo"]
    return [scale(0.08 + 0.84 * r / max(n - 1, 1)) for r in rank]


def _heading(info: BandSetInfo) -> str:
    units = {b.unit for b in info.bands}
    unit = units.pop() if len(units) == 1 else "various units"
    return f"{info.name}" + ("" if unit in ("1", "") else f" ({unit})")


def _label(cube: Cube, site: int) -> str:
    """The id, and the value of the first target."""
    places: Any = cube.grid
    name = textwrap.shorten(str(places.ids[site]), 22, placeholder="...")
    for target, info in cube.targets.items():
        value = float(np.ravel(cube.target(target))[site])
        unit = "" if info.unit in ("1", "") else f" {info.unit}"
        return f"{name}\n{target[:14]} " + ("unknown" if np.isnan(value) else f"{value:.3g}{unit}")
    return name


def _dates(ax: Axes, info: BandSetInfo) -> None:
    if info.year_known:
        locator = AutoDateLocator(minticks=3, maxticks=7)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        ax.xaxis.set_major_locator(MonthLocator(bymonth=(1, 3, 5, 7, 9, 11)))
        ax.xaxis.set_major_formatter(DateFormatter("%b"))
        ax.set_xlabel("month; the year is not known", fontsize=7, color=SOFT)


def _legend(ax: Axes, info: BandSetInfo) -> None:
    lines = [Line2D([], [], color=c, linewidth=1.5) for c in _colors(info)]
    words = [b.name if b.wavelength is None else f"{b.name} {b.wavelength:.3f}" for b in info.bands]
    if len(words) > MAX_LEGEND:
        words = [*words[: MAX_LEGEND - 1], f"{len(words) - MAX_LEGEND + 1} more"]
    ax.legend(
        *(lines[: len(words)], words),
        loc="lower left",
        bbox_to_anchor=(0, 1 + 0.26 / (ROW / 1.14)),
        ncols=5,
        fontsize=6.5,
        frameon=False,
        borderaxespad=0,
        handlelength=1.0,
        columnspacing=0.9,
        labelcolor=SOFT,
        title="wavelength in µm" if info.kind == "optical" else None,
        title_fontsize=6.5,
        alignment="left",
    )
