"""Flags of XLA that would end the process without a line of ours."""

from __future__ import annotations

import os
import re

import pytest

from rsvlm_jax.cli.flags import check_flags
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import ConfigError


def test_an_unknown_flag_is_one_line_and_a_usage_error(monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_nonsense=1")
    assert main(["train", "forkme", "--tiny", "--out", "unused"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: a flag that XLA does not know in XLA_FLAGS; .*--xla_nonsense=1", line)


def test_a_value_that_cannot_be_read():
    flags = {**os.environ, "XLA_FLAGS": "--xla_gpu_autotune_level=many"}
    with pytest.raises(ConfigError, match=r"XLA cannot read its flags .*autotune_level=many"):
        check_flags(flags)


@pytest.mark.parametrize(
    "flags", ["", "--xla_force_host_platform_device_count=8", "--xla_gpu_autotune_level=2"]
)
def test_flags_that_are_known(flags: str):
    check_flags({**os.environ, "XLA_FLAGS": flags})
