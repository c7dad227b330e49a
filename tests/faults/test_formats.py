"""Checkpoints of older formats load for good; those of newer ones are refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from fixtures.make_format1 import HERE, STEPS, start

from rsvlm_jax.config import CheckpointError, Experiment, from_json
from rsvlm_jax.core import flat
from rsvlm_jax.testing import Stream, standin_experiment
from rsvlm_jax.train import Checkpoints, abstract, manifest, resume, train


@pytest.fixture
def format1(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE / "format1", tmp_path / "format1"))


def test_a_checkpoint_of_format_1_loads_bitwise(format1: Path):
    with Checkpoints(format1) as checkpoints:
        assert checkpoints.newest() == STEPS
        state, data = checkpoints.restore(abstract(start()[0]))
        config = checkpoints.config()
    assert data == {"index": STEPS}
    assert config is not None
    assert from_json(Experiment, config) == standin_experiment(ema=0.9)
    found = flat(jax.device_get(state))
    with np.load(format1 / "arrays.npz") as arrays:
        assert set(arrays) == set(found)
        for path, x in arrays.items():
            assert found[path].dtype == x.dtype, path
            assert np.asarray(found[path]).tobytes() == x.tobytes(), path
    assert {"step", "seed"} < set(found)
    assert {p.split("/")[0] for p in found} == {
        "step", "seed", "params", "stats", "opt_state", "ema",
    }  # fmt: skip


def test_training_goes_on_from_a_checkpoint_of_format_1(format1: Path):
    with Checkpoints(format1) as checkpoints:
        state, step = start()
        batches = Stream()
        state = resume(state, batches, checkpoints)
        assert batches.index == STEPS
        state = train(state, step, batches, steps=STEPS + 2, checkpoints=checkpoints)
        assert checkpoints.newest() == STEPS + 2


def test_a_checkpoint_of_a_newer_format_is_refused_and_not_passed_over(format1: Path):
    path = format1 / str(STEPS) / "manifest.json"
    body = json.loads(path.read_bytes())
    body |= {"format": manifest.FORMAT + 1, "unheard": "of"}
    body["digest"] = manifest.digest({k: v for k, v in body.items() if k != "digest"})
    path.write_text(json.dumps(body))
    with Checkpoints(format1) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(abstract(start()[0]))
    assert error.value.exit_code == 4
    assert str(error.value) == (
        f"a checkpoint of a newer format in {path}; expected format {manifest.FORMAT} at most; "
        f"found format {manifest.FORMAT + 1}; update rsvlm_jax to the version that wrote it"
    )
