"""Where a training step's time and memory go: `fit(..., profile=True)`, `rsvlm train --profile`.

    Profile(work, mesh, out)   wraps the step: compiles it ahead of time, waits for each step, and
                               traces a few; `end()` leaves

    RUN/profile/
      profile.json     one flat object, the figures of `Profile.facts`
      trace/           of `TRACED` steps after the first ones, for TensorBoard or Perfetto

A step is timed from its call to its results on the device, so a profiled run overlaps less than
another one and its figures are of the step alone; what the loop waits for its input is told beside
it. MFU is `rsvlm_jax.train.flops` over time and the makers' peak; on a device that is not in
`rsvlm_jax.mesh.chips` it is over the rate of a large float32 product, measured here.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rsvlm_jax.config import DataError
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.mesh.chips import chip_of
from rsvlm_jax.train.flops import frame_count, step_flops
from rsvlm_jax.train.hooks import Hook
from rsvlm_jax.train.rows import Row
from rsvlm_jax.train.state import TrainState
from rsvlm_jax.train.step import Step

from .rundir import write_atomic
from .work import Work

WARM, TRACED = 2, 3
"""Steps that are not counted, and those after them of which a trace is kept."""

_PRODUCT = 2048


class TooFew(DataError):
    """A run was over before there was something to measure."""


class Profile(Hook):
    """A step that is measured as it runs: step and hook of `rsvlm_jax.train.train` at once."""

    def __init__(self, work: Work, step: Step, mesh: Mesh, out: Path) -> None:
        self._work, self._step, self._mesh, self._out = work, step, mesh, out
        self._compiled: dict[Any, Any] = {}
        self._compile_seconds = 0.0
        self._times: list[tuple[Any, float]] = []  # shapes of a batch, seconds of its step
        self._tokens = [0.0, 0.0]
        self._first: tuple[TrainState, Batch] | None = None
        self._calls = 0
        self._waits: list[tuple[float, float]] = []  # seconds of a step, those for its batch
        self._tracing = False

    def __call__(self, state: TrainState, batch: Batch) -> Any:
        shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(batch))
        if new := shapes not in self._compiled:
            self._compile(shapes, state, batch)
        if self._calls == WARM:
            # Python's own calls stay out of it: they cost time in the steps that are measured, and
            # hooking the threads of a save that is under way has ended the process (CPython 3.11).
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(str(self._out / "trace"), profiler_options=options)
            self._tracing = True
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(self._compiled[shapes](state, batch))
        seconds = time.perf_counter() - start
        self._calls += 1
        if self._calls > WARM and not new:
            self._times.append((shapes, seconds))
            for i, name in enumerate(("tokens", "padded")):
                self._tokens[i] += float(metrics.get(name, 0.0))
        if self._calls == WARM + TRACED:
            self._end_trace()
        return state, metrics

    def on_row(self, step: int, row: Row, times: Row) -> None:
        seconds, wait = times.get("seconds"), times.get("input_wait")
        if self._calls > WARM and seconds is not None and wait is not None:
            self._waits.append((seconds, seconds * wait))

    def _compile(self, shapes: Any, state: TrainState, batch: Batch) -> None:
        start = time.perf_counter()
        self._compiled[shapes] = self._step.lower(state, batch).compile()
        self._compile_seconds += time.perf_counter() - start
        if self._first is None:
            self._first = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch)
            )

    def _end_trace(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def facts(self) -> dict[str, Any]:
        """The figures; of batches of several shapes those of the most frequent one.

        Raises:
          TooFew: fewer steps than a profile takes.
        """
        if not self._times or self._first is None:
            raise TooFew(
                "too few steps to profile",
                where="TrainConfig.steps",
                expected=f"more than {WARM} from here on",
                found=self._calls,
            )
        kinds = [shapes for shapes, _ in self._times]
        usual = max(set(kinds), key=kinds.count)
        taken = [s for shapes, s in self._times if shapes == usual]
        seconds = statistics.median(taken)
        whole = sum(s for s, _ in self._waits)
        state, batch = self._first
        program, experiment = self._work.program, self._work.experiment
        flops = step_flops(program.graphdef, experiment, state.params, state.stats, batch)
        frames = frame_count(program.graphdef, state.params, state.stats, batch)
        devices = self._mesh.devices.size
        peak, source = peak_of(self._mesh.devices.flat[0])
        memory = self._compiled[usual].memory_analysis()
        found: dict[str, Any] = {
            "device": self._mesh.devices.flat[0].device_kind,
            "devices": devices,
            "steps": len(taken),
            "step_seconds": seconds,
            "step_seconds_least": min(taken),
            "step_seconds_most": max(taken),
            "compile_seconds": self._compile_seconds,
            "input_wait": sum(w for _, w in self._waits) / whole if whole else 0.0,
            "samples_per_second": batch.tokens.shape[0] / seconds,
            "images_per_second": frames / seconds,
            "flops_full": flops.full,
            "flops_causal": flops.causal,
            "peak_flops": peak * devices,
            "peak_flops_are": source,
            "mfu_causal": flops.causal / seconds / (peak * devices),
            "mfu_full": flops.full / seconds / (peak * devices),
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "donated_bytes": memory.alias_size_in_bytes,
        }
        if self._tokens[1]:
            busy = sum(s for _, s in self._times)
            found["tokens_per_second"] = self._tokens[0] / busy
            found["padded_per_second"] = self._tokens[1] / busy
        stats = self._mesh.devices.flat[0].memory_stats()
        if stats and "peak_bytes_in_use" in stats:
            found["device_peak_bytes"] = stats["peak_bytes_in_use"]
        return found

    def end(self, *, write: bool = True) -> None:
        """Write `profile.json`, or leave that to another process.

        Warns:
          UserWarning: too few steps were taken; the run itself is whole.
        """
        self._end_trace()
        if not write:
            return
        try:
            text = json.dumps(self.facts(), indent=1) + "\n"
        except TooFew as e:
            warnings.warn(str(e), stacklevel=2)
            return
        self._out.mkdir(parents=True, exist_ok=True)
        write_atomic(self._out / "profile.json", text)

    def close(self) -> None:
        """The trace is ended also where the run was not."""
        self._end_trace()


def peak_of(device: Any) -> tuple[float, str]:
    """Operations a second of one device, and where the number is from."""
    if (chip := chip_of(device.device_kind)) is not None:
        return chip.bf16, f"{chip.name}, bfloat16, by its maker"
    x = jax.device_put(jnp.ones((_PRODUCT, _PRODUCT), jnp.float32), device)
    product: Callable[[Any], Any] = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        times.append(time.perf_counter() - start)
    rate = 2.0 * _PRODUCT**3 / min(times)
    return rate, f"float32 product of {_PRODUCT}, measured here"


def table(found: dict[str, Any]) -> list[str]:
    """The figures as lines for people."""
    f = found
    gib = 2.0**30
    rows = [
        ("device", f"{f['devices']} x {f['device']}"),
        (
            "step",
            f"{1e3 * f['step_seconds']:.1f} ms, median of {f['steps']} "
            f"({1e3 * f['step_seconds_least']:.1f} to {1e3 * f['step_seconds_most']:.1f})",
        ),
        ("samples", f"{f['samples_per_second']:.1f} a second"),
        ("images", f"{f['images_per_second']:.1f} a second through the vision tower"),
    ]
    if "tokens_per_second" in f:
        rows.append(
            (
                "tokens",
                f"{f['tokens_per_second']:.0f} a second, {f['padded_per_second']:.0f} with padding",
            )
        )
    rows += [
        (
            "operations",
            f"{f['flops_causal'] / 1e12:.4g} TFLOP a step (causal attention by half; "
            f"{f['flops_full'] / 1e12:.4g} in full)",
        ),
        (
            "MFU",
            f"{100 * f['mfu_causal']:.1f} % ({100 * f['mfu_full']:.1f} % in full) of "
            f"{f['peak_flops'] / 1e12:.4g} TFLOP/s ({f['peak_flops_are']})",
        ),
        (
            "memory",
            f"{f['argument_bytes'] / gib:.3f} GiB of state and batch a device, "
            f"{f['temporary_bytes'] / gib:.3f} GiB temporary",
        ),
        ("compilation", f"{f['compile_seconds']:.1f} s"),
        ("input wait", f"{100 * f['input_wait']:.1f} % of the time"),
    ]
    return [f"{name:<12} {text}" for name, text in rows]
