"""Shapes, tree paths and dtypes. NumPy and JAX only."""

from .dtypes import cast_floats, compute_dtype
from .paths import flat, map_with_path, path_str
from .trees import pytree_dataclass

__all__ = ["cast_floats", "compute_dtype", "flat", "map_with_path", "path_str", "pytree_dataclass"]
