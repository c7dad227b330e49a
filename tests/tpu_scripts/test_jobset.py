"""The JobSet of a run, and the SkyPilot file: YAML with the fields that their documents name."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml
from fake_stage import ROOT, Stage

WORDS = ("first", "--accelerator", "tpu-v5-lite-podslice", "--topology", "4x4", "--image",
         "europe-docker.pkg.dev/p/r/rsvlm:1", "--claim", "runs")  # fmt: skip
EXPERIMENT = ("--", "experiments/mine.py")

JOBSET = {
    "": "apiVersion kind metadata spec",
    "spec": "ttlSecondsAfterFinished failurePolicy replicatedJobs",
    "spec.failurePolicy": "maxRestarts rules",
    "spec.failurePolicy.rules.0": "name action onJobFailureReasons",
    "spec.replicatedJobs.0": "name replicas template",
    "spec.replicatedJobs.0.template": "spec",
    "spec.replicatedJobs.0.template.spec": "completionMode parallelism completions backoffLimit "
    "activeDeadlineSeconds podFailurePolicy template",
    "spec.replicatedJobs.0.template.spec.podFailurePolicy.rules.0": "action onExitCodes",
    "spec.replicatedJobs.0.template.spec.template": "metadata spec",
    "spec.replicatedJobs.0.template.spec.template.spec": "restartPolicy "
    "terminationGracePeriodSeconds nodeSelector tolerations containers volumes",
    "spec.replicatedJobs.0.template.spec.template.spec.containers.0": "name image command args env "
    "ports resources volumeMounts",
}
"""Fields by place: JobSet v1alpha2, and Job and Pod of Kubernetes."""


def at(tree: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        tree = tree[int(part) if part.isdecimal() else part]
    return tree


def rendered(stage: Stage, *words: str) -> Any:
    done = stage.run("jobset.sh", *WORDS, *words)
    assert done.returncode == 0, done
    return yaml.safe_load(done.stdout)


def test_every_field_is_one_that_there_is(stage: Stage):
    found = rendered(stage, *EXPERIMENT)
    assert "@" not in str(found)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    for path, fields in JOBSET.items():
        assert set(at(found, path)) == set(fields.split()), path


def test_what_it_says(stage: Stage):
    odd = 'a "b" \\ & @NAME@'
    found = rendered(stage, "--slices", "2", "--flags", "overlap", *EXPERIMENT, "--note", odd)
    job = found["spec"]["replicatedJobs"][0]
    assert job["replicas"] == 2
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3, 5]
    assert found["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "which a podFailurePolicy asks for"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    (container,) = pod["containers"]
    assert container["command"] + container["args"] == [
        "rsvlm", "train", "experiments/mine.py", "--out", "/mnt/rsvlm/runs/first", "--note", odd
    ]  # fmt: skip
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["LIBTPU_INIT_ARGS"].startswith("--xla_enable_async_all_gather=true --")
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_on_demand(stage: Stage):
    found = rendered(stage, "--on-demand", "--topology", "4x4x4", *EXPERIMENT)
    spec = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["parallelism"] == 16
    pod = spec["template"]["spec"]
    assert "cloud.google.com/gke-spot" not in pod["nodeSelector"]
    assert pod["terminationGracePeriodSeconds"] == 300


def test_applied_once_after_two_failures(stage: Stage):
    unavailable = "1|Unable to connect to the server: net/http: TLS handshake timeout"
    stage.write("failures", *[f"{verb}|{unavailable}" for verb in ("get", "apply") for _ in "ab"])
    done = stage.run("jobset.sh", *WORDS, "--apply", *EXPERIMENT)
    assert done.returncode == 0, done
    applied = yaml.safe_load((stage.folder / "applied.yaml").read_text())
    assert applied == rendered(stage, *EXPERIMENT)
    line = stage.refused("jobset.sh", *WORDS, "--apply", *EXPERIMENT)
    assert line.startswith(
        "error: the name exists already: jobset.jobset.x-k8s.io/first; see it by"
    )


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("error: You must be logged in to the server (Unauthorized)", "no credentials"),
        ('error: the server doesn\'t have a resource type "jobset"', "no JobSet controller"),
    ],
)
def test_what_kubectl_says_and_no_retry_mends(stage: Stage, said: str, line: str):
    stage.write("failures", f"get|1|{said}")
    found = stage.refused("jobset.sh", *WORDS, "--apply", *EXPERIMENT)
    assert found.startswith(f"error: {line}")
    assert f"({said})" in found
    assert not [call for call in stage.read("calls") if "apply" in call]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--topology", "4*4", *EXPERIMENT), "--topology: found '4*4'"),
        (("--topology", "16", *EXPERIMENT), "--topology: expected 4x4 or 4x4x4; found '16'"),
        (("--topology", "3x3", *EXPERIMENT), "--topology: 9 chips do not divide into hosts of 4"),
        (("--image", "x\nimage: y", *EXPERIMENT), "--image: found"),
        (("--claim", "", *EXPERIMENT), "--claim needs a value"),
        (("--hours", "0", *EXPERIMENT), "--hours: expected 1 or more; found '0'"),
        (("--zone", "z", *EXPERIMENT), "no such option: --zone"),
        (("--flags", "gpu_overlap", *EXPERIMENT), "gpu_overlap is for gpu; expected groups for"),
        ((), "no experiment given"),
        ((*EXPERIMENT, "--out=x"), "--out is /mnt/rsvlm/runs/first"),
    ],
)
def test_wrong_options_of_a_jobset(stage: Stage, words: tuple[str, ...], line: str):
    assert stage.refused("jobset.sh", *WORDS, *words).startswith(f"error: {line}")


def test_kubectl_that_is_not_there(stage: Stage):
    stage.environment["PATH"] = f"{stage.folder}/tools"
    line = stage.refused("jobset.sh", *WORDS, "--apply", *EXPERIMENT)
    assert line.startswith("error: kubectl is not on PATH; install it")


def test_the_skypilot_file():
    found = yaml.safe_load((ROOT / "tpu_scripts/sky.yaml").read_text())
    assert set(found) == {"name", "workdir", "resources", "envs", "setup", "run"}
    resources = found["resources"]
    assert set(resources) == {
        "infra", "accelerators", "accelerator_args", "use_spot", "max_hourly_cost", "autostop",
        "job_recovery",
    }  # fmt: skip
    assert resources["use_spot"] is True
    assert resources["job_recovery"]["recover_on_exit_codes"] == [75, 76]
    for part in ("setup", "run"):
        checked = subprocess.run(["bash", "-n"], input=found[part], text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr
        assert found[part].startswith("set -euo pipefail\n")
    assert "sudo chmod a+rwx /mnt/rsvlm" in found["setup"], "a new share belongs to root"
    assert "apt-get -o DPkg::Lock::Timeout=" in found["setup"]
