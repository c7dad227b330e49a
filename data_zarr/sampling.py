"""Which windows exist, what their target is, and in which order they are visited.

Everything is a pure function of its arguments: a table of windows is sorted and has a digest that
a checkpoint can keep, and the order of an epoch depends on (seed, epoch) alone, so a resumed run
sees the same samples. Nothing here reads pixels of a cube.

    target [H,W] --target_means(table)--> mean [n], valid_share [n]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from data_zarr.errors import CubeError


@dataclass(frozen=True, eq=False)
class WindowTable:
    """Square windows of one size, by their upper left pixel.

    Attributes:
      y, x: int64 [n], read-only.
      size: edge in pixels.
    """

    y: Int[np.ndarray, " n"]
    x: Int[np.ndarray, " n"]
    size: int

    def __post_init__(self) -> None:
        for name in ("y", "x"):
            column = np.array(getattr(self, name), np.int64)
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        if self.y.shape != self.x.shape or self.y.ndim != 1 or self.size < 1:
            raise CubeError(
                "not a table of windows",
                expected="y and x of one length, size >= 1",
                found=f"y {self.y.shape}, x {self.x.shape}, size {self.size}",
            )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def centre(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Row and column of the centre pixel (lower right of the four, for an even size)."""
        return self.y + self.size // 2, self.x + self.size // 2

    def take(self, rows: Shaped[np.ndarray, " m"]) -> WindowTable:
        """The rows given, by number or by a boolean mask."""
        return WindowTable(self.y[rows], self.x[rows], self.size)

    def digest(self) -> str:
        """SHA-256 over the size and all positions in order, the same on every machine."""
        h = hashlib.sha256(np.int64(self.size).astype("<i8").tobytes())
        h.update(self.y.astype("<i8").tobytes())
        h.update(self.x.astype("<i8").tobytes())
        return h.hexdigest()


def window_table(
    height: int,
    width: int,
    size: int,
    stride: int,
    *,
    keep: Bool[np.ndarray, "H W"] | None = None,
) -> WindowTable:
    """All windows on a regular raster that lie wholly inside, sorted by row and column.

    Args:
      height, width: of the cube, in pixels.
      size, stride: edge and distance of windows, in pixels.
      keep: a window stays only if `keep` is True on all of its pixels.

    Raises:
      CubeError: a size or stride below 1, or a window larger than the cube.
    """
    if size < 1 or stride < 1:
        raise CubeError(
            "impossible windows", expected="size >= 1, stride >= 1", found=f"{size}, {stride}"
        )
    if size > height or size > width:
        raise CubeError(
            "a window is larger than the cube",
            expected=f"at most {min(height, width)} pixels",
            found=f"{size} pixels on a cube of {height} x {width}",
            remedy="choose a smaller window",
        )
    y, x = np.meshgrid(
        np.arange(0, height - size + 1, stride),
        np.arange(0, width - size + 1, stride),
        indexing="ij",
    )
    table = WindowTable(y.ravel(), x.ravel(), size)
    if keep is None:
        return table
    if keep.shape != (height, width):
        raise CubeError(
            "`keep` is of another shape", expected=(height, width), found=tuple(keep.shape)
        )
    dropped = box_sums(integral(~keep), table.y, table.x, size, size)
    return table.take(dropped == 0)


def integral(values: Shaped[np.ndarray, "H W"]) -> Shaped[np.ndarray, "H1 W1"]:
    """Sums over all pixels above and left of a corner, [H+1, W+1]; int64 or float64."""
    kind = np.float64 if np.issubdtype(values.dtype, np.floating) else np.int64
    out = np.zeros((values.shape[0] + 1, values.shape[1] + 1), kind)
    out[1:, 1:] = np.cumsum(np.cumsum(values, axis=0, dtype=kind), axis=1)
    return out


def box_sums(
    corners: Shaped[np.ndarray, "H1 W1"],
    y: Int[np.ndarray, " n"],
    x: Int[np.ndarray, " n"],
    height: int,
    width: int,
) -> Shaped[np.ndarray, " n"]:
    """Sums over boxes from `integral`; the parts of a box outside the array count as zero."""
    rows, columns = corners.shape[0] - 1, corners.shape[1] - 1
    y0, y1 = np.clip(y, 0, rows), np.clip(y + height, 0, rows)
    x0, x1 = np.clip(x, 0, columns), np.clip(x + width, 0, columns)
    return corners[y1, x1] - corners[y0, x1] - corners[y1, x0] + corners[y0, x0]


def target_means(
    target: Float[np.ndarray, "H W"], table: WindowTable, min_valid: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The mean target of every window over its valid pixels.

    Args:
      target: NaN (or infinite) where there is none.
      table: windows inside the target.
      min_valid: least share of valid pixels, 0 to 1.

    Returns:
      mean: float64 [n], NaN where the share is below `min_valid` or zero.
      valid_share: float64 [n].

    Raises:
      CubeError: the target has no valid pixel, or `min_valid` is not a share.
    """
    if not 0 <= min_valid <= 1:
        raise CubeError("`min_valid` is a share", expected="0 .. 1", found=min_valid)
    valid = np.isfinite(target)
    if not valid.any():
        raise CubeError("the target has no valid pixel", expected="finite values", found="none")
    # Sums of deviations: an integral image of the values themselves would lose digits.
    centre = float(target[valid].mean(dtype=np.float64))
    deviation = np.where(valid, target.astype(np.float64) - centre, 0.0)
    size = table.size
    count = box_sums(integral(valid), table.y, table.x, size, size)
    total = box_sums(integral(deviation), table.y, table.x, size, size)
    share = count / float(size * size)
    enough = (count > 0) & (share >= min_valid)
    mean = np.where(enough, centre + total / np.maximum(count, 1), np.nan)
    return mean, share


def permutation(
    n: int,
    seed: int,
    epoch: int,
    *,
    chunk_of: Int[np.ndarray, " n"] | None = None,
    buffer: int = 4096,
) -> Int[np.ndarray, " n"]:
    """The order of one epoch, a function of (n, seed, epoch, chunk_of, buffer) and nothing else.

    With `chunk_of` the shuffle has two levels, so that a reader meets the stored chunks part by
    part: chunks come in random order and form runs of whole chunks that hold at least `buffer`
    rows. Inside a run the rows of a chunk come in random order, spread evenly over the run, so that
    a batch holds fewer neighbours than a shuffle of all rows would give it. Worked example,
    buffer 4:

        chunk_of   0 0 0 1 1 1 2 2 2
        chunks     2 0 1              (shuffled)
        runs       {6 7 8 0 1 2} {3 4 5}
        order      0 7 1 8 6 2   3 4 5

    The bits come from Philox raw output, whose stream NumPy guarantees across versions (that of
    `Generator.permutation` it does not).

    Args:
      n: rows.
      seed, epoch: not negative.
      chunk_of: the chunk that holds a row; None shuffles all rows together.
      buffer: rows held by a run; a larger one mixes better and reads chunks further apart.

    Returns:
      int64 [n], each of 0 .. n-1 once.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    if chunk_of is None:
        return _shuffle(bits, n)
    if len(chunk_of) != n or buffer < 1:
        raise CubeError(
            "impossible shuffle",
            expected=f"a chunk for each of {n} rows, buffer >= 1",
            found=f"{len(chunk_of)} rows, buffer {buffer}",
        )
    chunks, number = np.unique(chunk_of, return_inverse=True)
    rank = np.argsort(_shuffle(bits, len(chunks)))[number.reshape(-1)]
    by_chunk = np.argsort(rank, kind="stable")
    ends = np.cumsum(np.bincount(rank, minlength=len(chunks)))
    order, start = [], 0
    for end in ends:
        if end - start >= buffer or end == n:
            run = by_chunk[start:end]
            order.append(run[_spread(bits, rank[run])])
            start = int(end)
    return np.concatenate(order) if order else np.zeros(0, np.int64)


def _spread(bits: np.random.Philox, chunk: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """A random order in which rows of one chunk (chunks ascend) lie evenly far apart."""
    n = len(chunk)
    sizes = np.unique(chunk, return_counts=True)[1]
    place = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    within = np.lexsort((bits.random_raw(n), chunk))
    share = (place + (bits.random_raw(n) >> np.uint64(11)) * 2.0**-53) / np.repeat(sizes, sizes)
    return within[np.argsort(share, kind="stable")].astype(np.int64)


def _shuffle(bits: np.random.Philox, n: int) -> Int[np.ndarray, " n"]:
    return np.argsort(bits.random_raw(n), kind="stable").astype(np.int64)
