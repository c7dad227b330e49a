"""Tree paths, pytree dataclasses and the dtype policy."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rsvlm_jax.core import cast_floats, compute_dtype, flat, map_with_path, pytree_dataclass


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Pair:
    a: jax.Array
    b: dict
    name: str = dataclasses.field(metadata={"static": True})


def test_paths_of_dicts_lists_and_dataclasses():
    pair = Pair(jnp.zeros(2), {"x": [jnp.ones(1), jnp.ones(3)]}, "p")
    assert list(flat(pair)) == ["a", "b/x/0", "b/x/1"]


def test_paths_of_nnx_state_leave_value_out():
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    assert set(flat(state)) == {"kernel", "bias"}


def test_map_with_path():
    out = map_with_path(lambda path, x, y: f"{path}:{x + y}", {"u": {"v": 1}}, {"u": {"v": 2}})
    assert out == {"u": {"v": "u/v:3"}}


def test_pytree_dataclass_takes_shapes_and_specs_as_leaves():
    pair = Pair(jnp.zeros((2, 3)), {"x": jnp.ones(1)}, "p")
    shapes = jax.tree.map(lambda x: x.shape, pair)
    assert shapes.a == (2, 3)
    assert shapes.name == "p"


def test_static_fields_are_structure():
    one = Pair(jnp.zeros(1), {}, "one")
    two = Pair(jnp.zeros(1), {}, "two")
    with pytest.raises(ValueError):
        jax.tree.map(jnp.add, one, two)


def test_cast_floats_leaves_integers():
    tree = {"f": jnp.ones(2), "i": jnp.arange(2), "b": jnp.array([True])}
    out = cast_floats(tree, compute_dtype("bfloat16"))
    assert out["f"].dtype == jnp.bfloat16
    assert out["i"].dtype == jnp.int32
    assert out["b"].dtype == jnp.bool_
