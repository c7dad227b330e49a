"""Published protocols: scores by their own definitions; from files to a row, one step between."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from data_zarr.cube import open_cube
from data_zarr.readers.agbd import agbd
from data_zarr.readers.biomassters import biomassters
from data_zarr.sampling import WindowTable
from rsvlm_jax.config import (
    DataConfig,
    DataError,
    Experiment,
    InputConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
    nano,
)
from rsvlm_jax.evaluate.protocols import (
    PUBLISHED,
    agbd_row,
    beside_published,
    biomassters_row,
    chip_rmse,
    table_text,
    window_map,
)
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import load_run

sys.path.insert(0, str(Path(__file__).parents[1] / "data_zarr" / "readers"))
import layouts


def experiment(cube: str, inputs: tuple[InputConfig, ...], window: int, block: int) -> Experiment:
    model = nano(inputs)
    assert model.head is not None
    return Experiment(
        name="public",
        data=DataConfig(
            cube=cube,
            target=TargetConfig("agb", "above-ground biomass", min_valid=0.0),
            window=window,
            stride=window,
            split=SplitConfig(block=block, folds=2),
        ),
        model=dataclasses.replace(
            model, decoder=None, head=dataclasses.replace(model.head, layers=1)
        ),
        train=TrainConfig(steps=1, batch_size=4, save_every=1, log_every=1),
    )


def test_the_error_of_a_chip_is_its_own_root():
    target = np.zeros((4, 8))
    mean = np.concatenate([np.full((4, 4), 3.0), np.full((4, 4), 1.0)], axis=1)
    mean[0, 0] = np.nan
    total, count = chip_rmse(mean, target, 4)
    assert (total, count) == (4.0, 2.0)  # and not the root of the pooled mean
    target[:, 4:] = np.nan
    assert chip_rmse(mean, target, 4) == (3.0, 1.0)
    with pytest.raises(DataError, match="a map that does not fit the chips"):
        chip_rmse(mean[:3], target[:3], 4)


def test_windows_become_a_map():
    table = WindowTable(np.array([0, 2]), np.array([0, 2]), 2)
    found = window_map(table, np.array([5.0, 7.0]), 4, 4)
    assert (found[:2, :2] == 5).all()
    assert (found[2:, 2:] == 7).all()
    assert np.isnan(found).sum() == 8


def test_biomassters_from_files_to_a_row(tmp_path: Path):
    layouts.biomassters(tmp_path)
    path = biomassters(tmp_path, tmp_path / "cube.zarr")
    names = ("s2_l2a", "s1_asc_db", "s1_desc_db")
    inputs = tuple(InputConfig(name, front="pixel") for name in names)
    made = experiment(path, inputs, window=8, block=16)
    run = fit(made, out=tmp_path / "run")
    prepared = prepare(made)
    numbers = load_run(run.path).regress_source(prepared.test)
    cube, table = prepared.cube, prepared.eval_table.take(prepared.test.rows)
    row = biomassters_row("ours", cube, window_map(table, numbers.mean, 32, 32), "a test")
    layer, each = np.asarray(cube.target("agb"), np.float64), []
    held = prepared.fold_map == 0
    for y, x in ((0, 0), (0, 16), (16, 0), (16, 16)):
        if held[y, x]:
            here = slice(y, y + 16), slice(x, x + 16)
            guess = window_map(table, numbers.mean, 32, 32)[here]
            each.append(np.sqrt(np.mean((guess - layer[here]) ** 2)))
    assert row.value == pytest.approx(np.mean(each), rel=1e-6)
    text = table_text(beside_published([row]))
    assert "| biomassters | ours |" in text
    assert "27.63" in text
    assert "agbd" not in text


def test_agbd_from_files_to_a_row(tmp_path: Path):
    layouts.agbd(tmp_path / "data.h5")
    path = agbd([tmp_path / "data.h5"], tmp_path / "cube.zarr")
    inputs = tuple(InputConfig(name, front="pixel") for name in ("s2_l2a", "palsar2_db", "dem"))
    made = experiment(path, inputs, window=25, block=25)
    run = fit(made, out=tmp_path / "run")
    test = prepare(made).test
    assert np.isin(test.target, np.asarray(open_cube(path).target("agb"))).all()
    numbers = load_run(run.path).regress_source(test)
    row = agbd_row("ours", test.target.astype(np.float64), numbers.mean)
    assert row.value == pytest.approx(np.sqrt(np.mean((numbers.mean - test.target) ** 2)), rel=1e-6)
    assert [r.system for r in beside_published([row])].count("ours") == 1


def test_every_published_number_says_where_it_was_read():
    assert all(row.source and row.value > 0 and row.source != "measured" for row in PUBLISHED)


def test_bad_input_another_cube_and_nothing_to_score():
    cube = open_cube(Path(__file__).parents[2] / "data_zarr" / "samples" / "slovenia_s2.zarr")
    with pytest.raises(DataError, match="no chips in this cube"):
        biomassters_row("ours", cube, np.zeros((2, 2)))
    with pytest.raises(DataError, match="nothing to score"):
        agbd_row("ours", np.full(3, np.nan), np.zeros(3))
