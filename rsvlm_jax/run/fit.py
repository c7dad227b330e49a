"""`fit(experiment, out=RUN) -> RunDir`: train, and take up where an interrupted run stopped."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping

import jax
from jax.sharding import NamedSharding

from rsvlm_jax.config import Experiment
from rsvlm_jax.data.badlog import BadLog
from rsvlm_jax.data.pipeline import Batches, train_batches
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.rules import batch_sharding
from rsvlm_jax.train.checkpoint import Checkpoints
from rsvlm_jax.train.loop import resume, train
from rsvlm_jax.train.optimizer import make_optimizer, trained_paths
from rsvlm_jax.train.state import TrainState, init_state, merge, pick, split_model
from rsvlm_jax.train.step import make_train_step

from .prepare import Prepared, prepare, set_statistics
from .program import Program, program_of
from .rundir import RunDir, write_atomic
from .start import start_from

Progress = Callable[[int, int, Mapping[str, float]], None]
"""(step, steps, {"loss": ..., "samples_per_second": ...})"""


def fit(
    experiment: Experiment,
    *,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> RunDir:
    """Train an experiment in a run directory; a finished run that verifies is returned as it is.

    Args:
      progress: called every `log_every` steps.
      stop: asked before every step; true saves and raises `Preempted`, as SIGTERM does.

    Raises:
      ConfigError, DataError, CubeError: before anything compiles, where it can be known.
      CheckpointError, NonFiniteError, Preempted: see `rsvlm_jax.train.loop.train`.

    Warns:
      CheckpointWarning: training goes on from an older step, because a newer one is damaged.
    """
    prepared = prepare(experiment)
    run = RunDir.create(out, experiment)
    config = experiment.train
    with run.lock(), Checkpoints(run.checkpoints, keep=config.keep) as checkpoints:
        done = checkpoints.latest() == config.steps and checkpoints.newest() == config.steps
        if done and (run.processor / "processor.json").exists():
            return run
        prepared.processor.save(run.processor)
        program = program_of(prepared.processor, experiment.lora)
        mesh = make_mesh(experiment.mesh)
        optimizer = make_optimizer(experiment.optimizer, config.steps, program.params)
        state = init_state(
            *initial(prepared, program),
            optimizer,
            mesh,
            config=experiment.optimizer,
            plan=experiment.mesh.plan,
            seed=config.seed,
        )
        step = make_train_step(program.graphdef, experiment, optimizer, mesh, state)
        log = BadLog(run.bad_samples)
        for bad in prepared.train.unread():  # the statistics have read every window
            log.write(bad)
        with training_batches(prepared, batch_sharding(mesh), log) as batches:
            if progress is not None and threading.current_thread() is threading.main_thread():
                print(batches.buffers, file=sys.stderr, flush=True)
            state = resume(state, batches, checkpoints)
            train(
                state,
                step,
                batches,
                steps=config.steps,
                checkpoints=checkpoints,
                save_every=config.save_every,
                log_every=config.log_every,
                metrics_file=run.metrics,
                progress=_reporter(progress, experiment, state),
                stop=stop,
                max_bad_steps=config.max_bad_steps,
            )
        write_atomic(run.unreadable, json.dumps(prepared.training.unreadable) + "\n")
    return run


def training_batches(
    prepared: Prepared, sharding: NamedSharding | None = None, log: BadLog | None = None
) -> Batches:
    """The batches of a run, as its experiment says."""
    data, train = prepared.experiment.data, prepared.experiment.train
    return train_batches(
        prepared.training,
        prepared.processor,
        batch_size=train.batch_size,
        seed=train.seed,
        augment=data.augment,
        threads=data.threads,
        workers=data.workers,
        prefetch=data.prefetch,
        sharding=sharding,
        crops=data.crops,
        blocks=data.blocks,
        process=(jax.process_index(), jax.process_count()),
        log=log,
    )


def initial(prepared: Prepared, program: Program) -> tuple[dict, dict]:
    """Parameters and statistics before the first step."""
    experiment = prepared.experiment
    seed = experiment.train.seed
    params, stats = program.init(seed)
    params = program.adapt(start_from(params, experiment), seed)
    model = merge(program.graphdef, params, stats)
    set_statistics(model, prepared)
    return split_model(model)[1:]


def describe(experiment: Experiment) -> dict[str, object]:
    """What `fit` would do, checked as far as it goes without compiling or writing anything.

    Raises:
      ConfigError, DataError, CubeError: as `fit`.
    """
    prepared = prepare(experiment)
    program = program_of(prepared.processor, experiment.lora)
    make_mesh(experiment.mesh)
    make_optimizer(experiment.optimizer, experiment.train.steps, program.params)
    trained = pick(program.params, trained_paths(experiment.optimizer, program.params))
    return {
        "cube": str(prepared.cube.path),
        "inputs": {s.name: list(s.band_names) for s in prepared.specs},
        "training_windows": len(prepared.train),
        "held_out_windows": len(prepared.split.test),
        "parameters": program.parameters,
        "trained_parameters": sum(x.size for x in jax.tree.leaves(trained)),
        "visual_tokens": prepared.processor.visual_tokens,
        "text_length": prepared.processor.length,
        "devices": jax.device_count(),
        "buffers": str(training_batches(prepared).buffers),
    }


def _reporter(
    progress: Progress | None, experiment: Experiment, state: TrainState
) -> Callable[[int, dict], None] | None:
    if progress is None:
        return None
    first, start = int(state.step), time.perf_counter()
    config = experiment.train

    def report(step: int, row: dict) -> None:
        seconds = max(time.perf_counter() - start, 1e-9)
        rate = (step - first) * config.batch_size / seconds
        loss = float("nan") if row["loss"] is None else row["loss"]
        progress(step, config.steps, {"loss": loss, "samples_per_second": rate})

    return report
