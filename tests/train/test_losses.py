"""Losses are sums with weights: masks hold, and halves add up."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsvlm_jax.config import LossConfig
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import Gaussian
from rsvlm_jax.testing import standin_batch
from rsvlm_jax.train import losses, total
from rsvlm_jax.train.losses import weights


class Model:
    """A head that predicts what it is told."""

    def __init__(self, loc, scale=1.0, mean=0.0, std=1.0) -> None:
        k = jnp.ones((1,), jnp.float32)
        self.predictive = Gaussian(
            loc=jnp.asarray(loc, jnp.float32)[:, None],
            scale=jnp.full((len(loc), 1), scale, jnp.float32),
            target_mean=mean * k,
            target_std=std * k,
            low=-jnp.inf * k,
            high=jnp.inf * k,
        )

    def head(self, encoded, *, rng=None):
        return self.predictive


def batch(target, valid=None, sample=None):
    n = len(target)
    made = jax.tree.map(jnp.asarray, standin_batch(0, 0, n))
    valid = [True] * n if valid is None else valid
    return dataclasses.replace(
        made,
        target=jnp.asarray(target, jnp.float32)[:, None],
        target_valid=jnp.asarray(valid)[:, None],
        sample=jnp.asarray(range(n) if sample is None else sample, jnp.int32),
    )


def encoded(n: int) -> Encoded:
    empty = jnp.zeros((n, 2, 0))
    return Encoded(empty, jnp.zeros((n, 1, 1)), jnp.ones((n, 1), bool), empty, jnp.zeros(n, bool))


CONFIG = LossConfig(text=0.0, huber=1.0, scale=0.1, huber_delta=1.0)


def test_huber_and_scale_in_standardised_space():
    # z = (y - 10) / 2 = 0.5, 3; loc 0: 0.125 and 2.5.  log 2 + z^2 / 8.
    parts = losses(encoded(2), batch([11, 16]), Model([0, 0], 2.0, mean=10.0, std=2.0), CONFIG)
    assert {k: (float(s), float(w)) for k, (s, w) in parts.items()} == {
        "huber": (pytest.approx(2.625), 2),
        "scale": (pytest.approx(2 * np.log(2) + (0.25 + 9) / 8), 2),
    }
    expected = 2.625 / 2 + 0.1 * (np.log(2) + 9.25 / 16)
    assert float(total(parts, CONFIG)) == pytest.approx(expected)


def test_the_spread_does_not_pull_at_the_mean():
    def loss(loc):
        model = Model([0.0, 0.0])
        model.predictive = dataclasses.replace(model.predictive, loc=loc)
        return losses(encoded(2), batch([1, 2]), model, LossConfig(huber=0.0, scale=1.0))["scale"][
            0
        ]

    np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros((2, 1))), 0)


@pytest.mark.parametrize(
    ("valid", "sample"), [([True, False], None), (None, [0, -1])], ids=["target", "slot"]
)
def test_targets_that_are_not_valid_have_no_part(valid, sample):
    def value(hidden_target):
        data = batch([1, hidden_target], valid, sample)
        return losses(encoded(2), data, Model([0, 0]), CONFIG)

    jax.tree.map(np.testing.assert_array_equal, value(0.0), value(np.nan))
    assert float(value(np.nan)["huber"][1]) == 1

    def grad(loc):
        model = Model([0.0, 0.0])
        model.predictive = dataclasses.replace(model.predictive, loc=loc)
        parts = losses(encoded(2), batch([1, np.nan], valid, sample), model, CONFIG)
        return total(parts, CONFIG)

    assert np.isfinite(jax.grad(grad)(jnp.zeros((2, 1)))).all()


def test_a_batch_without_any_target_costs_nothing():
    parts = losses(encoded(2), batch([1, 2], [False, False]), Model([0, 0]), CONFIG)
    assert float(total(parts, CONFIG)) == 0


def test_halves_of_a_batch_add_up_to_the_whole():
    target, valid, loc = [1, 5, -3, 2], [True, True, False, True], [0.1, 2, 3, 1]
    whole = losses(encoded(4), batch(target, valid), Model(loc), CONFIG)
    first = losses(encoded(2), batch(target[:2], valid[:2]), Model(loc[:2]), CONFIG)
    second = losses(encoded(2), batch(target[2:], valid[2:]), Model(loc[2:]), CONFIG)
    summed = jax.tree.map(lambda a, b: a + b, first, second)
    assert float(total(summed, CONFIG)) == pytest.approx(float(total(whole, CONFIG)), rel=1e-6)


def test_weights_follow_from_the_batch_alone():
    data = batch([1, 5, -3, 2], [True, True, False, True], [0, -1, 2, 3])
    text = jnp.ones_like(data.weight).at[0, 1].set(0.25)
    data = dataclasses.replace(data, weight=text)
    found = weights(data, dataclasses.replace(CONFIG, text=1.0))
    # Of two positions the first supervises nothing; row 1 is a slot without a sample.
    assert {k: float(x) for k, x in found.items()} == {"text": 2.25, "huber": 2, "scale": 2}
    assert set(weights(data, LossConfig(huber=0.0, scale=0.0, text=1.0))) == {"text"}
    parts = losses(encoded(4), data, Model([0, 0, 0, 0]), CONFIG)
    assert {k: float(w) for k, (_, w) in parts.items()} == {"huber": 2, "scale": 2}
