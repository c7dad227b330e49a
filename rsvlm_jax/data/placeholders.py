"""Where the images of a batch of prompts go, counted on the host.

A processor writes an image as one placeholder for each of its P' visual tokens. Here P' is 2, the
placeholder's id is 9, and the batch has three images::

    ids    1  9  9  4  9  9  5          slot  -1  0  1 -1  2  3 -1          of   0  1
           0  0  0  1  6  7  5                -1 -1 -1 -1 -1 -1 -1              -1 -1
           0  1  9  9  3  4  5                -1 -1  0  1 -1 -1 -1               2 -1

`slot` counts the visual tokens of its own prompt, `of` says which of the batch's images these are.
Nothing here knows a tokenizer or pixels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.core.shapes import Bool, Int

from .ids import check_ids


@dataclasses.dataclass(frozen=True)
class Prompts:
    """A batch of prompts as the model reads them.

    Attributes:
      tokens: 0 at padding and at placeholders.
      valid: False at padding.
      image_slot: as `Batch.image_slot`.
      image_of: as `Images.of`.
    """

    tokens: Int[np.ndarray, "B L"]
    valid: Bool[np.ndarray, "B L"]
    image_slot: Int[np.ndarray, "B L"]
    image_of: Int[np.ndarray, "B I"]


def place_images(
    input_ids: Any,
    attention_mask: Any = None,
    *,
    vocabulary: int,
    images: int = 0,
    image_token: int | None = None,
    per_image: int = 1,
) -> Prompts:
    """Read a tokenizer's output.

    Args:
      input_ids: [B,L] integers; images stand in the order of the text, prompt after prompt.
      attention_mask: [B,L], 0 at padding, on any side; None: there is none.
      vocabulary: rows of the embedding table.
      images: F, images of the batch.
      image_token: id of the placeholder; None for a model that reads text alone.
      per_image: P', visual tokens of an image.

    Raises:
      DataError: arrays of another form, a prompt of padding alone, ids outside the vocabulary, or
        placeholders that are not those of the images.
    """
    ids = _integers(input_ids, "input_ids")
    if attention_mask is None:
        valid = np.ones(ids.shape, bool)
    else:
        valid = _integers(attention_mask, "attention_mask") != 0
        if valid.shape != ids.shape:
            raise DataError(
                "not the mask of these prompts", where="attention_mask",
                expected=f"shape {ids.shape}", found=valid.shape,
            )  # fmt: skip
    empty = np.flatnonzero(~valid.any(axis=1))
    if len(empty):
        raise DataError("a prompt without a token", where=f"attention_mask[{empty[0]}]")
    placeholder = np.zeros(ids.shape, bool) if image_token is None else ids == image_token
    text = valid & ~placeholder
    # First: LLaVA's -200 is the reason why placeholders are lacking.
    check_ids(
        np.where(text, ids, 0), vocabulary, "input_ids", remedy=_instead(image_token, per_image)
    )
    slot, of = _slots(placeholder, images, per_image, image_token)
    return Prompts(
        tokens=np.where(text, ids, 0).astype(np.int32),
        valid=valid,
        image_slot=np.where(valid, slot, -1).astype(np.int32),
        image_of=of,
    )


def _slots(
    placeholder: np.ndarray, images: int, per_image: int, image_token: int | None
) -> tuple[np.ndarray, np.ndarray]:
    count = placeholder.sum(axis=1)
    whole, rest = np.divmod(count, per_image)
    if count.sum() != images * per_image or rest.any():
        bad = np.flatnonzero(rest)
        prompt = int(bad[0]) if len(bad) and len(count) > 1 else None
        found = int(count.sum() if prompt is None else count[prompt])
        raise DataError(
            "the placeholders are not those of the images",
            where="input_ids" if prompt is None else f"input_ids[{prompt}]",
            expected=f"{per_image} for each image",
            found=f"{many(found, 'placeholder')}"
            + (f" and {many(images, 'image')}" if prompt is None else ""),
            remedy=_instead(image_token, per_image),
        )
    first = np.cumsum(whole) - whole
    index = np.arange(whole.max(initial=0))[None, :]
    of = np.where(index < whole[:, None], first[:, None] + index, -1).astype(np.int32)
    return np.where(placeholder, np.cumsum(placeholder, axis=1) - 1, -1), of


def _instead(image_token: int | None, per_image: int) -> str | None:
    if image_token is None:
        return None
    return f"write an image as {per_image} times the id {image_token}, as its processor does"


def many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _integers(x: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(x)
    except ValueError:  # rows of different lengths
        array = np.empty((0,), object)
    if array.ndim != 2 or array.dtype.kind not in "iub" or not array.size:
        raise DataError(
            "not a batch of prompts", where=where, expected="[B,L] integers, padded to one length",
            found=f"shape {array.shape}, {array.dtype}",
        )  # fmt: skip
    return array.astype(np.int64)
