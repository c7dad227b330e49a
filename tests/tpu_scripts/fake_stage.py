"""The scripts for pods, run with tools that only pretend first on PATH (`fakes/`)."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAKES = Path(__file__).parent / "fakes"


@dataclasses.dataclass
class Stage:
    """A folder that the fakes play in, and the scripts run against them."""

    folder: Path
    environment: dict[str, str]

    def write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def read(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, verb: str) -> list[str]:
        """Calls of gcloud with this verb."""
        return [line for line in self.read("calls") if f" {verb} " in line]

    def run(self, script: str, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "tpu_scripts" / script), *words],
            env=self.environment, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def refused(self, script: str, *words: str, code: int = 2, typed: str = "") -> str:
        """The one line that a script ends with."""
        done = self.run(script, *words, typed=typed)
        assert done.returncode == code, done
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        return errors[0]
