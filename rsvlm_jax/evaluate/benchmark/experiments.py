"""Experiments as rows of the table: ours, and what is left of it without this or that.

    rsvlm                 the experiment as it is: frames or points -> fusion -> decoder -> head
    rsvlm_rgb             its optical band sets, red, green and blue alone
    rsvlm_optical         its optical band sets, all bands
    rsvlm_sar             its radar alone
    rsvlm_questions       trained on questions and answers in words too
    rsvlm_text_shuffled   the same runs, asked with the words in random order
    no_lm                 the head on the visual tokens alone
    vit_linear            its frames, one linear layer of their mean visual token

A row whose name begins with `rsvlm` has passed through `VisionLanguageModel` with its decoder;
`row_name` sees to it. Every fold and seed is an ordinary run directory under OUT/runs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.cube import Cube
from data_zarr.splits import Split
from rsvlm_jax.config import (
    ConfigError,
    DataConfig,
    DataError,
    Experiment,
    GroupConfig,
    InputConfig,
    OptimizerConfig,
    SpectralConfig,
    TargetConfig,
    TrainConfig,
    nano,
    to_json,
)
from rsvlm_jax.core import flat
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.evaluate.demo import without_language
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import Prepared, number_of, prepare
from rsvlm_jax.run.rundir import write_atomic
from rsvlm_jax.run.trained import Numbers, load_run

from .cells import Cell, Guess, Model
from .task import Task, digest_of, without_folds

STEPS = 240
DATES = 6
"""Clearest dates of a window that become frames, of the experiment that is made here."""
RGB = ("red", "green", "blue")
TEXT_WEIGHT = 0.2
VIT = "vit_linear"
REVISION = 1


def default_experiment(
    cube: Cube,
    name: str,
    *,
    target: str | None = None,
    inputs: Sequence[str] | None = None,
    window: int | None = None,
    stride: int | None = None,
    steps: int | None = None,
) -> Experiment:
    """The nano model on a cube, by the recipe of the demo, where no experiment is given.

    Args:
      name: of the cube, as `find_cube` takes it.
      target: None: the first continuous one.
      inputs: band sets; None: all.
      window: None: 8 pixels, 1 of places.

    Raises:
      DataError: no such target or band set, or none at all.
    """
    numbers = [n for n, t in cube.targets.items() if t.kind == "continuous"]
    if target is None and not numbers:
        raise DataError(
            "the cube has no target to regress",
            where=str(cube.path),
            expected="a continuous target",
            found=", ".join(cube.targets) or "none",
        )
    target = target or numbers[0]
    names = tuple(cube.bandsets) if inputs is None else tuple(inputs)
    unknown = [n for n in names if n not in cube.bandsets]
    if unknown:
        raise DataError(
            "no such band set",
            where=f"--inputs, {cube.path}",
            expected=", ".join(cube.bandsets),
            found=unknown[0],
        )
    info = cube.targets.get(target)
    size = window or (1 if cube.points else 8)
    asked = (info.long_name if info else "") or target
    return Experiment(
        name="nano",
        data=DataConfig(
            cube=name,
            target=TargetConfig(target, asked.replace("_", " ")),
            window=size,
            stride=stride or max(size // 2, 1),
            augment=not cube.points,
        ),
        model=nano(
            tuple(_input(cube, n) for n in names), image_size=size if size > 1 else 8,
            patch_size=max(size // 2, 1) if size > 1 else 4,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, ema=0.98, groups=(GroupConfig("^decoder/", 0.3),)
        ),
        train=TrainConfig(steps=steps or STEPS, batch_size=32, save_every=120),
        init_from="asset:stories260k",
    )  # fmt: skip


def on_cube(experiment: Experiment, cube: str, target: str | None, steps: int | None) -> Experiment:
    """An experiment with the cube, the target and the steps of a command."""
    data = dataclasses.replace(experiment.data, cube=cube)
    if target is not None and target != data.target.name:
        named = dataclasses.replace(data.target, name=target, question_name=target)
        data = dataclasses.replace(data, target=named)
    train = experiment.train
    if steps is not None:
        train = dataclasses.replace(train, steps=steps)
    return dataclasses.replace(experiment, data=data, train=train)


def _input(cube: Cube, name: str) -> InputConfig:
    """Frames where there are three bands of light or two of radar, else one token a date."""
    info = cube.bandsets[name]
    bands = {b.common_name for b in info.bands}
    frames = info.kind == "sar" and len(info.bands) >= 2
    frames |= info.kind == "optical" and len(info.bands) >= 3
    if cube.points or not frames:
        return InputConfig(name, front="pixel")
    found = []
    if info.kind == "optical" and {"red", "nir", "nir08", "swir16", "swir22"} <= bands:
        found = ["ndvi", "ndmi", "nbr"]
    dates = min(DATES, info.shape[0])
    return InputConfig(name, dates=dates, spectral=SpectralConfig(indices=tuple(found)))


def row_name(name: str, experiment: Experiment) -> str:
    """The name of a row: `rsvlm...` with a decoder, `no_lm...` without, or "vit_linear"."""
    if name == VIT and experiment.model.decoder is None:
        return name
    bare = name.removeprefix("rsvlm").lstrip("_")
    word = "rsvlm" if experiment.model.decoder is not None else "no_lm"
    bare = bare.removeprefix("no_lm").lstrip("_")
    return f"{word}_{bare}" if bare else word


def variant(word: str, base: Experiment, cube: Cube) -> Experiment:
    """The experiment of a row `rsvlm_WORD`, of "no_lm" or of "vit_linear".

    Raises:
      ConfigError: the inputs or the model do not allow it.
    """
    if word == "no_lm":
        return base if base.model.decoder is None else without_language(base)
    if word == VIT:
        return _vit_linear(base)
    if word in ("questions", "text_shuffled"):
        if base.model.decoder is None:
            raise ConfigError("a model without words", where=f"--models rsvlm_{word}")
        data = dataclasses.replace(base.data, templates="questions")
        text = base.loss.text or TEXT_WEIGHT
        loss = dataclasses.replace(base.loss, text=text)
        return dataclasses.replace(base, name=f"{base.name}_questions", data=data, loss=loss)
    kind = "sar" if word == "sar" else "optical"
    inputs = [i for i in base.model.inputs if cube.bandsets[i.bandset].kind == kind]
    if word == "rgb":
        inputs = [_rgb(i) for i in inputs if _has(cube, i, RGB)]
    if not inputs:
        raise ConfigError(
            f"the experiment reads no {'red, green and blue' if word == 'rgb' else kind}",
            where=f"--models rsvlm_{word}",
            expected="such a band set among its inputs",
            found=", ".join(i.bandset for i in base.model.inputs),
        )
    model = dataclasses.replace(base.model, inputs=tuple(inputs))
    return dataclasses.replace(base, name=f"{base.name}_{word}", model=model)


def _vit_linear(base: Experiment) -> Experiment:
    """What is seen by the vision tower, and a linear head."""
    frames = tuple(i for i in base.model.inputs if i.front == "rgb")
    if not frames or base.model.head is None:
        raise ConfigError(
            "the experiment has no frames for a linear layer to read",
            where=f"--models {VIT}",
            expected='an input with front="rgb", and a head',
            found=", ".join(f"{i.bandset}: {i.front}" for i in base.model.inputs),
        )
    bare = base if base.model.decoder is None else without_language(base)
    head = dataclasses.replace(base.model.head, kind="linear")
    model = dataclasses.replace(bare.model, inputs=frames, head=head)
    return dataclasses.replace(bare, name=f"{base.name}_{VIT}", model=model)


def _has(cube: Cube, read: InputConfig, names: Sequence[str]) -> bool:
    bands = cube.bandsets[read.bandset].bands
    return set(names) <= {b.common_name for b in bands}


def _rgb(read: InputConfig) -> InputConfig:
    return dataclasses.replace(
        read, bands=RGB, spectral=dataclasses.replace(read.spectral, indices=())
    )


def experiment_model(name: str, about: str, experiment: Experiment, task: Task) -> Model:
    """A row that trains an experiment on the task's windows.

    Raises:
      ConfigError: the experiment cuts other windows than the task.
      DataError: it reads bands that the cube has not.
      As `prepare`.
    """
    mine, theirs = experiment.data, task.prepared.experiment.data
    if mine.window != theirs.window:
        raise ConfigError(
            "an experiment of other windows cannot stand in this table",
            where=f"{experiment.name}: DataConfig.window",
            expected=theirs.window,
            found=mine.window,
        )
    data = dataclasses.replace(mine, cube=theirs.cube, target=theirs.target, stride=theirs.stride)
    # Losses by default are stated: a cell depends on what was learned.
    loss = dataclasses.replace(experiment.losses, balance=experiment.loss.balance)
    experiment = without_folds(dataclasses.replace(experiment, data=data, loss=loss))
    prepared = prepare(experiment)
    prepared = dataclasses.replace(prepared, train_table=task.training, eval_table=task.evaluation)
    shuffled = name.endswith("text_shuffled")

    def predict(cell: Cell) -> Guess:
        return _predict(cell, prepared, shuffled=shuffled)

    depends = {"experiment": to_json(experiment), "revision": REVISION}
    return Model(row_name(name, experiment), about, depends, predict)


def _predict(cell: Cell, prepared: Prepared, *, shuffled: bool) -> Guess:
    experiment = prepared.experiment
    train = dataclasses.replace(experiment.train, seed=experiment.train.seed + cell.seed)
    experiment = dataclasses.replace(experiment, train=train)
    split = Split(cell.train, cell.test)
    prepared = dataclasses.replace(prepared, experiment=experiment, split=split)
    if experiment.data.number != "head":  # the form of the numbers is learnt from training windows
        number = number_of(
            prepared.cube,
            experiment.data,
            prepared.processor.target,
            prepared.train_table.take(cell.train),
        )
        processor = dataclasses.replace(prepared.processor, number=number)
        prepared = dataclasses.replace(prepared, processor=processor)
    facts = [cell.task.identity, cell.deal.identity(cell.fold), to_json(experiment), REVISION]
    out = cell.runs / f"{experiment.name}-f{cell.fold}-s{cell.seed}-{digest_of(facts)}"
    with _counted(out / "seconds.txt"):
        fit(experiment, out=out, progress=cell.progress, stop=cell.stop, work=prepared)
    loaded = load_run(out)
    source = prepared.source(cell.task.evaluation, cell.test)
    source.error_budget = 0.0  # every row is scored: one that cannot be read is an error
    start = time.perf_counter()
    if shuffled:
        change = _shuffler(loaded.processor, cell.seed)
        found = []
        with eval_batches(source, loaded.processor, batch_size=64) as batches:
            for i, batch in enumerate(batches):
                numbers = loaded.regress(change(batch))
                found.append([x[: len(source) - 64 * i] for x in dataclasses.astuple(numbers)])
        numbers = Numbers(*(np.concatenate(x) for x in zip(*found, strict=True)))
    else:
        numbers = loaded.regress_source(source)
    return Guess(
        numbers.mean,
        scale=numbers.scale,
        lo=numbers.lo,
        hi=numbers.hi,
        crps=numbers.crps if np.isfinite(numbers.crps).all() else None,
        train_seconds=float((out / "seconds.txt").read_text()),
        predict_seconds=time.perf_counter() - start,
        parameters=sum(int(np.size(x)) for x in flat(loaded.params).values()),
    )


def _shuffler(processor: Processor, seed: int) -> Callable[[Batch], Batch]:
    """Puts the words of every prompt in another order; images, `<reg>` and padding stay."""
    rng = np.random.default_rng(seed)
    special = {processor.tokenizer.image, processor.tokenizer.reg, processor.tokenizer.eos}
    special.add(-1 if processor.tokenizer.bos is None else processor.tokenizer.bos)

    def change(batch: Batch) -> Batch:
        tokens = np.array(batch.tokens)
        words = (np.asarray(batch.segment) > 0) & ~np.isin(tokens, list(special))
        for row, mask in zip(tokens, words, strict=True):
            row[mask] = rng.permutation(row[mask])
        return dataclasses.replace(batch, tokens=tokens)

    return change


class _counted:
    """Adds the seconds of a block to a file, also where it stops half-way."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        # A finished run that is opened again takes no training time.
        self._done = self._file.is_file() and (self._file.parent / "unreadable.json").is_file()

    def __exit__(self, *_: Any) -> None:
        if self._done or not self._file.parent.is_dir():
            return
        before = float(self._file.read_text()) if self._file.is_file() else 0.0
        write_atomic(self._file, f"{before + time.perf_counter() - self._start:.3f}\n")
