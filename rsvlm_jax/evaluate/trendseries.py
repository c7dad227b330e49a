"""Series of sites with what was found in them: observations, line or curve, interval, breaks.

    site A   · ··· · ·--·-·-·----   a line with its interval turns about the middle of the series
    site B   ...    |               a break
    site C   ...         I          a forecast

Numbers come from the result. Only the curves of fits, which the result does not hold, are computed
again for the sites that are drawn.
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

from rsvlm_jax.run.series import EPOCH, Series
from rsvlm_jax.run.trend import Trends
from rsvlm_jax.run.trend_breaks import SCREEN
from rsvlm_jax.run.trend_methods import CODES, OUTSIDE
from rsvlm_jax.run.trend_ranks import medians
from rsvlm_jax.timeseries import decimal_years, detect_breaks, harmonic_fit, landtrendr

from .panels import ACCENT, INK, SOFT, new_figure, save

DOTS, LINE, BREAK = "#4c78a8", ACCENT, "#222222"
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
    style: dict[str, Any] = {"va": "top", "fontsize": 12, "weight": "bold", "color": INK}
    figure.text(0.1 / width, 1 - 0.1 / height, title, **style)
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
    figure.legend(
        handles=_handles(made, set(map(str, result.data_vars))), loc="upper left", fontsize=7.5,
        frameon=False, labelcolor=SOFT, ncols=4, bbox_to_anchor=(0.06 / width, 1 - 0.56 / height),
        borderaxespad=0,
    )  # fmt: skip
    return save(figure, path)


def _handles(made: Trends, variables: set[str]) -> list[Any]:
    dot = {"color": DOTS, "marker": "o", "markersize": 3, "linewidth": 0}
    level = f"{100 * (1 - made.options.alpha):g} % interval"
    names = {"sen": "Theil-Sen line", "landtrendr": "segments of annual medians"}
    line = names.get(made.options.method, "fit")
    handles: list[Any] = [
        Line2D([], [], label="observations", **dot),  # type: ignore[arg-type]
        Line2D([], [], color=LINE, linewidth=1.6, label=line),
    ]
    if "slope_lo" in variables:
        handles.append(
            Patch(facecolor=LINE, alpha=0.22, linewidth=0, label=f"{level} of the slope")
        )
    if "break_date" in variables:
        handles.append(Line2D([], [], color=BREAK, linewidth=1, linestyle="--", label="change"))
    if "forecast" in variables:
        mark = {"marker": "D", "markersize": 4, "color": LINE, "linewidth": 1}
        handles.append(Line2D([], [], label=f"forecast, {level}", **mark))  # type: ignore[arg-type]
    return handles


def _site(ax: Axes, made: Trends, found: Any, site: int) -> None:
    series = made.source.read((site, 0, site + 1, 1))
    years, values = np.atleast_2d(series.years(EPOCH))[0] + EPOCH, series.values[0, 0]
    known = np.isfinite(values) & np.isfinite(years)
    t, v = years[known], values[known]
    ax.plot(t, v, color=DOTS, marker="o", markersize=1.8, alpha=0.55, linestyle="none", zorder=2)
    code, n = int(found["code"]), int(found["n"])
    if code in (0, 5) and len(t):
        low, high = np.percentile(v, (0.5, 99.5))
        pad = 0.12 * (high - low) or 0.05
        ax.set_ylim(low - pad, high + pad)
        if "slope_lo" in found:
            _line(ax, found, t)
        curve = _curve(made, found, series, t)
        if curve is not None:
            ax.plot(*curve, color=LINE, linewidth=0.9, zorder=4)
        _marks(ax, found, made)
    unit = "" if made.source.unit in ("", "1") else f" {made.source.unit}"
    words = (
        f"{_words(found, unit, made.options.method)}, n {n}"
        if code == 0
        else f"no answer: {CODES[code]}, n {n}"
    )
    name = textwrap.shorten(str(found["site"].item()), 44, placeholder="...")
    ax.set_title(f"{name}   {words}", fontsize=8, color=INK, loc="left", pad=3)
    ax.set_ylabel(made.source.name, fontsize=7.5, color=SOFT)
    ax.tick_params(labelsize=7, colors=SOFT, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    for spine in ax.spines.values():
        spine.set_edgecolor(SOFT)
        spine.set_linewidth(0.5)


def _line(ax: Axes, found: Any, t: np.ndarray) -> None:
    """The line, and what its slope may be, turned about the median date."""
    slope, low, high = (float(found[k]) for k in ("slope", "slope_lo", "slope_hi"))
    middle, ends = float(np.median(t)), np.array([t.min(), t.max()])
    at = slope * (middle - EPOCH) + float(found["intercept"])
    away = np.linspace(ends[0], ends[1], 50) - middle
    below, above = (f(low * away, high * away) for f in (np.minimum, np.maximum))
    style: dict[str, Any] = {"color": LINE, "alpha": 0.22, "linewidth": 0, "zorder": 3}
    ax.fill_between(away + middle, at + below, at + above, **style)
    ax.plot(ends, at + slope * (ends - middle), color=LINE, linewidth=1.6, zorder=4)


def _curve(made: Trends, found: Any, series: Series, t: np.ndarray) -> tuple[Any, Any] | None:
    """A fit between the first and the last date, where the method has one."""
    options = made.options
    if options.method == "stl":
        ends = np.array([t.min(), t.max()])
        return ends, float(found["intercept"]) + float(found["slope"]) * (ends - EPOCH)
    if options.method in ("harmonic", "lasso", "forecast") and options.model == "harmonic":
        years = np.atleast_2d(series.years(0))
        fit = harmonic_fit(
            series.values[0], years, harmonics=options.harmonics, penalty=options.penalty,
            method="lasso" if options.method == "lasso" else options.estimator,
        )  # fmt: skip
        last = float(decimal_years([options.at])[0]) if options.at else float(t.max())
        dense = np.linspace(float(t.min()), last, int(24 * (last - t.min())) + 2)
        return dense, np.asarray(fit.predict(dense))[0]
    if options.method == "monitor":
        years = np.atleast_2d(series.years(0))
        before = np.isfinite(series.values[0]) & (years < decimal_years([options.since])[0])
        fit = harmonic_fit(series.values[0], years, before, harmonics=options.harmonics)
        dense = np.linspace(t.min(), t.max(), int(24 * (t.max() - t.min())) + 2)
        return dense, np.asarray(fit.predict(dense))[0]
    if options.method == "breaks":
        pair = [series.bands.index(b) for b in SCREEN if b in series.bands]
        segments = detect_breaks(
            np.ascontiguousarray(series.values.transpose(1, 2, 0)),
            np.atleast_2d(series.years(0)),
            screen=(pair[0], pair[1]) if len(pair) == 2 else None,
            alpha=options.threshold,
            confirm=options.confirm,
            penalty=options.penalty,
        )
        dense = np.linspace(t.min(), t.max(), int(24 * (t.max() - t.min())) + 2)
        return dense, np.asarray(segments.predict(dense))[0, :, 0]
    if options.method == "landtrendr":
        values, years = medians(series, "Y")
        pieces = landtrendr(
            values, years.astype(np.float32), disturbance=options.disturbance, p=options.alpha
        )
        there = np.flatnonzero(np.isfinite(values[0]))
        seen = slice(there[0], there[-1] + 1) if len(there) else slice(0)
        return years[seen] + 0.5, np.asarray(pieces.fitted)[0, seen]
    return None


def _marks(ax: Axes, found: Any, made: Trends) -> None:
    """The break and the forecast."""
    if "break_date" in found and not np.isnat(found["break_date"].to_numpy()):
        when = decimal_years([found["break_date"].to_numpy()])[0]
        when += 0.5 if made.options.method == "landtrendr" else 0  # years, drawn at their middle
        ax.axvline(when, color=BREAK, linewidth=1, linestyle="--", zorder=5)
    if "forecast" in found and made.options.at is not None:
        at = float(decimal_years([made.options.at])[0])
        value, low, high = (float(found[k]) for k in ("forecast", "forecast_lo", "forecast_hi"))
        error = [[value - low], [high - value]]
        style: dict[str, Any] = {"markersize": 4, "elinewidth": 1, "capsize": 2, "zorder": 6}
        ax.errorbar([at], [value], yerr=error, fmt="D", color=LINE, **style)
        bottom, top = ax.get_ylim()
        ax.set_ylim(min(bottom, low), max(top, high))


def _words(found: Any, unit: str, method: str) -> str:
    """The numbers of a site in a line."""
    words = []
    if "slope" in found:
        ends = [f"{float(found[k]):+.3g}" for k in ("slope_lo", "slope_hi") if k in found]
        about = f" [{', '.join(ends)}]" if ends else ""
        words.append(f"{float(found['slope']):+.3g}{unit} per year{about}")
    if "break_date" in found:
        when = found["break_date"].to_numpy()
        size = f"{float(found['break_magnitude']):+.3g}{unit}"
        date = str(when)[: 4 if method == "landtrendr" else 10]
        words.append("no change" if np.isnat(when) else f"{size} from {date}")
    if "forecast" in found:
        low, high = float(found["forecast_lo"]), float(found["forecast_hi"])
        words.append(f"{float(found['forecast']):.3g}{unit} [{low:.3g}, {high:.3g}] expected")
    if "p_corrected" in found:
        words.append(f"p {_p(float(found['p_corrected']))} corrected")
    return ", ".join(words)


def _p(value: float) -> str:
    return "unknown" if not np.isfinite(value) else "< 0.001" if value < 1e-3 else f"{value:.3f}"
