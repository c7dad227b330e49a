"""`fit(experiment, out=RUN) -> RunDir`: train, and take up where an interrupted run stopped."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rsvlm_jax.config import Experiment
from rsvlm_jax.data.badlog import BadLog
from rsvlm_jax.mesh.batch import check_batch
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.rules import batch_sharding
from rsvlm_jax.train.checkpoint import Checkpoints
from rsvlm_jax.train.loop import resume, train
from rsvlm_jax.train.optimizer import make_optimizer, trained_paths
from rsvlm_jax.train.state import (
    TrainState,
    Tree,
    eval_params,
    init_state,
    merge,
    pick,
    split_model,
)
from rsvlm_jax.train.step import make_loss_step, make_train_step

from .rundir import RunDir, write_atomic
from .start import start_from
from .work import Work, prepared

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
    work = prepared(experiment)
    run = RunDir.create(out, experiment)
    config = experiment.train
    with run.lock(), Checkpoints(run.checkpoints, keep=config.keep) as checkpoints:
        done = checkpoints.latest() == config.steps and checkpoints.newest() == config.steps
        if done and run.has_processor:
            return run
        work.processor.save(run.processor)
        program = work.program
        mesh = _mesh(experiment)
        optimizer = make_optimizer(experiment.optimizer, config.steps, program.params)
        state = init_state(
            *initial(work),
            optimizer,
            mesh,
            config=experiment.optimizer,
            plan=experiment.mesh.plan,
            seed=config.seed,
        )
        step = make_train_step(program.graphdef, experiment, optimizer, mesh, state)
        log = BadLog(run.bad_samples)
        for bad in work.unread():
            log.write(bad)
        with work.batches(batch_sharding(mesh), log) as batches:
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
                held_out=held_out_losses(work, mesh, state),
                held_out_every=config.eval_every,
                held_out_file=run.held_out,
            )
        write_atomic(run.unreadable, json.dumps(work.unreadable) + "\n")
    return run


def initial(work: Work) -> tuple[Tree, Tree]:
    """Parameters and statistics before the first step."""
    experiment, program = work.experiment, work.program
    seed = experiment.train.seed
    params, stats = program.init(seed)
    params = program.adapt(start_from(params, experiment), seed)
    model = merge(program.graphdef, params, stats)
    work.start(model)
    return split_model(model)[1:]


def held_out_losses(
    work: Work, mesh: Mesh, state: TrainState
) -> Callable[[TrainState], dict[str, float]] | None:
    """The mean losses of a state over what is held out; None where that has no loss.

    Args:
      state: only its structure and shapes are read.
    """
    if work.held_out() is None:
        return None
    measure = make_loss_step(work.program.graphdef, work.experiment, mesh, state)
    place = batch_sharding(mesh)

    def losses(state: TrainState) -> dict[str, float]:
        sums: dict[str, np.ndarray] = {}
        for batch in work.held_out() or ():
            if jax.process_count() > 1:  # each brings its part of what all have read
                batch = jax.tree.map(lambda x: _shared(x, place), batch)
            found = jax.device_get(measure(eval_params(state), state.stats, batch))
            for name, parts in found.items():
                sums[name] = sums.get(name, np.zeros(2)) + np.asarray(parts, np.float64)
        means = {name: float(s / max(w, 1.0)) for name, (s, w) in sums.items()}
        return {**means, "weight": float(sum(w for _, w in sums.values()))}

    return losses


def _shared(x: np.ndarray, place: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(x.shape, place, lambda index: x[index])


def describe(experiment: Experiment) -> dict[str, object]:
    """What `fit` would do, checked as far as it goes without compiling or writing anything.

    Raises:
      ConfigError, DataError, CubeError: as `fit`.
    """
    work = prepared(experiment)
    program = work.program
    _mesh(experiment)
    make_optimizer(experiment.optimizer, experiment.train.steps, program.params)
    trained = pick(program.params, trained_paths(experiment.optimizer, program.params))
    return {
        **work.facts(),
        "parameters": program.parameters,
        "trained_parameters": sum(x.size for x in jax.tree.leaves(trained)),
        "devices": jax.device_count(),
        "buffers": str(work.batches().buffers),
    }


def _mesh(experiment: Experiment) -> Mesh:
    """The mesh of an experiment, which its batches fit on."""
    mesh, config = make_mesh(experiment.mesh), experiment.train
    talk = experiment.conversations
    lengths = () if talk is None else (talk.length,)
    check_batch(mesh, config.batch_size, lengths, micro=config.micro_batches)
    return mesh


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
        rates = {k: row[k] for k in ("tokens_per_second",) if k in row}
        progress(step, config.steps, {"loss": loss, "samples_per_second": rate, **rates})

    return report
