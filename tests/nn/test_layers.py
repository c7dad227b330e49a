"""Linear, embeddings, norms, MLPs, patches: formulas, dtypes, edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax import nn
from rsvlm_jax.core import flat
from rsvlm_jax.nn.mlp import ACTIVATIONS
from rsvlm_jax.nn.patch import patches

RNG = np.random.default_rng(0)


def values(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


LAYERS = {
    "linear": lambda r: nn.Linear(6, 4, rngs=r),
    "linear_no_bias": lambda r: nn.Linear(6, 4, bias=False, rngs=r),
    "layer_norm": lambda r: nn.LayerNorm(6, rngs=r),
    "rms_norm": lambda r: nn.RMSNorm(6, rngs=r),
    "mlp": lambda r: nn.Mlp(6, 8, "gelu", rngs=r),
    "mlp_d_out": lambda r: nn.Mlp(6, 8, "silu", d_out=3, rngs=r),
    "swiglu": lambda r: nn.SwiGLU(6, 8, rngs=r),
    "attention": lambda r: nn.Attention(6, 3, rngs=r),
    "mixer": lambda r: nn.MixerBlock(5, 6, 4, 4, rngs=r),
}


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_compute_on_float32_master_weights(name: str) -> None:
    layer = LAYERS[name](nnx.Rngs(0))
    assert {x.dtype for x in flat(nnx.state(layer)).values()} == {jnp.dtype("float32")}
    x = values(2, 5, 6)
    apply = nnx.jit(lambda layer, x: layer(x))
    exact, rounded = apply(layer, x), apply(layer, x.astype(jnp.bfloat16))
    assert exact.dtype == jnp.float32
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, rtol=0.05, atol=0.06)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_x_kernel_plus_bias(bias: bool) -> None:
    layer = nn.Linear(3, 2, bias=bias, rngs=nnx.Rngs(0))
    assert sorted(flat(nnx.state(layer))) == (["bias", "kernel"] if bias else ["kernel"])
    assert layer.kernel.shape == (3, 2)
    if bias:
        layer.bias[...] = jnp.array([1.0, -1.0])
    x = values(4, 3)
    wanted = np.asarray(x) @ np.asarray(layer.kernel[...]) + ([1.0, -1.0] if bias else 0.0)
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-5, atol=1e-6)


def test_embedding_looks_up_and_scores() -> None:
    table = nn.Embed(5, 3, rngs=nnx.Rngs(0))
    ids = jnp.array([[4, 0]], jnp.int32)
    np.testing.assert_array_equal(table(ids)[0, 0], table.embedding[...][4])
    scores = table.attend(values(2, 1, 3).astype(jnp.bfloat16))
    assert scores.shape == (2, 1, 5)
    assert scores.dtype == jnp.float32


def test_embedding_of_an_unknown_id_is_nan_not_a_neighbour() -> None:
    table = nn.Embed(5, 3, rngs=nnx.Rngs(0))
    assert jnp.isnan(table(jnp.array([5], jnp.int32))).all()


def test_layer_norm_has_mean_bias_and_deviation_scale() -> None:
    norm = nn.LayerNorm(64, eps=1e-6, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jnp.full((64,), 3.0), jnp.full((64,), 7.0)
    y = np.asarray(norm(100.0 + 5.0 * values(4, 64)))
    np.testing.assert_allclose(y.mean(-1), 7.0, atol=1e-3)
    np.testing.assert_allclose(y.std(-1), 3.0, atol=1e-3)


def test_rms_norm_is_invariant_to_scale() -> None:
    norm = nn.RMSNorm(8, eps=0.0, rngs=nnx.Rngs(0))
    x = values(3, 8)
    np.testing.assert_allclose(norm(1000.0 * x), norm(x), rtol=1e-5)
    np.testing.assert_allclose(np.square(norm(x)).mean(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm])
def test_norm_of_zeros_is_finite_in_both_directions(make: type) -> None:
    norm = make(4, rngs=nnx.Rngs(0))
    gradient = jax.grad(lambda x: norm(x).sum())(jnp.zeros((1, 4)))
    assert jnp.isfinite(norm(jnp.zeros((1, 4)))).all()
    assert jnp.isfinite(gradient).all()


def test_norm_moments_are_float32_in_bfloat16() -> None:
    # 256 + 1 is not a bfloat16: moments in that type would lose the difference between the two.
    x = jnp.asarray([[256.0, 258.0] * 32], jnp.bfloat16)
    y = nn.LayerNorm(64, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(y.astype(jnp.float32), [[-1.0, 1.0] * 32], atol=1e-2)


@pytest.mark.parametrize(
    ("name", "at_one"),
    [
        ("gelu", 0.8413447),
        ("gelu_tanh", 0.8411920),
        ("quick_gelu", 0.8457958),
        ("silu", 0.7310586),
        ("relu", 1.0),
    ],
)
def test_activations(name: str, at_one: float) -> None:
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.array([1.0]))[0], at_one, rtol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.array([0.0]))[0], 0.0, atol=1e-7)


def test_swiglu_formula() -> None:
    layer = nn.SwiGLU(3, 5, rngs=nnx.Rngs(0))
    x = values(1, 2, 3)
    gate, up = (np.asarray(x) @ np.asarray(w.kernel[...]) for w in (layer.gate, layer.up))
    wanted = (gate / (1 + np.exp(-gate)) * up) @ np.asarray(layer.down.kernel[...])
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-4, atol=1e-6)


def test_patches_are_in_raster_order_and_flat_by_row_column_channel() -> None:
    y, x, c = np.meshgrid(np.arange(4), np.arange(6), np.arange(3), indexing="ij")
    image = jnp.asarray((100 * y + 10 * x + c)[None], jnp.float32)
    out = patches(image, 2)
    assert out.shape == (1, 6, 12)
    first = [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]
    assert out[0, 0].tolist() == first
    assert out[0, 1].tolist() == [v + 20 for v in first]  # to the right
    assert out[0, 3].tolist() == [v + 200 for v in first]  # the next row


def test_patch_embedding_is_a_strided_convolution() -> None:
    layer = nn.PatchEmbed(4, 5, rngs=nnx.Rngs(0))
    images = values(2, 8, 8, 3)
    kernel = layer.kernel[...].reshape(4, 4, 3, 5)
    conv = jax.lax.conv_general_dilated(
        images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer(images), conv.reshape(2, 4, 5), rtol=1e-4, atol=1e-5)


def test_statistics_are_no_parameters() -> None:
    layer = nn.Linear(2, 2, rngs=nnx.Rngs(0))
    layer.mean = nn.Stat(jnp.zeros((2,)))
    assert sorted(flat(nnx.state(layer, nnx.Param))) == ["bias", "kernel"]
    assert sorted(flat(nnx.state(layer, nn.Stat))) == ["mean"]
