"""What the configs and weights of Hugging Face's vision transformers have in common."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.config.vision import Activation
from rsvlm_jax.interop.family import Json
from rsvlm_jax.interop.rows import TRANSPOSE, Index, Row, Shape, Table, Transform

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def activation(config: Json, default: str, where: str) -> Activation:
    """Ours for `hidden_act`.

    Raises:
      CheckpointError: another one than those that the towers compute.
    """
    name = config.get("hidden_act", default)
    if name not in _ACTIVATIONS:
        raise CheckpointError(
            "not supported",
            where=f"{where}: hidden_act",
            expected=" or ".join(_ACTIVATIONS),
            found=repr(name),
        )
    return _ACTIVATIONS[name]


def hidden_act(ours: Activation) -> str:
    """Hugging Face's name of an activation."""
    return next(theirs for theirs, name in _ACTIVATIONS.items() if name == ours)


def whole(config: Json, key: str, default: int, where: str) -> int:
    """A whole number; an edge that is given as two equal ones is one.

    Raises:
      CheckpointError: anything else.
    """
    value = config.get(key, default)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(
            "not a whole number", where=f"{where}: {key}", expected="an integer", found=repr(value)
        )
    return value


def real(config: Json, key: str, default: float, where: str) -> float:
    """A finite number; an epsilon is not negative.

    Raises:
      CheckpointError: anything else.
    """
    value = config.get(key, default)
    good = isinstance(value, int | float) and not isinstance(value, bool)
    least = 0.0 if key.endswith("eps") else -math.inf
    if not good or not least <= value < math.inf:
        raise CheckpointError(
            "not a number", where=f"{where}: {key}",
            expected="a number >= 0" if least == 0 else "a number", found=repr(value),
        )  # fmt: skip
    return float(value)


def squeezed(ones: int) -> Transform:
    """`ones` leading axes of size one there, none here."""

    def shape(s: Shape) -> Shape | None:
        return s[ones:] if s[:ones] == (1,) * ones else None

    def read(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[ones:])

    def write(x: np.ndarray) -> np.ndarray:
        return x.reshape((1,) * ones + x.shape)

    def index(i: Index) -> Index:
        return (*(slice(None),) * ones, *i)

    return Transform(f"squeezed({ones})", shape, read, write, index)


def linear(theirs: str, ours: str, *, bias: bool = True, **kind: Any) -> Table:
    """The rows of a torch Linear; `kind` goes to `Row` (part, axis)."""
    weight = Row(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSE, **kind)
    return (weight, Row(f"{theirs}.bias", f"{ours}/bias", **kind)) if bias else (weight,)


def norm(theirs: str, ours: str) -> Table:
    """The rows of a torch LayerNorm."""
    return (Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias"))


def encoder() -> Table:
    """The layers of CLIP and SigLIP."""
    layer = "encoder.layers.{}"
    return (
        *norm(f"{layer}.layer_norm1", "layers/norm1"),
        *linear(f"{layer}.self_attn.q_proj", "layers/attention/q"),
        *linear(f"{layer}.self_attn.k_proj", "layers/attention/k"),
        *linear(f"{layer}.self_attn.v_proj", "layers/attention/v"),
        *linear(f"{layer}.self_attn.out_proj", "layers/attention/o"),
        *norm(f"{layer}.layer_norm2", "layers/norm2"),
        *linear(f"{layer}.mlp.fc1", "layers/mlp/fc1"),
        *linear(f"{layer}.mlp.fc2", "layers/mlp/fc2"),
    )
