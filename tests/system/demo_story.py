"""The main job end to end, a few steps of it: what a story leaves, and the second run.

Each story has a test file of its own, so that they run side by side.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rsvlm_jax.cli.main import main
from rsvlm_jax.evaluate import regression

COLUMNS = list(regression.COLUMNS)


def run(story: str, out: Path, capsys) -> dict:
    args = ["demo", "--story", story, "--members", "1", "--steps", "3", "--out", str(out)]
    assert main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def check(story: str, epsg: int, tmp_path: Path, capsys) -> None:
    import rasterio

    result = run(story, tmp_path, capsys)
    assert list(result) == ["story", "seconds", "table", "coverage90", "artifacts", "answers"]
    assert result["story"] == story
    assert [r["model"] for r in result["table"]] == [
        "mean", "ridge", "random_forest", "rsvlm", "no_lm",
    ]  # fmt: skip
    for row in result["table"]:
        assert list(row)[: len(COLUMNS)] == COLUMNS
        assert row["n"] == result["table"][0]["n"]
    rows = {r["model"]: r for r in result["table"]}
    assert rows["random_forest"]["r2"] > rows["ridge"]["r2"] - 0.1 > 0.5
    assert result["coverage90"] == rows["rsvlm"]["picp90"]

    artifacts = {name: Path(path) for name, path in result["artifacts"].items()}
    assert set(artifacts) == {"map_zarr", "map_tif", "figure", "report"}
    assert all(p.exists() for p in artifacts.values())
    with rasterio.open(artifacts["map_tif"]) as tif:
        assert tif.crs.to_epsg() == epsg
        mean, lower, upper = tif.read([1, 2, 3])
    assert (lower <= mean + 1e-6).all()
    assert (mean <= upper + 1e-6).all()
    assert artifacts["figure"].stat().st_size > 50_000
    assert len({a["place"] for a in result["answers"]}) == 2
    assert all(a["text"] for a in result["answers"] if a["value"] is not None)

    again = run(story, tmp_path, capsys)  # everything is taken up, nothing is trained
    assert again["table"][3] == result["table"][3]
    values = [[a["value"] for a in r["answers"]] for r in (result, again)]
    np.testing.assert_array_equal(np.array(values[0], float), np.array(values[1], float))
