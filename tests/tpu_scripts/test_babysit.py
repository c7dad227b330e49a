"""A run on a TPU that is taken away: the scripts as they are, on hosts that are directories."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from fake_stage import ROOT, Stage

UNAVAILABLE = "1|ERROR: (gcloud) UNAVAILABLE: The service is currently unavailable."


def watched(stage: Stage, *words: str) -> tuple[str, ...]:
    return (
        "mine", "--type", "v5litepod-16", "--id", "first", "--shared", f"{stage.folder}/shared",
        *words, "--", "experiments/mine.py", "--mesh.fsdp", "-1",
    )  # fmt: skip


@pytest.mark.parametrize("taken", ["SUSPENDED", "SUSPENDING", "FAILED", "mine PREEMPTED"])
def test_fails_twice_is_taken_away_and_finishes(stage: Stage, taken: str):
    """The service fails twice at each step, the TPU goes at step 10, or at first its node alone."""
    verbs = ("describe", "create", "scp", "ssh") if taken == "SUSPENDED" else ()
    stage.write("failures", *(f"{verb}|{UNAVAILABLE}" for verb in verbs for _ in range(2)))
    stage.write("preempt", taken)
    stage.write("workers", "2")
    stage.write("lives", "10", "20 0")
    done = stage.run("babysit.sh", *watched(stage))
    said = done.stderr
    assert done.returncode == 0, said
    lived = sorted(stage.read("lived"))
    assert [line.split()[0] for line in lived] == ["vm0", "vm0", "vm1", "vm1"]
    asked = {line.partition(" ")[2] for line in lived}
    out = f"{stage.folder}/shared/runs/first"
    assert asked == {f"train experiments/mine.py --out {out} --mesh.fsdp -1"}
    assert f"finished: {out}" in said
    assert "going on from the newest checkpoint on a new TPU" in said
    assert "mine costs money until: tpu_scripts/delete.sh mine" in said
    assert len(stage.calls("create")) == (4 if verbs else 2)
    assert len(stage.calls("delete")) == 1, "what was left of the first"


def test_what_was_stopped_or_lost_a_peer_is_started_again(stage: Stage):
    stage.write("lives", "10 75", "20 76", "30 137", "40 0")
    done = stage.run("babysit.sh", *watched(stage, "--delete-at-end", "mine"))
    assert done.returncode == 0, done
    assert len(stage.read("lived")) == 4
    assert len(stage.calls("create")) == 1
    assert not (stage.folder / "state").exists(), "deleted at the end"


@pytest.mark.parametrize("code", [2, 3, 5])
def test_an_error_that_would_come_again_ends_it(stage: Stage, code: int):
    stage.write("lives", f"10 {code}")
    done = stage.run("babysit.sh", *watched(stage))
    assert done.returncode == code
    assert f"training ended with {code}, an error that would come again" in done.stderr
    assert len(stage.read("lived")) == 1


def test_a_checkpoint_that_could_not_be_written(stage: Stage):
    """Tried again after a newer one; without one it would come again."""
    stage.write("lives", "10 4", "20 4", "20 4")
    done = stage.run("babysit.sh", *watched(stage))
    assert done.returncode == 4
    assert "training ended with 4, an error that would come again" in done.stderr
    assert len(stage.read("lived")) == 3


def test_one_slice_of_two_is_taken_away(stage: Stage):
    """gcloud leaves it out of what it asks, and says that all is well."""
    stage.write("preempt", "mine-1 PREEMPTED")
    stage.write("lives", "10", "20 0")
    done = stage.run("babysit.sh", *watched(stage, "--slices", "2"))
    assert done.returncode == 0, done
    assert "the node mine-1 is PREEMPTED" in done.stderr
    assert len(stage.calls("delete")) == 1
    lived = [line.split()[0] for line in stage.read("lived")]
    assert sorted(lived) == ["vm0-0", "vm0-0", "vm1-0", "vm1-0"]


def test_a_node_that_is_not_found_is_waited_for(stage: Stage):
    """While its request is ACTIVE it may be only the answer that is wrong."""
    stage.write("state", "ACTIVE")
    stage.write("type", "v5litepod-16")
    stage.write("grants", *["ACTIVE"] * 9, "SUSPENDED")
    stage.write("preempt", "mine NOT_FOUND")
    stage.write("lives", "10", "20 0")
    done = stage.run("babysit.sh", *watched(stage))
    assert done.returncode == 0, done
    assert "mine is SUSPENDED" in done.stderr
    assert "the node mine is" not in done.stderr
    assert len(stage.calls("delete")) == 1


def test_a_service_that_is_away_for_long(stage: Stage):
    """While it watches, and when the TPU is to be given back."""
    away = [f"{verb}|{UNAVAILABLE}" for verb in ("describe", "delete") for _ in range(17)]
    stage.write("storm", "ssh|hang|", *away)
    stage.write("lives", "10 0 0.5")
    stage.environment["RSVLM_ANSWER"] = "0.3"
    done = stage.run("babysit.sh", *watched(stage, "--delete-at-end", "mine"))
    assert done.returncode == 0, done
    assert "the service does not answer (error: gcloud failed 5 times" in done.stderr
    assert (
        "the workers do not answer (error: gcloud failed 1 times (ERROR: no end within 0.3 s"
        in (done.stderr)
    )
    assert not (stage.folder / "state").exists()
    assert len(stage.calls("create")) == 1


def test_an_error_of_its_own_gives_the_tpu_back(stage: Stage):
    stage.write("state", "ACTIVE")
    stage.write("type", "v5litepod-16")
    stage.write("lives", "10")
    stage.environment["RSVLM_POLL"] = "soon"
    done = stage.run("babysit.sh", *watched(stage, "--delete-at-end", "mine"))
    assert done.returncode == 1
    assert "sleep: invalid time interval" in done.stderr
    assert not (stage.folder / "state").exists()


def test_what_is_somebody_elses_is_not_given_back(stage: Stage):
    stage.write("state", "ACTIVE")
    stage.write("type", "v6e-8")
    line = stage.refused("babysit.sh", *watched(stage, "--delete-at-end", "mine"))
    assert "the name exists already: mine is a v6e-8" in line
    assert not stage.calls("delete")


def test_no_capacity_is_asked_for_again(stage: Stage):
    stage.write("granted", "FAILED", "FAILED")
    stage.write("failure", "There is no more capacity in the zone")
    stage.write("lives", "10 0")
    done = stage.run("babysit.sh", *watched(stage))
    assert done.returncode == 0, done
    assert "was not granted: FAILED (There is no more capacity in the zone)" in done.stderr
    assert len(stage.calls("create")) == 3
    pauses = [line for line in done.stderr.splitlines() if line.startswith("asking again in ")]
    assert pauses == [f"asking again in {n} times 0.02 s" for n in (2, 4)]


def test_what_runs_from_another_commit_is_watched_to_its_end(stage: Stage):
    stage.write("state", "ACTIVE")
    stage.write("type", "v5litepod-16")
    shared = ("--shared", f"{stage.folder}/shared")
    assert stage.run("setup_workers.sh", "mine", *shared).returncode == 0
    stage.write("lives", "10 76 0.5", "20 0")
    start = ("--id", "first", "--", "rsvlm", "train", "x.py", "--out",
             f"{stage.folder}/shared/runs/first")  # fmt: skip
    assert stage.run("run_all_workers.sh", "mine", *start).returncode == 0
    stage.write("commit", "fedcba9876543210")
    done = stage.run("babysit.sh", *watched(stage))
    assert done.returncode == 0, done
    assert "watching what runs there" in done.stderr
    assert (stage.folder / "vm0/rsvlm_jax").readlink().name == "rsvlm_jax.fedcba9876543210"
    assert len(stage.read("lived")) == 2


def test_it_gives_up_without_progress(stage: Stage):
    stage.write("lives", *["10 1"] * 5)
    done = stage.run("babysit.sh", *watched(stage))
    assert done.returncode == 1
    assert "ended with 1, 4 times since the checkpoint of step 10; gave up" in done.stderr
    assert len(stage.read("lived")) == 4


def test_stopped_and_started_again_it_watches_the_same_run(stage: Stage):
    stage.write("workers", "2")
    stage.write("lives", "10")
    going = subprocess.Popen(
        [ROOT / "tpu_scripts/babysit.sh", *watched(stage)],
        env=stage.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    limit = time.monotonic() + 20
    while len(stage.calls("ssh")) < 4 and time.monotonic() < limit:
        time.sleep(0.01)
    going.send_signal(signal.SIGTERM)
    assert "the run goes on" in going.communicate(timeout=10)[1]
    assert going.returncode == 143
    states = stage.run("run_all_workers.sh", "mine", "--id", "first", "--state")
    assert [line.split()[2:] for line in states.stdout.splitlines()] == [["running", "-", "10"]] * 2
    stage.write("lives", "10", "20 0")
    assert stage.run("run_all_workers.sh", "mine", "--id", "first", "--stop").returncode == 0
    done = stage.run("babysit.sh", *watched(stage))
    assert done.returncode == 0, done
    assert len(stage.calls("create")) == 1
    assert sum("uv pip" in line for line in stage.read("calls")) == 2, "installed once a host"


def test_stopped_while_it_waits_for_a_tpu(stage: Stage):
    stage.write("state", "WAITING_FOR_RESOURCES")
    stage.write("type", "v5litepod-16")
    stage.environment["RSVLM_POLL"] = "5"
    going = subprocess.Popen(
        [ROOT / "tpu_scripts/babysit.sh", *watched(stage)],
        env=stage.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert going.stderr is not None
    assert "mine is there: WAITING_FOR_RESOURCES" in going.stderr.readline()
    going.terminate()
    assert going.wait(4) == 143
    assert "the same command watches it again" in going.stderr.read()


def test_time_that_is_over(stage: Stage):
    stage.write("lives", "10")
    done = stage.run("babysit.sh", *watched(stage, "--limit", "3s", "--delete-at-end", "mine"))
    assert done.returncode == 75
    assert "3s are over; the run can be gone on with" in done.stderr
    said = [line.replace("\\", "") for line in stage.read("calls")]
    stop = next(i for i, line in enumerate(said) if line.endswith("stop first"))
    assert [line.split()[-1] for line in said[stop + 1 : -2]] == ["first"] * (len(said) - stop - 3)
    assert " delete " in said[-1], "after it has saved"
    assert not (stage.folder / "state").exists(), "deleted at the end"


@pytest.mark.slow
def test_real_training_is_taken_away_and_finishes(stage: Stage):
    """`rsvlm train` itself, on one host."""
    stage.write(
        "rsvlm",
        "#!/usr/bin/env bash",
        f'PYTHONPATH={ROOT} exec {sys.executable} -m rsvlm_jax.cli.main "$@"',
    )
    (stage.folder / "rsvlm").chmod(0o755)
    smallest = ROOT / "tests/processes/smallest.py"
    run = stage.folder / "shared/runs/first"
    words = ("mine", "--type", "v5litepod-4", "--id", "first", "--env", "JAX_PLATFORMS=cpu",
             "--shared", f"{stage.folder}/shared", "--", str(smallest),
             "--train.steps", "40")  # fmt: skip
    stage.environment["RSVLM_POLL"] = "0.2"
    going = subprocess.Popen([ROOT / "tpu_scripts/babysit.sh", *words], env=stage.environment)
    limit = time.monotonic() + 200
    while not list(run.glob("checkpoints/*/manifest.json")) and time.monotonic() < limit:
        time.sleep(0.05)
    stage.write("preempt", "SUSPENDED")
    assert going.wait(300) == 0
    assert not (stage.folder / "preempt").exists(), "it was taken away"
    steps = [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
