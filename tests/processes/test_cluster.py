"""Which processes a run is made of: by flags, and by what schedulers say. Nothing is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from jax._src.clusters import ClusterEnv, cloud_tpu_cluster

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import ConfigError
from rsvlm_jax.run.cluster import PORT, Cluster, find_cluster, visible_gpus
from rsvlm_jax.run.processes import on_tpu

SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp://10.96.0.1,10.148.0.1:34911",
}
JOBSET = {"JAX_NUM_PROCESSES": "8", "JOB_COMPLETION_INDEX": "3"}
NAMES = {"JOBSET_NAME": "rs", "REPLICATED_JOB_NAME": "workers"}


def find(environment: dict[str, str], *flags: object, tpu: bool = False) -> Cluster | None:
    return find_cluster(*(flags or (None, None, None)), environment, tpu=tpu)  # type: ignore[arg-type]


def by_jax(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> tuple:
    """What JAX itself finds: `jax.distributed.initialize()` asks the same."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 10)


def test_alone():
    assert find({}) is None
    assert find({"JOB_COMPLETION_INDEX": "3"}) is None, "any indexed job"


def test_flags():
    found = find(SLURM, "node1:1234", 2, 1)
    assert found == Cluster("flags", "node1:1234", 2, 1)
    assert find({}, "[::1]:1234", 1, 0) == Cluster("flags", "[::1]:1234", 1, 0)


def test_a_step_of_slurm(monkeypatch: pytest.MonkeyPatch):
    assert find(SLURM) == Cluster("SLURM")
    coordinator, processes, process, _ = by_jax(monkeypatch, SLURM)
    assert coordinator.startswith("gpu03:")
    assert (processes, process) == (2, 1)


def test_one_task_a_node_has_all_its_gpus():
    found = find({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert found == Cluster("SLURM", devices=(0, 1, 2, 3))
    several = {**SLURM, "SLURM_STEP_NUM_TASKS": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert find(several) == Cluster("SLURM"), "one each, as JAX does"


def test_a_batch_script_of_slurm_is_one_process():
    assert find({k: v for k, v in SLURM.items() if "STEP" not in k}) is None
    assert find({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_open_mpi(monkeypatch: pytest.MonkeyPatch):
    assert find(OPEN_MPI) == Cluster("Open MPI")
    coordinator, processes, process, devices = by_jax(monkeypatch, OPEN_MPI)
    assert coordinator.startswith("10.96.0.1:")
    assert (processes, process, devices) == (4, 3, [1])
    assert find({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}) is None


def test_open_mpi_5_needs_an_address():
    five = {k: v for k, v in OPEN_MPI.items() if "MCA" not in k}
    with pytest.raises(ConfigError, match="no address of the coordinator"):
        find(five)
    assert find({**five, "JAX_COORDINATOR_ADDRESS": "a:1"}) == Cluster("Open MPI", "a:1", 4, 3)


def test_jobset():
    found = find({**JOBSET, "JAX_COORDINATOR_ADDRESS": "rs-workers-0-0.rs:1234"})
    assert found == Cluster("JobSet", "rs-workers-0-0.rs:1234", 8, 3)
    assert find({**JOBSET, **NAMES}) == Cluster("JobSet", f"rs-workers-0-0.rs:{PORT}", 8, 3)
    jobs = {"JOB_INDEX": "1", "REPLICATED_JOB_REPLICAS": "2"}
    found = find({**JOBSET, **NAMES, **jobs, "JAX_COORDINATOR_PORT": "99"})
    assert found == Cluster("JobSet", "rs-workers-0-0.rs:99", 8, 7)


def test_names_of_jax():
    named = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:1"}
    assert find(named) == Cluster("the environment", "a:1", 2, 0)


def test_tpu():
    assert find({}, tpu=True) == Cluster("TPU")


def test_this_machine_is_no_tpu():
    assert not on_tpu(None)


def test_a_worker_of_a_tpu_slice(monkeypatch: pytest.MonkeyPatch):
    """On GKE, as JAX reads it."""
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    assert on_tpu(None)
    assert not on_tpu("cpu")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert not on_tpu(None), "one process stays alone"


def test_gpus(tmp_path: Path):
    for name in ("nvidia1", "nvidia0", "nvidia10", "nvidiactl"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ("0", "1", "10")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"}, tmp_path) == ("2", "3")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ()


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "half a cluster in the environment"),
        ({"JAX_NUM_PROCESSES": "two"}, "not a number in the environment, JAX_NUM_PROCESSES"),
        (JOBSET, "no address of the coordinator"),
        ({**JOBSET, **NAMES, "JOB_COMPLETION_INDEX": "8"}, "impossible number of a process"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "2(x4)"}, "SLURM_STEP_NUM_TASKS"),
    ],
)
def test_impossible_environments(environment: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as e:
        find(environment)
    assert words in str(e.value)


NAMED = {
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "0",
    "JAX_COORDINATOR_ADDRESS": "a:1",
}


@pytest.mark.parametrize(("environment", "how"), [(SLURM, "SLURM"), (NAMED, "the environment")])
def test_a_supervisor_in_a_cluster(environment: dict[str, str], how: str, tmp_path, capsys,
                                   monkeypatch):  # fmt: skip
    """Each of its processes would start the whole run."""
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert main(["train", "forkme", "--out", str(tmp_path / "run"), "--supervise", "2"]) == 2
    said = capsys.readouterr().err
    assert "started by a scheduler already" in said
    assert f"one of {how}" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--coordinator", "a:1"), "no --processes, no --process"),
        (("--processes", "2", "--process", "1"), "no --coordinator"),
        (("--coordinator", "a", "--processes", "2", "--process", "1"), "expected HOST:PORT"),
        (("--coordinator", "a:1", "--processes", "2", "--process", "2"), "2 of 2"),
        (("--supervise", "2", "--processes", "2"), "the supervisor chooses"),
        (("--supervise", "0"), "no process to supervise"),
    ],
)
def test_flags_that_do_not_go_together(flags: tuple[str, ...], words: str, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "forkme", "--out", str(out), *flags]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
    assert not out.exists()
