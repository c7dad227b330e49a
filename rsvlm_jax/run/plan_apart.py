"""A compiler in a process of its own, and why it ended if it did not answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsvlm_jax.config import ConfigError, RsvlmError
from rsvlm_jax.mesh.topology import Topology, environment


def compiled_apart(request: Mapping[str, Any], where: Topology, *, slices: int) -> dict[str, Any]:
    """What `rsvlm_jax.run.plan_compile` finds, in a process of its own.

    Raises:
      ConfigError: as `plan`; RsvlmError: the process ended in another way.
    """
    environ = environment(where, os.environ, slices=slices)
    with tempfile.TemporaryDirectory(prefix="rsvlm_plan_") as name:
        folder = Path(name)
        dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=^jit_"
        environ["XLA_FLAGS"] = f"{environ.get('XLA_FLAGS', '')} {dump}".strip()
        environ["JAX_TRACEBACK_FILTERING"] = "off"  # or the last lines are about the traceback
        done = subprocess.run(
            [sys.executable, "-m", "rsvlm_jax.run.plan_compile", name],
            input=json.dumps(request),
            env=environ,
            capture_output=True,
            text=True,
        )
        answer = folder / "result.json"
        if done.returncode != 0 or not answer.is_file():
            raise ended(done.returncode, done.stderr)
        found = json.loads(answer.read_text())
    if "error" in found:
        raise Told(found["error"], found["exit_code"])
    return found["raw"]


class Told(ConfigError):
    """A refusal that another process has put into words."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.exit_code = code


def ended(code: int, stderr: str) -> RsvlmError:
    """Why a compiler's process ended."""
    for variable, pattern in (
        ("LIBTPU_INIT_ARGS", r"Unknown command line flag '([^']*)'"),
        ("XLA_FLAGS", r"Unknown flags? in XLA_FLAGS: (.*)"),
        ("LIBTPU_INIT_ARGS", r"ERROR: (.*flag.*)"),
    ):
        flag = re.search(pattern, stderr)
        if flag:
            return ConfigError(
                "a flag that the compiler refuses",
                where=variable,
                found=flag[1].strip(),
                remedy="mend or unset it (tpu_scripts/flags.py lists groups that it takes)",
            )
    if code in (-9, 137):
        return ConfigError(
            "the compiler was killed",
            where="rsvlm plan",
            expected="some GiB of memory on this machine",
            remedy="free memory, and run again",
        )
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no word"]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return RsvlmError(
        f"the compiler's process ended with {code}", found=(errors or lines)[-1][:400]
    )
