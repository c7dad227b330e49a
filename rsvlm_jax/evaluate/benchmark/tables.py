"""Side tables of the report, as rows: pairs, bins, places, cost, splits.

[Scored] of one or several splits -> rows; `csv_text` writes any of them, every digit kept
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsvlm_jax.evaluate.regression import Row
from rsvlm_jax.metrics import by_bin, crps_quantiles, paired, ratio

from .cells import LEVELS
from .deals import Deal
from .scoring import Scored
from .task import Task

BINS = 5
MAX_GROUPS = 200
"""Labels of more values than that (an id a row) are no groups."""


def pair_rows(results: Sequence[Scored]) -> list[Row]:
    """Every pair of models of each split, by squared error and by CRPS.

    A model with quantiles of its own stands there twice by CRPS: as calibrated, and as it is
    ("NAME, own").
    """
    rows = []
    for deal, mine in of_deals(results):
        site = deal.site[mine[0].rows]
        errors = {r.row["model"]: (r.oof.mean - r.y) ** 2 for r in mine}
        crps = {r.row["model"]: r.oof.crps for r in mine}
        crps |= {f"{r.row['model']}, own": own for r in mine if (own := own_crps(r)) is not None}
        for metric, losses in (("rmse", errors), ("crps", crps)):
            for row in paired(losses, site, root=metric == "rmse"):
                rows.append({"split": deal.name, "metric": metric, **row})
    return rows


def own_crps(r: Scored) -> np.ndarray | None:
    """CRPS [n] of the model's own quantiles; None: it has none."""
    quantiles = r.pooled.quantiles
    if quantiles is None:
        return None
    each = zip(r.y, quantiles[r.rows], strict=True)
    return np.array([ratio(crps_quantiles(y, q, LEVELS)) for y, q in each])


def bin_rows(results: Sequence[Scored], edges: Sequence[float]) -> list[Row]:
    """Bias by bins of the observed value: where a model saturates, it is negative at the top.

    Args:
      edges: of the bins; none: five of as many windows each.
    """
    rows = []
    for _, mine in of_deals(results):
        y = mine[0].y
        ends = list(edges) or _quantile_edges(y)
        for r in mine:
            for row in by_bin(r.y, r.oof.mean, ends):
                rows.append(_named(r, {k: _number(v) for k, v in row.items()}))
    return rows


def group_rows(task: Task, results: Sequence[Scored]) -> list[Row]:
    """Metrics by tile of a raster, or by every label of places (site, region, year)."""
    rows = []
    for deal, mine in of_deals(results):
        at = mine[0].rows
        groups: dict[str, np.ndarray] = {"tile" if not task.cube.points else "site": deal.site[at]}
        if task.cube.points:
            labels = task.cube.labels
            groups = {k: np.asarray(v)[task.evaluation.y[at]] for k, v in labels.items()} or groups
        for label, value in groups.items():
            names = np.unique(value)
            if len(names) > MAX_GROUPS:
                continue
            for name in names:
                here = value == name
                for r in mine:
                    e = (r.oof.mean - r.y)[here]
                    inside = (r.oof.lo <= r.y) & (r.y <= r.oof.hi)
                    found = {
                        "label": label,
                        "value": str(name),
                        "n": int(here.sum()),
                        "rmse": float(np.sqrt(np.mean(e**2))),
                        "bias": float(e.mean()),
                        "observed": float(r.y[here].mean()),
                        "picp90": float(inside[here].mean()),
                    }
                    rows.append(_named(r, found))
    return rows


def cost_rows(results: Sequence[Scored]) -> list[Row]:
    """What a model costs: of one seed, all folds of a split; features are not counted."""
    rows = []
    for r in results:
        windows = int((r.deal.fold >= 0).sum())
        seconds = r.pooled.predict_seconds
        found = {
            "train_seconds": r.pooled.train_seconds,
            "predict_seconds": seconds,
            "windows_per_second": windows / seconds if seconds > 0 else math.nan,
            "parameters": r.pooled.parameters,
            "rmse": r.row["rmse"],
        }
        rows.append(_named(r, found))
    return rows


def split_rows(deals: Sequence[Deal]) -> list[Row]:
    """The leakage report of every fold."""
    rows = []
    for deal in deals:
        for fold, report in enumerate(deal.reports):
            found = {
                "split": deal.name,
                "fold": fold,
                "train": report.train_windows,
                "test": report.test_windows,
                "shared_pixels": report.shared_pixels,
                "shared_sites": report.shared_places,
                "nearest_metres": report.min_distance_metres,
                "nearer_than_range": report.nearer_than_range,
                "leaks": "; ".join(deal.leaks),
            }
            rows.append(found)
    return rows


def csv_text(rows: Sequence[Row]) -> str:
    """Header and rows; empty where undefined."""
    keys = list(dict.fromkeys(k for row in rows for k in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    for row in rows:
        writer.writerow(["" if _missing(row.get(k)) else row[k] for k in keys])
    return out.getvalue()


def of_deals(results: Sequence[Scored]) -> list[tuple[Deal, list[Scored]]]:
    """Results by split, in order."""
    deals = list({id(r.deal): r.deal for r in results}.values())
    return [(d, [r for r in results if r.deal is d]) for d in deals]


def _quantile_edges(y: np.ndarray) -> list[float]:
    """Five bins of as many windows each; fewer where many have one value."""
    edges = np.quantile(y, np.linspace(0, 1, BINS + 1))
    least = 1e-3 * (edges[-1] - edges[0])
    kept = [edges[0]]
    for edge in edges[1:-1]:
        if edge - kept[-1] > least and edges[-1] - edge > least:
            kept.append(edge)
    return [float(e) for e in (*kept, edges[-1])]


def _named(r: Scored, values: Row) -> Row:
    return {"model": r.row["model"], "split": r.deal.name, **values}


def _number(value: Any) -> Any:
    return value if isinstance(value, int) else float(value)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
