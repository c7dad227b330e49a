"""A batch in parts, one after the other: the numbers of one pass, less memory, no row moved."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rsvlm_jax.config import ConfigError, MeshConfig, TrainConfig
from rsvlm_jax.core import flat
from rsvlm_jax.data.batch import Images
from rsvlm_jax.mesh import batch_sharding, collectives, make_mesh
from rsvlm_jax.train.gradient import split

ONE, EIGHT = MeshConfig(), MeshConfig(2, 2, 2)
STEPS = 3


def unequal(seed: int):
    """Most of the weight of all losses is in a few rows: a mean of means would be far off."""
    made = nano.batch(seed)
    weight, valid = made.weight.copy(), made.target_valid.copy()
    weight[:5] = 0
    weight[0, -1] = 0.25
    weight[5:] *= np.array([1, 3, 0.5], np.float32)[:, None]
    valid[[1, 2, 4, 5, 6]] = False
    return dataclasses.replace(made, weight=weight, target_valid=valid)


def experiment(count: int):
    made = nano.experiment("sgd")
    shown = dataclasses.replace(made.model.temporal, date_dropout=0.0)
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, temporal=shown),
        train=TrainConfig(batch_size=nano.SIZE, micro_batches=count),
    )


@pytest.fixture(scope="module")
def runs():
    made = {}
    for count, config in ((1, ONE), (4, ONE), (2, EIGHT)):
        exp = experiment(count)
        state, step = nano.start(exp, config, of=exp.model)
        program = step.lower(state, unequal(0)).compile()
        rows = []
        for i in range(STEPS):
            state, metrics = program(state, unequal(i))
            rows.append({k: float(v) for k, v in metrics.items()})
        made[count, config] = rows, flat(jax.device_get(state.params)), program
    return made


@pytest.mark.parametrize(("count", "config"), [(4, ONE), (2, EIGHT)], ids=["4", "2 on 8 devices"])
def test_parts_add_up_to_one_pass(runs, count, config):
    rows, params, _ = runs[1, ONE]
    found, moved, _ = runs[count, config]
    for a, b in zip(rows, found, strict=True):
        assert a["skipped"] == b["skipped"] == 0
        for name in ("loss", "text", "huber", "scale", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=1e-5), name
    for path, x in params.items():
        assert np.abs(moved[path] - x).max() <= 1e-5, path


def test_parts_take_less_memory(runs):
    whole, parts = (runs[key][2].memory_analysis() for key in ((1, ONE), (4, ONE)))
    assert parts.temp_size_in_bytes < 0.6 * whole.temp_size_in_bytes


def test_a_device_keeps_its_rows():
    mesh = make_mesh(EIGHT)
    place = batch_sharding(mesh)
    with jax.set_mesh(mesh):
        program = jax.jit(lambda b: split(b, 2), in_shardings=place).lower(nano.batch(0)).compile()
    assert collectives(program) == []
    wanted = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    for x in jax.tree.leaves(program.output_shardings):
        assert x.is_equivalent_to(wanted, 2)


def test_part_k_has_every_kth_row():
    parts = split(nano.batch(0), 4)
    np.testing.assert_array_equal(parts.sample, [[0, 4], [1, 5], [2, 6], [3, 7]])


def test_images_go_where_their_rows_go():
    """Two images a row at most; a row that names the image of another finds none."""
    pixels = np.arange(16, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 3), "f")
    of = np.arange(16, dtype=np.int32).reshape(8, 2)
    of[3, 1] = of[4, 0] = of[4, 1] = -1
    whole = dataclasses.replace(nano.batch(0), images=Images(pixels, of))
    parts = split(whole, 4)
    for k in range(4):
        for r, row in enumerate(range(k, 8, 4)):
            for i in range(2):
                at = int(parts.images.of[k, r, i])
                assert (at < 0) == (of[row, i] < 0)
                if at >= 0:
                    assert float(parts.images.pixels[k, at, 0, 0, 0]) == of[row, i]
    of[1, 0] = 0
    lost = split(dataclasses.replace(whole, images=Images(pixels, of)), 4).images
    taken = jnp.take(lost.pixels[1], lost.of[1, 0, 0], axis=0)
    assert np.isnan(np.asarray(taken)).all()


def test_images_that_are_not_those_of_their_rows():
    pixels = np.zeros((3, 2, 2, 3), np.float32)
    of = np.array([[0, 1]] + [[-1, -1]] * 6 + [[2, -1]], np.int32)
    whole = dataclasses.replace(nano.batch(0), images=Images(pixels, of))
    with pytest.raises(ConfigError, match=r"expected 2 for each of 8 rows; found 3; micro_batches"):
        split(whole, 2)


def test_micro_batches_that_do_not_divide_the_batch():
    line = "batch_size is not a multiple of micro_batches in TrainConfig"
    with pytest.raises(ConfigError, match=line):
        TrainConfig(batch_size=8, micro_batches=3)
    line = "micro-batches do not divide the batch in TrainConfig.micro_batches; expected a divisor"
    with pytest.raises(ConfigError, match=line):
        split(nano.batch(0), 3)


def test_a_part_that_the_mesh_does_not_divide():
    with (
        jax.set_mesh(make_mesh(EIGHT)),
        pytest.raises(ConfigError, match=re.escape("a dimension does not divide over the mesh")),
    ):
        split(nano.batch(0), 4)


def test_a_tiny_experiment_keeps_what_divides_its_batch():
    for count, kept in ((16, 8), (5, 1)):
        made = dataclasses.replace(
            nano.experiment(), train=TrainConfig(batch_size=80, micro_batches=count)
        )
        assert (made.tiny().train.batch_size, made.tiny().train.micro_batches) == (8, kept)
