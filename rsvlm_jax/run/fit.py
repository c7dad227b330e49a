"""`fit(experiment, out=RUN) -> RunDir`: train, and take up where an interrupted run stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rsvlm_jax.config import ConfigError, Experiment, to_json
from rsvlm_jax.data.badlog import BadLog
from rsvlm_jax.data.pipeline import Batches
from rsvlm_jax.data.samples import BadSample
from rsvlm_jax.mesh import together
from rsvlm_jax.mesh.batch import check_batch
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.rules import batch_sharding
from rsvlm_jax.train.checkpoint import Checkpoints
from rsvlm_jax.train.hooks import EarlyStopping, Hook, Skipped, Timing
from rsvlm_jax.train.keeping import Keep
from rsvlm_jax.train.loop import check_finite, resume, train
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

from .abstract import abstract_state
from .agreement import Agreement, same_config, same_data
from .fits import check_memory
from .profile import Profile
from .program import Place
from .rundir import RunDir, write_atomic
from .sinks import check_sinks, open_sink
from .start import start_from
from .talk import PreparedTalk
from .work import Work, prepared

Progress = Callable[[int, int, Mapping[str, float]], None]
"""(step, steps, {"loss": ..., "samples_per_second": ...})"""


def fit(
    experiment: Experiment,
    *,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    profile: bool = False,
    work: Work | None = None,
) -> RunDir:
    """Train an experiment in a run directory; a finished run that verifies is returned as it is.

    With several processes (`rsvlm_jax.run.processes.joined`) all call it. The first writes all but
    the checkpoints, computes the statistics of the training split, and reports progress.

    Args:
      progress: called every `log_every` steps.
      stop: asked before every step; true saves and raises `Preempted`, as SIGTERM does.
      work: what is trained on, where it is not what `experiment.data.split` deals: windows that a
        benchmark has dealt. Of this experiment.
      profile: leave a trace and the figures of the step in `RUN/profile` (`rsvlm_jax.run.profile`).

    Raises:
      ConfigError, DataError, CubeError: before anything compiles, where it can be known.
      CheckpointError, NonFiniteError, Preempted: see `rsvlm_jax.train.loop.train`.

    Warns:
      CheckpointWarning: training goes on from an older step, because a newer one is damaged.
    """
    if together.count() > 1:
        same_config(experiment)
    check_sinks(experiment.train.sinks)
    work = _scorable(work or prepared(experiment))
    run = RunDir(Path(out))
    config, writes = experiment.train, together.index() == 0
    keep = Keep(config.keep, config.keep_every, config.keep_best)
    with (
        run.held(experiment) as changed,
        Checkpoints(run.checkpoints, keep, config=to_json(experiment)) as checkpoints,
    ):
        last = together.first("stopped", run.stopped()) or config.steps
        done = checkpoints.latest() == last and checkpoints.newest() == last
        if done and together.first("processor", run.has_processor):
            check_finite(run.metrics, last, config.max_bad_steps)
            if profile and writes:
                print("not profiled: the run is finished", file=sys.stderr, flush=True)
            return run
        if writes:
            if changed and checkpoints.latest() is not None:
                print(f"goes on with other {', '.join(changed)}", file=sys.stderr, flush=True)
            run.started()
            work.processor.save(run.processor)
        program = work.program
        mesh = _mesh(work)
        check_memory(experiment, program, mesh)
        fresh = checkpoints.latest() is None
        optimizer = make_optimizer(experiment.optimizer, config.steps, program.params)
        state = init_state(
            *initial(work, mesh, fresh=fresh),
            optimizer,
            mesh,
            config=experiment.optimizer,
            plan=experiment.mesh.plan,
            seed=config.seed,
            spike=config.spike,
            donate=True,
        )
        step = make_train_step(program.graphdef, experiment, optimizer, mesh, state)
        profiled = Profile(work, step, mesh, run.profile) if profile else None
        log = BadLog(run.bad_samples if writes else None)
        for bad in work.unread():
            log.write(bad)
        with work.batches(batch_sharding(mesh), log) as batches:
            if together.count() > 1:
                same_data(batches.get_state()["order"])
            if progress is not None and threading.current_thread() is threading.main_thread():
                print(batches.buffers, file=sys.stderr, flush=True)
                if mesh.size < jax.device_count():
                    idle = f"trains on {mesh.size} of {jax.device_count()} devices"
                    print(f"{idle}; --mesh.data -1 takes all", file=sys.stderr, flush=True)
            state = resume(state, batches, checkpoints, donate=True)
            train(
                state,
                profiled or step,
                batches,
                steps=config.steps,
                checkpoints=checkpoints,
                save_every=config.save_every,
                log_every=config.log_every,
                metrics_file=run.metrics if writes else None,
                progress=_reporter(progress, experiment, state),
                stop=stop,
                max_bad_steps=config.max_bad_steps,
                held_out=held_out_losses(work, mesh, state),
                held_out_every=config.eval_every,
                held_out_file=run.held_out if writes else None,
                agree=Agreement(),
                hooks=[
                    *_hooks(experiment, run, batches, writes=writes),
                    *([] if profiled is None else [profiled]),
                ],
            )
        unreadable = _unreadable(work, log)
        if writes:
            write_atomic(run.unreadable, json.dumps(unreadable) + "\n")
        if profiled is not None:
            profiled.end(write=writes)
    return run


def _scorable(work: Work) -> Work:
    """Refuse what goes by a held-out loss where nothing is held out that has one."""
    config = work.experiment.train
    if config.eval_every and work.held_out() is None:
        raise ConfigError(
            "there is no held-out loss",
            where="TrainConfig.eval_every",
            expected="0, or conversations with held_out > 0",
            found=config.eval_every,
            remedy="a run on a cube is scored afterwards: rsvlm evaluate RUN",
        )
    return work


def _hooks(experiment: Experiment, run: RunDir, batches: Batches, *, writes: bool) -> list[Hook]:
    """What watches the run, by its configuration; files only where this process `writes`."""

    def samples(place: dict[str, object]) -> list[dict[str, object]]:
        return [dataclasses.asdict(sample) for sample in batches.samples(place)]

    hooks: list[Hook] = []
    if writes:
        hooks += [Timing(run.timing), Skipped(run.skipped, samples)]
        hooks += [open_sink(name, run, experiment) for name in experiment.train.sinks]
    if experiment.train.patience:
        hooks.append(EarlyStopping(experiment.train.patience))
    return hooks


def initial(work: Work, mesh: Mesh | None = None, *, fresh: bool = True) -> tuple[Tree, Tree]:
    """Parameters and statistics before the first step.

    Args:
      mesh: each of its devices makes its part of the parameters; None: all on the first device.
      fresh: False: they are read from a checkpoint afterwards, and `init_from` is not read.
    """
    experiment, program = work.experiment, work.program
    seed = experiment.train.seed
    place = None if mesh is None else Place(mesh, experiment.mesh.plan)
    params, stats = program.init(seed, place)
    if fresh:
        say = None if together.index() == 0 else _nothing
        params = start_from(params, experiment, say=say)
    params = program.adapt(params, seed, place)
    # Small, and whole on every device: numbers of this process from here on.
    stats = jax.tree.map(lambda x: jnp.asarray(np.asarray(x.addressable_data(0))), stats)
    model = merge(program.graphdef, params, stats)
    if isinstance(work, PreparedTalk):
        if fresh:
            work.start(model)  # all: its parameters lie on the devices of all
    elif together.index() == 0:
        work.start(model)
    params, stats = split_model(model)[1:]
    if together.count() > 1 and stats:
        stats = multihost_utils.broadcast_one_to_all(stats)
    return params, stats


def _nothing(line: str) -> None:
    """Said by process 0."""


def _unreadable(work: Work, log: BadLog) -> dict[str, Any]:
    """`work.unreadable` of all processes; the samples themselves go into the log."""
    if together.count() == 1:
        return work.unreadable
    told = together.each("bad samples", [dataclasses.asdict(bad) for bad in log.noted.values()])
    for row in (row for rows in told for row in rows):
        log.write(BadSample(**{**row, "window": row["window"] and tuple(row["window"])}))
    first = next((bad.reason for bad in log.noted.values()), None)
    return {"windows": len(log.noted), "first": first}


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
    place, weights = batch_sharding(mesh), work.experiment.loss

    def losses(state: TrainState) -> dict[str, float]:
        sums: dict[str, np.ndarray] = {}
        for batch in work.held_out(place) or ():
            found = jax.device_get(measure(eval_params(state), state.stats, batch))
            for name, parts in found.items():
                sums[name] = sums.get(name, np.zeros(2)) + np.asarray(parts, np.float64)
        means = {name: float(s / max(w, 1.0)) for name, (s, w) in sums.items()}
        loss = sum(getattr(weights, name) * value for name, value in means.items())
        return {"loss": loss, **means, "weight": float(sum(w for _, w in sums.values()))}

    return losses


def describe(experiment: Experiment) -> dict[str, object]:
    """What `fit` would do, checked as far as it goes without compiling or writing anything.

    Raises:
      ConfigError, DataError, CubeError: as `fit`.
    """
    check_sinks(experiment.train.sinks)
    work = _scorable(prepared(experiment))
    program = work.program
    mesh = _mesh(work)
    make_optimizer(experiment.optimizer, experiment.train.steps, program.params)
    trained = pick(program.params, trained_paths(experiment.optimizer, program.params))
    return {
        **work.facts(),
        "parameters": program.parameters,
        "trained_parameters": sum(x.size for x in jax.tree.leaves(trained)),
        "checkpoint": f"{checkpoint_bytes(experiment, program.params) / 1e9:.3g} GB",
        "devices": jax.device_count(),
        "devices_used": mesh.size,
        "buffers": str(work.batches().buffers),
    }


def checkpoint_bytes(experiment: Experiment, params: Tree) -> int:
    """Of a checkpoint: all parameters, frozen ones too, the optimiser's and the averaged ones.

    Args:
      params: arrays or shapes.
    """
    optimizer = make_optimizer(experiment.optimizer, experiment.train.steps, params)
    average = {}
    if experiment.optimizer.ema is not None:
        average = pick(params, trained_paths(experiment.optimizer, params))
    held = params, jax.eval_shape(optimizer.init, params), average
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))


def _mesh(work: Work) -> Mesh:
    """The mesh of an experiment, which its parameters and its batches fit on."""
    experiment = work.experiment
    mesh, config = make_mesh(experiment.mesh), experiment.train
    check_batch(mesh, config.batch_size, work.lengths, micro=config.micro_batches)
    abstract_state(experiment, work.program, mesh)  # refuses what the plan cannot place
    if together.count() > 1 and mesh.size < jax.device_count():
        raise ConfigError(
            "the mesh leaves out devices of other processes", where="Experiment.mesh",
            expected=f"all {jax.device_count()} devices of {together.count()} processes",
            found=f"{mesh.size}", remedy="set one axis to -1: --mesh.data -1",
        )  # fmt: skip
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
        tokens = row.get("tokens")  # of this step, taken for the mean of all
        rates = {} if tokens is None else {"tokens_per_second": rate * tokens / config.batch_size}
        progress(step, config.steps, {"loss": loss, "samples_per_second": rate, **rates})

    return report
