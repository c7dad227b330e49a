"""LoRA: nothing changes at the start, what is trained, and merging."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import (
    LORA_ONLY,
    ConfigError,
    GroupConfig,
    LlamaConfig,
    LoraConfig,
    LoraOverride,
    MeshConfig,
    OptimizerConfig,
    from_json,
    to_json,
)
from rsvlm_jax.core import LORA_A, LORA_B, base_path, flat, map_with_path
from rsvlm_jax.mesh import Rule, make_mesh, resolve
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import Linear, add_lora, causal_segment_mask, merge_lora, split_lora
from rsvlm_jax.train import make_optimizer, split_model

SMALL = LlamaConfig(
    vocab_size=31, width=28, layers=3, heads=7, kv_heads=1, mlp_dim=20, max_length=16
)
LORA = LoraConfig(rank=3, alpha=6.0)
LINEARS = {"attention/q", "attention/k", "attention/v", "attention/o"} | {
    "mlp/gate", "mlp/up", "mlp/down"
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 6)).astype(np.int32)


@functools.cache
def make(lora: LoraConfig | None = None, config: LlamaConfig = SMALL):
    """Definition and parameters of a small Llama, its parameters the same with and without."""
    model = Llama(config, rngs=nnx.Rngs(0))
    if lora is not None:
        add_lora(model, lora, nnx.Rngs(1))
    graphdef, params, stats = split_model(model)
    assert not stats
    return graphdef, params


def filled(params):
    """Factors as after training: B is not zero."""
    rng = np.random.default_rng(2)

    def fill(path: str, x):
        if not path.endswith(LORA_B):
            return x
        return jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype)

    return map_with_path(fill, params)


def logits(graphdef, params, dtype=jnp.float32):
    def run(params):
        model = nnx.merge(graphdef, params, {})
        position = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32), (2, 6))
        mask = causal_segment_mask(jnp.ones((2, 6), jnp.int32), position)
        hidden = model(model.embed(jnp.asarray(TOKENS)).astype(dtype), mask, position)
        return model.logits(hidden)

    return jax.jit(run)(params)


def test_paths_of_the_base_stay_and_factors_stand_beside_their_kernels():
    base, full = flat(make()[1]), flat(make(LORA)[1])
    assert {path for path in full if base_path(path) == path} == set(base)
    for path, x in base.items():
        assert x.tobytes() == full[path].tobytes(), path
    added = {path: x.shape for path, x in full.items() if path not in base}
    assert {base_path(path) for path in added} == {f"layers/{n}/kernel" for n in LINEARS}
    assert added["layers/attention/k/kernel_lora_a"] == (3, 28, 3)
    assert added["layers/attention/k/kernel_lora_b"] == (3, 3, 4)
    assert added["layers/mlp/down/kernel_lora_a"] == (3, 20, 3)
    for path, x in full.items():
        if path.endswith(LORA_B):
            assert not x.any(), path
        elif path.endswith(LORA_A):  # uniform within 1 / sqrt(in), another for each layer
            assert 0.8 < float(jnp.abs(x).max()) * math.sqrt(x.shape[1]) <= 1, path
            assert not np.allclose(x[0], x[1]), path


def test_a_model_without_lora_has_the_definition_that_it_always_had():
    fields = dict(vars(Linear(2, 3, rngs=nnx.Rngs(0))))
    assert not [name for name in fields if "lora" in name]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_outputs_are_bitwise_unchanged_at_the_start(dtype):
    before, after = logits(*make(), dtype), logits(*make(LORA), dtype)
    assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


@pytest.mark.parametrize("rslora", [False, True])
def test_merged_parameters_give_the_same_outputs_in_a_plain_model(rslora):
    lora = dataclasses.replace(LORA, rslora=rslora)
    graphdef, params = make(lora)
    params = filled(params)
    merged = merge_lora(params, lora)
    plain, before = make()
    assert flat(merged).keys() == flat(before).keys()
    want, got = logits(graphdef, params), logits(plain, merged)
    assert float(jnp.abs(want - logits(plain, before)).max()) > 0.1
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    # W + s A B of one layer, by hand and in double precision.
    q = {k: np.asarray(v[1], np.float64) for k, v in params["layers"]["attention"]["q"].items()}
    scale = 6 / math.sqrt(3) if rslora else 2
    by_hand = q["kernel"] + scale * q["kernel_lora_a"] @ q["kernel_lora_b"]
    found = merged["layers"]["attention"]["q"]["kernel"][1]
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-6)


def test_merging_rounds_once_where_kernels_are_stored_in_bfloat16():
    lora = LoraConfig(rank=2, alpha=2.0, targets="kernel$")
    rng = np.random.default_rng(3)
    kernel = jnp.asarray(rng.normal(size=(4, 5)), jnp.bfloat16)
    a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 2), (2, 5)))
    params = {"kernel": kernel, "kernel_lora_a": a, "kernel_lora_b": b}
    merged = merge_lora(params, lora)["kernel"]
    want = kernel.astype(jnp.float32) + jnp.matmul(a, b, precision="highest")
    np.testing.assert_array_equal(merged, want.astype(jnp.bfloat16))


def test_bfloat16_is_near_float32():
    graphdef, params = make(LORA)
    params = filled(params)
    exact, rough = logits(graphdef, params), logits(graphdef, params, jnp.bfloat16)
    assert bool(jnp.isfinite(rough).all())
    assert float(jnp.abs(exact - rough).max()) < 0.1 * float(exact.std())


def test_gradients_flow_to_all_factors():
    graphdef, params = make(LORA)
    base, lora = split_lora(params)
    weight = jnp.asarray(np.random.default_rng(4).normal(size=(2, 6, 31)), jnp.float32)

    @jax.jit
    @jax.grad
    def grads(lora):
        return (logits(graphdef, joined(base, lora)) * weight).sum()

    for path, g in flat(grads(lora)).items():
        for i, layer in enumerate(g):  # while B is zero, A has no slope
            assert bool((layer != 0).any()) == path.endswith(LORA_B), (path, i)
    for path, g in flat(grads(filled(lora))).items():
        for i, layer in enumerate(g):
            assert bool((layer != 0).any()), (path, i)


def joined(base, lora):
    if not isinstance(base, dict):
        return base
    return {k: joined(base.get(k, {}), lora.get(k, {})) if k in base else lora[k]
            for k in (*base, *(k for k in lora if k not in base))}  # fmt: skip


def test_split_and_join():
    _, params = make(LORA)
    base, lora = split_lora(params)
    assert flat(base).keys() == flat(make()[1]).keys()
    assert all(re.search(LORA_ONLY[0].pattern, path) for path in flat(lora))
    assert flat(base).keys() | flat(lora).keys() == flat(params).keys()
    assert split_lora(base) == (base, {})


def test_only_lora_is_trained_and_nothing_is_kept_for_the_rest():
    graphdef, params = make(LORA)
    config = OptimizerConfig(learning_rate=0.1, warmup=0.0, groups=LORA_ONLY)
    optimizer = make_optimizer(config, 5, params)
    state = jax.jit(optimizer.init)(params)
    held = {path for path in flat(state) if re.search("/(mu|nu)/", path)}
    assert held
    assert all(base_path(path) != path for path in held)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.square(logits(graphdef, p)).mean())(params)
        return optax.apply_updates(params, optimizer.update(grads, state, params)[0])

    moved = flat(step(params, state))
    for path, x in flat(params).items():
        assert (x.tobytes() == moved[path].tobytes()) == (base_path(path) == path), path


def test_factors_decay_like_kernels():
    _, params = make(LORA)
    config = OptimizerConfig(
        kind="sgd", learning_rate=0.1, warmup=0.0, weight_decay=0.5, groups=LORA_ONLY
    )
    optimizer = make_optimizer(config, 5, params)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    a, moved = (t["layers"]["mlp"]["up"]["kernel_lora_a"] for t in (params, updates))
    np.testing.assert_allclose(moved, -0.05 * a, rtol=1e-6)


def test_lora_and_the_connector_at_a_tenth_of_the_rate():
    params = {"connector": {"fc1": {"kernel": jnp.ones((2, 2))}}, "decoder": make(LORA)[1]}
    groups = (LORA_ONLY[0], GroupConfig("^connector/", 0.1), LORA_ONLY[1])
    config = OptimizerConfig(kind="sgd", warmup=0.0, weight_decay=0.0, clip_norm=0.0,
                             learning_rate=0.1, groups=groups)  # fmt: skip
    optimizer = make_optimizer(config, 5, params)
    ones = jax.tree.map(jnp.ones_like, params)
    updates = flat(optimizer.update(ones, optimizer.init(params), params)[0])
    moved = {path: float(x.ravel()[0]) for path, x in updates.items() if x.any()}
    assert moved.pop("connector/fc1/kernel") == pytest.approx(-0.01)
    assert all(x == pytest.approx(-0.1) for x in moved.values())
    assert len(moved) == 14


def test_factors_are_placed_by_the_rule_of_their_kernel():
    shape = jax.ShapeDtypeStruct
    tree = {
        "q": {
            "kernel": shape((3, 8, 4), jnp.float32),
            "kernel_lora_a": shape((3, 8, 5), jnp.float32),
            "kernel_lora_b": shape((3, 5, 4), jnp.float32),
        },
        "r": {
            "kernel": shape((8, 4), jnp.float32),
            "kernel_lora_a": shape((8, 5), jnp.float32),
            "kernel_lora_b": shape((5, 4), jnp.float32),
        },
    }
    rules = [Rule("^q/kernel$", ("fsdp", "tensor")), Rule("^r/kernel$")]
    placed = resolve(tree, rules, make_mesh(MeshConfig(2, 2, 2)))
    assert {path: s.spec for path, s in flat(placed).items()} == {
        "q/kernel": P(None, "fsdp", "tensor"),
        "q/kernel_lora_a": P(None, "fsdp"),
        "q/kernel_lora_b": P(None, None, ("tensor", "fsdp")),
        "r/kernel": P(),
        "r/kernel_lora_a": P(),
        "r/kernel_lora_b": P(),
    }


def test_merged_kernels_stay_where_they_were():
    _, params = make(LORA, dataclasses.replace(SMALL, width=32, heads=4, kv_heads=2, mlp_dim=24))
    params = {"decoder": filled(params)}
    mesh = make_mesh(MeshConfig(2, 2, 2))
    rules = [
        Rule("/(q|k|v|gate|up)/kernel$", ("fsdp", "tensor")),
        Rule("/(o|down)/kernel$", ("tensor", "fsdp")),
        Rule("embedding$|scale$|lm_head"),
    ]
    placed = jax.device_put(params, resolve(params, rules, mesh))
    lora = dataclasses.replace(LORA, targets="kernel$")
    one, eight = flat(merge_lora(params, lora)), flat(merge_lora(placed, lora))
    for path, x in eight.items():
        assert x.sharding.is_equivalent_to(flat(placed)[path].sharding, x.ndim), path
        np.testing.assert_allclose(x, one[path], rtol=0, atol=1e-6)


def test_overrides_and_patterns():
    lora = LoraConfig(
        rank=3,
        alpha=6.0,
        targets="layers/(attention/[qv]|mlp/down)/kernel$",
        overrides=(LoraOverride("/v/", 2, 3.0), LoraOverride("attention", 4, 1.0)),
    )
    graphdef, params = make(lora)
    shapes = {path: x.shape[-1] for path, x in flat(params).items() if path.endswith(LORA_A)}
    assert shapes == {
        "layers/attention/q/kernel_lora_a": 4,
        "layers/attention/v/kernel_lora_a": 2,
        "layers/mlp/down/kernel_lora_a": 3,
    }
    assert lora.scale_of("layers/attention/v/kernel") == 1.5
    assert from_json(LoraConfig, to_json(lora)) == lora
    params = filled(params)
    want = logits(make()[0], merge_lora(params, lora))
    np.testing.assert_allclose(logits(graphdef, params), want, rtol=0, atol=1e-5)


def test_a_model_of_shapes_gets_shapes():
    def build():
        return add_lora(Llama(SMALL, rngs=nnx.Rngs(0)), LORA, nnx.Rngs(1))

    graphdef, params, _ = split_model(nnx.eval_shape(build))
    assert graphdef == make(LORA)[0]
    assert {p: x.shape for p, x in flat(params).items()} == {
        p: x.shape for p, x in flat(make(LORA)[1]).items()
    }


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            LoraConfig(targets="^vision/"),
            "LoRA takes no layer in LoraConfig.targets; expected a pattern found in the path of a "
            "Linear's kernel; found '^vision/'; paths are like layers/attention/k/kernel, ",
        ),
        (
            LoraConfig(overrides=(LoraOverride("/q/", 2, 2.0), LoraOverride("q", 3, 3.0))),
            "an override takes no layer in LoraConfig.overrides[1].pattern; expected a pattern",
        ),
    ],
)
def test_patterns_that_take_nothing_are_refused(config, line):
    with pytest.raises(ConfigError) as error:
        add_lora(Llama(SMALL, rngs=nnx.Rngs(0)), config, nnx.Rngs(1))
    assert str(error.value).startswith(line)


def test_lora_is_given_once_and_merged_by_its_own_config():
    model = add_lora(Llama(SMALL, rngs=nnx.Rngs(0)), LORA, nnx.Rngs(1))
    with pytest.raises(ConfigError, match="has LoRA already in layers/attention/k/kernel"):
        add_lora(model, LORA, nnx.Rngs(1))
    params = split_model(model)[1]
    for other in (LoraConfig(rank=4), LoraConfig(rank=3, targets="/q/kernel$")):
        with pytest.raises(ConfigError, match=r"^LoRA of another config in layers/attention/"):
            merge_lora(params, other)
    del params["layers"]["mlp"]["up"]["kernel_lora_b"]
    with pytest.raises(ConfigError, match="another config in layers/mlp/up/kernel; expected rank"):
        merge_lora(params, LORA)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"rank": 0}, "not a size in LoraConfig.rank"),
        ({"alpha": 0.0}, "not a scale in LoraConfig.alpha; expected > 0; found 0.0"),
        ({"alpha": math.nan}, "not a scale in LoraConfig.alpha"),
        ({"targets": "("}, "not a regular expression"),
    ],
)
def test_impossible_numbers_are_refused(fields, line):
    with pytest.raises(ConfigError) as error:
        LoraConfig(**fields)
    assert str(error.value).startswith(line)
