"""Knowledge tokens: the three readings, packed rows, answers without a number."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandsets import L1C, garbage, random_observation, text_batch
from filled import FAST, filled
from flax import nnx

from rsvlm_jax.config import (
    ConfigError,
    DataError,
    HeadConfig,
    InputConfig,
    LlamaConfig,
    SelectionConfig,
    TemporalConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat
from rsvlm_jax.models.connector import token_count
from rsvlm_jax.models.knowledge import read
from rsvlm_jax.models.vlm import VisionLanguageModel

Q, L, D = 2, 9, 3
HIDDEN = jnp.asarray(np.random.default_rng(0).normal(size=(1, L, D)), jnp.float32)
#      0  1  2  3 | 4  5  6  R  R      the answer begins at 4
REG = jnp.asarray([[False] * 7 + [True] * 2])
FOUR = jnp.asarray([4], jnp.int32)


def test_reg_is_the_block():
    found, has = read(HIDDEN, REG, Q)
    np.testing.assert_array_equal(found[0], HIDDEN[0, 7:])
    assert has.tolist() == [True]


def test_answer_is_the_means_of_its_parts():
    """Five positions in two parts share the third."""
    found, has = read(HIDDEN, REG, Q, "answer", FOUR)
    wanted = [HIDDEN[0, 4:7].mean(0), HIDDEN[0, 6:9].mean(0)]
    np.testing.assert_allclose(found[0], np.stack(wanted), atol=1e-6)
    assert has.tolist() == [True]


def test_a_short_answer_repeats():
    """One word and a block of one, for three parts: 2 positions, 0 0-1 1."""
    one = jnp.asarray([[False] * 8 + [True]])
    found, _ = read(HIDDEN, one, 1, "answer", jnp.asarray([7], jnp.int32))
    np.testing.assert_allclose(found[0], HIDDEN[0, 7:].mean(0, keepdims=True), atol=1e-6)


def test_last_is_what_stands_before_the_answer():
    found, has = read(HIDDEN, REG, Q, "last", FOUR)
    np.testing.assert_array_equal(found[0], HIDDEN[0, 2:4])
    assert has.tolist() == [True]


@pytest.mark.parametrize("kind", ["reg", "answer", "last"])
def test_an_answer_without_its_block_has_no_knowledge(kind):
    found, has = read(HIDDEN, REG.at[0, 8].set(False), Q, kind, FOUR)
    assert has.tolist() == [False]
    assert (found == 0).all()


@pytest.mark.parametrize(("kind", "begins"), [("answer", -1), ("answer", 9), ("last", 1)])
def test_an_answer_that_is_not_there_has_no_knowledge(kind, begins):
    found, has = read(HIDDEN, REG, Q, kind, jnp.asarray([begins], jnp.int32))
    assert has.tolist() == [False]
    assert (found == 0).all()


def test_a_batch_that_does_not_say_where_answers_begin_is_refused():
    with pytest.raises(DataError, match=r"where answers begin in Batch\.answer.*'answer'"):
        read(HIDDEN, REG, Q, "answer")


# ---- in the model --------------------------------------------------------------------------------

N = 4
MODEL = VLMConfig(
    inputs=(InputConfig("s2"),),
    vision=ViTConfig(
        image_size=8, patch_size=4, width=16, layers=2, heads=2, mlp_dim=32, feature_layers=(1, 2)
    ),
    selection=SelectionConfig(12),
    temporal=TemporalConfig(budget=N, heads=2),
    decoder=LlamaConfig(
        vocab_size=514, width=24, layers=2, heads=4, kv_heads=2, mlp_dim=32, tie_embeddings=True
    ),
    head=HeadConfig(layers=2, reg_tokens=Q, token_dim=8, channel_dim=16, knowledge="answer"),
)


def batch():
    """`<s> <image>*4  5 words  4 words of an answer  <reg>*2 </s>`: the answer begins at 9."""
    made = text_batch({"s2": random_observation(L1C, 2, 3, 8)}, n=N, q=Q, length=16)
    return dataclasses.replace(made, answer=jnp.asarray([9, 9], jnp.int32))


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return filled(
        lambda: VisionLanguageModel(MODEL, (L1C,), image_token=512, reg_token=513, rngs=nnx.Rngs(0))
    )


@pytest.fixture(scope="module")
def run(model):
    """The forward pass, and the gradients of the head's error by parameter."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, given):
        made = nnx.merge(graphdef, params, rest)
        encoded = made(given)
        return made.head(encoded).nll(given.target).mean(), encoded

    jitted = jax.jit(jax.grad(loss, has_aux=True), compiler_options=FAST)
    return lambda given: jitted(params, given)


def test_the_model_reads_the_answer(run):
    encoded = run(batch())[1]
    answer = encoded.hidden[:, 9:15]
    wanted = np.stack([answer[:, :3].mean(1), answer[:, 3:].mean(1)], axis=1)
    np.testing.assert_allclose(encoded.knowledge, wanted, atol=1e-5)
    assert encoded.has_knowledge.all()


def test_a_packed_row_speaks_of_its_first_example(run):
    given = batch()
    segment = given.segment.at[1, 12:].set(2)  # the block of the second row is another example's
    encoded = run(dataclasses.replace(given, segment=segment))[1]
    assert encoded.has_knowledge.tolist() == [True, False]
    assert (encoded.knowledge[1] == 0).all()


def test_error_of_the_number_reaches_selection_and_both_depths(run):
    """Feature layers 1 and 2 of 2: the first has a path of its own past the second."""
    grads = flat(nnx.to_pure_dict(run(batch())[0]))
    for tower in ("selection", "vision", "temporal", "decoder", "connector", "head"):
        of_tower = {p: g for p, g in grads.items() if p.startswith(f"{tower}/")}
        assert of_tower
        for path, g in of_tower.items():
            assert jnp.isfinite(g).all(), path
            if not path.endswith("/k/bias"):
                assert jnp.abs(g).max() > 0, path


def test_what_is_not_valid_changes_no_bit(run):
    given = batch()
    dirty = dataclasses.replace(given, obs={"s2": garbage(given.obs["s2"])})
    for a, b in zip(jax.tree.leaves(run(given)[1]), jax.tree.leaves(run(dirty)[1]), strict=True):
        assert np.array_equal(a, b)


def test_tokens_of_both_depths_are_those_of_the_layers(model):
    """[F, 2 P, Dv]: those of layer 1, then those of layer 2."""
    frames = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32)
    both = jax.jit(model.tower_features)(frames)
    vision = model.vision
    _, (one, two) = jax.jit(lambda x: vision._run(x, (1, 2)))(frames)
    np.testing.assert_allclose(both, jnp.concatenate([one[:, 1:], two[:, 1:]], 1), atol=1e-6)


def test_a_selection_without_a_budget_gives_as_many_tokens():
    config = dataclasses.replace(MODEL, temporal=TemporalConfig(budget=None, heads=2))
    assert token_count(config, frames=15) == 12
    assert token_count(config, frames=1) == 8


def test_dates_of_an_encoder_are_its_own():
    with pytest.raises(ConfigError, match=r"reads the dates itself.*expected real"):
        VLMConfig(inputs=(InputConfig("s2", "presto"),), temporal=TemporalConfig(dates="none"))
