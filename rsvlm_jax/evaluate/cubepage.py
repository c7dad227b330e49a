"""The facts of a cube on one page of a terminal, and the report of a validation.

Up to `SINGLE` dates are a bar each; of more, a line is a year and a column a month; of more than
`YEARS` years, a line is a decade and a column a year:

    clear   2015  ······▇▃▁▂▄·   17 dates   58 %
"""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from data_zarr.schema import Report

SINGLE, YEARS = 10, 12
BAR = 24
BARS, PLAIN = "▁▂▃▄▅▆▇█", ".:-=+*#@"
MAX_BANDS = 40


def facts_page(facts: dict[str, Any], *, unicode: bool = True) -> RenderableType:
    """The facts as a page that fits 80 columns.

    Args:
      unicode: draw bars with block characters; ASCII otherwise.
    """
    parts: list[RenderableType] = [Text(facts["title"], style="bold"), _grid(_head(facts))]
    for name, b in facts["bandsets"].items():
        parts += [Text(), _bandset_title(name, b), _grid(_bandset(b, unicode))]
    if facts["targets"]:
        parts += [Text(), Text("targets", style="bold")]
        parts.append(_grid([(n, _target(t)) for n, t in facts["targets"].items()]))
    if facts["warnings"]:
        parts += [Text(), Text("warnings", style="bold yellow")]
        parts.append(
            _grid(
                [
                    (w["where"], f"expected {w['rule']}; found {w['found']}; {w['remedy']}")
                    for w in facts["warnings"]
                ]
            )
        )
    return Group(*parts)


def _grid(rows: list[tuple[str, str | Text]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, max_width=14)
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(key, Text(value) if isinstance(value, str) else value)
    return Padding(table, (0, 0, 0, 2))


def _head(facts: dict[str, Any]) -> list[tuple[str, str | Text]]:
    box = "unknown"
    if facts["lonlat_bounds"] is not None:
        west, south, east, north = facts["lonlat_bounds"]
        box = f"{west:.4f} .. {east:.4f} E, {south:.4f} .. {north:.4f} N"
    if facts["kind"] == "places":
        labels = ", ".join(f"{n} ({k})" for n, k in facts["labels"].items()) or "none"
        where = [("places", f"{facts['height']}"), ("position", box), ("labels", labels)]
    else:
        gsd, h, w = facts["gsd_metres"], facts["height"], facts["width"]
        size = f"{h} x {w} pixels of {gsd:.1f} m ({h * gsd / 1000:.3g} x {w * gsd / 1000:.3g} km)"
        where = [("grid", f"{size}, {facts['crs']}"), ("position", box)]
    return [
        *where,
        (
            "stored",
            f"{_bytes(facts['stored_bytes'])} in {facts['files']} files, "
            f"{_bytes(facts['raw_bytes'])} in memory: {facts['compression']:.1f}x",
        ),
        ("licence", facts["license"]),
    ]


def _bandset_title(name: str, b: dict[str, Any]) -> Text:
    t, c, h, w = b["shape"]
    dates = "undated" if not b["dates"] else _count(t, "date")
    dates = f"up to {dates} a place" if b["own_dates"] else dates
    factor = f", pixels x{b['factor']}" if b["factor"] > 1 else ""
    size = f"{h} places" if b["points"] else f"{h} x {w}"
    text = Text(name, style="bold")
    return text.append(
        f"  {b['kind']}, {dates}, {_count(c, 'band')}, {size}{factor}", style="not bold"
    )


def _bandset(b: dict[str, Any], unicode: bool) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = [("bands", _bands(b)), ("stored as", _encoding(b))]
    if b["dates"]:
        first, last = b["dates"][0], b["dates"][-1]
        span = first if first == last else f"{first} .. {last}"
        years = "" if b["year_known"] else ", nominal year: only month and day are real"
        platforms = ", ".join(f"{n} of {p}" for p, n in b["platforms"].items())
        if list(b["platforms"]) == ["unknown"]:
            platforms = "platform unknown"
        rows.append(("dates", f"{span}; {platforms}{years}"))
    rows.append(("clear" if b["valid_exact"] else "clear (est.)", _clear(b, unicode)))
    rows.append(("chunks", _chunks(b)))
    return rows


def _bands(b: dict[str, Any]) -> str:
    words = []
    for band in b["bands"][:MAX_BANDS]:
        common = (
            f" {band['common_name']}" if band["common_name"] not in (None, band["name"]) else ""
        )
        wave = "" if band["wavelength_um"] is None else f" {band['wavelength_um']:.3f}"
        words.append(f"{band['name']}{common}{wave}")
    more = len(b["bands"]) - MAX_BANDS
    unit = " (µm)" if any(band["wavelength_um"] is not None for band in b["bands"]) else ""
    return ", ".join(words) + (f" and {more} more" if more > 0 else "") + unit


def _encoding(b: dict[str, Any]) -> str:
    pairs = sorted({(band["scale"], band["offset"]) for band in b["bands"]})
    nodata = "NaN" if b["nodata"] is None else f"{b['nodata']:g}"
    if len(pairs) > 1:
        return f"{b['dtype']}, a scale and offset for each band, nodata {nodata}"
    scale, offset = pairs[0]
    value = "value = stored" if scale == 1 else f"value = stored x {scale:g}"
    shift = "" if not offset else f" {'+' if offset > 0 else '-'} {abs(offset):g}"
    return f"{b['dtype']}, {value}{shift}, nodata {nodata}"


def _chunks(b: dict[str, Any]) -> str:
    shards = "" if b["shards"] is None else f" in shards of {_by(b['shards'])}"
    return (
        f"{_by(b['chunks'])} ({_bytes(b['chunk_bytes'])}){shards}, {b['layout']}; "
        f"{b['codec']}; {_bytes(b['stored_bytes'])} of {_bytes(b['raw_bytes'])}: "
        f"{b['compression']:.1f}x"
    )


def _target(t: dict[str, Any]) -> str:
    unit = "" if t["unit"] in ("1", "") else f" ({t['unit']})"
    span = "" if t["min"] is None else f", {t['min']:.4g} .. {t['max']:.4g}"
    return f"{t['long_name']}{unit}: {t['kind']}{span}, {t['known_percent']:.0f} % known"


def _clear(b: dict[str, Any], unicode: bool) -> str | Text:
    """Bars of the share of clear pixels."""
    dates, share = b["dates"], b["valid_percent"]
    if not dates:
        return f"{np.mean(share):.0f} %" if share else "-"
    own = b["own_dates"]
    full, empty = ("█", "·") if unicode else ("#", ".")
    if len(dates) <= SINGLE and not own:
        lines = []
        for date, percent in zip(dates, share, strict=True):
            bar = round(BAR * percent / 100)
            lines.append(f"{date}  {full * bar}{empty * (BAR - bar)} {percent:5.0f} %")
        return Text("\n".join(lines))
    by_year: dict[str, list[tuple[str, float]]] = collections.defaultdict(list)
    for date, percent in zip(dates, share, strict=True):
        by_year[date[:4]].append((date, percent))
    if len(by_year) <= YEARS:
        cells = {
            y: [[p for d, p in v if int(d[5:7]) == m] for m in range(1, 13)]
            for y, v in by_year.items()
        }
        head = "      JFMAMJJASOND"
    else:
        cells = {}
        for decade in sorted({y[:3] for y in by_year}):
            cells[decade + "0s"] = [
                [p for _, p in by_year.get(f"{decade}{k}", [])] for k in range(10)
            ]
        head = "       0123456789"
    lines = [head]
    for label, columns in cells.items():
        some = [p for column in columns for p in column]
        marks = "".join(_mark(c, unicode) for c in columns)
        count = _count(len(some), "month" if own else "date")
        label = label if b["year_known"] else "any "
        lines.append(f"{label}  {marks}  {count:>10}  {np.mean(some):3.0f} %")
    return Text("\n".join(lines))


def _mark(percents: list[float], unicode: bool) -> str:
    """One column: its mean in eighths, a dot where there is no date."""
    if not percents:
        return "·" if unicode else " "
    return (BARS if unicode else PLAIN)[min(int(np.mean(percents) / 12.5), 7)]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _by(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _bytes(n: int | float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def print_facts(facts: dict[str, Any]) -> None:
    console = Console()
    console.print(facts_page(facts, unicode=console.encoding.startswith("utf")))


def print_report(report: Report) -> None:
    """Every rule of a validation: level, rule, place, expected, found."""
    console = Console()
    colors = {"ok": "green", "warn": "yellow", "error": "bold red"}
    for row in report.rows:
        found = f"; expected {row.expected}; found {row.found}" if row.level != "ok" else ""
        line = Text(f"{row.level:5}", style=colors[row.level])
        line.append(f" {row.rule} ({row.where}){found}", style="default")
        console.print(line, soft_wrap=True)
    count = collections.Counter(row.level for row in report.rows)
    console.print(
        f"{'valid' if report.ok else 'NOT valid'}: {_count(count['ok'], 'rule')} kept, "
        f"{_count(count['warn'], 'warning')}, {_count(count['error'], 'error')}",
        highlight=False,
    )
