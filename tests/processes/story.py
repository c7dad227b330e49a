"""What each of several processes does, one after the other; `test_processes.py` starts them.

python story.py FOLDER COORDINATOR N I
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from smallest import experiment, talk

from data_zarr.samples import sample_questions
from rsvlm_jax.config import ConfigError, DataError, MeshConfig, Preempted
from rsvlm_jax.mesh import together
from rsvlm_jax.run import agreement
from rsvlm_jax.run.agreement import same_config, same_data
from rsvlm_jax.run.cluster import Cluster
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.processes import joined

STOPPED = 5


def stop_one():
    """SIGTERM to the last process, before its sixth step."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == STOPPED + 1 and together.index() == together.count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    return stop


def said(what, *args) -> str:
    try:
        what(*args)
    except (ConfigError, DataError) as e:
        return f"{type(e).__name__}: {e}"
    return "nothing"


def whole_and_stopped(folder: Path) -> dict:
    fit(experiment(), out=folder / "whole")
    found: dict = {}
    try:
        fit(experiment(), out=folder / "stopped", stop=stop_one())
    except Preempted as e:
        found["stopped"] = str(e)
    if together.index() == 0:
        shutil.copytree(folder / "stopped", folder / "elsewhere")
    fit(experiment(), out=folder / "stopped")
    if (folder / "alone").is_dir():
        fit(experiment(), out=folder / "alone")
    return found


def refusals() -> dict:
    """Of processes that are not alike: the last one is different."""
    last = together.index() == together.count() - 1
    mine = experiment()
    other = dataclasses.replace(mine, train=dataclasses.replace(mine.train, seed=7))
    small = dataclasses.replace(mine, mesh=MeshConfig())
    real = agreement._code_digest
    agreement._code_digest = (lambda: "0123456789abcdef") if last else real
    code = said(same_config, mine)
    agreement._code_digest = real
    return {
        "code": code,
        "config": said(same_config, other if last else mine),
        "alike": said(same_config, mine),
        "data": said(same_data, "other" if last else "same"),
        "mesh": said(lambda: fit(small, out=Path(sys.argv[1]) / "small")),
    }


def scattered() -> list[list[int]]:
    """Rows of a process whose devices do not stand together in the mesh; and of processes that an
    axis lies over which does not split the batch. What lies on the devices is checked."""
    order = np.argsort([d.id % 2 for d in jax.devices()], kind="stable")
    devices = np.array(jax.devices())[order]
    found = []
    for mesh in (
        Mesh(devices[:, None], ("data", "tensor")),
        Mesh(devices[None], ("data", "tensor")),
    ):
        place = NamedSharding(mesh, PartitionSpec("data"))
        rows = together.rows_of(place, 8)
        whole = jax.make_array_from_process_local_data(place, np.arange(8)[rows])
        assert whole.shape == (8,)
        for shard in whole.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), np.arange(8)[shard.index])
        found.append(rows.tolist())
    return found


def main(folder: Path, cluster: Cluster) -> None:
    with joined(cluster, wait=120):
        found = whole_and_stopped(folder)
        images = sample_questions("rsvqa_lr")[0].image.parent
        fit(talk(folder / "few.json", images), out=folder / "talk")
        found |= refusals()
        found["rows"] = scattered()
        (folder / f"process{cluster.process}.json").write_text(json.dumps(found))
        together.each("written")
        if cluster.process == 1:
            raise DataError("no such file", where="/data/on/another/host")
        together.each("never")  # the others wait for the one that has failed


if __name__ == "__main__":
    processes, process = int(sys.argv[3]), int(sys.argv[4])
    try:
        main(Path(sys.argv[1]), Cluster("flags", sys.argv[2], processes, process))
    except DataError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(e.exit_code)
