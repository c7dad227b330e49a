"""Bulk generation: order, restart at any byte, and answer files that are not ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsvlm_jax.config import ConfigError, DataError, Preempted
from rsvlm_jax.run.bulk import Prompt, answer_all, read_prompts

PROMPTS = tuple(Prompt(f"q{i}", f"How many? {i}", (f"{i}.tif",), {"category": "count"})
                for i in range(7))  # fmt: skip


def shout(prompts):
    return [p.text.upper() for p in prompts]


def ask(out: Path, prompts=PROMPTS, answer=shout, **changed) -> int:
    options = {"model_id": "nano", "settings": {"temperature": 0.0}, "batch_size": 3}
    return answer_all(prompts, out, answer, **{**options, **changed})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_llavas_lines_in_the_order_of_the_prompts(tmp_path):
    out = tmp_path / "deep" / "answers.jsonl"
    seen = []
    assert ask(out, progress=lambda done, total: seen.append((done, total))) == 7
    assert seen == [(3, 7), (6, 7), (7, 7)]
    found = lines(out)
    assert [e["question_id"] for e in found] == [p.question_id for p in PROMPTS]
    assert found[2] == {
        "question_id": "q2", "prompt": "How many? 2", "text": "HOW MANY? 2", "image": "2.tif",
        "answer_id": found[2]["answer_id"], "model_id": "nano",
        "metadata": {"category": "count", "settings": {"temperature": 0.0}},
    }  # fmt: skip
    assert len({e["answer_id"] for e in found}) == 7


@pytest.mark.parametrize("keep", [0, 1, 40, 200, 201, 600])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path, keep):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    ask(whole)
    cut.write_bytes(whole.read_bytes()[:keep])
    asked = []

    def counting(prompts):
        asked.extend(prompts)
        return shout(prompts)

    answered = cut.read_bytes().count(b"\n")
    assert ask(cut, answer=counting) == len(asked) == 7 - answered
    assert cut.read_bytes() == whole.read_bytes()
    assert ask(cut) == 0  # and a finished one asks nothing


def test_a_stop_keeps_what_is_answered(tmp_path):
    out = tmp_path / "answers.jsonl"
    with pytest.raises(Preempted, match="stopped after 3 of 7"):
        ask(out, stop=lambda: out.exists() and bool(out.read_bytes()))
    assert len(lines(out)) == 3
    assert ask(out) == 4


def test_an_interrupted_batch_leaves_no_piece(tmp_path):
    out = tmp_path / "answers.jsonl"

    def dies(prompts):
        if prompts[0].question_id == "q3":
            raise KeyboardInterrupt
        return shout(prompts)

    with pytest.raises(KeyboardInterrupt):
        ask(out, answer=dies)
    assert len(lines(out)) == 3


def test_answers_to_another_prompt_file(tmp_path):
    out = tmp_path / "answers.jsonl"
    ask(out)
    other = (PROMPTS[0], Prompt("q1", "Is it urban?", (), {}), *PROMPTS[2:])
    with pytest.raises(DataError, match=r"another prompt file in .*line 2.*name another --out"):
        ask(out, other)
    with pytest.raises(DataError, match=r"other prompts.*<= 2 answers; found 7"):
        ask(out, PROMPTS[:2])


def test_answers_of_another_model_or_temperature(tmp_path):
    out = tmp_path / "answers.jsonl"
    ask(out)
    with pytest.raises(DataError, match="another model or other settings"):
        ask(out, model_id="micro")
    with pytest.raises(DataError, match="another model or other settings"):
        ask(out, settings={"temperature": 0.2})


def test_a_file_that_holds_something_else(tmp_path):
    out = tmp_path / "answers.jsonl"
    out.write_text("dear diary\n")
    with pytest.raises(DataError, match=r"not an answer file in .*line 1"):
        ask(out)
    assert out.read_text() == "dear diary\n"


def test_two_processes_do_not_write_one_file(tmp_path):
    out = tmp_path / "answers.jsonl"

    def again(prompts):
        ask(out)
        return shout(prompts)

    with pytest.raises(DataError, match="another process"):
        ask(out, answer=again)


def test_prompt_files_of_llava_and_geochat(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"question_id": 4, "image": "a.png", "text": "What?", "category": "lr"}\n'
        "\n"
        '{"question_id": "x", "image_id": "b", "question": "Where?", "obj_ids": [1]}\n'
        '{"question": "Who?", "images": ["c.png", "d.png"], "row": 3}\n'
    )
    assert read_prompts(file) == (
        Prompt(4, "What?", ("a.png",), {"category": "lr"}),
        Prompt("x", "Where?", ("b",), {"obj_ids": [1]}),
        Prompt(2, "Who?", ("c.png", "d.png"), {"row": 3}),
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no prompts"),
        (b'{"text": "ok"}\n{not json\n', "not JSON in .*line 2"),
        (b'{"text": "ok"}\n{"text": "caf\xe9"}\n', "not UTF-8 in .*line 2; found byte 0xe9"),
        (b'{"text": "  "}\n', "not a prompt in .*line 1"),
        (b'["text"]\n', "not a prompt in .*line 1"),
        (b'{"txt": "' + b"a" * 50 + "\u00e9".encode() + b'"}', "not a prompt in .*line 1"),
        (b'{"text": "a", "x": ' + b"[" * 100_000, "not JSON in .*line 1"),
        (b'{"text": "a", "image": 3}\n', "not names of images in .*line 1"),
    ],
)
def test_broken_prompt_files(tmp_path, raw, message):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read_prompts(file)


def test_no_prompt_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the prompts \(No such file"):
        read_prompts(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "other",
    [
        Prompt("q1", "How many? 1", ("other.tif",), {"category": "count"}),
        Prompt("q1", "How many? 1", ("1.tif",), {"row": 8}),
    ],
)
def test_answers_about_other_images_or_places(tmp_path, other):
    out = tmp_path / "answers.jsonl"
    ask(out)
    before = out.read_bytes()
    with pytest.raises(DataError, match=r"another prompt file in .*line 2.*found about 1\.tif"):
        ask(out, (PROMPTS[0], other, *PROMPTS[2:]))
    assert out.read_bytes() == before


def test_a_batch_of_no_prompts(tmp_path):
    with pytest.raises(ConfigError, match=r"not a size in batch_size; expected 1 or more"):
        ask(tmp_path / "answers.jsonl", batch_size=0)


def test_a_prompt_file_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "Who?"}\r\n')
    assert read_prompts(file) == (Prompt(0, "Who?", (), {}),)


def test_what_is_no_number_is_null_before_and_after_a_restart(tmp_path):
    file, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    file.write_text('{"question_id": NaN, "text": "Who?", "score": Infinity}\n')
    assert ask(out, read_prompts(file)) == 1
    assert ask(out, read_prompts(file)) == 0
