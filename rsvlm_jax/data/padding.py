"""Rows of conversations side by side: one `Batch`, each padded by itself. No packing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.config.check import one_of

from .batch import Batch, Images
from .pieces import Row


def pad_rows(
    rows: Sequence[Row],
    images: Sequence[Sequence[np.ndarray]],
    *,
    image_token: int | None,
    size: int,
    side: str,
    length: int | None,
) -> Batch:
    """Arguments and errors as `ChatProcessor.batch`.

    Args:
      image_token: id of the placeholder; 0 stands in its place in the batch.
      size: S, of the images.
    """
    one_of(side, ("right", "left"), "batch.side")
    if not rows:
        raise DataError("a batch without rows", where="batch", expected="one or more")
    images = images or [[] for _ in rows]
    counts = [row.images for row in rows]
    if [len(x) for x in images] != counts:
        raise DataError(
            "the placeholders are not those of the images", where="batch",
            expected=f"images of each row {counts}", found=[len(x) for x in images],
        )  # fmt: skip
    n = np.array([len(row.ids) for row in rows])
    length = int(n.max()) if length is None else length
    if n.max() > length:
        raise DataError(
            "a row longer than the batch", where=f"row {int(n.argmax())}",
            expected=f"<= {length} tokens", found=int(n.max()),
        )  # fmt: skip
    b, column = len(rows), np.arange(length)
    first = (length - n if side == "left" else np.zeros_like(n))[:, None]
    valid = (column >= first) & (column < first + n[:, None])
    ids, weight = np.zeros((b, length), np.int64), np.zeros((b, length), np.float32)
    ids[valid] = [i for row in rows for i in row.ids]
    weight[valid] = [w for row in rows for w in row.weight]
    visual = valid & (ids == (-1 if image_token is None else image_token))
    return Batch(
        obs={},
        tokens=np.where(visual, 0, ids).astype(np.int32),
        segment=valid.astype(np.int32),
        position=np.where(valid, column - first, 0).astype(np.int32),
        weight=weight,
        image_slot=np.where(visual, np.cumsum(visual, axis=1) - 1, -1).astype(np.int32),
        target=np.zeros((b, 0), np.float32),
        target_valid=np.zeros((b, 0), bool),
        sample=np.arange(b, dtype=np.int32),
        images=_images(images, size),
    )


def _images(images: Sequence[Sequence[np.ndarray]], size: int) -> Images | None:
    flat = [x for row in images for x in row]
    for x in flat:
        if x.shape != (size, size, 3):
            raise DataError(
                "not an image of `pixels`", where="batch.images", expected=f"[{size},{size},3]",
                found=x.shape,
            )  # fmt: skip
    if not flat:
        return None
    counts = np.array([len(row) for row in images])
    first, index = np.cumsum(counts) - counts, np.arange(counts.max())
    of = np.where(index < counts[:, None], first[:, None] + index, -1).astype(np.int32)
    return Images(np.stack(flat).astype(np.float32), of)
