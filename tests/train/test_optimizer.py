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
from jax.sharding import PartitionSpec

from rsvlm_jax.config import ConfigError, GroupConfig, MeshConfig, OptimizerConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import Rule, make_mesh, state_shardings
from rsvlm_jax.train import TrainState, make_optimizer, schedule, trained_paths
from rsvlm_jax.train.directions import is_matrix
from rsvlm_jax.train.optimizer import only_trained

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
    part = only_trained(half(), huge, TOWER)
    updates, state = optimizer.update(part, optimizer.init(TOWER), TOWER)
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


KINDS = ("adamw", "sgd", "adafactor", "muon")


def wide(seed: int):
    """A stack of two layers that Adafactor factors, and what is not stacked."""
    rng = np.random.default_rng(seed)

    def made(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "decoder": {
            "embed": {"embedding": made(256, 128)},
            "layers": {"mlp": {"up": {"kernel": made(2, 128, 256), "bias": made(2, 256)}}},
            "lm_head": {"kernel": made(128, 256)},
        }
    }


def twice(config: OptimizerConfig, params, seeds=(1, 2)):
    """The updates of two steps from the same place, summed, and the state."""
    optimizer = make_optimizer(config, 10, params)
    state, summed = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for seed in seeds:
        slopes = jax.tree.map(lambda x, s=seed: x * s * jnp.cos(x * 7 + s), params)
        updates, state = optimizer.update(slopes, state, params)
        summed = jax.tree.map(jnp.add, summed, updates)
    return summed, state


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_treated_layer_by_layer(kind):
    config = OptimizerConfig(kind, warmup=0.0, clip_norm=0.0)
    together = wide(0)
    stacked = together["decoder"]["layers"]["mlp"]["up"]
    found = twice(config, together)[0]["decoder"]["layers"]["mlp"]["up"]
    for layer in range(2):
        alone = {"decoder": {"mlp": {"up": jax.tree.map(lambda x, i=layer: x[i], stacked)}}}
        want = twice(config, alone)[0]["decoder"]["mlp"]["up"]
        for name in ("kernel", "bias"):
            np.testing.assert_allclose(found[name][layer], want[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_decay_and_freezing_of_every_kind(kind):
    groups = (
        GroupConfig("embed", 0.5),
        GroupConfig("lm_head", 0.0),
        GroupConfig("layers", from_layer=1),
    )
    plain = OptimizerConfig(kind, warmup=0.0, clip_norm=0.0, weight_decay=0.0)
    params = wide(0)
    whole, state = twice(plain, params)
    part, frozen = twice(dataclasses.replace(plain, groups=groups), params)
    whole, part = flat(whole), flat(part)
    up = "decoder/layers/mlp/up/"
    np.testing.assert_allclose(
        part["decoder/embed/embedding"], 0.5 * whole["decoder/embed/embedding"], rtol=1e-4,
        atol=1e-7,
    )  # fmt: skip
    assert not np.asarray(part["decoder/lm_head/kernel"]).any()
    assert not [path for path in flat(frozen) if "lm_head" in path]
    assert bool([path for path in flat(state) if "lm_head" in path]) == (kind != "sgd")
    for name in ("kernel", "bias"):
        assert not np.asarray(part[up + name][0]).any()
        np.testing.assert_allclose(part[up + name][1], whole[up + name][1], rtol=1e-4, atol=1e-7)
    decayed = flat(twice(dataclasses.replace(plain, weight_decay=0.5), params, (1,))[0])
    once = flat(twice(plain, params, (1,))[0])
    for path, x in flat(params).items():
        off = np.asarray(once[path] - decayed[path])
        want = 0.5 * plain.learning_rate * x if path.endswith("kernel") else 0.0 * x
        np.testing.assert_allclose(off, want, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
@pytest.mark.parametrize("name", ["b1", "b2"])
def test_moments_decay_as_they_are_told(kind, name):
    made = [OptimizerConfig(kind, warmup=0.0, **{name: x}) for x in (0.3, 0.9)]
    first, second = (flat(twice(config, wide(0), (1, 2, 3))[0]) for config in made)
    for path, x in first.items():
        same = np.array_equal(x, second[path])
        # Muon's matrices have no second moment.
        assert same == (kind == "muon" and name == "b2" and "up/kernel" in path), path


def test_adafactor_keeps_rows_columns_and_half_a_float():
    found = {
        path: x.size * x.dtype.itemsize
        for path, x in flat(twice(OptimizerConfig("adafactor"), wide(0))[1]).items()
        if path.endswith("up/kernel")
    }
    rows, columns, nothing, moment = 2 * 128 * 4, 2 * 256 * 4, 4, 2 * 128 * 256 * 2
    assert sorted(found.values()) == [nothing, rows, columns, moment]
    without = twice(OptimizerConfig("adafactor", b1=0.0), wide(0))[1]
    assert max(x.nbytes for x in flat(without).values()) == columns


def test_muon_evens_out_the_singular_values_of_hidden_kernels():
    config = OptimizerConfig("muon", 1.0, warmup=0.0, weight_decay=0.0)
    found = flat(twice(config, wide(0), (1,))[0])
    for layer in found["decoder/layers/mlp/up/kernel"]:
        singular = np.linalg.svd(np.asarray(layer), compute_uv=False)
        assert singular.max() < 2.5 * singular.min()
        assert np.sqrt(np.mean(np.square(layer))) == pytest.approx(0.2, rel=0.2)
    adam = flat(twice(dataclasses.replace(config, kind="adamw"), wide(0), (1,))[0])
    for path in ("decoder/embed/embedding", "decoder/lm_head/kernel", "decoder/layers/mlp/up/bias"):
        np.testing.assert_array_equal(found[path], adam[path])


def test_which_parameters_are_matrices_for_muon():
    shapes = {
        "decoder/layers/attention/q/kernel": (2, 8, 8),
        "decoder/layers/attention/q/kernel_lora_a": (2, 8, 4),
        "connector/fc1/kernel": (8, 8),
        "vision/stages/0/blocks/mlp/fc1/kernel": (2, 8, 8),
        "decoder/layers/attention/q/bias": (2, 8),
        "decoder/embed/embedding": (8, 8),
        "decoder/lm_head/kernel": (8, 8),
        "vision/patch/kernel": (8, 8),
        "vision/stages/0/blocks/depthwise/kernel": (2, 49, 8),
        "head/out/kernel": (8, 2),
        "temporal/query": (8, 8),
    }
    taken = [p for p, s in shapes.items() if is_matrix(p, jax.ShapeDtypeStruct(s, jnp.float32))]
    assert taken == list(shapes)[:4]


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_every_kind_has_its_place(kind):
    """Split over eight devices like the parameters; rows and columns like what is left of them."""
    params = wide(0)
    optimizer = make_optimizer(OptimizerConfig(kind), 10, params)
    state = TrainState(
        jnp.int32(0), jnp.int32(0), params, {}, jax.eval_shape(optimizer.init, params)
    )
    mesh = make_mesh(MeshConfig(2, 2, 2))
    rules = (
        Rule("embedding$", ("tensor", "fsdp")),
        Rule("kernel$", ("fsdp", "tensor")),
        Rule("bias$", ("tensor",)),
    )
    placed = flat(state_shardings(state, rules, mesh))
    owner = "/decoder/layers/mlp/up/kernel"
    found = {
        path.removesuffix(owner).split("/")[-1]: x.spec
        for path, x in placed.items()
        if path.startswith("opt_state") and path.endswith(owner)
    }
    whole = PartitionSpec(None, "fsdp", "tensor")
    rows, columns = PartitionSpec(None, "fsdp"), PartitionSpec(None, "tensor")
    assert (
        found
        == {
            "adamw": {"mu": whole, "nu": whole},
            "sgd": {},
            "adafactor": {"v_row": rows, "v_col": columns, "v": PartitionSpec(), "ema": whole},
            "muon": {"mu": whole},
        }[kind]
    )


def test_an_array_of_the_state_that_belongs_to_nothing():
    params = wide(0)
    state = TrainState(jnp.int32(0), jnp.int32(0), params, {}, {"odd": jnp.ones(3)})
    with pytest.raises(ConfigError, match="belongs to no parameter in opt_state/odd"):
        state_shardings(state, (Rule(""),), make_mesh(MeshConfig()))


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("kind", "adam8bit", r"OptimizerConfig\.kind; expected adamw \| sgd \| adafactor \| muon"),
        ("b1", 1.0, r"OptimizerConfig\.b1; expected 0 <= decay < 1; found 1\.0"),
        ("b2", -0.1, r"OptimizerConfig\.b2; expected 0 <= decay < 1"),
    ],
)
def test_impossible_optimisers(field, value, line, untyped):
    with pytest.raises(ConfigError, match=line):
        OptimizerConfig(**{field: value})
