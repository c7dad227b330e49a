"""Splash attention compiled by the real TPU compiler, for chips that are not here.

What a compiler can say and an interpreter cannot: that blocks, head widths and splits are ones that
the hardware has. Its numbers are checked in `test_kernels`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rsvlm_jax.nn import Mask, attend
from rsvlm_jax.nn.kernels import Target, target

pytestmark = pytest.mark.tpu
AXES = ("data", "tensor", "context")


@pytest.fixture(scope="module")
def chips() -> Any:
    """Four v5e chips, as libtpu describes them without one."""
    from jax.experimental import topologies

    library = Path(sys.prefix, "libtpu", "libtpu", "libtpu.so")  # where the Makefile puts it
    with pytest.MonkeyPatch.context() as patch:
        if library.exists():
            patch.setitem(os.environ, "TPU_LIBRARY_PATH", str(library))
        for name, value in {
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # beside another test process
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
        }.items():
            patch.setitem(os.environ, name, value)
        yield np.array(topologies.get_topology_desc("v5e:2x2", platform="tpu").devices)


def compiled(
    chips: Any, shape: tuple[int, ...], size: tuple[int, ...], mask: Any, dtype: Any = jnp.bfloat16
) -> tuple[str, int]:
    """A forward and a backward pass: the program, and its temporary bytes on a chip."""
    b, length, heads, kv_heads, width = size
    mesh = Mesh(chips.reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
    place = NamedSharding(mesh, PartitionSpec("data"))
    q = jax.ShapeDtypeStruct((b, length, heads, width), dtype, sharding=place)
    k = jax.ShapeDtypeStruct((b, length, kv_heads, width), dtype, sharding=place)
    segment = jax.ShapeDtypeStruct((b, length), jnp.int32, sharding=place)

    def loss(q, k, v, segment):
        return attend(q, k, v, mask(segment)).astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        assert target() == Target("tpu")
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, k, segment)
        done = traced.lower(lowering_platforms=("tpu",)).compile()
    return done.as_text(), done.memory_analysis().temp_size_in_bytes


def kernels(text: str) -> int:
    return text.count('custom_call_target="tpu_custom_call"')


def test_rows_with_segments_over_four_chips(chips: Any) -> None:
    """One kernel forward and two backward; no table in memory."""
    text, used = compiled(chips, (2, 2, 1), (2, 2048, 2, 2, 64), Mask.rows)
    assert kernels(text) == 3
    assert used < 2048 * 2048


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "size", "mask", "dtype"),
    [
        ((2, 2, 1), (4, 577, 4, 4, 64), lambda s: Mask(), jnp.bfloat16),  # padded to 640
        ((4, 1, 1), (4, 729, 16, 16, 72), lambda s: Mask(), jnp.bfloat16),  # SigLIP's heads
        ((1, 2, 2), (2, 1024, 4, 1, 128), lambda s: Mask.rows(s, s % 3 > 0), jnp.bfloat16),
        ((1, 1, 4), (1, 2100, 2, 2, 128), lambda s: Mask.rows(s).within(100), jnp.bfloat16),
        ((1, 4, 1), (1, 512, 8, 2, 128), Mask.rows, jnp.float32),  # key heads repeated
    ],
)
def test_lengths_heads_and_splits(chips: Any, shape, size, mask, dtype) -> None:
    assert kernels(compiled(chips, shape, size, mask, dtype)[0]) == 3
