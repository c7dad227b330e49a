"""Splits of a benchmark by name, each with its leakage report.

    spatial        tiles of a raster, blocks of places, with a guard      a new place nearby
    group:LABEL    values of a label dealt to folds whole                 a new site, region, year
    given:LABEL    a label of two values, one of them 1 or "test"         somebody's own protocol
    given:LABEL=V  the places whose label is V are the test               likewise
    random         windows dealt one by one                               leaky: memory, not skill

A given split has one test set and so no other fold to calibrate intervals on. Its training sites
are dealt to more folds, trained and predicted within the training set, for calibration alone:
their rows are not scored, and no model that is scored there has seen a test row. With few such
folds the models that calibrate have seen fewer and farther sites than the one that is scored, and
its intervals come out too wide (`DealOptions.calibration_folds`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_zarr.format import near_miss
from data_zarr.sampling import WindowTable
from data_zarr.sensors import Number
from data_zarr.splits import Leakage, Split, group_folds, leakage
from data_zarr.splits.tiles import tile_map
from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.evaluate.cubefolds import CubeFolds, FoldsRequest, cube_folds

from .task import Task, digest_of

KINDS = ("spatial", "group", "given", "random")
TEST_WORDS = ("1", "true", "test", "held out", "heldout")


@dataclasses.dataclass(frozen=True)
class DealOptions:
    """How to deal; see `rsvlm_jax.evaluate.cubefolds.FoldsRequest`.

    Attributes:
      site: label whose rows belong together, in inner cross-validation and in the bootstrap; None:
        "site_name" if there is such a label, else the one that is held out, else the position.
      force: take splits that leak.
      calibration_folds: of the training sites of a given split, each a model more.
    """

    block: Number | None = None
    folds: int = 5
    buffer: Number = 1.0
    site: str | None = None
    seed: int = 0
    force: bool = False
    calibration_folds: int = 3


@dataclasses.dataclass(frozen=True)
class Deal:
    """A split of a task.

    Attributes:
      name, words: for the table; for a person.
      splits: of each fold, rows of `Task.training` and `Task.evaluation`.
      fold: i64 [n], the fold in which an evaluation row is held out.
      scored: bool [n], rows of the table; the others calibrate.
      site, site_training: i64 [n], [m], tile or site of each row.
      reports: leakage of each fold.
      leaks: why the split measures memory; empty where nothing was found.
    """

    name: str
    words: str
    splits: tuple[Split, ...]
    fold: np.ndarray
    scored: np.ndarray
    site: np.ndarray
    site_training: np.ndarray
    reports: tuple[Leakage, ...]
    leaks: tuple[str, ...] = ()

    def identity(self, fold: int) -> str:
        """Of the rows of one fold."""
        split = self.splits[fold]
        return digest_of([split.train.tolist(), split.test.tolist()])


def deal(task: Task, name: str, options: DealOptions) -> Deal:
    """Deal a task.

    Raises:
      ConfigError: no such split, or a leaking one without `force`.
      DataError, CubeError: the cube has not the label, or too few sites or tiles.
    """
    kind, _, label = name.partition(":")
    if kind not in KINDS or (bool(label) != (kind in ("group", "given"))):
        raise ConfigError(
            "no such split",
            where="--splits",
            expected="spatial | group:LABEL | given:LABEL | random",
            found=name,
        )
    if kind == "spatial" or kind == "group":
        made = _of_folds(task, name, label or None, options)
    elif kind == "given":
        made = _given(task, name, label, options)
    else:
        made = _random(task, name, options)
    leaks = (*_leaks(task, made, kind), *_cut_patches(task, made))
    if leaks and not options.force:
        raise ConfigError(
            "a split that leaks",
            where=f"--splits {name}",
            expected="test windows that no training window has seen",
            found="; ".join(leaks),
            remedy="another split, or --force to measure memory and name it so",
        )
    return dataclasses.replace(made, leaks=leaks)


def _of_folds(task: Task, name: str, label: str | None, options: DealOptions) -> Deal:
    data = task.prepared.experiment.data
    request = FoldsRequest(
        block=options.block,
        folds=options.folds,
        buffer=options.buffer,
        group=label,
        window=data.window,
        stride=data.stride,
        target=task.target.name,
        narrow="accept",
        seed=options.seed,
    )
    found = cube_folds(task.cube, request)
    # Of windows with a target only: rows of the cube's tables to rows of the task's.
    train, test = (
        _places_in(whole, part)
        for whole, part in (
            (found.train_table, task.training),
            (found.eval_table, task.evaluation),
        )
    )
    splits = tuple(Split(_kept(train, s.train), _kept(test, s.test)) for s in found.splits)
    for i, s in enumerate(splits):
        if not len(s.train) or not len(s.test):
            raise DataError(
                "a fold without targets",
                where=f"fold {i} of {name}",
                expected="windows with a target on both sides",
                found=f"{len(s.train)} training, {len(s.test)} test",
                remedy="fewer folds, another block or a smaller buffer",
            )
    site, site_training = _sites(task, label, options, found)
    fold = np.full(len(task.y), -1)
    for i, s in enumerate(splits):
        fold[s.test] = i
    return Deal(
        name if label else "spatial",
        _words(task, found, label),
        splits,
        fold,
        fold >= 0,
        site,
        site_training,
        found.reports,
    )


def _given(task: Task, name: str, label: str, options: DealOptions) -> Deal:
    label, _, wanted = label.partition("=")
    words = np.array([_word(v) for v in _label(task, label)])
    values = sorted(set(words.tolist()))
    test = words == _word(wanted) if wanted else np.isin(words, TEST_WORDS)
    if test.all() or not test.any() or (not wanted and len(values) > 2):
        raise DataError(
            "a label that does not say which places are the test",
            where=f"{task.cube.path}: label {label!r}",
            expected=f"{wanted or '1 or test'} for some places, another value for others",
            found=", ".join(values[:5]) + (", ..." if len(values) > 5 else ""),
            remedy=f"--splits given:{label}=VALUE",
        )
    site, site_training = _sites(task, None, options, None)
    rows = np.flatnonzero(~test)
    n = options.calibration_folds
    if n < 2:
        raise ConfigError(
            "no fold to calibrate on", where="--calibration-folds", expected=">= 2", found=n
        )
    inner = group_folds(site[rows], n, seed=options.seed)
    splits = [Split(rows, np.flatnonzero(test))]
    splits += [Split(rows[inner != f], rows[inner == f]) for f in range(n)]
    fold = np.zeros(len(task.y), np.int64)
    fold[rows] = 1 + inner
    report = _report(task, splits[0], site)
    found = f"the test rows of label {label!r}; intervals from {n} folds of sites"
    return Deal(name, found, tuple(splits), fold, test, site, site_training, (report,))


def _random(task: Task, name: str, options: DealOptions) -> Deal:
    if not 2 <= options.folds <= len(task.y):
        raise ConfigError(
            "impossible folds",
            where="--folds",
            expected=f"2 .. {len(task.y)}, as many as windows at most",
            found=options.folds,
        )
    rng = np.random.default_rng(options.seed)
    fold = rng.permutation(np.arange(len(task.y)) % options.folds)
    same = _places_in(task.training, task.evaluation)  # the very windows of the other table
    splits = []
    for f in range(options.folds):
        train = np.setdiff1d(np.arange(len(task.training)), same[fold == f])
        splits.append(Split(train, np.flatnonzero(fold == f)))
    site, site_training = _sites(task, None, options, None)
    reports = tuple(_report(task, s, site) for s in splits)
    words = f"{options.folds} random folds of windows: training windows overlap or adjoin them"
    return Deal(name, words, tuple(splits), fold, fold >= 0, site, site_training, reports)


def _report(task: Task, split: Split, site: np.ndarray) -> Leakage:
    cube = task.cube
    places = site if cube.points else None
    grid = cube.grid if _placed(task) else None
    return leakage(split, task.training, task.evaluation, grid=grid, places=places)


def _leaks(task: Task, made: Deal, kind: str) -> tuple[str, ...]:
    """What was found, in words. A label that is held out may share places: that is its question."""
    out = []
    if kind == "random":
        out.append("windows dealt one by one lie among those that are trained on")
    shared = max((r.shared_pixels for r in made.reports), default=0)
    if shared and not task.cube.points:
        out.append(f"{shared} pixels on both sides")
    places = max((r.shared_places or 0 for r in made.reports), default=0)
    if places:
        out.append(f"{places} sites on both sides")
    near = [r.min_distance_metres for r in made.reports if r.min_distance_metres is not None]
    if task.cube.points and kind != "group" and near and min(near) == 0 and not places:
        out.append("places of one position on both sides")
    return tuple(out)


def _cut_patches(task: Task, made: Deal) -> tuple[str, ...]:
    """Of a cube that is an atlas of patches (`data_zarr.readers.atlas`): whether windows hold parts
    of two, or two folds parts of one."""
    patches: Any = task.cube.attrs.get("patches")
    if task.cube.points or not isinstance(patches, dict) or "size" not in patches:
        return ()
    size, table = int(patches["size"]), task.evaluation
    out = []
    for name, windows in (("training", task.training), ("test", table)):
        ends = [windows.y, windows.x]
        if any((e // size != (e + windows.size - 1) // size).any() for e in ends):
            out.append(f"{name} windows that lie across two patches of {size} pixels")
    patch = table.y // size * (task.cube.grid.width // size) + table.x // size
    pairs = np.unique(np.stack([patch, made.fold])[:, made.fold >= 0], axis=1)
    if len(pairs[0]) > len(np.unique(pairs[0])):
        out.append(f"patches of {size} pixels in two folds (--block a multiple of {size})")
    return tuple(out)


def _sites(
    task: Task, label: str | None, options: DealOptions, found: CubeFolds | None
) -> tuple[np.ndarray, np.ndarray]:
    """Number of the tile or site of evaluation and training rows."""
    cube, tables = task.cube, (task.evaluation, task.training)
    if not cube.points:
        height, width = cube.grid.height, cube.grid.width
        size = task.evaluation.size
        block = int(found.block if found else max(4 * size, min(height, width) // 8))
        tiles = tile_map(height, width, block)
        return tiles[tables[0].centre], tiles[tables[1].centre]
    name = options.site or ("site_name" if "site_name" in cube.labels else label)
    if name is not None:
        value = _label(task, name, "--site")
    elif _placed(task):
        sites: Any = cube.grid
        value = np.stack([sites.lon, sites.lat], axis=1)[task.evaluation.y]
    else:
        value = np.arange(len(task.y))
    number = np.unique(value, axis=0, return_inverse=True)[1].reshape(-1)
    return number, number


def _label(task: Task, label: str, where: str = "--splits") -> np.ndarray:
    """A label of the evaluation rows."""
    labels = task.cube.labels if task.cube.points else {}
    if label not in labels:
        raise DataError(
            "no such label",
            where=f"{where}, {task.cube.path}",
            expected="one of " + (", ".join(labels) or "(none)"),
            found=label,
            remedy=near_miss(label, labels),
        )
    return np.asarray(labels[label])[task.evaluation.y]


def _word(value: Any) -> str:
    """A label's value as text, numbers by their value: 1, 1.0 and True are "1"."""
    if isinstance(value, bool | np.bool_):
        value = int(value)
    text = str(value).strip().lower()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def _placed(task: Task) -> bool:
    """Whether every place has a position."""
    if not task.cube.points:
        return True
    sites: Any = task.cube.grid
    return bool(np.isfinite(sites.lon).all() and np.isfinite(sites.lat).all())


def _places_in(whole: WindowTable, part: WindowTable) -> np.ndarray:
    """Row of `whole` of every window of `part`, -1 where there is none."""
    corners = zip(whole.y.tolist(), whole.x.tolist(), strict=True)
    index = {corner: i for i, corner in enumerate(corners)}
    pairs = zip(part.y.tolist(), part.x.tolist(), strict=True)
    return np.array([index.get(p, -1) for p in pairs], np.int64)


def _kept(rows_of_part: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rows of the part that are wanted, by their rows in the whole."""
    return np.flatnonzero(np.isin(rows_of_part, wanted))


def _words(task: Task, found: CubeFolds, label: str | None) -> str:
    n = found.folds
    if label is not None:
        return f"{n} folds, values of {label!r} held out whole"
    unit = "km blocks" if found.places else "pixel tiles"
    guard = f"{found.buffer / 1000:g} km" if found.places else f"{found.buffer:g} pixels"
    return f"{n} spatial folds of {found.block:g}-{unit}, guard {guard}"
