"""Numbers of every window, for the baselines that read tables.

    windows    mean and deviation of every band and date (`evaluate.baselines.features`), and the
               day of year where places have dates of their own
    indices    mean of every spectral index and date that the bands allow, and of radar's bands
    temporal   percentiles, moments and harmonics of every band over its dates, under its masks
    galileo    frozen embeddings (`rsvlm_jax.models.embed`) of the band sets that the encoder reads
    presto     likewise

Physical units; NaN where nothing is valid. All read the bands, dates and masks of the task's
inputs, embeddings also their limit of dates.
"""

from __future__ import annotations

import dataclasses
import time
import warnings

import numpy as np

from data_zarr.indices import INDICES, STAND_INS
from data_zarr.sampling import WindowTable
from rsvlm_jax.config import BandSetSpec, ConfigError, DataError, GalileoConfig
from rsvlm_jax.data.batch import to_days
from rsvlm_jax.evaluate.baselines import derived, each_window, features

from .task import Task

PERCENTILES = (10, 25, 50, 75, 90)
YEAR = 365.2425
MIN_HARMONIC = 4
"""Valid dates that a harmonic of one year needs."""


@dataclasses.dataclass
class Table:
    """Features of a task, each kind made once.

    Attributes:
      seconds: that each kind took.
    """

    task: Task
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    _made: dict[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)

    @property
    def identity(self) -> list[object]:
        """Which bands of which band sets are read."""
        limits = [i.dates for i in self.task.inputs]
        specs = self.task.prepared.specs
        return [[s.name, s.band_names, d] for s, d in zip(specs, limits, strict=True)]

    def training(self, kind: str) -> np.ndarray:
        """[m, f] of `Task.training`."""
        return self._both(kind)[0]

    def evaluation(self, kind: str) -> np.ndarray:
        """[n, f] of `Task.evaluation`."""
        return self._both(kind)[1]

    def _both(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        if kind not in self._made:
            start = time.perf_counter()
            task = self.task
            made = features_of(task, kind, task.training)
            same = task.cube.points  # places have one table
            other = made if same else features_of(task, kind, task.evaluation)
            self._made[kind] = made, other
            self.seconds[kind] = time.perf_counter() - start
        return self._made[kind]


def features_of(task: Task, kind: str, table: WindowTable) -> np.ndarray:
    """f64 [n, f] of a table's windows; see the module for the kinds.

    Raises:
      ConfigError: an encoder that reads none of the inputs. DataError: no index can be made.
    """
    if kind == "windows":
        made = [features(task.cube, task.inputs, table), *_seasons(task, table)]
        return np.concatenate(made, axis=1)
    if kind == "indices":
        return _indices(task, table)
    if kind == "temporal":
        return np.concatenate([_temporal(task, s, table) for s in task.prepared.specs], axis=1)
    return _embeddings(task, kind, table)


def _seasons(task: Task, table: WindowTable) -> list[np.ndarray]:
    """Sine and cosine of the day of year of each date, where places have their own."""
    found = []
    for spec in task.prepared.specs:
        days = to_days(np.asarray(task.cube.bandsets[spec.name].dates))
        if not spec.static and days.ndim == 2:
            angle = 2 * np.pi * days[:, table.y].T / YEAR
            found += [np.sin(angle), np.cos(angle)]
    # Band sets of one source share their dates: once is enough.
    kept: list[np.ndarray] = []
    for x in found:
        if not any(x.shape == k.shape and np.array_equal(x, k, equal_nan=True) for k in kept):
            kept.append(x.astype(np.float64))
    return kept


def _indices(task: Task, table: WindowTable) -> np.ndarray:
    parts = []
    for spec in task.prepared.specs:
        rows: list[np.ndarray] = [np.zeros(0)] * len(table)
        for i, values, valid in each_window(task.cube, spec, table):
            rows[i] = _window_indices(spec, values, np.broadcast_to(valid, values.shape))
        parts.append(np.stack(rows))
    x = np.concatenate([*parts, *_seasons(task, table)], axis=1)
    if not x.shape[1]:
        raise DataError(
            "no spectral index can be made of the inputs",
            where=str(task.cube.path),
            expected="bands with common names such as red and nir",
            found=", ".join(s.name for s in task.prepared.specs),
        )
    return x


def _window_indices(spec: BandSetSpec, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Means [T * (number of indices)]; of a band set that is not optical, of its bands."""
    if spec.kind != "optical":
        both = derived(values, valid, spec)
        return _mean(*both).ravel()
    channel = {b.common_name: i for i, b in enumerate(spec.bands) if b.common_name}
    means = []
    for index in INDICES.values():
        names = [(name, *STAND_INS.get(name, ())) for name in index.bands]
        if not all(any(n in channel for n in several) for several in names):
            continue
        at = [next(channel[n] for n in several if n in channel) for several in names]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = index.function(*(values[:, i] for i in at))
        known = valid[:, at].all(axis=1) & np.isfinite(value)
        means.append(_mean(np.clip(value, -2, 2)[:, None], known[:, None]))
    return np.concatenate(means, axis=1).ravel() if means else np.zeros(0)


def _mean(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """[T, C] over the valid pixels of [T,C,h,w]; NaN where there is none."""
    n = valid.sum(axis=(2, 3))
    total = np.where(valid, values, 0).sum(axis=(2, 3))
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _temporal(task: Task, spec: BandSetSpec, table: WindowTable) -> np.ndarray:
    days = to_days(np.asarray(task.cube.bandsets[spec.name].dates)).astype(np.float64)
    rows: list[np.ndarray] = [np.zeros(0)] * len(table)
    for i, values, valid in each_window(task.cube, spec, table):
        both = derived(values, valid, spec)
        own = days if days.ndim == 1 else days[:, table.y[i]]
        rows[i] = series_statistics(_mean(*both), own)
    return np.stack(rows)


def series_statistics(series: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Statistics of series [T, C] over its dates: f64 [C * 13], or [C] of a single date.

    Per channel: five percentiles, least, greatest, mean, deviation, number of valid dates, and
    level, cosine and sine of a year's harmonic by least squares (NaN with fewer than four dates).

    Args:
      series: NaN where nothing is valid.
      days: [T], NaN where a date is not there.
    """
    if len(series) == 1:
        return series[0].astype(np.float64)
    with warnings.catch_warnings():  # all-NaN channels stay NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        parts = [
            np.nanpercentile(series, PERCENTILES, axis=0),
            [np.nanmin(series, 0), np.nanmax(series, 0)],
            [np.nanmean(series, 0), np.nanstd(series, 0)],
            [np.isfinite(series).sum(0)],
        ]
    angle = 2 * np.pi * np.nan_to_num(days) / YEAR
    design = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=1)
    fits = np.full((3, series.shape[1]), np.nan)
    for c in range(series.shape[1]):
        known = np.isfinite(series[:, c]) & np.isfinite(days)
        if known.sum() >= MIN_HARMONIC:
            fits[:, c] = np.linalg.lstsq(design[known], series[known, c], rcond=None)[0]
    return np.concatenate([*parts, fits]).T.ravel().astype(np.float64)


def _embeddings(task: Task, kind: str, table: WindowTable) -> np.ndarray:
    """Embeddings of windows by an encoder that is not trained."""
    import jax

    from rsvlm_jax.data.pipeline import eval_batches
    from rsvlm_jax.interop import encoders
    from rsvlm_jax.models.embed import embed

    if kind == "galileo":
        patch = max(p for p in (4, 2, 1) if table.size % p == 0)
        model = encoders.galileo(GalileoConfig(patch_size=patch))
    else:
        model = encoders.presto()
    specs = [s for s in task.prepared.specs if _readable(s)]
    if not specs:
        raise ConfigError(
            "an encoder that reads none of the inputs",
            where=f"--models {kind}_ridge",
            expected="Sentinel-1, Sentinel-2 or weather that it knows",
            found=", ".join(s.name for s in task.prepared.specs),
        )
    names = {s.name for s in specs}
    step = jax.jit(lambda obs: embed(model, obs, specs))
    source = task.prepared.source(table, np.arange(len(table)))
    source.error_budget = 0.0  # every row is scored: one that cannot be read is an error
    found = []
    with eval_batches(source, task.prepared.processor, batch_size=64) as batches:
        for i, batch in enumerate(batches):
            obs = {k: v for k, v in batch.obs.items() if k in names}
            found.append(np.asarray(step(obs), np.float64)[: len(source) - 64 * i])
    return np.concatenate(found)


def _readable(spec: BandSetSpec) -> bool:
    from rsvlm_jax.models.quantities import readings

    try:
        readings(spec)
    except (ConfigError, DataError):
        return False
    return True
