"""Maps of a dense head beside the target, pixel by pixel, on windows that the run held out.

    rsvlm_pixels       what the head says of each pixel (no_lm_pixels without a decoder)
    rsvlm_means        the mean of its own map, said of every pixel of a window
    true_means         the target's own mean, said so: no answer by window has a smaller error

Rows are of known pixels. `picp90` is of intervals calibrated on the other half of the held-out
tiles, `own90` of the head's own. Pixels of a window err together: the windows are the sample, so
thousands of pixels calibrate no better than the windows that they lie in.

`calibration_scores` are what `rsvlm evaluate --calibrate` keeps with the run: of pixels where the
head is dense, of windows otherwise. Means of windows: `rsvlm_jax.evaluate.runs`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from rsvlm_jax.config import DataError
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.metrics import picp, ratio, regression_table, width
from rsvlm_jax.metrics.conformal import check_size, known, signed_scores
from rsvlm_jax.run.regressed import ALPHA
from rsvlm_jax.run.trained import Loaded

from .conformal import cross_conformal

MOST_SCORES = 2_000
"""Order statistics that stand for more scores than these."""

Row = dict[str, Any]


def pixel_rows(
    loaded: Loaded, source: CubeSource, site: Shaped[np.ndarray, " n"], *, batch_size: int = 64
) -> list[Row]:
    """The rows of the module, `model n rmse mae bias r2 rrmse r` and for the first also
    `picp90 width90 own90`; NaN where there is a single tile.

    Args:
      source: windows with a target, read for a dense head, all of them readable.
      site: tile or site of each.

    Raises:
      DataError: no known pixel.
    """
    y = truth(source)
    found = uncalibrated(loaded).regress_maps(source, batch_size=batch_size)
    numbers = found[loaded.processor.target.name]
    name = "no_lm" if loaded.experiment.model.decoder is None else "rsvlm"
    ok = np.isfinite(y)
    mine = _row(f"{name}_pixels", y, numbers.mean)
    half = np.unique(site, return_inverse=True)[1].reshape(-1) % 2
    fold = np.broadcast_to(half[:, None, None], y.shape)
    mine |= {"picp90": np.nan, "width90": np.nan}
    if len(np.unique(half)) > 1:
        mean, scale, bounds = numbers.mean[ok], numbers.scale[ok], loaded.processor.target.bounds
        lo, hi, _ = cross_conformal(y[ok], mean, scale, fold[ok], ALPHA, bounds)
        mine |= {
            "picp90": float(ratio(picp(y[ok], lo, hi))),
            "width90": float(ratio(width(lo, hi))),
        }
    mine["own90"] = float(ratio(picp(y[ok], numbers.lo[ok], numbers.hi[ok])))
    means = (
        (f"{name}_means", numbers.of_windows.mean),
        ("true_means", np.nanmean(y, axis=(1, 2))),
    )
    flat_maps = [_row(n, y, np.broadcast_to(x[:, None, None], y.shape)) for n, x in means]
    return [mine, *flat_maps]


def calibration_scores(
    loaded: Loaded, source: CubeSource, *, batch_size: int = 64
) -> Float[np.ndarray, " m"]:
    """|y - mean| / scale of held-out windows, or of their pixels; ascending, at most `MOST_SCORES`.

    Raises:
      DataError: too few windows for 90 % intervals. Warns: CalibrationWarning, below 50.
    """
    found = uncalibrated(loaded).regress_maps(source, batch_size=batch_size)
    numbers = found[loaded.processor.target.name]
    dense = loaded.experiment.model.is_dense
    y = truth(source) if dense else source.target.astype(np.float64)
    read = np.isfinite(numbers.mean).reshape(len(y), -1).all(axis=1)
    check_size(int(read.sum()), ALPHA, "calibration on held-out windows")
    mean, scale = numbers.mean[read], numbers.scale[read]
    return thinned(np.abs(signed_scores(y[read], mean, scale)))


def thinned(scores: Float[np.ndarray, " *n"]) -> Float[np.ndarray, " m"]:
    """Known scores, ascending; of more than `MOST_SCORES` as many order statistics, evenly spaced,
    so that a quantile of these is one of those, rounded up."""
    s = np.sort(known(scores))
    if len(s) <= MOST_SCORES:
        return s
    level = np.arange(1, MOST_SCORES + 1) / (MOST_SCORES + 1)
    return s[np.ceil(level * (len(s) + 1) - 1e-9).astype(int) - 1]


def uncalibrated(loaded: Loaded) -> Loaded:
    """The same run with the intervals of its head."""
    processor = dataclasses.replace(loaded.processor, conformal=None)
    return dataclasses.replace(loaded, processor=processor)


def truth(source: CubeSource) -> Float[np.ndarray, "n H W"]:
    """The first target of every pixel of a source's windows, float64, NaN where unknown.

    Raises:
      DataError: a source that holds no pixels' targets, or none that is known.
    """
    if source.maps is None:
        raise DataError(
            "the windows hold means of the target", where=source.path, expected="a dense head"
        )
    y = source.maps.read(source.table, source.rows, [0] * len(source))[:, 0].astype(np.float64)
    if not np.isfinite(y).any():
        raise DataError("no known pixel", where=source.path)
    return y


def markdown(rows: list[Row]) -> str:
    """A section of the report."""
    lines = [
        "## Pixel by pixel",
        "",
        "Of held-out pixels; `means` give every pixel of a window the same answer.",
        "",
        "| model | n | RMSE | bias | R2 | within 90 % (calibrated, own) |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        covered = f"{r['picp90']:.3f}, {r['own90']:.3f}" if "own90" in r else ""
        lines.append(
            f"| {r['model']} | {r['n']} | {r['rmse']:.4g} | {r['bias']:.3g} | {r['r2']:.3f} "
            f"| {covered} |"
        )
    return "\n".join(lines) + "\n"


def _row(name: str, y: np.ndarray, mean: np.ndarray) -> Row:
    ok = np.isfinite(y)
    found = {k: float(v) for k, v in regression_table(y[ok], mean[ok]).items()}
    return {"model": name, **found, "n": int(ok.sum())}
