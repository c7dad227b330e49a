"""Selection over a batch that is split: what one device chooses, eight choose, and learn alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from rsvlm_jax.config import MeshConfig, SelectionConfig
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.models.selection import TokenSelection

B, S, D, K = 8, 12, 16, 5


def test_eight_devices_choose_what_one_does():
    graphdef, state = nnx.split(TokenSelection(SelectionConfig(K), D, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(B, S, D)).astype(np.float32)
    valid = rng.random((B, S)) < 0.7
    tokens[~valid] = 0

    def loss(state, tokens, valid):
        kept, there = nnx.merge(graphdef, state)(tokens, valid)
        return jnp.square(kept).sum(), (kept, there)

    found = []
    for config in (MeshConfig(), MeshConfig(2, 2, 2)):
        mesh = make_mesh(config)
        split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        whole = NamedSharding(mesh, PartitionSpec())
        given = (jax.device_put(x, split) for x in (tokens, valid))
        with jax.set_mesh(mesh):
            run = jax.jit(jax.grad(loss, has_aux=True))
            found.append(jax.device_get(run(jax.device_put(state, whole), *given)))
    (by_one, one), (by_eight, eight) = found
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(by_one), jax.tree.leaves(by_eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
