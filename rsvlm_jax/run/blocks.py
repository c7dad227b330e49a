"""Finished blocks of a grid in a directory: what makes work over a whole cube restartable.

The grid is cut into blocks. A block is one idempotent task and one file, which appears whole; a
restart finds the files of finished blocks, tests their digests, and computes only the others. It
knows nothing of what a block is made of: `tiles` blends windows into it, `trend` the series of its
pixels.

    store = Blocks(out, (height, width), block=256, what={"key": ...})
    store.fill(fn, scheduler="here")          fn((y0, x0, y1, x1)) -> {name: [h w]}
    store.layer("slope")[0:256]               rows of the mosaic, read when they are asked for
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_zarr.ingest import schedule
from rsvlm_jax.config import ConfigError

from .rundir import write_atomic

Box = tuple[int, int, int, int]
"""(y0, x0, y1, x1): rows y0 ... y1 - 1, columns x0 ... x1 - 1."""

BlockFn = Callable[[Box], Mapping[str, np.ndarray]]
"""The values of a block: {variable: [h, w]}, of types that do not change from block to block."""


class Blocks:
    """The blocks of a grid; pickles as a path, so that processes may share the work.

    Attributes:
      boxes: of all blocks, row by row.

    Raises:
      ConfigError: impossible block; `out` cannot be written, or holds blocks of something else.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        shape: tuple[int, int],
        *,
        block: int,
        what: Mapping[str, object],
    ) -> None:
        if block < 1:
            raise ConfigError("impossible block", where="tiles", expected=">= 1 pixel", found=block)
        self.out, self.shape, self.block = Path(out), shape, block
        claim = {**what, "shape": list(shape), "block": block}
        self._whose = json.dumps(claim, sort_keys=True)
        _claim(self.out, claim)
        height, width = shape
        self.boxes: list[Box] = [
            (y, x, min(y + block, height), min(x + block, width))
            for y in range(0, height, block)
            for x in range(0, width, block)
        ]

    def file(self, box: Box) -> Path:
        """Where a block lies, or will."""
        return self.out / f"block_{box[0]}_{box[1]}.npz"

    def load(self, box: Box) -> dict[str, np.ndarray] | None:
        """A finished block; None when it is missing, torn or of another computation."""
        try:
            with np.load(self.file(box), allow_pickle=False) as f:
                values = {k: f[k] for k in f.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None
        digest = str(values.pop("_digest", ""))
        return values if digest == _digest(values, self._whose) else None

    def save(self, box: Box, values: Mapping[str, np.ndarray]) -> None:
        """Keeps a block; ConfigError where it cannot be written."""
        file = self.file(box)
        tmp = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.npz")
        digest = _digest(values, self._whose)
        try:
            np.savez(tmp, _digest=np.array(digest), **values)  # type: ignore[arg-type]
            tmp.replace(file)
        except OSError as e:
            with contextlib.suppress(OSError):
                tmp.unlink()
            raise ConfigError(
                f"cannot write the output ({e.strerror})",
                where=file,
                remedy="free space or rights and run again: finished blocks are kept",
            ) from e

    def missing(self) -> list[Box]:
        """Boxes of blocks that are not there, or torn."""
        return [box for box in self.boxes if self.load(box) is None]

    def fill(
        self,
        fn: BlockFn,
        *,
        scheduler: str = "here",
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        tasks: Sequence[Box] | None = None,
    ) -> int:
        """Computes what is missing; how many blocks that were.

        Args:
          tasks: what `missing` has said, where it is known.
          scheduler: "here" (one after the other, in this thread), "threads", "processes" (a local
            dask cluster), or the address of a dask cluster, whose workers see the same files.
          progress: called with (finished blocks, all blocks).

        Raises:
          What `fn` raises; finished blocks stay. CubeError: no such scheduler, or no answer.
        """
        tasks, total = self.missing() if tasks is None else tasks, len(self.boxes)
        found = total - len(tasks)
        say = (lambda done, _: progress(found + done, total)) if progress else None
        if scheduler == "here":
            for done, box in enumerate(tasks, 1):
                self.save(box, fn(box))
                if say is not None:
                    say(done, total)
        elif tasks:
            schedule.run(_Task(self, fn), tasks, scheduler=scheduler, workers=workers, progress=say)
        if not tasks and progress is not None:
            progress(total, total)
        return len(tasks)

    def layer(self, name: str) -> Layer:
        """A variable of finished blocks; KeyError where the first block has none of this name."""
        with np.load(self.file(self.boxes[0]), allow_pickle=False) as f:
            return Layer(self, name, f[name].dtype)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A variable of all blocks, [height, width], of which rows are read when asked for."""

    store: Blocks
    name: str
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.store.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        out = np.empty((max(stop - start, 0), self.shape[1]), self.dtype)
        for box in self.store.boxes:
            y0, x0, y1, x1 = box
            top, bottom = max(y0, start), min(y1, stop)
            if top < bottom:
                with np.load(self.store.file(box), allow_pickle=False) as f:
                    out[top - start : bottom - start, x0:x1] = f[self.name][top - y0 : bottom - y0]
        return out


@dataclasses.dataclass(frozen=True)
class _Task:
    """One block, as what a worker is sent."""

    store: Blocks
    fn: BlockFn

    def __call__(self, box: Box) -> None:
        self.store.save(box, self.fn(box))


def _claim(out: Path, what: Mapping[str, object]) -> None:
    """Say whose blocks these are; a directory without blocks is anybody's."""
    file = out / "tiles.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not any(out.glob("block_*.npz")):
            write_atomic(file, json.dumps(what, sort_keys=True))
        known = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    except OSError as e:
        raise ConfigError(
            f"cannot write the output ({e.strerror})", where=out, remedy="choose another --out"
        ) from e
    differ = [k for k in what if known.get(k) != what[k]]
    if differ:
        raise ConfigError(
            "the output directory holds blocks of another computation",
            where=out,
            expected=", ".join(f"{k} {_short(what[k])}" for k in differ),
            found=", ".join(_short(known.get(k)) for k in differ),
            remedy="delete it, or choose another --out",
        )


def _short(value: object) -> str:
    """Digests by their first digits."""
    words = str(value).split()
    shown = " ".join(w[:12] for w in words[:3])
    return shown + (" ..." if len(words) > 3 else "")


def _digest(values: Mapping[str, np.ndarray], whose: str) -> str:
    h = hashlib.sha256(whose.encode())
    for name in sorted(values):
        h.update(name.encode())
        h.update(np.ascontiguousarray(values[name]).tobytes())
    return h.hexdigest()
