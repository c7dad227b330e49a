"""The command line: help without JAX, exit codes, one-line errors, JSON as the last line."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from rsvlm_jax.cli.main import VERBS, main


def rsvlm(*args: str) -> subprocess.CompletedProcess:
    code = "import sys; from rsvlm_jax.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False
    )


def test_help_names_every_verb_and_loads_no_jax():
    code = (
        "import sys; from rsvlm_jax.cli.main import main; main(['--help']);"
        "sys.exit(sum(m in sys.modules for m in ('jax', 'numpy', 'xarray', 'tyro')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for verb in VERBS:
        assert f"  {verb}" in done.stdout


def test_import_is_light():
    code = "import sys, rsvlm_jax; sys.exit('jax' in sys.modules)"
    start = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert time.monotonic() - start < 5  # a hang, not a timing: the figure is in the benchmark


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys):
    assert main([verb, "--help"]) == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_unknown_verb(capsys):
    assert main(["trian"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "did you mean 'train'" in err


def test_unknown_option_is_refused_before_anything_heavy():
    start = time.monotonic()
    done = rsvlm("train", "forkme", "--out", "x", "--optimizer.learning-rat", "1e-3")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: unknown option '--optimizer.learning-rat'; "
        "did you mean '--optimizer.learning-rate'?"
    )
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--train.steps", "abc"], "--train.steps: invalid literal for int"),
        (["--model.dtype", "float3"], "invalid choice 'float3' for argument '--model.dtype'"),
        (["--train.steps"], "Missing value for argument '--train.steps'"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(words, says, capsys):
    assert main(["train", "forkme", "--out", "x", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err
    assert "--help" in err


def test_a_reader_that_leaves_is_no_traceback():
    code = "import sys; from rsvlm_jax.cli.main import main; sys.exit(main(['train', '--help']))"
    done = subprocess.run(
        f'{sys.executable} -c "{code}" | true',
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_impossible_value_names_the_field(capsys):
    assert main(["train", "forkme", "--optimizer.learning-rate", "300"]) == 2
    assert "OptimizerConfig.learning_rate" in capsys.readouterr().err


def test_no_such_experiment(capsys):
    assert main(["train", "nothing_here", "--out", "x"]) == 2
    assert "no such experiment" in capsys.readouterr().err


def test_no_experiment_given(capsys):
    assert main(["train"]) == 2
    assert "no experiment given" in capsys.readouterr().err


def test_json_is_the_last_line_also_of_an_error(capsys):
    assert main(["train", "nothing_here", "--out", "x", "--json"]) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["exit_code"] == 2


def test_doctor(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(check["ok"] for check in report["checks"].values())


def test_train_dry_run_prints_the_resolved_configuration(capsys):
    assert main(["train", "forkme", "--dry-run", "--train.steps", "7"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["train"]["steps"] == 7


def test_train_on_a_missing_cube(tmp_path, capsys):
    args = ["train", "forkme", "--out", str(tmp_path / "r"), "--data.cube", str(tmp_path / "no")]
    assert main(args) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_train_on_a_missing_band_set(tmp_path, capsys):
    args = ["train", "forkme", "--out", str(tmp_path / "r"), "--data.cube", "sample:spain_s1s2"]
    assert main(args) == 3
    assert "dem" in capsys.readouterr().err


def test_predict_without_a_run(tmp_path, capsys):
    args = ["predict", str(tmp_path), "--cube", "sample:slovenia_s2", "--out", str(tmp_path / "o")]
    assert main(args) == 4
    assert "not a run directory" in capsys.readouterr().err


def test_an_error_is_written_at_once(monkeypatch):
    """A thread that dies beside us may write to stderr too: not between a line and its end."""
    written = []
    monkeypatch.setattr(sys, "stderr", type("", (), {"write": lambda _, s: written.append(s)})())
    assert main(["trian"]) == 2
    (line,) = written
    assert line.startswith("error: ")
    assert line.endswith("\n")
