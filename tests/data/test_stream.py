"""Blocks, mixtures and buckets: complete, by position alone, and the right pixels."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from data_zarr.sampling import WindowTable, window_table
from data_zarr.shards import Shards
from rsvlm_jax.config import ConfigError, DataError, InputConfig, TargetConfig, VLMConfig
from rsvlm_jax.data import (
    Batch,
    CubeSource,
    CubeStream,
    Mixture,
    bandset_specs,
    train_batches,
)

TARGET = TargetConfig("tree_cover")


def take(batches, n: int) -> list[Batch]:
    with batches:
        return list(itertools.islice(batches, n))


def same(a: Batch, b: Batch) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.tobytes() == y.tobytes() and x.dtype == y.dtype for x, y in leaves)


def start(source, processor, **changes):
    return train_batches(source, processor, **{"batch_size": 6, "seed": 3, "threads": 0, **changes})


@pytest.fixture(scope="module")
def processor(make_processor):
    return make_processor("questions")


@pytest.fixture(scope="module")
def dense() -> WindowTable:
    """891 windows that overlap."""
    return window_table(40, 36, 8, 1).take(np.arange(891))


@pytest.fixture(scope="module")
def streamed(cube_path: Path, config: VLMConfig, dense: WindowTable) -> CubeSource:
    return CubeSource(cube_path, config.inputs, TARGET, dense, preload=False)


# ---- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 3])
def test_crops_of_a_block_are_the_windows(streamed, processor, threads: int):
    found = take(start(streamed, processor, crops=5, blocks=4, threads=threads, augment=False), 30)
    rows = np.concatenate([b.sample for b in found])
    alone = streamed.read(rows)
    for name, obs in alone["obs"].items():
        got = np.concatenate([b.obs[name].pixels for b in found])
        np.testing.assert_array_equal(got, obs["pixels"])
        np.testing.assert_array_equal(np.concatenate([b.obs[name].valid for b in found]),
                                      obs["valid"])  # fmt: skip


def test_every_block_gives_its_crops_once_an_epoch(streamed):
    stream = CubeStream(streamed, 0, 0, crops=5, blocks=4)
    for epoch in range(3):
        rows = stream.rows(np.arange(stream.length) + epoch * stream.length)
        assert len(set(rows.tolist())) == len(rows)
        counts = np.unique(streamed.shard_of[rows], return_counts=True)[1]
        assert len(counts) == len(set(streamed.shard_of.tolist()))
        assert counts.max() <= 5


def test_each_chunk_of_a_block_is_decoded_once_though_its_crops_are_in_many_batches(
    streamed, monkeypatch
):
    windows, decoded, cut = streamed.windows["s2_l1c"], [], []
    windows.raw(np.array([0]))
    shards = windows.reader._open().pixels
    read = Shards._read_chunk
    monkeypatch.setattr(
        Shards, "_read_chunk", lambda self, *a: (decoded.append(self), read(self, *a))[1]
    )
    raw = type(windows).raw
    monkeypatch.setattr(
        type(windows), "raw", lambda self, rows: (cut.append(rows), raw(self, rows))[1]
    )
    stream = CubeStream(streamed, 3, 6, crops=6, blocks=6, ahead=18)
    for k in range(stream.length // 6):
        stream.read(np.arange(6 * k, 6 * k + 6), None, None)
    blocks = len(set(streamed.shard_of.tolist()))
    assert len(cut) == 2 * blocks, "once for each block and input"
    # Windows of 8 x 8 pixels with their corner in a chunk of as many touch at most four chunks.
    assert sum(array is shards for array in decoded) <= 4 * 3 * blocks


def test_threads_hold_no_more_blocks_than_they_say(streamed):
    stream = CubeStream(streamed, 3, 6, crops=4, blocks=3, ahead=18)
    most = 0

    def walk(first: int) -> None:
        nonlocal most
        for k in range(first, 40, 3):
            stream.read(np.arange(6 * k, 6 * k + 6), None, None)
            held = [b.raw for b in list(stream._cache._blocks.values()) if b.raw is not None]
            most = max(most, sum(len(raw["s2_l1c"].pixels) for raw in held))

    threads = [threading.Thread(target=walk, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most <= stream.held


@pytest.mark.parametrize("threads", [0, 2])
def test_blocks_resume_bitwise(streamed, processor, threads: int):
    whole = take(start(streamed, processor, crops=5, blocks=4), 12)
    first = start(streamed, processor, crops=5, blocks=4, threads=threads)
    assert all(same(next(first), batch) for batch in whole[:7])
    state = first.get_state()
    first.close()
    again = start(streamed, processor, crops=5, blocks=4, threads=threads)
    again.set_state(state)
    assert all(same(a, b) for a, b in zip(take(again, 5), whole[7:], strict=True))
    other = start(streamed, processor, crops=4, blocks=4)
    with other, pytest.raises(DataError, match="another sequence of samples"):
        other.set_state(state)


def test_a_damaged_chunk_spoils_only_its_crops(damaged, config, dense, streamed, processor):
    hurt = CubeSource(damaged, config.inputs, TARGET, dense, preload=False, error_budget=0.5)
    a, b = (take(start(s, processor, crops=8, blocks=4), 20) for s in (streamed, hurt))
    lost = 0
    for x, y in zip(a, b, strict=True):
        ok = y.sample >= 0
        lost += int((~ok).sum())
        np.testing.assert_array_equal(x.sample[ok], y.sample[ok])
        np.testing.assert_array_equal(x.obs["s2_l1c"].pixels[ok], y.obs["s2_l1c"].pixels[ok])
        for row in x.sample[~ok]:  # rows 8-15, columns 16-23 are damaged
            assert 0 < dense.y[row] < 16
            assert 8 < dense.x[row] < 24
    assert lost


# ---- mixtures -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(cube_path: Path, cube, config: VLMConfig, table: WindowTable, written, tmp_path_factory):
    """Two cubes; the second has its bands in another order, and they are read by name."""
    other = written(tmp_path_factory.mktemp("other") / "other.zarr", reverse=True)
    specs = bandset_specs(cube, config.inputs)
    return tuple(CubeSource(p, specs, TARGET, table) for p in (cube_path, other))


def test_a_mixture_keeps_weights_and_each_cubes_own_order(pair, processor):
    alone = take(start(pair[0], processor, augment=False), 7)
    found = take(start(Mixture(pair, (2.0, 1.0)), processor, augment=False), 10)
    sample = np.concatenate([b.sample for b in found])
    first = sample[sample < 20]
    assert len(first) == 40
    np.testing.assert_array_equal(first, np.concatenate([b.sample for b in alone])[:40])
    second = sample[sample >= 20] - 20
    assert sorted(second.tolist()) == list(range(20)), "an epoch of the other cube"
    for batch in found:
        assert (batch.sample < 20).sum() == 4
    target = np.concatenate([b.target[:, 0] for b in found])
    np.testing.assert_array_equal(target, pair[0].target[sample % 20])


@pytest.mark.parametrize("threads", [0, 2])
def test_a_mixture_resumes_bitwise(pair, processor, threads: int):
    mixture = Mixture(pair, (2.0, 1.0))
    whole = take(start(mixture, processor), 9)
    again = start(mixture, processor, threads=threads)
    with start(mixture, processor) as first:
        for _ in range(4):
            next(first)
        again.set_state(first.get_state())
        other = start(Mixture(pair, (1.0, 1.0)), processor)
        with other, pytest.raises(DataError, match="another sequence of samples"):
            other.set_state(first.get_state())
    assert all(same(a, b) for a, b in zip(take(again, 5), whole[4:], strict=True))


def test_cubes_with_other_numbers_of_dates_are_padded(pair, cube_path, config, table, processor):
    short = CubeSource(cube_path, config.inputs, TARGET, table, dates=[2, None])
    found = take(start(Mixture((pair[0], short), (1.0, 1.0)), processor, augment=False), 4)
    for batch in found:
        obs = batch.obs["s2_l1c"]
        assert obs.pixels.shape[1] == 3
        assert not obs.valid[batch.sample >= 20, 2].any()
        assert np.isfinite(obs.date).all()


def test_a_cube_with_other_band_sets_is_refused_by_name(pair, cube_path, table):
    fewer = CubeSource(cube_path, [InputConfig("s2_l1c", bands=("B04",))], TARGET, table)
    match = r"input 's2_l1c' differs between the cubes of a mixture.*found B04 as int16"
    with pytest.raises(DataError, match=match):
        Mixture((pair[0], fewer), (1.0, 1.0))
    lacking = CubeSource(cube_path, [InputConfig("dem", front="pixel")], TARGET, table)
    with pytest.raises(DataError, match=r"input 's2_l1c' differs.*found no such input"):
        Mixture((pair[0], lacking), (1.0, 1.0))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, float("nan"))])
def test_impossible_mixtures(pair, weights: tuple[float, ...]):
    with pytest.raises(ConfigError, match=r"not a mixture|impossible weight"):
        Mixture(pair, weights)


# ---- series of several lengths ------------------------------------------------------------------


@pytest.fixture(scope="module")
def ragged(cube_path: Path, config: VLMConfig, table: WindowTable) -> CubeSource:
    """Of three dates the first is masked in the upper left quarter."""
    return CubeSource(cube_path, config.inputs, TARGET, table, buckets=(1, 2))


def test_levels_count_the_dates_with_a_valid_pixel(ragged):
    full = ragged.read(np.arange(20))["obs"]["s2_l1c"]["valid"]
    usable = full.reshape(20, 3, -1).any(2).sum(1)
    assert set(usable.tolist()) == {2, 3}
    np.testing.assert_array_equal(ragged.level, usable - 1)
    assert [ragged.lengths(i)["s2_l1c"] for i in range(3)] == [1, 2, 3]
    assert ragged.lengths(1)["dem"] == 1


def test_batches_take_few_shapes_and_lose_no_usable_date(ragged, source, processor):
    found = take(start(ragged, processor, batch_size=4, augment=False), 20)
    shapes = {b.obs["s2_l1c"].pixels.shape[1] for b in found}
    assert shapes == {2, 3}
    mixed = 0
    for batch in found:
        levels = ragged.level[batch.sample]
        assert batch.obs["s2_l1c"].pixels.shape[1] == levels.max() + 1
        mixed += len(set(levels.tolist())) > 1
        whole = source.read(batch.sample)["obs"]["s2_l1c"]
        obs = batch.obs["s2_l1c"]
        for i in range(4):
            keep = whole["valid"][i].any((1, 2, 3))
            n = int(keep.sum())
            np.testing.assert_array_equal(obs.pixels[i, :n], whole["pixels"][i][keep])
            np.testing.assert_array_equal(obs.date[i, :n], whole["date"][i][keep])
            assert not obs.valid[i, n:].any()
    assert mixed <= 8, "rows of one level are brought together: at most two batches an epoch"
    rows = np.concatenate([b.sample for b in found]).reshape(4, 20)
    assert all(sorted(epoch.tolist()) == list(range(20)) for epoch in rows)


def test_only_the_dates_that_are_kept_are_decoded(cube_path, config, table, monkeypatch):
    source = CubeSource(cube_path, config.inputs, TARGET, table, dates=[2, None], preload=False)
    reader, seen = source.windows["s2_l1c"].reader, []
    assert reader.info.chunks[0] == 1

    def read(y, x, h, w, dates):
        seen.append(list(dates))
        return type(reader).read(reader, y, x, h, w, dates)

    monkeypatch.setattr(reader, "read", read)
    got = source.read(np.array([0, 19]))["obs"]["s2_l1c"]
    assert seen == [[1, 2], [0, 1]]
    whole = CubeSource(cube_path, config.inputs, TARGET, table).read(np.array([0, 19]))["obs"]
    np.testing.assert_array_equal(got["pixels"][0], whole["s2_l1c"]["pixels"][0, 1:])


def test_processes_agree_on_the_length(ragged, processor):
    whole = take(start(ragged, processor, batch_size=4), 10)
    parts = [
        take(start(ragged, processor, batch_size=4, rows=[2 * p, 2 * p + 1]), 10) for p in (0, 1)
    ]
    for batch, a, b in zip(whole, *parts, strict=True):
        joined = [np.concatenate(pair) for pair in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
        for x, y in zip(jax.tree.leaves(batch), joined, strict=True):
            np.testing.assert_array_equal(x, y)
