"""Rows of the fault list that the other files here do not have; the table is in README.md."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from small_experiment import experiment

import rsvlm_jax
from rsvlm_jax.config import DataError
from rsvlm_jax.core import flat
from rsvlm_jax.data import CubeSource, train_batches
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.mesh.rules import batch_sharding
from rsvlm_jax.run.fit import initial
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.train import Checkpoints, abstract, init_state, make_optimizer

PAGE = Path(__file__).with_name("small_experiment.py")


def command(out: Path, *more: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(Path(rsvlm_jax.__file__).parents[1]),
    }
    words = ["train", str(PAGE), "--out", str(out), "--train.steps", "9999", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "rsvlm_jax.cli.main", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rows(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_rows(run: Path, count: int, process: subprocess.Popen) -> None:
    limit = time.monotonic() + 200
    while rows(run) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.01)


def test_two_commands_on_one_directory_and_sigterm_while_it_trains(tmp_path: Path):
    """Rows 1 and 11: the second is refused and names the first, which saves and ends with 75."""
    run = tmp_path / "run"
    first = command(run)
    wait_for_rows(run, 2, first)
    second = command(run, "--json")
    said, refusal = second.communicate(timeout=200)
    assert second.returncode == 2, refusal
    (line,) = (line for line in refusal.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: another process works in this directory in {run}; found pid ")
    assert f"pid {first.pid} on " in line
    assert json.loads(said.splitlines()[-1])["exit_code"] == 2

    assert first.poll() is None, "the first goes on"
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=200)
    assert first.returncode == 75, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: stopped after step ")
    with Checkpoints(run / "checkpoints") as checkpoints:
        assert checkpoints.newest() == rows(run), "the step that was taken last"


# ---- row 10: another topology -------------------------------------------------------------------


def test_on_fewer_and_more_devices_the_state_is_bitwise_and_every_sample_comes_once(tmp_path: Path):
    """Saved on 8 devices, read on 4, saved, read on 1 and on 2: and an epoch is drawn across."""
    work = prepare(experiment())
    config = work.experiment
    params, stats = initial(work)
    optimizer = make_optimizer(config.optimizer, config.train.steps, params)

    def placed(devices: int):
        mesh = make_mesh(config.mesh, jax.devices()[:devices])
        words = {"config": config.optimizer, "plan": config.mesh.plan}
        return init_state(params, stats, optimizer, mesh, **words), batch_sharding(mesh)

    epoch = -(-len(work.train) // config.train.batch_size)
    state, place = placed(8)
    wanted = {path: np.asarray(x) for path, x in flat(state).items()}
    drawn: list[int] = []
    at = {"next_index": 0}
    for number, devices in enumerate((8, 4, 1, 2)):
        with work.batches(place) as batches:
            if number:
                batches.set_state(at)
            for _ in range(epoch if devices == 2 else epoch // 4):
                drawn += np.asarray(next(batches).sample).tolist()
            at = json.loads(json.dumps(batches.get_state()))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(number + 1, state, at)
        shapes, place = placed({8: 4, 4: 1, 1: 2, 2: 8}[devices])
        with Checkpoints(tmp_path) as checkpoints:
            state, at = checkpoints.restore(abstract(shapes))
        for path, x in flat(state).items():
            assert np.asarray(x).tobytes() == wanted[path].tobytes(), path
            assert x.sharding.is_equivalent_to(flat(shapes)[path].sharding, x.ndim), path
    first = drawn[: len(work.train)]
    assert sorted(first) == sorted(work.train.rows.tolist()), "every window once"
    with work.batches() as batches:
        whole = [s for _ in range(len(drawn) // 8) for s in np.asarray(next(batches).sample)]
    assert drawn == whole


# ---- row 14: a data worker that dies ------------------------------------------------------------


class Dying(CubeSource):
    """A source whose process ends when it comes to a row."""

    how = "exit"

    def read(self, index, *args, **words):
        if 7 in self.rows[index]:
            if self.how == "exit":
                sys.exit(123)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index, *args, **words)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("how", "said"), [("exit", "123"), ("kill", "-9")])
def test_a_data_worker_that_dies_is_one_line_and_no_hang(how: str, said: str):
    work = prepare(experiment())
    target = work.experiment.data.target
    source = Dying.of(work.processor, work.cube, work.train_table, target=target)
    source.how = how
    match = (
        rf"a data worker died in batch \d+; expected 1 workers that live; found .*exit code {said}"
    )
    words = {"batch_size": 64, "seed": 0, "threads": 1, "workers": 1}
    batches = train_batches(source, work.processor, **words)
    with batches, pytest.raises(DataError, match=match) as error:
        list(itertools.islice(batches, 9))
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)
