"""The batch script: which ends of training requeue it."""

from __future__ import annotations

import subprocess

import pytest
from fake_stage import ROOT, Stage


def submit(stage: Stage, **environment: str) -> subprocess.CompletedProcess[str]:
    """As SLURM runs it, again after each requeue, at most ten times."""
    for count in range(10):
        requeued = len(stage.calls("requeue"))
        done = subprocess.run(
            ["bash", ROOT / "tpu_scripts/slurm.sbatch", "mine.py", "--out", f"{stage.folder}/run"],
            env={**stage.environment, "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(count),
                 "SLURM_CPUS_PER_TASK": "4", **environment},
            cwd=stage.folder, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        if done.returncode or len(stage.calls("requeue")) == requeued:
            break
    return done


def test_stopped_lost_a_peer_crashed_and_finished(stage: Stage):
    stage.write("lives", "10 75", "10 75", "20 76", "30 137", "40 0")
    stage.write("failures", "twice", "at first")
    assert submit(stage).returncode == 0
    assert not stage.read("lives")
    assert len(stage.calls("requeue")) == 4 + 2
    assert stage.read("calls")[0] == (
        f"srun --kill-on-bad-exit=0 rsvlm train mine.py --out {stage.folder}/run"
    )


@pytest.mark.parametrize("code", [2, 3, 5])
def test_an_error_that_would_come_again_is_not_requeued(stage: Stage, code: int):
    stage.write("lives", f"10 {code}")
    done = submit(stage)
    assert done.returncode == code
    assert done.stderr == f"error: training ended with {code}, an error that would come again\n"
    assert not stage.calls("requeue")


def test_a_crash_without_progress_is_not_requeued(stage: Stage):
    stage.write("lives", "10 1", "10 1", "10 1")
    done = submit(stage)
    assert done.returncode == 1
    assert done.stderr == "error: training ended with 1 and no newer checkpoint; not requeued\n"
    assert len(stage.calls("requeue")) == 1


def test_a_controller_that_does_not_answer(stage: Stage):
    stage.write("lives", "10 75")
    stage.write("failures", *"abcdef")
    done = submit(stage)
    assert done.returncode == 75
    assert (
        "error: the job could not be requeued; submit it again: it goes on from step 10"
        in done.stderr
    )


def test_requeues_have_an_end(stage: Stage):
    stage.write("lives", *["10 75"] * 5)
    done = submit(stage, RSVLM_REQUEUES="2")
    assert done.returncode == 75
    assert len(stage.calls("requeue")) == 2


def test_containers(stage: Stage):
    for image, words in {
        "a.sif": "apptainer exec --nv --bind {0} --pwd {0} a.sif rsvlm",
        "nvcr.io/a:1": "--container-image nvcr.io/a:1 --container-mounts {0}:{0} "
        "--container-workdir {0} rsvlm",
    }.items():
        stage.write("lives", "10 0")
        assert submit(stage, RSVLM_CONTAINER=image).returncode == 0
        assert words.format(stage.folder) in stage.read("calls")[-1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "usage: "),
        (("--out", "x"), "no experiment given"),
        (("mine.py",), "no run directory given; expected --out RUN"),
        (("mine.py", "--out", "x"), "not in a job; submit this with sbatch"),
    ],
)
def test_wrong_words(stage: Stage, words: tuple[str, ...], line: str):
    done = subprocess.run(
        ["bash", ROOT / "tpu_scripts/slurm.sbatch", *words],
        env=stage.environment, capture_output=True, text=True,
    )  # fmt: skip
    said = done.stdout if not words else done.stderr
    assert said.startswith(line if not words else f"error: {line}")
    assert done.returncode == (2 if words else 0)


def test_srun_that_is_not_there(stage: Stage):
    done = submit(stage, PATH=f"{stage.folder}/tools")
    assert done.returncode == 2
    assert done.stderr == "error: srun is not on PATH; submit this with sbatch\n"
