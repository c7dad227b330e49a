"""The picture of folds: where they lie, what one of them holds out, its targets, what leaks.

+---------------+---------------+------------+
| all folds     | one fold:     | target by  |     raster: over the first frame of the clearest
|               | test, buffer  | fold       |     date; places: longitude and latitude
+---------------+---------------+------------+
| variogram     | leakage of every fold      |
+---------------+----------------------------+
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from data_zarr.grid import Grid
from data_zarr.splits import cover

from .cubefolds import CubeFolds
from .figure import FOLD_COLORS
from .foldsreport import describe, distance, folds_facts
from .panels import (
    ACCENT,
    INK,
    SOFT,
    fold_edges,
    new_figure,
    place,
    save,
    scale_bar,
    show_map,
    stretch,
    tallness,
)

LEFT, SIDE, PITCH, HEAD, GAP, FOOT = 0.75, 3.35, 4.05, 1.32, 1.0, 0.35
"""Inches: left margin, widest map, distance of columns, heading, between rows, under them."""
LOW = 2.5
"""Height of the second row, inches; more folds make it taller."""
TEST, TRAIN, FREE = "#d55e00", "#0072b2", "#f0e442"
MAX_LEGEND, MAX_LINES = 12, 10


def folds_figure(
    path: str | os.PathLike[str],
    found: CubeFolds,
    *,
    image: np.ndarray | None = None,
    caption: str = "",
    fold: int = 0,
) -> Path:
    """Draws and writes the PNG, 1280 pixels wide.

    Args:
      image: [h, w, 3] of the whole raster at any scale, NaN where unknown; None leaves it grey.
      caption: what the image shows.
      fold: the one that is shown in detail.

    Raises:
      ConfigError: the path cannot be written.
    """
    facts = folds_facts(found)
    tall = _tallness(found)
    wide = min(SIDE, 4.2 / tall)
    high = wide * tall
    rows = len(found.splits)
    second = HEAD + max(high, 2.0) + GAP
    low = max(LOW, 0.5 + 0.155 * (min(rows, MAX_LEGEND) + 2))
    figure = new_figure(LEFT + 3 * PITCH - 0.1, second + low + FOOT)
    width, height = figure.get_size_inches()
    title = textwrap.shorten(f"Folds of {found.cube.title}", 95, placeholder=" ...")
    figure.text(0.15 / width, 1 - 0.12 / height, title, va="top", fontsize=13, weight="bold")
    lines = "\n".join(textwrap.fill(line, 130) for line in describe(facts))
    figure.text(0.15 / width, 1 - 0.4 / height, lines, va="top", fontsize=8, color=SOFT)

    maps = [place(figure, LEFT + k * PITCH, HEAD, wide, high) for k in (0, 1)]
    draw = _places if found.places else _raster
    draw(maps, found, fold, image)
    if caption:
        y = 1 - (HEAD + high + 0.5) / height
        words = textwrap.shorten(f"under it: {caption}", 120, placeholder=" ...")
        figure.text(LEFT / width, y, words, va="center", fontsize=6.5, color=SOFT)
    _targets(place(figure, LEFT + 2 * PITCH, HEAD, PITCH - 0.85, max(high, 2.0)), found)
    _variogram(place(figure, LEFT, second, SIDE, low - 0.2), found)
    for ax in figure.axes:
        _visible_ticks(ax)
    _table(place(figure, LEFT + PITCH, second, 2 * PITCH - 0.85, low), facts)
    return save(figure, path, dpi=100)


def colors(folds: int) -> list[str]:
    """Of each fold: Okabe and Ito's, again from the first where there are more."""
    return [FOLD_COLORS[f % len(FOLD_COLORS)] for f in range(folds)]


def _fold_entries(found: CubeFolds) -> list[tuple[str, str]]:
    number = found.names[0] == "0"
    names = [f"fold {n}" if number else textwrap.shorten(n, 14) for n in found.names]
    return list(zip(colors(found.folds), names, strict=True))


def _tallness(found: CubeFolds) -> float:
    if isinstance(found.cube.grid, Grid):
        return float(np.clip(tallness(found.cube.grid), 0.35, 2.5))
    sites: Any = found.cube.grid
    wide = np.ptp(sites.lon) * np.cos(np.radians(np.mean(sites.lat)))
    return float(np.clip(np.ptp(sites.lat) / max(wide, 1e-9), 0.5, 1.6))


def _raster(axes: list[Axes], found: CubeFolds, fold: int, image: np.ndarray | None) -> None:
    grid: Any = found.cube.grid
    height, width = found.fold_of.shape
    step = max(1, max(height, width) // 1200)
    fold_of = found.fold_of[::step, ::step]
    grey = np.full((*fold_of.shape, 3), 0.85) if image is None else stretch(image)
    if grey.shape[:2] != fold_of.shape:
        h, w, from_h, from_w = *fold_of.shape, *grey.shape[:2]
        rows, columns = np.arange(h) * from_h // h, np.arange(w) * from_w // w
        grey = grey[rows[:, None], columns]
    palette = np.array([to_rgb(c) for c in colors(found.folds)])
    mixed = 0.6 * grey + 0.4 * palette[fold_of]
    show_map(axes[0], mixed, grid, "Fold of each tile", first=True)
    fold_edges(axes[0], fold_of, grid)
    scale_bar(axes[0], grid)
    _legend(axes[0], _fold_entries(found))
    split = found.splits[fold]
    trained = cover(found.train_table.take(split.train), height, width)[::step, ::step]
    tested = cover(found.eval_table.take(split.test), height, width)[::step, ::step]
    detail = 0.35 * grey.mean(axis=2, keepdims=True) + 0.35
    detail = np.repeat(detail, 3, axis=2)
    for mask, color in ((trained, TRAIN), (tested, TEST), (~trained & ~tested, FREE)):
        detail[mask] = 0.55 * detail[mask] + 0.45 * np.array(to_rgb(color))
    show_map(axes[1], detail, grid, f"Fold {found.names[fold]} held out")
    fold_edges(axes[1], (fold_of == fold).astype(int), grid, color=INK)
    _windows(axes[1], found, fold)
    words = [(TRAIN, "training windows"), (TEST, "test windows"), (FREE, "in neither: buffer")]
    _legend(axes[1], words)


def _windows(ax: Axes, found: CubeFolds, fold: int) -> None:
    """Edges of the test windows, where they are few enough to be seen."""
    from matplotlib.collections import LineCollection

    from .panels import extent

    table = found.eval_table.take(found.splits[fold].test)
    grid: Any = found.cube.grid
    if len(table) > 1500 or table.size * 150 < max(found.fold_of.shape):
        return
    left, right, bottom, top = extent(grid)
    x = left + (right - left) * np.stack([table.x, table.x + table.size]) / grid.width
    y = top + (bottom - top) * np.stack([table.y, table.y + table.size]) / grid.height
    corners = np.stack(
        [np.stack([x[i], y[j]], axis=1) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))],
        axis=1,
    )
    ax.add_collection(LineCollection(list(corners), colors="white", linewidths=0.4))


def _places(axes: list[Axes], found: CubeFolds, fold: int, image: np.ndarray | None) -> None:
    del image
    sites: Any = found.cube.grid
    split = found.splits[fold]
    out = np.ones(len(found.fold_of), bool)
    out[split.train] = out[split.test] = False
    size = float(np.clip(4000 / max(len(found.fold_of), 1), 3, 22))
    palette = np.array(colors(found.folds))
    axes[0].scatter(sites.lon, sites.lat, s=size, c=palette[found.fold_of], linewidths=0)
    parts = [(split.train, TRAIN), (np.flatnonzero(out), FREE), (split.test, TEST)]
    for rows, color in parts:
        edge = SOFT if color == FREE else "none"
        axes[1].scatter(
            sites.lon[rows], sites.lat[rows], s=size, c=color, edgecolors=edge, linewidths=0.3
        )
    for ax, title in zip(
        axes, ("Fold of each place", f"Fold {found.names[fold]} held out"), strict=True
    ):
        ax.set_aspect(1 / np.cos(np.radians(np.mean(sites.lat))), adjustable="datalim")
        ax.set_title(title, fontsize=10, color=INK, loc="left")
        ax.set_xlabel("longitude (°)", fontsize=7, color=SOFT, labelpad=1)
        _plain(ax)
    axes[0].set_ylabel("latitude (°)", fontsize=7, color=SOFT, labelpad=1)
    _legend(axes[0], _fold_entries(found))
    near = "in neither: nearer than the buffer"
    _legend(axes[1], [(TRAIN, "training"), (TEST, "test"), *([(FREE, near)] if out.any() else [])])


def _targets(ax: Axes, found: CubeFolds) -> None:
    """The target of the test samples of each fold as shares: a step line a fold, or of more than
    `MAX_LINES` a row of cells."""
    ax.set_title("Target of the test samples", fontsize=10, color=INK, loc="left")
    _plain(ax)
    known = np.zeros(0) if found.values is None else found.values[np.isfinite(found.values)]
    if found.values is None or not len(known):
        ax.text(0.5, 0.5, "no target", transform=ax.transAxes, ha="center", color=SOFT)
        return
    info = found.cube.targets[found.target or ""]
    low, high = float(known.min()), float(known.max())
    if info.kind == "category":
        edges = np.arange(low - 0.5, high + 1.5)
    else:
        edges = np.linspace(low, high if high > low else low + 1, 21)
    unit = "" if info.unit in ("1", "") else f" ({info.unit})"
    name = textwrap.shorten(f"{info.long_name or info.name}{unit}", 45, placeholder=" ...")
    shares = []
    for s in found.splits:
        y = found.values[s.test]
        y = y[np.isfinite(y)]
        shares.append(np.histogram(y, edges)[0] / max(len(y), 1))
    if found.folds > MAX_LINES:
        rows = np.arange(found.folds + 1) - 0.5
        ax.pcolormesh(edges, rows, np.stack(shares), cmap="Greys", rasterized=True)
        ax.invert_yaxis()
        ax.set_xlabel(f"{name}; darker: more samples", fontsize=7, color=SOFT, labelpad=1)
        ax.set_ylabel("fold, in the order of the table", fontsize=7, color=SOFT, labelpad=5)
        return
    for f, (color, share) in enumerate(zip(colors(found.folds), shares, strict=True)):
        dashes = "-" if f < len(FOLD_COLORS) else "--"
        ax.stairs(share, edges, color=color, linewidth=1.3, linestyle=dashes)
    all_of_it = np.histogram(known, edges)[0] / len(known)
    ax.stairs(all_of_it, edges, color="#dddddd", fill=True, zorder=0)
    ax.set_xlabel(f"{name}; grey: all samples", fontsize=7, color=SOFT, labelpad=1)
    ax.set_ylabel("share of the samples", fontsize=7, color=SOFT, labelpad=1)


def _variogram(ax: Axes, found: CubeFolds) -> None:
    ax.set_title("Semivariogram of the target", fontsize=10, color=INK, loc="left")
    _plain(ax)
    v = found.variogram
    if v is None:
        ax.text(0.5, 0.5, "no target", transform=ax.transAxes, ha="center", color=SOFT)
        return
    kilo = 1000.0 if v.distance[-1] > 5000 else 1.0
    ax.scatter(v.distance / kilo, v.gamma, s=12, color=INK, linewidths=0, zorder=3)
    h = np.geomspace(v.distance[0], v.distance[-1], 200)
    if v.found == "range":
        ax.plot(h / kilo, v(h), color=ACCENT, linewidth=1.3)
        ax.axvline(v.range_metres / kilo, color=ACCENT, linewidth=0.8, linestyle=":")
        words = f"range {v.range_metres / kilo:.3g} {'km' if kilo > 1 else 'm'}"
        right = v.range_metres > np.sqrt(v.distance[0] * v.distance[-1])
        ax.annotate(
            *(words, (v.range_metres / kilo, 0)),
            xytext=(-4 if right else 4, 4),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=8,
            color=ACCENT,
        )
    ax.set_xscale("log")
    ax.set_ylim(0, float(v.gamma.max()) * 1.08 or 1)
    unit = "km" if kilo > 1 else "m"
    ax.set_xlabel(f"distance ({unit}); {v.model}", fontsize=7, color=SOFT, labelpad=1)


def _table(ax: Axes, facts: dict[str, Any]) -> None:
    ax.set_axis_off()
    places = facts["kind"] == "places"
    ax.set_title("Leakage", fontsize=10, color=INK, loc="left")
    head = (
        f"{'fold':>8} {'train':>8} {'test':>7} {'left out':>8} {'shared':>7} "
        f"{'nearest':>16} {'< range':>8}  target"
    )
    lines = [head]
    for r in facts["folds"][:MAX_LEGEND]:
        near = distance(r["distance_metres"])
        if not places:
            near = f"{r['distance_pixels']:.0f} px {near}"
        share = "-" if r["nearer_than_range"] is None else f"{r['nearer_than_range']:.0%}"
        mean = "" if r["target_mean"] is None else f"{r['target_mean']:.3g} ± {r['target_std']:.3g}"
        shared = r["shared_places"] if places else r["shared_pixels"]
        lines.append(
            f"{r['name'][:8]:>8} {r['train']:>8} {r['test']:>7} {r['left_out']:>8} {shared:>7} "
            f"{near:>16} {share:>8}  {mean}" + ("" if r["ok"] else "  LEAK")
        )
    if len(facts["folds"]) > MAX_LEGEND:
        lines.append(f"     and {len(facts['folds']) - MAX_LEGEND} more folds")
    ax.text(0, 0.97, "\n".join(lines), va="top", family="monospace", fontsize=8.5, color=INK)
    note = (
        "shared: places or blocks on both sides; " if places else "shared: pixels on both sides; "
    ) + "nearest: a test to a training sample; < range: test samples nearer than the range"
    ax.text(0, -0.02, note, va="bottom", fontsize=7, color=SOFT)


def _legend(ax: Axes, entries: list[tuple[str, str]]) -> None:
    shown = entries[:MAX_LEGEND]
    if len(entries) > MAX_LEGEND:
        shown = [*shown[:-1], ("white", f"... {len(entries) - MAX_LEGEND + 1} more")]
    inch = 1 / (ax.figure.get_figure(root=True).get_size_inches()[1] * ax.get_position().height)
    ax.legend(
        handles=[Patch(facecolor=c, label=text) for c, text in shown],
        loc="lower left",
        bbox_to_anchor=(0, 1 + 0.24 * inch),
        ncols=min(len(shown), 6 if len(shown) > 3 else 3),
        fontsize=6.5,
        frameon=False,
        borderaxespad=0,
        handlelength=1.0,
        columnspacing=0.9,
        labelcolor=INK,
    )


def _visible_ticks(ax: Axes) -> None:
    """Ticks beyond the limits are not drawn, but have labels that lie about in the figure."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        inside = [t for t in axis.get_majorticklocs() if min(low, high) <= t <= max(low, high)]
        axis.set_ticks(inside)


def _plain(ax: Axes) -> None:
    ax.tick_params(labelsize=7, colors=SOFT, length=2)
    for spine in ax.spines.values():
        spine.set_edgecolor(SOFT)
        spine.set_linewidth(0.5)
