"""Rows of a benchmark as a terminal table, Markdown, JSON and CSV, and the report directory.

    rows [{model, split, n, rmse, ...}] -> rich.Table | str
    write_report(dir, rows, context)    -> report.md, table.json, table.csv

Text is rounded for people; JSON and CSV keep every digit. JSON has null where a figure is
undefined: NaN is not JSON, and many parsers refuse it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rsvlm_jax.config import ConfigError

from .regression import COLUMNS, EXTRA_COLUMNS, Row

TEXT_COLUMNS = ("model", "split")
HEADS = {"r2": "R²", "picp90": "PICP90 [95 %]", "width90": "width90", "seconds": "s"}


@dataclasses.dataclass(frozen=True)
class ReportContext:
    """What a reader needs beside the rows.

    Attributes:
      title: heading.
      target, unit: what was predicted.
      cube: which data, with their digest if there is one.
      split: how the folds were made, in words.
      notes: paragraphs: what the rows mean, where the model loses, what was not done.
      command: what makes this report again.
      figure: file name of a picture in the same directory, or None.
    """

    title: str
    target: str
    unit: str = "1"
    cube: str = ""
    split: str = ""
    notes: tuple[str, ...] = ()
    command: str = ""
    figure: str | None = None


def cells(row: Row) -> dict[str, str]:
    """A row as rounded text; coverage with its binomial interval where the row has it."""
    out = {k: _cell(k, row[k]) for k in COLUMNS}
    if all(not _missing(row.get(k)) for k in EXTRA_COLUMNS):
        low, high = (row[k] for k in EXTRA_COLUMNS)
        out["picp90"] += f" [{low:.2f}, {high:.2f}]"
    return out


def rich_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """For a terminal. The best R² and RMSE are bold."""
    table = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown = _columns(rows)
    for k in shown:
        text = k in TEXT_COLUMNS
        table.add_column(HEADS.get(k, k), justify="left" if text else "right", no_wrap=k == "model")
    best = {("r2", _best(rows, "r2", max)), ("rmse", _best(rows, "rmse", min))}
    for i, row in enumerate(rows):
        text = cells(row)
        table.add_row(*(f"[bold]{text[k]}[/]" if (k, i) in best else text[k] for k in shown))
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """A GitHub table, ending in a newline."""
    shown = _columns(rows)
    lines = [
        "| " + " | ".join(HEADS.get(k, k) for k in shown) + " |",
        "|" + "|".join(" --- " if k in TEXT_COLUMNS else " ---: " for k in shown) + "|",
    ]
    for row in rows:
        text = cells(row)
        lines.append("| " + " | ".join(text[k].replace("|", "\\|") for k in shown) + " |")
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[Row]) -> str:
    """A list of objects, full precision, null where undefined."""
    clean = [{k: None if _missing(v) else v for k, v in row.items()} for row in rows]
    return json.dumps(clean, indent=2, allow_nan=False) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """Header and rows, full precision, empty where undefined; what else rows have comes last."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = tuple(dict.fromkeys((*COLUMNS, *EXTRA_COLUMNS, *(k for row in rows for k in row))))
    writer.writerow(keys)
    for row in rows:
        values = (row.get(k) for k in keys)
        writer.writerow(["" if _missing(v) else v for v in values])
    return out.getvalue()


def write_report(
    directory: str | os.PathLike[str], rows: Sequence[Row], context: ReportContext
) -> Path:
    """Writes `report.md`, `table.json` and `table.csv`; each file whole or not at all.

    Returns:
      The path of `report.md`.

    Raises:
      ConfigError: the directory cannot be written.
    """
    directory = Path(directory)
    contents = {
        "table.json": to_json(rows),
        "table.csv": to_csv(rows),
        "report.md": _markdown(rows, context),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            part = directory / f".{name}.part"
            part.write_text(text, encoding="utf-8")
            os.replace(part, directory / name)
    except OSError as error:
        raise ConfigError(
            "cannot write the report",
            where=str(directory),
            found=error.strerror or str(error),
            remedy="choose another --out",
        ) from error
    return directory / "report.md"


def _markdown(rows: Sequence[Row], context: ReportContext) -> str:
    unit = "a share, 0 to 1" if context.unit in ("", "1") else context.unit
    facts = [("Target", f"{context.target} ({unit})"), ("Data", context.cube)]
    facts += [("Folds", context.split), ("Made by", f"`{context.command}`")]
    parts = [f"# {context.title}\n"]
    parts.append("\n".join(f"- {k}: {v}" for k, v in facts if v.strip("`")) + "\n")
    parts.append(markdown_table(rows))
    parts.append(
        "All figures are of pooled held-out windows. bias = predicted - observed; R² = 1 - SSE/SST;"
        " rrmse = rmse / |mean observed|. PICP90 is the share of held-out values inside the 90 %"
        " interval, with its 95 % Clopper-Pearson interval, which takes windows as independent;"
        " neighbours are not. Intervals are cross-conformal: those of a fold are calibrated on the"
        " errors of the others. CRPS is that of the conformal predictive distribution, defined"
        " alike for all models. s: seconds of training and prediction, all folds.\n"
    )
    parts += [f"{note}\n" for note in context.notes]
    if context.figure:
        parts.append(f"![{context.title}]({context.figure})\n")
    return "\n".join(parts)


def _columns(rows: Sequence[Row]) -> list[str]:
    """Without `split` when all rows share an empty one."""
    return [k for k in COLUMNS if k != "split" or any(row["split"] for row in rows)]


def _best(rows: Sequence[Row], key: str, choose: Any) -> int:
    known = [i for i, row in enumerate(rows) if not _missing(row[key])]
    return choose(known, key=lambda i: rows[i][key]) if known else -1


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _cell(key: str, value: Any) -> str:
    if key in TEXT_COLUMNS:
        return str(value)
    if _missing(value):
        return "–"
    if key == "n":
        return str(value)
    if key == "picp90":
        return f"{value:.2f}"
    if key == "seconds":
        return f"{value:.1f}"
    if key in ("r2", "r", "rrmse"):
        return f"{value:.3f}"
    # In target units: three digits of a share as of a biomass.
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
