"""The main job: open, train, evaluate, map, ask. `rsvlm demo` calls it.

    1 the cube: validated and described
    2 cross-validation: the model, and the model without its language model, on spatial folds
    3 the table, beside mean, ridge and random forest on the same folds; calibrated intervals
    4 the held-out map, its interval, and the picture
    5 one model trained on all windows with questions; answers about two places

Everything lies in one directory and is taken up where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from data_zarr.grid import Grid
from data_zarr.maps import write_geotiff, write_map
from data_zarr.sampling import target_means
from data_zarr.schema import validate
from data_zarr.splits import split
from rsvlm_jax.config import ConfigError, Experiment, Preempted, strict_json
from rsvlm_jax.metrics import conformal
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.regressed import ALPHA
from rsvlm_jax.run.rundir import RunDir, locked, other_owner, write_atomic
from rsvlm_jax.run.trained import Answer, load_run

from .baselines import BASELINES, features, fold_model
from .crossval import AGAIN, Folds, HeldOut, cross_validate, held_out_map
from .cubeframes import background
from .cubeinfo import cube_facts
from .cubepage import facts_page
from .figure import demo_figure
from .regression import Benchmark, out_of_fold, regression_benchmark
from .report import ReportContext, rich_table, write_report
from .runs import split_words

ELSEWHERE = 'choose another --out (make demo ARGS="--out OTHER")'


@runtime_checkable
class Reporter(Protocol):
    """What the demo tells a person: bars, and things to print."""

    def update(self, name: str, done: int, total: int, metrics: Any = None) -> None: ...
    def say(self, what: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the last model, which talks, differs from the experiment: text is trained as well."""

    text_weight: float = 0.5
    steps: float = 1.5
    """Times the steps of the experiment, but no more than `samples` are seen."""
    samples: int = 11_520


def demo(
    experiment: Experiment,
    out: Path,
    *,
    story: str,
    reporter: Reporter,
    buffer: float = 0.0,
    members: int = 1,
    recipe: Recipe = Recipe(),
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Do the main job in `out`, alone there.

    Args:
      story: name of the result.
      buffer: guard around held-out windows, in window widths.
      members: seeds a fold.
      stop: asked before every training step and between the parts of the job; true saves what
        trains and raises `Preempted`.

    Returns:
      {story, seconds, table, coverage90, artifacts {map_zarr, map_tif, figure, report}, answers}

    Raises:
      ConfigError: `out` is in use, cannot be written, or holds another demo; or a dense head.
      As `fit`, `cross_validate` and `data_zarr.schema.Report.raise_if_bad`.
    """
    if members < 1:
        raise ConfigError("no model to train", where="members", expected=">= 1", found=members)
    if experiment.model.is_dense:
        raise ConfigError(
            "the demo's map, calibration and picture are of windows",
            where="HeadConfig.dense",
            expected='"no"',
            found=experiment.model.head and experiment.model.head.dense,
            remedy="rsvlm train, rsvlm evaluate --calibrate, rsvlm predict",
        )
    data = experiment.data
    data = dataclasses.replace(data, split=dataclasses.replace(data.split, buffer=buffer))
    experiment = dataclasses.replace(experiment, data=data)
    with locked(out):
        _claim(out, experiment, members, recipe)
        return _demo(experiment, out, story, reporter, buffer, members, recipe, stop)


def _claim(out: Path, experiment: Experiment, members: int, recipe: Recipe) -> None:
    """A demo goes on in its own directory only: runs, blocks and times there are of one kind."""
    mine = {
        "experiment": dataclasses.asdict(experiment),
        "members": members,
        "recipe": dataclasses.asdict(recipe),
    }
    text, file = strict_json(mine, indent=2) + "\n", out / "demo.json"
    if not file.exists():
        write_atomic(file, text)
        return
    try:
        known = json.loads(file.read_text())
    except ValueError as e:
        raise ConfigError("not JSON", where=file, remedy=f"delete it, or {ELSEWHERE}") from e
    if known != json.loads(text):
        remedy = f"{ELSEWHERE}, or delete the directory"
        raise other_owner(
            "the directory holds another demo", out, known, json.loads(text), remedy=remedy
        )


def _demo(
    experiment: Experiment,
    out: Path,
    story: str,
    reporter: Reporter,
    buffer: float,
    members: int,
    recipe: Recipe,
    stop: Callable[[], bool] | None,
) -> dict[str, Any]:
    start = time.perf_counter()

    def between() -> None:
        if stop is not None and stop():
            raise Preempted(f"stopped in {out}", remedy=AGAIN)

    folds = Folds.of(experiment)
    cube = folds.prepared.cube
    report = validate(cube)
    report.raise_if_bad()
    reporter.say(facts_page(cube_facts(cube)))
    reporter.say(f"{len(report.rows)} rules checked, the cube is valid")

    ours = functools.partial(
        cross_validate, folds=folds, members=members, progress=reporter.update, stop=stop
    )
    full = ours(experiment, out=out / "folds", name="rsvlm")
    bare = ours(without_language(experiment), out=out / "folds_no_lm", name="no_lm")
    between()
    made = compare(experiment, folds, {"rsvlm": full, "no_lm": bare}, reporter)
    reporter.say(rich_table(made.rows, f"{_words(folds)}, {split_words(experiment, points=False)}"))

    command = command_line(story, experiment, buffer, members)
    between()
    artifacts = draw(experiment, folds, full, made, out, command, reporter)
    talking = teach(experiment, folds, full, out, recipe, reporter, stop)
    answers = ask(talking, folds)
    for answer in answers:
        reporter.say(f"  {answer['place']}  {answer['question']}\n      -> {answer['text']}")
    (row,) = (r for r in made.rows if r["model"] == "rsvlm")
    return {
        "story": story,
        "seconds": round(time.perf_counter() - start, 1),
        "table": made.rows,
        "coverage90": row["picp90"],
        "artifacts": artifacts,
        "answers": answers,
    }


def command_line(story: str, experiment: Experiment, buffer: float, members: int) -> str:
    """The command that does this again."""
    words = f"rsvlm demo --story {story} --data {experiment.data.cube}"
    words += f" --steps {experiment.train.steps}"
    words += f" --buffer {buffer:g}" if buffer else ""
    return words + (f" --members {members}" if members > 1 else "")


def without_language(experiment: Experiment) -> Experiment:
    """The same experiment with the head on the visual tokens alone."""
    groups = tuple(g for g in experiment.optimizer.groups if "decoder" not in g.pattern)
    return dataclasses.replace(
        experiment,
        name=f"{experiment.name}_no_lm",
        model=dataclasses.replace(experiment.model, decoder=None),
        optimizer=dataclasses.replace(experiment.optimizer, groups=groups),
        loss=dataclasses.replace(experiment.loss, text=0.0),
        init_from=None,
    )


def compare(
    experiment: Experiment, folds: Folds, models: dict[str, HeldOut], reporter: Reporter
) -> Benchmark:
    """The table: baselines and models, trained on the same windows, on the same held-out ones."""
    prepared, s = folds.prepared, experiment.data.split
    evaluation = prepared.eval_table.take(folds.rows)
    y, _ = target_means(
        prepared.cube.target(experiment.data.target.name),
        prepared.train_table,
        experiment.data.target.min_valid,
    )
    known = np.flatnonzero(np.isfinite(y))
    training = prepared.train_table.take(known)
    splits = {
        f: split(training, evaluation, prepared.fold_map, f, buffer=s.buffer)
        for f in range(folds.count)
    }
    inputs = experiment.model.inputs
    data = {
        "x": features(prepared.cube, inputs, training),
        "y": y[known],
        "groups": prepared.fold_map[training.centre],
        "splits": splits,
        "x_eval": features(prepared.cube, inputs, evaluation),
    }
    entries: dict[str, Any] = {
        name: fold_model(fit_predict, **data) for name, fit_predict in BASELINES.items()
    }
    entries |= {name: (m.mean, m.scale, m.seconds) for name, m in models.items()}
    count = iter(range(1, len(entries) + 1))
    return regression_benchmark(
        folds.y,
        folds.fold,
        entries,
        bounds=prepared.processor.target.bounds,
        split=f"{s.folds}x{s.block}px" + (f"+{s.buffer:g}w" if s.buffer else ""),
        on_model=lambda name: reporter.update("models scored", next(count), len(entries)),
    )


def draw(
    experiment: Experiment,
    folds: Folds,
    model: HeldOut,
    made: Benchmark,
    out: Path,
    command: str,
    reporter: Reporter,
) -> dict[str, str]:
    """The held-out map as Zarr and GeoTIFF, the picture and the report; returns their paths."""
    prepared, target, oof = folds.prepared, folds.prepared.processor.target, made.oof["rsvlm"]
    blended = held_out_map(
        folds,
        model,
        out / "blocks",
        progress=lambda done, total: reporter.update("map", done, total),
    )
    mean = blended["mean"]
    bare = int(np.isnan(mean).sum())
    if bare:
        reporter.say(f"map: {bare} of {mean.size} pixels lie in no window that could be held out")
    if target.bounds is not None:
        mean = np.clip(mean, *target.bounds)
    lower, upper = conformal.interval(mean, blended["scale"], oof.scores, ALPHA, target.bounds)
    words = target.long_name or target.name
    arrays = {
        target.name: (mean, words),
        f"{target.name}_lower": (lower, f"{words}, lower end of the 90 % interval"),
        f"{target.name}_upper": (upper, f"{words}, upper end of the 90 % interval"),
        f"{target.name}_reference": (blended["reference"], f"{words}, reference"),
    }
    layers = {k: v.astype(np.float32) for k, (v, _) in arrays.items()}
    attrs = {k: {"long_name": w, "units": target.unit} for k, (_, w) in arrays.items()}
    zarr_path, tif_path = out / "map.zarr", out / "map.tif"
    write_map(
        zarr_path,
        prepared.cube.grid,
        {k: (v, attrs[k]) for k, v in layers.items()},
        {
            "title": f"{words}, each window by models that trained on none of its pixels",
            "source": prepared.cube.title,
            "source_digest": prepared.cube.digest(),
            "interval": "90 %, cross-conformal",
            "split": split_words(experiment, points=False),
            "model_steps": sorted({m.step for models in model.models.values() for m in models}),
        },
    )
    grid = prepared.cube.grid
    assert isinstance(grid, Grid)
    write_geotiff(tif_path, grid, layers, unit=target.unit, description=words)
    image, caption = background(prepared.cube, experiment.model.inputs[0])
    figure = out / "figure.png"
    (row,) = (r for r in made.rows if r["model"] == "rsvlm")
    demo_figure(
        figure,
        rgb=image,
        prediction=mean,
        lower=lower,
        upper=upper,
        reference=blended["reference"],
        y=folds.y,
        oof=oof.mean,
        lo=oof.lo,
        hi=oof.hi,
        fold=folds.fold,
        grid=grid,
        title=f"{prepared.cube.title}: {words}",
        label=words,
        unit=target.unit,
        fold_map=prepared.fold_map,
        image_title=caption,
        limits=target.bounds if target.bounds == (0.0, 1.0) else None,
        row=row,
        table=made.rows,
        notes=(
            f"{split_words(experiment, points=False)}; "
            "each window by models that trained on none of its pixels",
        ),
    )
    report = write_report(
        out / "report",
        made.rows,
        ReportContext(
            title=f"{experiment.name}: {words}",
            target=words,
            unit=target.unit,
            cube=f"{prepared.cube.title}, {prepared.cube.digest()[:16]}",
            split=split_words(experiment, points=False),
            command=command,
            figure="../figure.png",
        ),
    )
    paths = {"map_zarr": zarr_path, "map_tif": tif_path, "figure": figure, "report": report}
    return {name: str(path) for name, path in paths.items()}


def teach(
    experiment: Experiment,
    folds: Folds,
    held_out: HeldOut,
    out: Path,
    recipe: Recipe,
    reporter: Reporter,
    stop: Callable[[], bool] | None = None,
) -> RunDir:
    """One model on all windows, trained on questions, calibrated by out-of-fold errors.

    The errors are those of one model a fold, also where the table scores a mixture of members.
    These models saw the other folds only, and `recipe` tells how else they differ: no text, fewer
    steps. So the coverage of this model's own intervals is expected, not measured.
    """
    split_ = dataclasses.replace(experiment.data.split, fold=None)
    data = dataclasses.replace(experiment.data, split=split_, templates="questions")
    batches = recipe.samples // experiment.train.batch_size
    steps = max(1, min(round(experiment.train.steps * recipe.steps), batches))
    talking = dataclasses.replace(
        experiment,
        name=f"{experiment.name}_talking",
        data=data,
        loss=dataclasses.replace(experiment.loss, text=recipe.text_weight),
        train=dataclasses.replace(experiment.train, steps=steps),
    )
    run = fit(
        talking,
        out=out / "model",
        progress=lambda step, total, metrics: reporter.update("questions", step, total, metrics),
        stop=stop,
    )
    processor = load_run(run.path).processor
    processor.calibrated(single_scores(folds, held_out)).save(run.processor)
    return run


def single_scores(folds: Folds, held_out: HeldOut) -> tuple[float, ...]:
    """Out-of-fold scores of one model a fold: the calibration of a model that is not a mixture."""
    one, bounds = held_out.one, folds.prepared.processor.target.bounds
    return out_of_fold(folds.y, one.mean, one.scale, folds.fold, 0.0, bounds).calibration


def ask(run: RunDir, folds: Folds) -> list[dict[str, Any]]:
    """The same questions about a place with little and a place with much of the target.

    About the target: a trained wording, and two that training never saw. About other things: one
    that the cube answers, one that no image can, and two of that kind that training never saw.
    """
    loaded = load_run(run.path)
    questions = loaded.processor.questions
    unseen = [questions.held_out_other[0], questions.held_out_other[-1]]
    other = [questions.other[0], questions.other[-1], *unseen]
    asked = [questions.target[0], *questions.held_out[:2], *other]
    order = np.argsort(folds.y, kind="stable")
    answers = []
    for at in (order[len(order) // 10], order[-len(order) // 10]):
        row = folds.rows[at]
        y, x = int(folds.prepared.eval_table.y[row]), int(folds.prepared.eval_table.x[row])
        batch = loaded.window(folds.prepared.cube, y, x)
        for qa in asked:
            (answer,) = loaded.chat(qa.question, batch)
            answers.append(_answer(answer, y, x, float(folds.y[at])))
    return answers


def _answer(answer: Answer, y: int, x: int, reference: float) -> dict[str, Any]:
    found = {"place": f"row {y}, column {x}", "row": y, "col": x, **dataclasses.asdict(answer)}
    return {**found, "reference": reference}


def _words(folds: Folds) -> str:
    target = folds.prepared.processor.target
    return target.long_name or target.name
