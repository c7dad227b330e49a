"""`rsvlm evaluate`: what a run relies on, and what it answers, counted."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import DataError
from rsvlm_jax.data import questions
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.data.questions import REFUSAL
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.evaluate.reliance import CHANGES, _deranged, _opposite, reliance
from rsvlm_jax.evaluate.spoken import count_answers
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import Answer, Loaded, Numbers, load_run


class Lawful(Loaded):
    """Reads one number off the optical pixels alone, and answers as it is told to."""

    def regress(self, batch):
        obs = batch.obs["s2_l1c"]
        found = np.where(obs.valid, obs.pixels, 0).mean(axis=(1, 2, 3, 4), dtype=np.float64)
        return Numbers(found, found, found, found, found)

    def chat(self, question, batch):
        mean = self.regress(batch).mean
        about = [qa.question for qa in self.processor.questions.held_out]
        if question == about[0]:
            return [Answer(question, REFUSAL) for _ in mean]
        if question == about[1]:
            return [Answer(question, "It is 1.", 2 * x, x, x) for x in mean]
        if question in about:
            return [Answer(question, "It is 1.", x, x, x) for x in mean]
        if question == self.processor.questions.held_out_other[0].question:
            return [Answer(question, "Nobody.") for _ in mean]
        return [Answer(question, REFUSAL) for _ in mean]


@pytest.fixture(scope="module")
def lawful(finished: Path) -> Lawful:
    run = load_run(finished)
    return Lawful(**{f.name: getattr(run, f.name) for f in dataclasses.fields(run)})


@pytest.fixture(scope="module")
def source(lawful: Lawful) -> CubeSource:
    """Held-out windows whose target is what the law reads off them."""
    test = prepare(lawful.experiment).test
    with eval_batches(test, lawful.processor, batch_size=len(test), threads=0) as batches:
        test.targets = lawful.regress(next(batches)).mean[:, None].astype(np.float32)
    return test


def test_a_band_set_that_is_read_costs_what_it_holds_and_another_nothing(lawful, source):
    site = np.arange(len(source)) // 3
    rows = reliance(lawful, source, site, batch_size=7)
    assert [(r["bandset"], r["change"]) for r in rows] == [
        ("", ""), *(("s2_l1c", c) for c in CHANGES), *(("dem", c) for c in CHANGES),
    ]  # fmt: skip
    intact, *changed = rows
    assert (intact["r2"], intact["drop"]) == (pytest.approx(1), 0)
    assert {r["sites"] for r in rows} == {site[-1] + 1}
    for row in changed:
        if row["bandset"] == "dem":
            assert (row["drop"], row["drop_lo"], row["drop_hi"]) == (0, 0, 0)
        else:
            assert row["r2"] == pytest.approx(1 - row["drop"], abs=1e-6)
            assert 0 < row["drop_lo"] < row["drop_hi"]
            assert row["drop"] == pytest.approx(1) or row["drop_lo"] < row["drop"] < row["drop_hi"]
    y = source.target.astype(np.float64)
    swapped = next(r for r in rows if r["change"] == "swapped")
    law = ((y - y[_opposite(y)]) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert swapped["drop"] == pytest.approx(law, rel=1e-5)


def test_donors():
    y = np.array([3.0, 1.0, 4.0, 2.0])
    assert y[_opposite(y)].tolist() == [2.0, 4.0, 1.0, 3.0]
    donor = _deranged(20, np.random.default_rng(0))
    assert sorted(donor) == list(range(20))
    assert (donor != np.arange(20)).all()


def test_one_site_has_no_interval(lawful, source):
    rows = reliance(lawful, source, np.zeros(len(source), np.int64))
    assert all(math.isnan(r["drop_lo"]) for r in rows)


def test_a_target_that_does_not_vary_is_refused(lawful, source):
    still = prepare(lawful.experiment).test
    still.targets = np.zeros_like(source.targets)
    with pytest.raises(DataError, match=r"nothing to lose in reliance.*targets 0 \.\. 0"):
        reliance(lawful, still, np.arange(len(source)))


def test_answers_are_counted_by_what_they_are(lawful, source):
    with eval_batches(source, lawful.processor, batch_size=2, threads=0) as batches:
        found = count_answers(lawful, next(batches))
    asked, beyond = (
        2 * len(q)
        for q in (
            lawful.processor.questions.held_out,
            lawful.processor.questions.held_out_other,
        )
    )
    assert found == {
        "windows": 2,
        "target": {"asked": asked, "numbers": asked - 2, "refused": 2, "other": 0},
        "unanswerable": {"asked": beyond, "numbers": 0, "refused": beyond - 2, "other": 2},
        "agreeing": asked - 4,
    }


def test_the_verb_writes_both(finished: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    for name in ("HELD_OUT", "UNKNOWN_HELD_OUT"):  # each is a length to compile
        monkeypatch.setattr(questions, name, getattr(questions, name)[:1])
    words = ["--reliance", "--answers", "1", "--baselines", "mean", "--json"]
    assert main(["evaluate", str(finished), *words]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    folder = Path(last["report"]).parent
    for name in ("reliance", "answers"):
        assert json.loads((folder / f"{name}.json").read_text()) == last[name]
    page = Path(last["report"]).read_text()
    assert "## What the number relies on" in page
    assert "## Answers in words" in page
    assert last["reliance"][0]["r2"] == pytest.approx(last["table"][-1]["r2"], abs=1e-6)


def test_less_than_no_window_is_refused(finished: Path, capsys):
    assert main(["evaluate", str(finished), "--answers", "-1"]) == 2
    assert "less than no window in --answers" in capsys.readouterr().err
