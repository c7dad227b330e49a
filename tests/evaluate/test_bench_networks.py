"""U-Net and U-TAE as baselines: masks, dates, sizes, and that they learn."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx
from places import places
from plots_of_land import land

from rsvlm_jax.config import ConfigError, Preempted
from rsvlm_jax.evaluate.benchmark import learn
from rsvlm_jax.evaluate.benchmark.cells import Cell
from rsvlm_jax.evaluate.benchmark.deals import DealOptions, deal
from rsvlm_jax.evaluate.benchmark.experiments import default_experiment
from rsvlm_jax.evaluate.benchmark.learn import network_model
from rsvlm_jax.evaluate.benchmark.networks import NETWORKS, Shape, composite
from rsvlm_jax.evaluate.benchmark.task import Task

SHAPES = (Shape(3, 4, 1, 8), Shape(1, 2, 2, 4))


def inputs(seed: int = 0, batch: int = 2):
    rng = np.random.default_rng(seed)
    values, valid, angle = [], [], []
    for s in SHAPES:
        values.append(rng.normal(size=(batch, s.dates, s.channels, s.size, s.size)))
        valid.append(rng.random((batch, s.dates, s.masks, s.size, s.size)) < 0.7)
        angle.append(rng.uniform(0, 6, (batch, s.dates)))
    for v, ok in zip(values, valid, strict=True):
        v[~np.broadcast_to(ok, v.shape)] = 0
    f32 = [[x.astype(np.float32) for x in part] for part in (values, angle)]
    return f32[0], valid, f32[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_map_of_the_window_and_no_word_from_a_hidden_date(name: str):
    net = NETWORKS[name](SHAPES, 8, width=8, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(net)
    run = jax.jit(lambda *x: nnx.merge(graphdef, params)(*x))
    values, valid, angle = inputs()
    valid[0][:, 1] = False
    values[0][:, 1] = 0
    found = np.asarray(run(values, valid, angle))
    assert found.shape == (2, 8, 8)
    angle[0][:, 1] += 1
    np.testing.assert_array_equal(found, run(values, valid, angle))
    for ok in valid:
        ok[:] = False
    assert np.isfinite(run([0 * v for v in values], valid, angle)).all()


def test_a_series_is_a_set_of_dated_images():
    net = NETWORKS["utae"](SHAPES[:1], 8, width=8, rngs=nnx.Rngs(0))
    values, valid, angle = (x[:1] for x in inputs())
    run = jax.jit(lambda *x: nnx.merge(*nnx.split(net))(*x))
    one = run(values, valid, angle)
    order = np.array([2, 0, 1])
    other = run([values[0][:, order]], [valid[0][:, order]], [angle[0][:, order]])
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    angle[0][:, 0] += 2
    assert np.abs(run(values, valid, angle) - one).max() > 1e-4, "dates matter"


def test_a_composite_is_the_mean_of_what_is_valid():
    values, valid, _ = inputs()
    found = np.asarray(jax.jit(composite)(values[0], valid[0]))
    masked = np.where(np.broadcast_to(valid[0], values[0].shape), values[0], np.nan)
    some = valid[0].any(axis=1)[:, 0]
    mean = np.moveaxis(np.nanmean(np.where(some[:, None, None], masked, 0), axis=1), 1, -1)
    np.testing.assert_allclose(found[..., :4], mean, atol=1e-5)
    np.testing.assert_allclose(found[..., 8], valid[0].mean(axis=1)[:, 0], atol=1e-6)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    cube = land(tmp_path_factory.mktemp("land") / "land.zarr")
    return Task.of(default_experiment(cube, str(cube.path), window=8, stride=4))


def cell_of(task: Task, tmp_path, name: str = "spatial", **more) -> Cell:
    options = DealOptions(block=16, folds=3, buffer=0.0)
    return Cell(task, deal(task, name, options), 0, 0, tmp_path, **more)


def test_a_unet_learns_and_stops_when_told(task: Task, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learn, "STEPS", 50)
    monkeypatch.setattr(learn, "BATCH", 16)
    cell = cell_of(task, tmp_path)
    model = network_model("unet", task, "x")
    found = model.predict(cell)
    y = task.y[cell.test]
    assert 1 - np.mean((found.mean - y) ** 2) / y.var() > 0.5
    assert found.parameters > 10_000
    stopped = cell_of(task, tmp_path, stop=lambda: True)
    with pytest.raises(Preempted):
        model.predict(stopped)


def test_places_are_series_without_an_inside(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learn, "STEPS", 25)
    cube = places(tmp_path / "places.zarr")
    task = Task.of(default_experiment(cube, str(cube.path)))
    cell = cell_of(task, tmp_path, "group:region")
    found = network_model("utae", task, "x").predict(cell)
    assert np.isfinite(found.mean).all()
    with pytest.raises(ConfigError, match=r"needs windows with an inside .* found 1"):
        network_model("unet", task, "x")
