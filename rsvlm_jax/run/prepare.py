"""From an experiment to its data: cube, windows, folds, processor, statistics. No model, no step.

Statistics are those of the training split and nothing else: frames of the "rgb" fronts
(after recombination), bands of the "pixel" fronts, the transformed target.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from data_zarr.cube import Cube
from data_zarr.format import near_miss
from data_zarr.sampling import WindowTable, window_table
from data_zarr.schema import check_inputs
from data_zarr.sensors import PLATFORMS
from data_zarr.splits import Split, group_split, split, tile_folds
from data_zarr.stats import band_stats
from rsvlm_jax.config import BandSetSpec, ConfigError, DataError, Experiment, SplitConfig
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.data.specs import bandset_specs, facts, target_spec
from rsvlm_jax.data.tokenizer import Tokenizer
from rsvlm_jax.models.connector import token_count
from rsvlm_jax.models.spectral import frame_stats, make_plan
from rsvlm_jax.models.vlm import VisionLanguageModel

from .cubes import find_cube


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The data of an experiment.

    Attributes:
      train_table, eval_table: windows at the training stride, and without overlap.
      fold_map: i32 [H,W], fold of each pixel; [S,1] of sites.
      split: rows of the two tables for the held-out fold.
    """

    experiment: Experiment
    cube: Cube
    specs: tuple[BandSetSpec, ...]
    processor: Processor
    train_table: WindowTable
    eval_table: WindowTable
    fold_map: np.ndarray
    split: Split

    @functools.cached_property
    def train(self) -> CubeSource:
        """Training windows that have a target."""
        return self.source(self.train_table, self.split.train)

    @functools.cached_property
    def test(self) -> CubeSource:
        """Held-out windows, none overlapping."""
        return self.source(self.eval_table, self.split.test)

    def source(self, table: WindowTable, rows: np.ndarray) -> CubeSource:
        """Windows by row; those without a target are left out."""
        return self.source_for(self.processor, table, rows)

    def source_for(self, processor: Processor, table: WindowTable, rows: np.ndarray) -> CubeSource:
        """`source` as another processor reads this cube: that of a run trained elsewhere.

        Raises:
          DataError: the cube's bands differ from those of the processor.
        """
        target = self.experiment.data.target
        found = CubeSource.of(processor, self.cube, table, rows=rows, target=target)
        if found.has_target.all():
            return found
        rows = rows[found.has_target]
        return CubeSource.of(processor, self.cube, table, rows=rows, target=target)


def prepare(experiment: Experiment) -> Prepared:
    """Open, look up, split. Reads metadata, and of the pixels a few chunks.

    Raises:
      ConfigError, DataError, CubeError: what the experiment asks for is not there, or cannot be
        (`data_zarr.schema.check_inputs`).
    """
    data, model = experiment.data, experiment.model
    if not model.inputs:
        raise ConfigError(
            "the model reads nothing", where="Experiment.model.inputs", expected="an InputConfig"
        )
    cube = find_cube(data.cube)
    specs = bandset_specs(cube, model.inputs)
    highest = max((int(cube.bandsets[s.name].platform.max()) for s in specs), default=0)
    if highest >= model.temporal.platforms:
        raise ConfigError(
            "the platform embedding has too few rows",
            where="TemporalConfig.platforms",
            expected=f"> {highest}, the platform of some date ({PLATFORMS[highest]})",
            found=model.temporal.platforms,
        )
    target = target_spec(cube, data.target)
    check_inputs(cube, [s.name for s in specs])
    height, width = cube.grid.height, cube.grid.width
    stride = 1 if cube.points else data.stride
    train_table = window_table(height, width, data.window, stride)
    eval_table = window_table(height, width, data.window, data.window)
    fold_map = _folds(cube, data.split)
    processor = Processor(
        config=model,
        data=data,
        bandsets=specs,
        target=target,
        tokenizer=Tokenizer.shipped(),
        visual_tokens=visual_tokens(experiment, cube, specs),
        facts=facts(cube, specs, data.window, [i.dates for i in model.inputs]),
    )
    return Prepared(
        experiment,
        cube,
        specs,
        processor,
        train_table,
        eval_table,
        fold_map,
        _split(cube, train_table, eval_table, fold_map, data.split),
    )


def _folds(cube: Cube, config: SplitConfig) -> np.ndarray:
    """Fold of each pixel, i32 [H,W]; of sites, [S,1]: the values of a label dealt to folds whole.

    Larger groups are dealt first, each to the fold with the fewest sites.
    """
    if not cube.points:
        if config.group is not None:
            raise ConfigError(
                "a raster has no labels to split by",
                where="SplitConfig.group",
                expected="None, or a point cube",
                found=config.group,
            )
        height, width = cube.grid.height, cube.grid.width
        return tile_folds(height, width, block=config.block, folds=config.folds)
    labels = cube.labels
    if config.group is not None and config.group not in labels:
        raise DataError(
            "no such label",
            where=f"{cube.path}: SplitConfig.group",
            expected="one of " + (", ".join(labels) or "(none)"),
            found=config.group,
            remedy=near_miss(config.group, labels),
        )
    values = np.arange(cube.grid.height) if config.group is None else labels[config.group]
    _, group, sizes = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    if len(sizes) < config.folds:
        raise DataError(
            "fewer groups than folds",
            where=f"{cube.path}: label {config.group!r}",
            expected=f"at least {config.folds} groups",
            found=len(sizes),
            remedy="fewer folds, or another label",
        )
    filled, fold = np.zeros(config.folds, np.int64), np.empty(len(sizes), np.int32)
    for g in np.argsort(-sizes, kind="stable"):
        fold[g] = np.argmin(filled)
        filled[fold[g]] += sizes[g]
    return fold[group.reshape(-1)][:, None]


def _split(
    cube: Cube, train: WindowTable, test: WindowTable, folds: np.ndarray, config: SplitConfig
) -> Split:
    if not cube.points or config.fold is None:
        return split(train, test, folds, config.fold, buffer=config.buffer)
    return group_split(folds[:, 0], config.fold)


def visual_tokens(experiment: Experiment, cube: Cube, specs: tuple[BandSetSpec, ...]) -> int:
    """N: the budget, or all tokens of all dates."""
    frames = points = 0
    for read, spec in zip(experiment.model.inputs, specs, strict=True):
        dates = min(len(cube.bandsets[spec.name].dates), read.dates or sys.maxsize)
        if read.front == "rgb":
            frames += dates * len(make_plan(spec, read.spectral).groups)
        else:
            points += dates
    return token_count(experiment.model, frames, points)


def set_statistics(model: VisionLanguageModel, prepared: Prepared) -> None:
    """Statistics of the training split into the model's `Stat` variables.

    Raises:
      DataError: nothing valid to take statistics of, or a constant target.
    """
    source = prepared.train
    for read, spec in zip(prepared.experiment.model.inputs, prepared.specs, strict=True):
        if read.front == "rgb":
            plan = make_plan(spec, read.spectral)
            found = frame_stats(plan, _observations(prepared, source, spec.name))
            model.spectral[spec.name].set_stats(found)
        else:
            table, rows = source.table, source.rows
            windows = np.stack([table.y[rows], table.x[rows]], axis=1)
            stats = band_stats(prepared.cube, spec.name, windows, table.size)
            names = [b.name for b in prepared.cube.bandsets[spec.name].bands]
            at = [names.index(name) for name in spec.band_names]
            std = np.where(stats.std[at] > 0, stats.std[at], 1.0)
            model.pixel[spec.name].set_stats(_f32(stats.mean[at]), _f32(std))
    if model.head is not None:
        model.head.set_target(*_target_statistics(prepared, source))


def _target_statistics(prepared: Prepared, source: CubeSource) -> tuple[jax.Array, ...]:
    head = prepared.experiment.model.head
    assert head is not None
    y = source.target.astype(np.float64)
    where = f"{prepared.cube.path}: target {prepared.experiment.data.target.name!r}"
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
    low, high = prepared.processor.target.bounds or (-np.inf, np.inf)
    k = head.targets
    return tuple(_f32(np.full(k, v)) for v in (y.mean(), y.std(), low, high))


def _observations(prepared: Prepared, source: CubeSource, name: str) -> Iterator[Observation]:
    """Every training window once; the filling of the last batch is marked invalid."""
    with eval_batches(source, prepared.processor, batch_size=64, threads=1) as batches:
        for batch in batches:
            obs = batch.obs[name]
            real = (np.asarray(batch.sample) >= 0)[:, None, None, None, None]
            yield dataclasses.replace(obs, valid=obs.valid & real)


def _f32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)
