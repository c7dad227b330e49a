"""Shapes, tree paths and dtypes. NumPy and JAX only."""

from .dtypes import cast_floats, compute_dtype
from .paths import (
    INT8,
    LORA_A,
    LORA_B,
    NF4,
    NF4_BLOCK,
    SCALE,
    base_path,
    flat,
    is_lora,
    is_quantized,
    map_with_path,
    path_str,
)
from .trees import pytree_dataclass

__all__ = [
    "INT8",
    "LORA_A",
    "LORA_B",
    "NF4",
    "NF4_BLOCK",
    "SCALE",
    "base_path",
    "cast_floats",
    "compute_dtype",
    "flat",
    "is_lora",
    "is_quantized",
    "map_with_path",
    "path_str",
    "pytree_dataclass",
]
