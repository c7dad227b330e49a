"""Adafactor and Muon on the nano model: they learn, they resume, eight devices agree with one."""

from __future__ import annotations

import jax
import nano
import numpy as np
import pytest

from rsvlm_jax.config import MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.train import Checkpoints, abstract

ONE, EIGHT = MeshConfig(), MeshConfig(2, 2, 2)
KINDS = ("adafactor", "muon")
STEPS, MORE = 5, 20


def values(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in flat(jax.device_get(tree)).items()}


@pytest.fixture(scope="module", params=KINDS)
def runs(request):
    """Five steps on one device and on eight, with averages; on one, the state is kept."""
    made = []
    for config in (ONE, EIGHT):
        exp = nano.experiment(request.param, ema=0.9)
        state, step = nano.start(exp, config)
        state, rows = nano.steps(state, step, STEPS)
        made.append((state, step, rows))
    return made


def test_one_and_eight_devices_agree(runs):
    (one, _, rows_one), (eight, _, rows_eight) = runs
    for a, b in zip(rows_one, rows_eight, strict=True):
        assert a["skipped"] == b["skipped"] == 0
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    for name in ("params", "ema"):
        found = values(getattr(eight, name))
        for path, x in values(getattr(one, name)).items():
            assert np.abs(found[path] - x).max() <= 1e-4, path


def test_restored_from_a_checkpoint_it_goes_on_bitwise(runs, tmp_path):
    state, step, _ = runs[1]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(STEPS, state, {})
        back, _ = checkpoints.restore(abstract(state))
        again, _ = checkpoints.restore(abstract(state))
    for path, x in values(state).items():
        assert values(back)[path].tobytes() == x.tobytes(), path
    ends = [values(step(s, nano.batch(STEPS))[0]) for s in (back, again)]
    for path, x in ends[0].items():
        assert ends[1][path].tobytes() == x.tobytes(), path


def test_the_state_is_split_like_the_parameters(runs):
    state = runs[1][0]
    specs = {path: x.sharding.spec for path, x in flat(state.params).items()}
    found = flat(state.opt_state)
    for path, x in found.items():
        owner = next((p for p in specs if path.endswith(p)), None)
        if owner is not None and x.shape == flat(state.params)[owner].shape:
            assert x.sharding.spec == specs[owner], path
    assert any("decoder/layers/mlp/up/kernel" in path for path in found)


def test_twenty_steps_of_one_batch_fall(runs):
    state, step, _ = runs[0]
    with_copy = jax.tree.map(lambda x: x.copy(), state)
    losses = []
    for _ in range(MORE):
        with_copy, metrics = step(with_copy, nano.batch(99))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    assert np.isfinite(losses).all()
