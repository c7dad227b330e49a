"""Generation against transformers: texts of batches, beams with their scores, filters of scores."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_generation import ASKED, BANNED, CASES, ENDS, FILTERS, NEW_TOKENS
from reference import Reference, reference

from rsvlm_jax.config import GenerationConfig
from rsvlm_jax.generate import Generated
from rsvlm_jax.generate.rules import Memory, Rules, permitted
from rsvlm_jax.generate.sampling import Filters, filtered
from rsvlm_jax.run.open_pretrained import open_pretrained
from rsvlm_jax.run.pretrained import Pretrained

BY_NAME = {case.name: case for case in CASES}
BEAMS = [name for name in ASKED if "num_beams" in ASKED[name]]


@functools.cache
def known(name: str) -> Reference:
    return reference(BY_NAME[name])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("talk")


@functools.cache
def loaded(name: str, home: Path) -> Pretrained:
    return open_pretrained(known(name).save(home / name))


@functools.cache
def ours(name: str, home: Path, asked: str) -> Generated:
    given = known(name).inputs
    inputs = {"input_ids": given.get("ids"), "attention_mask": given.get("mask")}
    if name == "talk_llava":
        inputs = {"input_ids": given["left_ids"], "attention_mask": given["left_mask"]}
        inputs["pixel_values"] = given["pixel_values"]
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, **ASKED[asked])
    return loaded(name, home).generate(**inputs, config=config, ends=ENDS)


def lengths(text: np.ndarray) -> np.ndarray:
    ends = np.isin(text, ENDS)
    return np.where(ends.any(axis=1), ends.argmax(axis=1), NEW_TOKENS)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", BY_NAME)
def test_texts_of_a_batch_with_left_padding(name: str, asked: str, home: Path) -> None:
    wanted, made = known(name).outputs[f"said:{asked}"], ours(name, home, asked)
    np.testing.assert_array_equal(made.length, lengths(wanted))
    for row, n in enumerate(lengths(wanted)):
        # With the end token, if there is one: which of them it was is part of the text.
        assert made.tokens[row, : n + 1].tolist() == wanted[row, : n + 1].tolist(), row


@pytest.mark.parametrize("asked", BEAMS)
@pytest.mark.parametrize("name", BY_NAME)
def test_scores_of_beams(name: str, asked: str, home: Path) -> None:
    made = ours(name, home, asked)
    size = np.minimum(np.asarray(made.length) + 1, NEW_TOKENS)
    power = size ** ASKED[asked].get("length_penalty", 1.0)
    np.testing.assert_allclose(
        np.asarray(made.score) / power, known(name).outputs[f"score:{asked}"], rtol=1e-5
    )


@pytest.mark.parametrize("name", BY_NAME)
def test_the_cases_are_worth_comparing(name: str) -> None:
    """Texts end early and late, and beams find other texts than the greedy way."""
    out = known(name).outputs
    texts = {asked: out[f"said:{asked}"] for asked in ASKED}
    ends = np.concatenate([lengths(text) for text in texts.values()])
    assert ends.min() < 4
    assert ends.max() == NEW_TOKENS
    assert len({text.tobytes() for text in texts.values()}) > 4


@pytest.mark.parametrize("asked", FILTERS)
def test_filters_leave_the_same_shares(asked: str) -> None:
    """The same tokens are taken out, to the last, and the others have the same probability."""
    given = known("talk_llama")
    config = GenerationConfig(**FILTERS[asked])
    scores, before = (jnp.asarray(given.inputs[k]) for k in ("scores", "before"))
    filters = Filters.of(config)
    rules = Rules.of(config, scores.shape[1], (), None, (BANNED,), None)

    @jax.jit
    def shares(rules: Rules, scores: Any, before: Any) -> Any:
        memory = Memory.start(rules, filters, scores.shape[0], before.astype(jnp.int32))
        scores = permitted(rules, scores, memory, jnp.int32(9))
        return jax.nn.softmax(filtered(scores, filters, rules.sampling), axis=1)

    found = np.asarray(shares(rules, scores, before))
    wanted = given.outputs[f"share:{asked}"]
    np.testing.assert_array_equal(found > 0, wanted > 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
