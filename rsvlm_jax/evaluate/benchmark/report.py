"""The directory of a report: tables as CSV and JSON, pictures as PNG, one page.

report/
  table.csv table.json report.md     the rows
  paired.csv bins.csv groups.csv calibration.csv cost.csv splits.csv
  scores.png scatter.png bins.png calibration.png residuals.png sites.png   (a split each)
  index.html                         all of it in one file that can be sent
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsvlm_jax.config import ConfigError
from rsvlm_jax.evaluate.report import ReportContext, write_report
from rsvlm_jax.run.rundir import write_atomic

from . import tables
from .deals import Deal
from .page import html_page
from .plots import draw
from .scoring import Scored
from .task import Task

NOTES = (
    "Intervals in brackets are 95 % of a bootstrap of sites (tiles of a raster): rows of one site "
    "are drawn together. p of a pair: signs of site sums flipped, corrected by Holm for all pairs.",
    "A row that begins with rsvlm has passed through the vision-language model with its decoder. "
    "Several seeds are averaged into one prediction; rmse_seed is what single ones reach.",
    "Settings of baselines were chosen by inner grouped cross-validation of the training windows. "
    "own_picp90, own_width90 and own_crps are what a model says of itself, before calibration.",
)


def write_bench_report(
    directory: Path,
    task: Task,
    deals: Sequence[Deal],
    results: Sequence[Scored],
    facts: Mapping[str, Any],
) -> Path:
    """Write all of it.

    Args:
      facts: `command`, `edges` of the bins, `left_out` rows with their reasons.

    Returns:
      The path of `index.html`.

    Raises:
      ConfigError: the directory cannot be written.
    """
    leaks = [f"Split {d.name} leaks: {'; '.join(d.leaks)}." for d in deals if d.leaks]
    left_out = [f"Left out: {name}: {why}." for name, why in facts["left_out"].items()]
    context = ReportContext(
        title=f"Regression benchmark: {task.words}",
        target=task.words,
        unit=task.target.unit,
        cube=f"{task.cube.title}, {task.cube.digest()[:16]}",
        split="; ".join(f"{d.name}: {d.words}" for d in deals),
        notes=(*leaks, *NOTES, *left_out),
        command=str(facts["command"]),
    )
    side = {
        "paired": tables.pair_rows(results),
        "bins": tables.bin_rows(results, facts["edges"]),
        "groups": tables.group_rows(task, results),
        "calibration": [row for r in results for row in r.calibration],
        "cost": tables.cost_rows(results),
        "splits": tables.split_rows(deals),
    }
    rows = [r.row for r in results]
    write_report(directory, rows, context)
    pictures: dict[str, list[tuple[str, Path]]] = {}
    for deal, mine in tables.of_deals(results):
        word = "" if len(deals) == 1 else "_" + re.sub(r"\W+", "_", deal.name)
        bins = [row for row in side["bins"] if row["split"] == deal.name]
        groups = [row for row in side["groups"] if row["split"] == deal.name]
        pictures[deal.name] = draw(directory, word, task, mine, bins, groups)
    try:
        for name, found in side.items():
            write_atomic(directory / f"{name}.csv", tables.csv_text(found))
        page = directory / "index.html"
        write_atomic(page, html_page(context, task, deals, results, side, pictures))
    except OSError as e:
        raise ConfigError(
            "cannot write the report", where=directory, found=os.strerror(e.errno or 0),
            remedy="choose another --out",
        ) from e  # fmt: skip
    return page
