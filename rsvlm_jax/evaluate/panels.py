"""Parts of the figures: stretches, map axes with coordinates and a scale bar, atomic saving.

Figures are `Figure` objects on the Agg canvas; pyplot and its global state are never imported.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rsvlm_jax.config import ConfigError

INK, SOFT, ACCENT = "#222222", "#777777", "#d1495b"
GREY = 0.72
"""Of pixels without a value: lighter than shade, darker than cloud, and never a colour."""


GAMMA = 0.8
"""Reflectance is linear, screens are not; forests would be black."""


class GridLike(Protocol):
    """What a map panel needs of `data_zarr.cube.Grid`."""

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]: ...
    @property
    def epsg(self) -> int | None: ...
    @property
    def geographic(self) -> bool: ...
    @property
    def gsd(self) -> float: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, ready for constrained layout."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


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
    known = np.isfinite(rgb).all(axis=-1)
    known = known if valid is None else known & valid
    if not known.any():
        return np.full(rgb.shape, GREY)
    low, high = np.percentile(rgb[known], percentiles, axis=0)
    return rescale(rgb, low, high, known)


def rescale(rgb: np.ndarray, low: Any, high: Any, valid: np.ndarray) -> np.ndarray:
    """(rgb - low) / (high - low) clipped to [0, 1], to the power GAMMA; a flat channel is grey."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    span = high - low
    scaled = np.where(span > 0, (rgb - low) / np.where(span > 0, span, 1), 0.5)
    return np.where(valid[..., None], np.clip(scaled, 0, 1) ** GAMMA, GREY)


def extent(grid: GridLike) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of the outer edges: kilometres, or degrees."""
    a, _, c, _, e, f = grid.transform
    k = 1.0 if grid.geographic else 1e-3
    return c * k, (c + a * grid.width) * k, (f + e * grid.height) * k, f * k


def show_map(
    ax: Axes,
    image: np.ndarray,
    grid: GridLike,
    title: str,
    *,
    labels: bool = True,
    **kwargs: Any,
) -> ScalarMappable:
    """An image in its coordinates. Equal distances on the ground look equal, in degrees too."""
    left, right, bottom, top = extent(grid)
    latitude = np.radians((bottom + top) / 2) if grid.geographic else 0.0
    mappable = ax.imshow(
        image,
        extent=(left, right, bottom, top),
        aspect=float(1 / np.cos(latitude)),
        interpolation="nearest",
        **kwargs,
    )
    ax.set_facecolor(str(GREY))
    ax.set_title(title, fontsize=10, color=INK, loc="left")
    ax.tick_params(labelsize=7, colors=SOFT, length=2)
    ax.locator_params(nbins=4)
    ax.ticklabel_format(useOffset=False, style="plain")
    if labels:
        names = ("longitude (°)", "latitude (°)") if grid.geographic else ("E (km)", "N (km)")
        ax.set_xlabel(names[0], fontsize=7, color=SOFT, labelpad=1)
        ax.set_ylabel(names[1], fontsize=7, color=SOFT, labelpad=1)
    else:
        ax.tick_params(labelbottom=False, labelleft=False)
    for spine in ax.spines.values():
        spine.set_edgecolor(SOFT)
        spine.set_linewidth(0.5)
    return mappable


def scale_bar(ax: Axes, grid: GridLike) -> None:
    """A bar of a round length, about a quarter of the width, at the lower left."""
    metres = grid.gsd * grid.width
    length = 10.0 ** np.floor(np.log10(metres / 4))
    length *= max(k for k in (1, 2, 5) if k * length <= metres / 4)
    share = length / metres
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    box = Rectangle((0.03, 0.03), share + 0.05, 0.105, transform=ax.transAxes)
    box.set(facecolor="white", alpha=0.75, edgecolor="none", zorder=4)
    bar = Rectangle((0.055, 0.055), share, 0.014, transform=ax.transAxes)
    bar.set(facecolor=INK, edgecolor="none", zorder=5)
    ax.add_patch(box)
    ax.add_patch(bar)
    ax.text(
        *(0.055 + share / 2, 0.078, text),
        transform=ax.transAxes,
        ha="center",
        va="bottom",
        fontsize=7,
        color=INK,
        zorder=6,
    )


def fold_edges(ax: Axes, fold_map: np.ndarray, grid: GridLike, color: str = "white") -> None:
    """Thin lines between pixels of different folds."""
    left, right, bottom, top = extent(grid)
    height, width = fold_map.shape
    x = np.linspace(left, right, width + 1)
    y = np.linspace(top, bottom, height + 1)
    segments: list[Sequence[tuple[float, float]]] = []
    for i, j in np.argwhere(fold_map[:, 1:] != fold_map[:, :-1]):
        segments.append([(x[j + 1], y[i]), (x[j + 1], y[i + 1])])
    for i, j in np.argwhere(fold_map[1:] != fold_map[:-1]):
        segments.append([(x[j], y[i + 1]), (x[j + 1], y[i + 1])])
    ax.add_collection(LineCollection(segments, colors=color, linewidths=0.6, alpha=0.8))


def color_bar(mappable: ScalarMappable, ax: Axes, label: str) -> None:
    """A bar as high as its map, right beside it."""
    cax = ax.inset_axes((1.02, 0.0, 0.035, 1.0))
    bar = ax.figure.colorbar(mappable, cax=cax)
    bar.set_label(label, fontsize=7, color=SOFT)
    cax.tick_params(labelsize=7, colors=SOFT, length=2)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
