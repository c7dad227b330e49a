"""Statistics of a training split, into the model that is trained on it.

Those of the training split and nothing else: frames of the "rgb" fronts (after recombination),
bands of the "pixel" fronts, the transformed target, and the head's linear readout of the tokens
that the model makes before the first step.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_zarr.cube import Cube
from data_zarr.stats import band_stats
from rsvlm_jax.config import BandSetSpec, DataError
from rsvlm_jax.config.model import Transform
from rsvlm_jax.data.batch import Batch, Observation
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.models.heads import Head
from rsvlm_jax.models.heads.head import mean_of_valid
from rsvlm_jax.models.heads.predictive import forward
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
      DataError: nothing valid to take statistics of, a constant target, or one below 0 whose
        logarithm or root is wanted.
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
        z = _set_target(model.head, source, processor)
        if model.head.config.readout:
            rows = [np.flatnonzero(known) for known in source.has_targets.T]
            model.head.set_readout(_mean_tokens(model, source, processor), z, rows)


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


def _set_target(head: Head, source: CubeSource, processor: Processor) -> list[np.ndarray]:
    """Mean, spread, bounds and support of every target; the values that are known, standardised."""
    names, specs = processor.data.target.names, (processor.target, *processor.also)
    found = []
    for k, name in enumerate(names):
        y = source.known(k)
        found.append(_transformed(y, head.config.transform, f"{source.path}: target {name!r}"))
    bounds = [spec.bounds or (-np.inf, np.inf) for spec in specs]
    mean, std = np.array([u.mean() for u in found]), np.array([u.std() for u in found])
    low, high = np.array(bounds, np.float64).T
    head.set_target(_f32(mean), _f32(std), _f32(low), _f32(high))
    z = [(u - m) / s for u, m, s in zip(found, mean, std, strict=True)]
    outside = head.set_support(z)
    for name, u, count in zip(names, found, outside, strict=True):
        if count:
            what = f"{count} of {len(u)} training values of {name!r} lie outside the bins"
            print(f"{what} and count as at their edge", file=sys.stderr, flush=True)
    return z


def _mean_tokens(
    model: VisionLanguageModel, source: CubeSource, processor: Processor
) -> np.ndarray:
    """Mean visual token of every window of a source, before the first step: [n, Dv].

    NaN where a window has no valid token.
    """
    graphdef, state = nnx.split(model)

    @jax.jit
    def mean(state: nnx.State, batch: Batch) -> jax.Array:
        x, valid = nnx.merge(graphdef, state).encode_visual(batch)
        return jnp.where(valid.any(axis=1)[:, None], mean_of_valid(x, valid), jnp.nan)

    with eval_batches(source, processor, batch_size=64) as batches:
        found = [np.asarray(mean(state, batch)) for batch in batches]
    return np.concatenate(found)[: len(source)]


def _transformed(y: np.ndarray, transform: Transform, where: str) -> np.ndarray:
    """The known values of a target, transformed, float64."""
    if not len(y):
        raise DataError("no training window has a value of the target", where=where)
    if transform in ("log1p", "sqrt") and y.min() < 0:
        raise DataError(
            f"{transform} of a target with values below 0",
            where=where,
            expected=">= 0",
            found=f"{y.min():g}, {int((y < 0).sum())} of {len(y)} below 0",
            remedy='use HeadConfig.transform "asinh" or "zscore"',
        )
    u = forward(y, transform, np)
    if not u.std() > 0:
        raise DataError(
            "the target is constant over the training split", where=where, found=float(y.mean())
        )
    return u


def _observations(source: CubeSource, processor: Processor, name: str) -> Iterator[Observation]:
    """Every training window once; the filling of the last batch is marked invalid."""
    with eval_batches(source, processor, batch_size=64, threads=1) as batches:
        for batch in batches:
            obs = batch.obs[name]
            real = (np.asarray(batch.sample) >= 0)[:, None, None, None, None]
            yield dataclasses.replace(obs, valid=obs.valid & real)


def _f32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)
