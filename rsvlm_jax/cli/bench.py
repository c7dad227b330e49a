"""`rsvlm bench regression CUBE`: models and baselines under honest splits, one table."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from rsvlm_jax.config import ConfigError

from .options import load_experiment, parse, stop_on_sigterm, unknown_word

HELP = """usage: rsvlm bench regression CUBE [options]

  regression   train and score the model and what else could be used, on the same held-out places

`rsvlm bench regression --help` shows the options.
"""


@dataclasses.dataclass(frozen=True)
class Regression:
    """Models x splits x folds x seeds on a cube: one table with intervals and paired tests, and a
    report. What is done is kept in OUT: run again after an interruption, or with more models."""

    cube: Positional[str]
    """Path, sample:NAME or world:PRESET."""
    target: str | None = None
    """What is predicted; the first continuous target by default."""
    models: tuple[str, ...] = ("mean", "ridge", "random_forest", "boosting", "rsvlm")
    """Rows of the table, or all (those that the data allow): mean ridge ridge_indices random_forest
    quantile_forest boosting quantile_boosting temporal_boosting galileo_ridge presto_ridge unet
    utae rsvlm rsvlm_rgb rsvlm_optical rsvlm_sar rsvlm_questions rsvlm_text_shuffled no_lm
    vit_linear, and oracle (of a synthetic world)."""
    splits: tuple[str, ...] = ()
    """spatial, group:LABEL, given:LABEL, random (leaky). By default spatial, of places with names
    group:site_name."""
    seeds: int = 1
    """Seeds of every model that has one; their predictions are averaged."""
    experiment: tuple[str, ...] = ()
    """Experiments as models: files or shipped names. The first is the row rsvlm, and says inputs
    and windows; each further one is a row rsvlm_NAME. Without, the nano model on all band sets."""
    inputs: tuple[str, ...] = ()
    """Band sets that are read, where no experiment says so; all by default."""
    out: Path = Path("bench_out")
    """Where everything goes."""
    window: int | None = None
    """Edge of a sample in pixels, without an experiment; 8, of places 1."""
    stride: int | None = None
    """Distance of training windows in pixels, without an experiment; half a window."""
    steps: int | None = None
    """Training steps of every experiment; None: its own."""
    block: float | None = None
    """Edge of a tile in pixels; of places in km."""
    folds: int = 5
    """How many; 0 makes each value of a label a fold."""
    buffer: float = 1.0
    """Guard around held-out windows in windows; of places in km."""
    site: str | None = None
    """Label of places that belong together, in the bootstrap and in inner cross-validation."""
    bins: tuple[float, ...] = ()
    """Edges of the bins of the target; five bins of as many windows each by default."""
    seed: int = 0
    """Of the folds."""
    force: bool = False
    """Score a split that leaks, and say so in its name."""
    calibration_folds: int = 3
    """Of the training sites of a given split, for its intervals; too few make them too wide."""


def run(args: Sequence[str]) -> dict[str, object]:
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return {}
    if args[0] != "regression":
        raise unknown_word("verb", f"bench {args[0]}", ["bench regression"])
    o = parse(Regression, args[1:], prog="rsvlm bench regression")
    experiments = [load_experiment(path) for path in o.experiment]
    if experiments and not (o.window is None and o.stride is None and not o.inputs):
        raise ConfigError(
            "the experiment says inputs and windows",
            where="--window, --stride, --inputs",
            expected="none of them with --experiment",
            remedy="change them in the experiment",
        )
    for name, size in (("--window", o.window), ("--stride", o.stride), ("--steps", o.steps)):
        if size is not None and size < 1:
            raise ConfigError("no size", where=name, expected=">= 1", found=size)
    with stop_on_sigterm() as stop:
        from rsvlm_jax.evaluate.benchmark.bench import BenchRequest, bench_regression
        from rsvlm_jax.evaluate.benchmark.deals import DealOptions
        from rsvlm_jax.evaluate.benchmark.experiments import default_experiment, on_cube
        from rsvlm_jax.run.cubes import find_cube

        from .progress import Bars

        names = [f.name for f in dataclasses.fields(DealOptions)]
        if not experiments:
            experiments = [
                default_experiment(
                    find_cube(o.cube),
                    o.cube,
                    target=o.target,
                    inputs=o.inputs or None,
                    window=o.window,
                    stride=o.stride,
                )
            ]
        request = BenchRequest(
            experiments=tuple(on_cube(e, o.cube, o.target, o.steps) for e in experiments),
            models=o.models,
            splits=o.splits,
            seeds=o.seeds,
            options=DealOptions(**{name: getattr(o, name) for name in names}),
            edges=o.bins,
            command=shlex.join(["rsvlm", "bench", *args]),
        )
        with Bars() as bars:
            return bench_regression(request, o.out, reporter=bars, stop=stop)
