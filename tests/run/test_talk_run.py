"""Training on conversations: what a run leaves, exact resume, opening it again, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from data_zarr.samples import sample_questions
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import (
    STORIES260K,
    CheckpointError,
    ConfigError,
    ConversationConfig,
    DataError,
    Experiment,
    GroupConfig,
    InputConfig,
    LoraConfig,
    NonFiniteError,
    OptimizerConfig,
    PixelShuffleConfig,
    Preempted,
    TrainConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import base_path, flat
from rsvlm_jax.data.messages import Message
from rsvlm_jax.run.features import compute_features
from rsvlm_jax.run.fit import describe, fit
from rsvlm_jax.run.load import load
from rsvlm_jax.run.pretrained import Pretrained
from rsvlm_jax.run.rundir import RunDir
from rsvlm_jax.run.talk import prepare_talk
from rsvlm_jax.run.trained import load_run

QUESTIONS = sample_questions("rsvqa_lr")
IMAGES = QUESTIONS[0].image.parent
QUESTION = "<image>\nIs there a road?\nAnswer the question using a single word or phrase."
VISION = ViTConfig(
    image_size=16,
    patch_size=8,
    width=16,
    layers=1,
    heads=2,
    mlp_dim=32,
    feature_layers=(-1,),
)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A tower of four tokens, one layer of the shipped decoder's shape, fifty questions."""
    file = tmp_path_factory.mktemp("talk") / "few.json"
    file.write_text(json.dumps([
        {"image": q.image.name, "conversations": [
            {"from": "human", "value": f"<image>\n{q.question}"},
            {"from": "gpt", "value": q.answer},
        ]}
        for q in QUESTIONS[::48]
    ]))  # fmt: skip
    decoder = dataclasses.replace(STORIES260K, layers=1)
    return Experiment(
        name="talking",
        model=VLMConfig(vision=VISION, decoder=decoder, head=None),
        conversations=ConversationConfig(
            files=((str(file), 1.0),),
            images=str(IMAGES),
            template="mistral",
            length=128,
            held_out=0.25,
            held_out_by="question",
            buckets=1,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        train=TrainConfig(steps=6, batch_size=4, save_every=2, eval_every=3, log_every=1),
    )


@pytest.fixture(scope="module")
def run(talking: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(talking, out=tmp_path_factory.mktemp("runs") / "talk").path


@pytest.fixture(scope="module")
def model(run: Path) -> Pretrained:
    opened = load(run)
    assert isinstance(opened, Pretrained)
    return opened


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def talk(experiment: Experiment, **changes: object) -> Experiment:
    made = dataclasses.replace(experiment.conversations, **changes)
    return dataclasses.replace(experiment, conversations=made)


def test_rows_count_real_tokens_beside_padded(run: Path):
    found, times = rows(run), rows(run, "timing.jsonl")
    assert [r["step"] for r in found] == [r["step"] for r in times] == list(range(1, 7))
    for row, time in zip(found, times, strict=True):
        assert math.isfinite(row["loss"])
        assert row["loss"] == row["text"]
        assert 0 < row["tokens"] < row["padded"]
        share = time["tokens_per_second"] / time["padded_per_second"]
        assert share == pytest.approx(row["tokens"] / row["padded"])


def test_what_is_held_out_is_scored_before_between_and_after(run: Path):
    found = rows(run, "held_out.jsonl")
    assert [r["step"] for r in found] == [0, 3, 6]
    assert len({r["weight"] for r in found}) == 1
    assert found[-1]["text"] < found[0]["text"]
    assert all(r["loss"] == r["text"] for r in found)


def test_the_loss_held_out_is_that_of_each_conversation_by_itself(
    model: Pretrained, talking: Experiment, run: Path
):
    source = prepare_talk(talking).test
    assert source is not None
    total = weight = 0.0
    for n in range(len(source)):
        row = source.row(n)
        pixels = np.stack(source.pictures(n)).transpose(0, 3, 1, 2)
        room = talking.conversations.length - len(row.ids)
        ids = np.pad(row.ids, (0, room))[None]
        mask = (np.arange(talking.conversations.length) < len(row.ids)).astype(np.int32)[None]
        logits = np.asarray(model.logits(ids, pixels, mask))[0, : len(row.ids)]
        top = logits.max(-1)
        norm = np.log(np.exp(logits - top[:, None]).sum(-1)) + top
        for i, w in enumerate(row.weight):
            if w:
                total += w * float(norm[i - 1] - logits[i - 1, row.ids[i]])
                weight += w
    last = rows(run, "held_out.jsonl")[-1]
    assert last["weight"] == weight
    assert last["text"] == pytest.approx(total / weight, rel=1e-5)


def test_resume_is_bitwise(run: Path, talking: Experiment, tmp_path: Path):
    """Stopped before the fourth step, at which what is held out is scored."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 4

    with pytest.raises(Preempted):
        fit(talking, out=tmp_path, stop=stop)
    assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3]
    assert [r["step"] for r in rows(tmp_path, "held_out.jsonl")] == [0]
    fit(talking, out=tmp_path)
    assert rows(tmp_path) == rows(run)
    assert rows(tmp_path, "held_out.jsonl") == rows(run, "held_out.jsonl")
    a, b = flat(load(run).params), flat(load(tmp_path).params)
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


def without_rate(experiment: Experiment, **changes: object) -> Experiment:
    """Nothing moves, so the held-out loss is never lower than at first."""
    return dataclasses.replace(
        experiment,
        optimizer=OptimizerConfig(learning_rate=1e-20),
        train=dataclasses.replace(experiment.train, **changes),
    )


def test_a_run_that_learns_nothing_ends_early_and_is_finished(
    talking: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    still = without_rate(talking, patience=1, keep_best=1)
    monkeypatch.setattr("rsvlm_jax.cli.train.load_experiment", lambda name: still)
    out = tmp_path / "run"
    for _ in range(2):  # the second finds it finished
        assert main(["train", "still", "--out", str(out), "--json"]) == 0
        said = capsys.readouterr()
        result = json.loads(said.out.splitlines()[-1])
        assert (result["step"], result["stopped"], result["steps"]) == (3, 3, 6)
        assert "ended at step 3 of 6: no new lowest held-out loss in 1 scores" in said.err
        assert [r["step"] for r in rows(out)] == [1, 2, 3]
        assert [r.get("stopped") for r in rows(out, "held_out.jsonl")] == [None, 1.0]
    assert load(out, step="best").step == load(out, step=3).step == 3
    with pytest.raises(CheckpointError, match="expected step 99"):
        load(out, step=99)


def test_nothing_held_out_to_score_is_refused(talking: Experiment, tmp_path: Path):
    alone = without_rate(talk(talking, held_out=0.0), patience=1)
    with pytest.raises(ConfigError, match=r"there is no held-out loss in TrainConfig\.eval_every"):
        fit(alone, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_samples_of_skipped_steps_are_named(talking: Experiment, tmp_path: Path):
    """A loss of this weight is not finite in float32."""
    broken = dataclasses.replace(
        talking,
        loss=dataclasses.replace(talking.loss, text=3e38),
        train=dataclasses.replace(talking.train, max_bad_steps=1),
    )
    with pytest.raises(NonFiniteError, match="2 steps in a row"):
        fit(broken, out=tmp_path)
    found = rows(tmp_path, "skipped.jsonl")
    assert [(r["step"], r["why"], r["loss"]) for r in found] == [
        (1, "not finite", None),
        (2, "not finite", None),
    ]
    batches = prepare_talk(broken).batches()
    for row, place in zip(found, (0, 1), strict=True):
        numbers = [sample["sample"] for sample in row["samples"]]
        assert numbers == [n for packed in batches.plan.rows(place) for n in packed]
        assert all(sample["reason"].startswith("id ") for sample in row["samples"])


def test_an_opened_run_answers_with_its_own_processor(model: Pretrained, talking: Experiment):
    processor = model.processor
    assert processor is not None
    assert processor.template == "mistral"
    assert processor.per_image == 4
    assert model.step == 6
    row = processor.encode([Message("user", QUESTION)])
    source = prepare_talk(talking).train
    pixels = np.stack([processor.pixels(source.conversations[0].paths[0])]).transpose(0, 3, 1, 2)
    made = model.generate(np.array([row.ids]), pixels, max_new_tokens=3)
    assert made.tokens.shape == (1, 3)


def test_describe(talking: Experiment):
    facts = describe(talking)
    assert facts["training_conversations"] > facts["held_out_conversations"] > 0
    assert facts["visual_tokens"] == 4
    assert facts["parameters"] == facts["trained_parameters"]
    # Parameters and two moments, in float32; no average is kept.
    assert facts["checkpoint"] == f"{12 * facts['parameters'] / 1e9:.3g} GB"


def test_a_run_with_lora_opens_merged_or_kept(talking: Experiment, tmp_path: Path):
    optimizer = dataclasses.replace(
        talking.optimizer,
        groups=(GroupConfig("_lora_[ab]$"), GroupConfig("^connector/", 0.1), GroupConfig("", 0.0)),
    )
    made = dataclasses.replace(
        talking, lora=LoraConfig(rank=2, alpha=4.0), optimizer=optimizer,
        train=dataclasses.replace(talking.train, steps=2, eval_every=0),
    )  # fmt: skip
    run = fit(made, out=tmp_path / "run").path
    kept, merged = load(run, merge=False), load(run)
    assert any(base_path(p) != p for p in flat(kept.params))
    assert all(base_path(p) == p for p in flat(merged.params))
    ids = np.arange(3, 20)[None]
    np.testing.assert_allclose(
        np.asarray(kept.logits(ids)), np.asarray(merged.logits(ids)), rtol=1e-4, atol=1e-4
    )
    assert main(["convert", str(run), str(tmp_path / "llava")]) == 0
    again = load(tmp_path / "llava")
    np.testing.assert_allclose(
        np.asarray(again.logits(ids)), np.asarray(merged.logits(ids)), rtol=1e-4, atol=1e-4
    )
    assert main(["convert", str(run), str(tmp_path / "peft"), "--to", "peft"]) == 0
    said = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert said["r"] == 2
    assert said["modules_to_save"], "the connector was trained whole"


# ---- bad input -----------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_conversations_with_a_model_of_cubes(talking: Experiment):
    cubes = dataclasses.replace(talking.model, inputs=(InputConfig("s2_l1c"),))
    with pytest.raises(ConfigError, match="conversations are of plain images") as e:
        dataclasses.replace(talking, model=cubes)
    one_line(e)


def test_all_labels_masked(talking: Experiment, tmp_path: Path):
    """A row so short that every answer is cut off."""
    with pytest.raises(DataError, match="nothing to learn") as e:
        fit(talk(talking, length=24), out=tmp_path / "run")
    one_line(e)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_is_not_the_decoders(talking: Experiment, tmp_path: Path):
    decoder = dataclasses.replace(talking.model.decoder, vocab_size=300)
    wrong = dataclasses.replace(talking, model=dataclasses.replace(talking.model, decoder=decoder))
    with pytest.raises(ConfigError, match="tokenizer") as e:
        fit(wrong, out=tmp_path / "run")
    assert "300" in one_line(e)


def test_a_loss_of_numbers(talking: Experiment):
    with pytest.raises(ConfigError, match="no numbers to learn") as e:
        dataclasses.replace(talking, loss=dataclasses.replace(talking.loss, huber=1.0))
    one_line(e)


def test_a_run_of_conversations_reads_no_cubes(run: Path, capsys):
    with pytest.raises(CheckpointError, match="reads no cubes"):
        load_run(run)
    args = ["predict", str(run), "--cube", "sample:slovenia_s2", "--out", str(run / "map")]
    assert main(args) == 4
    assert "a run of conversations" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["hf", "peft"])
def test_a_run_that_is_no_llava_is_not_written_as_one(
    to: str, talking: Experiment, tmp_path: Path, capsys
):
    model = dataclasses.replace(talking.model, resampler=PixelShuffleConfig(factor=2))
    RunDir.create(tmp_path / "run", dataclasses.replace(talking, model=model))
    args = ["convert", str(tmp_path / "run"), str(tmp_path / "out"), "--to", to]
    assert main(args) == 4
    line = capsys.readouterr().err
    assert line.startswith("error: LlavaForConditionalGeneration has no place for this in")
    assert "VLMConfig.resampler; expected none; found pixel_shuffle" in line
    assert line.count("\n") == 1


# ---- features ------------------------------------------------------------------------------------


def test_training_on_features_is_training_behind_a_frozen_tower(
    talking: Experiment, run: Path, tmp_path: Path
):
    frozen = dataclasses.replace(
        talking,
        init_from=str(run),
        optimizer=OptimizerConfig(groups=(GroupConfig("^vision/", 0.0),)),
        train=dataclasses.replace(talking.train, steps=2, eval_every=0),
    )
    made = compute_features(frozen, out=tmp_path / "features", dtype="float32")
    again = compute_features(frozen, out=tmp_path / "features", dtype="float32")
    assert (again.images, again.before) == (0, made.images)
    assert made.images == len({q.image for q in QUESTIONS[::48]})
    before = fit(frozen, out=tmp_path / "pixels").path
    after = fit(talk(frozen, features=str(tmp_path / "features")), out=tmp_path / "by").path
    for a, b in zip(rows(before), rows(after), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["tokens"] == a["tokens"]
    x, y = flat(load(before).params), flat(load(after).params)
    for path in x:
        np.testing.assert_allclose(np.asarray(x[path]), np.asarray(y[path]), atol=1e-4)


def test_features_of_another_tower(talking: Experiment, run: Path, tmp_path: Path):
    frozen = dataclasses.replace(
        talking,
        init_from=f"vision={run}",
        optimizer=OptimizerConfig(groups=(GroupConfig("^vision/", 0.0),)),
    )
    compute_features(frozen, out=tmp_path / "features")
    other = dataclasses.replace(frozen, init_from=f"connector={run}")
    with pytest.raises(DataError, match="features of another tower") as e:
        fit(talk(other, features=str(tmp_path / "features")), out=tmp_path / "run")
    one_line(e)


def test_features_of_a_tower_that_is_trained(talking: Experiment, run: Path, tmp_path: Path):
    made = dataclasses.replace(talking, init_from=str(run))
    with pytest.raises(ConfigError, match="a tower that is trained") as e:
        fit(talk(made, features=str(tmp_path)), out=tmp_path / "run")
    assert "vision/" in one_line(e)


def test_features_of_a_tower_that_starts_anew(talking: Experiment, tmp_path: Path, capsys):
    with pytest.raises(ConfigError, match="starts anew"):
        talk(talking, features=str(tmp_path))
    assert main(["features", "forkme", "--out", str(tmp_path / "f")]) == 2
    assert "no features to compute once" in capsys.readouterr().err
