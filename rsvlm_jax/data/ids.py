"""Token ids that come from outside, checked on the host before any of them reaches an embedding."""

from __future__ import annotations

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.core.shapes import Int


def check_ids(
    ids: Int[np.ndarray, "*shape"], vocab_size: int, where: str, *, remedy: str | None = None
) -> None:
    """Refuse an id without a row in the embedding table.

    Looked up it would give NaN here, another row elsewhere: -200, LLaVA's own mark of an image,
    reads the 200th row from the end in NumPy's indexing.

    Args:
      vocab_size: rows of the table.
      where: the array, for the error.
      remedy: what to do about it.

    Raises:
      DataError: the first such id and its place.
    """
    outside = np.argwhere((ids < 0) | (ids >= vocab_size))
    if len(outside):
        at = tuple(int(i) for i in outside[0])
        raise DataError(
            "an id outside the vocabulary",
            where=f"{where}[{', '.join(map(str, at))}]" if at else where,
            expected=f"0 .. {vocab_size - 1}",
            found=int(ids[at]),
            remedy=remedy,
        )
