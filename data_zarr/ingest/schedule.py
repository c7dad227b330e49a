"""Running tasks: threads, local dask processes, or a dask cluster by its address.

Tasks are idempotent and independent. On dask a task whose worker died is given to another; a task
that failed for a passing reason (a share that did not answer) is tried again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_zarr.errors import CubeError

RETRIES = 3
CONNECT = "20s"


def run(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Runs `function` on every task; the first error ends it.

    Raises:
      CubeError: an unknown scheduler, or a cluster that does not answer.
    """
    count = workers or os.cpu_count() or 1
    if scheduler == "threads":
        done = _threads(function, tasks, count)
    elif scheduler == "processes" or "://" in scheduler:
        done = _dask(function, tasks, scheduler, count)
    else:
        raise CubeError(
            "no such scheduler",
            expected='"threads", "processes", or an address such as "tcp://host:8786"',
            found=repr(scheduler),
        )
    if progress:
        progress(0, len(tasks))
    # Closed by hand: an error of `progress` must not leave tasks running behind it.
    with contextlib.closing(done):
        for i, _ in enumerate(done, 1):
            if progress:
                progress(i, len(tasks))


def _threads(
    function: Callable[[Any], Any], tasks: Sequence[Any], count: int
) -> Generator[Any, None, None]:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _dask(
    function: Callable[[Any], Any], tasks: Sequence[Any], scheduler: str, count: int
) -> Generator[Any, None, None]:
    from distributed import Client, LocalCluster, as_completed

    if not tasks:
        return
    cluster = None
    if scheduler == "processes":
        cluster = LocalCluster(
            n_workers=min(count, len(tasks)),
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
        )
    try:
        try:
            client = Client(cluster or scheduler, timeout=CONNECT, set_as_default=False)
        except OSError as error:
            raise CubeError(
                "no dask scheduler answers",
                where=scheduler,
                found=str(error)[:120],
                remedy="start one with `dask scheduler`, and workers that see the same files",
            ) from error
        with client:
            futures = client.map(function, tasks, retries=RETRIES, pure=False)
            for _, result in as_completed(futures, loop=client.loop, with_results=True):
                yield result
    finally:
        if cluster is not None:
            cluster.close()


@contextlib.contextmanager
def alone(out: Path, what: str = "the cube is being built") -> Iterator[None]:
    """Holds a path while a cube is built there; CubeError where another run holds it.

    Two builds would lay out, list and clear one folder under each other's hands. The lock is the
    kernel's, on a file beside the cube: it goes with its process. Where no such file can be made
    there is none, and the build says itself what it cannot write.
    """
    path = out.absolute().with_name(f".{out.absolute().name}.lock")
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    except (ImportError, OSError):
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that ends removes its file: who waited at the old one holds nothing.
            held = path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks
            held = True
        if not held:
            raise CubeError(
                f"{what} by another run",
                where=out,
                expected="one run at a time",
                found=f"a lock on {path.name}",
                remedy="wait for its end, and run again: it goes on where that stopped",
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
