"""Numbers that the decoder writes: trained, restored, read without a look at the truth."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import (
    ConfigError,
    DataConfig,
    Experiment,
    LossConfig,
    Preempted,
    TrainConfig,
)
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import Loaded, load_run


def with_number(base: Experiment, kind: str) -> Experiment:
    """Questions with digits, plain prompts with p10; one input."""
    templates = "questions" if kind == "digits" else "plain"
    data = dataclasses.replace(base.data, number=kind, templates=templates)
    model = dataclasses.replace(base.model, inputs=base.model.inputs[:1])
    train = TrainConfig(steps=12, batch_size=8, save_every=6, log_every=1)
    return dataclasses.replace(base, data=data, model=model, train=train)


@pytest.fixture(scope="module", params=["digits", "p10"])
def numbers(request, experiment: Experiment) -> Experiment:
    return with_number(experiment, request.param)


def batch_of(loaded: Loaded, numbers: Experiment, size: int = 8):
    with eval_batches(prepare(numbers).test, loaded.processor, batch_size=size) as batches:
        return next(batches)


@pytest.fixture(scope="module")
def run(numbers: Experiment, tmp_path_factory: pytest.TempPathFactory):
    return fit(numbers, out=tmp_path_factory.mktemp("numbers") / "run")


@pytest.fixture(scope="module")
def loaded(run) -> Loaded:
    return load_run(run.path)


def test_the_model_has_no_head_and_learns_text_alone(numbers: Experiment):
    assert numbers.model.head is None
    assert numbers.loss == LossConfig(text=1.0, huber=0.0, scale=0.0)


def test_the_loss_falls(run):
    rows = [json.loads(line) for line in Path(run.metrics).read_text().splitlines()]
    text = [row["text"] for row in rows if "text" in row]
    assert len(text) == 12
    assert np.mean(text[-3:]) < np.mean(text[:3]) - 0.1


def test_numbers_are_read_within_bounds_and_the_same_in_any_batch(
    loaded: Loaded, numbers: Experiment
):
    a = loaded.regress_source(prepare(numbers).test, batch_size=8)
    batch = batch_of(loaded, numbers)
    b = loaded.regress(jax.tree.map(lambda x: np.asarray(x)[::-1], batch))
    for name in ("mean", "scale", "lo", "hi"):
        x = getattr(a, name)
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(x[:8], getattr(b, name)[::-1])
    assert a.mean.min() >= 0
    assert a.mean.max() <= 1
    assert (a.lo <= a.hi).all()
    assert (a.scale > 0).all()


def test_the_truth_is_not_read(loaded: Loaded, numbers: Experiment):
    batch = batch_of(loaded, numbers)
    assert (np.asarray(batch.tokens) == loaded.processor.tokenizer.reg).any(1).all()
    other = dataclasses.replace(batch, target=1 - np.asarray(batch.target))
    a, b = loaded.regress(batch), loaded.regress(other)
    np.testing.assert_array_equal(a.mean, b.mean)


def test_training_prompts_hold_the_target_as_text(loaded: Loaded, numbers: Experiment):
    prepared = prepare(numbers)
    with prepared.batches() as batches:
        batch = next(batches)
    processor = loaded.processor
    asked = 0
    for ids, target in zip(np.asarray(batch.tokens), np.asarray(batch.target), strict=True):
        value, text = processor.written(ids.tolist())
        if value is None:
            continue  # another question
        asked += 1
        assert value == pytest.approx(float(target[0]), abs=6e-4)
        assert processor.format(value) in text
    assert asked


def test_a_run_goes_on_where_it_was(numbers: Experiment, run, tmp_path: Path):
    if numbers.data.number == "p10":
        return  # nothing of a run depends on how its text is written
    seen: list[int] = []
    with pytest.raises(Preempted):
        fit(numbers, out=tmp_path / "run", progress=lambda step, *_: seen.append(step),
            stop=lambda: len(seen) >= 6)  # fmt: skip
    resumed = fit(numbers, out=tmp_path / "run")
    a, b = (json.loads(p.metrics.read_text().splitlines()[-1]) for p in (run, resumed))
    assert a["loss"] == b["loss"]


def test_words_with_numbers_are_answers_with_values(loaded: Loaded):
    processor, form = loaded.processor, loaded.processor.number
    assert form is not None
    ids = form.tokens(np.array([0.25]), processor.tokenizer)[0].tolist()
    words = processor.tokenizer.encode("The tree cover is")
    assert processor.written([*words, *ids])[0] == 0.25
    assert processor.written([*words, *ids])[1].endswith("is 0.250")
    assert processor.written([*words, *ids[1:]])[0] is None


def test_a_question_is_answered_in_words(loaded: Loaded, numbers: Experiment):
    if numbers.data.templates == "plain":
        return  # it was taught no questions
    question = loaded.processor.questions.pairs[0][0]
    (answer, *_) = loaded.chat(question, batch_of(loaded, numbers, 1))
    assert answer.value is None or 0 <= answer.value < 10


# ---- what is not touched, and what is refused ----------------------------------------------------


def test_a_head_stays_the_default(experiment: Experiment):
    assert DataConfig().number == "head"
    processor = prepare(experiment).processor
    assert processor.number is None
    assert processor.reg_tokens == experiment.model.head.reg_tokens


def test_a_model_without_a_decoder_is_refused(experiment: Experiment):
    model = dataclasses.replace(experiment.model, decoder=None)
    loss = LossConfig()
    with pytest.raises(ConfigError, match="without a decoder writes no numbers"):
        dataclasses.replace(
            experiment, model=model, loss=loss,
            data=dataclasses.replace(experiment.data, number="p10", templates="plain"),
        )  # fmt: skip


def test_several_targets_in_one_text_are_refused(experiment: Experiment):
    target = dataclasses.replace(experiment.data.target, also=("other",))
    data = dataclasses.replace(experiment.data, number="digits", target=target)
    with pytest.raises(ConfigError, match=r"a text of one number in TargetConfig.also; .* other"):
        dataclasses.replace(experiment, data=data)


def test_one_option_of_the_command_line_is_enough(capsys: pytest.CaptureFixture[str]):
    command = ["train", "forkme", "--data.number", "p10", "--data.number-digits", "3", "--dry-run"]
    assert main([*command, "--json"]) == 0
    config = capsys.readouterr().out
    assert '"number": "p10"' in config
    assert '"head": null' in config
