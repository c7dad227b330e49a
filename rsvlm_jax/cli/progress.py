"""Progress for people: a rich bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bars:
    """Several named bars at once; thread-safe. Use as a context manager."""

    def __init__(self, *, every: float = 5.0) -> None:
        self._console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 140)
        self._lock = threading.Lock()
        self._every = every
        self._start: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._rich: Progress | None = None
        if self._console.is_terminal:
            self._rich = Progress(
                TextColumn("{task.description:<28}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )

    def __enter__(self) -> Bars:
        if self._rich:
            self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rich:
            self._rich.stop()

    def update(
        self, name: str, done: int, total: int, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Move a bar; `metrics` ("loss", "samples_per_second") stand beside it."""
        note = "  ".join(_note(k, v) for k, v in (metrics or {}).items())
        with self._lock:
            now = time.monotonic()
            start = self._start.setdefault(name, now)
            if self._rich:
                if name not in self._tasks:
                    self._tasks[name] = self._rich.add_task(name, total=total, note="")
                self._rich.update(self._tasks[name], completed=done, note=note)
                return
            if done < total and now - self._said.get(name, start) < self._every:
                return
            self._said[name] = now
            left = (now - start) / max(done, 1) * (total - done)
            print(f"{name}: {done}/{total}  {note}  ETA {left:.0f} s", file=sys.stderr, flush=True)

    def say(self, what: Any) -> None:
        """Print text or a rich object, above the bars."""
        self._console.print(what, markup=not isinstance(what, str), highlight=False)

    def finish(self, name: str) -> None:
        """Take a bar away."""
        with self._lock:
            task = self._tasks.pop(name, None)
            if self._rich and task is not None:
                self._rich.remove_task(task)


def _note(name: str, value: float) -> str:
    if name.endswith("_per_second"):
        return f"{value:.0f} {name.removesuffix('_per_second')}/s"
    return f"{name} {value:.4g}"
