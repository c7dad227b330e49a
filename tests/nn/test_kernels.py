"""Kernels of attention give the numbers of the plain one: masks, groups, parts of a mesh."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh

from rsvlm_jax.nn import Mask, attend
from rsvlm_jax.nn.kernels import chunked, plain
from rsvlm_jax.nn.kernels.splash import splash


def values(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def packed(seed: int, batch: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Segments that stand one after the other, padding behind, and which tokens are read."""
    rng = np.random.default_rng(seed)
    starts = rng.random((batch, length)) < 4 / length
    starts[:, 0] = True
    segment = np.cumsum(starts, axis=1)
    real = np.arange(length)[None] < rng.integers(0, length + 1, (batch, 1))
    return jnp.asarray(np.where(real, segment, 0), jnp.int32), jnp.asarray(
        rng.random((batch, length)) < 0.7
    )


def masks(seed: int, batch: int, length: int, window: int) -> dict[str, Mask]:
    segment, read = packed(seed, batch, length)
    return {
        "all": Mask(),
        "causal": Mask(causal=True),
        "packed": Mask.rows(segment),
        "hidden": Mask.rows(segment, read),
        "window": Mask.rows(segment, read).within(window),
        "both ways": Mask(query=segment),
        "keys": Mask.keys(read),
    }


NAMES = tuple(masks(0, 1, 1, 1))


def both(run, other, q, k, v) -> None:
    """Equal outputs and gradients; a fully masked row gives zeros."""
    weight = values(9, *q.shape)

    def loss(fn, q, k, v):
        out = fn(q, k, v)
        return (out * weight).sum(), out

    found, wanted = (
        jax.jit(jax.grad(functools.partial(loss, fn), argnums=(0, 1, 2), has_aux=True))(q, k, v)
        for fn in (run, other)
    )
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-6, atol=1e-6)
    for a, b in zip(found[0], wanted[0], strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def by_table(mask: Mask, length: int):
    return lambda q, k, v: plain(q, k, v, mask.table(length, length))


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    length=st.integers(1, 40),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    blocks=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    name=st.sampled_from(NAMES),
)
def test_chunked_equals_plain(seed, length, heads, blocks, name) -> None:
    mask = masks(seed, 2, length, 5)[name]
    q = values(seed, 2, length, heads[0], 4)
    k, v = (values(seed + i, 2, length, heads[1], 4) for i in (1, 2))
    run = functools.partial(chunked, mask=mask, block_q=blocks[0], block_k=blocks[1])
    both(run, by_table(mask, length), q, k, v)


@pytest.mark.parametrize("keys", [3, 20])
def test_chunked_reads_a_memory_of_another_length(keys: int) -> None:
    q, k, v = values(0, 2, 9, 2, 4), values(1, 2, keys, 2, 4), values(2, 2, keys, 2, 4)
    mask = Mask.keys(jnp.asarray(np.random.default_rng(3).random((2, keys)) < 0.5))
    run = functools.partial(chunked, mask=mask, block_q=4, block_k=8)
    both(run, lambda q, k, v: plain(q, k, v, mask.table(9, keys)), q, k, v)


def test_rows_that_read_nothing_give_zeros_and_finite_gradients() -> None:
    q, k, v = values(0, 1, 6, 2, 4), values(1, 1, 6, 2, 4), values(2, 1, 6, 2, 4)
    mask = Mask.rows(jnp.zeros((1, 6), jnp.int32))
    run = functools.partial(chunked, mask=mask, block_q=4, block_k=4)
    assert (run(q, k, v) == 0).all()
    both(run, by_table(mask, 6), q * 1e3, k, v)


def test_keys_that_nobody_reads_change_no_bit() -> None:
    q, k, v = values(0, 1, 9, 2, 4), values(1, 1, 9, 2, 4), values(2, 1, 9, 2, 4)
    read = jnp.asarray([[True, False, True] * 3])
    run = functools.partial(chunked, mask=Mask.keys(read), block_q=4, block_k=4)
    junk = [jnp.where(read[:, :, None, None], x, 1e6) for x in (k, v)]
    np.testing.assert_array_equal(run(q, k, v), run(q, *junk))


@pytest.mark.parametrize(
    "name", ["hidden", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "hidden")]
)
def test_splash_interpreted_equals_plain(name: str) -> None:
    """200 tokens in blocks of 128: padded to 256."""
    mask = masks(0, 2, 200, 7)[name]
    q, k, v = values(0, 2, 200, 4, 16), values(1, 2, 200, 2, 16), values(2, 2, 200, 2, 16)
    reads = mask.reads(200, 200)

    def run(q, k, v):
        out = splash(q, k, v, mask, interpret=True)
        return out if reads is None else jnp.where(reads[:, :, None, None], out, 0.0)

    both(run, by_table(mask, 200), q, k, v)


MESH = ("slice", "data", "fsdp", "tensor", "context")


@pytest.mark.parametrize("shape", [(1, 2, 1, 2, 2), (2, 1, 2, 2, 1), (1, 1, 1, 4, 2)])
@pytest.mark.parametrize("name", ["all", "window"])
def test_parts_of_a_mesh_equal_the_whole(shape: tuple[int, ...], name: str) -> None:
    """Heads of 4 and 2: where "tensor" has 4 devices, key heads are repeated."""
    length = 300
    mask = masks(0, 4, length, 70)[name]
    q, k, v = values(0, 4, length, 4, 8), values(1, 4, length, 2, 8), values(2, 4, length, 2, 8)
    devices = np.array(jax.devices()).reshape(shape)
    with jax.set_mesh(Mesh(devices, MESH, axis_types=(AxisType.Auto,) * 5)):
        run = functools.partial(attend, mask=mask, kernel="chunked")
        both(run, by_table(mask, length), q, k, v)
        text = jax.jit(run).lower(q, k, v).compile().as_text()
    assert "all-to-all" not in text


def test_chunked_needs_memory_by_length_not_by_its_square() -> None:
    def bytes_of(kernel: str, length: int) -> int:
        x = jax.ShapeDtypeStruct((1, length, 4, 16), jnp.float32)
        segment = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def loss(q, k, v, segment):
            return attend(q, k, v, Mask.rows(segment), kernel=kernel).sum()

        lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x, segment)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert bytes_of("plain", 4096) > 4 * 4096**2 * 4
    assert bytes_of("chunked", 4096) < 4096**2
    assert bytes_of("chunked", 4096) < 3 * bytes_of("chunked", 2048)
