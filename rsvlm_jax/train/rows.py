"""Files of rows: a JSON object a line with its step, in order, taken up again after any stop.

    with Rows(path, step) as rows: rows.write(as_row(step + 1, {"loss": 0.5}))

Opened at a step, a file loses the rows after it, and the torn last line of a killed process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rsvlm_jax.config import CheckpointError, ConfigError

Row = dict[str, Any]


def as_row(step: int, values: Mapping[str, Any]) -> Row:
    """Numbers by name as a row; one that is not finite becomes None."""
    row: Row = {"step": step}
    for name, value in values.items():
        number = float(value)  # a float32 is a float64 exactly, and repr keeps that
        row[name] = number if math.isfinite(number) else None
    return row


def read_rows(path: str | os.PathLike[str] | None) -> Iterator[Row]:
    """The rows of a file, none where there is no file. A torn last line is no row.

    Raises:
      CheckpointError: another line is no row.
    """
    for row, _ in _lines(path):
        yield row


class Rows:
    """A file of rows, opened at a step.

    Args:
      path: None writes nothing.
      step: rows after it are dropped.
    """

    def __init__(self, path: str | os.PathLike[str] | None, step: int) -> None:
        self._path = None if path is None else Path(path)
        self._step = step
        self._file: Any = None

    def __enter__(self) -> Rows:
        if self._path is not None:
            with self._writing():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                kept = [line for row, line in _lines(self._path) if row["step"] <= self._step]
                temporary = self._path.with_name(f".{self._path.name}.tmp")
                temporary.write_text("".join(kept))
                os.replace(temporary, self._path)
                self._file = open(self._path, "a")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(quiet=kind is not None)

    def close(self, *, quiet: bool = False) -> None:
        """What a full disk did not take is tried again here; `quiet`: another error says it."""
        if self._file is not None:
            with contextlib.suppress(OSError) if quiet else self._writing():
                self._file.close()

    def write(self, row: Row) -> None:
        """A line, handed to the system.

        Raises:
          ConfigError: it cannot be written.
        """
        if self._file is not None:
            with self._writing():
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()

    def sync(self) -> None:
        """All lines to the disk. Errors as `write`."""
        if self._file is not None:
            with self._writing():
                os.fsync(self._file.fileno())

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


def _lines(path: str | os.PathLike[str] | None) -> Iterator[tuple[Row, str]]:
    """Rows with their lines. A killed process leaves a last line without its end, and no other."""
    if path is None or not os.path.exists(path):
        return
    with open(path, errors="replace") as f:
        for number, line in enumerate(f, 1):
            if not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
                if not isinstance(row["step"], int):
                    raise ValueError("no step")
            except (ValueError, KeyError, TypeError) as e:
                raise CheckpointError(
                    "a damaged row of metrics",
                    where=f"{path}, line {number}",
                    expected='{"step": ...}',
                    found=repr(line[:40]),
                    remedy="mend or delete the line; the checkpoints do not need it",
                ) from e
            yield row, line
