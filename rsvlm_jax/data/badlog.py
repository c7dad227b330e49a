"""A file of the samples that could not be read: a JSON line each, once.

    {"sample": 6, "cube": "/data/x.zarr", "window": [8, 16, 8], "reason": "corrupt chunk in ..."}

`window` is row, column and edge on the cube's grid; null for a conversation, whose file stands in
place of the cube. Not here: how many are borne (`source`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from rsvlm_jax.config import ConfigError

from .samples import BadSample


class BadLog:
    """Appends to a file, made with its first line; a resumed run does not repeat its lines.

    Attributes:
      noted: what was written since it was opened, lines that the file had before included.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        """`path`: None keeps `noted` and no file (of processes that write none)."""
        self.path = None if path is None else Path(path)
        before = [] if path is None else read_bad(path)
        self._seen = {(bad.cube, bad.sample) for bad in before}
        self.noted: dict[tuple[str, int], BadSample] = {}

    def write(self, bad: BadSample) -> None:
        """One line, unless it stands there.

        Raises:
          ConfigError: the file cannot be written.
        """
        self.noted.setdefault((bad.cube, bad.sample), bad)
        if (bad.cube, bad.sample) in self._seen or self.path is None:
            return
        self._seen.add((bad.cube, bad.sample))
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(dataclasses.asdict(bad)) + "\n")
        except OSError as error:
            raise ConfigError(
                f"cannot write the list of bad samples ({error.strerror})", where=self.path
            ) from error


def read_bad(path: str | os.PathLike[str]) -> list[BadSample]:
    """What was logged; a line that a killed process left without its end is no line."""
    try:
        lines = Path(path).read_text().splitlines(True)
    except FileNotFoundError:
        return []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [BadSample(**{**row, "window": row["window"] and tuple(row["window"])}) for row in rows]
