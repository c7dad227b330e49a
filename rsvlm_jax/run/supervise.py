"""N local processes of one run, started again from the newest checkpoint when one of them dies.

    supervise(command, 2, out=RUN)  ->  Ended(code, result)

    a child ends with   0            the others finish too: done
                        75           pre-empted: so is the run
                        2, 3, 5      an error that would come again: the run ends with it
                        4            (a checkpoint) the same, unless this start made a newer one
                        else, or a signal    all others are killed, and all start again

Restarts are given up after `TRIES` without a newer checkpoint between them. Process 0 has the
terminal; of the others only errors are heard. This process starts no device. Not here: which step a
restarted run takes (`rsvlm_jax.train.checkpoint`: the newest that verifies).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rsvlm_jax.config import ConfigError

from .cluster import visible_gpus
from .rundir import RunDir

FINAL = (2, 3, 5)
"""Exit codes that no restart mends: usage, data, not finite."""

CHECKPOINT = 4
"""A checkpoint is missing, damaged or of another model, which no restart mends; or one could not be
written, which one may. Final without a newer checkpoint."""

TOLD = (*FINAL, CHECKPOINT)
"""Exit codes of errors that a process has told."""

PREEMPTED = 75

TRIES = 3
"""Restarts without a newer checkpoint after which there is no other."""

PATIENCE = 30.0
"""Seconds that the others have to end when one has ended with an error of its own."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
      code: exit code.
      result: the last line of process 0's stdout, where that is a JSON object.
      said: whether a process has told the error already; otherwise `line` is to be told.
    """

    code: int
    result: dict[str, Any] | None
    said: bool
    line: str = ""
    restarts: int = 0


def supervise(
    command: Sequence[str],
    processes: int,
    *,
    out: Path,
    say: Callable[[str], None],
    environment: dict[str, str] | None = None,
) -> Ended:
    """Run `command --coordinator ... --processes N --process I`, N times at once, to its end.

    Args:
      command: of one process; with `processes` 1 it is run as it is.
      out: the run directory, whose checkpoints are progress.
      say: told about restarts.
      environment: default that of this process. Of NVIDIA GPUs each process gets an equal share.

    Raises:
      ConfigError: less than one process, or GPUs that they do not divide.
    """
    shares = _shares(processes, dict(os.environ if environment is None else environment))
    tries, restarts, newest = 0, 0, _newest(out)
    with _passed_on() as children:
        while True:
            code, number, result, said = _once(command, shares, children)
            found = _newest(out)
            advanced = found > newest
            ends = code in (0, PREEMPTED, *FINAL) or (code == CHECKPOINT and not advanced)
            if ends or children.told:
                # A child that SIGTERM hits before it listens dies of it, one that had no time left
                # was killed, and one may have missed another: nothing is lost.
                code = code if code in (0, *TOLD) else PREEMPTED
                line = f"process {number} ended with {code}"
                return Ended(_shown(code), result, said, line, restarts)
            # Nor is it progress when the newest was damaged, and was set aside.
            tries = 1 if advanced else tries + 1
            newest = max(newest, found)
            how = f"by signal {-code}" if code < 0 else f"with {code}"
            if tries > TRIES:
                line = (f"process {number} ended {how}, {tries} times since the checkpoint of step "
                        f"{_step(newest)}; the supervisor gives up")  # fmt: skip
                return Ended(_shown(code), result, False, line, restarts)
            restarts += 1
            again = f"all start again from step {_step(found)} (#{restarts})"
            say(f"process {number} ended {how}; {again}")


def _step(newest: int) -> int | None:
    return None if newest < 0 else newest


def _shown(code: int) -> int:
    return 128 - code if code < 0 else code


class _Children:
    """The processes under way, for a signal to be passed on to."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []
        self.told = False

    def pass_on(self, *_: object) -> None:
        self.told = True
        for child in self.running:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()


@contextlib.contextmanager
def _passed_on() -> Iterator[_Children]:
    children = _Children()
    listens = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, children.pass_on) if listens else None
    try:
        yield children
    finally:
        if listens:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        _kill(children.running)


def _once(
    command: Sequence[str], shares: list[dict[str, str]], children: _Children
) -> tuple[int, int, dict[str, Any] | None, bool]:
    """Start all, wait for all. The code that decides, whose it is, what process 0 answered, and
    whether the error was told."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in shares]
        errors = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in shares[1:]]
        arguments = [*command]
        if len(shares) > 1:
            arguments += ["--coordinator", f"127.0.0.1:{_free_port()}"]
            arguments += ["--processes", str(len(shares)), "--process"]
        children.running = [
            subprocess.Popen(
                [*arguments, str(i)] if len(shares) > 1 else arguments,
                env={**environment, _SUPERVISOR: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=files[i],
                stderr=errors[i - 1] if i else None,
                text=True,
            )
            for i, environment in enumerate(shares)
        ]
        if children.told:  # while they were started
            children.pass_on()
        code, number = _wait(children.running)
        told = files[number if code in TOLD else 0]
        told.seek(0)
        result = _last_object(told.read())
        said = result is not None and children.running[0].returncode >= 0
        if number and code != 0:
            errors[number - 1].seek(0)
            lines = [line for line in errors[number - 1] if line.startswith("error: ")]
            if lines and children.running[0].returncode < 0:
                sys.stderr.write(lines[-1])
                said = True
        return code, number, result, said


def end_with_supervisor() -> None:
    """In a process that `supervise` started: SIGTERM when the supervisor is gone, however it ended.

    A supervisor that is killed says nothing to its children, who would hold the run directory.
    Linux alone has this (`man 2 prctl`).
    """
    parent = os.environ.get(_SUPERVISOR)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it was gone before
        os.kill(os.getpid(), signal.SIGTERM)


_SUPERVISOR, _PR_SET_PDEATHSIG = "RSVLM_SUPERVISOR", 1


def _wait(children: list[subprocess.Popen[str]]) -> tuple[int, int]:
    """Until all have ended. The first code that is not 0, and the number of its process.

    When one has ended by itself the others are given time if they can know it (they say its error),
    and none if it was killed or has crashed.
    """
    decided: tuple[int, int] | None = None
    limit = None
    while None in [child.poll() for child in children]:  # each is asked
        for number, child in enumerate(children):
            if decided is None and child.returncode not in (None, 0):
                decided = child.returncode, number
                if child.returncode in (PREEMPTED, *TOLD):  # all should end, and now
                    limit = time.monotonic() + PATIENCE
                else:
                    limit = time.monotonic()
        if limit is None and 0 in [child.returncode for child in children]:
            limit = time.monotonic() + PATIENCE  # all leave together
        if limit is not None and time.monotonic() >= limit:
            _kill(children)
        time.sleep(0.05)
    if decided is None:
        ended = [(c.returncode, n) for n, c in enumerate(children) if c.returncode != 0]
        decided = ended[0] if ended else (0, 0)
    return decided


def _kill(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        if child.poll() is None:
            child.kill()
    for child in children:
        child.wait()


def _last_object(text: str) -> dict[str, Any] | None:
    lines = text.splitlines()
    if not lines:
        return None
    with contextlib.suppress(ValueError):
        found = json.loads(lines[-1])
        return found if isinstance(found, dict) else None
    return None


def _newest(out: Path) -> int:
    """The newest finished step or -1, by its manifest's presence: no file is read here."""
    found = [p.parent.name for p in RunDir(out).checkpoints.glob("*/manifest.json")]
    return max((int(name) for name in found if name.isdecimal()), default=-1)


def _shares(processes: int, environment: dict[str, str]) -> list[dict[str, str]]:
    """The environment of each process: GPUs are divided."""
    if processes < 1:
        raise ConfigError(
            "no process to supervise", where="--supervise", expected=">= 1", found=processes
        )
    gpus = visible_gpus(environment)
    if processes == 1 or not gpus:
        return [environment] * processes
    if len(gpus) % processes:
        raise ConfigError(
            "the GPUs do not divide", where="--supervise",
            expected=f"a divisor of {len(gpus)} GPUs", found=processes,
            remedy="choose some by CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
    n = len(gpus) // processes
    parts = [",".join(gpus[i * n : (i + 1) * n]) for i in range(processes)]
    return [{**environment, "CUDA_VISIBLE_DEVICES": part} for part in parts]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
