"""From an experiment on cubes to its data: cube, windows, folds, processor. No model, no step."""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from data_zarr.cube import Cube
from data_zarr.errors import CubeError
from data_zarr.format import near_miss
from data_zarr.sampling import WindowTable, target_means, window_table
from data_zarr.schema import check_inputs
from data_zarr.sensors import PLATFORMS
from data_zarr.splits import Split, group_folds, group_split, split, tile_folds
from rsvlm_jax.config import (
    BandSetSpec,
    ConfigError,
    DataConfig,
    DataError,
    Experiment,
    SplitConfig,
    TargetConfig,
)
from rsvlm_jax.data.badlog import BadLog
from rsvlm_jax.data.numbers import NumberFormat, number_format
from rsvlm_jax.data.pipeline import Batches, train_batches
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.data.samples import BadSample
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.data.specs import TargetSpec, bandset_specs, facts, target_spec
from rsvlm_jax.data.stream import Mixture
from rsvlm_jax.data.tokenizer import Tokenizer
from rsvlm_jax.mesh.together import rows_of
from rsvlm_jax.models.connector import token_count
from rsvlm_jax.models.spectral import make_plan
from rsvlm_jax.models.vlm import VisionLanguageModel

from .cubes import find_cube
from .program import Program, program_of
from .statistics import set_statistics

GIVEN = -1
"""In the place of a fold, of places that no fold has (`SplitConfig.given`)."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The data of an experiment on cubes: what `rsvlm_jax.run.work.Work` asks for, and its parts.

    Attributes:
      train_table, eval_table: windows at the training stride, and without overlap.
      fold_map: i32 [H,W], fold of each pixel; [S,1] of sites, `GIVEN` of those in none.
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
        """Training windows of the cube that have a target."""
        buckets = self.experiment.data.buckets
        return self.source_for(self.processor, self.train_table, self.split.train, buckets)

    @functools.cached_property
    def training(self) -> CubeSource | Mixture:
        """All that is trained on: `train`, or with it the windows of further cubes.

        Raises:
          DataError, CubeError: a cube of the mixture has not the inputs or the target of the first.
        """
        data = self.experiment.data
        if not data.mixture:
            return self.train
        others = [_other(self, name) for name, _ in data.mixture]
        weights = (1.0, *(weight for _, weight in data.mixture))
        return Mixture((self.train, *others), weights)

    @property
    def program(self) -> Program:
        """The model that is trained on it."""
        experiment = self.experiment
        return program_of(
            self.processor,
            experiment.lora,
            experiment.base,
            remat=experiment.train.remat,
            attention=experiment.train.attention,
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """L, of all batches."""
        return (self.processor.length,)

    def start(self, model: VisionLanguageModel) -> None:
        """Put the statistics of the training split into a model. Errors as `set_statistics`."""
        set_statistics(model, self.cube, self.train, self.processor)

    def batches(self, sharding: NamedSharding | None = None, log: BadLog | None = None) -> Batches:
        """The training batches, as the experiment says."""
        data, train = self.experiment.data, self.experiment.train
        return train_batches(
            self.training,
            self.processor,
            batch_size=train.batch_size,
            seed=train.seed,
            augment=data.augment,
            threads=data.threads,
            workers=data.workers,
            prefetch=data.prefetch,
            sharding=sharding,
            crops=data.crops,
            blocks=data.blocks,
            rows=None if sharding is None else rows_of(sharding, train.batch_size),
            log=log,
        )

    def held_out(self, sharding: NamedSharding | None = None) -> None:
        """None: what is held out is scored in target units, by `rsvlm bench regression`."""

    def unread(self) -> list[BadSample]:
        """What was found unreadable so far (the statistics read every window)."""
        return self.train.unread()

    @property
    def unreadable(self) -> dict[str, Any]:
        """How many windows could not be read so far, and why the first."""
        return self.training.unreadable

    def facts(self) -> dict[str, Any]:
        """What is trained on, for `describe`."""
        return {
            "cube": str(self.cube.path),
            "inputs": {s.name: list(s.band_names) for s in self.specs},
            "training_windows": len(self.train),
            "held_out_windows": len(self.split.test),
            "visual_tokens": self.processor.visual_tokens,
            "text_length": self.processor.length,
        }

    @functools.cached_property
    def test(self) -> CubeSource:
        """Held-out windows, none overlapping."""
        return self.source(self.eval_table, self.split.test)

    def source(self, table: WindowTable, rows: np.ndarray) -> CubeSource:
        """Windows by row; those without a target are left out."""
        return self.source_for(self.processor, table, rows)

    def source_for(
        self,
        processor: Processor,
        table: WindowTable,
        rows: np.ndarray,
        buckets: tuple[int, ...] = (),
    ) -> CubeSource:
        """`source` as another processor reads this cube: that of a run trained elsewhere.

        Raises:
          DataError: the cube's bands differ from those of the processor.
        """
        target = self.experiment.data.target
        return _with_target(processor, self.cube, table, rows, target, buckets)


def _with_target(
    processor: Processor,
    cube: Cube,
    table: WindowTable,
    rows: np.ndarray,
    target: TargetConfig,
    buckets: tuple[int, ...],
) -> CubeSource:
    found = CubeSource.of(processor, cube, table, rows=rows, target=target, buckets=buckets)
    if found.has_target.all():
        return found
    rows = rows[found.has_target]
    return CubeSource.of(processor, cube, table, rows=rows, target=target, buckets=buckets)


def _other(prepared: Prepared, name: str) -> CubeSource:
    """The training windows of another cube of the mixture, by the same rules."""
    data, processor = prepared.experiment.data, prepared.processor
    cube = find_cube(name)
    specs = bandset_specs(cube, processor.bandsets)
    _check_platforms(prepared.experiment, cube, specs)
    check_inputs(cube, [s.name for s in specs])
    for known in (processor.target, *processor.also):
        if (found := target_spec(cube, data.target, known.name)) != known:
            raise DataError(
                "another target than that of the first cube of the mixture",
                where=f"{cube.path}: target {known.name!r}",
                expected=known,
                found=found,
            )
    table, _, _, folds = _lay_out(cube, data)
    return _with_target(processor, cube, table, folds.train, data.target, data.buckets)


def _check_platforms(experiment: Experiment, cube: Cube, specs: tuple[BandSetSpec, ...]) -> None:
    highest = max((int(cube.bandsets[s.name].platform.max()) for s in specs), default=0)
    if highest >= experiment.model.temporal.platforms:
        raise ConfigError(
            "the platform embedding has too few rows",
            where="TemporalConfig.platforms",
            expected=f"> {highest}, the platform of some date ({PLATFORMS[highest]})",
            found=experiment.model.temporal.platforms,
        )


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
    _check_platforms(experiment, cube, specs)
    if data.buckets and model.temporal.budget is None:
        raise ConfigError(
            "series of several lengths need a fixed number of visual tokens",
            where="TemporalConfig.budget",
            expected="a number, with DataConfig.buckets",
            found=None,
        )
    target = target_spec(cube, data.target)
    check_inputs(cube, [s.name for s in specs])
    train_table, eval_table, fold_map, folds = _lay_out(cube, data)
    processor = Processor(
        config=model,
        data=data,
        bandsets=specs,
        target=target,
        tokenizer=Tokenizer.of(data.tokenizer),
        visual_tokens=visual_tokens(experiment, cube, specs),
        facts=facts(cube, specs, data.window, [i.dates for i in model.inputs]),
        also=tuple(target_spec(cube, data.target, name) for name in data.target.also),
        number=number_of(cube, data, target, train_table.take(folds.train)),
    )
    if (parts := experiment.mesh.context) > 1:  # which positions are split over
        length = -(-processor.length // parts) * parts
        processor = dataclasses.replace(processor, length=length)
    return Prepared(
        experiment,
        cube,
        specs,
        processor,
        train_table,
        eval_table,
        fold_map,
        folds,
    )


def number_of(
    cube: Cube, data: DataConfig, target: TargetSpec, windows: WindowTable
) -> NumberFormat | None:
    """How the decoder writes the target, by the training windows; None: a head gives it."""
    if data.number == "head":
        return None
    values = target_means(cube.target(target.name), windows, data.target.min_valid)[0]
    return number_format(data.number, data.number_digits, values, target.bounds)


def _lay_out(cube: Cube, data: DataConfig) -> tuple[WindowTable, WindowTable, np.ndarray, Split]:
    """Training and evaluation windows, the fold of each pixel, the rows of the two tables."""
    height, width = cube.grid.height, cube.grid.width
    train = window_table(height, width, data.window, 1 if cube.points else data.stride)
    held_out = window_table(height, width, data.window, data.window)
    fold_map = _folds(cube, data.split)
    return train, held_out, fold_map, _split(cube, train, held_out, fold_map, data.split)


def _folds(cube: Cube, config: SplitConfig) -> np.ndarray:
    """Fold of each pixel, i32 [H,W]; of sites, [S,1]: a label's values dealt to folds whole."""
    if not cube.points:
        if config.group is not None:
            raise ConfigError(
                "a raster has no labels to split by",
                where="SplitConfig.group",
                expected="None, or a point cube",
                found=config.group,
            )
        if config.given is not None:
            raise ConfigError(
                "a raster has no labels to split by",
                where="SplitConfig.given",
                expected="None, or a point cube",
                found=config.given,
            )
        height, width = cube.grid.height, cube.grid.width
        return tile_folds(height, width, block=config.block, folds=config.folds)
    labels = cube.labels
    for name in (config.group, config.given and config.given[0]):
        if name is not None and name not in labels:
            raise DataError(
                "no such label",
                where=f"{cube.path}: SplitConfig.{'group' if name == config.group else 'given'}",
                expected="one of " + (", ".join(labels) or "(none)"),
                found=name,
                remedy=near_miss(name, labels),
            )
    values = np.arange(cube.grid.height) if config.group is None else labels[config.group]
    fold = np.full(len(values), GIVEN, np.int32)
    others = ~_given(cube, config)
    try:
        # The folds that `rsvlm cube folds` draws.
        fold[others] = group_folds(values[others], config.folds)
    except CubeError as error:
        raise DataError(
            error.what,
            where=f"{cube.path}: label {config.group!r}",
            expected=error.expected,
            found=error.found,
            remedy="fewer folds, or another label",
        ) from error
    return fold[:, None]


def _given(cube: Cube, config: SplitConfig) -> np.ndarray:
    """Which places are held out once and for all, bool [S]."""
    if config.given is None:
        return np.zeros(cube.grid.height, bool)
    label, value = config.given
    names = np.asarray(cube.labels[label]).astype(str)
    if not 0 < (names == value).sum() < len(names):
        raise DataError(
            "no such part of the places",
            where=f"{cube.path}: SplitConfig.given, label {label!r}",
            expected="a value of some places: " + ", ".join(np.unique(names)[:10]),
            found=value,
        )
    return names == value


def _split(
    cube: Cube, train: WindowTable, test: WindowTable, folds: np.ndarray, config: SplitConfig
) -> Split:
    if not cube.points or (config.fold is None and config.given is None):
        return split(train, test, folds, config.fold, buffer=config.buffer)
    fold = folds[:, 0]
    made = group_split(fold, GIVEN if config.fold is None else config.fold)
    return Split(made.train[fold[made.train] != GIVEN], made.test)


def visual_tokens(experiment: Experiment, cube: Cube, specs: tuple[BandSetSpec, ...]) -> int:
    """N: the budget, or all tokens of all dates."""
    frames = points = 0
    for read, spec in zip(experiment.model.inputs, specs, strict=True):
        dates = min(len(cube.bandsets[spec.name].dates), read.dates or sys.maxsize)
        if read.front == "rgb":
            frames += dates * len(make_plan(spec, read.spectral).groups)
        elif read.front == "pixel":
            points += dates
    return token_count(experiment.model, frames, points)
