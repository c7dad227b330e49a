"""`rsvlm generate` and `rsvlm chat` with a model of images: bulk, restart, grammars, refusals."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import (
    STORIES260K,
    ConversationConfig,
    Experiment,
    TrainConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.run.fit import fit

VISION = ViTConfig(
    image_size=16, patch_size=8, width=16, layers=1, heads=2, mlp_dim=32, feature_layers=(-1,)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of conversations that has hardly begun."""
    decoder = dataclasses.replace(STORIES260K, layers=1)
    experiment = Experiment(
        name="barely",
        model=VLMConfig(vision=VISION, decoder=decoder, head=None),
        conversations=ConversationConfig(template="mistral", length=128),
        train=TrainConfig(steps=1, batch_size=2, save_every=1),
    )
    return fit(experiment, out=tmp_path_factory.mktemp("runs") / "barely").path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    lines = [
        {"question_id": "a", "image": "0.png", "text": "What?"},
        {"question_id": "b", "image_id": "1", "question": "Is it a long question about ships?"},
        {"question_id": "c", "image": "broken.png", "text": "What?"},
        {"question_id": "d", "text": "Without an image?"},
        {"question_id": "e", "image": ["2.png", "0.png"], "text": "Two of them?"},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bulk_answers_name_what_could_not_be_read_and_a_restart_ends_the_same(run, prompts, capsys):
    out = prompts.parent / "answers.jsonl"
    args = ["generate", str(run), "--prompts", str(prompts), "--out", str(out)]
    args += ["--max-new-tokens", "6", "--batch-size", "2"]
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["answered"] == 5
    found = lines(out)
    assert [e["question_id"] for e in found] == list("abcde")
    assert ["error" in e["metadata"] for e in found] == [False, False, True, False, False]
    assert "broken.png" in found[2]["metadata"]["error"]
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    assert main(args) == 0
    assert out.read_bytes() == whole
    capsys.readouterr()
    assert main([*args, "--temperature", "0.5"]) == 3
    assert "other settings" in capsys.readouterr().err


def test_a_question_without_room_costs_one_answer(run, prompts):
    prompts.write_text('{"text": "Is it?"}\n{"text": "' + "why " * 25 + '"}\n')
    out = prompts.parent / "answers.jsonl"
    args = ["generate", str(run), "--prompts", str(prompts), "--out", str(out)]
    assert main([*args, "--max-new-tokens", "450", "--batch-size", "2"]) == 0
    first, second = lines(out)
    assert "error" not in first["metadata"]
    assert "leaves no room for the answer" in second["metadata"]["error"]


def test_a_batch_of_no_prompts(run, capsys):
    assert main(["generate", str(run), "--ask", "a", "--batch-size", "0"]) == 2
    assert "not a size in Options.batch_size" in capsys.readouterr().err


def test_a_chat_that_is_not_utf8(run, capsys, monkeypatch):
    raw = io.BytesIO(b"What?\n\xff\xfe\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(raw, encoding="utf-8", errors="strict"))
    assert main(["chat", str(run), "--max-new-tokens", "3"]) == 3
    captured = capsys.readouterr()
    assert captured.out.endswith("\n")  # the line before it is answered
    assert "error: text that is not Unicode in character" in captured.err


def test_answers_from_a_list_and_of_a_pattern(run, prompts, capsys):
    args = ["generate", str(run), "--image", str(prompts.parent / "0.png"), "--ask", "Which?"]
    assert main([*args, "--choices", "rural", "urban", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out.splitlines()[-1])["answers"]
    assert answer["text"] in ("rural", "urban")
    assert main([*args, "--pattern", r"\d\d?", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out.splitlines()[-1])["answers"]
    assert answer["text"].isdigit()
    assert main([*args, "--choices", "a", "--pattern", "b"]) == 2
    assert main([*args, "--pattern", "(a"]) == 2


def test_a_model_of_images_reads_no_cube(run, capsys):
    assert main(["generate", str(run), "--ask", "a", "--cube", "sample:slovenia_s2"]) == 2
    assert "rsvlm chat draws cubes" in capsys.readouterr().err


def test_no_question(run, capsys):
    assert main(["generate", str(run)]) == 2
    assert "--ask QUESTION or --prompts FILE" in capsys.readouterr().err


def test_chat_about_a_picture_and_a_cube(run, prompts, capsys):
    args = ["chat", str(run), "--image", str(prompts.parent / "0.png")]
    args += ["--cube", "sample:slovenia_s2", "--max-new-tokens", "5", "--ask", "What?", "And?"]
    assert main([*args, "--json"]) == 0
    captured = capsys.readouterr()
    turns = json.loads(captured.out.splitlines()[-1])["turns"]
    assert [t["question"] for t in turns] == ["What?", "And?"]
    assert captured.out.splitlines()[:2] == [t["answer"] for t in turns]
    assert "looking at" in captured.err
    assert "s2_l1c" in captured.err
