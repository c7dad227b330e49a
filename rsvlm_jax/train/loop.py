"""The loop: short, in a fixed order, with nothing global.

    stop?  ->  score what is held out, when it is due  ->  over?  ->  save state and data state
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
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax

from rsvlm_jax.config import CheckpointError, DataError, NonFiniteError, Preempted
from rsvlm_jax.mesh import together

from .checkpoint import Checkpoints, CheckpointWarning
from .hooks import Hook, is_spike
from .rows import Row, Rows, as_row, read_rows
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


def resume(
    state: TrainState, batches: Batches, checkpoints: Checkpoints, *, donate: bool = False
) -> TrainState:
    """The newest verified state with `batches` set to its place; `state` itself if there is none.

    Args:
      donate: `state` is deleted before another is read, so that memory has to hold but one.

    Raises:
      CheckpointError: there are checkpoints and none can be used (see `Checkpoints.restore`), or
        their directory is a link to nothing.

    Warns:
      CheckpointWarning: an older state was taken, or none where a save had begun.
    """
    directory = checkpoints.directory
    if directory.is_symlink() and not directory.exists():
        raise CheckpointError(
            "the checkpoints are on a disk that is not there", where=directory,
            expected=directory.readlink(), remedy="mount it, or remove the link to start anew",
        )  # fmt: skip
    if checkpoints.latest() is None:
        if begun := checkpoints.begun():
            text = f"training starts from nothing: {begun[-1]} was never finished"
            warnings.warn(text, CheckpointWarning, stacklevel=2)
        return state
    shapes = abstract(state)
    if donate:
        jax.tree.map(lambda x: x.delete(), state)
    state, data = checkpoints.restore(shapes)
    batches.set_state(data)
    return state


def check_finite(metrics_file: str | os.PathLike[str] | None, step: int, max_bad_steps: int) -> int:
    """Steps in a row, up to `step`, that were skipped because something was not finite.

    Raises:
      NonFiniteError: more than `max_bad_steps`: the run has ended with this, and does again.
    """
    bad = 0
    for row in read_rows(metrics_file):
        if row["step"] <= step:
            bad = _bad_after(bad, row)
    bad = together.first("bad steps", bad)  # process 0 has the file
    if bad > max_bad_steps:
        raise _not_finite(bad, step, max_bad_steps)
    return bad


def _bad_after(bad: int, row: Row) -> int:
    """Bad steps in a row, this one included; a spike neither adds to them nor ends them."""
    if not (row.get("skipped") or row.get("spiked")):
        return 0
    return bad if is_spike(row) else bad + 1


def _not_finite(bad: int, step: int, max_bad_steps: int) -> NonFiniteError:
    return NonFiniteError(
        f"loss or gradient not finite in {bad} steps in a row",
        where=f"step {step}",
        expected=f"at most {max_bad_steps}",
        remedy="parameters are those before these steps; look at the samples, lower the learning "
        "rate in a new run, or go on here with a larger --train.max-bad-steps",
    )


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
    hooks: Sequence[Hook] = (),
    agree: Callable[[int, bool], bool] | None = None,
) -> TrainState:
    """Train up to `steps` optimiser steps, counted from the state's own step.

    Args:
      state: donated to the first step.
      step_fn: from `make_train_step`; its metrics hold `loss` and `skipped` (0 or 1), and where a
        finite loss that stands out is skipped as well, `spiked`.
      batches: see `Batches`.
      checkpoints: None saves nothing. A step whose held-out loss is among the best that they keep
        is saved when it is scored.
      metrics_file: gets a JSON row for every step, floats exact; rows after the state's step are
        removed first. A value that is not finite is written as null.
      progress: called with the step, its row and times, every `log_every` steps and at the end.
      stop: asked before every step; true stops like SIGTERM.
      max_bad_steps: steps in a row, skipped because something is not finite, that are borne.
      held_out: scores a state; `loss` is what a best step and early stopping go by. A run that is
        resumed scores the same steps as an unbroken one.
      held_out_every: steps between scores, from step 0 on; 0: after the last step only.
      held_out_file: gets a JSON row for every score; one that ended the run says `stopped`.
      hooks: see `Hook`. Metrics named `tokens` and `padded` (positions that hold something, and all
        of them) get their rates among the times.
      agree: (step, whether this process was asked to stop) -> whether all stop before that step;
        with several processes the answer has to be the same in each.

    Returns:
      The state after the last step, or after the one at which a hook ended the run. It is saved and
      vouched for.

    Raises:
      Preempted: stopped by SIGTERM or `stop`, with the state saved.
      NonFiniteError: more than `max_bad_steps` steps in a row were not finite, with the state
        saved; a skipped step changes no parameter, so that is the last good one. Those before a
        restart count.
      DataError: the batches ended early.
      CheckpointError: a save failed, or a line of `metrics_file` but the last is no row.
      ConfigError: `metrics_file` cannot be written.
    """
    step = first = int(state.step)
    # Not `latest()`: a newer step that did not verify may stand there.
    saved = first if checkpoints is not None and first in checkpoints.steps() else None
    scored: set[int] = set()
    bad = check_finite(metrics_file, first, max_bad_steps)
    pending: tuple[int, Mapping[str, jax.Array], dict[str, Any]] | None = None
    clock = _Clock()

    def save() -> None:
        nonlocal saved
        if checkpoints is not None and saved != step:
            checkpoints.save(step, state, batches.get_state())
            saved = step

    def settle() -> None:
        """Read and log the step whose metrics are still on the device."""
        nonlocal bad, pending
        if pending is None:
            return
        at, metrics, place = pending
        pending = None
        found = jax.device_get(dict(metrics))
        row, times = as_row(at, found), as_row(at, clock.lap(found))
        rows.write(row)
        skipped = row["skipped"] or row.get("spiked")
        bad = _bad_after(bad, row)
        for hook in hooks:
            hook.on_row(at, row, times)
            if skipped:
                hook.on_skip(at, row, place)
        if progress is not None and (at % log_every == 0 or at == steps):
            progress(at, {**row, **times})

    def hear(score: Row, *, again: bool = False) -> bool:
        """Tell a score to all; true where its state is to be kept."""
        at, loss = score["step"], score["loss"]
        scored.add(at)
        for hook in hooks:
            hook.on_score(at, score, again=again)
        return (
            checkpoints is not None and at > 0 and loss is not None and checkpoints.scored(at, loss)
        )

    def score() -> None:
        """What is held out, when it is due and the file does not have it."""
        due = step == steps or (held_out_every > 0 and step % held_out_every == 0)
        if held_out is None or not due or step in scored:
            return
        settle()
        if step % save_every == 0 and first < step < steps:  # scoring may take long
            rows.sync()
            save()
        found = together.first("score", as_row(step, held_out(state)))
        kept = hear(found)
        scores.write({**found, "stopped": 1.0} if _ended(hooks) else found)
        scores.sync()
        if kept:
            rows.sync()
            save()
        clock.restart()

    with contextlib.ExitStack() as stack:
        if checkpoints is not None:
            stack.callback(checkpoints.wait)
        rows = stack.enter_context(Rows(metrics_file, first))
        scores = stack.enter_context(Rows(None if held_out is None else held_out_file, first))
        for hook in hooks:
            stack.callback(hook.close)
            hook.start(first)
        before = [*read_rows(None if held_out is None else held_out_file)]
        for old in together.first("scores", before):  # process 0 has the file
            hear(old, again=True)
        terminated = stack.enter_context(_sigterm())
        while step < steps and not _ended(hooks):
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
            if _ended(hooks):
                break
            if step % save_every == 0 and step != first:
                settle()
                rows.sync()  # a saved step's rows are on disk before it is
                save()
            place = batches.get_state()
            try:
                with clock.waiting():
                    batch = next(batches)
            except StopIteration as e:
                raise DataError(f"the batches ended at step {step} of {steps}") from e
            state, metrics = step_fn(state, batch)
            settle()
            step += 1
            pending = step, metrics, place
            if bad > 0 or max_bad_steps == 0:
                settle()  # in a bad spell wait for the device: stop at the step that ends it
            if bad > max_bad_steps:
                rows.sync()
                save()
                _wait(checkpoints)
                raise _not_finite(bad, step, max_bad_steps)
        settle()
        score()
        rows.sync()
        save()
        _wait(checkpoints)
    return state


def _ended(hooks: Sequence[Hook]) -> bool:
    return any(hook.ended() for hook in hooks)


class _Clock:
    """Seconds between rows, and those of them that went by in the iterator."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """What comes between two steps (scores) belongs to none."""
        self._since, self._waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def lap(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The times of a row; see `Hook.on_row`."""
        seconds, waited = time.perf_counter() - self._since, self._waited
        self.restart()
        rates = {f"{k}_per_second": metrics[k] / seconds for k in COUNTED if k in metrics}
        return {"seconds": seconds, "input_wait": waited / seconds, **rates}


def _wait(checkpoints: Checkpoints | None) -> None:
    if checkpoints is not None:
        checkpoints.wait()


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
