"""What a run relies on: each band set made useless, and how much of R2 is lost.

    greyed     every pixel is the mean of its band over the held-out windows; masks and dates stay
    shuffled   the acquisitions of another window drawn at random, with their dates and masks
    swapped    those of the window at the other end of the target: the highest gets the lowest's

    source [n windows] -> change one band set -> the run's numbers -> R2;   drop = R2 intact - R2

A drop near 0 says that the run reads the number elsewhere, not that the band set holds nothing: two
that say the same cover for each other. Swapped windows contradict themselves, so their drop is the
largest where a band set is trusted. Intervals are 95 % of a paired bootstrap of tiles (or sites):
both scores are of the same drawn tiles. Not here: training without a band set, which is the
ablation (`experiments/reo_ablations.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.data.samples import Sample, assemble, filled
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.metrics import bootstrap
from rsvlm_jax.run.trained import Loaded

CHANGES = ("greyed", "shuffled", "swapped")
MEASURED = ("pixels", "valid", "date", "platform", "year_known")
"""Of a band set: what another window's acquisitions bring with them. The place stays."""

Row = dict[str, Any]
Change = Callable[[Sample, np.ndarray], None]


def reliance(
    loaded: Loaded,
    source: CubeSource,
    site: np.ndarray,
    *,
    batch_size: int = 64,
    seed: int = 0,
    on_change: Callable[[str], None] | None = None,
) -> list[Row]:
    """Scores a run on windows whose band sets were changed one by one.

    Args:
      source: windows with a target, all of them readable.
      site: [n], tile or site of each window: what the bootstrap draws.
      seed: of the shuffle and the bootstrap.
      on_change: called with "BANDSET CHANGE" before each is scored.

    Returns:
      The intact row (`bandset` and `change` empty), then one for each band set and change:
      `bandset change n sites r2 rmse drop drop_lo drop_hi`; NaN intervals with one site.

    Raises:
      DataError: fewer than two windows, or a target that does not vary.
    """
    y = source.target.astype(np.float64)
    n = len(y)
    if n < 2 or not np.ptp(y):
        raise DataError(
            "nothing to lose",
            where="reliance",
            expected="at least two held-out windows whose targets differ",
            found=f"{n} windows, targets {y.min():g} .. {y.max():g}" if n else "no window",
        )
    rng = np.random.default_rng(seed)
    donors = {"shuffled": _deranged(n, rng), "swapped": _opposite(y)}
    intact = _predict(loaded, source, batch_size)
    rows = [_row("", "", y, intact, intact, site, seed)]
    for name in source.windows:
        grey = _means(source, name, batch_size)
        for change in CHANGES:
            if on_change is not None:
                on_change(f"{name} {change}")
            apply = (
                _greyed(name, grey)
                if change == "greyed"
                else _exchanged(name, source, donors[change])
            )
            found = _predict(loaded, source, batch_size, apply)
            rows.append(_row(name, change, y, found, intact, site, seed))
    return rows


def markdown(rows: list[Row]) -> str:
    """A GitHub table with what it says."""
    lines = [
        "## What the number relies on",
        "",
        "| band set | change | R² | drop of R² [95 %] |",
        "| --- | --- | ---: | ---: |",
    ]
    for row in rows:
        low, high = row["drop_lo"], row["drop_hi"]
        known = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
        drop = f"{row['drop']:.3f}{known}" if row["bandset"] else "–"
        lines.append(
            f"| {row['bandset'] or 'all intact'} | {row['change']} | {row['r2']:.3f} | {drop} |"
        )
    lines += [
        "",
        "Greyed: every pixel is its band's mean. Shuffled: another window's acquisitions. Swapped:"
        " those of the window at the other end of the target. Intervals are of a paired bootstrap"
        f" of {rows[0]['sites']} tiles or sites. A drop near 0 says that the number is read"
        " elsewhere, not that the band set holds nothing.",
    ]
    return "\n".join(lines)


def _predict(
    loaded: Loaded, source: CubeSource, batch_size: int, change: Change | None = None
) -> np.ndarray:
    """The run's numbers [n]."""
    found = []
    text = loaded.processor.regress_prompt().repeat(batch_size)
    for index, reads in _reads(source, batch_size):
        if change is not None:
            change(reads, index)
        short = batch_size - len(index)
        whole = filled(reads, short) if short else reads
        batch = assemble(whole, loaded.processor, text)
        found.append(loaded.regress(batch).mean[: len(index)])
    return np.concatenate(found)


def _reads(source: CubeSource, batch_size: int) -> Iterator[tuple[np.ndarray, Sample]]:
    for first in range(0, len(source), batch_size):
        index = np.arange(first, min(first + batch_size, len(source)))
        yield index, source.read(index)


def _means(source: CubeSource, name: str, batch_size: int) -> np.ndarray:
    """Of the valid pixels of each band, as stored: [C]; 0 for a band without one."""
    total: Any = 0.0
    count: Any = 0.0
    for _, reads in _reads(source, batch_size):
        entry = reads["obs"][name]
        pixels = entry["pixels"]
        valid = np.broadcast_to(entry["valid"], pixels.shape)
        over = (0, 1, 3, 4)
        total = total + np.where(valid, pixels, 0).sum(over, dtype=np.float64)
        count = count + valid.sum(over)
    return total / np.maximum(count, 1)


def _greyed(name: str, mean: np.ndarray) -> Change:
    def change(reads: Sample, index: np.ndarray) -> None:
        del index
        pixels = reads["obs"][name]["pixels"]
        whole = np.issubdtype(pixels.dtype, np.integer)
        pixels[...] = (np.rint(mean) if whole else mean)[:, None, None]

    return change


def _exchanged(name: str, source: CubeSource, donor: np.ndarray) -> Change:
    def change(reads: Sample, index: np.ndarray) -> None:
        other = source.read(donor[index])["obs"][name]
        reads["obs"][name] |= {k: other[k] for k in MEASURED}

    return change


def _deranged(n: int, rng: np.random.Generator) -> np.ndarray:
    """A donor for each window, each window once, none itself: a cycle through a random order."""
    order = rng.permutation(n)
    donor = np.empty(n, np.int64)
    donor[order] = np.roll(order, 1)
    return donor


def _opposite(y: np.ndarray) -> np.ndarray:
    """The window at rank n-1-r of the target for that at rank r."""
    order = np.argsort(y, kind="stable")
    donor = np.empty(len(y), np.int64)
    donor[order] = order[::-1]
    return donor


def _row(
    name: str,
    change: str,
    y: np.ndarray,
    found: np.ndarray,
    intact: np.ndarray,
    site: np.ndarray,
    seed: int,
) -> Row:
    spread = float(((y - y.mean()) ** 2).sum())
    lost, kept = (y - found) ** 2, (y - intact) ** 2
    centred = y - y.mean()

    def share(sums: np.ndarray) -> np.ndarray:
        n, first, second, more = sums
        sst = second - first**2 / n
        return np.where(sst > 0, more / sst, np.nan)

    columns = [np.ones_like(y), centred, centred**2, lost - kept]
    low, high = bootstrap(share, columns, site, seed=seed)
    return {
        "bandset": name,
        "change": change,
        "n": len(y),
        "sites": len(np.unique(site)),
        "r2": 1 - float(lost.sum()) / spread,
        "rmse": float(np.sqrt(lost.mean())),
        "drop": float((lost - kept).sum()) / spread,
        "drop_lo": low,
        "drop_hi": high,
    }
