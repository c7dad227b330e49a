"""The pictures of a benchmark, one set a split.

    scores        RMSE of every model with its site-bootstrap interval
    scatter       density of predicted against observed, a panel a model
    bins          bias by bins of the observed value: saturation
    calibration   nominal against observed coverage, calibrated and as models say; widths
    residuals     predicted - observed on the map, where there is one
    sites         RMSE by site or tile

Of lines and panels there are at most `SHOWN`: ours first, then the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from data_zarr.grid import Grid
from rsvlm_jax.evaluate.figure import FOLD_COLORS
from rsvlm_jax.evaluate.panels import ACCENT, INK, SOFT, new_figure, save, show_map
from rsvlm_jax.evaluate.regression import Row

from .scoring import Scored
from .task import Task

SHOWN = 6
MAPS = 4
SITES = 40
DENSE = 400
"""Windows from which on a scatter is drawn as density."""


def draw(
    directory: Path,
    word: str,
    task: Task,
    results: Sequence[Scored],
    bins: Sequence[Row],
    groups: Sequence[Row],
) -> list[tuple[str, Path]]:
    """Draws a split's pictures.

    Args:
      word: end of the file names.
      bins, groups: rows of `tables`.

    Returns:
      (caption, path), in the order of the page.
    """
    name = task.words if task.target.unit in ("", "1") else f"{task.words} ({task.target.unit})"
    shown = chosen(results)

    def path(kind: str) -> Path:
        return directory / f"{kind}{word}.png"

    made = [
        ("RMSE on held-out windows, 95 % of a bootstrap of sites", _scores(path("scores"), results,
                                                                           name)),
        ("Predicted against observed, held out", _scatter(path("scatter"), shown, name)),
        ("Bias by bins of the observed value", _bins(path("bins"), shown, bins, name)),
        ("Calibration of held-out intervals", _calibration(path("calibration"), shown, name)),
    ]  # fmt: skip
    residuals = _residuals(path("residuals"), task, chosen(results, MAPS), name)
    if residuals is not None:
        made.append(("Predicted - observed, held out", residuals))
    label = groups[0]["label"] if groups else ""
    label = "site_name" if any(g["label"] == "site_name" for g in groups) else label
    mine = [g for g in groups if g["label"] == label]
    if mine:
        order = ", numbered along rows from the upper left" if label == "tile" else ""
        sites = _sites(path("sites"), chosen(results, MAPS), mine, label, name)
        made.append((f"RMSE by {label}{order}", sites))
    return made


def chosen(results: Sequence[Scored], count: int = SHOWN) -> list[Scored]:
    """At most so many: the best of ours, then the best of all, in the order of the table."""
    ranked = sorted(results, key=lambda r: r.row["rmse"])
    ours = [r for r in ranked if r.row["model"].startswith("rsvlm")]
    first = [*ours[: count // 2], *(r for r in ranked if r not in ours[: count // 2])][:count]
    return [r for r in results if any(r is f for f in first)]


def _style(ax: Axes, x: str, y: str, title: str = "") -> None:
    ax.set_xlabel(x, fontsize=9, color=SOFT)
    ax.set_ylabel(y, fontsize=9, color=SOFT)
    ax.set_title(title, fontsize=10, color=INK, loc="left")
    ax.tick_params(labelsize=8, colors=SOFT, length=2)
    ax.spines[["top", "right"]].set_visible(False)


def _color(i: int) -> str:
    return FOLD_COLORS[i % len(FOLD_COLORS)]


def _scores(path: Path, results: Sequence[Scored], name: str) -> Path:
    figure = new_figure(7.5, 1.1 + 0.3 * len(results), layout="compressed")
    ax = figure.add_subplot()
    for i, r in enumerate(results):
        color = ACCENT if r.row["model"].startswith("rsvlm") else INK
        low, high = r.row["rmse_lo"], r.row["rmse_hi"]
        if np.isfinite(low) and np.isfinite(high):
            ax.plot([low, high], [i, i], color=color, linewidth=1.5, alpha=0.6)
        ax.plot(r.row["rmse"], i, "o", color=color, markersize=5)
    ax.set_yticks(range(len(results)), [r.row["model"] for r in results])
    ax.invert_yaxis()
    ax.grid(axis="x", color="#eeeeee")
    ax.set_axisbelow(True)
    _style(ax, f"RMSE of {name}", "", f"{results[0].deal.name}, n = {results[0].row['n']}")
    return save(figure, path)


def _grid(count: int, side: float) -> tuple[Any, list[Axes]]:
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = new_figure(side * columns + 0.5, side * rows + 0.3, layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes


def _scatter(path: Path, results: Sequence[Scored], name: str) -> Path:
    figure, axes = _grid(len(results), 3.1)
    values = np.concatenate([np.concatenate([r.y, r.oof.mean]) for r in results])
    low, high = np.quantile(values, [0.001, 0.999])
    pad = 0.04 * (high - low)
    ends = low - pad, high + pad
    dense, shown = len(results[0].y) >= DENSE, None
    norm = LogNorm(vmin=1, vmax=max(2, len(results[0].y) / 50))
    for ax, r in zip(axes, results, strict=False):
        if dense:
            edges = np.linspace(*ends, 41)
            count = np.histogram2d(r.y, r.oof.mean, bins=[edges, edges])[0].T
            shown = ax.imshow(
                np.where(count > 0, count, np.nan), extent=(*ends, *ends), origin="lower",
                cmap="viridis", norm=norm, interpolation="nearest",
            )  # fmt: skip
        else:
            ax.plot(r.y, r.oof.mean, "o", color=FOLD_COLORS[0], markersize=3, alpha=0.5,
                    markeredgewidth=0)  # fmt: skip
        ax.plot(ends, ends, color=ACCENT, linewidth=1)
        ax.set_xlim(*ends)
        ax.set_ylim(*ends)
        ax.set_aspect("equal")
        _style(ax, "observed", "predicted", f"{r.row['model']}, R² {r.row['r2']:.3f}")
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes, shrink=0.7, extend="max")
        bar.set_label("windows in a cell", fontsize=8, color=SOFT)
        bar.ax.tick_params(labelsize=7, colors=SOFT)
    figure.suptitle(name, fontsize=11, color=INK)
    return save(figure, path)


def _bins(path: Path, results: Sequence[Scored], bins: Sequence[Row], name: str) -> Path:
    figure = new_figure(7.5, 4.2, layout="compressed")
    ax = figure.add_subplot()
    ax.axhline(0, color=SOFT, linewidth=0.8)
    count = 0
    for i, r in enumerate(results):
        mine = [b for b in bins if b["model"] == r.row["model"] and b["n"] > 0]
        count = max(count, len(mine))
        x = np.arange(len(mine))
        ax.plot(x, [b["bias"] for b in mine], "o-", color=_color(i), markersize=4, linewidth=1.4,
                label=r.row["model"])  # fmt: skip
        ax.set_xticks(x, [f"{b['low']:.3g} – {b['high']:.3g}\nn = {b['n']:.0f}" for b in mine])
    ax.grid(axis="y", color="#eeeeee")
    ax.set_axisbelow(True)
    _style(ax, f"observed {name}", "bias (predicted − observed)", "Bias by bin")
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save(figure, path)


def _calibration(path: Path, results: Sequence[Scored], name: str) -> Path:
    figure = new_figure(11.5, 3.9, layout="compressed")
    left, middle, right = figure.subplots(1, 3)
    for ax in (left, middle):
        ax.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle="--")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_aspect("equal")
    for i, r in enumerate(results):
        levels = sorted(r.reliability)
        left.plot(levels, [r.reliability[k] for k in levels], color=_color(i), linewidth=1.4,
                  label=r.row["model"])  # fmt: skip
        if r.own_reliability is not None:
            own = sorted(r.own_reliability)
            middle.plot(own, [r.own_reliability[k] for k in own], "o-", color=_color(i),
                        markersize=3, linewidth=1.4)  # fmt: skip
        elif np.isfinite(r.row["own_picp90"]):
            middle.plot(0.9, r.row["own_picp90"], "D", color=_color(i), markersize=6)
        right.barh(i, r.row["width90"], color=_color(i), height=0.6)
        right.text(r.row["width90"], i, f"  {r.row['picp90']:.0%}", va="center", fontsize=8,
                   color=INK)  # fmt: skip
    right.set_yticks(range(len(results)), [r.row["model"] for r in results])
    right.invert_yaxis()
    right.set_xlim(0, 1.18 * max(r.row["width90"] for r in results))
    _style(left, "nominal coverage", "observed coverage", "Calibrated across folds")
    _style(middle, "nominal coverage", "", "As models say themselves (diamond: 90 % alone)")
    _style(right, f"width of {name}", "", "90 % intervals, and their coverage")
    left.legend(fontsize=7, frameon=False, loc="upper left")
    return save(figure, path)


def _residuals(path: Path, task: Task, results: Sequence[Scored], name: str) -> Path | None:
    """A raster's windows in their places, or means of places; None without positions."""
    cube, table = task.cube, task.evaluation
    limit = max(float(np.quantile(np.abs(r.oof.mean - r.y), 0.98)) for r in results) or 1.0
    scale = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    if isinstance(cube.grid, Grid):
        figure, axes = _grid(len(results), 3.6)
        for ax, r in zip(axes, results, strict=False):
            image = np.full((cube.grid.height, cube.grid.width), np.nan, np.float32)
            for i, e in zip(r.rows, r.oof.mean - r.y, strict=True):
                y, x = int(table.y[i]), int(table.x[i])
                image[y : y + table.size, x : x + table.size] = e
            shown = show_map(ax, image, cube.grid, r.row["model"], **scale)
    else:
        sites: Any = cube.grid
        if not (np.isfinite(sites.lon).all() and np.isfinite(sites.lat).all()):
            return None
        figure, axes = _grid(len(results), 3.6)
        at = table.y[results[0].rows]
        where, number = np.unique(
            np.stack([sites.lon[at], sites.lat[at]], axis=1), axis=0, return_inverse=True
        )
        number = number.reshape(-1)
        # Rows of one position would hide each other: their mean is shown.
        errors = [np.bincount(number, r.oof.mean - r.y) / np.bincount(number) for r in results]
        limit = max(float(np.quantile(np.abs(e), 0.98)) for e in errors) or 1.0
        scale |= {"vmin": -limit, "vmax": limit}
        for ax, r, error in zip(axes, results, errors, strict=False):
            shown = ax.scatter(*where.T, c=error, s=14, edgecolor=SOFT, linewidth=0.2, **scale)
            _style(ax, "longitude (°)", "latitude (°)", r.row["model"])
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, extend="both")
    bar.set_label(f"predicted − observed {name}", fontsize=8, color=SOFT)
    bar.ax.tick_params(labelsize=7, colors=SOFT)
    return save(figure, path)


def _sites(
    path: Path, results: Sequence[Scored], groups: Sequence[Row], label: str, name: str
) -> Path:
    """The sites of most rows; those on top are the worst for ours, or for the last model."""
    size = {g["value"]: g["n"] for g in groups}
    names = sorted(size, key=lambda v: -size[v])[:SITES]
    found = {(g["model"], g["value"]): g["rmse"] for g in groups}
    models = [r.row["model"] for r in results]
    lead = next((m for m in models if m.startswith("rsvlm")), models[-1])
    names.sort(key=lambda v: found[lead, v])
    figure = new_figure(7.5, 1.1 + 0.2 * len(names), layout="compressed")
    ax = figure.add_subplot()
    for i, r in enumerate(results):
        x = [found[r.row["model"], v] for v in names]
        ax.plot(x, range(len(names)), "o", color=_color(i), markersize=4, alpha=0.8,
                label=r.row["model"])  # fmt: skip
    ax.set_yticks(range(len(names)), [f"{v}  ({size[v]})" for v in names])
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.grid(color="#eeeeee")
    ax.set_axisbelow(True)
    more = "" if len(size) <= SITES else f", the {SITES} of most rows of {len(size)}"
    _style(ax, f"RMSE of {name}", f"{label} (rows)", f"RMSE by {label}{more}")
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save(figure, path)
