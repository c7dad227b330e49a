"""Models to trees and back, and the first state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import MeshConfig, OptimizerConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.nn import Linear
from rsvlm_jax.testing import StandIn, standin_batch
from rsvlm_jax.train import (
    create,
    eval_params,
    init_state,
    make_optimizer,
    merge,
    overlay,
    pick,
    split_model,
)


def make(rngs: nnx.Rngs) -> StandIn:
    return StandIn(rngs=rngs)


def test_a_model_splits_and_merges_without_a_difference():
    model = make(nnx.Rngs(0))
    graphdef, params, stats = split_model(model)
    assert list(flat(params)) == [
        "head/out/bias",
        "head/out/kernel",
        "vision/bias",
        "vision/kernel",
    ]
    assert list(flat(stats)) == ["head/target_mean", "head/target_std"]
    again = merge(graphdef, params, stats)
    batch = jax.tree.map(jnp.asarray, standin_batch(0, 0))
    np.testing.assert_array_equal(model(batch).visual, again(batch).visual)
    assert split_model(again)[0] == graphdef


def test_created_models_have_the_numbers_of_constructed_ones():
    graphdef, params, stats = create(make, seed=3)
    expected = split_model(make(nnx.Rngs(3)))
    assert graphdef == expected[0]
    for got, want in zip(flat((params, stats)).values(), flat(expected[1:]).values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_seeds_differ_and_repeat():
    kernel = [np.asarray(create(make, seed=s)[1]["vision"]["kernel"]) for s in (0, 1, 0)]
    assert not np.array_equal(kernel[0], kernel[1])
    np.testing.assert_array_equal(kernel[0], kernel[2])


def test_hidden_random_state_is_refused():
    class Hidden(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.layer = Linear(2, 2, rngs=rngs)
            self.rngs = rngs

    with pytest.raises(ValueError, match="Non-exhaustive"):
        split_model(Hidden(rngs=nnx.Rngs(0)))


def test_a_tree_is_split_by_paths_and_put_together_again():
    tree = {"a": {0: jnp.ones(2), 1: jnp.zeros(2)}, "b": jnp.ones(1)}
    part = pick(tree, {"a/1", "b"})
    assert list(flat(part)) == ["a/1", "b"]
    doubled = overlay(tree, jax.tree.map(lambda x: x + 5, part))
    assert [float(x[0]) for x in flat(doubled).values()] == [1, 5, 6]
    assert pick(tree, set()) == {}


def test_the_first_state_does_not_share_memory_with_the_model():
    _, params, stats = create(make, seed=0)
    config = OptimizerConfig(ema=0.9)
    optimizer = make_optimizer(config, 10, params)
    mesh = make_mesh(MeshConfig())
    state = init_state(params, stats, optimizer, mesh, config=config, plan="replicated", seed=7)
    donate = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones_like(x), s), donate_argnums=0)
    before = jax.device_get(params)
    donate(state)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(params))


def test_evaluation_uses_the_average_where_there_is_one():
    _, params, stats = create(make, seed=0)
    mesh = make_mesh(MeshConfig())
    for ema in (None, 0.9):
        config = OptimizerConfig(ema=ema)
        optimizer = make_optimizer(config, 10, params)
        state = init_state(params, stats, optimizer, mesh, config=config, plan="replicated")
        assert (state.ema is None) == (ema is None)
        chosen = eval_params(state)
        assert jax.tree.structure(chosen) == jax.tree.structure(state.params)
