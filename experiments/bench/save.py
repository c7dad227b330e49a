"""What an asynchronous save takes from the step, beside a memory copy of the same bytes.

block        seconds until `Checkpoints.save` returns, the state computed and no save under way
step         how much longer the step after it takes, which trains while the save is written; the
             state is donated, so that what is being written has to be kept beside the new one
finished     seconds until the checkpoint is on disk and vouched for

Copies, saves and steps alternate; medians of `ROUNDS`. The state has the form of a small
transformer's with AdamW: a third parameters, two thirds moments, 0.4 GB.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from .figure import Figure

LAYERS, WIDTH, ROUNDS = 12, 480, 9


def figures() -> Iterator[Figure]:
    import jax
    import numpy as np

    from rsvlm_jax.train import Checkpoints

    state = jax.block_until_ready(_state())
    into = [np.ones(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    taken: dict[str, list[float]] = {name: [] for name in ("copy", "block", "step", "finished")}
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        for number in range(1, ROUNDS + 2):
            copy = _copy(state, into)
            state, _ = _step(state)
            state, alone = _step(state)
            begun = time.perf_counter()
            checkpoints.save(number, state, {})
            block = time.perf_counter() - begun
            state, beside = _step(state)
            checkpoints.wait()
            finished = time.perf_counter() - begun
            if number > 1:  # the first opens the manager
                for name, value in zip(taken, (copy, block, beside, finished), strict=True):
                    taken[name].append(value)
                plain.append(alone)
    found = {name: statistics.median(values) for name, values in taken.items()}
    yield Figure("save.bytes", size / 1e6, "MB")
    yield Figure("save.copy", found["copy"], "s")
    yield Figure("save.block", found["block"], "s")
    ratio = statistics.median(b / c for b, c in zip(taken["block"], taken["copy"], strict=True))
    yield Figure("save.block_over_copy", ratio, "-", at_most=2)
    yield Figure("save.step_alone", statistics.median(plain), "s")
    yield Figure("save.step_beside", found["step"], "s")
    yield Figure("save.finished", found["finished"], "s")


def _copy(state: Any, into: list[Any]) -> float:
    """Each array once, into memory that is there already: the fastest that a copy can be."""
    import jax
    import numpy as np

    begun = time.perf_counter()
    for x, y in zip(jax.tree.leaves(state), into, strict=True):
        np.copyto(y, np.asarray(x))
    return time.perf_counter() - begun


def _state() -> dict[str, Any]:
    """Random, so that nothing of it can be compressed."""
    import jax

    shapes = {"attention": (WIDTH, 4 * WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    names = [
        (kind, f"{name}_{layer}", shape)
        for kind in ("params", "mu", "nu")
        for layer in range(LAYERS)
        for name, shape in shapes.items()
    ]
    keys = jax.random.split(jax.random.key(0), len(names))
    state: dict[str, Any] = {"params": {}, "mu": {}, "nu": {}}
    for key, (kind, name, shape) in zip(keys, names, strict=True):
        state[kind][name] = jax.random.normal(key, shape)
    return state


def _step(state: Any) -> tuple[Any, float]:
    """An update of every array, donated, and its seconds."""
    import jax

    begun = time.perf_counter()
    state = jax.block_until_ready(_moved()(state))
    return state, time.perf_counter() - begun


def _moved() -> Any:
    import jax
    import jax.numpy as jnp

    from rsvlm_jax.train.once import made_once

    def moved(state: Any) -> Any:
        return jax.tree.map(lambda x: x * 0.999 + jnp.sin(x) * 1e-3, state)

    return made_once("bench.save", lambda: jax.jit(moved, donate_argnums=0))


if __name__ == "__main__":
    for figure in figures():
        print(figure)
