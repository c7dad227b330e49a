"""The roofline of `rsvlm_jax.run.roofline` against steps that run: predicted, measured, on a CPU.

    rsvqa_tiny        conversations about images, a nano model
    demo_treecover    a cube of Sentinel-2, dates and bands fused, a mixer head
    llava15_lora      LLaVA's LoRA with --tiny: frozen towers, factors trained

The floors of this machine are measured in the same run and nothing is fitted to the steps:

    products    every distinct matrix product of the compiled step, by itself, in a loop
    copying     bytes a second of y = a x + b, by the bytes that it moves (caches are faster)
    counting    additions and products, exponentials and divisions a second, in a cache
    first use   memory that the system hands out is zeroed page by page; a step's temporary memory,
                where it is above what malloc keeps (32 MiB), is handed out anew every step
    a call      of a compiled function with the arguments of the step that does nothing;
    an instruction  the smallest one

What the step does is read off its compiled program (`rsvlm_jax.mesh.hlo_work`). An operation that
is no product takes its bytes or its counting, whichever is longer. Medians; turn by turn.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import math
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .figure import Figure

STEPS = (("rsvqa_tiny", False), ("demo_treecover", False), ("llava15_lora", True))
"""Experiments, and whether with --tiny."""

SIZES = tuple(2**k for k in (14, 16, 18, 20, 22, 24, 26, 27))
"""Bytes that the copies move."""

KEPT = 32 * 2**20
"""Above it glibc's malloc takes memory from the system and gives it back (M_MMAP_THRESHOLD)."""

TURNS, TAKEN, LEAST = 5, 6, 0.002
WITHIN = 0.25


def figures() -> Iterator[Figure]:
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    worker = subprocess.Popen(
        [sys.executable, "-m", __name__], env=env, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("{"):
            yield Figure(**json.loads(line))
    if worker.wait():
        raise RuntimeError("the worker died")


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


def _timed(job: Callable[[], Any]) -> float:
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
        _timed(lambda: self._run(1, *self._arrays))  # compiles
        few = _timed(lambda: self._run(1 + _FEW, *self._arrays))
        few -= _timed(lambda: self._run(1, *self._arrays))
        self._count = max(2, min(5000, math.ceil(_FEW * LEAST / max(few, 1e-6))))

    def seconds(self) -> float:
        """Of one pass: of many, less one; the median of three, as memory that was given back just
        before is still being put away."""
        taken = []
        for _ in range(3):
            many = _timed(lambda: self._run(self._count + 1, *self._arrays))
            taken.append(many - _timed(lambda: self._run(1, *self._arrays)))
        return max(statistics.median(taken), 1e-9) / self._count


def _array(*shape: int) -> Any:
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
        self._copies = {n: Looped(lambda x: x * 0.5 + 0.25, _array(n // 8)) for n in SIZES}
        self._empty = Looped(lambda x: x, _array(1))
        self._tiny = Looped(_links_of_a_chain, _array(4, 4))
        self._light, self._hard = Looped(light, _array(_CACHED)), Looped(hard, _array(_CACHED))

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


_CHAIN, _CACHED, _FEW = 16, 4096, 16


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


class Running:
    """An experiment's step, compiled, with a batch of its own data."""

    def __init__(self, name: str, tiny: bool, products: dict[Any, Any]) -> None:
        import jax

        from rsvlm_jax.cli.options import load_experiment
        from rsvlm_jax.config import MeshConfig
        from rsvlm_jax.mesh import batch_sharding, make_mesh
        from rsvlm_jax.mesh.hlo_work import works
        from rsvlm_jax.run.fit import initial
        from rsvlm_jax.run.work import prepared
        from rsvlm_jax.train import init_state, make_optimizer, make_train_step
        from rsvlm_jax.train.flops import step_flops

        experiment = load_experiment(name)
        experiment = experiment.tiny() if tiny else experiment
        work, mesh = prepared(experiment), make_mesh(MeshConfig())
        program = work.program
        optimizer = make_optimizer(experiment.optimizer, experiment.train.steps, program.params)
        state = init_state(*initial(work), optimizer, mesh, config=experiment.optimizer)
        step = make_train_step(program.graphdef, experiment, optimizer, mesh, state)
        place = batch_sharding(mesh)
        with work.batches(place) as batches:
            self.batch = jax.device_put(next(iter(batches)), place)
        self.name, self.state = name, state
        self.tokens = math.prod(self.batch.tokens.shape)
        self.step = step.lower(state, self.batch).compile()
        nothing = jax.jit(lambda state, batch: (state, 0.0), donate_argnums=0)
        self.nothing = nothing.lower(state, self.batch).compile()
        self.temporary = self.step.memory_analysis().temp_size_in_bytes
        self.works = works(self.step)
        flops = step_flops(program.graphdef, experiment, state.params, state.stats, self.batch)
        self.flops = flops.full
        self.products = products
        for one in self.works:
            if one.product is not None and one.product not in products:
                products[one.product] = (_looped_product(one.product), [])
        self.times: list[float] = []
        self.calls: list[float] = []
        self._take(self.step)

    def turn(self) -> None:
        for _ in range(TAKEN):
            self.times.append(self._take(self.step))
            self.calls.append(self._take(self.nothing))

    def _take(self, function: Any) -> float:
        def job() -> Any:
            self.state, other = function(self.state, self.batch)
            return self.state, other

        return _timed(job)

    @property
    def measured(self) -> float:
        return statistics.median(self.times)

    def parts(self, floors: Floors) -> dict[str, float]:
        """Seconds of a step by the floors, part by part."""
        instruction = statistics.median(floors.instruction)
        light, hard = statistics.median(floors.light), statistics.median(floors.hard)
        found: dict[str, float] = dict.fromkeys(("products", "memory", "first use", "calls"), 0.0)
        for one in self.works:
            if one.product is not None:
                each = statistics.median(self.products[one.product][1])
                found["products"] += one.count * each
                continue
            each = max(floors.seconds(one.bytes), one.light / light + one.hard / hard)
            found["memory"] += one.count * each
            found["calls"] += one.count * instruction
        if self.temporary > KEPT:
            found["first use"] = self.temporary / statistics.median(floors.first)
        found["calls"] += statistics.median(self.calls)
        return found


def _looped_product(product: Any) -> Looped:
    from jax import lax

    dims = (product.contracting, product.batch)
    left, right = _array(*product.left.dims), _array(*product.right.dims)
    return Looped(lambda x, y: lax.dot_general(x, y, dims), left, right)


def _predicted(running: Running, parts: dict[str, float]) -> Any:
    """The estimate of the library, of a chip with the measured floors."""
    from rsvlm_jax.mesh.chips import Chip
    from rsvlm_jax.run.roofline import Reach, estimate

    moved = sum(one.count * one.bytes for one in running.works if one.product is None)
    chip = Chip("this CPU", "cpu", running.flops / parts["products"], 0.0, moved / parts["memory"])
    return estimate(
        flops=running.flops,
        hbm_bytes_moved=moved,
        collective={},
        chip=chip,
        links=None,
        tokens_per_chip=running.tokens,
        waited=parts["first use"] + parts["calls"],
        reach=Reach(1.0, 1.0, 1.0, 0.0),
    )


def measure(names: Sequence[tuple[str, bool]] = STEPS) -> Iterator[Figure]:
    """The lines, from this process."""
    products: dict[Any, Any] = {}
    machine = Machine()
    steps = [Running(name, tiny, products) for name, tiny in names]
    for _ in range(TURNS):
        machine.turn()
        for loop, times in products.values():
            times.append(loop.seconds())
        for step in steps:
            step.turn()
    floors = machine.floors
    for size in (2**18, 2**22, 2**26):
        yield Figure(f"roofline.copy.{size >> 10}k", size / floors.seconds(size) / 1e9, "GB/s")
    yield Figure("roofline.first_use", statistics.median(floors.first) / 1e9, "GB/s")
    yield Figure("roofline.instruction", 1e6 * statistics.median(floors.instruction), "us")
    for step in steps:
        parts = step.parts(floors)
        made = _predicted(step, parts)
        name = f"roofline.{step.name}"
        yield Figure(f"{name}.products", step.flops / parts["products"] / 1e9, "GFLOP/s")
        for part, seconds in parts.items():
            yield Figure(f"{name}.{part.replace(' ', '_')}.time", 1e3 * seconds, "ms")
        yield Figure(f"{name}.predicted", 1e3 * made.step_seconds, "ms")
        yield Figure(f"{name}.measured", 1e3 * step.measured, "ms")
        ratio = made.step_seconds / step.measured
        yield Figure(f"{name}.ratio", ratio, "-", 1 - WITHIN, 1 + WITHIN)


def _main() -> None:
    for figure in measure():
        fields = ("name", "value", "unit", "at_least", "at_most")
        print(json.dumps({f: getattr(figure, f) for f in fields}), flush=True)


if __name__ == "__main__":
    _main()
