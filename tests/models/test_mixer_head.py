"""The mixer head: masks, ablation without a language model, statistics."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import FAST, filled, initialised, shapes
from flax import nnx
from sklearn.linear_model import Ridge

from rsvlm_jax.config import ConfigError, HeadConfig, VLMConfig
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import Gaussian, MixerHead, make_head
from rsvlm_jax.models.heads.head import mean_of_valid
from rsvlm_jax.nn import Stat

B, N, Q, D, DV = 4, 5, 2, 12, 8
CONFIG = HeadConfig(layers=4, targets=2, reg_tokens=Q, token_dim=6, channel_dim=16)


def head(d_language: int | None = D, **options) -> MixerHead:
    config = dataclasses.replace(CONFIG, **options)
    return filled(lambda: MixerHead(config, N, DV, d_language, rngs=nnx.Rngs(0)))


@functools.cache
def compiled():
    """The head as a jitted function of its variables and its input."""
    graphdef, _ = nnx.split(head())
    return jax.jit(lambda state, given: nnx.merge(graphdef, state)(given))


def run(given: Encoded, model: MixerHead | None = None) -> Gaussian:
    return compiled()(nnx.state(head() if model is None else model), given)


def encoded(d: int = D, q: int = Q) -> Encoded:
    rng = np.random.default_rng(0)
    make = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)  # noqa: E731
    return Encoded(
        hidden=make(B, 3, d),
        visual=make(B, N, DV),
        visual_valid=jnp.asarray(rng.random((B, N)) < 0.6).at[3].set(False),
        knowledge=make(B, q, d),
        has_knowledge=jnp.asarray([True, True, False, False]),
    )


def test_shapes():
    made = run(encoded())
    assert made.loc.shape == made.scale.shape == (B, 2)
    assert made.loc.dtype == made.scale.dtype == jnp.float32


def test_scale_has_a_floor():
    model = head()
    model.out.bias[...] = jnp.full((4,), -50.0)
    np.testing.assert_allclose(run(encoded(), model).scale, 1e-3, rtol=1e-5)


def test_an_untrained_head_predicts_the_training_distribution():
    model = initialised(lambda: MixerHead(CONFIG, N, DV, D, rngs=nnx.Rngs(0)))
    model.set_target(
        jnp.asarray([5.0, 0.0]),
        jnp.asarray([2.0, 1.0]),
        jnp.asarray([0.0, -jnp.inf]),
        jnp.asarray([9.0, jnp.inf]),
    )
    made = run(encoded(), model)
    np.testing.assert_allclose(made.mean[:, 0], 5.0, atol=0.4)
    np.testing.assert_allclose(made.scale, 1.0, atol=0.1)
    assert made.quantile(0.9999)[:, 0].tolist() == [9.0] * B


def test_what_is_missing_changes_no_bit():
    given = encoded()
    dirty = dataclasses.replace(
        given,
        visual=jnp.where(given.visual_valid[:, :, None], given.visual, jnp.nan),
        knowledge=jnp.where(given.has_knowledge[:, None, None], given.knowledge, jnp.nan),
    )
    assert np.array_equal(run(given).loc, run(dirty).loc)
    assert np.array_equal(run(given).scale, run(dirty).scale)


def test_a_sample_with_nothing_is_finite_with_finite_gradients():
    given = encoded()
    graphdef, params, rest = nnx.split(head(), nnx.Param, ...)

    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.value_and_grad
    def loss(params):
        made = nnx.merge(graphdef, params, rest)(given)
        return made.nll(jnp.ones((B, 2))).sum()

    value, gradients = loss(params)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("part", ["visual", "knowledge"])
def test_both_kinds_of_tokens_are_read(part):
    given = encoded()
    other = dataclasses.replace(given, **{part: -getattr(given, part)})
    assert np.abs(run(given).loc - run(other).loc)[:2].max() > 1e-3


def test_xval_reads_the_token_of_the_number_alone():
    config, given = dataclasses.replace(CONFIG, kind="xval"), encoded()
    model = filled(lambda: make_head(config, N, DV, D, rngs=nnx.Rngs(0)))
    loc = jax.jit(lambda given: model(given).loc)
    blind = dataclasses.replace(given, visual=-given.visual)
    deaf = dataclasses.replace(given, knowledge=-given.knowledge)
    assert np.array_equal(loc(given), loc(blind))
    assert np.abs(loc(given) - loc(deaf))[:2].max() > 1e-3


@pytest.mark.parametrize("more", [{"readout": 0.1}, {"dense": "visual"}])
def test_bad_input_xval_beside_visual_tokens(more):
    with pytest.raises(ConfigError, match=r'a head that reads no visual token in .* "xval"'):
        HeadConfig(kind="xval", **more)


def test_bad_input_xval_without_a_decoder():
    with pytest.raises(ConfigError, match=r"no token of the number in HeadConfig\.kind"):
        VLMConfig(decoder=None, head=HeadConfig(kind="xval"))


def test_without_a_language_model():
    model = head(None)
    assert model.reverse is None
    assert shapes(model, lambda model, e: model(e), encoded(0, 0)).loc.shape == (B, 2)


def test_dropout_is_for_training():
    model, given = head(dropout=0.5), encoded()
    train = jax.jit(lambda key: model(given, rng=key).loc)
    a, b = (train(jax.random.key(s)) for s in (0, 1))
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(jax.jit(lambda: model(given).loc)(), run(given).loc, atol=1e-6)


def test_target_statistics_are_saved_and_not_trained():
    _, params, stats = nnx.split(head(), nnx.Param, Stat)
    assert not [p for p in nnx.to_pure_dict(params) if p.startswith("target")]
    assert sorted(nnx.to_pure_dict(stats)) == [
        "target_high",
        "target_low",
        "target_mean",
        "target_std",
    ]


def test_a_readout_is_ridge_on_the_mean_token():
    """Added to what the head says; nothing of it is trained, and nothing is said of nothing."""
    model, given = head(readout=0.5), encoded()
    model.readout[...] = jnp.zeros((DV, 2))
    plain = run_once(model, given)
    x, slope = np.random.default_rng(1).normal(size=(60, DV)), np.arange(DV) / 4
    z = (x - x.mean(axis=0)) @ slope
    rows = np.arange(0, 60, 2)  # of the second target
    unseen = np.concatenate([x, np.full((2, DV), np.nan)])  # and two windows without a token
    model.set_readout(unseen, [np.append(z, [9, 9]), z[rows]], [np.arange(62), rows])
    shift = np.asarray(run_once(model, given).loc - plain.loc)
    token = np.asarray(mean_of_valid(given.visual, given.visual_valid)) - x.mean(axis=0)
    for k, at in enumerate((np.arange(60), rows)):
        penalty = 0.5 * x.var(axis=0).mean() * len(at)
        ridge = Ridge(penalty, fit_intercept=True).fit(x[at], z[at])
        np.testing.assert_allclose(shift[:3, k], token[:3] @ ridge.coef_, atol=1e-4)
    assert shift[3].tolist() == [0, 0]
    assert "readout" in nnx.to_pure_dict(nnx.split(model, nnx.Param, Stat)[2])


def run_once(model: MixerHead, given: Encoded) -> Gaussian:
    return jax.jit(lambda: model(given))()


def test_a_readout_is_of_a_distribution_with_a_place():
    with pytest.raises(ConfigError, match=r"HeadConfig\.readout; .* found quantiles"):
        dataclasses.replace(CONFIG, readout=0.1, output="quantiles")
