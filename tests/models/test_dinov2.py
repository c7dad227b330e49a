"""DINOv2's tower by itself; its numbers are checked in tests/parity."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import ConfigError, Dinov2Config, MeshConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.dinov2 import Dinov2Tower

CONFIG = Dinov2Config(
    image_size=8, table_size=12, patch_size=4, width=8, layers=3, heads=2, mlp_dim=12
)
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)


def made(config: Dinov2Config, *, remat: Remat = "none") -> Dinov2Tower:
    """The model with random variables (norms too), without the time of its initialisers."""
    build = nnx.eval_shape(lambda: Dinov2Tower(config, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(build)
    rng = np.random.default_rng(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def tower(**changes: object) -> Dinov2Tower:
    return made(dataclasses.replace(CONFIG, **changes))


@nnx.jit
def apply(model: Dinov2Tower, images: jax.Array) -> jax.Array:
    return model(images)


def specs(config: Dinov2Config) -> dict[str, P]:
    built = nnx.eval_shape(lambda: Dinov2Tower(config, rngs=nnx.Rngs(0)))
    tree = {"vision": nnx.to_pure_dict(nnx.state(built))}
    rules = [r for r in RULES["fsdp_tensor"] if r.tower == "vision"]
    placed = resolve(tree, rules, make_mesh(MeshConfig(2, 2, 2)))
    return {path: s.spec for path, s in flat(placed).items()}


def test_bfloat16_compute() -> None:
    rounded = apply(tower(), IMAGES.astype(jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), apply(tower(), IMAGES), atol=0.1)


@pytest.mark.parametrize("join", ["tokens", "channels"])
@pytest.mark.parametrize("keep_cls", [False, True])
def test_tokens_are_as_many_as_the_config_says(join: str, keep_cls: bool) -> None:
    model = tower(feature_layers=(0, -2), feature_join=join, keep_cls=keep_cls)
    out = apply(model, IMAGES)
    assert out.shape == (2, model.config.tokens, model.config.out_width)


@pytest.mark.parametrize("swiglu", [False, True])
def test_every_parameter_has_a_gradient(swiglu: bool) -> None:
    config = dataclasses.replace(CONFIG, pool=True, mask_token=True, swiglu=swiglu)
    masked = jnp.asarray([[True, False, False, True], [False] * 4])

    def loss(model: Dinov2Tower) -> jax.Array:
        return jnp.square(model.last_hidden_state(IMAGES, masked)).sum()

    for path, value in flat(nnx.jit(nnx.grad(loss))(made(config, remat="full"))).items():
        # A shift of all keys changes no softmax: the key bias never has a gradient.
        if path != "layers/attention/k/bias":
            assert (np.abs(value) > 1e-9).any(), path


def test_a_masked_patch_is_not_read() -> None:
    model = tower(mask_token=True)
    masked = jnp.asarray([[True, False, False, False]] * 2)
    run = nnx.jit(lambda model, images: model(images, masked))
    other = IMAGES.at[:, :4, :4].set(3.0)
    np.testing.assert_array_equal(run(model, IMAGES), run(model, other))
    assert (np.asarray(run(model, IMAGES)) != np.asarray(apply(model, IMAGES))).any()


def test_what_a_tower_was_built_without_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no final norm in Dinov2Config.pool"):
        tower().pooled(IMAGES)
    with pytest.raises(ConfigError, match=r"no mask token in Dinov2Config.mask_token"):
        tower()(IMAGES, jnp.zeros((2, 4), bool))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # Counted by transformers' Dinov2Model: large and giant.
        (Dinov2Config(pool=True, mask_token=True), 304_368_640),
        (
            Dinov2Config(
                width=1536, layers=40, heads=24, mlp_dim=4096, swiglu=True, pool=True,
                mask_token=True,
            ),
            1_136_480_768,
        ),
    ],
)  # fmt: skip
def test_parameters_of_published_models(config: Dinov2Config, parameters: int) -> None:
    built = nnx.eval_shape(lambda: Dinov2Tower(config, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in flat(nnx.state(built)).values()) == parameters


def test_every_parameter_has_a_place_on_the_mesh() -> None:
    placed = specs(dataclasses.replace(CONFIG, pool=True, mask_token=True, swiglu=True))
    assert placed["vision/layers/mlp/gate/kernel"] == P(None, "fsdp", "tensor")
    assert placed["vision/layers/mlp/down/kernel"] == P(None, "tensor", "fsdp")
    assert placed["vision/layers/scale1"] == placed["vision/mask_token"] == P()
