"""Several real processes on loopback: the same run as one process has, and its ends.

One pair of processes goes through a whole story (`story.py`), so that JAX starts once and each step
compiles once; the tests read what it left. Two devices a process, gloo between them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from smallest import STEPS, experiment, talk
from story import STOPPED

import rsvlm_jax
from data_zarr.samples import sample_questions
from rsvlm_jax.config import ConfigError, Preempted
from rsvlm_jax.core import flat
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.rules import batch_sharding
from rsvlm_jax.mesh.together import rows_of
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.trained import load_run
from rsvlm_jax.train import Checkpoints

HERE = Path(__file__).parent
POD = HERE.parents[1] / "tpu_scripts" / "local_pod.sh"
DEVICES = 2
QUESTIONS = sample_questions("rsvqa_lr")


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": f"{Path(rsvlm_jax.__file__).parents[1]}:{HERE}",
        **more,
    }


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(program: list[str], count: int) -> list[subprocess.Popen[str]]:
    """`program FOLDER COORDINATOR N I` for each I."""
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        subprocess.Popen(
            [sys.executable, *program, coordinator, str(count), str(i)],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(count)
    ]  # fmt: skip


def ends(processes: list[subprocess.Popen[str]], seconds: float = 400) -> list[tuple[int, str]]:
    """Exit code and stderr of each."""
    try:
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    found = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("_per_second")} for row in found]


def close(one: list[dict], other: list[dict]) -> None:
    """Losses of two topologies; gradient norms follow parameters that drift apart under AdamW."""
    assert [row["step"] for row in one] == [row["step"] for row in other]
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), a["step"]


def stop_before(step: int) -> Callable[[], bool]:
    asked = iter(range(step + 1))
    return lambda: next(asked) == step


def whole_story(folder: Path, count: int) -> list[tuple[int, str]]:
    (folder / "few.json").write_text(json.dumps([
        {"image": q.image.name, "conversations": [
            {"from": "human", "value": f"<image>\n{q.question}"},
            {"from": "gpt", "value": q.answer},
        ]}
        for q in QUESTIONS[::48]
    ]))  # fmt: skip
    with pytest.raises(Preempted):
        fit(experiment(), out=folder / "alone", stop=stop_before(STOPPED))
    return ends(start([str(HERE / "story.py"), str(folder)], count))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken run of one process."""
    return fit(experiment(), out=tmp_path_factory.mktemp("one") / "whole").path


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, orphans) -> tuple[Path, list[tuple[int, str]]]:
    """What two processes leave, and how they end."""
    folder = tmp_path_factory.mktemp("two")
    return folder, whole_story(folder, 2)


@pytest.fixture(scope="module")
def two(ended: tuple[Path, list[tuple[int, str]]]) -> Path:
    folder, ends = ended
    assert (folder / "process1.json").is_file(), ends
    return folder


def told(two: Path, process: int = 0) -> dict:
    return json.loads((two / f"process{process}.json").read_text())


def test_two_processes_learn_what_one_learns(one: Path, two: Path):
    close(rows(two / "whole"), rows(one))
    a, b = flat(load_run(two / "whole").params), flat(load_run(one).params)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(
            np.asarray(a[path]), np.asarray(b[path]), atol=1e-4, err_msg=path
        )


def test_statistics_are_bitwise_those_of_one_process(one: Path, two: Path):
    a, b = flat(load_run(two / "whole").stats), flat(load_run(one).stats)
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


def test_sigterm_to_one_stops_all_after_one_step(two: Path):
    lines = {told(two, process)["stopped"] for process in (0, 1)}
    assert len(lines) == 1
    with Checkpoints(two / "elsewhere" / "checkpoints") as checkpoints:
        saved = checkpoints.newest()
    assert f"stopped after step {saved} of {STEPS}" in lines.pop()
    assert STOPPED <= saved < STEPS
    assert len(rows(two / "elsewhere")) == saved


def test_a_resumed_run_is_bitwise_the_unbroken_one(two: Path):
    assert rows(two / "stopped") == rows(two / "whole")
    a, b = flat(load_run(two / "stopped").params), flat(load_run(two / "whole").params)
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


def test_one_process_goes_on_where_two_have_stopped(one: Path, two: Path, tmp_path: Path):
    run = Path(shutil.copytree(two / "elsewhere", tmp_path / "run"))
    with Checkpoints(run / "checkpoints") as checkpoints:
        before = checkpoints.newest()
    fit(experiment(), out=run)
    close(rows(run), rows(one))
    assert rows(run)[:before] == rows(two / "whole")[:before]


def test_two_processes_go_on_where_one_has_stopped(one: Path, two: Path):
    close(rows(two / "alone"), rows(one))
    assert rows(two / "alone")[:STOPPED] == rows(one)[:STOPPED]


def test_conversations_and_what_is_held_out_of_them(two: Path, tmp_path: Path):
    whole = fit(talk(two / "few.json", QUESTIONS[0].image.parent), out=tmp_path / "run").path
    found, want = rows(two / "talk"), rows(whole)
    close(found, want)
    assert [(r["tokens"], r["padded"]) for r in found] == [(r["tokens"], r["padded"]) for r in want]
    found, want = (rows(run, "held_out.jsonl") for run in (two / "talk", whole))
    assert [row["step"] for row in found] == [0, 2, 4]
    for a, b in zip(found, want, strict=True):
        assert a["weight"] == b["weight"]
        assert a["text"] == pytest.approx(b["text"], rel=1e-5)


def test_process_0_alone_writes_beside_the_checkpoints(two: Path):
    names = {p.name for p in (two / "whole").iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "processor", "unreadable.json", "lock"}
    with Checkpoints(two / "whole" / "checkpoints") as checkpoints:
        assert checkpoints.newest() == STEPS
    assert list((two / "whole" / "checkpoints").glob("*/state/ocdbt.process_1")), "both save"


def test_rows_of_devices_that_do_not_stand_together(two: Path):
    assert told(two, 0)["rows"] == [[0, 1, 4, 5], list(range(8))]
    assert told(two, 1)["rows"] == [[2, 3, 6, 7], list(range(8))]


# ---- ends ----------------------------------------------------------------------------------------


def test_another_configuration_is_refused_by_all(two: Path):
    for process in (0, 1):
        found = told(two, process)
        line = found["config"]
        assert line.startswith(
            "ConfigError: another configuration than that of process 0 in process 1"
        )
        assert "(train.seed); expected 0; found 7" in line
        assert found["code"].startswith("ConfigError: another version of rsvlm_jax than that of ")
        assert "found 0123456789ab;" in found["code"]
        assert found["alike"] == "nothing"
        assert found["data"].startswith("DataError: other data than that of process 0 in process 1")
        assert "the mesh does not multiply to the number of devices" in found["mesh"]
        assert all("\n" not in text for text in found.values() if isinstance(text, str))


def test_what_one_process_raises_ends_all(ended: tuple[Path, list[tuple[int, str]]]):
    """A host that lacks a file."""
    (code, said), (own_code, own) = ended[1]
    assert (code, own_code) == (3, 3)
    assert own.splitlines()[-1] == "error: no such file in /data/on/another/host"
    last = said.splitlines()[-1]
    assert last.startswith("error: process 1 on ")
    assert last.endswith(": no such file in /data/on/another/host")
    assert "Traceback" not in said + own
    assert not [line for line in own.splitlines() if not line.startswith("error: ")]


WAITING = """
import sys, time
from rsvlm_jax.run.cluster import Cluster
from rsvlm_jax.run.processes import joined
with joined(Cluster("flags", sys.argv[1], int(sys.argv[2]), int(sys.argv[3])), wait=60):
    from jax.experimental import multihost_utils
    for _ in range(10**6):
        multihost_utils.sync_global_devices("step")
        print("step", flush=True)
"""
"""Collectives without an end, as training is."""


def orphaned(killed: int) -> tuple[float, int, str]:
    """Of two processes one is killed: seconds until the other ends, its exit code, its stderr."""
    processes = start(["-c", WAITING], 2)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "step\n"
    processes[killed].kill()
    begun = time.monotonic()
    (code, said) = ends([processes[1 - killed]], 100)[0]
    seconds = time.monotonic() - begun
    processes[killed].communicate()
    return seconds, code, said


@pytest.fixture(scope="module")
def orphans() -> Iterator[dict[int, Future[tuple[float, int, str]]]]:
    """They wait, most of the time: beside the story, which asks for them first."""
    with ThreadPoolExecutor(2) as pool:
        yield {killed: pool.submit(orphaned, killed) for killed in (0, 1)}


@pytest.mark.parametrize("killed", [1, 0])
def test_a_survivor_of_a_dead_peer_ends_with_one_line(killed: int, orphans):
    seconds, code, said = orphans[killed].result()
    print(f"survivor of process {killed}: {seconds:.1f} s")
    assert code == 76
    assert seconds < 30
    assert said.splitlines()[-1].startswith(f"error: process {killed} was lost in a run of 2 ")
    assert len(said.splitlines()) == 1
    log = Path(said.split("what the libraries said: ")[1].strip())
    assert log.stat().st_size > 0
    log.unlink()


def rsvlm(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rsvlm_jax.cli.main", "train", str(HERE / "smallest.py"), *args],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_coordinator_that_does_not_answer(tmp_path: Path):
    address = f"127.0.0.1:{free_port()}"
    args = "--out", str(tmp_path / "run"), "--wait", "2"
    cluster = "--coordinator", address, "--processes", "2", "--process", "1"
    (code, said) = ends([rsvlm(*args, *cluster)], 100)[0]
    assert code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith("error: the processes did not come together in coordinator ")
    assert address in said
    assert "within 2 s" in said
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_taken(tmp_path: Path):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        cluster = "--coordinator", address, "--processes", "2", "--process", "0"
        (code, said) = ends([rsvlm("--out", str(tmp_path / "run"), *cluster)], 100)[0]
    assert code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith("error: the coordinator cannot listen (")
    assert address in said


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_rehearsed_pod_survives_a_killed_process(two: Path, tmp_path: Path):
    out = tmp_path / "run"
    words = str(POD), "2", "--devices", str(DEVICES), str(HERE / "smallest.py"), "--json"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [*words, "--out", str(out)], env=environment(PATH=path, XLA_FLAGS=""),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    limit = time.monotonic() + 300
    while not (out / "checkpoints" / "2" / "manifest.json").is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    answer, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found = json.loads(answer.splitlines()[-1])
    assert (found["step"], found["restarts"]) == (STEPS, 1)
    assert "process 1 ended by signal 9; all start again from step" in said
    assert rows(out) == rows(two / "whole"), "not those of the unbroken run"
    a, b = flat(load_run(out).params), flat(load_run(two / "whole").params)
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(ConfigError, match="the batch does not divide over the devices") as e:
        rows_of(batch_sharding(make_mesh(experiment().mesh)), 12)
    assert "12 over 8 devices" in str(e.value)


@pytest.mark.slow
def test_four_processes(one: Path, tmp_path: Path):
    found = whole_story(tmp_path, 4)
    assert [code for code, _ in found] == [3, 3, 3, 3], found
    for run in ("whole", "stopped", "alone"):
        close(rows(tmp_path / run), rows(one))
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    assert rows(tmp_path / "talk")
