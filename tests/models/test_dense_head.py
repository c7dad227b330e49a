"""Heads that answer about pixels: every trunk and output, masks, what they read."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import HeadConfig, MeshConfig
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import make_head
from rsvlm_jax.models.planes import composite, fitted
from rsvlm_jax.train import split_model
from rsvlm_jax.train.state import merge

B, N, Q, D, DV, EDGE, F = 2, 3, 1, 12, 8, 4, 5


def encoded() -> Encoded:
    """The second sample shows nothing and has no knowledge."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    valid = jnp.array([[True, True, False], [False, False, False]])
    return Encoded(
        normal(B, 6, D), normal(B, N, DV), valid, normal(B, Q, D), jnp.array([True, False]),
        normal(B, EDGE, EDGE, F), normal(B, N, D),
    )  # fmt: skip


CASES = (("mixer", "quantiles"), ("linear", "histogram"), ("experts", "ordinal"))


def made(**config: object) -> nnx.Module:
    asked = {"dense": "visual", "layers": 1, "reg_tokens": Q, "bins": 6, "experts": 2, **config}
    return make_head(HeadConfig(**asked), N, DV, D, F, rngs=nnx.Rngs(0))


def parts(*heads: dict[str, object]) -> list[tuple]:
    """Heads that are no longer new: no kernel of them is 0."""
    defined = [split_model(nnx.eval_shape(lambda c=c: made(**c)))[0] for c in heads]
    held = jax.jit(lambda: [split_model(made(**c))[1:] for c in heads])()
    rng = np.random.default_rng(2)
    return [
        (one, jax.tree.map(lambda x: x + (0.3 * rng.normal(size=x.shape)).astype(x.dtype), p), s)
        for one, (p, s) in zip(defined, held, strict=True)
    ]


def test_every_pixel_has_a_distribution_that_learns():
    heads = parts(*({"kind": kind, "output": output, "targets": 2} for kind, output in CASES))
    z = jnp.asarray(np.random.default_rng(1).normal(size=(B * EDGE**2, 2)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        found = [merge(g, p, s)(encoded()) for (g, _, s), p in zip(heads, params, strict=True)]
        assert all(f.point.shape == f.mean.shape == z.shape for f in found)
        return sum(f.score(z).mean() for f in found)

    grads = gradient([params for _, params, _ in heads])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert all(np.abs(g["pixels"]["enter"]["kernel"]).max() > 0 for g in grads)
    for _, params, _ in heads:
        for plan in ("fsdp", "fsdp_tensor"):
            resolve({"head": params}, RULES[plan], make_mesh(MeshConfig(2, 2, 2)))


def test_pixels_read_valid_tokens_their_neighbours_and_the_places_that_the_knob_says():
    knobs = {"visual": "visual", "places": "placed"}
    heads = parts(*({"kind": "linear", "dense": dense} for dense in knobs))
    for (dense, read), (graphdef, params, stats) in zip(knobs.items(), heads, strict=True):

        @jax.jit
        def point(encoded: Encoded, graphdef=graphdef, params=params, stats=stats) -> jax.Array:
            return merge(graphdef, params, stats)(encoded).point.reshape(B, EDGE, EDGE)

        before = encoded()
        plain = point(before)
        spoiled = getattr(before, read).at[0, 2].set(9.0).at[1].set(9.0)
        np.testing.assert_array_equal(point(dataclasses.replace(before, **{read: spoiled})), plain)
        moved = dataclasses.replace(before, placed=before.placed.at[0, 0].add(1.0))
        assert bool((point(moved) != plain).any()) == (dense == "places")
        corner = dataclasses.replace(before, planes=before.planes.at[0, 0, 0].add(1.0))
        touched = np.asarray(point(corner) != plain)
        # Three times 3x3, once on entering and once a block: all of 4x4.
        assert touched[0].all()
        assert not touched[1].any()


def test_planes_are_of_what_is_seen():
    z = np.array([[1.0, 3.0, 99.0]], np.float32).reshape(1, 3, 1, 1, 1)
    valid = np.array([True, True, False]).reshape(1, 3, 1, 1, 1)
    planes = composite(jnp.asarray(z), jnp.asarray(valid))
    np.testing.assert_allclose(planes[0, 0, 0], [2.0, 1.0, 2 / 3], rtol=1e-5)
    nothing = composite(jnp.asarray(z), jnp.zeros_like(jnp.asarray(valid)))
    np.testing.assert_allclose(nothing[0, 0, 0], [0.0, 1e-3, 0.0], rtol=1e-5)
    three = composite(jnp.tile(jnp.asarray(z), (1, 1, 3, 1, 1)), jnp.asarray(valid))
    np.testing.assert_allclose(three[0, 0, 0], [2.0] * 3 + [1.0] * 3 + [2 / 3], rtol=1e-5)
    coarse = jnp.arange(4, dtype=jnp.float32).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(
        fitted(coarse, 4)[0, :, :, 0], np.kron(coarse[0, :, :, 0], np.ones((2, 2)))
    )
