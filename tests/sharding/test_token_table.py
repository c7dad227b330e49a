"""The gradient of a token table: the sum over all rows, scattered as it is summed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from rsvlm_jax.config import MeshConfig
from rsvlm_jax.mesh import collectives, make_mesh
from rsvlm_jax.nn import Embed

RNG = np.random.default_rng(0)
V, D = 36, 24
IDS = RNG.integers(0, V + 2, (16, 5))  # two beyond the table: they give NaN, and no gradient
WEIGHT = jnp.asarray(RNG.normal(size=(16, 5, D)), jnp.float32)


def loss(graphdef: nnx.GraphDef, state: nnx.State, ids: jax.Array) -> jax.Array:
    return (jnp.nan_to_num(nnx.merge(graphdef, state)(ids)) * WEIGHT).sum()


@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=4), MeshConfig(slices=2, data=2, fsdp=2)],
    ids=str,
)
def test_it_is_that_of_one_device_and_no_table_is_summed_whole(mesh: MeshConfig):
    graphdef, state = nnx.split(Embed(V, D, rngs=nnx.Rngs(0)))
    expected = jax.grad(lambda s: loss(graphdef, s, jnp.asarray(IDS)))(state)
    placed = make_mesh(mesh)
    rows = NamedSharding(placed, PartitionSpec(("slice", "data", "fsdp")))
    table = NamedSharding(placed, PartitionSpec("fsdp" if V % mesh.fsdp == 0 else None))
    ids, state = jax.device_put(IDS, rows), jax.device_put(state, table)
    with jax.set_mesh(placed):
        step = jax.jit(
            jax.grad(lambda s, ids: loss(graphdef, s, ids)),
            in_shardings=(table, rows),
            out_shardings=table,
        )
        compiled = step.lower(state, ids).compile()
        found = step(state, ids)
    np.testing.assert_allclose(found["embedding"][...], expected["embedding"][...], atol=1e-5)
    made = collectives(compiled.as_text())
    assert any(c.kind == "reduce-scatter" for c in made)
    summed = [c.operand_shape.dims for c in made if c.kind == "all-reduce"]
    assert (V, D) not in summed
