"""Shapes, tree paths and dtypes. NumPy and JAX only."""

from .dtypes import cast_floats, compute_dtype
from .paths import LORA_A, LORA_B, base_path, flat, map_with_path, path_str
from .trees import pytree_dataclass

__all__ = [
    "LORA_A",
    "LORA_B",
    "base_path",
    "cast_floats",
    "compute_dtype",
    "flat",
    "map_with_path",
    "path_str",
    "pytree_dataclass",
]
