"""The processor: the folder, batches from raw reads, what it refuses."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from rsvlm_jax.config import ConfigError, DataError, LlamaConfig
from rsvlm_jax.data import Processor

B, T, W = 2, 3, 8


@pytest.fixture(scope="module")
def plain(make_processor) -> Processor:
    return make_processor()


@pytest.fixture(scope="module")
def asking(make_processor) -> Processor:
    return make_processor("questions")


def raw(processor: Processor, b: int = B) -> dict[str, np.ndarray]:
    size = {"s2_l1c": T, "dem": 1}
    return {
        s.name: np.full((b, size[s.name], len(s.bands), W, W), 7, np.int16)
        for s in processor.bandsets
    }


DATES = {"s2_l1c": np.array(["2016-03-01", "2016-07-05", "2017-01-02"], "datetime64[s]")}


# ---- text ---------------------------------------------------------------------------------------


def test_plain_prompt_is_bos_images_regs(plain: Processor):
    text = plain.prompt()
    assert plain.length == 1 + 8 + 3 == len(text.tokens)
    assert text.tokens.tolist() == [1] + [512] * 8 + [513] * 3
    assert len(plain.table.tokens) == 1
    assert plain.forced == [513, 513]


def test_length_holds_every_template(asking: Processor):
    used = asking.table.used
    assert asking.table.tokens.shape == (len(asking.questions.pairs), asking.length)
    assert used.max() <= asking.length
    for qa in asking.questions.held_out:
        asking.prompt(*qa)
        assert asking.regress_prompt(qa.question).weight.any()


def test_regress_prompt_defaults_to_what_was_trained(plain: Processor, asking: Processor):
    np.testing.assert_array_equal(plain.regress_prompt().tokens, plain.prompt().tokens)
    first = asking.questions.pairs[0]
    np.testing.assert_array_equal(asking.regress_prompt().tokens, asking.prompt(*first).tokens)


def test_render_puts_the_number_where_the_regs_were(asking: Processor):
    text = asking.prompt("What is the tree cover?", "The tree cover is <reg>.")
    answer = text.tokens[int(asking.prompt("What is the tree cover?").used) :]
    number = asking.format(0.63, 0.41, 0.80)
    assert asking.render(answer, number) == "The tree cover is 0.63 (90 %: 0.41-0.80)."
    refusal = asking.prompt("Who lives here?", "I can not tell.").tokens
    assert asking.render(refusal[refusal > 0], number).endswith("I can not tell.")
    assert "0.63" not in asking.render(refusal, number)


def test_prompt_too_long(asking: Processor, plain: Processor):
    with pytest.raises(DataError, match=r"the prompt is too long"):
        asking.prompt("What is the tree cover " * 10 + "?")
    with pytest.raises(DataError, match='templates="plain" takes no question'):
        plain.prompt("What is the tree cover?")


# ---- batches ------------------------------------------------------------------------------------


def test_predict_batch(asking: Processor):
    batch = asking.predict_batch(raw(asking), DATES, platform={"s2_l1c": 1})
    assert list(batch.obs) == ["s2_l1c", "dem"]
    obs = batch.obs["s2_l1c"]
    np.testing.assert_allclose(obs.date[0], [5904, 6030, 6211])
    assert obs.date.shape == (B, T)
    assert (obs.platform == 1).all()
    assert obs.valid.all()
    assert obs.pixels.dtype == np.int16
    assert np.isnan(batch.obs["dem"].date).all(), "a static layer has no date"
    assert not batch.target_valid.any()
    assert not batch.weight.any(), "nothing to learn without a target"
    assert batch.sample.tolist() == [0, 1]
    assert {x.dtype.name for x in jax.tree.leaves(batch)} == {"int16", "int32", "float32", "bool"}


def test_predict_batch_asks_the_question(asking: Processor):
    a = asking.predict_batch(raw(asking), DATES, question="How much tree cover is here?")
    b = asking.predict_batch(raw(asking), DATES)
    assert (a.tokens == 513).sum(1).tolist() == [3, 3]
    assert (a.tokens != b.tokens).any()


def test_a_batch_is_a_pytree_that_goes_to_the_device(plain: Processor):
    batch = plain.predict_batch(raw(plain), DATES)
    placed = jax.device_put(batch)
    assert placed.obs["s2_l1c"].bandset == "s2_l1c"
    np.testing.assert_array_equal(placed.tokens, batch.tokens)


def test_targets_that_are_nan_or_ignored_carry_no_weight(asking: Processor):
    obs = {n: asking.observation(n, p) for n, p in raw(asking, 3).items()}
    batch = asking.batch(
        obs,
        asking.prompt("What?", "It is <reg>."),
        sample=np.array([4, -1, 6]),
        target=np.array([[0.5], [0.5], [np.nan]]),
        target_valid=np.array([[True], [True], [False]]),
    )
    assert batch.weight.any(1).tolist() == [True, False, False]
    assert np.isfinite(batch.target).all()


def test_missing_input(plain: Processor):
    reads = raw(plain)
    del reads["dem"]
    with pytest.raises(DataError, match=r"no input 'dem' in batch; .* found s2_l1c"):
        plain.predict_batch(reads, DATES)


def test_unknown_input_is_suggested(plain: Processor):
    with pytest.raises(DataError, match=r"no input 's2_l1'.*did you mean 's2_l1c'"):
        plain.observation("s2_l1", raw(plain)["s2_l1c"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": (B, T, 12, W, W)}, "wrong shape of pixels in s2_l1c; expected .*13.*B01"),
        ({"valid": (B, T, W, W)}, "wrong shape of valid"),
        ({"date": DATES["s2_l1c"][:2]}, "wrong number of dates"),
        ({"date": DATES["s2_l1c"][::-1]}, "dates out of order"),
        ({"platform": 64}, "no such platform in s2_l1c; expected rows 0 .. .*; found 64"),
    ],
)
def test_observation_refuses(plain: Processor, change: dict, message: str):
    pixels = np.zeros(change.get("pixels", (B, T, 13, W, W)), np.int16)
    valid = np.ones(change["valid"], bool) if "valid" in change else None
    with pytest.raises(DataError, match=message):
        plain.observation(
            "s2_l1c", pixels, valid, date=change.get("date"), platform=change.get("platform", 0)
        )


def test_nan_pixels_are_not_valid(plain: Processor):
    pixels = np.ones((B, T, 13, W, W), np.float32)
    pixels[0, 1, 2, 3, 4] = np.nan
    valid = plain.observation("s2_l1c", pixels).valid
    assert not valid[0, 1, 2, 3, 4]
    assert valid.sum() == valid.size - 1


def test_placeholder_mismatch(plain: Processor, make_processor, config):
    other = dataclasses.replace(config, temporal=dataclasses.replace(config.temporal, budget=4))
    short = make_processor(config=other, visual_tokens=4)
    obs = {n: plain.observation(n, p) for n, p in raw(plain).items()}
    with pytest.raises(DataError, match=r"expected 8 <image> and 0 or 3 <reg>; found 4 <image>"):
        plain.batch(obs, short.prompt())


# ---- the folder ---------------------------------------------------------------------------------


def test_round_trip(asking: Processor, tmp_path):
    calibrated = asking.calibrated([0.5, 1.25, 2.0])
    calibrated.save(tmp_path / "processor")
    assert sorted(p.name for p in (tmp_path / "processor").iterdir()) == [
        "processor.json",
        "tokenizer.json",
    ]
    again = Processor.load(tmp_path / "processor")
    for field in dataclasses.fields(Processor):
        if field.name != "tokenizer":
            assert getattr(again, field.name) == getattr(calibrated, field.name), field.name
    assert again.tokenizer.digest() == calibrated.tokenizer.digest()
    assert again.conformal == (0.5, 1.25, 2.0)
    np.testing.assert_array_equal(again.table.tokens, asking.table.tokens)


def edit(folder, **changes):
    path = folder / "processor.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "another version .*expected 1; found 99"),
        ({"targets": {}}, "unknown key in .*targets.*did you mean 'target'"),
        ({"length": None}, "missing keys in .*expected length"),
        ({"length": "12"}, "wrong type in .*length; expected int"),
        ({"length": 5}, "the prompts do not fit in Processor.length; expected 12 to 512"),
    ],
)
def test_an_edited_folder_is_refused(plain: Processor, tmp_path, changes, message):
    plain.save(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        Processor.load(tmp_path)


def test_missing_tokenizer(plain: Processor, tmp_path):
    plain.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no readable tokenizer in .*tokenizer\.json"):
        Processor.load(tmp_path)


def test_missing_processor(tmp_path):
    with pytest.raises(DataError, match=r"no readable processor in .*processor\.json"):
        Processor.load(tmp_path)


def test_tokenizer_of_wrong_size_in_the_folder(plain: Processor, tmp_path):
    plain.save(tmp_path)
    data = json.loads(plain.tokenizer.text)
    extra = {**data["added_tokens"][-1], "content": "<more>", "id": 514}
    data["added_tokens"].append(extra)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"differ in size .*expected decoder.vocab_size 515"):
        Processor.load(tmp_path)


def test_another_tokenizer_of_the_same_size(plain: Processor, tmp_path):
    plain.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match=r"not the tokenizer that was saved"):
        Processor.load(tmp_path)


# ---- construction -------------------------------------------------------------------------------


def test_another_vocabulary(make_processor, config):
    decoder = dataclasses.replace(config.decoder, vocab_size=512)
    with pytest.raises(ConfigError, match=r"differ in size"):
        make_processor(config=dataclasses.replace(config, decoder=decoder))


def test_padded_vocabulary(make_processor, config):
    decoder = dataclasses.replace(config.decoder, vocab_size=576)
    assert make_processor(config=dataclasses.replace(config, decoder=decoder)).length == 12


def test_visual_tokens_against_the_budget(make_processor):
    with pytest.raises(ConfigError, match=r"not the token budget.*expected 8; found 6"):
        make_processor(visual_tokens=6)


def test_band_sets_that_are_not_the_inputs(make_processor, plain: Processor):
    with pytest.raises(ConfigError, match=r"expected s2_l1c, dem; found dem, s2_l1c"):
        make_processor(bandsets=plain.bandsets[::-1])


def test_decoder_context_too_short(make_processor, config):
    decoder = dataclasses.replace(config.decoder, max_length=20)
    with pytest.raises(ConfigError, match=r"the prompts do not fit"):
        make_processor("questions", config=dataclasses.replace(config, decoder=decoder))


def test_questions_need_a_decoder(make_processor, config):
    without = dataclasses.replace(config, decoder=None)
    with pytest.raises(ConfigError, match=r"questions need a decoder and a head"):
        make_processor("questions", config=without)
    assert make_processor(config=without).prompt().tokens[0] == 1


def test_a_larger_decoder_needs_its_own_tokenizer(make_processor, config):
    with pytest.raises(ConfigError, match=r"found 32064"):
        make_processor(config=dataclasses.replace(config, decoder=LlamaConfig()))


def test_calibration_scores_must_be_finite(plain: Processor):
    with pytest.raises(DataError, match=r"calibration scores are not finite"):
        plain.calibrated([1.0, float("nan")])
