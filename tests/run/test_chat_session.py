"""Speakers and sessions: answers in batches and in pieces, several turns over one cache."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import (
    STORIES260K,
    ConfigError,
    DataError,
    GenerationConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.messages import Message, escape
from rsvlm_jax.data.tokenizer import Tokenizer
from rsvlm_jax.interop.huggingface import Report
from rsvlm_jax.interop.llama2c import load_llama2c
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.run.chat import CubeChat, ImageChat, open_session
from rsvlm_jax.run.pretrained import Pretrained
from rsvlm_jax.run.speak import Speaker, rounded, stripped
from rsvlm_jax.run.trained import load_run

VISION = ViTConfig(
    image_size=16, patch_size=8, width=16, layers=1, heads=2, mlp_dim=32, feature_layers=(-1,)
)
FEW = GenerationConfig(max_new_tokens=12)
ONCE = "Once upon a time, there was a little girl"


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    """The shipped decoder, which tells stories whatever it sees, under a random tower."""
    config = VLMConfig(vision=VISION, decoder=STORIES260K, head=None)
    processor = ChatProcessor.of("asset:stories260k", config, template="vicuna_v1")
    token = processor.image_token
    assert token is not None
    model = VisionLanguageModel(config, image_token=token, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    params["decoder"] = jax.tree.map(jax.numpy.asarray, load_llama2c(STORIES260K))
    params["connector"] = jax.tree.map(lambda x: 8 * x, params["connector"])
    pretrained = Pretrained(
        path=Path("nano"), architecture="LlavaForConditionalGeneration", config=config,
        report=Report(0, (), ()), graphdef=graphdef, params=params, dtype="float32",
        image_token=token, ends=processor.ends, saved=processor,
    )  # fmt: skip
    return Speaker(pretrained, processor)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)


# ---- answers -------------------------------------------------------------------------------------


def test_a_batch_says_what_each_would_say_alone(speaker):
    asked = [ONCE, "<image>\nLook at the dog.", "What does <image> show, beside <image>?"]
    looked = [(), (picture(1),), (picture(2), picture(3))]
    together = speaker.answer(asked, looked, config=FEW)
    alone = [speaker.model.chat(q, *p, config=FEW) for q, p in zip(asked, looked, strict=True)]
    assert together == alone
    assert all(together)
    assert speaker.answer([]) == []


def test_a_streamed_answer_is_the_answer(speaker):
    for config in (FEW, GenerationConfig(max_new_tokens=20, temperature=1.0, seed=3)):
        whole = speaker.model.chat("Look!", picture(1), config=config)
        pieces = list(speaker.stream("Look!", [picture(1)], config=config))
        assert "".join(pieces) == whole
        assert len(pieces) > 1


def test_questions_about_shared_pictures_are_answered_as_each_alone(speaker):
    looked = [picture(1), picture(2)]
    asked = ["What do these show?", "What do you see?", "Is it?", ONCE]
    asked = [f"<image>\n<image>\n{q}" for q in asked]
    config = dataclasses.replace(FEW, repetition_penalty=1.2)
    together = speaker.answer(asked, [looked] * 4, config=config, shared=True)
    assert together == [speaker.model.chat(q, *looked, config=config) for q in asked]
    assert len(set(together)) > 1
    with pytest.raises(ConfigError, match="pictures that are not shared"):
        speaker.answer(["<image>\na", "<image> b <image>"], [looked[:1], looked], shared=True)


def test_pieces_have_no_white_space_at_either_end():
    assert list(stripped(iter(["", " \n", " a", " ", "b \n", " "]))) == ["a", " b"]


def test_lengths_of_programs():
    found = sorted({rounded(n) for n in range(1, 700)})
    assert found == [16, 24, 32, 48, 64, 96, 128, 256, 384, 512, 640, 768]
    assert all(rounded(n) >= n for n in range(1, 3000))


def test_pictures_of_other_conversations(speaker):
    with pytest.raises(ConfigError, match="pictures of other conversations"):
        speaker.answer(["a", "b"], [[]])


def test_a_prompt_that_leaves_no_room_for_the_answer(speaker):
    config = GenerationConfig(max_new_tokens=500)
    for ask in (
        lambda: speaker.answer([ONCE], config=config),
        lambda: speaker.stream(ONCE, config=config),
    ):
        with pytest.raises(DataError, match=r"leaves no room .* at most 512 tokens with 500 for"):
            list(ask())


def test_a_stop_string_that_is_a_special_token_ends_an_answer(speaker):
    whole = speaker.model.chat(ONCE, config=FEW)
    ids = speaker.processor.tokenizer.encode(whole)
    taken = {*speaker.encode(ONCE, 0).ids, *ids[:2]}
    token = next(i for i in ids if i not in taken)
    text = json.loads(speaker.processor.tokenizer.text)
    text["added_tokens"].append(
        dict(text["added_tokens"][-1], id=token, content=next(
            word for word, i in text["model"]["vocab"].items() if i == token
        ))
    )  # fmt: skip
    special = Tokenizer(json.dumps(text))
    word = special.specials.keys() - speaker.processor.tokenizer.specials.keys()
    other = dataclasses.replace(speaker.processor, tokenizer=special)
    asked = dataclasses.replace(FEW, stop=tuple(word))
    (said,) = Speaker(speaker.model, other).answer([ONCE], config=asked)
    assert said
    assert len(said) < len(whole)
    assert whole.startswith(said)


def test_a_grammar_under_a_template_that_ends_with_a_newline(speaker):
    """Its newline would cut what the grammar allows."""
    plain = Speaker(speaker.model, dataclasses.replace(speaker.processor, template="plain"))
    assert plain.ending(FEW)[0].stop == ("\n",)
    machine = plain.machine("a\\nb|c\\nd")
    (said,) = plain.answer(["What?"], [[picture(1)]], config=FEW, machine=machine)
    assert said in ("a\nb", "c\nd")
    with pytest.raises(ConfigError, match="a stop string would cut what a machine keeps whole"):
        plain.answer(
            ["What?"], [[picture(1)]], config=GenerationConfig(stop=("b",)), machine=machine
        )


def test_labels_are_ranked_as_training_would_score_them(speaker):
    labels = ["a dog", "no", "There was a big <image>."]
    asked, looked = ["What?", "Is it <image> or <image>?"], [[picture(1)], [picture(2), picture(3)]]
    ranked = speaker.rank(asked, labels, looked)
    for row, (question, some) in enumerate(zip(asked, looked, strict=True)):
        for i, label in enumerate(labels):
            turns = [Message("user", question), Message("assistant", escape(label))]
            whole = speaker.processor.encode(turns, images=len(some))
            batch = speaker.processor.batch([whole], [[speaker.processor.pixels(p) for p in some]])
            scores = jax.nn.log_softmax(_logits(speaker, batch)[0])
            said = [scores[k - 1, whole.ids[k]] for k, w in enumerate(whole.weight) if w]
            assert ranked.total[row, i] == pytest.approx(float(sum(said)), rel=1e-5)
            assert ranked.mean[row, i] == pytest.approx(float(sum(said)) / len(said), rel=1e-5)
    alone = speaker.model.rank("What?", labels, picture(1))
    assert list(alone) == labels
    np.testing.assert_allclose(list(alone.values()), ranked.total[0], rtol=1e-5)


def _logits(speaker: Speaker, batch) -> jax.Array:
    model = speaker.model.model
    return model.decoder.logits(model(batch).hidden)


def test_no_labels_to_rank(speaker):
    with pytest.raises(ConfigError, match="nothing to rank"):
        speaker.rank(["What?"], [])


def test_a_stop_string_with_the_placeholder(speaker):
    with pytest.raises(ConfigError, match="a stop string with the placeholder"):
        speaker.model.chat(ONCE, config=GenerationConfig(stop=("<image>",)))


# ---- sessions ------------------------------------------------------------------------------------


def fresh(speaker: Speaker, chat: ImageChat, pictures) -> str:
    """What the model says to all of a conversation but its last answer, read from the beginning."""
    return speaker.answer([chat.messages[:-1]], [pictures], config=chat.config)[0]


def test_turns_over_a_cache_say_what_the_whole_conversation_says(speaker, monkeypatch):
    chat = ImageChat(speaker, config=FEW, system="Tell stories.")
    kept = []
    monkeypatch.setattr(
        ImageChat, "_kept", lambda self, row, of=ImageChat._kept: kept.append(of(self, row))
        or kept[-1],
    )  # fmt: skip
    pictures = []
    for turn, question in enumerate((ONCE, "And the dog?", "Who is this?", "Why?")):
        if turn in (0, 2):
            pictures.append(picture(turn))
            assert chat.look(pictures[-1], "a picture") == "looking at a picture"
        said = "".join(chat.ask(question))
        assert said == fresh(speaker, chat, pictures), question
        assert chat.messages[-1] == Message("assistant", said)
    assert chat.messages[1].content == f"<image>\n{ONCE}"
    assert kept[0] == 0
    assert kept == sorted(kept)
    assert kept[1] > 20  # at least the first question was not read again


def test_two_pictures_at_places_that_the_question_names(speaker):
    chat = ImageChat(speaker, config=FEW)
    chat.look(picture(1), "a")
    chat.look(picture(2), "b")
    said = "".join(chat.ask("Is <image> older than <image>?"))
    assert said == fresh(speaker, chat, [picture(1), picture(2)])


def test_an_answer_left_half_taken_is_part_of_the_conversation(speaker):
    chat = ImageChat(speaker, config=GenerationConfig(max_new_tokens=30))
    answer = chat.ask(ONCE)
    first = next(answer)
    answer.close()
    assert chat.messages[-1] == Message("assistant", first)
    said = "".join(chat.ask("Go on."))
    assert said == fresh(speaker, chat, [])


def test_an_empty_answer_is_no_turn_and_its_picture_waits(speaker):
    everything = tuple(range(speaker.model.decoder.config.vocab_size))
    silent = dataclasses.replace(speaker.model, ends=everything)
    chat = ImageChat(Speaker(silent, speaker.processor), config=FEW)
    chat.look(picture(1), "a")
    assert list(chat.ask(ONCE)) == []
    assert chat.messages == []
    chat.speaker = speaker
    said = "".join(chat.ask(ONCE))
    assert said == speaker.model.chat(ONCE, picture(1), config=FEW)


def test_an_error_while_it_answers_leaves_the_conversation_as_it_was(speaker, monkeypatch):
    chat = ImageChat(speaker, config=FEW)
    first = "".join(chat.ask(ONCE))
    before = list(chat.messages)

    def fails(row, pictures, config):
        yield "half an"
        raise DataError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(chat, "_stream", fails)
        with pytest.raises(DataError, match="the device is gone"):
            list(chat.ask("Go on."))
    assert chat.messages == before
    chat.reset()
    assert "".join(chat.ask(ONCE)) == first


def test_the_word_itself_names_no_picture(speaker):
    chat = ImageChat(speaker, config=FEW)
    chat.look(picture(1), "a")
    chat.look(picture(2), "b")
    said = "".join(chat.ask("What does \\<image> mean?"))
    assert chat.messages[0].content == "<image>\n<image>\nWhat does \\<image> mean?"
    assert said == fresh(speaker, chat, [picture(1), picture(2)])


def test_a_new_beginning_forgets_pictures_and_words(speaker):
    chat = ImageChat(speaker, config=FEW)
    chat.look(picture(1), "a")
    first = "".join(chat.ask(ONCE))
    chat.look(picture(2), "never asked about")
    chat.reset()
    assert chat.messages == []
    chat.look(picture(1), "a")
    assert "".join(chat.ask(ONCE)) == first


def test_an_empty_question_and_one_too_long_leave_the_conversation_as_it_was(speaker):
    chat = ImageChat(speaker, config=FEW)
    "".join(chat.ask(ONCE))
    before = list(chat.messages)
    with pytest.raises(DataError, match="an empty question"):
        next(chat.ask("  "))
    with pytest.raises(DataError, match=r"longer than|too long"):
        next(chat.ask("why " * 600))
    assert chat.messages == before
    assert "".join(chat.ask("And then?")) == fresh(speaker, chat, [])


def test_a_cube_is_a_picture_where_somebody_draws_it(speaker):
    drawn = []

    def draw(cube, at):
        drawn.append((cube, at))
        return picture(5), f"true colour of {cube}"

    chat = ImageChat(speaker, config=FEW, picture_of=draw)
    assert chat.visit("sample:slovenia_s2", (3, 4)).endswith("true colour of sample:slovenia_s2")
    assert drawn == [("sample:slovenia_s2", (3, 4))]
    with pytest.raises(ConfigError, match="draws no cubes"):
        ImageChat(speaker).visit("sample:slovenia_s2", None)


def test_beams_cannot_be_talked_to(speaker):
    with pytest.raises(ConfigError, match="beams are known only at the end"):
        ImageChat(speaker, config=GenerationConfig(num_beams=2))


# ---- runs on cubes -------------------------------------------------------------------------------


def test_a_run_on_cubes_answers_about_a_place(finished: Path):
    chat = CubeChat(load_run(finished))
    with pytest.raises(ConfigError, match="no place yet"):
        next(chat.ask("What is the tree cover?"))
    assert "row 8" in chat.visit("sample:slovenia_s2", (8, 16))
    (said,) = chat.ask("What is the tree cover?")
    (answer,) = chat.loaded.chat("What is the tree cover?", chat._batch)
    assert said == answer.text
    with pytest.raises(ConfigError, match="not pictures"):
        chat.look(picture(1), "a.png")
    with pytest.raises(ConfigError, match="without a system message"):
        chat.reset("Be brief.")


# ---- the command ---------------------------------------------------------------------------------


def test_chat_verb_with_a_run_on_cubes(finished: Path, capsys):
    args = ["chat", str(finished), "--cube", "sample:slovenia_s2", "--at", "8", "16"]
    assert main([*args, "--ask", "What is the tree cover?", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    turns = json.loads(out[-1])["turns"]
    assert turns == [{"question": "What is the tree cover?", "answer": out[0]}]


def test_chat_verb_refuses_beams(finished: Path, capsys):
    assert main(["chat", str(finished), "--num-beams", "2", "--ask", "a"]) == 2
    assert "num_beams = 1" in capsys.readouterr().err


def test_an_unreadable_picture(speaker, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"not a picture")
    chat = ImageChat(speaker)
    with pytest.raises(DataError, match=r"a\.png"):
        chat.look(path, str(path))
    Image.fromarray(picture(1)).save(path)
    assert chat.look(path, str(path)) == f"looking at {path}"


def test_options_of_a_session_are_those_of_load(finished: Path):
    with pytest.raises(ConfigError, match="only for pretrained models"):
        open_session(finished, vision=finished)
    with pytest.raises(ConfigError, match="without a system message"):
        open_session(finished, system="Be brief.")
    assert isinstance(open_session(finished, adapter=None), CubeChat)
