"""The protocol of the table, and its forms on paper."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import r2_score, root_mean_squared_error

from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.evaluate.regression import COLUMNS, EXTRA_COLUMNS, regression_benchmark
from rsvlm_jax.evaluate.report import (
    ReportContext,
    markdown_table,
    rich_table,
    to_csv,
    to_json,
    write_report,
)

STABLE = [
    "model",
    "split",
    "n",
    "rmse",
    "mae",
    "bias",
    "r2",
    "rrmse",
    "r",
    "picp90",
    "width90",
    "crps",
    "seconds",
]


def data(n: int = 200, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = np.clip(rng.normal(0.6, 0.5, n), 0, 1)
    return y, rng.permutation(np.arange(n) % 5), np.clip(y + rng.normal(0, 0.1, n), 0, 1)


@pytest.fixture(scope="module")
def benchmark():
    y, fold, good = data()
    models = {
        "good": lambda f: (good[fold == f], np.full((fold == f).sum(), 0.1), 0.5),
        "mean": lambda f: (np.full((fold == f).sum(), y[fold != f].mean()), None, None),
        "array": (good + 0.3, None, 7.0),
    }
    return regression_benchmark(y, fold, models, bounds=(0.0, 1.0), split="random")


def test_columns_are_the_stable_ones_in_order(benchmark):
    assert list(COLUMNS) == STABLE
    for row in benchmark.rows:
        assert list(row) == [*STABLE, *EXTRA_COLUMNS]
        assert all(isinstance(row[k], float) for k in row if k not in ("model", "split", "n"))
        assert isinstance(row["n"], int)
    assert [r["model"] for r in benchmark.rows] == ["good", "mean", "array"]


def test_figures_are_of_pooled_held_out_rows(benchmark):
    y, _, good = data()
    row = benchmark.rows[0]
    assert row["r2"] == pytest.approx(r2_score(y, good))
    assert row["rmse"] == pytest.approx(root_mean_squared_error(y, good))
    assert row["bias"] == pytest.approx(np.mean(good - y))
    assert row["seconds"] == pytest.approx(2.5)
    assert row["split"] == "random"


def test_all_models_are_clipped_and_calibrated_alike(benchmark):
    good, mean, array = benchmark.rows
    assert benchmark.oof["array"].mean.max() == 1.0
    for row in benchmark.rows:
        assert 0.83 < row["picp90"] < 0.97
        assert row["picp90_lo"] < row["picp90"] < row["picp90_hi"]
    for found in benchmark.oof.values():
        assert (found.lo >= 0).all()
        assert (found.hi <= 1).all()
        assert (found.lo <= found.mean).all()
        assert (found.mean <= found.hi).all()
    assert good["width90"] < array["width90"] < mean["width90"]
    assert good["crps"] < array["crps"] < mean["crps"]


@pytest.mark.filterwarnings("ignore:.*calibration samples")
def test_crps_of_a_sure_model_is_its_absolute_error():
    y = np.array([0.0, 1.0] * 10)
    found = regression_benchmark(y, np.arange(20) % 4, {"m": (y.copy(), None, 0.0)})
    assert found.rows[0]["crps"] == pytest.approx(0, abs=1e-15)


def test_rounding_above_a_bound_does_not_cost_coverage():
    """The mean of 64 ones may be 1 + 2e-16: no interval that ends at 1 would cover it."""
    y, fold, good = data()
    exact = regression_benchmark(y, fold, {"m": (good, None, 0.0)}, bounds=(0.0, 1.0))
    noisy = regression_benchmark(
        y + (y == 1) * 4e-16, fold, {"m": (good, None, 0.0)}, bounds=(0.0, 1.0)
    )
    assert (y == 1).any()
    assert noisy.rows == exact.rows


def test_unknown_targets_are_predicted_but_not_scored():
    y, fold, good = data()
    gaps = np.where(np.arange(200) % 10 == 0, np.nan, y)
    found = regression_benchmark(gaps, fold, {"m": (good, None, 0.0)})
    assert found.rows[0]["n"] == 180
    assert np.isfinite(found.oof["m"].lo).all()


def test_bad_input_targets_outside_their_bounds():
    with pytest.raises(
        DataError, match=r"outside its declared bounds in row 3; expected 0.0 .. 1.0; found 55.0;"
    ):
        regression_benchmark(np.array([0, 1, 0, 55.0]), np.arange(4), {}, bounds=(0.0, 1.0))


def test_bad_input_all_targets_nan():
    with pytest.raises(DataError, match=r"no observed target .* found 4 rows, all NaN"):
        regression_benchmark(np.full(4, np.nan), np.arange(4), {})


def test_bad_input_lengths():
    with pytest.raises(DataError, match=r"two arrays of one length; found y \(4,\), fold \(3,\)"):
        regression_benchmark(np.ones(4), np.arange(3), {})


def test_bad_input_a_model_that_diverged_is_named():
    y, fold, good = data()

    def model(f):
        part = good[fold == f].copy()
        part[7] = np.nan if f == 3 else part[7]
        return part, None, 0.0

    with pytest.raises(DataError, match=r"'bad' are not finite in fold 3, row 7; .* found nan"):
        regression_benchmark(y, fold, {"bad": model})


def test_bad_input_a_model_of_another_length_is_named():
    y, fold, _ = data()
    with pytest.raises(
        DataError, match=r"'m' do not fit .* in fold 0; expected shape \(40,\); found"
    ):
        regression_benchmark(y, fold, {"m": lambda f: (np.ones(3), None, 0.0)})


def test_bad_input_a_spread_in_some_folds_only():
    y, fold, good = data()

    def model(f):
        part = good[fold == f]
        return part, np.ones_like(part) if f else None, 0.0

    with pytest.raises(DataError, match="'m' gives a spread in some folds only"):
        regression_benchmark(y, fold, {"m": model})


def test_markdown_and_terminal_show_every_row(benchmark):
    text = markdown_table(benchmark.rows)
    lines = text.splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert f"| {benchmark.rows[0]['r2']:.3f} |" in lines[2]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(rich_table(benchmark.rows, "title"))
    shown = console.export_text()
    for row in benchmark.rows:
        assert row["model"] in shown
        assert f"{row['picp90']:.2f} [{row['picp90_lo']:.2f}, {row['picp90_hi']:.2f}]" in shown


def test_json_and_csv_keep_every_digit_and_know_no_nan(benchmark):
    rows = [*benchmark.rows, {**benchmark.rows[0], "model": "flat, really", "r": float("nan")}]
    assert json.loads(to_json(rows))[:3] == benchmark.rows
    assert json.loads(to_json(rows))[3]["r"] is None
    back = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert float(back[1]["rmse"]) == benchmark.rows[1]["rmse"]
    assert (back[3]["model"], back[3]["r"]) == ("flat, really", "")
    assert "–" in markdown_table(rows).splitlines()[-1]


def test_report_directory(benchmark, tmp_path):
    context = ReportContext(
        title="Tree cover",
        target="tree cover",
        cube="slovenia_s2",
        split="tiles of 25 pixels",
        notes=("The forest wins.",),
        command="rsvlm demo",
        figure="figure.png",
    )
    path = write_report(tmp_path / "new" / "report", benchmark.rows, context)
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["report.md", "table.csv", "table.json"]
    text = path.read_text()
    for part in (
        "# Tree cover",
        "a share, 0 to 1",
        "The forest wins.",
        "![Tree cover](figure.png)",
    ):
        assert part in text
    assert markdown_table(benchmark.rows) in text
    assert path.with_name("table.json").read_text() == to_json(benchmark.rows)


def test_bad_input_unwritable_report(benchmark, tmp_path):
    (tmp_path / "file").write_text("")
    context = ReportContext(title="t", target="y")
    with pytest.raises(ConfigError, match=r"cannot write the report in .*file/report; found "):
        write_report(tmp_path / "file" / "report", benchmark.rows, context)
