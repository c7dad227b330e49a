"""SigLIP's tower by itself; its numbers are checked in tests/parity."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import ConfigError, MeshConfig, SiglipConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.siglip import SiglipVisionTower

CONFIG = SiglipConfig(
    image_size=10, patch_size=4, width=8, layers=3, heads=2, mlp_dim=12, feature_layers=(-1,)
)
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 10, 10, 3)), jnp.float32)


def made(config: SiglipConfig, *, remat: Remat = "none") -> SiglipVisionTower:
    """The model with random variables (norms too), without the time of its initialisers."""
    build = nnx.eval_shape(lambda: SiglipVisionTower(config, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(build)
    rng = np.random.default_rng(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def tower(**changes: object) -> SiglipVisionTower:
    return made(dataclasses.replace(CONFIG, **changes))


@nnx.jit
def apply(model: SiglipVisionTower, images: jax.Array) -> jax.Array:
    return model(images)


def specs(config: SiglipConfig) -> dict[str, P]:
    built = nnx.eval_shape(lambda: SiglipVisionTower(config, rngs=nnx.Rngs(0)))
    tree = {"vision": nnx.to_pure_dict(nnx.state(built))}
    rules = [r for r in RULES["fsdp_tensor"] if r.tower == "vision"]
    placed = resolve(tree, rules, make_mesh(MeshConfig(2, 2, 2)))
    return {path: s.spec for path, s in flat(placed).items()}


def test_bfloat16_compute() -> None:
    rounded = apply(tower(), IMAGES.astype(jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), apply(tower(), IMAGES), atol=0.1)


@pytest.mark.parametrize("join", ["tokens", "channels"])
def test_tokens_are_as_many_as_the_config_says(join: str) -> None:
    model = tower(feature_layers=(0, -2), feature_join=join)
    shape = (2, model.config.tokens, model.config.out_width)
    assert apply(model, IMAGES).shape == shape == ((2, 8, 8) if join == "tokens" else (2, 4, 16))


def test_pixels_that_fill_no_patch_are_not_read() -> None:
    out = apply(tower(), IMAGES)
    np.testing.assert_array_equal(out, apply(tower(), IMAGES.at[:, 8:].set(7).at[:, :, 8:].set(7)))
    np.testing.assert_array_equal(out, apply(tower(), IMAGES[:, :8, :8]))


def test_every_parameter_has_a_gradient() -> None:
    model = made(dataclasses.replace(CONFIG, pool=True), remat="full")
    gradient = nnx.jit(nnx.grad(lambda model: jnp.square(model.pooled(IMAGES)).sum()))
    for path, value in flat(gradient(model)).items():
        # A shift of all keys changes no softmax: the key bias never has a gradient.
        if not path.endswith("attention/k/bias"):
            assert (np.abs(value) > 1e-9).any(), path


def test_a_tower_without_a_head_does_not_pool() -> None:
    with pytest.raises(ConfigError, match=r"nothing to pool with in SiglipConfig.pool"):
        tower().pooled(IMAGES)
    with pytest.raises(ConfigError, match=r"no final norm in SiglipConfig.pool"):
        tower().last_hidden_state(IMAGES)
    headless = tower(pool=True, head=False)
    assert not [path for path in flat(nnx.state(headless, nnx.Param)) if path.startswith("head/")]
    assert headless.last_hidden_state(IMAGES).shape == (2, 4, 8)
    with pytest.raises(ConfigError, match=r"nothing to pool with in SiglipConfig.head"):
        headless.pooled(IMAGES)


def test_parameters_of_so400m_patch14_384() -> None:
    """Counted by transformers' SiglipVisionModel."""
    config = SiglipConfig(pool=True)
    built = nnx.eval_shape(lambda: SiglipVisionTower(config, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in flat(nnx.state(built)).values()) == 428_225_600
    assert config.tokens == 729


def test_every_parameter_has_a_place_on_the_mesh() -> None:
    placed = specs(dataclasses.replace(CONFIG, pool=True))
    assert placed["vision/head/mlp/fc1/kernel"] == P("fsdp", "tensor")
    assert placed["vision/head/attention/o/kernel"] == P("tensor", "fsdp")
    assert placed["vision/patch/bias"] == placed["vision/head/probe"] == P()
