"""The loop: short, in a fixed order, with nothing global.

    stop?  ->  score what is held out, when it is due  ->  save state and data state
           ->  draw a batch  ->  step  ->  log the step before

The order is what makes a resume exact: a checkpoint of step k holds the data state from *before*
batch k is drawn, so the resumed run draws that batch and no other. Metrics of a step are read one
step later, so that the host never waits for the device while it could draw.

Several loops may run in threads of one process. SIGTERM is caught only by a loop in the main
thread; give the others a `stop`. A SIGTERM that comes after the last batch was drawn goes on to
whoever listened before the loop.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax

from rsvlm_jax.config import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteError,
    Preempted,
)
from rsvlm_jax.mesh import together

from .checkpoint import Checkpoints, CheckpointWarning
from .state import TrainState, abstract


@runtime_checkable
class Batches(Protocol):
    """An endless iterator whose place can be saved as JSON and taken up again."""

    def __next__(self) -> Any: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


COUNTED = ("tokens", "padded")
"""Metrics of a step that are counts, whose rates are told."""

StepFn = Callable[[TrainState, Any], tuple[TrainState, Mapping[str, jax.Array]]]
Row = dict[str, Any]


def resume(state: TrainState, batches: Batches, checkpoints: Checkpoints) -> TrainState:
    """The newest verified state with `batches` set to its place; `state` itself if there is none.

    Raises:
      CheckpointError: there are checkpoints and none can be used (see `Checkpoints.restore`).

    Warns:
      CheckpointWarning: an older state was taken, or none where a save had begun.
    """
    if checkpoints.latest() is None:
        if begun := checkpoints.begun():
            text = f"training starts from nothing: {begun[-1]} was never finished"
            warnings.warn(text, CheckpointWarning, stacklevel=2)
        return state
    state, data = checkpoints.restore(abstract(state))
    batches.set_state(data)
    return state


def train(
    state: TrainState,
    step_fn: StepFn,
    batches: Batches,
    *,
    steps: int,
    checkpoints: Checkpoints | None = None,
    save_every: int = 100,
    log_every: int = 10,
    metrics_file: str | os.PathLike[str] | None = None,
    progress: Callable[[int, Row], None] | None = None,
    stop: Callable[[], bool] | None = None,
    max_bad_steps: int = 5,
    held_out: Callable[[TrainState], Mapping[str, float]] | None = None,
    held_out_every: int = 0,
    held_out_file: str | os.PathLike[str] | None = None,
    agree: Callable[[int, bool], bool] | None = None,
) -> TrainState:
    """Train up to `steps` optimiser steps, counted from the state's own step.

    Args:
      state: donated to the first step.
      step_fn: from `make_train_step`; its metrics hold `loss` and `skipped` (0 or 1).
      batches: see `Batches`.
      checkpoints: None saves nothing.
      metrics_file: gets a JSON row for every step, floats exact; rows after the state's step are
        removed first. A value that is not finite is written as null. Metrics named `tokens` and
        `padded` (positions that hold something, and all of them) get their rates beside them.
      progress: called with the step and its row, every `log_every` steps and at the end.
      stop: asked before every step; true stops like SIGTERM.
      max_bad_steps: skipped steps in a row that are borne.
      held_out: scores a state. A run that is resumed scores the same steps as an unbroken one.
      held_out_every: steps between scores, from step 0 on; 0: after the last step only.
      held_out_file: gets a JSON row for every score.
      agree: (step, whether this process was asked to stop) -> whether all stop before that step;
        with several processes the answer has to be the same in each.

    Returns:
      The state after the last step, which is saved and vouched for.

    Raises:
      Preempted: stopped by SIGTERM or `stop`, with the state saved.
      NonFiniteError: more than `max_bad_steps` steps in a row were skipped, with the state saved;
        a skipped step changes no parameter, so that is the last good one.
      DataError: the batches ended early.
      CheckpointError: a save failed, or a line of `metrics_file` but the last is no row.
      ConfigError: `metrics_file` cannot be written.
    """
    step = first = int(state.step)
    # Not `latest()`: a newer step that did not verify may stand there.
    saved = first if checkpoints is not None and first in checkpoints.steps() else None
    bad = 0
    pending: tuple[int, Mapping[str, jax.Array]] | None = None
    settled = time.perf_counter()

    def save() -> None:
        nonlocal saved
        if checkpoints is not None and saved != step:
            checkpoints.save(step, state, batches.get_state())
            saved = step

    def settle() -> None:
        """Read and log the step whose metrics are still on the device."""
        nonlocal bad, pending, settled
        if pending is None:
            return
        at, metrics = pending
        pending = None
        found = jax.device_get(dict(metrics))
        now = time.perf_counter()
        rates = {f"{k}_per_second": found[k] / (now - settled) for k in COUNTED if k in found}
        settled = now
        row = rows.write(at, {**found, **rates})
        bad = bad + 1 if row["skipped"] else 0
        if progress is not None and (at % log_every == 0 or at == steps):
            progress(at, row)

    def score() -> None:
        """What is held out, when it is due and the file does not have it."""
        nonlocal settled
        due = step == steps or (held_out_every > 0 and step % held_out_every == 0)
        if held_out is None or not due or step in scores.steps:
            return
        settle()
        scores.write(step, held_out(state))
        scores.sync()
        settled = time.perf_counter()

    with contextlib.ExitStack() as stack:
        if checkpoints is not None:
            stack.callback(checkpoints.wait)
        rows = stack.enter_context(_Rows(metrics_file, first))
        scores = stack.enter_context(_Rows(None if held_out is None else held_out_file, first))
        scores.steps = set(together.first("scored", sorted(scores.steps)))  # who writes the file
        terminated = stack.enter_context(_sigterm())
        while step < steps:
            asked = terminated.is_set() or (stop is not None and stop())
            if asked if agree is None else agree(step, asked):
                settle()
                rows.sync()
                save()
                _wait(checkpoints)
                raise Preempted(
                    f"stopped after step {step} of {steps}",
                    remedy="run the same command again to go on" if checkpoints else None,
                )
            score()
            if step % save_every == 0 and step != first:
                settle()
                rows.sync()  # a saved step's rows are on disk before it is
                save()
            try:
                batch = next(batches)
            except StopIteration as e:
                raise DataError(f"the batches ended at step {step} of {steps}") from e
            state, metrics = step_fn(state, batch)
            settle()
            step += 1
            pending = step, metrics
            if bad > 0 or max_bad_steps == 0:
                settle()  # in a bad spell wait for the device: stop at the step that ends it
            if bad > max_bad_steps:
                rows.sync()
                save()
                _wait(checkpoints)
                raise NonFiniteError(
                    f"loss or gradient not finite in {bad} steps in a row",
                    where=f"step {step}",
                    expected=f"at most {max_bad_steps}",
                    remedy="parameters are those before these steps; lower the learning rate or "
                    "look at the samples",
                )
        settle()
        score()
        rows.sync()
        save()
        _wait(checkpoints)
    return state


def _wait(checkpoints: Checkpoints | None) -> None:
    if checkpoints is not None:
        checkpoints.wait()


class _Rows:
    """A file of rows, opened at a step: rows after it, and a torn last line, are dropped.

    Attributes:
      steps: of the rows that it holds.
    """

    def __init__(self, path: str | os.PathLike[str] | None, step: int) -> None:
        self._path = None if path is None else Path(path)
        self._step = step
        self._file: Any = None
        self.steps: set[int] = set()

    def __enter__(self) -> _Rows:
        if self._path is not None:
            with self._writing():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                found = [(at, line) for at, line in self._lines() if at <= self._step]
                kept = [line for _, line in found]
                self.steps.update(at for at, _ in found)
                temporary = self._path.with_name(f".{self._path.name}.tmp")
                temporary.write_text("".join(kept))
                os.replace(temporary, self._path)
                self._file = open(self._path, "a")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file is not None:
            # What a full disk did not take is tried again here: the first error says it.
            with contextlib.suppress(OSError) if kind else self._writing():
                self._file.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> Row:
        row: Row = {"step": step}
        for name, value in metrics.items():
            number = float(value)  # a float32 is a float64 exactly, and repr keeps that
            row[name] = number if math.isfinite(number) else None
        if self._file is not None:
            with self._writing():
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
        return row

    def sync(self) -> None:
        if self._file is not None:
            with self._writing():
                os.fsync(self._file.fileno())

    def _lines(self) -> Iterator[tuple[int, str]]:
        """(step, line). A killed process leaves a last line without its end, and no other."""
        assert self._path is not None
        if not self._path.exists():
            return
        with open(self._path, errors="replace") as f:
            for number, line in enumerate(f, 1):
                if not line.endswith("\n"):
                    return
                try:
                    at = int(json.loads(line)["step"])
                except (ValueError, KeyError, TypeError) as e:
                    raise CheckpointError(
                        "a damaged row of metrics",
                        where=f"{self._path}, line {number}",
                        expected='{"step": ...}',
                        found=repr(line[:40]),
                        remedy="mend or delete the line; the checkpoints do not need it",
                    ) from e
                yield at, line

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise ConfigError(
                f"cannot write the metrics ({e.strerror})",
                where=self._path,
                remedy="free space or rights and run again: it goes on from the last checkpoint",
            ) from e


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, while in the main thread; elsewhere one that nothing sets.

    When the block ends well although the event is set, the signal is given on.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
    if event.is_set():
        signal.raise_signal(signal.SIGTERM)
