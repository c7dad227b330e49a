"""One self-contained HTML page of a benchmark: tables, and pictures inside the file.

No script, no style sheet and no font from elsewhere: it can be sent by mail and read in ten years.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsvlm_jax.evaluate.regression import Row
from rsvlm_jax.evaluate.report import ReportContext, cells

from .deals import Deal
from .scoring import Scored
from .task import Task

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1150px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.6rem 0;font-size:13px;display:block;overflow-x:auto}
th,td{padding:.2rem .55rem;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}
th{background:#f6f6f6}td:first-child,th:first-child{text-align:left}
tr.ours td{background:#fdf1f2}img{max-width:100%}.bad{color:#b00020;font-weight:600}
small,caption{color:#666}caption{text-align:left}code{background:#f4f4f4;padding:.1rem .3rem}
"""
HEADS = {"rmse": "RMSE [95 %]", "r2": "R² [95 %]", "picp90": "PICP90 [95 %]", "crps": "CRPS",
         "mae": "MAE", "width90": "width90", "seconds": "s", "n": "n", "bias": "bias"}  # fmt: skip
PAIRS = 40
"""Rows of pairs on the page; all are in paired.csv."""
VALUES = 24
"""Labels of more values have no table on the page; all are in groups.csv."""


def html_page(
    context: ReportContext,
    task: Task,
    deals: Sequence[Deal],
    results: Sequence[Scored],
    side: Mapping[str, list[Row]],
    pictures: Mapping[str, list[tuple[str, Path]]],
) -> str:
    """The page as text."""
    facts = [
        ("Target", f"{context.target} ({_unit(task.target.unit)})"),
        ("Data", context.cube),
        ("Windows", f"{task.evaluation.size} pixels; {len(task.y_training)} to train on, "
         f"{len(task.y)} to score"),
        ("Inputs", ", ".join(f"{s.name} ({len(s.bands)} band{'s' * (len(s.bands) > 1)})"
                             for s in task.prepared.specs)),
        ("Made by", context.command),
    ]  # fmt: skip
    parts = [f"<h1>{html.escape(context.title)}</h1>", "<ul>"]
    parts += [f"<li>{k}: {html.escape(v)}</li>" for k, v in facts]
    parts.append("</ul>")
    for deal in deals:
        mine = [r for r in results if r.deal is deal]
        parts.append(f"<h2>{html.escape(deal.name)}</h2><p>{html.escape(deal.words)}</p>")
        if deal.leaks:
            parts.append(f'<p class="bad">Leaks: {html.escape("; ".join(deal.leaks))}</p>')
        parts.append(_scores(mine))
        for caption, path in pictures[deal.name]:
            data = base64.b64encode(path.read_bytes()).decode()
            parts.append(f'<p><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
                         f"<br><small>{html.escape(caption)}</small></p>")  # fmt: skip
        if not any(path.name.startswith("residuals") for _, path in pictures[deal.name]):
            parts.append("<p><small>No map of residuals: the places have no positions.</small></p>")
        parts += _by_label([r for r in side["groups"] if r["split"] == deal.name])
        pairs = [r for r in side["paired"] if r["split"] == deal.name]
        pairs = [r for r in pairs if _about_us(r)] or pairs
        parts.append(_table(pairs[:PAIRS], "Pairs: negative is better for the first", _PAIR))
        own = [r.row for r in mine if any(math.isfinite(r.row[k]) for k in _OWN)]
        parts.append(_table(own, "What models say of themselves, before calibration",
                            ["model", *_OWN]))  # fmt: skip
        for name, caption in (
            ("cost", "Cost: one seed, all folds"),
            ("splits", "What the folds share"),
        ):
            rows = [r for r in side[name] if r["split"] == deal.name]
            parts.append(_table(rows, caption, [k for k in rows[0] if k != "split"]))
    parts += [f"<p><small>{html.escape(note)}</small></p>" for note in context.notes]
    body = "\n".join(parts)
    title = html.escape(context.title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


_OWN = ("own_picp90", "own_width90", "own_crps")
_PAIR = ["metric", "model", "reference", "difference", "lo", "hi", "p", "p_holm"]


def _about_us(row: Row) -> bool:
    """Pairs with a row of ours on one side, on the page."""
    return row["model"].startswith("rsvlm") or row["reference"].startswith("rsvlm")


def _unit(unit: str) -> str:
    return "a share, 0 to 1" if unit in ("", "1") else unit


def _by_label(groups: Sequence[Row]) -> list[str]:
    """A table of every label of few values, a region or a year: RMSE of each model in each."""
    parts = []
    for label in dict.fromkeys(r["label"] for r in groups):
        mine = [r for r in groups if r["label"] == label]
        rows: dict[str, Row] = {}
        for r in mine:
            row = rows.setdefault(r["value"], {label: r["value"], "n": r["n"],
                                               "mean observed": r["observed"]})  # fmt: skip
            row[r["model"]] = r["rmse"]
        if 2 <= len(rows) <= VALUES:
            parts.append(_table([*rows.values()], f"RMSE by {label}", [*next(iter(rows.values()))]))
    return parts


def _scores(results: Sequence[Scored]) -> str:
    keys = ("n", "rmse", "mae", "bias", "r2", "picp90", "width90", "crps", "seconds")
    head = "".join(f"<th>{HEADS[k]}</th>" for k in keys)
    lines = [f"<tr><th>model</th>{head}<th>what it is</th></tr>"]
    for r in results:
        text = cells(r.row)
        for k, low in (("rmse", "rmse_lo"), ("r2", "r2_lo"), ("picp90", "picp90_site_lo")):
            ends = r.row[low], r.row[low.replace("_lo", "_hi")]
            value = text[k].split(" [")[0]
            text[k] = f"{value} <small>[{_short(ends[0])}, {_short(ends[1])}]</small>"
        ours = ' class="ours"' if r.row["model"].startswith("rsvlm") else ""
        values = "".join(f"<td>{text[k]}</td>" for k in keys)
        about = f'<td style="text-align:left">{html.escape(r.model.about)}</td>'
        lines.append(f"<tr{ours}><td>{html.escape(r.row['model'])}</td>{values}{about}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _table(rows: Sequence[Row], caption: str, keys: Sequence[str]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(k)}</th>" for k in keys)
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(_short(row.get(k)))}</td>" for k in keys) + "</tr>"
        for row in rows
    ]
    title = f"<caption>{html.escape(caption)}</caption>"
    return f"<table>{title}<tr>{head}</tr>{''.join(lines)}</table>"


def _short(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
