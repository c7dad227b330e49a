"""Samples from a cube: the right pixels, and every kind of bad input."""

from __future__ import annotations

import dataclasses
import pickle
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from data_zarr.cube import Cube
from data_zarr.errors import CubeError
from data_zarr.sampling import WindowTable, window_table
from rsvlm_jax.config import DataError, InputConfig, TargetConfig, VLMConfig
from rsvlm_jax.data import CubeSource, assemble, bandset_specs, collate
from rsvlm_jax.data.windows import clearest, turned

TARGET = TargetConfig("tree_cover")
SIZE = 8


def expected(y: int, x: int, bands=range(13)) -> np.ndarray:
    """What `write_cube` put into the optical band set, [3, C, 8, 8]."""
    t, b, rows, columns = np.ix_(range(3), bands, range(y, y + SIZE), range(x, x + SIZE))
    return t * 8000 + b * 600 + rows * 14 + columns % 14


def equal(a, b) -> None:
    np.testing.assert_equal(a, b)  # walks through dicts, NaN equals NaN


# ---- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("preload", [True, False])
def test_a_sample(cube_path: Path, config: VLMConfig, table: WindowTable, preload: bool):
    source = CubeSource(cube_path, config.inputs, TARGET, table, preload=preload)
    assert len(source) == 20
    row = 6  # y 8, x 16
    sample = source[row]
    s2, dem = sample["obs"]["s2_l1c"], sample["obs"]["dem"]
    assert s2["pixels"].dtype == np.int16
    np.testing.assert_array_equal(s2["pixels"], expected(8, 16))
    assert s2["valid"].shape == (3, 1, SIZE, SIZE)
    assert not s2["valid"][0, 0, :, :2].any(), "columns 16, 17 are masked on the first date"
    assert s2["valid"][1:].all()
    assert s2["valid"][0, 0, :, 2:].all()
    np.testing.assert_allclose(s2["date"], [5904.41667, 6030.41667, 6211.41667], atol=1e-3)
    assert np.isnan(dem["date"]).all()
    assert dem["pixels"].shape[0] == 1
    assert sample["sample"] == row
    assert sample["target_valid"].all()
    assert s2["gsd"] == pytest.approx(10)
    np.testing.assert_allclose(s2["lonlat"], [15.0, 46.06], atol=0.01)


def test_target_is_the_mean_of_the_window(source: CubeSource, cube: Cube, table: WindowTable):
    layer = cube.target("tree_cover")
    for i in (1, 7, 19):
        window = layer[table.y[i] : table.y[i] + SIZE, table.x[i] : table.x[i] + SIZE]
        assert source[i]["target"][0] == pytest.approx(window.mean(), abs=1e-6)


def test_read_is_the_stack_of_samples(source: CubeSource, make_processor):
    processor = make_processor()
    index = np.array([3, 0, 17])
    a = assemble(source.read(index), processor)
    b = collate([source[i] for i in index], processor)
    assert a.obs["s2_l1c"].pixels.shape == (3, 3, 13, SIZE, SIZE)
    equal(dataclasses.asdict(a), dataclasses.asdict(b))


def test_rows_select_and_samples_keep_the_tables_number(cube_path, config, table, source):
    part = CubeSource(cube_path, config.inputs, TARGET, table, rows=np.array([5, 9]))
    assert len(part) == 2
    equal(part[1], source[9])
    with pytest.raises(IndexError):
        part[2]


def test_pickle_opens_again(source: CubeSource):
    source[0]
    again = pickle.loads(pickle.dumps(source))
    equal(again[4], source[4])


def test_many_threads_read_the_same(cube_path, config, table, source):
    fresh = CubeSource(cube_path, config.inputs, TARGET, table, preload=False)
    found: dict[int, dict] = {}
    workers = [
        threading.Thread(target=lambda i=i: found.update({i: fresh[i]})) for i in range(len(table))
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    equal(found, {i: source[i] for i in range(len(table))})


def test_without_a_target(cube_path, config, table):
    source = CubeSource(cube_path, config.inputs, None, table)
    assert not source.has_target.any()
    assert source[0]["target"].tolist() == [0]


def test_the_eight_symmetries():
    a = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    views = [turned(a, e) for e in range(8)]
    assert len({v.tobytes() for v in views}) == 8
    np.testing.assert_array_equal(views[0], a)
    rotations = {np.rot90(a, k, (1, 2)).tobytes() for k in range(4)}
    flips = {np.rot90(a[:, ::-1], k, (1, 2)).tobytes() for k in range(4)}
    assert {v.tobytes() for v in views} == rotations | flips


def test_pixels_and_masks_turn_together(source: CubeSource):
    index, row = np.full(8, 6), 6
    reads = source.read(index, np.arange(8))["obs"]["s2_l1c"]
    plain = source[row]["obs"]["s2_l1c"]
    for e in range(8):
        np.testing.assert_array_equal(reads["pixels"][e], turned(plain["pixels"], e))
        np.testing.assert_array_equal(reads["valid"][e], turned(plain["valid"], e))
    under_mask = {
        int(reads["pixels"][e][:, :, ~reads["valid"][e, 0, 0]][0].sum()) for e in range(8)
    }
    assert len(under_mask) == 1, "the same pixels stay masked"


def test_large_cubes_are_shuffled_by_chunk(cube_path, config, table):
    kept = CubeSource(cube_path, config.inputs, TARGET, table, preload=True)
    assert kept.chunk_of is None
    streamed = CubeSource(cube_path, config.inputs, TARGET, table, preload=False)
    assert streamed.chunk_of is not None
    assert len(set(streamed.chunk_of.tolist())) == 20, "8 x 8 chunks, one for each window"


def test_a_small_cube_is_kept_in_memory_for_many_windows_only(cube_path, config, table, source):
    assert source.preload
    few = CubeSource(cube_path, config.inputs, TARGET, table, rows=np.array([5]))
    assert not few.preload
    equal(few[0], source[5])


# ---- bad input ----------------------------------------------------------------------------------


def test_missing_band(cube_path, table):
    with pytest.raises(DataError, match=r"no such band .*found 'B88'; did you mean"):
        CubeSource(cube_path, [InputConfig("s2_l1c", bands=("B88",))], TARGET, table)


def test_permuted_bands_are_read_by_name(tmp_path, cube: Cube, config, table, source, written):
    other = written(tmp_path / "reversed.zarr", reverse=True)
    specs = bandset_specs(cube, config.inputs)
    reads = CubeSource(other, specs, TARGET, table)[6]
    equal(reads["obs"]["s2_l1c"]["pixels"], source[6]["obs"]["s2_l1c"]["pixels"])


def test_another_scale_is_refused(tmp_path, cube: Cube, config, table, written):
    other = written(tmp_path / "scaled.zarr", scale=1e-3)
    specs = bandset_specs(cube, config.inputs)
    with pytest.raises(DataError, match=r"another scale .*expected 0.0001; found 0.001"):
        CubeSource(other, specs, TARGET, table)


def test_nan_target_of_a_window(source: CubeSource, make_processor):
    assert source.has_target.sum() == 19
    batch = assemble(source.read(np.array([0, 1])), make_processor("questions"))
    assert batch.target_valid[:, 0].tolist() == [False, True]
    assert batch.target[0, 0] == 0
    assert batch.weight.any(1).tolist() == [False, True]
    assert batch.sample.tolist() == [0, 1], "the window itself was read"


def test_all_targets_nan(tmp_path, config, table, written):
    path = written(tmp_path / "nan.zarr", target=np.full((40, 36), np.nan))
    with pytest.raises(DataError, match=r"no window has a target in .*tree_cover.*none in 20"):
        CubeSource(path, config.inputs, TARGET, table)


def test_targets_only_outside_the_split(tmp_path, config, table, written):
    target = np.full((40, 36), np.nan)
    target[32:, :] = 0.5
    path = written(tmp_path / "south.zarr", target=target)
    with pytest.raises(DataError, match=r"no window has a target"):
        CubeSource(path, config.inputs, TARGET, table, rows=np.arange(4))


def test_empty_split(cube_path, config, table):
    with pytest.raises(DataError, match=r"an empty split in .*small.zarr; .*found 0 of 20"):
        CubeSource(cube_path, config.inputs, TARGET, table, rows=np.array([], np.int64))


def test_window_larger_than_the_cube(cube_path, config):
    with pytest.raises(CubeError, match=r"a window is larger than the cube"):
        window_table(40, 36, 64, 8)
    table = WindowTable(np.array([0]), np.array([0]), 64)
    with pytest.raises(DataError, match=r"larger than the cube.*inside 40 x 36 .*found 64 x 64"):
        CubeSource(cube_path, config.inputs, TARGET, table)


@pytest.mark.parametrize("preload", [True, False])
def test_corrupt_chunk_keeps_its_slot(damaged: Path, config, table, source, preload: bool):
    hurt = CubeSource(damaged, config.inputs, TARGET, table, preload=preload)
    reads, good = hurt.read(np.array([5, 6, 7])), source.read(np.array([5, 6, 7]))
    assert reads["sample"].tolist() == [5, -1, 7]
    assert reads["target_valid"][:, 0].tolist() == [True, False, True]
    for name in ("s2_l1c", "dem"):
        assert not reads["obs"][name]["valid"][1].any(), "nothing of a bad sample is used"
        for key in ("pixels", "valid"):
            equal(reads["obs"][name][key][[0, 2]], good["obs"][name][key][[0, 2]])
    assert list(hurt.bad) == [6]
    assert re.search(r"s2_l1c/pixels/c/0/0/1/2", hurt.bad[6])


def test_a_corrupt_chunk_carries_no_weight(damaged: Path, config, table, make_processor):
    hurt = CubeSource(damaged, config.inputs, TARGET, table)
    batch = assemble(hurt.read(np.array([6, 7])), make_processor("questions"))
    assert batch.weight.any(1).tolist() == [False, True]
    assert batch.sample.tolist() == [-1, 7]


def test_too_many_bad_windows(damaged: Path, config, table):
    hurt = CubeSource(damaged, config.inputs, TARGET, table, rows=np.arange(4, 9))
    with pytest.raises(DataError, match=r"too many windows .*at most 10% of 5; found 1, the last"):
        hurt.read(np.array([2]))
    patient = CubeSource(damaged, config.inputs, TARGET, table, error_budget=0.5)
    assert patient.read(np.arange(20))["sample"].tolist().count(-1) == 1


def test_without_a_budget_the_first_unreadable_window_is_the_error(damaged, config, table):
    strict = CubeSource(damaged, config.inputs, TARGET, table, error_budget=0.0)
    with pytest.raises(CubeError, match=r"corrupt chunk in .*s2_l1c/pixels/c/0/0/1/2"):
        strict.read(np.array([5, 6, 7]))


def test_unreadable_windows_are_counted_with_the_first_reason(damaged, config, table):
    hurt = CubeSource(damaged, config.inputs, TARGET, table)
    assert hurt.unreadable == {"windows": 0, "first": None}
    hurt.read(np.arange(20))
    assert hurt.unreadable["windows"] == 1
    assert "s2_l1c/pixels/c/0/0/1/2" in hurt.unreadable["first"]


def test_a_window_above_or_left_of_the_cube_is_named(cube_path, config):
    for y, x in ((-3, 20), (3, -1)):
        table = WindowTable(np.array([y]), np.array([x]), 8)
        with pytest.raises(DataError, match=rf"inside 40 x 36 pixels; found 8 x 8 at {y}, {x}"):
            CubeSource(cube_path, config.inputs, None, table)


def test_missing_chunk_is_never_zeros(cube_path: Path, tmp_path, config, table):
    path = tmp_path / "missing.zarr"
    shutil.copytree(cube_path, path)
    (path / "s2_l1c" / "pixels" / "c" / "0" / "0" / "1" / "2").unlink()
    source = CubeSource(path, config.inputs, TARGET, table)
    with pytest.raises(
        DataError, match=r"too many windows cannot be read.*s2_l1c/pixels/c/0/0/1/2"
    ):
        source.read(np.arange(20))


def test_the_clearest_dates_are_taken_in_time_order():
    share = np.array([0, 4, 2, 4, 3])
    valid = np.arange(4)[None, None, None, :] < share[:, None, None, None]
    assert clearest(valid, 3).tolist() == [1, 3, 4]
    assert clearest(np.ones((4, 1, 2, 2), bool), 2).tolist() == [0, 1]


def test_a_limit_of_dates_keeps_pixels_masks_and_dates_together(
    cube_path: Path, config: VLMConfig, table: WindowTable
):
    whole = CubeSource(cube_path, config.inputs, TARGET, table)
    limits = [2 if i.bandset == "s2_l1c" else None for i in config.inputs]
    fewer = CubeSource(cube_path, config.inputs, TARGET, table, dates=limits)
    a, b = whole[6]["obs"]["s2_l1c"], fewer[6]["obs"]["s2_l1c"]
    for key in ("pixels", "valid", "date", "platform"):
        equal(b[key], a[key][1:])  # the first date of this window is partly masked
