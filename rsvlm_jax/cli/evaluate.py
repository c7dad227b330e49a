"""`rsvlm evaluate RUN`: metrics on the windows that the run held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .options import parse, say_unreadable


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a run on its held-out fold, beside baselines trained on the same windows."""

    run: Positional[Path]
    """Run directory of `rsvlm train`."""
    cube: str | None = None
    """Another cube with the run's bands and target; its held-out fold under the run's split goes
    into RUN/report_CUBE. None: the run's own."""
    baselines: tuple[str, ...] = ("mean", "ridge", "random_forest")
    """Baselines to train on the run's training windows."""
    step: int | Literal["best"] | None = None
    """Checkpoint: a step, or that of the lowest held-out loss; the newest by default."""
    reliance: bool = False
    """Make each band set useless in turn (greyed, shuffled among windows, swapped for that of the
    other end of the target): the drop of R2 with its interval, in RUN/report/reliance.json."""
    answers: int = 4
    """Held-out windows that a run which learned to answer is asked about, in words that it never
    saw: numbers and refusals are counted in RUN/report/answers.json. 0: none."""
    calibrate: bool = False
    """Keep the errors on the held-out windows with the run: the intervals of its maps, numbers and
    answers come from them from then on. Of a dense head the errors of single pixels."""
    batch_size: int = 64
    """Windows at a time."""


def run(args: Sequence[str]) -> dict[str, object]:
    options = parse(Options, args, prog="rsvlm evaluate")
    from rsvlm_jax.evaluate.runs import evaluate_run

    result = evaluate_run(
        options.run,
        cube=options.cube,
        baselines=options.baselines,
        batch_size=options.batch_size,
        step=options.step,
        reliance=options.reliance,
        answers=options.answers,
        calibrate=options.calibrate,
    )
    say_unreadable(result["unreadable"])
    return result
