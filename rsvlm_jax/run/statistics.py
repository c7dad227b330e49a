"""Statistics of a training split, into the model that is trained on it.

Those of the training split and nothing else: frames of the "rgb" fronts (after recombination),
bands of the "pixel" fronts, the transformed target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from data_zarr.cube import Cube
from data_zarr.stats import band_stats
from rsvlm_jax.config import DataError
from rsvlm_jax.config.model import Transform
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.models.heads import Head
from rsvlm_jax.models.heads.predictive import forward
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
            table, rows = source.table, source.rows
            windows = np.stack([table.y[rows], table.x[rows]], axis=1)
            stats = band_stats(cube, spec.name, windows, table.size)
            names = [b.name for b in cube.bandsets[spec.name].bands]
            at = [names.index(name) for name in spec.band_names]
            std = np.where(stats.std[at] > 0, stats.std[at], 1.0)
            model.pixel[spec.name].set_stats(_f32(stats.mean[at]), _f32(std))
    if model.head is not None:
        _set_target(model.head, source, processor)


def _set_target(head: Head, source: CubeSource, processor: Processor) -> None:
    """Mean, spread, bounds and support of every target."""
    names, specs = processor.data.target.names, (processor.target, *processor.also)
    found = []
    for k, name in enumerate(names):
        y = source.targets[source.has_targets[:, k], k].astype(np.float64)
        found.append(_transformed(y, head.config.transform, f"{source.path}: target {name!r}"))
    bounds = [spec.bounds or (-np.inf, np.inf) for spec in specs]
    mean, std = np.array([u.mean() for u in found]), np.array([u.std() for u in found])
    low, high = np.array(bounds, np.float64).T
    head.set_target(_f32(mean), _f32(std), _f32(low), _f32(high))
    head.set_support([(u - m) / s for u, m, s in zip(found, mean, std, strict=True)])


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
