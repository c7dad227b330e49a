"""The vision tower by itself; its numbers are checked in tests/parity."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import ConfigError, MeshConfig, ViTConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.clip_vit import CLIPVisionTower

CONFIG = ViTConfig(
    image_size=8, patch_size=4, width=8, layers=3, heads=2, mlp_dim=12, feature_layers=(-1,)
)
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)


def made(config: ViTConfig, *, remat: Remat = "none") -> CLIPVisionTower:
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
    for path, value in flat(gradient(made(CONFIG, remat="full"))).items():
        # A shift of all keys changes no softmax: the key bias never has a gradient.
        if path != "layers/attention/k/bias":
            assert (np.abs(value) > 1e-8).any(), path


def test_layers_joined_along_channels() -> None:
    wide = tower(feature_layers=(-1, 1), feature_join="channels")
    out = apply(wide, IMAGES)
    assert out.shape == (2, wide.config.tokens, wide.config.out_width) == (2, 4, 16)
    rows = apply(tower(feature_layers=(-1, 1)), IMAGES)
    np.testing.assert_array_equal(out, jnp.concatenate(jnp.split(rows, 2, axis=1), axis=2))


def test_images_of_another_size_and_shape() -> None:
    """Tokens of a wide image; position rows are interpolated, the class token's is not."""
    images = jnp.asarray(np.random.default_rng(2).standard_normal((1, 4, 12, 3)), jnp.float32)
    assert apply(tower(), images).shape == (1, 3, 8)
    with pytest.raises(ConfigError, match=r"divide into patches .* multiples of 4; found 4 x 10"):
        tower()(images[:, :, :10])


def test_what_a_tower_was_built_without_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nothing to pool with in ViTConfig.pool; expected True"):
        tower().pooled(IMAGES)
    with pytest.raises(ConfigError, match=r"no projection in ViTConfig.projection_dim"):
        tower(pool=True).embed_image(IMAGES)
    with pytest.raises(ConfigError, match=r"a projection of nothing in ViTConfig.projection_dim"):
        dataclasses.replace(CONFIG, projection_dim=3)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # Counted by transformers: CLIPVisionModel and CLIPVisionModelWithProjection.
        (ViTConfig(pool=True), 303_507_456),
        (ViTConfig(pool=True, projection_dim=768), 304_293_888),
    ],
)
def test_parameters_of_clip_l_14_336(config: ViTConfig, parameters: int) -> None:
    built = nnx.eval_shape(lambda: CLIPVisionTower(config, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in flat(nnx.state(built)).values()) == parameters


def test_every_parameter_has_a_place_on_the_mesh() -> None:
    config = dataclasses.replace(CONFIG, pool=True, projection_dim=6)
    built = nnx.eval_shape(lambda: CLIPVisionTower(config, rngs=nnx.Rngs(0)))
    tree = {"vision": nnx.to_pure_dict(nnx.state(built))}
    rules = [r for r in RULES["fsdp_tensor"] if r.tower == "vision"]
    specs = {
        k: s.spec for k, s in flat(resolve(tree, rules, make_mesh(MeshConfig(2, 2, 2)))).items()
    }
    assert specs["vision/projection/kernel"] == P("fsdp", "tensor")
    assert specs["vision/post_norm/scale"] == P()


def test_no_such_feature_layer() -> None:
    with pytest.raises(ConfigError, match=r"no such layer in ViTConfig.feature_layers; .* found 4"):
        tower(feature_layers=(4,))
