"""`rsvlm demo`: the main job on a shipped real cube."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .options import load_experiment, parse, stop_on_sigterm

EXPERIMENTS = {"treecover": "demo_treecover", "radar": "demo_radar"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train, evaluate, map and ask: tree cover from Sentinel-2, or greenness from radar alone."""

    story: Literal["treecover", "radar"] = "treecover"
    """Which one."""
    data: str | None = None
    """A cube with the bands and the target of the story, in place of the shipped one: a path,
    sample:NAME or world:PRESET."""
    out: Path | None = None
    """Where everything goes; demo_out/STORY by default. An interrupted demo resumes there."""
    buffer: float = 0.0
    """Guard around held-out windows, in window widths: 1 gives the stricter score."""
    members: int = 1
    """Seeds a fold; their predictions are averaged."""
    steps: int | None = None
    """Training steps of every model; None: the experiment's own."""


def run(args: Sequence[str]) -> dict[str, object]:
    options = parse(Options, args, prog="rsvlm demo")
    experiment = load_experiment(EXPERIMENTS[options.story])
    if options.data is not None:
        data = dataclasses.replace(experiment.data, cube=options.data)
        experiment = dataclasses.replace(experiment, data=data)
    if options.steps is not None:
        train = dataclasses.replace(experiment.train, steps=options.steps)
        experiment = dataclasses.replace(experiment, train=train)
    out = options.out or Path("demo_out") / options.story
    with stop_on_sigterm() as stop:
        from rsvlm_jax.evaluate.demo import demo

        from .progress import Bars

        with Bars() as bars:
            return demo(
                experiment,
                out,
                story=options.story,
                buffer=options.buffer,
                members=options.members,
                reporter=bars,
                stop=stop,
            )
