"""Worker processes, several processes, devices, memory: the same batches, and no hanging."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import itertools
import json
import os
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from data_zarr.sampling import window_table
from rsvlm_jax.config import ConfigError, DataError, MeshConfig, TargetConfig
from rsvlm_jax.data import (
    BadLog,
    BadSample,
    Batch,
    CubeSource,
    Mixture,
    eval_batches,
    read_bad,
    train_batches,
)
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.rules import batch_sharding

TARGET = TargetConfig("tree_cover")


def digest(batch: Batch) -> str:
    h = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        h.update(np.ascontiguousarray(leaf).tobytes())
    return h.hexdigest()


def start(source, processor, **changes):
    return train_batches(source, processor, **{"batch_size": 6, "seed": 3, "threads": 0, **changes})


def take(batches, n: int) -> list[str]:
    with batches:
        return [digest(b) for b in itertools.islice(batches, n)]


@pytest.fixture(scope="module")
def processor(make_processor):
    return make_processor("questions")


# ---- workers ------------------------------------------------------------------------------------


def test_workers_resume_with_any_number_of_workers(source, processor):
    whole = take(start(source, processor), 9)
    with start(source, processor, workers=2, threads=1) as first:
        assert [digest(next(first)) for _ in range(4)] == whole[:4]
        state = json.loads(json.dumps(first.get_state()))
    assert len(json.dumps(state)) < 1000
    for workers in (0, 1):
        again = start(source, processor, workers=workers)
        again.set_state(state)
        assert take(again, 5) == whole[4:]
    fresh = start(source, processor)
    with fresh:
        next(fresh)
        back = fresh.get_state()
    with start(source, processor, workers=2) as other:
        other.set_state(back)
        assert digest(next(other)) == whole[1]


class Dying(CubeSource):
    """A source whose process ends when it comes to a row."""

    def read(self, index, *args, **words):
        if 7 in self.rows[index]:
            os._exit(7)
        return super().read(index, *args, **words)


@pytest.mark.timeout(120)
def test_a_worker_that_dies_is_an_error_and_no_hang(cube_path, config, table, processor):
    source = Dying(cube_path, config.inputs, TARGET, table)
    begun = time.monotonic()
    match = r"a data worker died in batch \d; expected 2 workers that live; found .*exit code 7"
    with start(source, processor, workers=2) as batches, pytest.raises(DataError, match=match):
        list(itertools.islice(batches, 8))
    assert time.monotonic() - begun < 60


def test_bad_samples_of_workers_are_counted_and_logged_once(
    damaged, config, table, processor, tmp_path: Path
):
    file = tmp_path / "bad_samples.jsonl"
    for workers in (2, 0):
        source = CubeSource(damaged, config.inputs, TARGET, table)
        with start(source, processor, workers=workers, log=BadLog(file)) as batches:
            samples = np.concatenate([next(batches).sample for _ in range(10)])
        assert (samples < 0).sum() == 3
        assert list(source.bad) == [6]
        (bad,) = read_bad(file)
        assert (bad.sample, bad.cube, bad.window) == (6, str(damaged), (8, 16, 8))
        assert "s2_l1c/pixels/c/0/0/1/2" in bad.reason


def test_too_many_bad_samples_in_a_worker_stop_the_run(damaged, config, table, processor):
    hurt = CubeSource(damaged, config.inputs, TARGET, table, rows=np.arange(4, 9))
    match = r"too many windows cannot be read.*s2_l1c/pixels/c/0/0/1/2"
    with start(hurt, processor, workers=1) as batches, pytest.raises(DataError, match=match):
        list(itertools.islice(batches, 3))


def test_the_log_names_what_exceeded_the_budget(damaged, config, table, processor, tmp_path):
    hurt = CubeSource(damaged, config.inputs, TARGET, table, rows=np.arange(4, 9))
    log = BadLog(tmp_path / "bad.jsonl")
    with start(hurt, processor, log=log) as batches, pytest.raises(DataError):
        next(batches)
    assert [b.sample for b in read_bad(log.path)] == [6]


def test_a_torn_line_of_the_log_is_no_line(tmp_path: Path):
    log = BadLog(tmp_path / "bad.jsonl")
    log.write(BadSample(1, "a.zarr", (0, 0, 8), "x"))
    with open(log.path, "a") as file:
        file.write('{"sample": 2, "cu')
    assert [b.sample for b in read_bad(log.path)] == [1]


def test_a_log_that_cannot_be_written(tmp_path: Path):
    log = BadLog(tmp_path / "none" / "bad.jsonl")
    with pytest.raises(ConfigError, match=r"cannot write the list of bad samples \(No such file"):
        log.write(BadSample(1, "a.zarr", (0, 0, 8), "x"))


# ---- processes and devices ----------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3])
def test_processes_read_the_parts_of_every_batch(source, processor, parts: int):
    whole = start(source, processor)
    several = [start(source, processor, rows=r) for r in np.arange(6).reshape(parts, -1)]
    seen = []
    for _ in range(10):
        batch, pieces = next(whole), [next(b) for b in several]
        for leaf, *of in zip(*map(jax.tree.leaves, (batch, *pieces)), strict=True):
            np.testing.assert_array_equal(leaf, np.concatenate(of))
        seen.append(np.concatenate([p.sample for p in pieces]))
    epochs = np.concatenate(seen).reshape(3, 20)
    assert all(sorted(e.tolist()) == list(range(20)) for e in epochs)
    state = several[1].get_state()
    with start(source, processor) as alone:
        alone.set_state(state)
        assert digest(next(alone)) == digest(next(whole))


@pytest.mark.parametrize("rows", [None, [1, 3]])
def test_the_samples_of_a_whole_batch_are_known_by_its_place(source, processor, rows):
    mixture = Mixture((source, source), (2.0, 1.0))
    for given in (source, mixture):
        whole, own = start(given, processor), start(given, processor, rows=rows)
        with whole, own:
            for _ in range(4):
                place = own.get_state()
                next(own)
                drawn, found = next(whole).sample, own.samples(place)
                assert [s.sample for s in found] == (drawn % len(source.table)).tolist()
                assert {(s.cube, s.reason) for s in found} == {(source.path, "")}
                assert found[0].window == (
                    source.table.y[found[0].sample], source.table.x[found[0].sample], 8
                )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": [2, 6]},
        {"rows": [1, 0]},
        {"rows": []},
        {"batch_size": 0},
        {"threads": -1},
        {"blocks": 0},
    ],
)
def test_impossible_batches(source, processor, changes: dict):
    with pytest.raises(ConfigError, match="impossible batches in train_batches"):
        start(source, processor, **changes)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_placed_over_the_devices(source, processor, workers: int):
    sharding = batch_sharding(make_mesh(MeshConfig(data=2), jax.devices()[:2]))
    placed = start(source, processor, threads=2, prefetch=2, sharding=sharding, workers=workers)
    with placed:
        found = [next(placed) for _ in range(3)]
    for leaf in jax.tree.leaves(found):
        assert isinstance(leaf, jax.Array)
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert [digest(b) for b in found] == take(start(source, processor), 3)


# ---- memory -------------------------------------------------------------------------------------


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("crops", [0, 4])
def test_with_nobody_consuming_memory_stays_within_what_is_stated(
    cube_path, config, make_processor, crops: int
):
    table = window_table(40, 36, 32, 1)
    processor = make_processor()
    source = CubeSource(cube_path, config.inputs, TARGET, table, preload=False)
    batches = start(
        source, processor, batch_size=128, threads=2, crops=crops, blocks=4, augment=False
    )
    assert str(batches.buffers).startswith("buffers: 2 threads x 2 batches x 11")
    with batches:
        gc.collect()
        before = _resident()
        next(batches)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            time.sleep(0.2)
        grown = _resident() - before
    assert grown < batches.buffers.bytes + 30e6
    assert batches.buffers.bytes < 150e6


def test_buffers_are_stated_with_all_their_parts(source, processor):
    sizes = {}
    for name, changes in {
        "plain": {"threads": 2},
        "device": {"threads": 2, "prefetch": 3},
        "workers": {"threads": 1, "workers": 2},
        "blocks": {"threads": 2, "crops": 4},
        "half": {"threads": 2, "rows": [0, 1, 2]},
    }.items():
        sizes[name] = start(source, processor, **changes).buffers
    one = sizes["plain"].batch_bytes
    sample = 3 * 64 * (13 * 2 + 1) + 64 * (source.windows["dem"].sample_bytes(1) // 64)
    assert sizes["plain"].sample_bytes == sample
    assert sizes["plain"].bytes == 5 * one
    assert sizes["device"].bytes == 9 * one
    assert sizes["workers"].bytes == 9 * one
    assert sizes["half"].bytes * 2 == sizes["plain"].bytes
    assert "3 on the device" in str(sizes["device"])
    assert "2 workers x 1 threads" in str(sizes["workers"])
    mixed = Mixture((source, source), (1.0, 1.0))
    assert start(mixed, processor, threads=2).buffers == sizes["plain"]
    with eval_batches(source, processor, batch_size=6) as evaluation:
        assert evaluation.buffers == dataclasses.replace(sizes["plain"])
