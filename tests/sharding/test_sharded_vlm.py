"""One device and eight (2 data x 2 fsdp x 2 tensor) train the same nano model.

Every name of the promise is a test: losses within 1e-5 relative, parameters after five steps
within 1e-5 (SGD) and 1e-4 (AdamW), parameters bitwise equal at restore, the same data order.
"""

from __future__ import annotations

import re

import jax
import nano
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rsvlm_jax.config import PRESETS, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, collectives, make_mesh, resolve
from rsvlm_jax.testing import Stream
from rsvlm_jax.train import Checkpoints, abstract

ONE, EIGHT = MeshConfig(), MeshConfig(2, 2, 2)
STEPS = 5


def values(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in flat(jax.device_get(tree)).items()}


@pytest.fixture(scope="module")
def runs():
    """The same five steps by optimiser and number of devices."""
    made = {}
    for kind in ("sgd", "adamw"):
        for config in (ONE, EIGHT):
            state, step = nano.start(nano.experiment(kind), config)
            first = values(state.params)
            state, rows = nano.steps(state, step, STEPS)
            made[kind, config] = first, rows, state, step
    return made


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_losses_agree(runs, kind):
    one, eight = runs[kind, ONE][1], runs[kind, EIGHT][1]
    for a, b in zip(one, eight, strict=True):
        assert a["skipped"] == b["skipped"] == 0
        for name in ("loss", "text", "huber", "scale"):
            assert b[name] == pytest.approx(a[name], rel=1e-5), name


@pytest.mark.parametrize(("kind", "tolerance"), [("sgd", 1e-5), ("adamw", 1e-4)])
def test_parameters_agree(runs, kind, tolerance):
    before, _, one, _ = runs[kind, ONE]
    eight = values(runs[kind, EIGHT][2].params)
    for path, x in values(one.params).items():
        assert np.abs(eight[path] - x).max() <= tolerance, path
    moved = [path for path, x in eight.items() if not np.array_equal(x, before[path])]
    towers = {path.split("/")[0] for path in moved}
    assert towers == {"vision", "pixel", "temporal", "connector", "decoder", "head"}


def test_initial_parameters_are_bitwise_equal(runs):
    for path, x in runs["sgd", ONE][0].items():
        assert x.tobytes() == runs["sgd", EIGHT][0][path].tobytes(), path


def test_a_checkpoint_of_eight_devices_is_bitwise_equal_on_one(runs, tmp_path):
    eight, one = runs["adamw", EIGHT][2], runs["adamw", ONE][2]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(STEPS, eight, {"index": STEPS})
        restored, data = checkpoints.restore(abstract(one))
        back, _ = checkpoints.restore(abstract(eight))
    want = values(eight)
    for path, x in values(restored).items():
        assert x.tobytes() == want[path].tobytes(), path
    for path, x in flat(back).items():
        assert x.sharding == flat(eight)[path].sharding, path
    # The data state knows nothing of devices: both go on with the same batch.
    streams = Stream(), Stream()
    for stream in streams:
        stream.set_state(data)
    assert next(streams[0]).sample.tolist() == next(streams[1]).sample.tolist()


def test_resumed_on_another_topology_the_losses_go_on_the_same(runs, tmp_path):
    _, _, eight, step_eight = runs["sgd", EIGHT]
    _, _, one, step_one = runs["sgd", ONE]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(STEPS, eight, {})
        moved, _ = checkpoints.restore(abstract(one))
        stayed, _ = checkpoints.restore(abstract(eight))
    batch = nano.batch(STEPS)
    there = float(step_one(moved, batch)[1]["loss"])
    assert there == pytest.approx(float(step_eight(stayed, batch)[1]["loss"]), rel=1e-5)


def test_parameters_are_split_as_the_table_says(runs):
    state = runs["adamw", EIGHT][2]
    specs = {path: x.sharding.spec for path, x in flat(state.params).items()}
    assert specs["decoder/embed/embedding"] == PartitionSpec("tensor")
    assert specs["decoder/layers/attention/q/kernel"] == PartitionSpec(None, "fsdp", "tensor")
    assert specs["vision/layers/mlp/fc2/kernel"] == PartitionSpec(None, "tensor", "fsdp")
    assert specs["temporal/date_scale"] == PartitionSpec()
    for path, x in flat(state.opt_state).items():
        owner = re.sub(r"^.*?/(mu|nu)/", "", path)
        if owner in specs:
            assert x.sharding.spec == specs[owner], path
    kernel = state.params["decoder"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_no_whole_weight_is_reduced_and_no_activation_gathered_over_the_vocabulary(runs):
    _, _, state, step = runs["sgd", EIGHT]
    found = collectives(step.lower(state, nano.batch(0)).compile())
    kinds = {c.kind for c in found}
    assert {"all-gather", "all-reduce"} <= kinds
    # One device holds a fourth of a layer's weights; its gather stays below one stack of them.
    stack = max(x.nbytes for x in jax.tree.leaves(state.params))
    assert max(c.bytes for c in found) <= 1.3 * stack
    assert (
        collectives(runs["sgd", ONE][3].lower(runs["sgd", ONE][2], nano.batch(0)).compile()) == []
    )


@pytest.mark.parametrize("preset", ["7b", "13b"])
def test_the_table_fits_the_large_presets(preset):
    params = nano.shapes(PRESETS[preset](nano.INPUTS))
    placed = resolve(params, RULES["fsdp_tensor"], make_mesh(MeshConfig(1, 4, 2)))
    for path, x in flat(params).items():
        if x.size >= 2**22:
            sharding = flat(placed)[path]
            share = np.prod(sharding.shard_shape(x.shape)) / x.size
            assert share == 1 / 8, path
