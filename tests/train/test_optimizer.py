"""Schedule, groups, freezing and weight decay."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import ConfigError, GroupConfig, OptimizerConfig
from rsvlm_jax.core import flat
from rsvlm_jax.train import make_optimizer, schedule, trained_paths

PARAMS = {
    "decoder": {"embed": {"embedding": jnp.ones((3, 2))}, "norm": {"scale": jnp.ones(2)}},
    "head": {"out": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
}


def step(config: OptimizerConfig, grads, count: int = 1):
    optimizer = make_optimizer(config, 10, PARAMS)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(count):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def grads(value: float = 1.0):
    return jax.tree.map(lambda x: jnp.full_like(x, value), PARAMS)


@settings(deadline=None, max_examples=40)
@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.9), peak=st.floats(1e-5, 1.0))
def test_the_rate_rises_to_its_peak_and_falls_to_zero(steps, warmup, peak):
    rate = schedule(OptimizerConfig(learning_rate=peak, warmup=warmup), steps)
    warm = int(warmup * steps)
    rising = np.asarray(rate(np.linspace(0, warm, 9).astype(int)))
    falling = np.asarray(rate(np.linspace(warm, steps, 9).astype(int)))
    assert rising[0] > 0
    assert rising[-1] == falling[0] == pytest.approx(peak, rel=1e-5)
    assert falling[-1] == pytest.approx(0, abs=1e-6 * peak)
    assert (np.diff(rising) >= 0).all()
    assert (np.diff(falling) <= 0).all()


def test_the_rate_falls_to_its_floor():
    """As RSGPT's: from 3e-5 to 1e-5."""
    rate = schedule(OptimizerConfig(learning_rate=3e-5, warmup=0.2, floor=1 / 3), 200)
    assert float(rate(39)) < float(rate(40)) == pytest.approx(3e-5)
    assert float(rate(120)) == pytest.approx(2e-5)
    assert float(rate(200)) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("weight_decay", -1.0), ("clip_norm", -1.0), ("floor", 1.0), ("floor", math.nan)),
        *(("ema", 1.0), ("ema", -0.1), ("weight_decay", math.nan)),
    ],
)
def test_impossible_numbers_are_refused(field: str, value: float):
    with pytest.raises(ConfigError, match=f"impossible number in OptimizerConfig.{field}"):
        dataclasses.replace(OptimizerConfig(), **{field: value})


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_a_rate_that_climbs_is_refused(scale: float):
    with pytest.raises(ConfigError, match=r"impossible number in GroupConfig.scale"):
        GroupConfig("^decoder/", scale)


def test_adam_agrees_with_optax():
    config = OptimizerConfig(warmup=0.0, weight_decay=0.0, clip_norm=0.0)
    ours, _ = step(config, grads(0.1), count=3)
    with jax.numpy_dtype_promotion("standard"):
        reference = optax.adam(optax.cosine_decay_schedule(1e-3, 10), b2=0.99, eps=1e-6)
        params, state = PARAMS, reference.init(PARAMS)
        for _ in range(3):
            updates, state = reference.update(grads(0.1), state)
            params = optax.apply_updates(params, updates)
    for got, want in zip(flat(ours).values(), flat(params).values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_only_kernels_decay():
    config = OptimizerConfig(kind="sgd", learning_rate=0.1, warmup=0.0, weight_decay=0.5)
    moved, _ = step(config, grads(0.0))
    assert {path: float(x.ravel()[0]) for path, x in flat(moved).items()} == {
        "decoder/embed/embedding": 1.0,
        "decoder/norm/scale": 1.0,
        "head/out/bias": 1.0,
        "head/out/kernel": pytest.approx(0.95),
    }


def test_a_group_scales_the_rate_and_the_first_match_wins():
    config = OptimizerConfig(
        kind="sgd",
        learning_rate=0.1,
        warmup=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
        groups=(GroupConfig("norm", 0.5), GroupConfig("^decoder/", 0.1)),
    )
    moved, _ = step(config, grads())
    assert {path: float(x.ravel()[0]) for path, x in flat(moved).items()} == {
        "decoder/embed/embedding": pytest.approx(0.99),
        "decoder/norm/scale": pytest.approx(0.95),
        "head/out/bias": pytest.approx(0.9),
        "head/out/kernel": pytest.approx(0.9),
    }


def test_frozen_parameters_have_no_state_and_no_part_in_the_norm():
    config = OptimizerConfig(
        kind="sgd", learning_rate=0.1, warmup=0.0, weight_decay=0.0,
        groups=(GroupConfig("^decoder/", 0.0),),
    )  # fmt: skip
    assert trained_paths(config, PARAMS) == {"head/out/kernel", "head/out/bias"}
    huge = {**grads(1.0), "decoder": jax.tree.map(lambda x: x * 1e6, grads()["decoder"])}
    moved, _ = step(config, huge)
    # The norm of six ones, clipped to 1.
    assert float(moved["head"]["out"]["bias"][0]) == pytest.approx(1 - 0.1 / np.sqrt(6))
    np.testing.assert_array_equal(moved["decoder"]["norm"]["scale"], 1)

    adam = make_optimizer(OptimizerConfig(groups=config.groups), 10, PARAMS)
    paths = [path for path in flat(adam.init(PARAMS)) if "decoder" in path]
    assert paths == []


def test_equal_arguments_give_the_same_optimiser():
    first = make_optimizer(OptimizerConfig(), 10, PARAMS)
    assert make_optimizer(OptimizerConfig(), 10, jax.eval_shape(lambda: PARAMS)) is first
    assert make_optimizer(OptimizerConfig(), 11, PARAMS) is not first


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        (
            (GroupConfig("^vision/", 0.1),),
            "a group takes no parameter in OptimizerConfig.groups[0].pattern; expected a pattern "
            "found in a parameter path that no earlier group takes; found '^vision/'; "
            "paths begin with decoder, head",
        ),
        (
            (GroupConfig("decoder", 0.1), GroupConfig("^decoder/norm", 0.0)),
            "a group takes no parameter in OptimizerConfig.groups[1].pattern",
        ),
        ((GroupConfig("(", 0.1),), "not a regular expression"),
        ((GroupConfig("", 0.0),), "all parameters are frozen in OptimizerConfig.groups"),
    ],
)
def test_wrong_groups_are_refused(groups, line):
    with pytest.raises(ConfigError) as error:
        make_optimizer(OptimizerConfig(groups=groups), 10, PARAMS)
    assert str(error.value).startswith(line)


TOWER = {
    "vision": {
        "patch": {"kernel": jnp.ones((2, 2))},
        "layers": {"mlp": {"kernel": jnp.ones((4, 2, 2)), "bias": jnp.ones((4, 2))}},
    }
}


def half(first: int = 2, pattern: str = "^vision/layers/") -> OptimizerConfig:
    groups = (GroupConfig(pattern, from_layer=first), GroupConfig("^vision/", 0.0))
    return OptimizerConfig(learning_rate=0.1, warmup=0.0, weight_decay=0.1, groups=groups)


def test_the_lower_half_of_a_tower_stays_and_has_no_part_in_the_norm():
    optimizer = make_optimizer(half(), 10, TOWER)
    huge = jax.tree.map(lambda x: jnp.full_like(x, 1e-3), TOWER)
    lower = huge["vision"]["layers"]["mlp"]["kernel"].at[:2].set(1e6)
    huge["vision"]["layers"]["mlp"]["kernel"] = lower
    updates, state = optimizer.update(huge, optimizer.init(TOWER), TOWER)
    found = updates["vision"]["layers"]["mlp"]
    for update in (found["kernel"], found["bias"]):
        assert not np.asarray(update[:2]).any()
        assert np.asarray(update[2:]).all()
    assert not np.asarray(updates["vision"]["patch"]["kernel"]).any()
    # Adam's first step is the sign, unless clipping by the frozen gradients has made it tiny.
    np.testing.assert_allclose(found["bias"][2:], -0.1, rtol=0.01)
    moments = [x for x in jax.tree.leaves(state) if x.shape == (4, 2, 2)]
    assert moments
    assert not any(np.asarray(m[:2]).any() for m in moments)


@pytest.mark.parametrize(
    ("config", "found"),
    [(half(4), "vision/layers/mlp/"), (half(1, "^vision/patch/"), "vision/patch/kernel")],
    ids=["a layer too many", "not layers"],
)
def test_from_layer_of_what_has_not_so_many(config: OptimizerConfig, found: str):
    with pytest.raises(ConfigError, match=r"GroupConfig\.from_layer") as e:
        make_optimizer(config, 10, TOWER)
    assert found in str(e.value)
    assert "\n" not in str(e.value)


def test_from_layer_below_zero():
    with pytest.raises(ConfigError, match=r"GroupConfig\.from_layer; expected >= 0"):
        GroupConfig("", from_layer=-1)
