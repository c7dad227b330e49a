"""Resized position tables against torch's `interpolate`, live or from a golden file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.nn.position import Resize, resize_positions, resize_stored, resize_weights

GOLDEN = Path(__file__).parent / "goldens" / "positions.npz"
"""Written by `python tests/nn/test_position.py` (needs torch)."""

HAS_TORCH = importlib.util.find_spec("torch") is not None

CASES: list[tuple[Resize, tuple[int, int], tuple[int, int]]] = [
    ("bicubic_align_corners", (24, 24), (36, 36)),  # GeoChat
    ("bicubic_align_corners", (5, 4), (3, 1)),
    ("bicubic", (16, 16), (24, 13)),
    ("bicubic", (7, 5), (5, 11)),
    ("bicubic", (3, 1), (1, 4)),
    ("bicubic_antialias", (16, 16), (24, 24)),
    ("bicubic_antialias", (24, 11), (7, 13)),
    ("bicubic_antialias", (2, 5), (1, 2)),
    ("bilinear", (7, 5), (5, 11)),
    ("bilinear", (2, 3), (9, 1)),
]
KEYS = [f"{method}_{a}x{b}_{c}x{d}" for method, (a, b), (c, d) in CASES]
HOW: dict[Resize, dict[str, Any]] = {
    "bicubic": {"mode": "bicubic"},
    "bicubic_align_corners": {"mode": "bicubic", "align_corners": True},
    "bicubic_antialias": {"mode": "bicubic", "antialias": True},
    "bilinear": {"mode": "bilinear"},
}


def table(rows: int, columns: int, width: int = 2) -> np.ndarray:
    rng = np.random.default_rng(rows * 100 + columns)
    return rng.standard_normal((rows * columns, width)).astype(np.float32)


def by_torch(x: np.ndarray, old: tuple, new: tuple, method: Resize) -> np.ndarray:
    import torch

    grid = torch.from_numpy(x).reshape(1, *old, -1).permute(0, 3, 1, 2)
    made = torch.nn.functional.interpolate(grid, size=new, **HOW[method])
    return made.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1).numpy()


@pytest.mark.parametrize(("method", "old", "new"), CASES, ids=KEYS)
def test_as_torch(method: Resize, old: tuple[int, int], new: tuple[int, int]) -> None:
    x = table(*old)
    with np.load(GOLDEN) as file:
        wanted = file[KEYS[CASES.index((method, old, new))]]
    if HAS_TORCH:
        live = by_torch(x, old, new, method)
        np.testing.assert_allclose(wanted, live, rtol=0, atol=2e-6)
        wanted = live
    made = jax.jit(lambda x: resize_positions(x, old, new, method))(jnp.asarray(x))
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5)
    on_host = resize_stored(x, new, method, extra=0) if old[0] == old[1] else wanted
    np.testing.assert_allclose(on_host, wanted, rtol=0, atol=1e-5)


def test_the_same_grid_is_the_same_table() -> None:
    x = jnp.asarray(table(4, 3))
    for method in HOW:
        assert resize_positions(x, (4, 3), (4, 3), method) is x
        np.testing.assert_array_equal(resize_weights(5, 5, method), np.eye(5, dtype=np.float32))


@pytest.mark.parametrize("method", HOW)
def test_a_constant_stays_constant(method: Resize) -> None:
    for old, new in [(5, 9), (9, 5), (24, 36), (1, 3), (3, 1)]:
        np.testing.assert_allclose(resize_weights(old, new, method).sum(1), 1, atol=1e-6)


def test_the_gradient_is_the_transposed_resize() -> None:
    old, new = (4, 3), (5, 6)
    gradient = jax.grad(lambda x: resize_positions(x, old, new, "bicubic")[7].sum())
    weights = np.kron(resize_weights(4, 5, "bicubic"), resize_weights(3, 6, "bicubic"))
    wanted = np.repeat(weights[7][:, None], 2, axis=1)
    np.testing.assert_allclose(gradient(jnp.asarray(table(*old))), wanted, atol=1e-6)


def test_bfloat16_tables_are_resized_in_float32() -> None:
    x = table(4, 4)
    rounded = resize_positions(jnp.asarray(x).astype(jnp.bfloat16), (4, 4), (6, 5))
    assert rounded.dtype == jnp.bfloat16
    exact = resize_positions(jnp.asarray(x), (4, 4), (6, 5))
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.03)


def test_stored_tables_keep_the_class_token_and_are_resized_once() -> None:
    """GeoChat: CLIP's 577 rows, or 1297 that were resized before."""
    x = np.concatenate([table(1, 1), table(24, 24)])
    made = resize_stored(x, (36, 36), "bicubic_align_corners")
    assert made.shape == (1297, 2)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[0], x[0])
    with np.load(GOLDEN) as file:
        np.testing.assert_allclose(made[1:], file[KEYS[0]], rtol=0, atol=1e-5)
    assert resize_stored(made, (36, 36), "bicubic_align_corners") is made


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_stored_table_of_no_square_grid_is_refused(rows: int) -> None:
    with pytest.raises(CheckpointError, match=r"no square grid; expected 1 \+ n \* n rows"):
        resize_stored(np.zeros((rows, 2), np.float32), (3, 3), "bicubic")


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    made = {k: by_torch(table(*c[1]), c[1], c[2], c[0]) for k, c in zip(KEYS, CASES, strict=True)}
    np.savez_compressed(GOLDEN, **made)
