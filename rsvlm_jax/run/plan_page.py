"""Plans as a page: one self-contained HTML with its charts, and the figures as JSON.

    write_page(reports, FOLDER) -> FOLDER/index.html      and FOLDER/report.json

Nothing is loaded from elsewhere: the charts are SVG in the page.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path

from rsvlm_jax.config import strict_json

from .plan_report import PlanReport, gib
from .rundir import write_atomic

STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.15rem .7rem .15rem 0;text-align:left;vertical-align:top}th{font-weight:600}
.no{color:#b3261e}.yes{color:#1b6e3c}svg text{font:12px system-ui,sans-serif}
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e6e6e6}svg text{fill:#e6e6e6}}"""

COLOURS = {"arguments": "#3b6fb6", "temporary": "#e0913a", "compute": "#3b6fb6",
           "memory": "#6aa84f", "communication": "#e0913a"}  # fmt: skip

Number = float | int

WIDTH, LEFT, BAR = 860, 190, 26


def write_page(reports: Sequence[PlanReport], folder: Path) -> Path:
    """Write the page and the figures; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = [r.to_dict() for r in reports]
    write_atomic(folder / "report.json", strict_json({"plans": plans}, indent=1) + "\n")
    write_atomic(folder / "index.html", page(reports))
    return folder / "index.html"


def page(reports: Sequence[PlanReport]) -> str:
    """The HTML."""
    title = f"Plan of {reports[0].experiment}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>",
        "<h2>Memory of a device</h2>",
        _bars([(_name(r), _memory(r), r.hbm_bytes) for r in reports], gib),
    ]
    timed = [r for r in reports if r.estimate is not None]
    if timed:
        parts += [
            "<h2>Time of a step, by the roofline</h2>",
            _bars([(_name(r), _time(r), r.step_seconds) for r in timed], lambda x: f"{x:.3g} s"),
            "<p>Each part by itself; the mark is the step, in which a part of the communication is "
            "hidden behind the rest.</p>",
        ]
    return "\n".join([*parts, *map(_section, reports)]) + "</html>\n"


def _name(r: PlanReport) -> str:
    return r.topology if r.program == "train" else f"{r.topology} {r.program}"


def _memory(r: PlanReport) -> dict[str, Number]:
    made: dict[str, Number] = {"arguments": r.argument_bytes}
    rest = (r.peak_bytes or r.argument_bytes) - r.argument_bytes
    return {**made, "temporary": max(rest, 0)}


def _time(r: PlanReport) -> dict[str, Number]:
    assert r.estimate is not None
    e = r.estimate
    return {"compute": e.compute_seconds, "memory": e.memory_seconds,
            "communication": e.communication_seconds}  # fmt: skip


def _bars(
    rows: list[tuple[str, dict[str, Number], Number | None]], told: Callable[[Number], str]
) -> str:
    """Stacked bars with a mark each."""
    most = max(max(sum(parts.values()), mark or 0.0) for _, parts, mark in rows) or 1.0
    scale = (WIDTH - LEFT - 90) / most
    drawn = []
    for i, (name, parts, mark) in enumerate(rows):
        y, x = 8 + i * (BAR + 12), float(LEFT)
        drawn.append(
            f"<text x='{LEFT - 8}' y='{y + 18}' text-anchor=end>{html.escape(name)}</text>"
        )
        for part, size in parts.items():
            wide = size * scale
            label = f"{part}: {told(size)}"
            drawn.append(
                f"<rect x='{x:.1f}' y='{y}' width='{wide:.1f}' height='{BAR}' "
                f"fill='{COLOURS[part]}'><title>{html.escape(label)}</title></rect>"
            )
            x += wide
        total = told(sum(parts.values()))
        drawn.append(f"<text x='{x + 6:.1f}' y='{y + 18}'>{html.escape(total)}</text>")
        if mark is not None:
            at = LEFT + mark * scale
            drawn.append(
                f"<line x1='{at:.1f}' x2='{at:.1f}' y1='{y - 4}' y2='{y + BAR + 4}' "
                f"stroke='#b3261e' stroke-width=2><title>"
                f"{html.escape(told(mark))}</title></line>"
            )
    y, x = 8 + len(rows) * (BAR + 12), LEFT
    for part in rows[0][1]:
        drawn.append(f"<rect x='{x}' y='{y}' width=12 height=12 fill='{COLOURS[part]}' />")
        drawn.append(f"<text x='{x + 18}' y='{y + 11}'>{part}</text>")
        x += 130
    high = y + 20
    return f"<svg viewBox='0 0 {WIDTH} {high}' width='100%' role=img>{''.join(drawn)}</svg>"


def _section(r: PlanReport) -> str:
    """One plan in words."""
    word = {True: ("yes", "fits"), False: ("no", "does not fit"), None: ("", "no limit is known")}
    cls, fits = word[r.fits]
    rows = []
    for line in r.lines():
        name, text = line[:11].strip(), line[12:]
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>")
    return (
        f"<h2>{html.escape(_name(r))}: <span class={cls or 'none'}>{fits}</span></h2>"
        f"<table>{''.join(rows)}</table>"
    )
