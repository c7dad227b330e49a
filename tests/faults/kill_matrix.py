"""Runs of `rsvlm train` that are killed at random moments and started again until they are done.

    python tests/faults/kill_matrix.py [--runs 50] [--other 10] [--first 0] [--json]

Run i gets SIGKILL or SIGTERM once or twice, at moments drawn from (seed, i): while it sets up,
between steps, or within a save. Beside the unbroken run on as many devices it is then judged:

    exit codes                75 after SIGTERM, once the program listens; 0 in the end
    what a finished save held is what is restored, in memory to memory, and no older step is
    metrics.jsonl             bitwise
    every batch ever drawn    bitwise, and none left out
    parameters, optimiser, average, counters of the last checkpoint    bitwise

A run on other topologies goes on with 4 devices and then with 1 after 8. What is restored there is
bitwise what was saved, the batches are the same, and the losses of the first five steps on fewer
devices are those of the unbroken run within 1e-5.

Each start is a fork of this process, which has imported everything and looked for no device: the
command itself is whole (`watched.py`). Compiled programs are kept in a folder between starts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0
"""Seconds after which a start counts as hanging."""

WITHIN = 0.06
"""Seconds after a save began, or a row was written, within which a signal comes."""


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
        self.rows = len(_lines(self.folder / "run" / "metrics.jsonl"))

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
                raise AssertionError(f"no end after {LIMIT:.0f} s: {_said(self.folder)}")
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
            return lambda: moment.step <= len(_lines(path)) != self.rows
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


def _said(folder: Path) -> str:
    return " | ".join((folder / "said.txt").read_text().splitlines()[-3:])


def _lines(path: Path) -> list[list]:
    """The whole lines of a JSON file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]


def _finished(folder: Path) -> int:
    """The newest step with a manifest; 0: none."""
    found = (folder / "run" / "checkpoints").glob("*/manifest.json")
    return max((int(p.parent.name) for p in found if p.parent.name.isdecimal()), default=0)


class Unbroken:
    """The run that nothing happens to, on so many devices; made once."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.folder, self.devices = folder, devices
        start = Start(folder, devices)
        code = start.wait()
        if code:
            raise SystemExit(f"the unbroken run ended with {code}: {_said(folder)}")
        warm = Start(folder.with_name(f"{folder.name}_warm"), devices)  # programs are compiled
        warm.wait()
        self.seconds = time.monotonic() - warm.begun
        self.metrics = (folder / "run" / "metrics.jsonl").read_bytes()
        self.drawn = dict(_lines(folder / "drawn.jsonl"))
        self.final = json.loads((folder / "final.json").read_text())
        self.steps = len(self.drawn)

    def moment(self, rng: random.Random, *, trained: bool = False) -> Moment:
        """Drawn anew for every start; `trained`: once something was saved, in the first half."""
        from small_experiment import SAVE_EVERY

        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        kind = rng.choice(["row", "save"] if trained else ["any", "row", "save"])
        first, last = (2 * SAVE_EVERY + 1, self.steps // 2) if trained else (1, self.steps - 4)
        step = rng.randint(first, last)
        if kind == "save":
            step = SAVE_EVERY * rng.randint(-(-first // SAVE_EVERY), last // SAVE_EVERY)
        after = WITHIN * rng.random()
        return Moment(number, kind, rng.uniform(0.02, 0.95) * self.seconds, step, after)


def _killed(start: Start, moment: Moment) -> list[str]:
    """Kill a run; what is wrong with how it ended."""
    landed = start.kill(moment)
    code = start.wait()
    if not landed:
        return [] if code == 0 else [f"before {moment}: exit {code}: {_said(start.folder)}"]
    if moment.number == signal.SIGKILL:
        return [] if code == -signal.SIGKILL else [f"{moment}: exit {code}"]
    fine = (75, 0) if start.listens else (75, 0, -signal.SIGTERM)  # 0: it was over by then
    return [] if code in fine else [f"{moment}: exit {code}: {_said(start.folder)}"]


def _judged(folder: Path, whole: Unbroken) -> Iterator[str]:
    """What differs from the unbroken run, of what is the same on every topology."""
    saved = dict(_lines(folder / "saved.jsonl"))
    for step, digest in _lines(folder / "restored.jsonl"):
        if step and saved.get(step) != digest:
            yield f"the state of step {step} is not that which was saved"
    drawn = _lines(folder / "drawn.jsonl")
    if any(whole.drawn.get(number) != digest for number, digest in drawn):
        yield "another batch was drawn"
    if {number for number, _ in drawn} != set(whole.drawn):
        yield "a batch was left out"


def same_topology(folder: Path, whole: Unbroken, rng: random.Random) -> tuple[str, list[str]]:
    """One run of the matrix: what was done to it, and what is wrong."""
    done: list[str] = []
    wrong: list[str] = []
    for _ in range(rng.choice([1, 1, 2])):
        moment = whole.moment(rng)
        start = Start(folder, whole.devices)
        wrong += _killed(start, moment)
        _note(folder)
        if start.code == 0 and not done:  # it came too late: nothing was done to this run
            shutil.rmtree(folder)
            return same_topology(folder, whole, rng)
        done.append(f"{moment}{'' if start.code else ' (too late)'}")
    wrong += _go_on(folder, whole.devices)
    if not wrong:
        if (folder / "run" / "metrics.jsonl").read_bytes() != whole.metrics:
            wrong.append("metrics.jsonl differs")
        if json.loads((folder / "final.json").read_text()) != whole.final:
            wrong.append("the last state differs")
        wrong += _judged(folder, whole)
    return f"{whole.devices} devices: {', '.join(done)}", wrong


def _note(folder: Path) -> None:
    """Which step was finished when the process ended, and which restoring comes next."""
    with open(folder / "finished.jsonl", "a") as file:
        number = len(_lines(folder / "restored.jsonl"))
        file.write(json.dumps([number, _finished(folder)]) + "\n")


def _go_on(folder: Path, devices: int) -> list[str]:
    """Start again, to the end; what is wrong with that."""
    code = Start(folder, devices).wait()
    if code:
        return [f"started again: exit {code}: {_said(folder)}"]
    restored = [step for step, _ in _lines(folder / "restored.jsonl")]
    return [
        f"went on from step {restored[number]} where step {step} was finished"
        for number, step in _lines(folder / "finished.jsonl")
        if number < len(restored) and restored[number] < step
    ]


def other_topology(
    folder: Path, wholes: dict[int, Unbroken], rng: random.Random
) -> tuple[str, list[str], float]:
    """8 devices, then 4, then 1; also the largest relative difference of a loss."""
    whole, done, switches = wholes[8], [], []
    wrong: list[str] = []
    for devices in (8, 4):
        moment = whole.moment(rng, trained=True)
        if switches:  # after some steps on fewer devices
            step = rng.randint(switches[-1] + 1, max(switches[-1] + 1, whole.steps - 6))
            moment = dataclasses.replace(moment, kind="row", step=step)
        start = Start(folder, devices)
        wrong += _killed(start, moment)
        done.append(f"{devices} devices: {moment}")
        _note(folder)
        switches.append(_finished(folder))
        if start.code == 0 or not switches[-1]:  # it would not be restored on all three
            shutil.rmtree(folder)
            return other_topology(folder, wholes, rng)
    wrong += _go_on(folder, 1)
    if wrong:
        return ", ".join(done), wrong, float("nan")
    wrong += _judged(folder, whole)
    a = [json.loads(line)["loss"] for line in whole.metrics.splitlines()]
    b = [row["loss"] for row in _lines(folder / "run" / "metrics.jsonl")]
    off = [abs(x - y) / abs(x) for x, y in zip(a, b, strict=True)]
    if any(off[: switches[0]]):
        wrong.append("a loss before the switch differs")
    if max(off[switches[0] : switches[0] + 5]) > 1e-5:
        wrong.append(f"a loss within 5 steps is off by {max(off):.1e}")
    return ", ".join(done), wrong, max(off)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=50, help="on the same topology")
    options.add_argument("--other", type=int, default=10, help="8 -> 4 -> 1 devices")
    options.add_argument("--first", type=int, default=0, help="number of the first of each")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--cache", type=Path, help="compiled programs; default: a new folder")
    options.add_argument("--json", action="store_true")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = _matrix(asked, Path(folder))
    for name, (fine, of) in counts.items():
        print(f"kill_matrix.{name} {fine} of_{of} >={of} {'ok' if fine == of else 'short'}")
    if asked.json:
        print(json.dumps(counts))
    return 0 if all(fine == of for fine, of in counts.values()) else 1


def _matrix(asked: argparse.Namespace, folder: Path) -> dict[str, tuple[int, int]]:
    _import_everything(asked.cache or folder / "programs")
    numbers = range(asked.first, asked.first + asked.runs)
    others = range(asked.first, asked.first + asked.other)
    # Every tenth run on two devices, whose sums are of several parts.
    wanted = {_devices(i) for i in numbers} | ({8} if others else set())
    wholes = {n: Unbroken(folder / f"unbroken_{n}", n) for n in sorted(wanted)}
    fine = {"same_topology": 0, "other_topology": 0}
    for i in numbers:
        rng = random.Random(f"{asked.seed} same {i}")
        done, wrong = same_topology(folder / f"same_{i}", wholes[_devices(i)], rng)
        fine["same_topology"] += not wrong
        print(f"run {i}: {done}: {'; '.join(wrong) or 'ok'}", file=sys.stderr, flush=True)
    for i in others:
        rng = random.Random(f"{asked.seed} other {i}")
        done, wrong, off = other_topology(folder / f"other_{i}", wholes, rng)
        fine["other_topology"] += not wrong
        text = "; ".join(wrong) or f"ok, losses within {off:.1e}"
        print(f"run {i}, other: {done}, 1 device: {text}", file=sys.stderr, flush=True)
    return {
        "same_topology": (fine["same_topology"], len(numbers)),
        "other_topology": (fine["other_topology"], len(others)),
    }


def _devices(i: int) -> int:
    return 2 if i % 10 == 9 else 1


def _import_everything(cache: Path) -> None:
    """All but devices: a fork of a process with a backend would hang."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        "HF_HUB_OFFLINE": "1",
    }
    sys.path.insert(0, str(ROOT))
    import grain  # noqa: F401

    import rsvlm_jax.cli.progress
    import rsvlm_jax.cli.train
    import rsvlm_jax.run.fit  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
