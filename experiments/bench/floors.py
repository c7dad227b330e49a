"""What this machine does at most, for `roofline`: copies, counting, new memory, instructions.

machine = Machine()     compiles the loops
machine.turn()          measures all once more
machine.floors          medians of what was found
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import mmap
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES = tuple(2**k for k in (14, 16, 18, 20, 22, 24, 26, 27))
"""Bytes that the copies move."""

LEAST = 0.002
"""Seconds that a loop takes, about."""

_CHAIN, _CACHED, _FEW = 16, 4096, 16


@dataclasses.dataclass
class Floors:
    """What this machine does, each measured several times; medians are read."""

    copying: dict[int, list[float]] = dataclasses.field(default_factory=dict)  # seconds
    light: list[float] = dataclasses.field(default_factory=list)  # numbers a second
    hard: list[float] = dataclasses.field(default_factory=list)
    first: list[float] = dataclasses.field(default_factory=list)  # bytes a second
    instruction: list[float] = dataclasses.field(default_factory=list)  # seconds

    def seconds(self, moved: int) -> float:
        """Of an operation that moves so many bytes, beyond what any instruction takes."""
        sizes = sorted(self.copying)
        found = [statistics.median(self.copying[size]) for size in sizes]
        i = bisect.bisect_left(sizes, moved)
        if i == 0:
            return found[0] * moved / sizes[0]
        if i == len(sizes):
            return found[-1] * moved / sizes[-1]
        share = math.log(moved / sizes[i - 1]) / math.log(sizes[i] / sizes[i - 1])
        return found[i - 1] * (found[i] / found[i - 1]) ** share


def timed(job: Callable[[], Any]) -> float:
    import jax

    start = time.perf_counter()
    jax.block_until_ready(job())
    return time.perf_counter() - start


class Looped:
    """A function of arrays, called over and over inside one compiled loop.

    One number of the first array comes from the last result, so that no pass can be left out.
    """

    def __init__(self, function: Callable[..., Any], *arrays: Any) -> None:
        import jax
        import jax.numpy as jnp
        from jax import lax

        like = jax.eval_shape(function, *arrays)

        def run(count: Any, first: Any, *others: Any) -> Any:
            def body(_: Any, carried: Any) -> Any:
                x, _ = carried
                y = function(x, *others)
                number = lax.slice(y.reshape(-1), (0,), (1,))
                number = jnp.clip(number, 0, 1).astype(x.dtype).reshape((1,) * x.ndim)
                return lax.dynamic_update_slice(x, number, (0,) * x.ndim), y

            return lax.fori_loop(0, count, body, (first, jnp.zeros(like.shape, like.dtype)))[1]

        self._run = jax.jit(run)
        self._arrays = arrays
        timed(lambda: self._run(1, *self._arrays))  # compiles
        few = timed(lambda: self._run(1 + _FEW, *self._arrays))
        few -= timed(lambda: self._run(1, *self._arrays))
        self._count = max(2, min(5000, math.ceil(_FEW * LEAST / max(few, 1e-6))))

    def seconds(self) -> float:
        """Of one pass: of many, less one; the median of three, as memory that was given back just
        before is still being put away."""
        taken = []
        for _ in range(3):
            many = timed(lambda: self._run(self._count + 1, *self._arrays))
            taken.append(many - timed(lambda: self._run(1, *self._arrays)))
        return max(statistics.median(taken), 1e-9) / self._count


def array(*shape: int) -> Any:
    import jax

    rng = np.random.default_rng(0)
    return jax.device_put(rng.random(shape, np.float32))


class Machine:
    """The loops that measure the floors, and what they found."""

    def __init__(self) -> None:
        import jax.numpy as jnp

        def light(x: Any) -> Any:
            for _ in range(_CHAIN):
                x = x * 0.999 + 0.001
            return x

        def hard(x: Any) -> Any:
            for _ in range(_CHAIN // 8):
                x = jnp.exp(-x)
                x = 1.0 / (x + 1.0)
            return x

        self.floors = Floors()
        self._copies = {n: Looped(lambda x: x * 0.5 + 0.25, array(n // 8)) for n in SIZES}
        self._empty = Looped(lambda x: x, array(1))
        self._tiny = Looped(_links_of_a_chain, array(4, 4))
        self._light, self._hard = Looped(light, array(_CACHED)), Looped(hard, array(_CACHED))

    def turn(self) -> None:
        """Measure all once more."""
        floors = self.floors
        empty = self._empty.seconds()
        floors.instruction.append(max(self._tiny.seconds() - empty, 1e-9) / _CHAIN)
        for size, loop in self._copies.items():
            floors.copying.setdefault(size, []).append(max(loop.seconds() - empty, 1e-9))
        plain = floors.seconds(8 * _CACHED)
        floors.light.append(2 * _CHAIN * _CACHED / max(self._light.seconds() - plain, 1e-9))
        floors.hard.append(_CHAIN // 4 * _CACHED / max(self._hard.seconds() - plain, 1e-9))
        floors.first.append(_first_use())


def _links_of_a_chain(x: Any) -> Any:
    """Instructions that cannot be put together: products of 4 x 4."""
    for _ in range(_CHAIN):
        x = x @ x
    return x


def _first_use(size: int = 2**26) -> float:
    """Bytes a second of memory that is taken from the system, used once a page, and given back."""
    start = time.perf_counter()
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        view = np.frombuffer(block, np.uint8)
        view[:: mmap.PAGESIZE] = 1
        del view
    return size / (time.perf_counter() - start)
