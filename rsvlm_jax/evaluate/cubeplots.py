"""Looking at what the model will see: every pseudo-RGB frame, with its bands and wavelengths.

    a row for each date of each band set, a column for each spectral group
                      true colour        near infrared       SWIR
    s2_l1c            [image]            [image]             [image]
    2015-07-11        R B04 0.665 um     R B8A 0.865 um      R B12 2.202 um
                      G ...              (stretch under it)

Takes arrays and labels; it knows neither plans nor cubes.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from rsvlm_jax.config import DataError

from .panels import GREY, INK, SOFT, new_figure, rescale, save


@dataclasses.dataclass(frozen=True)
class Slot:
    """One channel of a frame.

    Attributes:
      name: bands in it: "B04", "VV - VH", or "mean of B05, B06".
      wavelength: micrometres, or None (radar, indices).
      unit: of the values, "" for reflectance.
    """

    name: str
    wavelength: float | None = None
    unit: str = ""

    def label(self) -> str:
        wave = "" if self.wavelength is None else f" {self.wavelength:.3f} µm"
        return f"{self.name}{wave}"


@dataclasses.dataclass(frozen=True)
class Panel:
    """One frame: a date (row) and a group (column).

    Attributes:
      date, group: labels; panels of one date form a row, of one group a column.
      slots: what is in R, G and B.
      pixels: [H, W, 3], physical units; whatever where not valid.
      valid: bool [H, W].
      limits: low [3] and high [3] of the stretch; None takes the 2nd and 98th percentiles over
        all valid pixels of the group, so that dates can be compared.
      linear: drawn as the encoder gets it; else brightened for the eye (`panels.GAMMA`).
      bandset: rows of one band set stand together, with its name and their own columns.
      note: a line under the frame.
    """

    date: str
    group: str
    slots: tuple[Slot, Slot, Slot]
    pixels: np.ndarray
    valid: np.ndarray
    limits: tuple[np.ndarray, np.ndarray] | None = None
    linear: bool = False
    bandset: str = ""
    note: str = ""


def show_cube(
    path: str | os.PathLike[str],
    panels: Sequence[Panel],
    *,
    title: str,
    max_dates: int = 12,
) -> Path:
    """Draws all frames and writes the PNG.

    Args:
      path: of the PNG.
      panels: in any order; rows and columns come in order of first appearance. A date without a
        frame of some group leaves its cell empty.
      title: heading.
      max_dates: of a longer series, so many evenly spread dates are drawn, and the heading says so.

    Raises:
      DataError: no panel at all, or one of another shape than [H, W, 3].
      ConfigError: the path cannot be written.
    """
    if not panels:
        raise DataError("nothing to show", where=title, expected="at least one frame", found="none")
    for p in panels:
        if p.pixels.shape != (*p.valid.shape, 3) or p.valid.ndim != 2:
            raise DataError(
                "not a three-channel frame",
                where=f"{p.date}, {p.group}",
                expected="pixels [H, W, 3] and valid [H, W]",
                found=f"{p.pixels.shape} and {p.valid.shape}",
            )
    rows: list[tuple[str, str]] = []
    columns: dict[str, list[str]] = {}
    for bandset in dict.fromkeys(p.bandset for p in panels):
        own = [p for p in panels if p.bandset == bandset]
        columns[bandset] = list(dict.fromkeys(p.group for p in own))
        dates = list(dict.fromkeys(p.date for p in own))
        if len(dates) > max_dates:
            some = np.linspace(0, len(dates) - 1, max_dates).round().astype(int)
            title = f"{title} ({max_dates} of {len(dates)} dates)"
            dates = [dates[i] for i in some]
        rows += [(bandset, date) for date in dates]
    cell = {(p.bandset, p.date, p.group): p for p in panels}

    height, width = panels[0].valid.shape
    tall = float(np.clip(height / width, 0.4, 2.5))
    side, wide = 2.6, max(2, *(len(c) for c in columns.values()))
    inches = side * wide + 0.6
    heading = textwrap.fill(title, int(9.5 * inches))
    high = (side * tall + 0.65) * len(rows) + 0.8 + 0.25 * heading.count("\n")
    figure = new_figure(inches, high, layout="compressed")
    figure.suptitle(heading, fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    axes = figure.subplots(len(rows), wide, squeeze=False)
    before = None
    for i, (bandset, date) in enumerate(rows):
        own = columns[bandset]
        for j in range(wide):
            ax = axes[i, j]
            if j >= len(own):
                ax.set_axis_off()
                continue
            group = own[j]
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
            if bandset != before:
                ax.set_title(group.replace("_", " "), fontsize=10, color=INK)
            if j == 0:
                label = f"{bandset}\n{date}" if bandset else date
                ax.set_ylabel(label, fontsize=9, color=INK)
            if (bandset, date, group) in cell:
                panel = cell[bandset, date, group]
                limits = panel.limits or _limits(
                    [p for p in panels if (p.bandset, p.group) == (bandset, group)]
                )
                _draw(ax, panel, limits)
        before = bandset
    figure.legend(
        handles=[Patch(facecolor=str(GREY), edgecolor=SOFT, hatch="///", label="not valid")],
        loc="outside lower right",
        fontsize=8,
        frameon=False,
        labelcolor=SOFT,
    )
    return save(figure, path, dpi=110)


def _draw(ax: Axes, panel: Panel, limits: tuple[np.ndarray, np.ndarray]) -> None:
    low, high = limits
    known = panel.valid & np.isfinite(panel.pixels).all(axis=-1)
    pixels = np.where(known[..., None], panel.pixels, 0)
    image = rescale(pixels, low, high, known, gamma=1.0 if panel.linear else None)
    ax.imshow(image, interpolation="nearest")
    if not known.all() and min(known.shape) > 1:
        hatched = ax.contourf((~known).astype(float), levels=[0.5, 1.5], colors="none")
        hatched.set(hatch="//", edgecolor=SOFT, linewidth=0)
    lines = [
        f"{letter}  {slot.label()}  [{low[k]:.3g}, {high[k]:.3g}]{slot.unit and ' ' + slot.unit}"
        for k, (letter, slot) in enumerate(zip("RGB", panel.slots, strict=True))
    ]
    share = f"{known.mean():.0%} valid" + (f"; {panel.note}" if panel.note else "")
    ax.set_xlabel("\n".join([*lines, share]), fontsize=6.5, color=SOFT, loc="left", labelpad=2)


def _limits(panels: Sequence[Panel]) -> tuple[np.ndarray, np.ndarray]:
    """2nd and 98th percentile of each channel over the valid pixels of a group."""
    values = np.concatenate(
        [p.pixels[p.valid & np.isfinite(p.pixels).all(axis=-1)] for p in panels]
    )
    if not len(values):
        return np.zeros(3), np.ones(3)
    low, high = np.percentile(values, (2, 98), axis=0)
    return low, high
