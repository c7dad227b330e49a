"""Dates and fusion: real time, sets not slots, masks, budgets."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import FAST, filled, initialised, shapes
from flax import nnx

from rsvlm_jax.config import TemporalConfig
from rsvlm_jax.models.temporal import YEAR, TemporalFusion, date_features, previous_gap

B, S, D, GROUPS = 3, 10, 16, 4


def fusion(**options) -> TemporalFusion:
    config = TemporalConfig(**{"budget": 5, "layers": 2, "heads": 4, **options})
    return TemporalFusion(config, D, GROUPS, rngs=nnx.Rngs(0))


@functools.cache
def trained(**options) -> TemporalFusion:
    """A fusion whose every parameter is away from its initial value."""
    return filled(lambda: fusion(**options))


@functools.cache
def compiled(**options):
    """`trained(**options)` as a jitted function of its inputs."""
    model = trained(**options)
    return jax.jit(lambda given: model(**given))


def inputs(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    date = rng.integers(7000, 9000, (B, S)).astype(np.float32)
    date[:, 0] = np.nan
    return {
        "tokens": jnp.asarray(rng.normal(size=(B, S, D)), jnp.float32),
        "valid": jnp.asarray(rng.random((B, S)) < 0.7).at[:, 1].set(True),
        "date": jnp.asarray(date),
        "platform": jnp.asarray(rng.integers(0, 5, (B, S)), jnp.int32),
        "group": jnp.asarray(rng.integers(0, GROUPS, (B, S)), jnp.int32),
        "year_known": jnp.asarray(rng.random((B, S)) < 0.8),
    }


def features(date, known=True, gap=np.nan):
    one = lambda x, t: jnp.asarray([[x]], t)  # noqa: E731
    made = date_features(
        one(date, jnp.float32), one(known, bool), one(gap, jnp.float32), harmonics=2
    )
    return np.asarray(made)[0, 0]


def test_harmonics_follow_the_real_year():
    np.testing.assert_allclose(features(100.0)[:4], features(100 + 20 * YEAR)[:4], atol=1e-4)
    quarter = features(YEAR / 4)
    np.testing.assert_allclose(quarter[:4], [1, 0, 0, -1], atol=1e-5)


def test_years_are_continuous_and_dropped_where_unknown():
    assert features(20 * YEAR)[4:6] == pytest.approx([0, 1], abs=1e-5)
    assert features(25 * YEAR)[4:6] == pytest.approx([0.5, 1], abs=1e-5)
    assert features(25 * YEAR, known=False)[4:6].tolist() == [0, 0]
    np.testing.assert_array_equal(features(100.0, known=False)[:4], features(100.0, known=True)[:4])


def test_gap_and_its_flag():
    assert features(9.0)[6:].tolist() == [0, 0]
    assert features(9.0, gap=30.0)[6:] == pytest.approx([np.log(2), 1])


def test_an_undated_token_has_no_features():
    assert (features(np.nan, gap=3.0) == 0).all()


def test_gap_counts_from_the_latest_earlier_valid_date():
    date = jnp.asarray([[10.0, 10.0, 40.0, 25.0, 100.0, np.nan]])
    valid = jnp.asarray([[True, True, True, False, True, True]])
    gaps = previous_gap(date, valid)
    np.testing.assert_array_equal(gaps, [[np.nan, np.nan, 30, 15, 60, np.nan]])


def test_a_new_fusion_starts_near_the_masked_mean():
    given = inputs()
    model = initialised(lambda: fusion(scale_init=0.0))
    model.platform.embedding[...] = jnp.zeros((64, D))
    model.group.embedding[...] = jnp.zeros((GROUPS, D))
    out, valid = jax.jit(lambda given: model(**given))(given)
    weight = given["valid"][:, :, None].astype(jnp.float32)
    mean = (given["tokens"] * weight).sum(1) / weight.sum(1)
    assert valid.all()
    np.testing.assert_allclose(out, np.broadcast_to(mean[:, None], out.shape), atol=0.1)
    assert np.abs(np.diff(out, axis=1)).max() > 1e-3  # and the latents can part


def test_the_set_of_tokens_counts_not_their_order():
    given = inputs()
    out, _ = compiled()(given)
    order = np.random.default_rng(1).permutation(S)
    again, _ = compiled()({k: v[:, order] for k, v in given.items()})
    np.testing.assert_allclose(again, out, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("date", lambda x: x + 90),
        ("year_known", lambda x: ~x),
        ("platform", lambda x: x + 1),
        ("group", lambda x: (x + 1) % GROUPS),
        ("tokens", lambda x: -x),
        ("valid", lambda x: x.at[:, 1:3].set(~x[:, 1:3])),
    ],
)
def test_every_input_matters(part, other):
    given = inputs()
    out, _ = compiled()(given)
    moved, _ = compiled()({**given, part: other(given[part])})
    assert np.abs(moved - out).max(axis=(1, 2)).min() > 1e-4


@pytest.mark.parametrize("budget", [5, None])
def test_what_is_not_valid_changes_no_bit(budget):
    given = inputs()
    run = compiled(budget=budget)
    clean = run(given)
    valid = given["valid"]
    dirty = {
        **given,
        "tokens": jnp.where(valid[:, :, None], given["tokens"], jnp.nan),
        "date": jnp.where(valid, given["date"], 1.0),
        "platform": jnp.where(valid, given["platform"], 9999),
        "year_known": given["year_known"] | ~valid,
    }
    for a, b in zip(clean, run(dirty), strict=True):
        assert np.array_equal(a, b)


def test_without_a_budget_tokens_keep_their_order():
    given = inputs()
    out, valid = compiled(budget=None)(given)
    assert np.array_equal(valid, given["valid"])
    order = np.random.default_rng(1).permutation(S)
    again, _ = compiled(budget=None)({k: v[:, order] for k, v in given.items()})
    np.testing.assert_allclose(again, out[:, order], atol=1e-6)
    assert not np.allclose(out[valid], given["tokens"][valid], atol=1e-2)


@pytest.mark.parametrize("budget", [5, None])
def test_nothing_valid_gives_zeros_and_finite_gradients(budget):
    model, given = trained(budget=budget), inputs()
    given["valid"] = given["valid"].at[1].set(False)
    graphdef, params = nnx.split(model)

    def total(params, tokens):
        out, valid = nnx.merge(graphdef, params)(**{**given, "tokens": tokens})
        return jnp.square(out).sum(), (out, valid)

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True), compiler_options=FAST)
    (_, (out, valid)), gradients = run(params, given["tokens"])
    assert (out[1] == 0).all()
    assert valid.any(axis=1).tolist() == [True, False, True]
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert (gradients[1][1] == 0).all()


def test_date_dropout_hides_whole_samples_in_training_only():
    model, given = trained(date_dropout=0.5), inputs()
    run = jax.jit(lambda given, rng=None: model(**given, rng=rng)[0], compiler_options=FAST)
    never = run({**given, "date": jnp.full((B, S), jnp.nan)})
    always = run(given)
    hidden = []
    for seed in range(8):
        out = run(given, jax.random.key(seed))
        dropped = [np.allclose(out[i], never[i], atol=1e-6) for i in range(B)]
        kept = [np.allclose(out[i], always[i], atol=1e-6) for i in range(B)]
        assert all(a != b for a, b in zip(dropped, kept, strict=True))
        hidden += dropped
    assert any(hidden)
    assert not all(hidden)


def test_token_dropout_hides_tokens_in_training_only():
    model, given = trained(budget=None, token_dropout=0.5), inputs()
    _, there = model(**given)
    some, shown = model(**given, rng=jax.random.key(0))
    assert np.array_equal(there, given["valid"])
    assert 0 < shown.sum() < there.sum()
    assert not (shown & ~there).any()
    assert (np.asarray(some)[~np.asarray(shown)] == 0).all()


def test_scale_starts_where_the_config_says():
    assert initialised(lambda: fusion(budget=None)).date_scale[...].tolist() == [np.float32(0.1)]


def test_bfloat16_stays_bfloat16():
    given = inputs()
    given["tokens"] = given["tokens"].astype(jnp.bfloat16)
    for budget in (5, None):
        made = shapes(trained(budget=budget), lambda model, given: model(**given), given)
        assert made[0].dtype == jnp.bfloat16
