"""Which processes a run is made of: from flags, or from what a scheduler puts in the environment.

    flags       --coordinator HOST:PORT --processes N --process I
    JAX's names JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID
    JobSet      the same without JAX_PROCESS_ID: JOB_COMPLETION_INDEX counts the pods of a job; the
                coordinator is the first pod where JOBSET_NAME and REPLICATED_JOB_NAME say which
    SLURM       a step of `srun` with several tasks         found by JAX itself
    Open MPI    `mpirun` with several ranks                 found by JAX itself
    TPU         a pod slice on Compute Engine or GKE        found by JAX itself

Nothing is started here, and JAX is not asked for its devices.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from rsvlm_jax.config import ConfigError

PORT = 55527
"""Of the coordinator of a JobSet, where nobody says it."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What `jax.distributed.initialize` is told; what is None it finds itself.

    Attributes:
      how: where this comes from, for people.
      devices: numbers of this process's devices; None: as JAX does (all; on SLURM and Open MPI the
        one with the number of the process on its host).
    """

    how: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    devices: tuple[int, ...] | None = None


def find_cluster(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    environment: Mapping[str, str],
    *,
    tpu: bool = False,
) -> Cluster | None:
    """The cluster that this process belongs to; None: it trains alone.

    Args:
      coordinator, processes, process: the flags.
      tpu: whether this machine is a worker of a TPU.

    Raises:
      ConfigError: flags or variables that are incomplete or cannot be.
    """
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if any(value is not None for value in flags.values()):
        missing = [name for name, value in flags.items() if value is None]
        if missing:
            raise ConfigError(
                "half a cluster",
                where="the command line",
                expected="--coordinator HOST:PORT --processes N --process I together, or none of "
                "them",
                found=f"no {', no '.join(missing)}",
            )
        return _checked("flags", coordinator, processes, process, "the command line")
    for find in (_named, _slurm, _open_mpi):
        if (found := find(environment)) is not None:
            return found
    return Cluster("TPU") if tpu else None


def _named(environment: Mapping[str, str]) -> Cluster | None:
    if "JAX_NUM_PROCESSES" not in environment:
        return None
    where = "the environment"
    processes = _number(environment, "JAX_NUM_PROCESSES")
    jobset, job = environment.get("JOBSET_NAME"), environment.get("REPLICATED_JOB_NAME")
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS")
    if coordinator is None and jobset and job:
        coordinator = f"{jobset}-{job}-0-0.{jobset}"
    if coordinator is not None and not re.search(r":\d+$", coordinator):
        coordinator += f":{environment.get('JAX_COORDINATOR_PORT', PORT)}"
    if "JAX_PROCESS_ID" in environment:
        return _checked(where, coordinator, processes, _number(environment, "JAX_PROCESS_ID"))
    if "JOB_COMPLETION_INDEX" not in environment:
        raise ConfigError(
            "half a cluster", where=where, found="JAX_NUM_PROCESSES and no number of this process",
            expected="JAX_PROCESS_ID, or the JOB_COMPLETION_INDEX of a JobSet",
        )  # fmt: skip
    process = _number(environment, "JOB_COMPLETION_INDEX")
    if "JOB_INDEX" in environment:  # several jobs of equal size, one after the other
        jobs = _number(environment, "REPLICATED_JOB_REPLICAS")
        process += _number(environment, "JOB_INDEX") * (processes // max(jobs, 1))
    return _checked("JobSet", coordinator, processes, process)


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    """Within `srun` only: a batch script itself is one process, whatever it has asked for."""
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS")
    if tasks < 2:
        return None
    alone = environment.get("SLURM_STEP_NUM_NODES") == str(tasks)
    gpus = visible_gpus(environment) if alone else ()
    return Cluster("SLURM", devices=tuple(range(len(gpus))) or None)


def _open_mpi(environment: Mapping[str, str]) -> Cluster | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    size = _number(environment, "OMPI_COMM_WORLD_SIZE")
    if size < 2:
        return None
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return Cluster("Open MPI")
    # Open MPI 5 has no address that JAX could read.
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS")
    rank = _number(environment, "OMPI_COMM_WORLD_RANK")
    found = _checked("Open MPI", coordinator, size, rank)
    if not visible_gpus(environment):
        return found
    return dataclasses.replace(found, devices=(_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK"),))


def _checked(
    how: str,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    where: str = "the environment",
) -> Cluster:
    if coordinator is None or not re.fullmatch(r"\S+:\d{1,5}", coordinator):
        raise ConfigError(
            "no address of the coordinator (process 0)", where=where, expected="HOST:PORT",
            found=coordinator,
            remedy="set --coordinator, or JAX_COORDINATOR_ADDRESS in the environment",
        )  # fmt: skip
    assert processes is not None
    assert process is not None
    if not 0 <= process < processes:
        raise ConfigError(
            "impossible number of a process", where=where,
            expected="0 .. N-1 of N >= 1 processes", found=f"{process} of {processes}",
        )  # fmt: skip
    return Cluster(how, coordinator, processes, process)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise ConfigError(
            "not a number", where=f"the environment, {name}", expected="0 or more",
            found=repr(text) if text else "nothing",
        )  # fmt: skip
    return int(text)


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that a process sees, without asking any library."""
    said = environment.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return tuple(name for name in said.split(",") if name and name != "-1")
    found = [p.name.removeprefix("nvidia") for p in devices.glob("nvidia[0-9]*")]
    return tuple(sorted(found, key=int))
