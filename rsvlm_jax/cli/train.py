"""`rsvlm train EXPERIMENT.py --out RUN [overrides]`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rsvlm_jax.config import ConfigError, Experiment, to_json
from rsvlm_jax.config.experiment import BASES

from .options import load_experiment, parse, say, say_unreadable, stop_on_sigterm


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


def run(args: Sequence[str]) -> dict[str, object]:
    args = list(args)
    if args and not args[0].startswith("-"):
        experiment = load_experiment(args.pop(0))
    elif "-h" in args or "--help" in args:
        experiment = load_experiment("forkme")
    else:
        raise ConfigError(
            "no experiment given",
            expected="rsvlm train EXPERIMENT.py[:STAGE] --out RUN [overrides]",
        )
    if "--tiny" in args:
        experiment = _based(experiment, args).tiny()
    options = parse(
        Options, args, prog="rsvlm train EXPERIMENT.py", default=Options(None, experiment)
    )
    experiment = options.config

    if options.dry_run:
        from rsvlm_jax.run.fit import describe

        facts = describe(experiment)
        print(to_json(experiment), end="")
        for key, value in facts.items():
            say(f"{key}: {value}")
        return {"dry_run": True, **facts}
    if options.out is None:
        raise ConfigError("no run directory given", expected="--out RUN")

    with stop_on_sigterm() as stop:
        from rsvlm_jax.run.fit import fit
        from rsvlm_jax.train import Checkpoints

        from .progress import Bars

        with Bars() as bars:
            done = fit(
                experiment,
                out=options.out,
                progress=lambda step, steps, metrics: bars.update(
                    experiment.name, step, steps, metrics
                ),
                stop=stop,
            )
    with Checkpoints(done.checkpoints) as checkpoints:
        step = checkpoints.latest()
    say(f"trained: {done.path}")
    unreadable = done.unreadable_windows()
    say_unreadable(unreadable)
    return {
        "run": str(done.path),
        "steps": experiment.train.steps,
        "step": step,
        "unreadable": unreadable,
    }


def _based(experiment: Experiment, args: Sequence[str]) -> Experiment:
    """With the `--base` of the command line, which decides what can be made tiny."""
    given = itertools.chain(*(w.split("=", 1) if w.startswith("--base=") else [w] for w in args))
    for option, word in itertools.pairwise(given):
        if option == "--base" and word in BASES:  # any other is refused with the other options
            experiment = dataclasses.replace(experiment, base=word)
    return experiment
