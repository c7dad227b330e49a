"""Adafactor and Muon on a small decoder: they learn, they resume, eight devices agree with one."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rsvlm_jax.config import (
    Experiment,
    GroupConfig,
    LlamaConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.train import (
    Checkpoints,
    abstract,
    create,
    init_state,
    make_optimizer,
    make_train_step,
)

ONE, EIGHT = MeshConfig(), MeshConfig(2, 2, 2)
STEPS, MORE = 5, 20
ROWS, LENGTH, WORDS = 8, 16, 64

VISION = ViTConfig(image_size=8, patch_size=4, width=8, layers=1, heads=2, mlp_dim=8)
DECODER = LlamaConfig(
    vocab_size=WORDS, width=32, layers=2, heads=4, kv_heads=2, mlp_dim=48, max_length=LENGTH
)


def batch(seed: int) -> Batch:
    """Text that repeats itself: every row counts on from its first word."""
    first = np.random.default_rng(seed).integers(0, WORDS, (ROWS, 1))
    place = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    return Batch(
        obs={},
        tokens=((first + place) % (WORDS - 1)).astype(np.int32),
        segment=np.ones_like(place),
        position=place,
        weight=(place > 0).astype(np.float32),
        image_slot=np.full_like(place, -1),
        target=np.zeros((ROWS, 0), np.float32),
        target_valid=np.zeros((ROWS, 0), bool),
        sample=np.arange(ROWS, dtype=np.int32),
    )


def start(kind: str, config: MeshConfig):
    """A placed state and its step; what is no decoder is frozen."""
    groups = (GroupConfig("^(vision|connector)/", 0.0),)
    exp = Experiment(
        name=kind,
        model=VLMConfig(vision=VISION, decoder=DECODER, head=None),
        loss=LossConfig(text=1.0, huber=0.0, scale=0.0),
        optimizer=OptimizerConfig(kind, 5e-3, warmup=0.0, groups=groups, ema=0.9),
    )
    graphdef, params, stats = create(
        lambda rngs: VisionLanguageModel(exp.model, image_token=WORDS - 1, rngs=rngs), seed=0
    )
    mesh = make_mesh(config)
    optimizer = make_optimizer(exp.optimizer, 100, params)
    state = init_state(params, stats, optimizer, mesh, config=exp.optimizer)
    return state, make_train_step(graphdef, exp, optimizer, mesh, state)


def run(state, step, seeds):
    rows = []
    for seed in seeds:
        state, metrics = step(state, batch(seed))
        rows.append({k: float(v) for k, v in jax.device_get(metrics).items()})
    return state, rows


def values(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in flat(jax.device_get(tree)).items()}


@pytest.fixture(scope="module", params=["adafactor", "muon"])
def runs(request):
    """Five steps on one device and on eight, with averages."""
    made = []
    for config in (ONE, EIGHT):
        state, step = start(request.param, config)
        state, rows = run(state, step, range(STEPS))
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
    ends = [values(step(s, batch(STEPS))[0]) for s in (back, again)]
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
    state = jax.tree.map(lambda x: x.copy(), state)
    losses = [row["loss"] for row in run(state, step, [99] * MORE)[1]]
    assert losses[-1] < 0.8 * losses[0]
    assert np.isfinite(losses).all()
