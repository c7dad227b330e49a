"""ConvNeXt by itself; its numbers against transformers stand in tests/parity."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import FAST, filled, shapes
from flax import nnx

from rsvlm_jax.config import ConfigError, ConvNextConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.models.convnext import ConvNextTower, DepthwiseConv, resized

CONFIG = ConvNextConfig(
    image_size=18, patch_size=2, widths=(4, 6), depths=(2, 1), layer_scale=0.5, pool=True
)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.standard_normal((2, 18, 18, 3)), jnp.float32)


def tower(*, remat: Remat = "none", **changes: Any) -> ConvNextTower:
    """The same weights whatever is read out."""
    config = dataclasses.replace(CONFIG, **changes)
    return filled(lambda: ConvNextTower(config, remat=remat, rngs=nnx.Rngs(0)))


def apply(model: ConvNextTower, images: jax.Array) -> jax.Array:
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x), compiler_options=FAST)
    return run(state, images)


@pytest.mark.parametrize("size", [8, 18, 33, 64])
@pytest.mark.parametrize("stages", [(-1,), (0,), (1, 2, 0), (-1, -2)])
def test_tokens_are_as_many_as_the_config_says(size: int, stages: tuple[int, ...]) -> None:
    config = dataclasses.replace(CONFIG, image_size=size, feature_stages=stages)
    abstract = nnx.eval_shape(lambda: ConvNextTower(config, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    made = shapes(abstract, lambda model, x: model(x), images)
    assert made.shape == (2, config.tokens, config.out_width)


def test_stages_are_joined_on_the_grid_of_the_first_of_them() -> None:
    model = tower()
    maps = model.hidden_states(IMAGES)
    assert [m.shape for m in maps] == [(2, 9, 9, 4), (2, 9, 9, 4), (2, 4, 4, 6)]
    both = apply(tower(feature_stages=(-1, 1)), IMAGES).reshape(2, 4, 4, 10)
    np.testing.assert_allclose(both[..., :6], maps[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(both[..., 6:], resized(maps[1], 4, 4), rtol=1e-5, atol=1e-5)


def test_an_image_that_is_not_square() -> None:
    images = jnp.asarray(RNG.standard_normal((1, 11, 23, 3)), jnp.float32)
    made = apply(tower(), images)
    assert made.shape == (1, 2 * 5, 6)
    edge = images.at[:, 10].set(7.0).at[:, :, 22].set(-7.0)  # fills no patch of two
    np.testing.assert_array_equal(made, apply(tower(), edge))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_depthwise_convolution(size: int) -> None:
    conv = filled(lambda: DepthwiseConv(2, size, rngs=nnx.Rngs(0)))
    x = RNG.standard_normal((1, 3, 5, 2)).astype(np.float32)
    edge = (size // 2, size // 2)
    padded = np.pad(x, ((0, 0), edge, edge, (0, 0)))
    kernel = np.asarray(conv.kernel[...]).reshape(size, size, 2)
    wanted = sum(
        kernel[i, j] * padded[:, i : i + 3, j : j + 5] for i in range(size) for j in range(size)
    )
    wanted = wanted + np.asarray(conv.bias[...])
    np.testing.assert_allclose(conv(jnp.asarray(x)), wanted, rtol=1e-5, atol=1e-5)


def test_bfloat16_compute() -> None:
    graphdef, state = nnx.split(tower())

    def run(state: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, state)
        return model(images), model.pooled(images)

    program = jax.jit(run, compiler_options=FAST)
    for out, full in zip(
        program(state, IMAGES.astype(jnp.bfloat16)), program(state, IMAGES), strict=True
    ):
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), full, atol=0.05 * float(full.std()))


def test_every_parameter_has_a_gradient() -> None:
    graphdef, state = nnx.split(tower(remat="full"))

    def loss(state: Any) -> jax.Array:
        model = nnx.merge(graphdef, state)
        return jnp.square(model(IMAGES)).sum() + jnp.sin(model.pooled(IMAGES)).sum()

    for path, value in flat(jax.jit(jax.grad(loss), compiler_options=FAST)(state)).items():
        assert (np.abs(value) > 1e-6).any(), path


def test_without_layer_scale() -> None:
    paths = flat(nnx.state(tower(layer_scale=0.0, pool=False)))
    assert not any("layer_scale" in p or "post_norm" in p for p in paths)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"feature_stages": (3,)}, r"no such stage in .*feature_stages; expected -3 .. 2; found 3"),
        ({"feature_stages": ()}, r"no stage is returned in ConvNextConfig.feature_stages"),
        ({"image_size": 3}, r"nothing of the image reaches .*image_size; expected >= 4; found 3"),
        ({"widths": (4, 0)}, r"not a size in ConvNextConfig; found 0"),
        ({"depths": (1,)}, r"a width and a depth for each stage in ConvNextConfig"),
    ],
)
def test_a_config_that_cannot_be(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        dataclasses.replace(CONFIG, **changes)


def test_no_final_norm_no_pooled_output() -> None:
    with pytest.raises(ConfigError, match=r"nothing to pool with in ConvNextConfig.pool"):
        tower(pool=False).pooled(IMAGES)
