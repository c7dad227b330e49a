"""Every trunk and every output learns and resumes; placements and sums hold for all of them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import (
    ConfigError,
    DataConfig,
    Experiment,
    HeadConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    TargetConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import KINDS, make_head
from rsvlm_jax.models.heads.predictive import forward
from rsvlm_jax.testing import standin_batch
from rsvlm_jax.train import (
    Checkpoints,
    abstract,
    create,
    init_state,
    losses,
    make_optimizer,
    make_train_step,
    split_model,
)
from rsvlm_jax.train.losses import weights
from rsvlm_jax.train.state import merge

ONE, EIGHT = MeshConfig(), MeshConfig(2, 2, 2)
STEPS, D, K = 24, 4, 2
KIND, OUTPUT = (get_args(get_type_hints(HeadConfig)[name]) for name in ("kind", "output"))
CASES = {
    ("mixer", "gaussian"): "zscore",
    ("mlp", "laplace"): "asinh",
    ("linear", "quantiles"): "zscore",
    ("experts", "histogram"): "sqrt",
    ("mlp", "ordinal"): "log1p",
}


class Small(nnx.Module):
    """A head that reads pixels: one token of as many numbers as there are bands."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs) -> None:
        self.head = make_head(config, 1, D, None, rngs=rngs)

    def __call__(self, batch: Batch, *, rng=None) -> Encoded:
        visual = jnp.asarray(batch.obs["standin"].pixels)[:, :, :, 0, 0]
        nothing = jnp.zeros((len(visual), 0, 0))
        there = jnp.ones(visual.shape[:2], bool)
        return Encoded(nothing, visual, there, nothing, there[:, 0] & False)


def head(kind: str, output: str, transform: str = "zscore") -> HeadConfig:
    return HeadConfig(
        kind=kind, output=output, transform=transform, targets=K, layers=2, token_dim=4,
        channel_dim=16, bins=8, experts=2,
    )  # fmt: skip


def batch(index: int) -> Batch:
    """Two targets above 0, of the second every third not known; four batches return."""
    made = standin_batch(0, index % 4, 16)
    y = np.concatenate([np.exp(made.target), 3 + np.tanh(made.target)], axis=1)
    y[::3, 1] = np.nan
    return dataclasses.replace(made, target=y, target_valid=np.ones(y.shape, bool))


def experiment(config: HeadConfig) -> Experiment:
    return Experiment(
        name="heads",
        data=DataConfig(target=TargetConfig("a", also=("b",))),
        model=VLMConfig(vision=ViTConfig(), decoder=None, head=config),
        optimizer=OptimizerConfig(learning_rate=3e-2, warmup=0.0),
        loss=LossConfig(huber=1.0, scale=1.0),
    )


def start(config: HeadConfig, mesh_config: MeshConfig):
    """A placed state that knows the statistics of its targets, its step and its definition."""
    asked, mesh = experiment(config), make_mesh(mesh_config)
    graphdef, params, stats = create(lambda rngs: Small(config, rngs=rngs), seed=0)
    model = merge(graphdef, params, stats)
    y = np.concatenate([batch(i).target for i in range(4)])
    u = [forward(x[np.isfinite(x)], config.transform, np) for x in y.T]
    mean, std = (
        np.array(x, np.float32) for x in zip(*((x.mean(), x.std()) for x in u), strict=True)
    )
    far = np.full(K, np.inf, np.float32)
    model.head.set_target(*map(jnp.asarray, (mean, std, -far, far)))
    model.head.set_support([(x - m) / s for x, m, s in zip(u, mean, std, strict=True)])
    _, params, stats = split_model(model)
    optimizer = make_optimizer(asked.optimizer, STEPS, params)
    state = init_state(params, stats, optimizer, mesh, config=asked.optimizer)
    return state, make_train_step(graphdef, asked, optimizer, mesh, state), graphdef


def run(state, step, first: int, count: int):
    rows = []
    for i in range(first, first + count):
        state, metrics = step(state, batch(i))
        rows.append({k: float(v) for k, v in jax.device_get(metrics).items()})
    return state, rows


@functools.cache
def trained(kind: str, output: str):
    state, step, graphdef = start(head(kind, output, CASES[kind, output]), EIGHT)
    state, rows = run(state, step, 0, STEPS)
    return state, step, graphdef, rows


@pytest.mark.parametrize(("kind", "output"), CASES)
def test_the_losses_fall(kind: str, output: str):
    _, _, _, rows = trained(kind, output)
    assert all(r["skipped"] == 0 and np.isfinite(r["loss"]) for r in rows)
    for name in ("huber", "scale", "balance"):
        assert (name in rows[0]) == (name != "balance" or kind == "experts")
    first, last = (np.mean([r["loss"] for r in part]) for part in (rows[:4], rows[-4:]))
    assert last < first - 0.1 * abs(first)


@pytest.mark.parametrize(("kind", "output"), CASES)
def test_restored_it_goes_on_bitwise_and_predicts_the_same(kind: str, output: str, tmp_path):
    state, step, graphdef, _ = trained(kind, output)
    state = jax.tree.map(jnp.copy, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(STEPS, state, {})
        back, _ = checkpoints.restore(abstract(state))
    names = {path.rpartition("/")[2] for path in flat(back.stats)}
    assert ("target_edges" in names) == (output in ("histogram", "ordinal"))
    assert ("target_ranges" in names) == (kind == "experts")
    answer = jax.jit(lambda p, s, b: (m := merge(graphdef, p, s)).head(m(b)).quantile(0.9))
    answers = [np.asarray(answer(one.params, one.stats, batch(0))) for one in (back, state)]
    assert np.isfinite(answers[0]).all()
    np.testing.assert_array_equal(*answers)
    ends = [run(one, step, STEPS, 2)[1] for one in (back, state)]
    assert ends[0] == ends[1]


def test_one_and_eight_devices_agree_on_a_mixture_of_experts():
    state, step, _ = start(head("experts", "histogram", "sqrt"), ONE)
    rows = run(state, step, 0, 5)[1]
    for a, b in zip(rows, trained("experts", "histogram")[3], strict=False):
        for name in ("loss", "huber", "scale", "balance"):
            assert b[name] == pytest.approx(a[name], rel=1e-5), name


@pytest.mark.parametrize(("kind", "output"), list(itertools.product(KIND, OUTPUT)))
def test_every_pair_has_a_shape_and_a_place(kind: str, output: str):
    config = head(kind, output)
    graphdef, params, stats = split_model(nnx.eval_shape(lambda: Small(config, rngs=nnx.Rngs(0))))
    found = jax.eval_shape(
        lambda p, s, b: (m := merge(graphdef, p, s)).head(m(b)).quantile(0.5),
        params,
        stats,
        batch(0),
    )
    assert (found.shape, found.dtype) == ((16, K), jnp.float32)
    assert set(KINDS) == set(KIND)
    for plan in ("replicated", "fsdp", "fsdp_tensor"):
        resolve(params, RULES[plan], make_mesh(EIGHT))


def test_halves_of_a_batch_add_up_with_a_gate():
    config = head("experts", "quantiles")
    _, params, stats = create(lambda rngs: Small(config, rngs=rngs), seed=0)
    graphdef = split_model(nnx.eval_shape(lambda: Small(config, rngs=nnx.Rngs(0))))[0]
    learned = experiment(config).losses

    @jax.jit
    def sums(rows: Batch):
        model = merge(graphdef, params, stats)
        return losses(model(rows), rows, model, learned)

    whole = batch(0)
    parts = [sums(jax.tree.map(lambda x, i=i: x[i::2], whole)) for i in range(2)]
    added = jax.tree.map(lambda a, b: a + b, *parts)
    known = weights(whole, learned)
    for name, part in sums(whole).items():
        assert float(part[1]) == float(known.pop(name)), name
        np.testing.assert_allclose(part, added[name], rtol=1e-5, err_msg=name)
    assert not known


def test_a_head_counts_what_lies_outside_its_bins():
    far = np.concatenate([np.linspace(-1, 1, 9990), [40.0] * 3])
    near = np.linspace(-1, 1, 50)
    for kind, output in (("linear", "histogram"), ("experts", "ordinal")):
        made = Small(head(kind, output), rngs=nnx.Rngs(0)).head
        assert made.set_support([far, near]) == [3, 0]
        np.testing.assert_array_equal(made.target_outside[...], [3, 0])
    assert Small(head("mlp", "laplace"), rngs=nnx.Rngs(0)).head.set_support([far, near]) == [0, 0]


def test_a_balance_that_nothing_has_is_refused_and_a_default_is_not():
    gated = experiment(head("experts", "gaussian"))
    assert (gated.loss.balance, gated.losses.balance) == (None, 0.1)
    other = dataclasses.replace(gated.model, head=head("mlp", "gaussian"))
    assert dataclasses.replace(gated, model=other).losses.balance == 0
    asked = LossConfig(balance=0.2)
    assert dataclasses.replace(gated, loss=asked).losses.balance == 0.2
    with pytest.raises(
        ConfigError, match=r"^nothing to balance in LossConfig.balance; .*found 0.2"
    ):
        dataclasses.replace(gated, model=other, loss=asked)


def test_a_head_of_another_number_of_targets_is_refused():
    asked = experiment(head("mlp", "gaussian"))
    with pytest.raises(ConfigError, match=r"another number of targets .*found 2; name the others"):
        dataclasses.replace(asked, data=DataConfig(target=TargetConfig("a")))
    with pytest.raises(
        ConfigError, match=r"^a target is named twice in TargetConfig.also; found a"
    ):
        TargetConfig("a", also=("a",))


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.1, 0.4, 0.9), (0.5, 0.1, 0.9), (0.0, 0.5, 0.9)])
def test_impossible_levels(levels: tuple[float, ...]):
    with pytest.raises(ConfigError, match=r"^impossible levels in HeadConfig.quantiles"):
        HeadConfig(quantiles=levels)
