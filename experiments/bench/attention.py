"""Attention in blocks beside the plain one, and what each remat policy keeps.

    L     512, 2048, 8192 tokens in two segments, causal, 4 heads of 64, float32, forward and
          backward: time of `chunked` over that of `plain`, temporary bytes of both programs. At
          8192 `plain` is compiled for its bytes and not run: it would take gigabytes.
    remat a Llama of 8 layers, 256 wide, 1024 tokens, loss and gradients: temporary bytes and time
          of each policy over those of "none". On a CPU "offload" has the host's memory and the
          device's in one place: its bytes say nothing and are not here.

Times are paired, A B A B, the least of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from .figure import Figure

LENGTHS = (512, 2048, 8192)
MOST_PLAIN = 2048
POLICIES = ("save_qkv_mlp", "save_context", "full")


def figures() -> Iterator[Figure]:
    for length in LENGTHS:
        yield from _attention(length)
    yield from _remat()


def _attention(length: int) -> Iterator[Figure]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rsvlm_jax.nn import Mask, attend

    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((1, length, 4, 64)), jnp.float32) for _ in range(3))
    segment = jnp.where(jnp.arange(length)[None] < length * 2 // 3, 1, 2).astype(jnp.int32)

    def program(kernel: Any) -> Any:
        def loss(q: Any, k: Any, v: Any) -> Any:
            return jnp.square(attend(q, k, v, Mask.rows(segment), kernel=kernel)).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v).compile()

    plain, chunked = program("plain"), program("chunked")
    if length <= MOST_PLAIN:
        ratio = _ratio(lambda: chunked(q, k, v), lambda: plain(q, k, v))
        yield Figure(f"attention_{length}_time", ratio, "x", at_most=1.0)
    else:
        seconds = _least(lambda: chunked(q, k, v), 2)
        yield Figure(f"attention_{length}_seconds", seconds, "s")
    for name, made in (("plain", plain), ("chunked", chunked)):
        yield Figure(f"attention_{length}_{name}", _temporary(made) / 2**20, "MiB")
    share = _temporary(chunked) / _temporary(plain)
    yield Figure(f"attention_{length}_bytes", share, "x", at_most=512 / length)


def _remat() -> Iterator[Figure]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from rsvlm_jax.config import LlamaConfig
    from rsvlm_jax.models.language import language_model
    from rsvlm_jax.nn import Mask

    config = LlamaConfig(
        vocab_size=256, width=256, layers=8, heads=4, kv_heads=4, mlp_dim=688, max_length=1024
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 1024, 256)), jnp.float32)
    segment = jnp.ones((2, 1024), jnp.int32)
    position = jnp.broadcast_to(jnp.arange(1024, dtype=jnp.int32), (2, 1024))

    def program(remat: Any) -> tuple[Any, Any]:
        graphdef, state = nnx.split(language_model(config, remat=remat, rngs=nnx.Rngs(0)))

        def loss(state: Any) -> Any:
            hidden = nnx.merge(graphdef, state)(x, Mask.rows(segment), position)
            return jnp.square(hidden).mean()

        return jax.jit(jax.value_and_grad(loss)).lower(state).compile(), state

    none, state = program("none")
    yield Figure("remat_none", _temporary(none) / 2**20, "MiB")
    before = 1.0
    for name in POLICIES:
        made, _ = program(name)
        share = _temporary(made) / _temporary(none)
        yield Figure(f"remat_{name}_bytes", share, "x", at_most=before)
        before = share
        ratio = _ratio(lambda made=made: made(state), lambda: none(state))
        yield Figure(f"remat_{name}_time", ratio, "x", at_most=1.5)


def _temporary(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


def _seconds(run: Callable[[], Any]) -> float:
    import jax

    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def _least(run: Callable[[], Any], times: int) -> float:
    return min(_seconds(run) for _ in range(times))


def _ratio(run: Callable[[], Any], beside: Callable[[], Any]) -> float:
    pairs = [(_seconds(run), _seconds(beside)) for _ in range(4)][1:]
    return min(a for a, _ in pairs) / min(b for _, b in pairs)
