"""LLaVA's files: what is read of them, what is refused, and what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from said import entry, picture, write

from rsvlm_jax.config import ConfigError, ConversationConfig, DataError
from rsvlm_jax.data.conversations import SHORT_ANSWER, held_out, read_conversations
from rsvlm_jax.data.messages import Message


def lines(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")
    return path


# ---- what is read --------------------------------------------------------------------------------


def test_a_list_with_one_image_several_and_none(tmp_path: Path):
    found = read_conversations(write(tmp_path, 15))
    assert [c.id for c in found] == [str(i) for i in range(15)]
    assert [len(c.images) for c in found] == [0, 1, 1, 1, 1, 0, 1, 2, 1, 1, 0, 1, 1, 1, 2]
    assert found[7].images == ("0.png", "1.png")
    assert found[7].paths == (str(tmp_path / "0.png"), str(tmp_path / "1.png"))
    assert found[3].messages[0] == Message("user", "<image>\nWhat is it, number 3?")
    assert [m.role for m in found[3].messages] == ["user", "assistant"] * 2
    assert found[3].question == "<image>\nWhat is it, number 3?"


def test_lines_are_the_same_as_a_list(tmp_path: Path):
    listed = read_conversations(write(tmp_path))
    file = lines(tmp_path / "talk.jsonl", *json.loads((tmp_path / "talk.json").read_text()))
    file.write_text("\ufeff" + file.read_text() + "\n", encoding="utf-8")
    by_line = read_conversations(file)
    assert [(c.id, c.images, c.messages) for c in by_line] == [
        (c.id, c.images, c.messages) for c in listed
    ]


def test_images_of_another_folder(tmp_path: Path):
    write(tmp_path / "a")
    (tmp_path / "b").mkdir()
    file = (tmp_path / "a" / "talk.json").rename(tmp_path / "b" / "talk.json")
    found = read_conversations(file, images=tmp_path / "a")
    assert found[1].paths == (str(tmp_path / "a" / "1.png"),)


def test_an_entry_without_id_is_known_by_its_number(tmp_path: Path):
    without = entry(0)
    del without["id"]
    assert [c.id for c in read_conversations(lines(tmp_path / "x", without, without))] == ["0", "1"]


def test_an_answer_before_the_first_question_is_dropped(tmp_path: Path):
    given = entry(0)
    given["conversations"].insert(0, {"from": "gpt", "value": "Hello."})
    (found,) = read_conversations(lines(tmp_path / "x", given))
    assert [m.role for m in found.messages] == ["user", "assistant"]


def test_a_system_message_may_come_first(tmp_path: Path):
    given = entry(0)
    given["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    (found,) = read_conversations(lines(tmp_path / "x", given))
    assert found.messages[0] == Message("system", "Be brief.")
    assert found.question == "What is it, number 0?"


def test_the_shipped_questions_ask_for_short_answers():
    found = read_conversations("sample:rsvqa_lr")
    assert len(found) == 2403
    assert {c.type for c in found} == {"comp", "count", "presence", "rural_urban"}
    first = found[0]
    assert first.messages == (
        Message("user", f"<image>\nIs it a rural or an urban area\n{SHORT_ANSWER}"),
        Message("assistant", "rural"),
    )
    assert Path(first.paths[0]).is_file()
    assert len({c.id for c in found}) == 2403


# ---- what is refused -----------------------------------------------------------------------------


def refused(tmp_path: Path, change, match: str) -> None:
    """The second of two conversations is changed."""
    picture(tmp_path / "0.png", 0)
    good, bad = entry(0, image="0.png"), entry(1, image="0.png")
    change(bad)
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([good, bad]))
    with pytest.raises(DataError, match=match) as error:
        read_conversations(file)
    assert f"{file}[1] (id '1')" in str(error.value)
    assert "\n" not in str(error.value)
    lines(tmp_path / "talk.jsonl", good, bad)
    with pytest.raises(DataError, match=r"talk\.jsonl, line 2 \(id '1'\)"):
        read_conversations(tmp_path / "talk.jsonl")


def test_an_empty_conversation(tmp_path: Path):
    refused(tmp_path, lambda e: e.update(conversations=[]), "an empty conversation")


def test_a_conversation_without_turns(tmp_path: Path):
    refused(
        tmp_path, lambda e: e.pop("conversations"), "an empty conversation.*found keys id, image"
    )


def test_an_unknown_role(tmp_path: Path):
    match = r"unknown role.*turn 0; expected human \| gpt \| system; found 'humn'.*mean 'human'"
    refused(tmp_path, lambda e: e["conversations"][0].update({"from": "humn"}), match)


def test_a_role_that_is_no_word(tmp_path: Path):
    refused(tmp_path, lambda e: e["conversations"][0].update({"from": ["gpt"]}), "unknown role")


def test_an_empty_message(tmp_path: Path):
    refused(tmp_path, lambda e: e["conversations"][1].update(value=" "), "an empty message.*turn 1")


def test_a_message_that_is_no_text(tmp_path: Path):
    refused(tmp_path, lambda e: e["conversations"][1].update(value=3), "an empty message.*found 3")


def test_a_turn_without_its_keys(tmp_path: Path):
    refused(tmp_path, lambda e: e["conversations"].append({"role": "user"}), "not a turn.*turn 2")


def test_two_questions_in_a_row(tmp_path: Path):
    again = {"from": "human", "value": "And?"}
    refused(tmp_path, lambda e: e["conversations"].insert(0, again), "two user turns in a row")


def test_a_question_without_an_answer(tmp_path: Path):
    refused(tmp_path, lambda e: e["conversations"].pop(), "a conversation without an answer")


def test_more_placeholders_than_images(tmp_path: Path):
    match = "placeholders are not those of the images.*each of 1 images; found 2"
    refused(tmp_path, lambda e: e["conversations"][0].update(value="<image><image> Which?"), match)


def test_an_image_without_its_placeholder(tmp_path: Path):
    match = "placeholders are not those of the images.*each of 1 images; found 0"
    refused(tmp_path, lambda e: e["conversations"][0].update(value="What is it?"), match)


def test_a_placeholder_without_its_image(tmp_path: Path):
    match = "placeholders are not those of the images.*each of 0 images; found 1"
    refused(tmp_path, lambda e: e.pop("image"), match)


@pytest.mark.parametrize("key", ["images", "video"])
def test_images_under_another_name(key: str, tmp_path: Path):
    match = f'each of 0 images; found 1; "image", not "{key}", names them'
    refused(tmp_path, lambda e: e.update({key: [e.pop("image")]}), match)


def test_a_placeholder_in_an_answer(tmp_path: Path):
    change = lambda e: e["conversations"][1].update(value="<image>")  # noqa: E731
    refused(tmp_path, change, "an image in a turn of the assistant")


def test_an_image_that_is_no_name(tmp_path: Path):
    refused(tmp_path, lambda e: e.update(image={"path": "0.png"}), "not the name of an image")


def test_an_entry_that_is_no_object(tmp_path: Path):
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([entry(0), "What is it?"]))
    with pytest.raises(DataError, match=r"not a conversation in .*talk\.json\[1\]; .*found str"):
        read_conversations(file)


def test_missing_image_files_are_counted_and_the_first_is_named(tmp_path: Path):
    file = write(tmp_path)
    (tmp_path / "3.png").unlink()
    with pytest.raises(DataError, match=r"no such image in .*\(id '3'\); expected .*3\.png"):
        read_conversations(file)
    (tmp_path / "4.png").unlink()
    with pytest.raises(DataError, match=r"found 2 images missing.*ConversationConfig.images"):
        read_conversations(file)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path):
    file = tmp_path / "talk.jsonl"
    file.write_bytes(json.dumps(entry(0)).encode() + b'\n{"id": "\xe9"}\n')
    match = r"text that is not UTF-8 in .*talk\.jsonl, line 2; expected UTF-8; found byte 0xe9"
    with pytest.raises(DataError, match=match):
        read_conversations(file)


@pytest.mark.parametrize(
    ("text", "line"), [("[\n{,\n]", 2), ('{"id": "1", "conver', 1), ("\n\nhuman: hello", 3)]
)
def test_a_file_that_is_not_json_is_refused_with_its_line(tmp_path: Path, text: str, line: int):
    (tmp_path / "talk.json").write_text(text)
    with pytest.raises(DataError, match=rf"not JSON in .*talk\.json, line {line};"):
        read_conversations(tmp_path / "talk.json")


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match=r"no readable conversations in .*No such file"):
        read_conversations(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["", "[]"])
def test_a_file_without_conversations(tmp_path: Path, text: str):
    (tmp_path / "talk.json").write_text(text)
    with pytest.raises(DataError, match="no conversation in"):
        read_conversations(tmp_path / "talk.json")


def test_no_such_shipped_conversations():
    with pytest.raises(ConfigError, match=r"no such shipped .*did you mean 'rsvqa_lr'"):
        read_conversations("sample:rsvqa")


# ---- what is held out ----------------------------------------------------------------------------


def images_of(conversations, mask) -> set[str]:
    return {n for c, use in zip(conversations, mask, strict=True) if use for n in c.images}


def test_held_out_images_are_never_shown_in_training(tmp_path: Path):
    found = read_conversations(write(tmp_path, 60))
    out = held_out(found, 0.3, "image")
    texts = sum(not c.images for c in found)
    kept = images_of(found, ~out)
    ranked = [n for n in sorted(images_of(found, out)) if n not in kept]
    assert ranked
    assert 0 < out.sum() < len(found) - texts // 2
    # What is held out stays so whatever the order of the conversations.
    again = held_out(found[::-1], 0.3, "image")
    np.testing.assert_array_equal(again[::-1], out)


def test_held_out_by_image_takes_the_share_of_the_images():
    found = read_conversations("sample:rsvqa_lr")
    out = held_out(found, 0.25, "image")
    assert len(images_of(found, out)) == 6
    assert not images_of(found, out) & images_of(found, ~out)


def test_held_out_by_question_asks_other_questions_about_the_same_images():
    found = read_conversations("sample:rsvqa_lr")
    out = held_out(found, 0.2, "question")
    assert images_of(found, out) <= images_of(found, ~out)
    asked = {(c.images, c.question) for c, use in zip(found, out, strict=True) if use}
    trained = {(c.images, c.question) for c, use in zip(found, out, strict=True) if not use}
    assert not asked & trained
    assert len(asked) == round(0.2 * len(asked | trained))


def test_a_larger_share_holds_out_more_of_the_same():
    found = read_conversations("sample:rsvqa_lr")
    for by in ("image", "question"):
        small, large = held_out(found, 0.1, by), held_out(found, 0.3, by)
        assert (large | ~small).all()


def test_nothing_is_held_out_when_nothing_is_asked_for():
    found = read_conversations("sample:rsvqa_lr")
    assert not held_out(found, 0.0, "image").any()


@pytest.mark.parametrize(
    ("share", "match"), [(0.01, "nothing to hold out"), (0.99, "nothing left to train on")]
)
def test_a_share_that_leaves_a_side_empty(share: float, match: str):
    found = read_conversations("sample:rsvqa_lr")
    with pytest.raises(ConfigError, match=rf"{match} in ConversationConfig.held_out.*of 24"):
        held_out(found, share, "image")


@pytest.mark.usefixtures("untyped")
def test_held_out_by_something_else():
    with pytest.raises(ConfigError, match=r"ConversationConfig.held_out_by"):
        ConversationConfig(held_out_by="images")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["threads", "workers", "prefetch"])
def test_a_pipeline_of_less_than_nothing(name: str):
    with pytest.raises(ConfigError, match=f"impossible pipeline in ConversationConfig.{name}"):
        ConversationConfig(**{name: -1})


def test_no_lengths():
    with pytest.raises(ConfigError, match=r"ConversationConfig.buckets"):
        ConversationConfig(buckets=0)
