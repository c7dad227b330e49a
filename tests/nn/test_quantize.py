"""int8 and nf4 weights: the codes, the products, the model, what is refused."""

from __future__ import annotations

import functools
import re
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import (
    DECODER_LINEARS,
    DECODER_WEIGHTS,
    FROZEN_CODES,
    LORA_ONLY,
    ConfigError,
    GroupConfig,
    LlamaConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
)
from rsvlm_jax.core import LORA_B, base_path, flat, is_quantized, map_with_path
from rsvlm_jax.mesh import Rule, make_mesh, resolve
from rsvlm_jax.models.decoder import unstacked
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import (
    add_lora,
    causal_segment_mask,
    dequantize_params,
    merge_lora,
    quantize,
    quantize_params,
    split_lora,
)
from rsvlm_jax.nn import codes as nn_codes
from rsvlm_jax.nn.codes import NF4_VALUES, decode_int8, decode_nf4, encode_int8, encode_nf4
from rsvlm_jax.train import make_optimizer, split_model
from rsvlm_jax.train.losses import text_loss

SMALL = LlamaConfig(
    vocab_size=31, width=64, layers=3, heads=4, kv_heads=2, mlp_dim=128, max_length=16,
    tie_embeddings=False,
)  # fmt: skip
TIED = LlamaConfig(
    vocab_size=31, width=64, layers=2, heads=4, kv_heads=2, mlp_dim=128, max_length=16
)
LORA = LoraConfig(rank=3, alpha=6.0)
KINDS = ("int8", "nf4")
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 6)).astype(np.int32)
WIDE = {"int8": DECODER_WEIGHTS, "nf4": r"(layers/.+|lm_head)/kernel$"}
"""All that a kind can take."""


@functools.cache
def make(config: LlamaConfig = SMALL, lora: bool = False):
    model = Llama(config, rngs=nnx.Rngs(0))
    if lora:
        add_lora(model, LORA, nnx.Rngs(1))
    return split_model(model)[:2]


@functools.cache
def quantized(kind: str, config: LlamaConfig = SMALL, targets: str = DECODER_LINEARS, lora=False):
    model = quantize(Llama(config, rngs=nnx.Rngs(0)), kind, targets=targets)
    if lora:
        add_lora(model, LORA, nnx.Rngs(1))
    return split_model(model)[:2]


def logits(graphdef, params, dtype=jnp.float32):
    def run(params):
        model = nnx.merge(graphdef, params, {})
        position = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32), (2, 6))
        mask = causal_segment_mask(jnp.ones((2, 6), jnp.int32), position)
        hidden = model(model.embed(jnp.asarray(TOKENS)).astype(dtype), mask, position)
        return model.logits(hidden)

    return jax.jit(run)(params)


def kernels(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers, with an output of zeros and one that is far larger than the others."""
    w = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    w[..., 1] = 0
    w[..., 2] *= 100
    return w


# The formats


def test_nf4_has_the_published_values():
    """QLoRA, appendix E: quantiles of a normal distribution, eight above zero and seven below."""
    published = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]  # fmt: skip
    assert list(NF4_VALUES) == published
    quantile, last = NormalDist().inv_cdf, 0.9677083
    above = [quantile(p) for p in np.linspace(last, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(last, 0.5, 8)[:-1]]
    made = np.sort([*above, 0.0, *below])
    np.testing.assert_allclose(made / made.max(), published, rtol=0, atol=1e-6)


def test_int8_is_numpys_formula():
    w = kernels(0, 3, 20, 5)
    scale = np.abs(w).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.rint(w / np.where(scale == 0, np.float32(1), scale)).astype(np.int8)
    got, got_scale = jax.jit(encode_int8)(jnp.asarray(w))
    np.testing.assert_array_equal(got, codes)
    np.testing.assert_array_equal(got_scale, scale)
    assert np.abs(codes).max() == 127
    np.testing.assert_array_equal(decode_int8(got, got_scale), codes.astype(np.float32) * scale)


def test_int8_is_off_by_half_a_step_at_most():
    w = kernels(1, 40, 6)
    back = np.asarray(decode_int8(*encode_int8(jnp.asarray(w))))
    half = np.abs(w).max(axis=0) / 254
    assert (np.abs(back - w) <= half * (1 + 1e-5)).all()
    assert not back[:, 1].any()


def test_nf4_is_the_nearest_value_of_its_block():
    w = kernels(2, 2, 192, 5)
    codes, scale = jax.jit(encode_nf4)(jnp.asarray(w))
    assert (codes.shape, codes.dtype) == ((2, 96, 5), jnp.uint8)
    values = np.asarray(NF4_VALUES, np.float32)
    for layer in range(2):
        for block in range(3):
            rows = w[layer, 64 * block : 64 * (block + 1)]
            largest = np.abs(rows).max(axis=0)
            np.testing.assert_array_equal(scale[layer, block], largest)
            unit = rows / np.where(largest == 0, np.float32(1), largest)
            nearest = np.abs(unit[..., None] - values).argmin(axis=-1)
            packed = np.asarray(codes[layer, 32 * block : 32 * (block + 1)])
            np.testing.assert_array_equal(np.concatenate([packed & 15, packed >> 4]), nearest)
            back = decode_nf4(codes[layer], scale[layer])[64 * block : 64 * (block + 1)]
            np.testing.assert_array_equal(back, values[nearest] * largest)
            widest = (values[1] - values[0]) / 2  # between -1 and the value after it
            assert (np.abs(back - rows) <= widest * largest * (1 + 1e-5)).all()


def test_codes_survive_a_second_rounding():
    w = jnp.asarray(kernels(3, 128, 4))
    for encode, decode in ((encode_int8, decode_int8), (encode_nf4, decode_nf4)):
        codes, scale = encode(w)
        np.testing.assert_array_equal(encode(decode(codes, scale))[0], codes)


# The model


@pytest.mark.parametrize("kind", KINDS)
def test_codes_stand_in_place_of_kernels(kind):
    before, after = flat(make()[1]), flat(quantized(kind, targets=WIDE[kind])[1])
    taken = {path for path in before if re.search(WIDE[kind], path)}
    assert len(taken) == 8 + (kind == "int8")
    assert {path for path in after if is_quantized(path)} == {
        f"{path}{end}" for path in taken for end in (f"_{kind}", "_scale")
    }
    assert {path for path in after if not is_quantized(path)} == before.keys() - taken
    for path in before.keys() - taken:
        assert before[path].tobytes() == after[path].tobytes(), path
    rows = 64 if kind == "int8" else 32
    assert after[f"layers/attention/k/kernel_{kind}"].shape == (3, rows, 32)
    assert after["layers/attention/k/kernel_scale"].shape == (3, 1, 32)
    assert after["layers/mlp/down/kernel_scale"].shape == (3, 1 if kind == "int8" else 2, 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [SMALL, TIED], ids=["head", "tied"])
def test_a_quantised_model_computes_what_its_codes_say(kind, config):
    graphdef, params = quantized(kind, config, WIDE[kind])
    plain, before = make(config)
    back = dequantize_params(params)
    assert flat(back).keys() == flat(before).keys()
    want = logits(plain, back)
    np.testing.assert_allclose(logits(graphdef, params), want, rtol=0, atol=1e-5)
    off = float((want - logits(plain, before)).std() / want.std())
    assert 1e-3 < off < (0.03 if kind == "int8" else 0.4)  # of random weights: the size of it
    rough = logits(graphdef, params, jnp.bfloat16)
    assert rough.dtype == jnp.float32
    assert float(jnp.abs(rough - want).max()) < 0.1 * float(want.std())


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_quantised_as_the_model_is(kind):
    graphdef, params = quantized(kind, targets=WIDE[kind])
    made = flat(quantize_params(make()[1], kind, targets=WIDE[kind]))
    assert made.keys() == flat(params).keys()
    for path, x in flat(params).items():
        assert x.tobytes() == made[path].tobytes(), path
    abstract = nnx.eval_shape(
        lambda: quantize(Llama(SMALL, rngs=nnx.Rngs(0)), kind, targets=WIDE[kind])
    )
    shapes = split_model(abstract)
    assert shapes[0] == graphdef
    assert {p: (x.shape, x.dtype) for p, x in flat(shapes[1]).items()} == {
        p: (x.shape, x.dtype) for p, x in flat(params).items()
    }

    @jax.jit
    def inside():
        return split_model(quantize(Llama(SMALL, rngs=nnx.Rngs(0)), kind, targets=WIDE[kind]))[1]

    for path, x in flat(inside()).items():
        if path.endswith("_scale"):
            np.testing.assert_allclose(x, flat(params)[path], rtol=1e-6)


def test_an_id_outside_a_quantised_table_gives_nan():
    model = quantize(Llama(TIED, rngs=nnx.Rngs(0)), "int8", targets="embed/embedding$")
    found = np.asarray(model.embed(jnp.asarray([30, 31, -32], jnp.int32)))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_loss_of_a_quantised_head_in_chunks(kind):
    graphdef, params = quantized(kind, targets=WIDE[kind])
    plain, back = make()[0], dequantize_params(params)
    rng = np.random.default_rng(5)
    hidden = jnp.asarray(rng.normal(size=(2, 6, 64)), jnp.float32)
    weight = jnp.asarray(rng.random((2, 6)), jnp.float32)

    def loss(hidden, graphdef, params, chunk):
        decoder = nnx.merge(graphdef, params, {})
        return text_loss(decoder, hidden, jnp.asarray(TOKENS), weight, chunk=chunk)[0]

    want, want_slope = jax.value_and_grad(loss)(hidden, plain, back, 2**20)
    for chunk in (2**20, 2 * 31):
        got, slope = jax.value_and_grad(loss)(hidden, graphdef, params, chunk)
        assert float(got) == pytest.approx(float(want), rel=1e-6)
        np.testing.assert_allclose(slope, want_slope, rtol=0, atol=1e-6)


@pytest.mark.parametrize("product", ["matmul_int8", "attend_int8", "matmul_nf4"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["as it is", "scores"])
def test_both_passes_multiply_in_the_dtype_of_the_input(product: str, dtype):
    w = jnp.asarray(np.random.default_rng(6).normal(size=(128, 64)), jnp.float32)
    encode, decode = (encode_nf4, decode_nf4) if "nf4" in product else (encode_int8, decode_int8)
    rows = product.startswith("attend")
    codes, scale = encode(w, axis=-1) if rows else encode(w)
    x, g = kernels(7, 2, 5, 64 if rows else 128), kernels(8, 2, 5, 128 if rows else 64)
    x = jnp.asarray(x, jnp.bfloat16)

    def slope(x, g):
        y, back = jax.vjp(lambda x: getattr(nn_codes, product)(x, codes, scale, dtype), x)
        return y, back(g)[0]

    traced = jax.make_jaxpr(slope)(x, jnp.asarray(g, dtype))
    dots = [eqn for eqn in equations(traced.jaxpr) if eqn.primitive.name == "dot_general"]
    assert len(dots) == 2
    assert {str(v.aval.dtype) for eqn in dots for v in eqn.invars} == {"bfloat16"}
    y, found = jax.jit(slope)(x, jnp.asarray(g, dtype))
    assert (y.dtype, found.dtype) == (dtype, jnp.bfloat16)
    back = np.asarray(decode(codes, scale))
    want = g @ (back if rows else back.T)
    off = np.linalg.norm(np.asarray(found, np.float32) - want) / np.linalg.norm(want)
    assert off < 2**-7  # of rounding the numbers of each product to bfloat16


def equations(jaxpr):
    """Those of inner programs too, but no program twice."""
    for eqn in jaxpr.eqns:
        inner = [v for v in eqn.params.values() if hasattr(getattr(v, "jaxpr", v), "eqns")]
        for value in inner:
            yield from equations(getattr(value, "jaxpr", value))
        if not inner:
            yield eqn


# LoRA on codes


def filled(params):
    rng = np.random.default_rng(2)

    def fill(path: str, x):
        made = jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32)
        return made if path.endswith(LORA_B) else x

    return map_with_path(fill, params)


def joined(base, lora):
    if not isinstance(base, dict):
        return base
    return {k: joined(base.get(k, {}), lora.get(k, {})) if k in base else lora[k]
            for k in (*base, *(k for k in lora if k not in base))}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_factors_as_over_float_kernels(kind):
    graphdef, params = quantized(kind, lora=True)
    params = filled(params)
    base, lora = split_lora(params)
    assert {base_path(path) for path in flat(base)} == flat(make()[1]).keys()
    plain, back = make(lora=True)[0], dequantize_params(base)

    def loss(lora, graphdef, base):
        return jnp.square(logits(graphdef, joined(base, lora))).mean()

    want, want_slope = jax.value_and_grad(loss)(lora, plain, back)
    got, slope = jax.value_and_grad(loss)(lora, graphdef, base)
    assert float(got) == pytest.approx(float(want), rel=1e-5)
    for path, g in flat(slope).items():
        w = np.asarray(flat(want_slope)[path])
        assert np.linalg.norm(np.asarray(g) - w) <= 1e-5 * np.linalg.norm(w), path


@pytest.mark.parametrize("kind", KINDS)
def test_neither_pass_makes_a_stack_of_float_weights(kind):
    graphdef, params = quantized(kind, lora=True)
    base, lora = split_lora(params)

    def loss(lora, base):
        return jnp.square(logits(graphdef, joined(base, lora))).mean()

    text = jax.jit(jax.grad(loss)).lower(lora, base).compile().as_text()
    stacks = {f"f32[{','.join(map(str, s))}]" for s in ((3, 64, 64), (3, 64, 128), (3, 128, 64))}
    assert not {stack for stack in stacks if stack in text}


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_keeps_codes_in_a_stack(kind):
    """Unrolled, XLA would take their conversion out of the loop: a whole float model."""
    decoder = nnx.merge(*quantized(kind), {})
    assert unstacked(decoder) is decoder


@pytest.mark.parametrize("kind", KINDS)
def test_merging_into_codes_gives_floats(kind):
    graphdef, params = quantized(kind, lora=True)
    params = filled(params)
    merged = merge_lora(params, LORA)
    assert {p: x.dtype for p, x in flat(merged).items()} == dict.fromkeys(
        flat(make()[1]), jnp.float32
    )
    want = logits(graphdef, params)
    np.testing.assert_allclose(logits(make()[0], merged), want, rtol=0, atol=1e-5)


# Where they are stored


def test_codes_and_scales_are_placed_by_the_rule_of_their_weight():
    shape = jax.ShapeDtypeStruct
    tree = {
        "q": {
            "kernel_int8": shape((3, 8, 4), jnp.int8),
            "kernel_scale": shape((3, 1, 4), jnp.float32),
        },
        "r": {
            "kernel_nf4": shape((3, 64, 4), jnp.uint8),
            "kernel_scale": shape((3, 2, 4), jnp.float32),
            "kernel_lora_a": shape((3, 128, 5), jnp.float32),
        },
        "odd": {
            "kernel_nf4": shape((32, 4), jnp.uint8),
            "kernel_scale": shape((1, 4), jnp.float32),
        },
        "embed": {
            "embedding_int8": shape((8, 4), jnp.int8),
            "embedding_scale": shape((8, 1), jnp.float32),
        },
    }
    rules = [
        Rule("^[qr]/kernel$", ("fsdp", "tensor")),
        Rule("^odd/kernel$", ("fsdp?", "tensor")),
        Rule("^embed/embedding$", (("tensor", "fsdp"), None)),
    ]
    placed = resolve(tree, rules, make_mesh(MeshConfig(2, 2, 2)))
    assert {path: s.spec for path, s in flat(placed).items()} == {
        "q/kernel_int8": P(None, "fsdp", "tensor"),
        "q/kernel_scale": P(None, None, "tensor"),
        "r/kernel_nf4": P(None, "fsdp", "tensor"),
        "r/kernel_scale": P(None, "fsdp", "tensor"),
        "r/kernel_lora_a": P(None, "fsdp"),
        "odd/kernel_nf4": P(None, "tensor"),
        "odd/kernel_scale": P(None, "tensor"),
        "embed/embedding_int8": P(("tensor", "fsdp")),
        "embed/embedding_scale": P(("tensor", "fsdp")),
    }


def test_blocks_of_nf4_that_would_straddle_devices_are_refused():
    tree = {"q": {"kernel_nf4": jax.ShapeDtypeStruct((96, 4), jnp.uint8),
                  "kernel_scale": jax.ShapeDtypeStruct((3, 4), jnp.float32)}}  # fmt: skip
    rules = [Rule("^q/kernel$", ("fsdp", "tensor"))]
    line = error(lambda: resolve(tree, rules, make_mesh(MeshConfig(2, 2, 2))))
    assert line == (
        "a dimension does not divide over the mesh in q/kernel_nf4 (rule '^q/kernel$', shape "
        "(96, 4)), in blocks of 64 inputs; expected dimension 0 to be a multiple of 2 (fsdp); "
        "found 3"
    )


# Bad input


def error(call) -> str:
    with pytest.raises(ConfigError) as found:
        call()
    assert "\n" not in str(found.value)
    return str(found.value)


def fresh():
    return Llama(SMALL, rngs=nnx.Rngs(0))


def test_an_unknown_kind(untyped):
    for call in (
        lambda: quantize(fresh(), "int4"),
        lambda: quantize_params(make()[1], "int4"),
    ):
        assert error(call) == (
            "unknown choice in quantize(kind); expected int8 | nf4; found 'int4'; "
            "did you mean 'int8'?"
        )


def test_nf4_of_inputs_that_are_no_multiple_of_its_block():
    config = LlamaConfig(
        vocab_size=31, width=64, layers=1, heads=4, kv_heads=2, mlp_dim=96, max_length=16
    )
    model = Llama(config, rngs=nnx.Rngs(0))
    assert error(lambda: quantize(model, "nf4")) == (
        "inputs that nf4 cannot cut into blocks in layers/mlp/down/kernel; expected a multiple of "
        "64; found 96; int8 there (quantize twice, with other targets)"
    )
    assert not [p for p in flat(split_model(model)[1]) if is_quantized(p)]  # nothing half done
    quantize(model, "nf4", targets="attention|gate|up")
    quantize(model, "int8", targets="down")


def test_nf4_of_a_table():
    line = "a table of vectors has no nf4 in embed/embedding; int8"
    assert error(lambda: quantize(fresh(), "nf4", targets="embed")) == line


def test_patterns_that_take_nothing():
    assert error(lambda: quantize(fresh(), "int8", targets="^vision/")).startswith(
        "nothing is quantised in quantize(targets); expected a pattern found in the path of a "
        "Linear's kernel or of the table of tokens; found '^vision/'; paths are like embed/"
    )


def test_a_pattern_that_is_none():
    line = error(lambda: quantize(fresh(), "int8", targets="("))
    assert line.startswith("not a regular expression")


def test_quantising_twice():
    model = quantize(fresh(), "int8", targets="/q/")
    for call in (
        lambda: quantize(model, "nf4"),
        lambda: quantize_params(split_model(model)[1], "int8"),
    ):
        line = "quantised already in layers/attention/q/kernel; dequantize_params first"
        assert error(call) == line


@pytest.mark.parametrize(
    "groups",
    [(), (GroupConfig("^layers/"), GroupConfig("", 0.0)), (GroupConfig("kernel_scale", 0.1),)],
)
def test_training_codes(groups):
    params = quantized("int8", lora=True)[1]
    line = error(lambda: make_optimizer(OptimizerConfig(groups=groups), 5, params))
    assert line.startswith(
        "quantised weights cannot be trained in OptimizerConfig.groups; expected a scale of 0"
    )
    assert re.search(r"found (1|0.1) for layers/attention/k/kernel_(int8|scale); a group bef", line)


def test_groups_that_leave_codes_alone():
    params = quantized("nf4", lora=True)[1]
    for groups in (LORA_ONLY, (FROZEN_CODES,)):
        make_optimizer(OptimizerConfig(groups=groups), 5, params)
