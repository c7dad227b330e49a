"""The whole-cube engine: run a function over overlapping windows, blend, restart where it stopped.

The output grid is cut into blocks. A block is one idempotent task: it evaluates every window that
touches it, blends their values with fixed weights and writes one file. A restart finds the files
of finished blocks and computes only the others; since windows lie at fixed places and a block sums
them in a fixed order, an interrupted and an unbroken run give the same bytes. Windows across a
block's edge are evaluated once for each block that they touch: that is the price of independence.

           block                     window (tile x tile), every `tile - overlap` pixels
    +----------------+
    |   +----+       |     value(p) = sum_w weight_w(p) f(w) / sum_w weight_w(p)
    | +-|--+ |       |
    | | +--|-+       |     "linear": the weight falls linearly from a window's centre
    | +----+         |     "flat":   every window counts the same
    +----------------+
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from data_zarr.sampling import WindowTable
from rsvlm_jax.config import ConfigError, DataError

from .rundir import write_atomic

WindowFn = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""(y int64[n], x int64[n]) -> {variable: float [n]}: one value a window."""


@dataclasses.dataclass(frozen=True)
class TilesReport:
    """What a call did: blocks in all, blocks computed now, windows evaluated now."""

    blocks: int
    computed: int
    windows: int


def window_starts(extent: int, tile: int, step: int) -> np.ndarray:
    """First pixels of the windows along an axis: every `step`, the last one flush with the end."""
    starts = np.arange(0, extent - tile + 1, step)
    return starts if starts[-1] == extent - tile else np.append(starts, extent - tile)


def blend_weights(tile: int, blend: Literal["linear", "flat"]) -> np.ndarray:
    """float64 [tile, tile], positive everywhere so that every pixel has an answer."""
    if blend == "flat":
        return np.ones((tile, tile))
    ramp = (tile + 1) / 2 - np.abs(np.arange(tile) - (tile - 1) / 2)
    return np.outer(ramp, ramp)


def tiles(
    shape: tuple[int, int],
    fn: WindowFn,
    out: str | os.PathLike,
    *,
    key: str,
    tile: int,
    overlap: int,
    windows: tuple[np.ndarray, np.ndarray] | None = None,
    blend: Literal["linear", "flat"] = "linear",
    block: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, np.ndarray], TilesReport]:
    """Evaluate `fn` over a grid and blend.

    Args:
      shape: (height, width) of the grid in pixels.
      fn: one value a window for each variable; called once a block that has windows.
      out: directory of the finished blocks; kept until the caller removes it.
      key: identifies what is computed (model, cube, options); blocks of another key are refused.
      tile, overlap: window edge and shared pixels of neighbours.
      windows: upper left pixels (y, x) [n] instead of the raster that `overlap` gives.
      block: edge of an output block in pixels.
      progress: called with (finished blocks, all blocks).

    Returns:
      {variable: float32 [height, width]}, NaN where no window lies, and a report.

    Raises:
      DataError: a window larger than the grid. ConfigError: `out` belongs to another computation.
    """
    height, width = shape
    if tile > min(shape):
        raise DataError(
            "the window is larger than the cube",
            where="tiles",
            expected=f"<= {min(shape)} pixels",
            found=tile,
            remedy="train with a smaller window",
        )
    if not 0 <= overlap < tile:
        raise ConfigError(
            "impossible overlap", where="tiles", expected=f"0 .. {tile - 1}", found=overlap
        )
    if block < 1:
        raise ConfigError("impossible block", where="tiles", expected=">= 1 pixel", found=block)
    out = Path(out)
    ys, xs = (window_starts(n, tile, tile - overlap) for n in shape)
    _claim(
        out,
        {
            "key": key,
            "shape": list(shape),
            "tile": tile,
            "overlap": overlap,
            "windows": None if windows is None else WindowTable(*windows, tile).digest(),
            "blend": blend,
            "block": block,
        },
    )
    weights = blend_weights(tile, blend)
    corners = [(y, x) for y in range(0, height, block) for x in range(0, width, block)]
    result: dict[str, np.ndarray] = {}
    computed = evaluated = 0
    for done, (y0, x0) in enumerate(corners):
        y1, x1 = min(y0 + block, height), min(x0 + block, width)
        file = out / f"block_{y0}_{x0}.npz"
        values = _load(file)
        if values is None:
            if windows is None:
                near_y = ys[(ys < y1) & (ys + tile > y0)]
                near_x = xs[(xs < x1) & (xs + tile > x0)]
                y, x = (a.ravel() for a in np.meshgrid(near_y, near_x, indexing="ij"))
            else:
                y, x = windows
                here = (y < y1) & (y + tile > y0) & (x < x1) & (x + tile > x0)
                y, x = y[here], x[here]
            values = _blend(fn(y, x), y, x, (y0, x0, y1, x1), weights) if len(y) else {}
            _save(file, values)
            computed, evaluated = computed + 1, evaluated + len(y)
        for name, v in values.items():
            if name not in result:
                result[name] = np.full(shape, np.nan, np.float32)
            result[name][y0:y1, x0:x1] = v
        if progress is not None:
            progress(done + 1, len(corners))
    return result, TilesReport(len(corners), computed, evaluated)


def _blend(
    values: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    box: tuple[int, int, int, int],
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    y0, x0, y1, x1 = box
    tile = len(weights)
    total = np.zeros((y1 - y0, x1 - x0))
    sums = {name: np.zeros_like(total) for name in values}
    for i in range(len(y)):
        top, left = max(y[i], y0), max(x[i], x0)
        bottom, right = min(y[i] + tile, y1), min(x[i] + tile, x1)
        w = weights[top - y[i] : bottom - y[i], left - x[i] : right - x[i]]
        at = np.s_[top - y0 : bottom - y0, left - x0 : right - x0]
        total[at] += w
        for name, v in values.items():
            sums[name][at] += w * float(v[i])
    total[total == 0] = np.nan  # no window lies there
    return {name: (s / total).astype(np.float32) for name, s in sums.items()}


def _claim(out: Path, what: dict[str, object]) -> None:
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


def _save(file: Path, values: dict[str, np.ndarray]) -> None:
    tmp = file.with_name(f".{file.name}.{os.getpid()}.npz")
    digest = _digest(values)
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


def _load(file: Path) -> dict[str, np.ndarray] | None:
    """A finished block; None when it is missing or torn, so that it is computed again."""
    try:
        with np.load(file, allow_pickle=False) as f:
            values = {k: f[k] for k in f.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    digest = str(values.pop("_digest", ""))
    return values if digest == _digest(values) else None


def _digest(values: dict[str, np.ndarray]) -> str:
    h = hashlib.sha256()
    for name in sorted(values):
        h.update(name.encode())
        h.update(np.ascontiguousarray(values[name]).tobytes())
    return h.hexdigest()
