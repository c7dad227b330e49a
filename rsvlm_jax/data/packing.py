"""Several conversations in one row, told apart by their segment, and rows as arrays.

    first_fit(lengths, L)  -> the row of each conversation
    lay_out(rows, L, ...)  -> tokens, segment, position, weight, image_slot [B,L], images of a row

A token reads its own segment alone and counts its position from the segment's beginning, so a
conversation has the loss that it has in a row of its own. Nothing here knows a tokenizer or pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.core.shapes import Float, Int

from .pieces import Row
from .placeholders import place_images


@dataclasses.dataclass(frozen=True)
class Laid:
    """Rows as `Batch` has them.

    Attributes:
      images: of each row.
    """

    tokens: Int[np.ndarray, "B L"]
    segment: Int[np.ndarray, "B L"]
    position: Int[np.ndarray, "B L"]
    weight: Float[np.ndarray, "B L"]
    image_slot: Int[np.ndarray, "B L"]
    images: Int[np.ndarray, " B"]


def first_fit(lengths: Int[np.ndarray, " n"], capacity: int) -> Int[np.ndarray, " n"]:
    """The row of each conversation: the longest first, each into the first row with room.

    (First-fit decreasing: at most 11/9 of the fewest rows, and 6/9 of one; Dosa 2007.) Rows are
    numbered by their first conversation, so that their order stays that of the conversations.
    Worked example, rows of 10:

        length    4 8 3 6 2        row    0 1 2 0 1

    Args:
      lengths: 1 .. capacity.
    """
    low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (1, 1)
    if not 0 < low <= high <= capacity:
        raise DataError(
            "a conversation that fits no row", where="first_fit",
            expected=f"1 .. {capacity} tokens", found=f"{low} .. {high}",
        )  # fmt: skip
    n = len(lengths)
    room = np.full(n, capacity, np.int64)
    row = np.empty(n, np.int64)
    used = 0
    for i in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[i])
        at = int((room[: used + 1] >= size).argmax())  # row `used` is empty
        room[at] -= size
        used = max(used, at + 1)
        row[i] = at
    first = np.full(used, n, np.int64)
    np.minimum.at(first, row, np.arange(n))
    return np.argsort(np.argsort(first, kind="stable"), kind="stable")[row]


def lay_out(
    rows: Sequence[Sequence[Row]],
    length: int,
    *,
    vocabulary: int,
    image_token: int | None = None,
    per_image: int = 1,
) -> Laid:
    """Rows of one or more conversations as arrays, padded on the right.

    Two conversations in a row, the second with an image of two visual tokens (id 9)::

        tokens      1 5 6 1 0 0 7 0        segment     1 1 1 2 2 2 2 0
        position    0 1 2 0 1 2 3 0        image_slot  . . . . 0 1 . .

    Args:
      vocabulary, image_token, per_image: as in `place_images`.

    Raises:
      DataError: conversations that are longer than the row; ids outside the vocabulary;
        placeholders that are not those of the images.
    """
    b = len(rows)
    ids, segment, position = (np.zeros((b, length), np.int32) for _ in range(3))
    weight = np.zeros((b, length), np.float32)
    for r, row in enumerate(rows):
        at = 0
        for number, one in enumerate(row, 1):
            end = at + len(one.ids)
            if end > length:
                raise DataError(
                    "conversations longer than their row", where=f"row {r}",
                    expected=f"at most {length} tokens", found=sum(len(x.ids) for x in row),
                )  # fmt: skip
            ids[r, at:end] = one.ids
            segment[r, at:end] = number
            position[r, at:end] = np.arange(end - at)
            weight[r, at:end] = one.weight
            weight[r, at] = 0  # its left context would be the conversation before
            at = end
    images = np.array([sum(one.images for one in row) for row in rows], np.int32)
    prompts = place_images(
        ids,
        segment > 0,
        vocabulary=vocabulary,
        images=int(images.sum()),
        image_token=image_token,
        per_image=per_image,
    )
    if not np.array_equal((prompts.image_of >= 0).sum(axis=1), images):
        raise DataError(
            "the placeholders are not those of the images", where="lay_out",
            expected=f"images {images.tolist()}",
            found=(prompts.image_of >= 0).sum(axis=1).tolist(),
        )  # fmt: skip
    return Laid(prompts.tokens, segment, position, weight, prompts.image_slot, images)
