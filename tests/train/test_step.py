"""The step: learns, freezes, averages, skips what is not finite, and compiles once."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import Experiment, GroupConfig, LossConfig, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.nn import Linear, scan, stack
from rsvlm_jax.testing import StandIn, standin_batch, standin_experiment
from rsvlm_jax.train import (
    create,
    init_state,
    make_eval_step,
    make_optimizer,
    make_train_step,
    pick,
    trained_paths,
)


def start(experiment: Experiment, seed: int = 0, mesh=None, of=StandIn):
    mesh = make_mesh(MeshConfig()) if mesh is None else mesh
    graphdef, params, stats = create(lambda rngs: of(rngs=rngs), seed=seed)
    optimizer = make_optimizer(experiment.optimizer, experiment.train.steps, params)
    state = init_state(
        params, stats, optimizer, mesh, config=experiment.optimizer, plan="replicated", seed=seed
    )
    return state, make_train_step(graphdef, experiment, optimizer, mesh, state), graphdef


def run(state, step, count: int, *, first: int = 0, bad: tuple[int, ...] = ()):
    rows = []
    for i in range(first, first + count):
        state, metrics = step(state, standin_batch(0, i, bad=i in bad))
        rows.append({k: float(v) for k, v in metrics.items()})
    return state, rows


def values(tree):
    return {path: np.asarray(x) for path, x in flat(jax.device_get(tree)).items()}


def test_the_loss_falls():
    state, step, _ = start(standin_experiment(learning_rate=0.1))
    state, rows = run(state, step, 20)
    assert np.mean([r["huber"] for r in rows[-5:]]) < 0.5 * np.mean([r["huber"] for r in rows[:5]])
    assert int(state.step) == 20
    assert set(rows[0]) == {"loss", "huber", "scale", "grad_norm", "skipped"}
    assert rows[0]["loss"] == pytest.approx(rows[0]["huber"] + 0.1 * rows[0]["scale"], rel=1e-6)


def test_frozen_parameters_are_bitwise_unchanged():
    groups = (GroupConfig("^vision/", 0.0),)
    state, step, _ = start(standin_experiment(groups=groups))
    negative_zero = jnp.full_like(state.params["vision"]["bias"], -0.0)
    state.params["vision"]["bias"] = negative_zero
    before = values(state.params)
    state, _ = run(state, step, 5)
    after = values(state.params)
    for path in before:
        same = before[path].tobytes() == after[path].tobytes()
        assert same == path.startswith("vision/"), path
    assert not [path for path in flat(state.opt_state) if "vision" in path]


class Tower(nnx.Module):
    """Two stacked layers."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.layers = stack(lambda r: Linear(8, 8, rngs=r), 2, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return scan(self.layers, lambda layer, x: (jnp.tanh(layer(x)), None), x)[0]


class Stacked(StandIn):
    """The stand-in with a tower whose lower layers can stay."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        super().__init__(rngs=rngs)
        self.tower = Tower(rngs=rngs)

    def __call__(self, batch: Batch, *, rng: jax.Array | None = None) -> Encoded:
        encoded = super().__call__(batch, rng=rng)
        return dataclasses.replace(encoded, visual=self.tower(encoded.visual))


def test_the_layers_that_stay_have_no_part_in_the_norm():
    """One step of plain descent at a rate of 1: what moves is the gradient."""
    found = []
    for first in (0, 1):
        groups = (GroupConfig("^tower/", from_layer=first), GroupConfig("", 0.0))
        experiment = standin_experiment(
            kind="sgd", learning_rate=1.0, warmup=0.0, weight_decay=0.0, clip_norm=0.0,
            groups=groups,
        )  # fmt: skip
        state, step, _ = start(experiment, of=Stacked)
        before = values(state.params)
        state, rows = run(state, step, 1)
        moved = {p: x - before[p] for p, x in values(state.params).items()}
        norm = np.sqrt(sum(np.square(x).sum() for x in moved.values()))
        assert rows[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
        found.append((rows[0]["grad_norm"], np.abs(moved["tower/layers/kernel"][0]).max()))
    (whole, lower), (upper, still) = found
    assert 0 < upper < whole
    assert lower > 0 == still


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    experiment = standin_experiment(ema=0.9)
    state, step, _ = start(experiment)
    state, _ = run(state, step, 3)
    before = values((state.params, state.opt_state, state.ema))
    state, rows = run(state, step, 1, first=3, bad=(3,))
    after = values((state.params, state.opt_state, state.ema))
    for path in before:
        assert before[path].tobytes() == after[path].tobytes(), path
    assert rows[0]["skipped"] == 1
    assert not np.isfinite(rows[0]["loss"])
    assert int(state.step) == 4
    state, rows = run(state, step, 1, first=4)
    assert rows[0]["skipped"] == 0
    assert np.isfinite(rows[0]["loss"])


def test_the_average_follows_with_a_warm_start():
    experiment = standin_experiment(ema=0.5, groups=(GroupConfig("^vision/bias", 0.0),))
    state, step, _ = start(experiment)
    trained = trained_paths(experiment.optimizer, state.params)
    average = values(pick(state.params, trained))
    for i in range(12):
        state, _ = run(state, step, 1, first=i)
        decay = min(0.5, (1 + i) / (10 + i))
        for path, x in values(pick(state.params, trained)).items():
            average[path] = decay * average[path] + (1 - decay) * x
    assert set(flat(state.ema)) == trained
    for path, x in values(state.ema).items():
        np.testing.assert_allclose(x, average[path], rtol=1e-5, atol=1e-6)


def test_random_numbers_follow_from_seed_and_step():
    def loss(seed, at):
        state, step, _ = start(standin_experiment(), seed=0)
        state = dataclasses.replace(state, seed=jnp.int32(seed), step=jnp.int32(at))
        return run(state, step, 1)[1][0]["loss"]

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


def test_folds_share_one_compilation():
    experiment = standin_experiment(learning_rate=0.0123)  # a key of its own
    before = StandIn.traces
    steps = []
    for fold in range(3):
        state, step, _ = start(experiment, seed=fold)
        mean = jnp.full_like(state.stats["head"]["target_mean"], fold)
        state.stats["head"]["target_mean"] = mean
        run(state, step, 2)
        steps.append(step)
    assert steps[0] is steps[1] is steps[2]
    assert StandIn.traces == before + 1


def test_statistics_are_not_baked_into_the_step():
    experiment = standin_experiment()
    losses = []
    for mean in (0.0, 5.0):
        state, step, _ = start(experiment)
        state.stats["head"]["target_mean"] = jnp.full((1,), mean, jnp.float32)
        losses.append(run(state, step, 1)[1][0]["loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_devices_agree(shape):
    experiment = dataclasses.replace(
        standin_experiment(kind="sgd", learning_rate=0.1), loss=LossConfig()
    )
    one, rows_one = run(*start(experiment)[:2], 5)
    many, rows_many = run(*start(experiment, mesh=make_mesh(MeshConfig(*shape)))[:2], 5)
    for a, b in zip(rows_one, rows_many, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    for path, x in values(one.params).items():
        np.testing.assert_allclose(values(many.params)[path], x, atol=1e-5)


def test_evaluation_is_deterministic_and_in_target_units():
    state, _, graphdef = start(standin_experiment())
    mesh = make_mesh(MeshConfig())
    step = make_eval_step(graphdef, mesh, state.params, state.stats, plan="replicated")
    batch = standin_batch(0, 0)
    first = step(state.params, state.stats, batch)
    np.testing.assert_array_equal(first.mean, step(state.params, state.stats, batch).mean)
    stats = {"head": {"target_mean": jnp.full((1,), 7.0), "target_std": jnp.full((1,), 2.0)}}
    moved = step(state.params, stats, batch)
    np.testing.assert_allclose(moved.mean, first.mean * 2 + 7, rtol=1e-5)
