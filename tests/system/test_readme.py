"""The README: its Python example runs as it stands, its verbs exist, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rsvlm_jax.cli.main import VERBS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(code.split("\n\n")[-1].splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "Numbers(mean=" in capsys.readouterr().out


def test_every_verb_is_in_the_table():
    assert {v for v in VERBS if f"`rsvlm {v}" in TEXT} == set(VERBS)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_exist(target: str):
    assert f"make {target} " in TEXT
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if "://" not in link:
            assert (ROOT / link).exists(), link
