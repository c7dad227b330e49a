"""torch's `.bin`, `.pt`, `.pth` and `.ckpt` files, through its weights-only loader and no other.

That loader builds tensors and plain containers and refuses every other name in the pickle. torch is
imported here alone, and only when such a file is opened.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from rsvlm_jax.config import CheckpointError

from .rows import Lazy

NESTED = ("state_dict",)
"""Keys under which training scripts put the tensors (OpenCLIP, Lightning)."""


def load_pickle(path: Path) -> Mapping[str, Lazy]:
    """Tensors by name.

    Raises:
      CheckpointError: torch is not installed, or the file is damaged or holds more than tensors.
    """
    try:
        import torch
    except ImportError as e:
        raise CheckpointError(
            "torch is needed to read a pickle",
            where=path,
            remedy="pip install torch, or convert it",
        ) from e
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch advises on pickle protocols at some length
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever a damaged or hostile pickle makes the loader raise
        line = str(e).strip().splitlines()
        raise CheckpointError(
            "torch's weights-only loader refuses the file", where=path, expected="tensors only",
            found=f"{type(e).__name__}: {_reason(line)}",
        ) from e  # fmt: skip
    for key in NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise CheckpointError(
            "not a state dict", where=path, expected="tensors by name", found=type(found).__name__
        )
    strange = [str(k) for k, v in found.items() if not torch.is_tensor(v)]
    if strange:
        raise CheckpointError(
            "more than tensors", where=path, expected="tensors by name",
            found=", ".join(strange[:10]),
        )  # fmt: skip
    return {str(name): _array(torch, tensor, f"{path}: {name}") for name, tensor in found.items()}


def _array(torch: Any, tensor: Any, where: str) -> Lazy:
    try:
        tensor = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:  # which NumPy does not know
            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()
    except (TypeError, RuntimeError) as e:  # sparse, quantised, 8 bits, no data at all
        raise CheckpointError(
            "a tensor that is not read", where=where, expected="a dense one of NumPy's types",
            found=f"{tensor.dtype}, {tensor.layout}, on {tensor.device}",
        ) from e  # fmt: skip


def _reason(lines: list[str]) -> str:
    """The line of torch's long message that says what was refused."""
    for line in lines:
        if "GLOBAL" in line or "Unsupported" in line:
            return line.strip()
    return lines[0] if lines else "no message"
