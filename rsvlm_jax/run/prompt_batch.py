"""What a processor yields, as models here read it: images channels last, prompts as a `Batch`."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.data.batch import Batch, Images
from rsvlm_jax.data.placeholders import Prompts


def channels_last(pixel_values: Any, size: int | None) -> np.ndarray:
    """Images as a processor yields them, as the towers read them.

    Args:
      pixel_values: [F,3,H,W], of NumPy, torch or lists.
      size: H and W that the model reads; None: any.

    Returns:
      f32 [F,H,W,3], contiguous.

    Raises:
      DataError: images of another form; complex numbers.
    """
    try:
        if hasattr(pixel_values, "is_complex"):  # torch's bfloat16 is unknown to NumPy
            whole = pixel_values.detach()
            pixel_values = whole if whole.is_complex() else whole.float()
        pixels = np.asarray(pixel_values)
        if pixels.dtype.kind == "c":
            raise DataError(
                "complex numbers are no image", where="pixel_values",
                expected="real numbers", found=pixels.dtype,
            )  # fmt: skip
        pixels = pixels.astype(np.float32)
    except (TypeError, ValueError):
        pixels = np.empty((0, 0, 0, 0), np.float32)
    wanted = "H" if size is None else size, "W" if size is None else size
    if (
        pixels.ndim != 4
        or pixels.shape[1] != 3
        or (size is not None and pixels.shape[2:] != (size, size))
    ):
        raise DataError(
            "not the images that the model reads", where="pixel_values",
            expected=f"[F, 3, {wanted[0]}, {wanted[1]}], channels first", found=pixels.shape,
        )  # fmt: skip
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def prompt_batch(prompts: Prompts, images: np.ndarray | None) -> Batch:
    """Prompts with their images [F,H,W,3] as a batch without targets. Positions count columns."""
    b, length = prompts.tokens.shape
    return Batch(
        obs={},
        tokens=prompts.tokens,
        segment=prompts.valid.astype(np.int32),
        position=np.broadcast_to(np.arange(length, dtype=np.int32), (b, length)),
        weight=np.zeros((b, length), np.float32),
        image_slot=prompts.image_slot,
        target=np.zeros((b, 0), np.float32),
        target_valid=np.zeros((b, 0), bool),
        sample=np.arange(b, dtype=np.int32),
        images=None if images is None else Images(images, prompts.image_of),
    )
