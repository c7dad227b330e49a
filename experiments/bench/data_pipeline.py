"""The training pipeline on the bench's cube: wall time, memory, resume, processes, shuffle.

over_reader    256 windows as batches of 16 on the device, by two read threads, over the same
               windows by `Reader.read_many` from two bare threads that keep nothing
memory         growth of the resident set with nobody consuming, over what `Batches.buffers`
               states (both printed)
resume         batches that differ, bit by bit, after going on from any place
coverage       samples that N processes together see not once in an epoch
same_shard     pairs of one shard in a batch, over the expectation of a perfect shuffle
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data_zarr.cube import open_cube
from data_zarr.sampling import window_table
from rsvlm_jax.config import DataConfig, HeadConfig, InputConfig, nano
from rsvlm_jax.data import (
    Batches,
    CubeSource,
    CubeStream,
    Processor,
    TargetSpec,
    Tokenizer,
    bandset_specs,
    facts,
    train_batches,
)

from .data_cube import Stores
from .figure import Figure

EDGE, BATCH, THREADS = 64, 16, 2
INPUTS = (InputConfig("s2"),)


def figures(stores: Stores, rounds: int) -> Iterator[Figure]:
    """All but the memory."""
    source, processor = _opened(stores, EDGE)
    yield from _speed(source, processor, rounds + 4)
    yield from _resume(source, processor)
    yield from _coverage(source, processor)
    yield from _shuffle(source, _opened(stores, 16)[0])


def memory(stores: Stores) -> Iterator[Figure]:
    """In a process of its own with the heap as it is by default: it gives back what is free, so
    that the resident set shows what is held."""
    yield from _memory(*_opened(stores, EDGE))


def _opened(stores: Stores, stride: int) -> tuple[CubeSource, Processor]:
    cube = open_cube(stores.path("series_zstd"))
    table = window_table(stores.size, stores.size, EDGE, stride)
    return CubeSource(cube, INPUTS, None, table, preload=False), _processor(cube)


def _processor(cube: Any) -> Processor:
    specs = bandset_specs(cube, INPUTS)
    config = dataclasses.replace(nano(INPUTS), head=HeadConfig(reg_tokens=3))
    return Processor(
        config=config,
        data=DataConfig(window=EDGE),
        bandsets=specs,
        target=TargetSpec("none"),
        tokenizer=Tokenizer.shipped(),
        visual_tokens=config.temporal.budget or 64,
        facts=facts(cube, specs, EDGE),
    )


def _start(source: CubeSource, processor: Processor, **changes: Any) -> Batches:
    words = {"batch_size": BATCH, "seed": 0, "threads": THREADS, **changes}
    return train_batches(source, processor, **words)


def _speed(source: CubeSource, processor: Processor, rounds: int) -> Iterator[Figure]:
    import jax

    count = min(len(source), 256) // BATCH
    reader = source.windows["s2"].reader
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def bare(pool: ThreadPoolExecutor) -> None:
        def read(k: int) -> None:
            rows = np.arange(k * BATCH, (k + 1) * BATCH)
            reader.read_many(source.table.y[rows], source.table.x[rows], EDGE, EDGE)

        list(pool.map(read, range(count)))

    def piped(batches: Batches) -> None:
        for _ in range(count):
            jax.block_until_ready(next(batches))

    ratios: dict[str, list[float]] = {"plain": [], "augmented": []}
    rates: dict[str, list[float]] = {"bare": [], "plain": [], "augmented": []}
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(rounds + 1):
            found = {"bare": _seconds(lambda: bare(pool))}
            for name in ratios:
                words = {"augment": name == "augmented", "prefetch": 2, "sharding": sharding}
                with _start(source, processor, **words) as batches:
                    next(batches)
                    found[name] = _seconds(lambda batches=batches: piped(batches))
            if number:
                for name, seconds in found.items():
                    rates[name].append(count * BATCH / seconds)
                for name, values in ratios.items():
                    values.append(found["bare"] / found[name])
    for name, values in rates.items():
        yield Figure(f"data.pipeline.rate_{name}", statistics.median(values), "windows/s")
    plain, augmented = (statistics.median(r) for r in ratios.values())
    yield Figure("data.pipeline.over_reader", plain, "x", at_least=0.7)
    yield Figure("data.pipeline.over_reader_augmented", augmented, "x")


def _seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _memory(source: CubeSource, processor: Processor) -> Iterator[Figure]:
    with _start(source, processor, batch_size=1, prefetch=1) as batches:
        next(batches)  # imports, and what JAX takes for itself
    for name, words in (("windows", {}), ("blocks", {"crops": 4, "blocks": 8})):
        gc.collect()
        before = _resident()
        with _start(source, processor, prefetch=2, **words) as batches:
            held = [next(batches)]
            time.sleep(5)
            grown = _resident() - before
            stated = batches.buffers.bytes
        del held
        yield Figure(f"data.memory.stated_{name}", stated / 1e6, "MB")
        yield Figure(f"data.memory.grown_{name}", grown / 1e6, "MB")
        # A twentieth for the allocator and the threads themselves.
        yield Figure(f"data.memory.grown_over_stated_{name}", grown / stated, "-", at_most=1.05)


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _digests(batches: Batches, count: int) -> list[str]:
    import jax

    def digest(batch: Any) -> str:
        h = hashlib.sha256()
        for leaf in jax.tree.leaves(batch):
            h.update(np.ascontiguousarray(leaf).tobytes())
        return h.hexdigest()

    with batches:
        return [digest(b) for b in itertools.islice(batches, count)]


def _resume(source: CubeSource, processor: Processor) -> Iterator[Figure]:
    count = 8
    whole = _digests(_start(source, processor, threads=0), count)
    for workers, places in ((0, range(count)), (2, (1, 4, 7))):
        different = 0
        for k in places:
            with _start(source, processor, threads=1, workers=workers) as first:
                for _ in range(k if workers == 0 else 1):
                    next(first)
                state = {**first.get_state(), "next_index": k}
            again = _start(source, processor, threads=1, workers=workers)
            again.set_state(state)
            pairs = zip(_digests(again, count - k), whole[k:], strict=True)
            different += sum(a != b for a, b in pairs)
        yield Figure(f"data.resume.differ_{workers}_workers", different, "batches", at_most=0)


def _coverage(source: CubeSource, processor: Processor) -> Iterator[Figure]:
    n = len(source)
    for parts in (1, 2, 4):
        streams = [CubeStream(source, 0, BATCH) for _ in range(parts)]
        own = BATCH // parts
        seen = np.zeros(n, np.int64)
        for k in range(n // BATCH):
            for p, stream in enumerate(streams):
                first = k * BATCH + p * own
                np.add.at(seen, stream.rows(np.arange(first, first + own)), 1)
        wrong = int((seen != 1).sum())
        yield Figure(f"data.coverage.not_once_{parts}_processes", wrong, "samples", at_most=0)
    stream = CubeStream(source, 0, BATCH)
    one, two = stream.rows(np.arange(n)), stream.rows(np.arange(n, 2 * n))
    yield Figure("data.order.same_place_in_two_epochs", (one == two).mean(), "-", at_most=0.05)


def _shuffle(source: CubeSource, dense: CubeSource) -> Iterator[Figure]:
    for name, of, words in (
        ("windows", source, {}),
        ("overlapping_windows", dense, {}),
        ("blocks", dense, {"crops": 16, "blocks": 16}),
    ):
        stream = CubeStream(of, 0, BATCH, **words)
        shard = of.shard_of
        rows = stream.rows(np.arange(stream.length // BATCH * BATCH)).reshape(-1, BATCH)
        held = shard[rows]
        pairs = (held[:, :, None] == held[:, None, :]).sum((1, 2)) - BATCH
        found = pairs.sum() / (len(rows) * BATCH * (BATCH - 1))
        sizes = np.unique(shard[stream.rows(np.arange(stream.length))], return_counts=True)[1]
        perfect = (sizes * (sizes - 1)).sum() / (stream.length * (stream.length - 1))
        yield Figure(f"data.same_shard.{name}", found / perfect, "x", at_most=1.5)
