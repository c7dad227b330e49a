"""Loss spikes: told by the last 128 steps, skipped whole, and the same after a resume."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsvlm_jax.config import ConfigError, Experiment, MeshConfig, TrainConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.testing import StandIn, standin_batch, standin_experiment
from rsvlm_jax.train import (
    Checkpoints,
    abstract,
    create,
    init_state,
    make_optimizer,
    make_train_step,
)
from rsvlm_jax.train.spikes import LEAST, WINDOW, judge, nothing_yet

STEPS = 70


def experiment(spike: float | None = 6.0) -> Experiment:
    made = standin_experiment(ema=0.9)
    return dataclasses.replace(made, train=TrainConfig(steps=STEPS, batch_size=8, spike=spike))


def start(exp: Experiment, spike: float | None):
    graphdef, params, stats = create(lambda rngs: StandIn(rngs=rngs), seed=0)
    mesh = make_mesh(MeshConfig())
    optimizer = make_optimizer(exp.optimizer, STEPS, params)
    state = init_state(
        params, stats, optimizer, mesh, config=exp.optimizer, plan="replicated", spike=spike
    )
    return state, make_train_step(graphdef, exp, optimizer, mesh, state)


def leap(index: int, by: float = 1e4):
    """A batch whose targets, and so its loss and gradient, are out of all proportion."""
    made = standin_batch(0, index)
    return dataclasses.replace(made, target=made.target * np.float32(by))


def run(state, step, first: int, last: int, leaps: tuple[int, ...] = ()):
    rows = []
    for i in range(first, last):
        state, metrics = step(state, leap(i) if i in leaps else standin_batch(0, i))
        rows.append({k: float(v) for k, v in metrics.items()})
    return state, rows


def values(tree):
    return {path: np.asarray(x).tobytes() for path, x in flat(jax.device_get(tree)).items()}


def moving(state):
    return values((state.params, state.opt_state, state.ema))


@pytest.fixture(scope="module")
def at_leap(tmp_path_factory):
    """The state before a leap, saved, and the step."""
    state, step = start(experiment(), 6.0)
    state, rows = run(state, step, 0, STEPS, leaps=(LEAST - 2,))
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(STEPS, state, {})
    return folder, step, rows, abstract(state)


def restored(at_leap):
    folder, step, _, wanted = at_leap
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(wanted)[0], step


def test_a_spike_changes_nothing_and_is_told(at_leap):
    state, step = restored(at_leap)
    before = moving(state)
    state, rows = run(state, step, STEPS, STEPS + 1, leaps=(STEPS,))
    assert moving(state) == before
    assert (rows[0]["spiked"], rows[0]["skipped"]) == (1, 0)
    assert np.isfinite(rows[0]["loss"])
    assert int(state.step) == STEPS + 1
    state, rows = run(state, step, STEPS + 1, STEPS + 2)
    assert (rows[0]["spiked"], rows[0]["skipped"]) == (0, 0)
    assert moving(state) != before


def test_before_enough_steps_are_known_none_is_a_spike(at_leap):
    rows = at_leap[2]
    assert [row["spiked"] for row in rows] == [0] * STEPS
    assert rows[LEAST - 2]["loss"] > 100 * rows[LEAST - 3]["loss"]


def test_a_resumed_run_decides_as_the_unbroken_one(at_leap):
    ends = []
    for cut in (None, STEPS + 2):
        state, step = restored(at_leap)
        if cut is not None:
            state, _ = run(state, step, STEPS, cut, leaps=(STEPS + 1,))
            with Checkpoints(at_leap[0] / "cut") as checkpoints:
                checkpoints.save(cut, state, {})
                state, _ = checkpoints.restore(abstract(state))
        first = STEPS if cut is None else cut
        state, rows = run(state, step, first, STEPS + 5, leaps=(STEPS + 1, STEPS + 3))
        ends.append((values(state), rows[-3:]))
    assert ends[0] == ends[1]
    assert [row["spiked"] for row in ends[0][1]] == [0, 1, 0]


def test_what_is_not_finite_is_skipped_and_not_remembered(at_leap):
    state, step = restored(at_leap)
    before, recent = moving(state), values(state.recent)
    state, metrics = step(state, standin_batch(0, STEPS, bad=True))
    assert (float(metrics["spiked"]), float(metrics["skipped"])) == (0, 1)
    assert (moving(state), values(state.recent)) == (before, recent)


def test_without_it_the_state_is_that_of_older_runs(tmp_path):
    """No array beside those that a checkpoint of such a run has, and no metric."""
    state, step = start(experiment(None), None)
    assert state.recent is None
    assert not [path for path in flat(state) if path.startswith("recent")]
    _, rows = run(state, step, 0, 1)
    assert "spiked" not in rows[0]


@pytest.mark.parametrize(("spike", "of_state"), [(None, 6.0), (6.0, None)])
def test_a_state_of_another_setting(spike, of_state):
    with pytest.raises(ConfigError, match=r"a state of another setting in TrainConfig\.spike"):
        start(experiment(spike), of_state)


@pytest.mark.parametrize("spike", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_deviations(spike):
    with pytest.raises(ConfigError, match=r"TrainConfig\.spike; expected > 0, or None"):
        TrainConfig(spike=spike)


def judged(losses, deviations=4.0):
    """Which of a series are spikes, the norm being 1 all the time; and the ring."""

    def one(recent, loss):
        spike, recent = judge(recent, loss, jnp.float32(1), deviations)
        return recent, spike

    recent, spikes = jax.lax.scan(one, nothing_yet(), jnp.asarray(losses, jnp.float32))
    return np.asarray(spikes), recent


def test_the_threshold_is_that_of_the_last_128():
    rng = np.random.default_rng(0)
    series = rng.normal(3, 0.5, 3 * WINDOW).astype(np.float32)
    series[[200, 300]] = 9, np.nan
    spikes, recent = judged(series)
    for i in range(LEAST, len(series)):
        last = series[:i][np.isfinite(series[:i])][-WINDOW:].astype(np.float64)
        assert spikes[i] == (series[i] > last.mean() + 4 * last.std()), i
    assert spikes[200]
    assert not spikes[:LEAST].any()
    assert int(recent.count) == len(series) - 1
    last = series[np.isfinite(series)][-WINDOW:]
    assert sorted(np.asarray(recent.values[0])) == sorted(last)


def test_losses_that_have_risen_for_good_are_not_skipped_for_ever():
    rng = np.random.default_rng(0)
    spikes, _ = judged(np.concatenate([rng.normal(1, 0.1, 200), rng.normal(5, 0.1, 200)]))
    assert spikes[200]
    assert not spikes[220:].any()
