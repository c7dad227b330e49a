"""The vision tower by itself; its numbers are checked in tests/parity."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import ConfigError, ViTConfig
from rsvlm_jax.core import flat
from rsvlm_jax.models.clip_vit import CLIPVisionTower

CONFIG = ViTConfig(
    image_size=8, patch_size=4, width=8, layers=3, heads=2, mlp_dim=12, feature_layers=(-1,)
)
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)


def made(config: ViTConfig, *, remat: bool = False) -> CLIPVisionTower:
    """The model with random variables (norms too), without the time of its initialisers."""
    build = nnx.eval_shape(lambda: CLIPVisionTower(config, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(build)
    rng = np.random.default_rng(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def tower(**changes: object) -> CLIPVisionTower:
    """The same weights whatever is read out."""
    return made(dataclasses.replace(CONFIG, **changes))


@nnx.jit
def apply(model: CLIPVisionTower, images: jax.Array) -> jax.Array:
    return model(images)


@pytest.mark.parametrize(
    ("feature_layers", "keep_cls"), [((-1,), False), ((0, -2), False), ((1, 2), True)]
)
def test_tokens_are_as_many_as_the_config_says(
    feature_layers: tuple[int, ...], keep_cls: bool
) -> None:
    model = tower(feature_layers=feature_layers, keep_cls=keep_cls)
    assert apply(model, IMAGES).shape == (2, model.config.tokens, 8)


def test_layers_are_joined_in_the_order_asked_for() -> None:
    both = apply(tower(feature_layers=(-1, 1)), IMAGES)
    last, first = (
        apply(tower(feature_layers=(3,)), IMAGES),
        apply(tower(feature_layers=(1,)), IMAGES),
    )
    np.testing.assert_array_equal(both, jnp.concatenate([last, first], axis=1))


def test_bfloat16_compute() -> None:
    out = apply(tower(), IMAGES.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), apply(tower(), IMAGES), atol=0.1)


def test_every_parameter_has_a_gradient() -> None:
    gradient = nnx.jit(nnx.grad(lambda model: jnp.square(model(IMAGES)).sum()))
    for path, value in flat(gradient(made(CONFIG, remat=True))).items():
        # A shift of all keys changes no softmax: the key bias never has a gradient.
        if path != "layers/attention/k/bias":
            assert (np.abs(value) > 1e-8).any(), path


def test_no_such_feature_layer() -> None:
    with pytest.raises(ConfigError, match=r"no such layer in ViTConfig.feature_layers; .* found 4"):
        tower(feature_layers=(4,))
