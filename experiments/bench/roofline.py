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
`results/roofline.json` keeps what `--json` printed, with another process on the other core.

What a plan for a pod adds is not measured here: the shares of the peaks (`REACH`), links, and the
formulas of bytes moved and sent. Operations computed again have a test of their own.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .figure import Figure
from .floors import Floors, Looped, Machine, array, timed

STEPS = (("rsvqa_tiny", False), ("demo_treecover", False), ("llava15_lora", True))
"""Experiments, and whether with --tiny."""

KEPT = 32 * 2**20
"""Above it glibc's malloc takes memory from the system and gives it back (M_MMAP_THRESHOLD)."""

TURNS, TAKEN = 5, 6
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

        return timed(job)

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
    left, right = array(*product.left.dims), array(*product.right.dims)
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
