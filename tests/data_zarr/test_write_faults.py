"""Writing when something goes wrong: a full disk, two writers of one shard, misaligned chunks."""

from __future__ import annotations

import errno
import multiprocessing
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from small_cube import HEIGHT, SHARD, WIDTH, Small, create

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError, OutputError
from data_zarr.write import CubeWriter


def finish(path: Path, small: Small) -> None:
    """Writes what is not done yet, and closes."""
    with create(path) as writer:
        for y, x in writer.regions():
            part = (..., slice(y, y + SHARD), slice(x, x + SHARD))
            if not writer.done("s2_l1c", y, x):
                writer.write("s2_l1c", y, x, small.pixels[part], small.valid[part])
            if not writer.done("s1_db", y, x):
                writer.write("s1_db", y, x, small.radar[part])
            if not writer.done("agb", y, x):
                writer.write_target("agb", y, x, small.target[part])


def one(writer: CubeWriter, small: Small, y: int, x: int) -> None:
    part = (..., slice(y, y + SHARD), slice(x, x + SHARD))
    writer.write("s2_l1c", y, x, small.pixels[part], small.valid[part])


def _on_a_small_disk(path: Path, small: Small, limit: int, queue: Any) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    writer = CubeWriter(path)
    try:
        one(writer, small, 64, 0)  # the lower left shard is the smaller one
        one(writer, small, 0, 0)
    except OutputError as error:
        queue.put(str(error))
    else:
        queue.put("written")


def test_a_file_that_the_disk_does_not_take(tmp_path: Path, intact: Small) -> None:
    """The limit of the kernel stands for the full disk: the first shard fits, the second not."""
    path = tmp_path / "c.zarr"
    create(path)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_on_a_small_disk, args=(path, intact, 250_000, queue))
    child.start()
    line = queue.get(timeout=60)
    child.join()
    assert line.startswith(f"cannot write the cube in {path}: s2_l1c; found File too large; free")
    writer = create(path)
    assert writer.done("s2_l1c", 64, 0)
    assert not writer.done("s2_l1c", 0, 0)
    finish(path, intact)
    assert open_cube(path).digest() == open_cube(intact.path).digest()


def test_a_full_disk(tmp_path: Path, intact: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.storage import LocalStore

    path = tmp_path / "c.zarr"
    one(create(path), intact, 0, 0)
    whole, asked = LocalStore.set, []

    async def full(self: LocalStore, key: str, value: Any) -> None:
        asked.append(key)
        if "valid" in str(self.root) or "valid" in key:
            raise OSError(errno.ENOSPC, "No space left on device")
        await whole(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", full)
        with pytest.raises(
            OutputError, match="found No space left on device; free space"
        ) as caught:
            one(create(path), intact, 0, 64)
    assert caught.value.exit_code == 2
    assert asked
    again = create(path)
    assert [again.done("s2_l1c", *p) for p in ((0, 0), (0, 64))] == [True, False]
    finish(path, intact)
    assert open_cube(path).digest() == open_cube(intact.path).digest()


def test_a_killed_writer_leaves_no_stray_files(tmp_path: Path, intact: Small) -> None:
    path = tmp_path / "c.zarr"
    create(path)
    stray = path / "s2_l1c/pixels/c/0/0/0/.0123456789abcdef.partial"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half a shard")
    finish(path, intact)
    assert not stray.exists()
    assert open_cube(path).digest() == open_cube(intact.path).digest()


def test_two_writers_of_one_shard(
    tmp_path: Path, intact: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused while the first is at work, and may write when it is done."""
    import threading

    import data_zarr.writer as module

    path = tmp_path / "c.zarr"
    writer = create(path)
    begun, go = threading.Event(), threading.Event()
    whole = module.digest_file

    def slow(file: Path) -> Any:
        begun.set()
        assert go.wait(30)
        return whole(file)

    monkeypatch.setattr(module, "digest_file", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(one, writer, intact, 0, 0)
        assert begun.wait(30)
        with pytest.raises(
            CubeError, match=r"a shard is being written .*found shard\.s2_l1c\.0\.0"
        ):
            one(CubeWriter(path), intact, 0, 0)
        go.set()
        first.result()
    one(CubeWriter(path), intact, 0, 0)
    finish(path, intact)
    assert open_cube(path).digest() == open_cube(intact.path).digest()


@pytest.mark.parametrize("chunk", [SHARD, 16, 33])
def test_dask_chunks_of_any_size_lose_nothing(tmp_path: Path, intact: Small, chunk: int) -> None:
    """Chunks that cross shards: xarray's own region writes lose data without a word."""
    path = tmp_path / "c.zarr"
    writer = create(path)
    pixels = da.from_array(intact.pixels, chunks=(1, 13, chunk, chunk))
    valid = da.from_array(intact.valid, chunks=(3, chunk, chunk))
    tasks = writer.write_dask("s2_l1c", pixels, valid)
    assert len(tasks) == len(list(writer.regions("s2_l1c"))) == 4
    dask.compute(tasks, scheduler="threads", num_workers=4)
    assert writer.write_dask("s2_l1c", pixels, valid) == []
    finish(path, intact)
    assert open_cube(path).digest() == open_cube(intact.path).digest()


def test_a_dask_array_that_does_not_fit(tmp_path: Path) -> None:
    writer = create(tmp_path / "c.zarr")
    wrong = da.zeros((3, 13, HEIGHT, WIDTH), dtype=np.float32)
    with pytest.raises(CubeError, match=r"pixels do not fit .* expected int16 .* found float32"):
        writer.write_dask("s2_l1c", wrong)
    with pytest.raises(CubeError, match="mask does not fit"):
        writer.write_dask("s2_l1c", wrong.astype(np.int16), da.zeros((3, 2, 2), dtype=bool))
    with pytest.raises(CubeError, match="no such band set"):
        writer.write_dask("s3", wrong)
