"""Whatever goes wrong is one line and an exit code, and strict JSON where JSON was asked for."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsvlm_jax
from rsvlm_jax.cli import doctor
from rsvlm_jax.cli.main import HELP, main
from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import ConfigError, TrainConfig, strict_json
from rsvlm_jax.run.rundir import locked

ROOT = str(Path(rsvlm_jax.__file__).parents[1])


def strict(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def refused(args: list[str], capsys) -> tuple[int, str]:
    """Exit code and the only line on stderr; the JSON object says the same."""
    code = main([*args, "--json"])
    done = capsys.readouterr()
    assert done.err.count("\n") == 1, done.err
    line = done.err.removeprefix("error: ").rstrip("\n")
    assert strict(done.out.splitlines()[-1]) == {"error": line, "exit_code": code}
    return code, line


# ---- experiment files ----------------------------------------------------------------------------

PAGES = {
    "an error": ("import math\n\nx = 1 / 0\n", 3, "ZeroDivisionError: division by zero"),
    "a syntax error": ("x = 1\ndef experiment(:\n", 2, "SyntaxError: invalid syntax"),
    "an error when called": ("def experiment():\n    return open('/no/such')\n", 2, "FileNotFound"),
    "an import": ("import no_such_module\n", 1, "ModuleNotFoundError: No module named"),
    "an impossible value": (
        "from rsvlm_jax.config import TrainConfig\n\n\ndef experiment():\n"
        "    return TrainConfig(steps=0)\n",
        5,
        "ConfigError: impossible loop in TrainConfig.steps; expected >= 1; found 0",
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_an_experiment_file_that_fails_is_named_with_its_line(name: str, tmp_path: Path, capsys):
    text, number, words = PAGES[name]
    page = tmp_path / "mine.py"
    page.write_text(text)
    code, line = refused(["train", str(page), "--out", str(tmp_path / "run")], capsys)
    assert code == 2
    assert line.startswith(f"the experiment fails ({words}")
    assert line.endswith(f"in {page}, line {number}")


def test_a_relative_experiment_file_is_named_with_its_line(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("x = 1\ny = x.z\n")
    code, line = refused(["train", "mine.py", "--out", "run"], capsys)
    assert code == 2
    assert line.endswith("in mine.py, line 2")


STAGED = """from typing import Literal

from rsvlm_jax.config import Experiment


def experiment(stage: Literal[1, 2] = 1):
    return Experiment(f"stage_{stage}")
"""


@pytest.mark.parametrize("annotations", ["", "from __future__ import annotations\n\n"])
def test_a_stage_stands_behind_a_colon(annotations: str, tmp_path: Path, capsys):
    page = tmp_path / "mine.py"
    page.write_text(annotations + STAGED)
    assert [load_experiment(f"{page}{s}").name[-1] for s in ("", ":1", ":2")] == ["1", "1", "2"]
    code, line = refused(["train", f"{page}:3", "--dry-run"], capsys)
    assert code == 2
    assert line.startswith(f"no such stage of the experiment in {page}:3; expected FILE.py:STAGE")
    assert line.endswith("with 1, 2; found 3")


def test_a_stage_of_a_page_that_has_none(capsys):
    code, line = refused(["train", "rsvqa_tiny:2", "--dry-run"], capsys)
    assert code == 2
    assert line == (
        "no such stage of the experiment in rsvqa_tiny:2; expected FILE.py: it has no stages; "
        "found 2"
    )
    code, line = refused(["features", "no_such_page:2", "--out", "folder"], capsys)
    assert code == 2
    assert line.startswith("no such experiment in no_such_page:2")


def test_a_variant_of_a_page():
    assert load_experiment("synthetic_biomass:sar").name == "synthetic_biomass_sar"


# ---- values --------------------------------------------------------------------------------------


def test_demo_without_a_member(tmp_path: Path, capsys):
    code, line = refused(["demo", "--members", "0", "--out", str(tmp_path / "demo")], capsys)
    assert (code, line) == (2, "no model to train in members; expected >= 1; found 0")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("name", "low"), [("log_every", 1), ("max_bad_steps", 0)])
def test_impossible_loops_are_refused(name: str, low: int, capsys):
    with pytest.raises(
        ConfigError, match=f"TrainConfig.{name}; expected >= {low}; found {low - 1}"
    ):
        dataclasses.replace(TrainConfig(), **{name: low - 1})
    option = f"--train.{name.replace('_', '-')}"
    code, line = refused(["train", "forkme", "--dry-run", option, str(low - 1)], capsys)
    assert code == 2
    assert name in line


FINE_TUNING = {
    "a quantised base without LoRA": (
        "llava15_stage2 --tiny --base nf4",
        "only LoRA trains beside a base that is not float in Experiment.base; expected float, or a",
    ),
    "a quantised base that would be trained": (
        "llava15_lora --tiny --base int8 --optimizer.groups.0.pattern ^decoder/",
        "quantised weights cannot be trained in OptimizerConfig.groups",
    ),
    "LoRA of nothing": (
        "llava15_lora --tiny --lora.targets ^nothing",
        "LoRA takes no layer in LoraConfig.targets",
    ),
    "a rate that climbs": (
        "llava15_lora --tiny --optimizer.groups.0.scale -1",
        "impossible number in GroupConfig.scale; expected >= 0; found -1.0",
    ),
    "a negative loss": (
        "llava15_lora --tiny --loss.text -1",
        "impossible number in LossConfig.text; expected >= 0; found -1.0",
    ),
    "no checkpoint": (
        "rsvqa_tiny --init-from vision=no/such/clip",
        "nothing to start from in Experiment.init_from: no/such/clip",
    ),
}


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_that_cannot_be_is_refused_before_it_starts(name: str, capsys):
    args, words = FINE_TUNING[name]
    code, line = refused(["train", *args.split(), "--dry-run"], capsys)
    assert code == (4 if name == "no checkpoint" else 2)
    assert line.startswith(words)


@pytest.mark.parametrize("base", ["--base nf4", "--base=nf4"])
def test_tiny_heeds_the_base(base: str, capsys):
    args = ["train", "llava15_lora", "--tiny", *base.split(), "--dry-run", "--json"]
    assert main(args) == 0
    done = capsys.readouterr()
    assert '"base": "nf4"' in done.out
    assert strict(done.out.splitlines()[-1])["dry_run"] is True


def test_demo_on_another_cube(tmp_path: Path, capsys):
    """`--data` reaches the story: these cubes lack its file, and its band set."""
    out = str(tmp_path / "demo")
    code, line = refused(["demo", "--data", str(tmp_path / "mine.zarr"), "--out", out], capsys)
    assert code == 3
    assert "mine.zarr" in line
    args = ["demo", "--data", "sample:spain_s1s2", "--out", str(tmp_path / "other")]
    code, line = refused(args, capsys)
    assert code == 3
    assert "spain_s1s2" in line


# ---- last resorts --------------------------------------------------------------------------------


def fails_with(error: BaseException, monkeypatch) -> None:
    def run(args: object) -> None:
        raise error

    monkeypatch.setattr(doctor, "run", run)


def test_an_internal_error_is_one_line(monkeypatch, capsys):
    fails_with(KeyError("a\nb"), monkeypatch)
    code, line = refused(["doctor"], capsys)
    assert code == 1
    assert line == (r"internal error: KeyError: 'a\nb'; run again with --debug for the traceback")
    with pytest.raises(KeyError):
        main(["doctor", "--debug"])


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    fails_with(OSError(errno.ENOSPC, "No space left on device", "/full/file"), monkeypatch)
    code, line = refused(["doctor"], capsys)
    assert code == 2
    assert line.startswith("cannot read or write (No space left on device) in /full/file; free")


def test_an_interrupt_is_json_too(monkeypatch, capsys):
    fails_with(KeyboardInterrupt(), monkeypatch)
    assert refused(["doctor"], capsys) == (130, "interrupted")
    assert "130 interrupted" in HELP


def test_json_has_null_where_a_figure_is_undefined(monkeypatch, capsys):
    row = {"r": float("nan"), "n": np.float32("inf"), "rows": (np.int64(3), float("-inf"), True)}
    monkeypatch.setattr(doctor, "run", lambda args: {"table": [row], "path": Path("a")})
    assert main(["doctor", "--json"]) == 0
    assert strict(capsys.readouterr().out) == {
        "table": [{"r": None, "n": None, "rows": [3, None, True]}],
        "path": "a",
    }
    assert strict(strict_json({"x": 0.1})) == {"x": 0.1}


# ---- the working directory -----------------------------------------------------------------------


def test_the_working_directory_shadows_nothing(tmp_path: Path):
    """As the installed command runs: with packages of the same names where one stands."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "rsvlm"
    command.write_text("import sys\nfrom rsvlm_jax.cli.main import main\nsys.exit(main())\n")
    here = tmp_path / "here"
    (here / "experiments").mkdir(parents=True)
    (here / "experiments" / "__init__.py").write_text("raise RuntimeError('shadowed')\n")
    (here / "numpy.py").write_text("raise RuntimeError('shadowed')\n")
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, str(command), "train", "demo_treecover", "--dry-run", "--json"],
        cwd=here,
        env={**environment, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert strict(done.stdout.splitlines()[-1])["dry_run"] is True


# ---- the demo's directory ------------------------------------------------------------------------


def test_a_second_demo_in_the_same_directory_is_refused(tmp_path: Path, capsys):
    with locked(tmp_path):
        code, line = refused(["demo", "--out", str(tmp_path)], capsys)
    assert code == 2
    assert line.startswith(f"another process works in this directory in {tmp_path}; found pid ")
    assert {p.name for p in tmp_path.iterdir()} == {"lock"}


def test_a_demo_of_another_kind_in_the_same_directory_is_refused(
    tmp_path: Path, monkeypatch, capsys
):
    from rsvlm_jax.evaluate import demo

    monkeypatch.setattr(demo, "_demo", lambda *_: {"done": True})
    args = ["demo", "--out", str(tmp_path)]
    assert main(args) == main(args) == 0
    capsys.readouterr()
    for change, key in (
        (["--steps", "7"], "experiment.train.steps"),
        (["--members", "2"], "members"),
        (["--buffer", "1"], "experiment.data.split.buffer"),
        (["--story", "radar"], "experiment.data.cube"),
        (["--data", "mine.zarr"], "experiment.data.cube"),
    ):
        code, line = refused([*args, *change], capsys)
        assert code == 2
        assert line.startswith(f"the directory holds another demo in {tmp_path} (")
        assert key in line
        assert 'choose another --out (make demo ARGS="--out OTHER")' in line


# ---- unwritable outputs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["cube", "make", "{}/world.zarr"],
        ["cube", "show", "sample:slovenia_s2", "--out", "{}/picture.png"],
        ["cube", "folds", "sample:slovenia_s2", "--out", "{}/picture.png"],
        ["train", "forkme", "--tiny", "--out", "{}/run"],
        ["demo", "--out", "{}/demo"],
        ["convert", "asset:stories260k", "{}/model"],
    ],
    ids=lambda args: " ".join(args[:2]),
)
@pytest.mark.parametrize("place", ["below a file", "/proc/x"])
def test_an_output_that_cannot_be_written_is_a_usage_error(
    args: list[str], place: str, tmp_path, capsys
):
    (tmp_path / "file").touch()
    place = place if place.startswith("/") else str(tmp_path / "file")
    code, line = refused([a.format(place) for a in args], capsys)
    assert code == 2
    assert line.startswith("cannot write")
    assert place in line


@pytest.mark.parametrize(
    ("args", "start"),
    [
        (["show", "--dates", "-1"], "nothing to draw in --dates; expected >= 1; found -1"),
        (["show", "--size", "0"], "nothing to draw in --size"),
        (["show", "--image-size", "0"], "nothing to draw in --image-size"),
        (["show", "--at", "5000", "0"], "outside the cube in --at; expected a row below"),
        (["show", "--at", "-1", "0"], "outside the cube in --at"),
        (["folds", "--fold", "9"], "no such fold in --fold; expected 0 to 4; found 9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_picture_of_what_is_not_there(args: list[str], start: str, tmp_path, capsys):
    verb, *options = args
    command = ["cube", verb, "sample:slovenia_s2", "--out", str(tmp_path / "a.png"), *options]
    code, line = refused(command, capsys)
    assert code == 2
    assert line.startswith(start)
    assert not (tmp_path / "a.png").exists()
