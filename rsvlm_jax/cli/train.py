"""`rsvlm train EXPERIMENT.py --out RUN [overrides]`."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rsvlm_jax.config import (
    ConfigError,
    Experiment,
    Preempted,
    RsvlmError,
    from_json,
    to_json,
)
from rsvlm_jax.config.experiment import BASES, init_sources
from rsvlm_jax.config.tiny import is_large

from .options import load_experiment, parse, say, say_unreadable, stop_on_sigterm
from .sweep import Run, combinations, sweep, without


@dataclasses.dataclass(frozen=True)
class Options:
    """Train an experiment. Every field of the experiment is an option with its type checked."""

    out: Path | None
    """Run directory; training resumes from its newest verified checkpoint."""
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    tiny: bool = False
    """Shrink the experiment to seconds on a CPU (applied before the other overrides but --base)."""
    dry_run: bool = False
    """Validate, print the resolved configuration and what would run, and stop."""
    profile: bool = False
    """Leave a trace of a few steps and the figures of all in RUN/profile: time, tokens, MFU,
    memory."""
    sweep: tuple[str, ...] = ()
    """FIELD=VALUE,VALUE ...: all combinations, one after the other, each in a directory of RUN."""
    supervise: int | None = None
    """Start this many processes on this machine, and all again from the newest checkpoint when one
    of them dies."""
    coordinator: str | None = None
    """HOST:PORT of process 0, with --processes and --process; TPU, SLURM, Open MPI and JobSet need
    none of them."""
    processes: int | None = None
    """How many processes the run has."""
    process: int | None = None
    """Which of them this is, from 0."""
    wait: int = 300
    """Seconds in which all processes have to come together."""


def run(args: Sequence[str]) -> dict[str, object] | None:
    given = list(args)
    options = _parsed(args)
    experiment = options.config

    # All of a sweep are parsed before the first is trained.
    swept = combinations(options.sweep) if options.sweep else []
    rest = without(given, "--sweep", "--out", "--dry-run")
    each = {
        one.name: dataclasses.replace(options, config=_parsed([*rest, *one.options]).config)
        for one in swept
    }

    if options.dry_run:
        from rsvlm_jax.run.fit import describe

        for name, other in each.items():
            say(f"{name}: {describe(other.config)['buffers']}")
        facts = describe(experiment)
        print(to_json(experiment), end="")
        for key, value in facts.items():
            say(f"{key}: {value}")
        return {"dry_run": True, **facts}
    if options.out is None:
        raise ConfigError("no run directory given", expected="--out RUN")
    from rsvlm_jax.run.supervise import end_with_supervisor

    with stop_on_sigterm() as stop:
        if options.supervise is None:
            end_with_supervisor()
            return _joined(options, swept, each, stop)
        if not swept:
            return _supervised(options, given)

        def one(which: Run, out: Path) -> None:
            _go_on(stop, out)
            command = [*rest, *which.options, "--out", str(out)]
            _supervised(dataclasses.replace(each[which.name], out=out), command)

        rows = sweep(swept, options.out, one)
        say(f"swept: {options.out / 'sweep.json'}")
        return {"runs": rows}


def _parsed(args: Sequence[str]) -> Options:
    """A command line, with the experiment that it names."""
    rest = list(args)
    if rest and not rest[0].startswith("-"):
        experiment = load_experiment(rest.pop(0))
    elif "-h" in rest or "--help" in rest:
        experiment = load_experiment("forkme")
    else:
        raise ConfigError(
            "no experiment given",
            expected="rsvlm train EXPERIMENT.py[:STAGE] --out RUN [overrides]",
        )
    if "--tiny" in rest:
        experiment = _after(_based(experiment, rest).tiny(), experiment.init_from)
    return parse(Options, rest, prog="rsvlm train EXPERIMENT.py", default=Options(None, experiment))


def _go_on(stop: Callable[[], bool], out: Path) -> None:
    """Between the runs of a sweep."""
    if stop():
        raise Preempted(
            "stopped between two runs", where=out, remedy="run the same command again to go on"
        )


def _joined(
    options: Options, swept: Sequence[Run], each: dict[str, Options], stop: Callable[[], bool]
) -> dict[str, object] | None:
    """Train one run or a sweep in this process, with those of its cluster.

    None: process 0 tells the result.
    """
    from rsvlm_jax.run.cluster import find_cluster
    from rsvlm_jax.run.processes import joined, on_tpu

    assert options.out is not None
    cluster = find_cluster(
        options.coordinator,
        options.processes,
        options.process,
        os.environ,
        tpu=on_tpu(os.environ.get("JAX_PLATFORMS")),
    )
    with joined(cluster, wait=options.wait, quiet="--debug" not in sys.argv):
        if not swept:
            return _trained(options, options.out, stop)
        from rsvlm_jax.mesh import together

        def one(which: Run, out: Path) -> None:
            _go_on(stop, out)
            _trained(each[which.name], out, stop)

        rows = sweep(swept, options.out, one, write=together.index() == 0)
        if together.index():
            return None
    say(f"swept: {options.out / 'sweep.json'}")
    return {"runs": rows}


def _trained(options: Options, out: Path, stop: Callable[[], bool]) -> dict[str, object] | None:
    """Train in processes that are joined. None: process 0 tells the result."""
    from rsvlm_jax.mesh import together
    from rsvlm_jax.run.fit import fit
    from rsvlm_jax.train import Checkpoints

    from .progress import Bars

    experiment = options.config
    talks = together.index() == 0
    if not talks:
        warnings.simplefilter("ignore")
        done = fit(experiment, out=out, stop=stop, profile=options.profile)
    else:
        with Bars() as bars:
            done = fit(
                experiment,
                out=out,
                progress=lambda step, steps, metrics: bars.update(
                    experiment.name, step, steps, metrics
                ),
                stop=stop,
                profile=options.profile,
            )
    with Checkpoints(done.checkpoints) as checkpoints:
        step = checkpoints.latest()
    unreadable = done.unreadable_windows()
    stopped, skipped = done.stopped(), done.skipped_steps()
    if not talks:
        return None
    say(f"trained: {done.path}")
    steps = experiment.train.steps
    if stopped is not None:
        patience = experiment.train.patience
        say(f"ended at step {stopped} of {steps}: no new lowest held-out loss in {patience} scores")
    if skipped:
        say(f"{skipped} steps were skipped: {done.skipped}")
    say_unreadable(unreadable)
    profile = done.profile / "profile.json"
    measured = json.loads(profile.read_text()) if options.profile and profile.is_file() else None
    if measured is not None:
        from rsvlm_jax.run.profile import table

        for line in table(measured):
            say(line)
    return {
        **({} if measured is None else {"profile": measured}),
        "run": str(done.path),
        "steps": steps,
        "step": step,
        "stopped": stopped,
        "skipped": skipped,
        "unreadable": unreadable,
    }


def _supervised(options: Options, given: list[str]) -> dict[str, object]:
    """Start the processes of a run, and see them to its end."""
    from rsvlm_jax.run.cluster import find_cluster
    from rsvlm_jax.run.supervise import supervise

    named = [n for n in ("coordinator", "processes", "process") if getattr(options, n) is not None]
    if named:
        raise ConfigError(
            "the supervisor chooses the coordinator and the processes itself",
            where="--supervise",
            expected="no --coordinator, --processes, --process beside it",
            found=", ".join(f"--{n}" for n in named),
        )
    cluster = find_cluster(None, None, None, os.environ, tpu=_on_tpu())
    if cluster is not None and cluster.processes != 1:
        raise ConfigError(
            "the processes of this run are started by a scheduler already",
            where="--supervise", expected="a machine by itself", found=f"one of {cluster.how}",
            remedy="leave --supervise out: scheduler or tpu_scripts/babysit.sh start a run again",
        )  # fmt: skip
    assert options.supervise is not None
    assert options.out is not None
    at = next(i for i, word in enumerate(given) if word.partition("=")[0] == "--supervise")
    rest = given[:at] + given[at + (1 if "=" in given[at] else 2) :]
    debug = ["--debug"] if "--debug" in sys.argv else []
    command = [sys.executable, "-m", "rsvlm_jax.cli.main", "train", *rest, "--json", *debug]
    ended = supervise(command, options.supervise, out=options.out, say=say)
    result = ended.result or {}
    if ended.code:
        raise RunEnded(str(result.get("error", ended.line)), ended.code, told=ended.said)
    return {**result, "restarts": ended.restarts}


def _on_tpu() -> bool:
    """JAX is loaded only where there can be a TPU."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    from rsvlm_jax.run.processes import on_tpu

    return on_tpu(os.environ.get("JAX_PLATFORMS"))


class RunEnded(RsvlmError):
    """A supervised run ended with an error, which a process may have told already."""

    def __init__(self, line: str, code: int, *, told: bool) -> None:
        super().__init__(line)
        self.exit_code, self.told = code, told


def _after(tiny: Experiment, page: str | None) -> Experiment:
    """Start a tiny stage from the run of the stage before it that its page names, where that run
    is there and tiny; what the page takes from weights of yours is then that run's too.

    Args:
      page: `init_from` before it was made tiny.
    """
    if page is None or tiny.init_from == page:
        return tiny
    sources = init_sources(page)
    before = [source for _, source in sources if _is_tiny_run(source)]
    if not before:
        return tiny
    chained = [
        ("" if tower is None else f"{tower}=")
        + (source if source in before or source.startswith("asset:") else before[0])
        for tower, source in sources
    ]
    return dataclasses.replace(tiny, init_from=",".join(chained))


def _is_tiny_run(source: str) -> bool:
    file = Path(source, "config.json")
    return file.is_file() and not is_large(from_json(Experiment, file.read_text()).model)


def _based(experiment: Experiment, args: Sequence[str]) -> Experiment:
    """With the `--base` of the command line, which decides what can be made tiny."""
    given = itertools.chain(*(w.split("=", 1) if w.startswith("--base=") else [w] for w in args))
    for option, word in itertools.pairwise(given):
        if option == "--base" and word in BASES:  # any other is refused with the other options
            experiment = dataclasses.replace(experiment, base=word)
    return experiment
