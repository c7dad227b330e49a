"""Starts of the command, each a fork of this process, and the moments at which they are killed.

This process has imported what the command needs and has looked for no device: a fork of one that
has would hang.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

LIMIT = 120.0
"""Seconds after which a start counts as hanging."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a signal comes: `at` seconds after the start, or `after` seconds after a step's row
    (`kind="row"`) or the beginning of its save (`kind="save"`)."""

    number: int
    kind: str
    at: float
    step: int
    after: float

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        if self.kind == "any":
            return f"{name} {self.at:.2f} s after the start"
        return f"{name} {1e3 * self.after:.0f} ms after the {self.kind} of step {self.step}"


@dataclasses.dataclass
class Start:
    """A process that trains in a folder."""

    folder: Path
    devices: int

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.begun = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_command(self.folder, self.devices)
        self.code: int | None = None
        self.listens = False
        self.rows = len(lines(self.folder / "run" / "metrics.jsonl"))

    def over(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self) -> int:
        """The exit code; a signal is negative."""
        while not self.over():
            if time.monotonic() - self.begun > LIMIT:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"no end after {LIMIT:.0f} s: {said(self.folder)}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def kill(self, moment: Moment) -> bool:
        """Send the signal at its moment; false where the process had ended before."""
        come = self._comes(moment)
        while not come():
            if self.over():
                return False
            time.sleep(0.001)
        if moment.kind != "any":
            time.sleep(moment.after)
        if self.over():
            return False
        self.listens = _catches(self.pid, moment.number)
        os.kill(self.pid, moment.number)
        return True

    def _comes(self, moment: Moment) -> Callable[[], bool]:
        run = self.folder / "run"
        if moment.kind == "any":
            return lambda: time.monotonic() - self.begun >= moment.at
        if moment.kind == "row":  # a new one: what is there is of the start before
            path = run / "metrics.jsonl"
            return lambda: moment.step <= len(lines(path)) != self.rows
        there = {p.name for p in (run / "checkpoints").glob("*")}
        return lambda: any(
            p.name not in there for p in (run / "checkpoints").glob(f"{moment.step}*")
        )


def _catches(pid: int, number: int) -> bool:
    """Whether a process handles a signal; at its very beginning it does not yet."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _be_the_command(folder: Path, devices: int) -> None:
    code = 1
    try:
        log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from watched import run

        code = run(folder, devices)
    finally:
        os._exit(code)


def said(folder: Path) -> str:
    return " | ".join((folder / "said.txt").read_text().splitlines()[-3:])


def lines(path: Path) -> list[list]:
    """The whole lines of a JSON file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]
