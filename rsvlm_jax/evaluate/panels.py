"""Parts of the figures: stretches, map axes with coordinates and a scale bar, atomic saving.

Figures are `Figure` objects on the Agg canvas; pyplot and its global state are never imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data_zarr.grid import Grid
from rsvlm_jax.config import ConfigError

INK, SOFT, ACCENT = "#222222", "#777777", "#d1495b"
GREY = 0.72
"""Of pixels without a value: lighter than shade, darker than cloud, and never a colour."""


GAMMA = 0.8
"""Reflectance is linear, screens are not; forests would be black."""


def new_figure(width: float, height: float, layout: Literal["compressed"] | None = None) -> Figure:
    """An empty figure in inches."""
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes by inches from the left and upper edges of the figure."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def save(figure: Figure, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Writes a PNG under a temporary name, then renames it: never half a file.

    Raises:
      ConfigError: the path cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # No software version in the file: the same data give the same bytes.
        figure.savefig(part, dpi=dpi, format="png", metadata={"Software": None})
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(
            "cannot write the figure", where=str(path), found=error.strerror or str(error)
        ) from error
    return path


def stretch(
    rgb: np.ndarray, valid: np.ndarray | None = None, percentiles: tuple[float, float] = (2, 98)
) -> np.ndarray:
    """Each channel from its percentiles over valid pixels to [0, 1]; grey where not valid.

    Args:
      rgb: float [H, W, 3], any units, NaN where unknown.
      valid: bool [H, W] or None.
    """
    known = np.asarray(np.isfinite(rgb).all(axis=-1))
    known = known if valid is None else np.logical_and(known, valid)
    if not known.any():
        return np.full(rgb.shape, GREY)
    low, high = np.percentile(rgb[known], percentiles, axis=0)
    return rescale(rgb, low, high, known)


def rescale(
    rgb: np.ndarray, low: Any, high: Any, valid: np.ndarray, *, gamma: float | None = None
) -> np.ndarray:
    """(rgb - low) / (high - low) clipped to [0, 1], to the power GAMMA; a flat channel is grey."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    span = high - low
    scaled = np.where(span > 0, (rgb - low) / np.where(span > 0, span, 1), 0.5)
    return np.where(valid[..., None], np.clip(scaled, 0, 1) ** (gamma or GAMMA), GREY)


def extent(grid: Grid) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of the outer edges: kilometres, or degrees."""
    a, _, c, _, e, f = grid.transform
    k = 1.0 if grid.geographic else 1e-3
    return c * k, (c + a * grid.width) * k, (f + e * grid.height) * k, f * k


def stretch_of_y(grid: Grid) -> float:
    """Length of a unit of y over that of a unit of x, on the ground: 1 but for degrees."""
    _, _, bottom, top = extent(grid)
    return float(1 / np.cos(np.radians((bottom + top) / 2))) if grid.geographic else 1.0


def tallness(grid: Grid) -> float:
    """Height over width of the map on the ground."""
    left, right, bottom, top = extent(grid)
    return (top - bottom) / (right - left) * stretch_of_y(grid)


def show_map(
    ax: Axes,
    image: np.ndarray,
    grid: Grid,
    title: str,
    *,
    first: bool = False,
    **kwargs: Any,
) -> ScalarMappable:
    """An image in its coordinates. Equal distances on the ground look equal, in degrees too.

    The first map of a row also gets the name of its vertical axis.
    """
    mappable = ax.imshow(
        image,
        extent=extent(grid),
        aspect=stretch_of_y(grid),
        interpolation="nearest",
        **kwargs,
    )
    ax.set_facecolor(str(GREY))
    ax.set_title(title, fontsize=10, color=INK, loc="left")
    ax.tick_params(labelsize=7, colors=SOFT, length=2)
    ax.locator_params(nbins=4)
    ax.ticklabel_format(useOffset=False, style="plain")
    names = ("longitude (°)", "latitude (°)") if grid.geographic else ("E (km)", "N (km)")
    ax.set_xlabel(names[0], fontsize=7, color=SOFT, labelpad=1)
    if first:
        ax.set_ylabel(names[1], fontsize=7, color=SOFT, labelpad=1)
    for spine in ax.spines.values():
        spine.set_edgecolor(SOFT)
        spine.set_linewidth(0.5)
    return mappable


def scale_bar(ax: Axes, grid: Grid) -> None:
    """A bar of a round length, at most a quarter of the width, at the lower left."""
    metres = grid.gsd * grid.width
    length = 10.0 ** np.floor(np.log10(metres / 4))
    length *= max(k for k in (1, 2, 5) if k * length <= metres / 4)
    share = length / metres
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    inch = 1 / (ax.figure.get_figure(root=True).get_size_inches()[1] * ax.get_position().height)
    style: dict[str, Any] = {"transform": ax.transAxes, "edgecolor": "none"}
    box = (0.03, 0.1 * inch), share + 0.05, 0.3 * inch
    ax.add_patch(Rectangle(*box, facecolor="white", alpha=0.75, zorder=4, **style))
    bar = (0.055, 0.16 * inch), share, 0.04 * inch
    ax.add_patch(Rectangle(*bar, facecolor=INK, zorder=5, **style))
    ax.text(
        *(0.055 + share / 2, 0.23 * inch, text),
        transform=ax.transAxes,
        ha="center",
        va="bottom",
        fontsize=7,
        color=INK,
        zorder=6,
    )


def fold_edges(ax: Axes, fold_map: np.ndarray, grid: Grid, color: str = "white") -> None:
    """Thin lines between pixels of different folds."""
    left, right, bottom, top = extent(grid)
    height, width = fold_map.shape
    x = np.linspace(left, right, width + 1)
    y = np.linspace(top, bottom, height + 1)
    segments: list[list[tuple[Any, Any]]] = []
    for i, j in np.argwhere(fold_map[:, 1:] != fold_map[:, :-1]):
        segments.append([(x[j + 1], y[i]), (x[j + 1], y[i + 1])])
    for i, j in np.argwhere(fold_map[1:] != fold_map[:-1]):
        segments.append([(x[j], y[i + 1]), (x[j + 1], y[i + 1])])
    ax.add_collection(LineCollection(segments, colors=color, linewidths=0.6, alpha=0.8))


def color_bar(mappable: ScalarMappable, ax: Axes, label: str) -> None:
    """A bar as high as its map, right beside it."""
    cax = ax.inset_axes((1.02, 0.0, 0.035, 1.0))
    bar = ax.figure.get_figure(root=True).colorbar(mappable, cax=cax)
    bar.set_label(label, fontsize=7, color=SOFT)
    cax.tick_params(labelsize=7, colors=SOFT, length=2)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
