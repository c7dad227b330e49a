"""Selection of visual tokens: which are chosen, what learns, what masks do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import FAST, filled
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import ConfigError, SelectionConfig, VLMConfig
from rsvlm_jax.core import flat
from rsvlm_jax.models.selection import TokenSelection, chosen

B, S, D, K = 3, 10, 8, 4


def build(gate: str = "straight", keep: int = K) -> TokenSelection:
    return filled(lambda: TokenSelection(SelectionConfig(keep, gate), D, rngs=nnx.Rngs(0)))


def inputs(seed: int = 0, share: float = 0.6):
    rng = np.random.default_rng(seed)
    valid = jnp.asarray(rng.random((B, S)) < share)
    tokens = jnp.asarray(rng.normal(size=(B, S, D)), jnp.float32)
    return jnp.where(valid[:, :, None], tokens, 0), valid


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0, 1))
def test_the_highest_of_the_valid_in_order(seed: int, keep: int, share: float):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(1, S)).astype(np.float32)
    valid = rng.random((1, S)) < share
    at = np.asarray(chosen(jnp.asarray(scores), jnp.asarray(valid), keep))[0]
    assert len(at) == len(set(at)) == min(keep, S)
    assert (np.diff(at) > 0).all()
    # None that is not valid while a valid one is left, and of the valid the highest.
    taken = np.isin(np.arange(S), at)
    assert valid[0][at].sum() == min(len(at), valid.sum())
    left = valid[0] & ~taken
    if left.any() and (valid[0] & taken).any():
        assert scores[0][left].max() <= scores[0][valid[0] & taken].min()


def test_equal_scores_take_the_first():
    assert chosen(jnp.zeros((1, 5)), jnp.ones((1, 5), bool), 2).tolist() == [[0, 1]]


def test_straight_leaves_the_tokens_as_they_are_and_soft_scales_them():
    tokens, valid = inputs(share=1.0)
    straight, soft = build(), build("soft")
    at = chosen(straight.scores(tokens), valid, K)
    taken = np.take_along_axis(np.asarray(tokens), np.asarray(at)[:, :, None], axis=1)
    kept, there = straight(tokens, valid)
    np.testing.assert_array_equal(kept, taken)
    assert there.all()
    gate = jax.nn.sigmoid(np.take_along_axis(np.asarray(soft.scores(tokens)), at, axis=1))
    np.testing.assert_allclose(soft(tokens, valid)[0], taken * gate[:, :, None], rtol=1e-6)


@pytest.mark.parametrize("gate", ["straight", "soft"])
def test_the_score_and_the_tokens_learn(gate: str):
    graphdef, state = nnx.split(build(gate))
    tokens, valid = inputs()
    ideal = jnp.asarray(np.random.default_rng(9).normal(size=(B, K, D)), jnp.float32)

    def loss(state, tokens):
        kept, there = nnx.merge(graphdef, state)(tokens, valid)
        return jnp.where(there[:, :, None], jnp.square(kept - ideal), 0).sum()

    run = jax.jit(jax.grad(loss, (0, 1)), compiler_options=FAST)
    by_state, by_token = run(state, tokens)
    for path, g in flat(nnx.to_pure_dict(by_state)).items():
        assert jnp.isfinite(g).all(), path
        assert jnp.abs(g).max() > 0, path
    at = np.asarray(chosen(nnx.merge(graphdef, state).scores(tokens), valid, K))
    got = np.abs(np.asarray(by_token)).sum(axis=2) > 0
    taken = np.zeros((B, S), bool)
    np.put_along_axis(taken, at, True, axis=1)
    np.testing.assert_array_equal(got, taken & np.asarray(valid))


def test_the_score_finds_the_tokens_that_matter():
    """A score by gradient alone: one token in ten tells the number, marked by a channel."""
    selection = TokenSelection(SelectionConfig(2), D, rngs=nnx.Rngs(1))
    graphdef, state = nnx.split(selection)
    rng = np.random.default_rng(2)

    def draw():
        tokens = rng.normal(size=(32, S, D)).astype(np.float32) * 0.3
        mark = rng.integers(S, size=32)
        y = rng.normal(size=32).astype(np.float32)
        tokens[np.arange(32), mark, 0] = 2.0
        tokens[np.arange(32), mark, 1] = y
        return jnp.asarray(tokens), jnp.asarray(y), mark

    valid = jnp.ones((32, S), bool)

    def loss(params, tokens, y):
        state, out = params
        kept, _ = nnx.merge(graphdef, state)(tokens, valid)
        return jnp.square((kept @ out).sum(axis=1) - y).mean()

    @jax.jit
    def step(params, tokens, y):
        grads = jax.grad(loss)(params, tokens, y)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    params = (state, jnp.full((D,), 0.1))
    for _ in range(150):
        tokens, y, _ = draw()
        params = step(params, tokens, y)
    tokens, _, mark = draw()
    at = np.asarray(chosen(nnx.merge(graphdef, params[0]).scores(tokens), valid, 2))
    assert (at == mark[:, None]).any(axis=1).mean() > 0.9  # by chance 0.2


def test_fewer_valid_than_kept():
    tokens, valid = inputs(share=0.0)
    valid = valid.at[0, 7].set(True)
    kept, there = build()(tokens, valid)
    assert there.sum(axis=1).tolist() == [1, 0, 0]
    assert (kept[1:] == 0).all()


def test_all_stay_where_there_are_few():
    tokens, valid = inputs()
    kept, there = build(keep=99)(tokens, valid)
    np.testing.assert_array_equal(kept, tokens)
    np.testing.assert_array_equal(there, valid)


def test_nothing_to_select_from_is_refused():
    with pytest.raises(ConfigError, match=r"places in the text in VLMConfig\.selection"):
        VLMConfig(head=None, selection=SelectionConfig())


def test_no_token_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"not a size in SelectionConfig\.keep"):
        SelectionConfig(0)
