"""The main job from the command line: wall time, and the scores beside the baselines."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from .figure import Figure


def figures(story: str = "treecover", name: str = "demo") -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "rsvlm_jax.cli.main", "demo", "--json"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--story", story, "--out", f"{out}/demo"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - start
    result = json.loads(done.stdout.splitlines()[-1])
    rows = {row["model"]: row for row in result["table"]}
    ours, forest = rows["rsvlm"], rows["random_forest"]
    yield Figure(f"{name}.seconds", seconds, "s", at_most=300)
    yield Figure(f"{name}.r2.rsvlm", ours["r2"], "-", at_least=forest["r2"] - 0.03)
    yield Figure(f"{name}.r2.rsvlm_minus_ridge", ours["r2"] - rows["ridge"]["r2"], "-", 0.0)
    for model in ("mean", "ridge", "random_forest", "no_lm"):
        yield Figure(f"{name}.r2.{model}", rows[model]["r2"])
        yield Figure(f"{name}.rmse.{model}", rows[model]["rmse"])
    yield Figure(f"{name}.rmse.rsvlm", ours["rmse"])
    yield Figure(f"{name}.coverage90", ours["picp90"])
    yield Figure(f"{name}.coverage90_lo", ours["picp90_lo"], "-", at_most=0.9)
    yield Figure(f"{name}.coverage90_hi", ours["picp90_hi"], "-", at_least=0.9)
    about = [a for a in result["answers"] if a["value"] is not None]
    yield Figure(f"{name}.answers_with_number", len(about), "of_6", at_least=6, at_most=6)
    other = len(result["answers"]) - len(about)
    yield Figure(f"{name}.answers_without_number", other, "of_8", at_least=8, at_most=8)
    places = {a["place"] for a in about}
    spread = max(a["value"] for a in about) - min(a["value"] for a in about)
    yield Figure(f"{name}.places", len(places), "-", at_least=2)
    yield Figure(f"{name}.answer_change_between_places", spread, "-", at_least=0.1)
