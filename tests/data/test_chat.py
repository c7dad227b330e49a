"""`ChatProcessor`: messages and pictures to batches, the saved folder, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsvlm_jax.config import ConfigError, DataError, HeadConfig, LlamaConfig, ViTConfig, VLMConfig
from rsvlm_jax.config.conversation import ImageConfig
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.messages import Message, count_images, escape, split_images

VISION = ViTConfig(image_size=28, patch_size=14, width=8, layers=2, heads=2, mlp_dim=12)
TEXT = LlamaConfig(vocab_size=514, width=12, layers=1, heads=3, kv_heads=1, mlp_dim=16)
MODEL = VLMConfig(vision=VISION, decoder=TEXT, head=None)
P = 4  # visual tokens of an image
CHAT = ChatProcessor.of("asset:stories260k", MODEL, length=400)
IMAGE = 512


def user(text: str) -> Message:
    return Message("user", text)


def model(text: str) -> Message:
    return Message("assistant", text)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (31, 40, 3), np.uint8)


def words(text: str, **kwargs) -> list[int]:
    return CHAT.tokenizer.plain(text, **kwargs)[0]


# ---- what is made ------------------------------------------------------------------------------


def test_an_image_is_as_many_placeholders_as_it_has_tokens():
    row = CHAT.encode([user("<image>\nwhy?"), model("so.")])
    assert row.images == 1
    at = row.ids.index(IMAGE)
    assert row.ids[at : at + P] == [IMAGE] * P
    assert row.ids.count(IMAGE) == P
    assert not any(row.weight[: at + P])
    assert row.supervised
    assert CHAT.decode([i for i, w in zip(row.ids, row.weight, strict=True) if w]).strip() == "so."


def test_one_image_is_put_in_front_of_a_question_without_it():
    assert CHAT.encode([user("why?")], images=1) == CHAT.encode([user("<image>\nwhy?")])
    system = Message("system", "Be brief.")
    assert CHAT.encode([system, user("why?")], images=1) == CHAT.encode(
        [system, user("<image>\nwhy?")]
    )


@pytest.mark.parametrize("question", ["why?\n<image>", "<image>why?", " <image> \n why? "])
def test_one_image_goes_to_the_front_wherever_it_stands(question: str):
    assert CHAT.encode([user(question)]) == CHAT.encode([user("<image>\nwhy?")])


def test_several_images_stay_where_they_stand():
    row = CHAT.encode([user("first <image> then <image> same?"), model("no"), user("<image>and?")])
    assert row.images == 3
    runs = "".join("i" if i == IMAGE else "." for i in row.ids).replace("iiii", "I")
    assert runs.strip(".").count("I") == 3
    assert "II" not in runs


def test_a_prompt_ends_where_the_answer_begins():
    asked = CHAT.encode([user("<image>\nwhy?")])
    told = CHAT.encode([user("<image>\nwhy?"), model("so.")])
    n = len(asked.ids)
    assert told.ids[:n] == asked.ids
    assert told.ids[n:] == [*words(" so.", first=False)[1:], 2] or told.weight[n:] == [1.0] * (
        len(told.ids) - n
    )
    assert not asked.supervised
    assert not any(told.weight[:n])
    assert all(told.weight[n:])


@pytest.mark.parametrize("typed", ["</s>", "<s> <image> <reg>", "<unk>", "\\<image>", "<image>"])
def test_what_a_user_types_is_text_whatever_it_spells(typed: str):
    row = CHAT.encode([user(f"what is {escape(typed)}?")])
    assert not {1, 2, 512, 513} & set(row.ids[1:])
    assert row.images == 0
    assert f"what is {typed}? ASSISTANT:" in CHAT.decode(row.ids)


def test_escapes():
    assert split_images(escape("a <image> b")) == ["a <image> b"]
    assert split_images(escape("\\<image>")) == ["\\<image>"]
    assert split_images("a<image>b\\<image>c") == ["a", "b<image>c"]
    assert count_images("a<image>b\\<image>c") == 1


def test_a_system_message_takes_the_place_of_the_templates_own():
    row = CHAT.encode([Message("system", "Be brief."), user("why?")])
    assert CHAT.decode(row.ids).strip() == "Be brief. USER: why? ASSISTANT:"


def test_a_number_is_a_block_of_which_the_first_is_learnt():
    head = dataclasses.replace(MODEL, head=HeadConfig(reg_tokens=3))
    chat = ChatProcessor.of("asset:stories260k", head)
    row = chat.encode([user("<image>\nhow much?"), model("It is <reg>.")])
    at = row.ids.index(513)
    assert row.ids[at : at + 3] == [513] * 3
    assert row.weight[at : at + 4] == [1.0, 0.0, 0.0, 1.0]
    assert 513 not in CHAT.encode([user("how much?"), model("It is <reg>.")]).ids


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch(side: str):
    rows = [
        CHAT.encode([user("<image>\nwhy?"), model("so.")]),
        CHAT.encode([user("why?"), model("it is so.")]),
        CHAT.encode([user("<image> or <image>?")]),
    ]
    x = [CHAT.pixels(picture(i)) for i in range(3)]
    batch = CHAT.batch(rows, [[x[0]], [], x[1:]], side=side)
    assert batch.images is not None
    np.testing.assert_array_equal(np.asarray(batch.images.pixels), np.stack(x))
    assert np.asarray(batch.images.of).tolist() == [[0, -1], [-1, -1], [1, 2]]
    segment, tokens = np.asarray(batch.segment), np.asarray(batch.tokens)
    slot, position = np.asarray(batch.image_slot), np.asarray(batch.position)
    for b, row in enumerate(rows):
        real = segment[b] > 0
        n = len(row.ids)
        assert real.sum() == n
        assert real[:n].all() if side == "right" else real[-n:].all()
        ids = np.array(row.ids)
        assert tokens[b][real].tolist() == np.where(ids == IMAGE, 0, ids).tolist()
        assert np.asarray(batch.weight)[b][real].tolist() == row.weight
        assert position[b][real].tolist() == list(range(n))
        assert slot[b][slot[b] >= 0].tolist() == list(range(P * row.images))
        assert ((slot[b][real] >= 0) == (ids == IMAGE)).all()
    assert not np.asarray(batch.weight)[segment == 0].any()


def test_a_batch_of_text_has_no_images():
    batch = CHAT.batch([CHAT.encode([user("why?")])], length=200)
    assert batch.images is None
    assert batch.tokens.shape == (1, 200)


def test_the_folder_returns_the_same_processor(tmp_path: Path):
    CHAT.save(tmp_path)
    again = ChatProcessor.load(tmp_path)
    said = [user("<image>\nwhy?"), model("so.")]
    assert again.encode(said) == CHAT.encode(said)
    assert again.digest() == CHAT.digest()
    np.testing.assert_array_equal(again.pixels(picture()), CHAT.pixels(picture()))
    of = ChatProcessor.of(tmp_path, MODEL)
    assert of.digest() == CHAT.digest()
    other = ChatProcessor.of(tmp_path, MODEL, template="llava_v1", length=300)
    assert (other.template, other.length) == ("llava_v1", 300)
    assert other.digest() != CHAT.digest()


def test_stop_strings():
    assert CHAT.stop == ()
    assert dataclasses.replace(CHAT, template="plain").check_stop(["\n", "x"]) == ("\n", "x")
    assert dataclasses.replace(CHAT, template="chatml").stop == ("<|im_end|>",)


# ---- what is cut -------------------------------------------------------------------------------


def test_a_long_conversation_is_cut_at_the_right():
    said = [user("<image>\nwhy?"), model("so it is."), user("and?"), model("so.")]
    whole = CHAT.encode(said)
    for length in range(len(whole.ids) - 8, len(whole.ids)):
        row = CHAT.encode(said, length=length)
        assert (row.ids, row.weight) == (whole.ids[:length], whole.weight[:length])
        assert row.cut == len(whole.ids) - length


def test_an_image_is_never_cut_nor_left_out():
    said = [user("<image>\nwhy?"), model("so."), user("<image>\nand?"), model("no.")]
    row = CHAT.encode(said)
    last = max(i for i, token in enumerate(row.ids) if token == IMAGE)
    assert CHAT.encode(said, length=last + 1).images == 2
    for length in (last, last - P, last - P - 3):
        with pytest.raises(DataError, match=f"an image does not fit .* at most {length} tokens"):
            CHAT.encode(said, length=length)


def test_a_row_whose_labels_are_all_masked_says_so():
    said = [user("<image>\nwhy?"), model("so.")]
    n = len(CHAT.encode(said[:1]).ids)
    assert not CHAT.encode(said, length=n).supervised
    assert CHAT.encode(said, length=n + 1).supervised


# ---- bad input ---------------------------------------------------------------------------------


def test_an_unknown_role(untyped: None):
    with pytest.raises(DataError, match=r"unknown role .* found 'human'"):
        Message("human", "why?")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"did you mean 'assistant'"):
        Message("asistant", "why?")  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [[], [Message("system", "Be brief.")]])
def test_an_empty_conversation(said: list[Message]):
    with pytest.raises(DataError, match=r"an empty conversation"):
        CHAT.encode(said)


def test_an_answer_first():
    with pytest.raises(DataError, match=r"an answer before any question in messages\[0\]"):
        CHAT.encode([model("so."), user("why?")])


def test_two_questions_in_a_row():
    with pytest.raises(DataError, match=r"two user turns in a row in messages\[1\]"):
        CHAT.encode([user("why?"), user("and?")])


def test_a_system_message_among_the_turns():
    with pytest.raises(DataError, match=r"a system message among the turns in messages\[1\]"):
        CHAT.encode([user("why?"), Message("system", "Be brief.")])


@pytest.mark.parametrize("said", [[user(" ")], [user("why?"), model("")]])
def test_an_empty_turn(said: list[Message]):
    with pytest.raises(DataError, match=r"an empty turn"):
        CHAT.encode(said)


def test_placeholders_without_images():
    with pytest.raises(DataError, match=r"placeholders are not .* expected 1 image; found 0"):
        CHAT.encode([user("<image>\nwhy?")], images=0)
    row = CHAT.encode([user("<image>\nwhy?")])
    with pytest.raises(DataError, match=r"images of each row \[1\]; found \[0\]"):
        CHAT.batch([row])


def test_images_without_placeholders():
    with pytest.raises(DataError, match=r"placeholders are not .* expected 0 images; found 2"):
        CHAT.encode([user("why?")], images=2)
    x = CHAT.pixels(picture())
    with pytest.raises(DataError, match=r"images of each row \[0\]; found \[1\]"):
        CHAT.batch([CHAT.encode([user("why?")])], [[x]])


def test_an_image_in_an_answer():
    with pytest.raises(DataError, match=r"an image in a turn of the assistant in messages\[1\]"):
        CHAT.encode([user("why?"), model("see <image>")])
    assert CHAT.encode([user("why?"), model("see \\<image>")]).images == 0


def test_an_image_for_a_model_of_text():
    chat = ChatProcessor.of("asset:stories260k", TEXT)
    assert chat.encode([user("why?"), model("so.")]).supervised
    with pytest.raises(DataError, match=r"none: a model of text alone"):
        chat.encode([user("<image>\nwhy?")])
    with pytest.raises(ConfigError, match=r"the model reads no images"):
        chat.pixels(picture())


def test_text_with_a_lone_surrogate():
    with pytest.raises(DataError, match=r"not Unicode in character .* found U\+D800"):
        CHAT.encode([user("why \ud800?")])


def test_a_stop_string_with_the_placeholder_of_an_image():
    with pytest.raises(ConfigError, match=r"a stop string with the placeholder of an image"):
        CHAT.check_stop(["\n", "x<image>"])


def test_a_stop_string_that_is_a_special_token_is_an_id():
    assert CHAT.check_stop(["</s>", "x"]) == ("x",)
    assert CHAT.stop_ids(["</s>", "x"]) == (CHAT.tokenizer.eos,)


def test_a_stop_string_with_a_special_token_among_other_characters():
    with pytest.raises(ConfigError, match=r"a special token among other characters in stop; .*x"):
        CHAT.check_stop(["x</s>"])


def test_an_unreadable_image(tmp_path: Path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"unreadable image in .*x\.jpg"):
        CHAT.pixels(tmp_path / "x.jpg")


def test_an_image_that_is_not_of_pixels():
    row = CHAT.encode([user("<image>\nwhy?")])
    with pytest.raises(DataError, match=r"not an image of `pixels` .* expected \[28,28,3\]"):
        CHAT.batch([row], [[np.zeros((14, 14, 3), np.float32)]])


def test_a_prompt_longer_than_the_context():
    with pytest.raises(DataError, match=r"the prompt is longer than the context"):
        CHAT.encode([user("<image>\n" + "why? " * 200)])


def test_a_row_longer_than_the_batch():
    with pytest.raises(DataError, match=r"a row longer than the batch in row 0"):
        CHAT.batch([CHAT.encode([user("why?")])], length=10)


def test_a_batch_without_rows():
    with pytest.raises(DataError, match=r"a batch without rows"):
        CHAT.batch([])


def test_an_unknown_template(untyped: None):
    with pytest.raises(ConfigError, match=r"ChatProcessor.template; .* did you mean 'vicuna_v1'"):
        ChatProcessor.of("asset:stories260k", MODEL, template="vicuna_v2")  # type: ignore[arg-type]


def test_a_template_that_the_tokenizer_lacks():
    with pytest.raises(ConfigError, match=r"the tokenizer has no chat template"):
        ChatProcessor.of("asset:stories260k", MODEL, template="tokenizer")


@pytest.mark.parametrize("said", [[user("why?")], [user("<image>"), model("a"), user("b")]])
def test_plain_has_a_place_for_images_and_one_caption(said: list[Message]):
    with pytest.raises(DataError, match=r"the template has no place for this in plain"):
        dataclasses.replace(CHAT, template="plain").encode(said)


def test_a_system_message_under_plain():
    plain = dataclasses.replace(CHAT, template="plain")
    with pytest.raises(DataError, match=r"no place for a system message"):
        plain.encode([Message("system", "Be brief."), user("<image>")])


def test_a_table_of_another_size():
    model = dataclasses.replace(MODEL, decoder=dataclasses.replace(TEXT, vocab_size=32000))
    with pytest.raises(
        ConfigError, match=r"differ in size .* expected decoder.vocab_size 512 .. 10"
    ):
        ChatProcessor.of("asset:stories260k", model)


def test_images_of_another_size_than_the_towers():
    with pytest.raises(ConfigError, match=r"ImageConfig\.size; expected 28; found 336"):
        ChatProcessor.of("asset:stories260k", MODEL, image=ImageConfig())


def test_a_folder_whose_tokenizer_was_changed(tmp_path: Path):
    CHAT.save(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["added_tokens"][0]["lstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=r"not the tokenizer that was saved"):
        ChatProcessor.load(tmp_path)


def test_a_folder_without_a_processor(tmp_path: Path):
    with pytest.raises(DataError, match=r"no readable processor in .*chat\.json"):
        ChatProcessor.load(tmp_path)


def test_a_processor_of_another_version(tmp_path: Path):
    CHAT.save(tmp_path)
    raw = json.loads((tmp_path / "chat.json").read_text())
    (tmp_path / "chat.json").write_text(json.dumps({**raw, "version": 99}))
    with pytest.raises(ConfigError, match=r"a processor of another version .* found 99"):
        ChatProcessor.load(tmp_path)


def test_the_processor_of_another_model(tmp_path: Path):
    CHAT.save(tmp_path)
    vision = dataclasses.replace(VISION, image_size=42)
    with pytest.raises(ConfigError, match=r"of another model in .*per_image; expected 9; found 4"):
        ChatProcessor.of(tmp_path, dataclasses.replace(MODEL, vision=vision))


def test_pictures_of_all_kinds_are_read(tmp_path: Path):
    image = Image.fromarray(picture())
    image.save(tmp_path / "x.png")
    wanted = CHAT.pixels(image)
    assert wanted.shape == (28, 28, 3)
    np.testing.assert_array_equal(CHAT.pixels(tmp_path / "x.png"), wanted)
    np.testing.assert_array_equal(CHAT.pixels(picture()), wanted)
