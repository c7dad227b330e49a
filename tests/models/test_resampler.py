"""Resamplers: fewer tokens of one frame."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import FAST, filled, shapes
from flax import nnx
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import (
    ConfigError,
    ConvNextConfig,
    Dinov2Config,
    MeshConfig,
    MixedConfig,
    PerceiverConfig,
    PixelShuffleConfig,
    QFormerConfig,
    ResamplerConfig,
    SiglipConfig,
    VisionConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.resampler import Perceiver, PixelShuffle, QFormer, build_resampler
from rsvlm_jax.models.resampler.perceiver import PerceiverBlock

RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.standard_normal((2, 8, 6)), jnp.float32)
QFORMER = QFormerConfig(
    queries=3, width=8, layers=3, heads=2, mlp_dim=10, cross_attention_frequency=2
)
PERCEIVER = PerceiverConfig(queries=(3, 1), layers=2, heads=3, mlp_dim=10)


def apply(model: nnx.Module, tokens: jax.Array) -> jax.Array:
    graphdef, state = nnx.split(model)
    return jax.jit(lambda s, x: nnx.merge(graphdef, s)(x), compiler_options=FAST)(state, tokens)


def qformer(*, remat: Remat = "none") -> QFormer:
    return filled(lambda: QFormer(QFORMER, 6, remat=remat, rngs=nnx.Rngs(0)))


def perceiver(*, remat: Remat = "none") -> Perceiver:
    return filled(lambda: Perceiver(PERCEIVER, 6, remat=remat, rngs=nnx.Rngs(0)))


def test_pixel_shuffle_is_the_picture_of_its_docstring() -> None:
    tokens = jnp.arange(16, dtype=jnp.float32)[None, :, None]
    out = PixelShuffle(PixelShuffleConfig(factor=2), (4, 4))(tokens)
    wanted = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    np.testing.assert_array_equal(out[0], wanted)


@pytest.mark.parametrize(("grid", "factor"), [((2, 6), 2), ((6, 3), 3), ((2, 2), 1)])
def test_pixel_shuffle_loses_nothing(grid: tuple[int, int], factor: int) -> None:
    rows, columns = grid[0] // factor, grid[1] // factor
    tokens = jnp.asarray(RNG.standard_normal((2, grid[0] * grid[1], 5)), jnp.float32)
    out = PixelShuffle(PixelShuffleConfig(factor=factor), grid)(tokens)
    assert out.shape == (2, rows * columns, 5 * factor**2)
    back = np.asarray(out).reshape(2, rows, columns, factor, factor, 5)
    back = back.transpose(0, 1, 3, 2, 4, 5).reshape(tokens.shape)
    np.testing.assert_array_equal(back, tokens)


def test_pixel_shuffle_needs_whole_squares() -> None:
    with pytest.raises(ConfigError, match=r"whole squares in PixelShuffle; .*found 3 x 4"):
        PixelShuffle(PixelShuffleConfig(factor=2), (3, 4))


@pytest.mark.parametrize("make", [qformer, perceiver])
def test_frames_do_not_see_each_other(make: Any) -> None:
    made = apply(make(), jnp.concatenate([TOKENS, TOKENS[:1] + 1.0, TOKENS[:1]]))
    np.testing.assert_allclose(made[0], made[3], rtol=1e-5, atol=1e-5)
    assert (np.abs(made[0] - made[1]) > 1e-3).any()


def test_the_order_of_tokens_is_nothing_to_a_qformer() -> None:
    """It has no positions of its own: the tower's tokens carry theirs."""
    a, b = apply(qformer(), TOKENS), apply(qformer(), TOKENS[:, ::-1])
    assert a.shape == (2, 3, 8)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_level_is_read_by_its_own_queries_only() -> None:
    out = apply(perceiver(), TOKENS)
    assert out.shape == (2, 4, 6)
    other = apply(perceiver(), TOKENS.at[:, 4:].add(1.0 + TOKENS[:, :4]))
    np.testing.assert_array_equal(out[:, :3], other[:, :3])
    assert (np.abs(out[:, 3] - other[:, 3]) > 1e-4).any()


def test_a_perceiver_layer_reads_features_and_queries() -> None:
    """With one query, one feature and values that are sums of both norms: by hand."""
    config = dataclasses.replace(PERCEIVER, heads=1)
    block = filled(lambda: PerceiverBlock(config, 6, rngs=nnx.Rngs(0)))
    x, memory = TOKENS[:1, :1], TOKENS[:1, 1:2]
    query, feature = block.norm1(x)[0], block.norm_memory(memory)[0]
    keys = jnp.concatenate([feature, query])
    a = block.attention
    weights = jax.nn.softmax(a.q(query) @ a.k(keys).T / np.sqrt(6).astype(np.float32))
    y = x[0] + a.o(weights @ a.v(keys))
    wanted = y + block.mlp(block.norm2(y)[None])[0]
    np.testing.assert_allclose(block(x, memory)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [qformer, perceiver])
def test_bfloat16_compute(make: Any) -> None:
    out, full = apply(make(), TOKENS.astype(jnp.bfloat16)), apply(make(), TOKENS)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), full, atol=0.1 * float(full.std()))


def shared(*, remat: Remat = "none") -> Perceiver:
    config = dataclasses.replace(PERCEIVER, share_layers=True)
    return filled(lambda: Perceiver(config, 6, remat=remat, rngs=nnx.Rngs(0)))


def test_shared_layers_are_one_stack_for_all_levels() -> None:
    """As many parameters fewer as a second stack has; each level as one that owns the stack."""
    own, one = (flat(nnx.state(m, nnx.Param)) for m in (perceiver(), shared()))
    layer = {p.removeprefix("layers/"): x.size for p, x in one.items() if p.startswith("layers/")}
    assert {p.removeprefix("levels/1/layers/") for p in own if "1/layers" in p} == layer.keys()
    # Two layers of: three norms, four 6 x 6 maps and two of the MLP with their biases.
    assert sum(layer.values()) == 2 * (3 * 12 + 4 * 42 + (6 * 10 + 10) + (10 * 6 + 6))
    count = {name: sum(x.size for x in m.values()) for name, m in (("own", own), ("one", one))}
    assert count["own"] - count["one"] == sum(layer.values())
    model, alone = shared(), perceiver()
    for level, its in zip(alone.levels, model.levels, strict=True):
        level.layers, level.query, level.norm = model.layers, its.query, its.norm
    np.testing.assert_array_equal(apply(model, TOKENS), apply(alone, TOKENS))


def test_shared_layers_have_a_place_on_the_mesh() -> None:
    tree = {"resampler": nnx.to_pure_dict(nnx.state(shared(), nnx.Param))}
    rules = [rule for rule in RULES["fsdp_tensor"] if rule.tower == "resampler"]
    placed = flat(resolve(tree, rules, make_mesh(MeshConfig(2, 2, 2))))
    assert placed["resampler/layers/mlp/fc1/kernel"].spec == P(None, "fsdp", "tensor")


def test_gradients_of_shared_layers_are_the_sum_over_levels() -> None:
    model, alone = shared(), perceiver()
    for level, its in zip(alone.levels, model.levels, strict=True):
        level.layers, level.query, level.norm = nnx.clone(model.layers), its.query, its.norm

    def gradients(model: Perceiver) -> dict[str, jax.Array]:
        graphdef, state = nnx.split(model)

        def loss(state: Any) -> jax.Array:
            return jnp.sin(3 * nnx.merge(graphdef, state)(TOKENS)).sum()

        return flat(jax.jit(jax.grad(loss), compiler_options=FAST)(state))

    ours, each = gradients(model), gradients(alone)
    for path, value in ours.items():
        if path.startswith("layers/"):
            wanted = each[f"levels/0/{path}"] + each[f"levels/1/{path}"]
            assert np.linalg.norm(value - wanted) <= 1e-5 * np.linalg.norm(wanted) + 1e-6, path


@pytest.mark.parametrize("make", [qformer, perceiver, shared])
def test_every_parameter_has_a_gradient(make: Any) -> None:
    graphdef, state = nnx.split(make(remat="full"))

    def loss(state: Any) -> jax.Array:
        return jnp.sin(3 * nnx.merge(graphdef, state)(TOKENS)).sum()

    for path, value in flat(jax.jit(jax.grad(loss), compiler_options=FAST)(state)).items():
        # A shift of all keys changes no softmax.
        if not path.endswith("k/bias"):
            assert (np.abs(value) > 1e-7).any(), path


SMALL: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "width": 6,
    "layers": 2,
    "heads": 2,
    "mlp_dim": 8,
}
CONVNEXT = ConvNextConfig(image_size=18, patch_size=4, widths=(4, 6), depths=(1, 1))
DINOV2 = Dinov2Config(**SMALL, table_size=16)
TOWERS: dict[str, VisionConfig] = {
    "clip": ViTConfig(**SMALL),
    "clip_levels": ViTConfig(**SMALL, feature_layers=(0, 1, 2)),
    "clip_channels": ViTConfig(**SMALL, feature_layers=(0, 1), feature_join="channels"),
    "clip_cls": ViTConfig(**SMALL, feature_layers=(0, 1), keep_cls=True),
    "siglip": SiglipConfig(**{**SMALL, "image_size": 18}),
    "dinov2": DINOV2,
    "convnext": CONVNEXT,
    "convnext_stages": dataclasses.replace(CONVNEXT, feature_stages=(-1, 0)),
    "mixed": MixedConfig(first=DINOV2, second=CONVNEXT),
}
RESAMPLERS: dict[str, ResamplerConfig] = {
    "pixel_shuffle": PixelShuffleConfig(factor=2),
    "pixel_shuffle_3": PixelShuffleConfig(factor=3),
    "qformer": QFORMER,
    "perceiver_1": dataclasses.replace(PERCEIVER, queries=(5,), heads=2),
    "perceiver_2": dataclasses.replace(PERCEIVER, queries=(3, 1), heads=2),
    "perceiver_shared": dataclasses.replace(
        PERCEIVER, queries=(3, 2, 1), heads=2, share_layers=True
    ),
    "perceiver_3": dataclasses.replace(PERCEIVER, queries=(3, 2, 1), heads=2),
}
FITS = {
    "clip": {"pixel_shuffle", "qformer", "perceiver_1"},
    "clip_levels": {"qformer", "perceiver_3", "perceiver_shared"},
    "clip_channels": {"pixel_shuffle", "qformer", "perceiver_1"},
    "clip_cls": {"qformer", "perceiver_2"},
    "siglip": {"pixel_shuffle", "qformer", "perceiver_1"},
    "dinov2": {"pixel_shuffle", "qformer", "perceiver_1"},
    "convnext": {"pixel_shuffle", "qformer", "perceiver_1"},
    "convnext_stages": {"pixel_shuffle", "qformer", "perceiver_1"},
    "mixed": {"pixel_shuffle", "qformer", "perceiver_1"},
}


@pytest.mark.parametrize(("tower", "name"), list(itertools.product(TOWERS, RESAMPLERS)))
def test_the_count_is_known_before_anything_is_built(tower: str, name: str) -> None:
    vision, resampler = TOWERS[tower], RESAMPLERS[name]
    if name not in FITS[tower]:
        with pytest.raises(ConfigError, match=r"VLMConfig\.resampler"):
            VLMConfig(vision=vision, resampler=resampler, head=None)
        return
    config = VLMConfig(vision=vision, resampler=resampler, head=None)
    model = nnx.eval_shape(lambda: build_resampler(resampler, vision, rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((2, vision.tokens, vision.out_width), jnp.float32)
    made = shapes(model, lambda m, x: m(x), tokens)
    assert made.shape == (2, config.frame_tokens, config.frame_width)


def test_heads_that_do_not_divide_the_tower_are_refused() -> None:
    resampler = dataclasses.replace(PERCEIVER, queries=(5,), heads=4)
    with pytest.raises(ConfigError, match=r"perceiver's heads in VLMConfig.resampler.heads"):
        VLMConfig(vision=TOWERS["clip"], resampler=resampler, head=None)
    with pytest.raises(ConfigError, match=r"perceiver's heads in PerceiverConfig.heads"):
        Perceiver(resampler, 6, rngs=nnx.Rngs(0))
