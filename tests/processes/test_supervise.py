"""The supervisor's decisions, with children that only pretend to train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rsvlm_jax.config import ConfigError
from rsvlm_jax.run import supervise as module
from rsvlm_jax.run.supervise import TRIES, Ended, supervise

CHILD = """
import json, os, pathlib, signal, sys, time
words = sys.argv[1:]
number = int(words[words.index("--process") + 1]) if "--process" in words else 0
out = pathlib.Path(words[0])
lives = out / f"lives{number}"
life = len(lives.read_text()) if lives.exists() else 0
lives.write_text("x" * (life + 1))

def finish(step):
    folder = out / "checkpoints" / str(step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").touch()

def end(code, line="x"):
    print(json.dumps({"error": line, "exit_code": code} if code else {"step": life}))
    if code:
        sys.stderr.write(f"error: {line}\\n")
    sys.exit(code)

def crash():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(tmp_path: Path, code: str, processes: int = 2, say=None) -> Ended:
    command = [sys.executable, "-S", "-c", CHILD + code, str(tmp_path)]
    heard: list[str] = []
    return supervise(command, processes, out=tmp_path, say=say or heard.append)


def lives(tmp_path: Path, number: int) -> int:
    return len((tmp_path / f"lives{number}").read_text())


def test_all_finish(tmp_path: Path):
    assert run(tmp_path, "end(0)") == Ended(0, {"step": 0}, True, "process 0 ended with 0")


def test_one_process_has_no_coordinator(tmp_path: Path):
    ended = run(tmp_path, "end(3 if '--coordinator' in words else 0)", processes=1)
    assert ended.code == 0


def test_a_crash_starts_all_again(tmp_path: Path):
    said: list[str] = []
    code = """
finish(4)
if number == 1 and life == 0: crash()
if life == 0:
    time.sleep(20)
    (out / "late").touch()
end(0)
"""
    ended = run(tmp_path, code, say=said.append)
    assert (ended.code, ended.restarts, ended.result) == (0, 1, {"step": 1})
    assert (lives(tmp_path, 0), lives(tmp_path, 1)) == (2, 2)
    assert said == ["process 1 ended by signal 9; all start again from step 4 (#1)"]
    assert not (tmp_path / "late").exists(), "nobody waits for the others"


@pytest.mark.parametrize("code", [2, 3, 5])
def test_an_error_that_would_come_again_ends_the_run(tmp_path: Path, code: int):
    ended = run(tmp_path, f"end({code}, f'of process {{number}}')")
    assert (ended.code, ended.restarts, ended.said) == (code, 0, True)
    assert ended.result is not None
    assert ended.result["exit_code"] == code
    assert lives(tmp_path, 0) == 1


def test_a_checkpoint_that_cannot_be_read_ends_the_run(tmp_path: Path):
    ended = run(tmp_path, "end(4, 'of another model')", processes=1)
    assert (ended.code, ended.restarts, ended.said) == (4, 0, True)


def test_a_checkpoint_that_could_not_be_written_is_tried_again_after_another(tmp_path: Path):
    ended = run(tmp_path, "finish(life) if life < 2 else None\nend(4)", processes=1)
    assert (ended.code, ended.restarts) == (4, 2)


def test_an_error_of_another_process_ends_the_run(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    ended = run(tmp_path, "end(3, 'mine') if number else time.sleep(60)")
    assert (ended.code, ended.result) == (3, {"error": "mine", "exit_code": 3})


def test_it_gives_up_without_progress(tmp_path: Path):
    ended = run(tmp_path, "crash()", processes=1)
    assert (ended.code, ended.said, ended.restarts) == (137, False, TRIES)
    assert lives(tmp_path, 0) == TRIES + 1
    assert "the supervisor gives up" in ended.line


def test_progress_renews_its_patience(tmp_path: Path):
    ended = run(tmp_path, "finish(life)\nend(0) if life == 6 else crash()", processes=1)
    assert (ended.code, ended.restarts) == (0, 6)


def test_a_checkpoint_that_is_set_aside_and_made_again_is_no_progress(tmp_path: Path):
    code = """
if life % 2: (out / "checkpoints" / "4" / "manifest.json").unlink()
else: finish(4)
crash()
"""
    ended = run(tmp_path, code, processes=1)
    assert (ended.code, ended.restarts) == (137, TRIES)


def test_a_lost_peer_is_a_reason_to_start_again(tmp_path: Path):
    assert run(tmp_path, "end(0 if number or life else 76)").restarts == 1


def test_a_pre_empted_child_ends_the_run_with_75(tmp_path: Path):
    ended = run(tmp_path, "end(75)")
    assert (ended.code, ended.restarts) == (75, 0)


def test_sigterm_is_passed_on(tmp_path: Path):
    code = """
signal.signal(signal.SIGTERM, lambda *_: end(75, "stopped"))
(out / f"ready{number}").touch()
time.sleep(60)
"""

    def when_ready() -> None:
        while not all((tmp_path / f"ready{i}").exists() for i in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=when_ready, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    ended = run(tmp_path, code)
    assert (ended.code, ended.restarts) == (75, 0)
    assert signal.getsignal(signal.SIGTERM) == before


def test_stopped_is_pre_empted_however_the_children_end(tmp_path: Path):
    """One that missed another, as both were told to stop, says 76."""
    code = """
signal.signal(signal.SIGTERM, lambda *_: end(76, "a peer was lost"))
(out / f"ready{number}").touch()
time.sleep(60)
"""

    def when_ready() -> None:
        while not all((tmp_path / f"ready{i}").exists() for i in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=when_ready, daemon=True).start()
    ended = run(tmp_path, code)
    assert (ended.code, ended.restarts) == (75, 0)


@pytest.mark.parametrize(("code", "restarts"), [(75, 0), (0, 1)])
def test_a_child_that_hangs_at_the_end_is_not_waited_for(
    tmp_path: Path, monkeypatch, code: int, restarts: int
):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    ended = run(tmp_path, f"end({code}) if life or not number else time.sleep(60)")
    assert (ended.code, ended.restarts) == (code, restarts)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_killed_supervisor_takes_its_children_with_it(tmp_path: Path):
    child = (
        "import pathlib, sys, time\n"
        "from rsvlm_jax.run.supervise import end_with_supervisor\n"
        "end_with_supervisor()\n"
        "pathlib.Path(sys.argv[1]).write_text('here')\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import sys; from pathlib import Path\n"
        "from rsvlm_jax.run.supervise import supervise\n"
        "supervise([sys.executable, '-c', sys.argv[2], sys.argv[1]], 1, out=Path('.'), say=print)\n"
    )
    ready = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", parent, str(ready), child])
    try:
        while not ready.exists():
            time.sleep(0.02)
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while _runs(int(children[0])):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_gpus_are_divided(tmp_path: Path):
    shares = module._shares(2, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
    assert [s["CUDA_VISIBLE_DEVICES"] for s in shares] == ["4,5", "6,7"]
    with pytest.raises(ConfigError, match="the GPUs do not divide"):
        module._shares(3, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
