"""Scripts for pods: clean, quoted, dry runs as the README shows them, one line for bad input."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_stage import FAKES, ROOT, Stage

SCRIPTS = ROOT / "tpu_scripts"
SHELL = sorted([*SCRIPTS.glob("*.sh"), SCRIPTS / "slurm.sbatch"])
TPU = ("create_queued_resource", "setup_workers", "run_all_workers", "babysit", "collect_logs",
       "delete")  # fmt: skip
NEEDED = {
    "create_queued_resource.sh": ("--type", "v5litepod-16"),
    "setup_workers.sh": (),
    "run_all_workers.sh": ("--", "true"),
    "babysit.sh": ("--type", "v5litepod-16", "--id", "first", "--", "mine.py"),
    "collect_logs.sh": ("--id", "first"),
    "delete.sh": ("--typed", "mine"),
}
"""What each has to be told beside the name and the zone."""
RUN = ("mine", "--type=v6e-8", "--id=a")


def test_shellcheck():
    """All of them, the fakes too, and the scripts inside of sky.yaml."""
    shellcheck = Path(sys.executable).parent / "shellcheck"
    files = [*map(str, SHELL), *map(str, FAKES.iterdir())]
    done = subprocess.run([shellcheck, "-x", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SHELL, ids=lambda p: p.name)
def test_each_is_strict_and_helps(script: Path):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    text = script.read_text()
    assert "set -euo pipefail" in text or '/common.sh"' in text
    if script.name == "common.sh":
        return
    assert script.suffix == ".sbatch" or os.access(script, os.X_OK)
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert "--dry-run" in done.stdout


def transcripts() -> list[tuple[str, str]]:
    """Commands of the README's console blocks, and what stands below each."""
    blocks = re.findall(r"```console\n(.*?)```", (SCRIPTS / "README.md").read_text(), re.S)
    pairs = [
        part.partition("\n") for block in blocks for part in re.split(r"^\$ ", block, flags=re.M)
    ]
    return [(command, output) for command, _, output in pairs if command]


@pytest.mark.parametrize(("command", "output"), transcripts(), ids=lambda text: text[:60])
def test_dry_runs_are_as_the_readme_shows_them(command: str, output: str):
    """Nothing is needed and nothing is run: there is no tool on this PATH."""
    assert "--dry-run" in command
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere"}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done
    assert done.stdout == output
    assert "error" not in done.stderr


def test_the_readme_shows_each_script():
    shown = {
        word for command, _ in transcripts() for word in re.findall(r"tpu_scripts/(\S+)", command)
    }
    assert shown == {p.name for p in SHELL} - {"common.sh", "worker.sh"}


def test_a_word_with_everything_in_it_arrives_as_it_was(stage: Stage):
    """Through the script, ssh's shell and the host's."""
    stage.write("lives", "1 0")
    create(stage)
    odd = "a 'b' \"c\" $HOME `id` \\ & ; * é"
    env = ("--env", "TOKENIZERS_PARALLELISM=false")  # which is no secret
    done = stage.run("run_all_workers.sh", "mine", *env, "--", "printf", "%s|", odd, "")
    assert done.returncode == 0, done
    assert done.stdout.startswith(f"{odd}||rsvlm-ended ")


def create(stage: Stage) -> None:
    assert (
        stage.run(
            "create_queued_resource.sh", "mine", "--type=v5e", "--runtime=x", "--wait"
        ).returncode
        == 0
    )
    done = stage.run("setup_workers.sh", "mine", "--shared", f"{stage.folder}/shared")
    assert done.returncode == 0, done


def test_a_story_by_hand(stage: Stage):
    stage.write("lives", "7 0")
    stage.write("workers", "2")
    create(stage)
    assert (
        stage.run("create_queued_resource.sh", "mine", "--type", "v5e", "--runtime=x").returncode
        == 0
    )
    assert len(stage.calls("create")) == 1, "it was there"
    (create_line,) = stage.calls("create")
    assert "--spot" in create_line
    assert "--valid-until-duration 6h" in create_line
    create(stage)
    assert sum("uv pip" in line for line in stage.read("calls")) == 2, "once a host"
    for i in range(2):
        secret = stage.folder / f"vm{i}" / ".rsvlm_env"
        secret.write_text("RSVLM_SECRET=here\n")
        secret.chmod(0o600)
    out = f"{stage.folder}/shared/runs/first"
    run = (
        "run_all_workers.sh",
        "mine",
        "--id",
        "first",
        "--",
        "rsvlm",
        "train",
        "x.py",
        "--out",
        out,
    )
    assert stage.run(*run).returncode == 0
    to = stage.folder / "logs"
    stage.run("run_all_workers.sh", "mine", "--", "sleep", "0.1")
    done = stage.run(
        "collect_logs.sh",
        "mine",
        "--id",
        "first",
        "--to",
        str(to),
        "--shared",
        f"{stage.folder}/shared",
    )
    assert done.returncode == 0, done
    for host in ("vm0", "vm1"):
        assert (to / f"{host}.log").read_text() == f"step 7 of the run in {out}, secret here\n"
    assert (to / "first.tgz").stat().st_size > 0
    assert "here" not in "".join(stage.read("calls")), "a secret on a command line"
    assert stage.run("delete.sh", "mine", typed="mine\n").returncode == 0
    assert stage.run("delete.sh", "mine").returncode == 0, "nothing to delete"


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("script", NEEDED)
def test_gcloud_that_is_not_there(stage: Stage, script: str):
    stage.environment["PATH"] = f"{stage.folder}/tools"
    line = stage.refused(script, "mine", *NEEDED[script])
    assert line.startswith("error: gcloud is not on PATH; install the Google Cloud CLI")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ERROR: You do not currently have an active account selected.", "no credentials"),
        ("ERROR: (gcloud.x) Reauthentication failed", "no credentials"),
        ("ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' has been exceeded. Limit: 0 in "
         "zone us-central1-a.", "no quota in us-central1-a"),
        ("ERROR: ALREADY_EXISTS: Resource 'mine' already exists", "the name exists already"),
        ("ERROR: PERMISSION_DENIED: The caller does not have permission", "no permission"),
        ("ERROR: The [queued_resource] resource is not properly specified.", "no project"),
        ("ERROR: (gcloud.x) INVALID_ARGUMENT: unknown accelerator", "refused"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("script", ["create_queued_resource.sh", "babysit.sh"])
def test_what_no_retry_mends(stage: Stage, script: str, said: str, line: str):
    stage.write("failures", f"create|1|{said}")
    found = stage.refused(script, "mine", *NEEDED[script])
    assert found.startswith(f"error: {line} ({said})")
    assert len(stage.calls("create")) == 1


def test_a_service_that_does_not_come_back(stage: Stage):
    stage.write("failures", *["describe|1|ERROR: UNAVAILABLE"] * 9)
    line = stage.refused("delete.sh", "mine", code=69)
    assert line == "error: gcloud failed 5 times (ERROR: UNAVAILABLE)"


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Requests' per minute",
        "WARNING: no quota project is set. ERROR: UNAVAILABLE",
    ],
)
def test_what_only_sounds_like_quota(stage: Stage, said: str):
    stage.write("failures", f"create|1|{said}")
    done = stage.run("create_queued_resource.sh", "mine", "--type", "v5litepod-16")
    assert done.returncode == 0
    assert len(stage.calls("create")) == 2


GONE = "NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/mine' was not found"


def test_a_request_that_was_made_by_a_try_that_failed(stage: Stage):
    stage.write("failures", "create|done|ERROR: UNAVAILABLE")
    words = ("mine", "--type", "v5litepod-16")
    assert stage.run("create_queued_resource.sh", *words).returncode == 0
    assert len(stage.calls("create")) == 1, "it was looked at again"
    stage.write("failures", "delete|done|ERROR: UNAVAILABLE")
    assert stage.run("delete.sh", "mine", "--typed", "mine").returncode == 0
    assert len(stage.calls("delete")) == 1


def test_a_request_that_only_the_next_try_sees(stage: Stage):
    unseen = [f"describe|1|ERROR: (gcloud.x) {GONE}"] * 2
    stage.write("failures", "create|done|ERROR: UNAVAILABLE", *unseen)
    done = stage.run("create_queued_resource.sh", "mine", "--type", "v5litepod-16")
    assert done.returncode == 0, done
    assert len(stage.calls("create")) == 2
    stage.write("failures", f"delete|1|ERROR: (gcloud.x) {GONE}")
    assert stage.run("delete.sh", "mine", "--typed", "mine").returncode == 0


@pytest.mark.parametrize("what", ["Project 'mine'", "Zone 'mine'", "Resource 'projects/mine'"])
def test_not_found_is_not_always_that_it_is_not_there(stage: Stage, what: str):
    stage.write("failures", *[f"describe|1|ERROR: (gcloud.x) NOT_FOUND: {what} was not found"] * 5)
    words = ("mine", "--type", "v5litepod-16")
    stage.refused("create_queued_resource.sh", *words, code=69)
    assert not stage.calls("create")


def test_what_a_program_on_a_worker_calls_an_error_is_tried_again(stage: Stage):
    stage.write("failures", *["ssh|1|error: Failed to fetch: it already exists, forbidden"] * 2)
    create(stage)
    assert len(stage.calls("ssh")) == 3


def test_code_is_not_changed_below_a_run(stage: Stage):
    stage.write("lives", "10")
    create(stage)
    link = stage.folder / "vm0" / "rsvlm_jax"
    words = ("--id", "first", "--", "rsvlm", "train", "x.py", "--out", f"{stage.folder}/shared/x")
    assert stage.run("run_all_workers.sh", "mine", *words).returncode == 0
    stage.write("commit", "fedcba9876543210")
    line = stage.refused("setup_workers.sh", "mine", "--shared", f"{stage.folder}/shared", code=75)
    assert line.startswith(
        "error: a worker says: first is running on vm0 from another commit; stop"
    )
    assert link.readlink() == Path("rsvlm_jax.0123456789abcdef")
    stage.run("run_all_workers.sh", "mine", "--id", "first", "--stop")
    limit = time.monotonic() + 10
    while "running" in stage.run("run_all_workers.sh", "mine", "--id", "first", "--state").stdout:
        assert time.monotonic() < limit
    create(stage)
    assert link.readlink() == Path("rsvlm_jax.fedcba9876543210")
    assert (link / "tpu_scripts/worker.sh").exists()


def worker(stage: Stage, *words: str, path: str = "") -> subprocess.Popen[str]:
    """worker.sh on vm0 itself."""
    home = stage.folder / "vm0"
    home.mkdir(exist_ok=True)
    environment = {**stage.environment, "HOME": str(home)}
    if path:
        environment["PATH"] = path
    return subprocess.Popen(
        [str(SCRIPTS / "worker.sh"), *words],
        env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_starts_at_once_are_one(stage: Stage):
    stage.write("lives", "10 0 0.3", "20 0")
    create(stage)
    words = ("start", "first", "rsvlm", "train", "x.py", "--out", f"{stage.folder}/shared/x")
    both = [worker(stage, *words) for _ in "ab"]
    said = sorted(process.communicate(timeout=10)[0] for process in both)
    assert said == ["rsvlm-start vm0 runs first already\n", "rsvlm-start vm0 started first\n"]
    time.sleep(0.5)  # a start that waits for the first to end would begin now
    assert len(stage.read("lived")) == 1


def test_a_worker_whose_path_is_bare(stage: Stage):
    """As over ssh: what pip installs for one user is found all the same."""
    tools = stage.folder / "bare"
    tools.mkdir()
    for tool in ("bash", "basename", "cat", "chmod", "dirname", "flock", "ln", "mkdir", "mv", "rm",
                 "touch"):  # fmt: skip
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (tools / "hostname").symlink_to(FAKES / "hostname")
    (tools / "env").symlink_to("/usr/bin/env")
    python = tools / "python3"
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'mkdir -p "$HOME/.local/bin"; ln -s "{FAKES}/uv" "$HOME/.local/bin/uv"\n'
        f'echo "python3 $*" >>"$FAKE/calls"\n'
    )
    python.chmod(0o755)
    process = worker(stage, "setup", "abc", f"{stage.folder}/shared", path=str(tools))
    said = process.communicate(timeout=10)
    assert process.returncode == 0, said
    assert said[0] == "rsvlm-setup vm0 installed abc\n"
    calls = stage.read("calls")
    assert calls[0] == "python3 -m pip install --user --quiet uv"
    assert calls[1].startswith("uv venv")


def test_a_new_host_that_still_installs(stage: Stage):
    process = worker(stage, "--dry-run", "setup", "abc", f"{stage.folder}/none", "h:/share")
    said = process.communicate(timeout=10)[0]
    assert "sudo apt-get -o DPkg::Lock::Timeout=600 install -q -y nfs-common" in said


def test_a_request_that_was_refused_later(stage: Stage):
    """The service says why when it has thought about it."""
    stage.write("granted", "ACCEPTED FAILED")
    stage.write("failure", "Quota limit 'TPUV5s' has been exceeded. Limit: 0")
    words = ("mine", "--type", "v5litepod-16", "--wait")
    line = stage.refused("create_queued_resource.sh", *words)
    assert line.startswith(
        "error: no quota in us-central1-a (Quota limit 'TPUV5s' has been exceeded"
    )


def test_a_name_that_exists_as_something_else(stage: Stage):
    stage.write("state", "ACTIVE")
    stage.write("type", "v6e-8")
    line = stage.refused("create_queued_resource.sh", "mine", "--type", "v5litepod-16")
    assert "the name exists already: mine is a v6e-8; expected v5litepod-16; take another" in line
    assert not stage.calls("create")


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_what_is_left_of_a_request(stage: Stage, state: str):
    stage.write("state", state)
    stage.write("type", "v5litepod-16")
    line = stage.refused("create_queued_resource.sh", "mine", "--type", "v5litepod-16")
    assert line.startswith(f"error: mine is {state}; give --replace, or delete.sh mine --zone ")
    assert not stage.calls("delete")


def test_a_request_that_is_not_granted(stage: Stage):
    stage.write("state", "WAITING_FOR_RESOURCES")
    stage.write("type", "v5litepod-16")
    stage.write("grants", "FAILED")
    words = ("mine", "--type", "v5litepod-16", "--wait")
    line = stage.refused("create_queued_resource.sh", *words, code=75)
    assert line.startswith("error: mine was not granted: FAILED (no capacity within 6h, or taken")


def test_a_name_that_was_typed_wrongly(stage: Stage):
    stage.write("state", "ACTIVE")
    stage.write("type", "v5litepod-16")
    for typed in ("min\n", ""):
        assert stage.refused("delete.sh", "mine", typed=typed).startswith(
            "error: nothing was deleted"
        )
    assert stage.refused("delete.sh", "mine", "--typed", "yours").endswith(
        "typed 'yours', not 'mine'"
    )
    assert not stage.calls("delete")


def test_a_shared_directory_that_is_not_there(stage: Stage):
    stage.write("state", "ACTIVE")
    line = stage.refused("setup_workers.sh", "mine", "--shared", f"{stage.folder}/none")
    assert line == (
        f"error: a worker says: no directory for all workers at {stage.folder}/none; give --nfs "
        "HOST:/SHARE"
    )


@pytest.mark.parametrize(
    ("script", "words", "line"),
    [
        ("babysit.sh", ("mine", "--tipe", "x"), "no such option: --tipe"),
        ("babysit.sh", ("mine", "--type"), "--type needs a value"),
        ("babysit.sh", ("mine", "--type", "--id"), "--type needs a value"),
        ("babysit.sh", ("Mine",), "the name: expected lower-case letters"),
        ("babysit.sh", (), "no name given"),
        ("babysit.sh", ("mine", "yours"), "one name only; found mine and yours"),
        ("babysit.sh", ("mine", "--type", "v6e-8"), "no run given"),
        ("babysit.sh", ("mine", "--type", "v6e-8", "--id", "a/b"), "--id: expected lower-case"),
        ("babysit.sh", ("mine", "--type", "v6e-8", "--id", "a"), "no experiment given"),
        ("babysit.sh", ("mine", "--type=v6e-8", "--id=a", "--limit=soon"), "--limit: expected"),
        ("babysit.sh", ("mine", "--type=v6e-8", "--id=a", "--delete-at-end=b"), "--delete-at-end"),
        ("babysit.sh", ("mine", "--type=v6e-8", "--id=a", "--", "x.py", "--out", "b"), "--out is"),
        ("babysit.sh", ("mine", "--type=v9-8", "--id=a", "--", "x.py"), "no image is known for"),
        ("babysit.sh", (*RUN, "--env", "hf_token=abc", "--", "x.py"), "hf_token looks like"),
        ("babysit.sh", (*RUN, "--flags", "gpu_overlap", "--", "x.py"), "gpu_overlap is for gpu"),
        ("babysit.sh", (*RUN, "--nfs", "10.0.0.2", "--", "x.py"), "--nfs: expected HOST:/SHARE"),
        ("babysit.sh", (*RUN, "--shared", "mnt", "--", "x.py"), "--shared: expected an absolute"),
        ("babysit.sh", (*RUN, "--slices", "0", "--", "x.py"), "--slices: expected 1 or more"),
        ("babysit.sh", (*RUN, "--", "absent:2"), "experiments/absent.py is not in the last commit"),
        ("babysit.sh", (*RUN, "--", "my/absent.py"), "my/absent.py is not in the last commit"),
        ("create_queued_resource.sh", ("mine",), "no type given"),
        ("create_queued_resource.sh", ("mine", "--type=v6e-8", "--slices=0"), "--slices: expected"),
        ("create_queued_resource.sh", ("mine", "--type=v6e-8", "--valid-until-duration", "6"),
         "--valid-until-duration: expected a number with s, m, h or d; found '6'"),
        ("run_all_workers.sh", ("mine",), "no command given"),
        ("run_all_workers.sh", ("mine", "--state"), "--state needs --id"),
        ("run_all_workers.sh", ("mine", "--flags", "overlp", "--", "true"), "no such group"),
        ("run_all_workers.sh", ("mine", "--env", "x", "--", "true"), "--env: expected NAME=VALUE"),
        ("run_all_workers.sh", ("mine", "--env", "HF_TOKEN=abc", "--", "true"), "HF_TOKEN looks"),
        ("run_all_workers.sh", ("mine", "--", "env", "API_KEY=abc", "x"), "API_KEY looks like"),
        ("setup_workers.sh", ("mine", "--nfs", "10.0.0.2"), "--nfs: expected HOST:/SHARE"),
        ("collect_logs.sh", ("mine",), "no run given"),
    ],
)  # fmt: skip
def test_wrong_options(stage: Stage, script: str, words: tuple[str, ...], line: str):
    found = stage.refused(script, *words)
    assert found.startswith(f"error: {line}")
    assert "abc" not in found
    assert not stage.read("calls"), "before anything is asked for"


def test_no_zone(stage: Stage):
    del stage.environment["CLOUDSDK_COMPUTE_ZONE"]
    assert stage.refused("delete.sh", "mine").startswith("error: no zone given")
