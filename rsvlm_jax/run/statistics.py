"""Statistics of a training split, into the model that is trained on it.

Those of the training split and nothing else: frames of the "rgb" fronts (after recombination),
bands of the "pixel" fronts, the transformed target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from data_zarr.cube import Cube
from data_zarr.stats import band_stats
from rsvlm_jax.config import BandSetSpec, DataError
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.models.pixel import PixelFront
from rsvlm_jax.models.spectral import frame_stats, make_plan
from rsvlm_jax.models.vlm import VisionLanguageModel


def set_statistics(
    model: VisionLanguageModel, cube: Cube, source: CubeSource, processor: Processor
) -> None:
    """Statistics of the training split into the model's `Stat` variables.

    Args:
      source: the windows of `cube` that are trained on, as `processor` reads them.

    Raises:
      DataError: nothing valid to take statistics of, or a constant target.
    """
    for read, spec in zip(processor.config.inputs, processor.bandsets, strict=True):
        if read.front == "rgb":
            plan = make_plan(spec, read.spectral)
            found = frame_stats(plan, _observations(source, processor, spec.name))
            model.spectral[spec.name].set_stats(found)
        elif read.front == "pixel":  # encoders have the statistics that they were trained with
            front = model.pixel[spec.name]
            if read.bins or read.spectral.indices:
                found = pixel_statistics(front, _observations(source, processor, spec.name))
                front.set_stats(*map(_f32, found))
            else:
                front.set_stats(*map(_f32, _band_statistics(cube, spec, source)))
    if model.head is not None:
        model.head.set_target(*_target_statistics(source, processor))


def _band_statistics(
    cube: Cube, spec: BandSetSpec, source: CubeSource
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the pixels of each band."""
    table, rows = source.table, source.rows
    windows = np.stack([table.y[rows], table.x[rows]], axis=1)
    stats = band_stats(cube, spec.name, windows, table.size)
    names = [b.name for b in cube.bandsets[spec.name].bands]
    at = [names.index(name) for name in spec.band_names]
    return stats.mean[at], np.where(stats.std[at] > 0, stats.std[at], 1.0)


def pixel_statistics(
    front: PixelFront, observations: Iterable[Observation]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [F], standard deviation [F], knots [F, bins + 1] of what a front reads of a date.

    Of window means, which are held in memory: four bytes a window, date and band.
    """
    found = [front.values(obs) for obs in observations]
    count = len(front.spec.bands) + len(front.indices)
    values, there = (
        np.concatenate([np.asarray(x).reshape(-1, count) for x in parts])
        for parts in zip(*found, strict=True)
    )
    levels = np.linspace(0, 1, max(front.bins, 1) + 1)
    mean, std, knots = np.zeros(count), np.ones(count), np.zeros((count, len(levels)))
    for i in range(count):
        known = values[there[:, i], i].astype(np.float64)
        if not len(known):
            raise DataError(
                "nothing valid to take statistics of",
                where=f"band set {front.spec.name!r}, feature {i}",
                expected="one training window at least with a value",
            )
        mean[i], std[i] = known.mean(), known.std() or 1.0
        knots[i] = np.quantile(known, levels)
    return mean, std, knots


def _target_statistics(source: CubeSource, processor: Processor) -> tuple[jax.Array, ...]:
    head = processor.config.head
    assert head is not None
    y = source.target.astype(np.float64)
    where = f"{source.path}: target {processor.data.target.name!r}"
    if head.transform == "log1p":
        if y.min() <= -1:
            raise DataError(
                "log1p of a target at or below -1",
                where=where,
                expected="> -1",
                found=float(y.min()),
                remedy='use HeadConfig.transform "zscore"',
            )
        y = np.log1p(y)
    if not y.std() > 0:
        raise DataError(
            "the target is constant over the training split", where=where, found=float(y.mean())
        )
    low, high = processor.target.bounds or (-np.inf, np.inf)
    k = head.targets
    return tuple(_f32(np.full(k, v)) for v in (y.mean(), y.std(), low, high))


def _observations(source: CubeSource, processor: Processor, name: str) -> Iterator[Observation]:
    """Every training window once; the filling of the last batch is marked invalid."""
    with eval_batches(source, processor, batch_size=64, threads=1) as batches:
        for batch in batches:
            obs = batch.obs[name]
            real = (np.asarray(batch.sample) >= 0)[:, None, None, None, None]
            yield dataclasses.replace(obs, valid=obs.valid & real)


def _f32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)
