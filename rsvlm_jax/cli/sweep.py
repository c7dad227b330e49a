"""`rsvlm train EXPERIMENT.py --out RUNS --sweep FIELD=VALUE,VALUE ...`: one file, many runs.

    --sweep train.seed=0,1,2 optimizer.learning-rate=1e-3,3e-4

trains the six experiments of all combinations, one after the other, each in a directory of its own
below RUNS and each as `rsvlm train` would: what was finished is not trained again, what was
interrupted goes on. `RUNS/sweep.json` has a row for each that is finished.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsvlm_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Run:
    """One combination: the name of its directory, its fields, and the options that stand for it."""

    name: str
    fields: dict[str, str]

    @property
    def options(self) -> list[str]:
        made: list[str] = []
        for field, value in self.fields.items():
            if value in ("True", "False"):
                group, dot, leaf = field.rpartition(".")
                made.append(f"--{group}{dot}{'' if value == 'True' else 'no-'}{leaf}")
            else:
                made += [f"--{field}", value]
        return made


def combinations(words: Sequence[str]) -> list[Run]:
    """Every combination.

    Args:
      words: `FIELD=VALUE,VALUE`, fields as options of `rsvlm train` without their dashes.

    Raises:
      ConfigError: a word of another form, or a field twice.
    """
    fields: dict[str, list[str]] = {}
    for word in words:
        name, equals, values = word.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        found = [v for v in values.split(",") if v]
        if not equals or not name or not found or len(set(found)) != len(found):
            raise ConfigError(
                "not a field and its values",
                where="--sweep",
                expected="FIELD=VALUE,VALUE with different values, e.g. train.seed=0,1,2",
                found=word,
            )
        if name in fields:
            raise ConfigError("a field is swept twice", where="--sweep", found=name)
        fields[name] = found
    made = []
    for values in itertools.product(*fields.values()):
        pairs = list(zip(fields, values, strict=True))
        name = ",".join(f"{f.rpartition('.')[2]}={re.sub(r'[^-+.0-9A-Za-z]', '_', v)}"
                        for f, v in pairs)  # fmt: skip
        made.append(Run(name, dict(pairs)))
    if len({run.name for run in made}) != len(made):
        raise ConfigError(
            "two runs of a sweep would have one directory", where="--sweep", found=" ".join(words)
        )
    return made


def without(words: Sequence[str], *options: str) -> list[str]:
    """A command line without some options and the values that follow them."""
    kept: list[str] = []
    dropping = False
    for word in words:
        if word.startswith("--"):
            dropping = word.partition("=")[0] in options
        if not dropping:
            kept.append(word)
    return kept


def last_row(file: Path) -> dict[str, Any]:
    """The last row of a file of metrics; {} where there is none."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return json.loads(lines[-1]) if lines else {}


def sweep(
    runs: Sequence[Run], out: Path, train: Callable[[Run, Path], Any], *, write: bool = True
) -> list[dict[str, Any]]:
    """Train all combinations below `out`; a row for each, which `out/sweep.json` holds too.

    Args:
      train: trains one in a directory. Whatever it raises ends the sweep, with the rows so far
        written.
      write: `sweep.json`; of several processes one does.

    Returns:
      Rows: `run`, the swept fields as they were given, `loss` of the last step, `held_out` of the
      last score where there is one.
    """
    rows: list[dict[str, Any]] = []
    for one in runs:
        run = out / one.name
        train(one, run)
        scored = last_row(run / "held_out.jsonl")
        row = {"run": str(run), **one.fields, "loss": last_row(run / "metrics.jsonl").get("loss")}
        if scored:
            row["held_out"] = scored.get("loss", scored.get("text"))
        rows.append(row)
        if write:
            (out / "sweep.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows
