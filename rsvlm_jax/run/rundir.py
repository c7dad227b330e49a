"""The directory of a run, and the lock that keeps a second process out of it.

RUN/
  config.json        the resolved Experiment
  environment.json   versions, devices, git commit, command
  processor/         tokenizer, templates, bands, target, intervals: all that prediction needs
  metrics.jsonl      a row for every optimiser step
  checkpoints/       Orbax steps with SHA-256 manifests
  report/            tables and figures
  lock               held while a process trains here
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from rsvlm_jax.config import CheckpointError, ConfigError, Experiment, from_json, to_json


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never a torn one."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    tmp.write_text(text)
    tmp.replace(path)


@dataclasses.dataclass(frozen=True)
class RunDir:
    """Paths inside a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def processor(self) -> Path:
        return self.path / "processor"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def experiment(self) -> Experiment:
        """The run's resolved configuration.

        Raises:
          CheckpointError: the directory is no run. ConfigError: its config cannot be read.
        """
        if not self.config.is_file():
            raise CheckpointError(
                "not a run directory",
                where=self.path,
                expected="config.json, processor/, checkpoints/",
                remedy="train one with `rsvlm train EXPERIMENT.py --out RUN`",
            )
        return from_json(Experiment, self.config.read_text(), where=str(self.config))

    @classmethod
    def create(cls, path: str | os.PathLike, experiment: Experiment) -> RunDir:
        """Make the directory, or reopen it when it holds the same experiment.

        Raises:
          ConfigError: it cannot be written, or belongs to another experiment.
        """
        run = cls(Path(path))
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            if run.config.is_file():
                run._same(experiment)
            else:
                write_atomic(run.config, to_json(experiment))
            write_atomic(run.path / "environment.json", json.dumps(environment(), indent=2) + "\n")
        except OSError as e:
            raise ConfigError(
                f"cannot write the run directory ({e.strerror})",
                where=run.path,
                remedy="choose another --out",
            ) from e
        return run

    def _same(self, experiment: Experiment) -> None:
        old = self.experiment()
        if old == experiment:
            return
        a, b = _leaves(dataclasses.asdict(old)), _leaves(dataclasses.asdict(experiment))
        keys = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
        raise ConfigError(
            "the run directory belongs to another experiment",
            where=f"{self.path} ({', '.join(keys[:5])})",
            expected=", ".join(str(b.get(k)) for k in keys[:5]),
            found=", ".join(str(a.get(k)) for k in keys[:5]),
            remedy="choose another --out, or delete the directory",
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory; the lock goes with the process, however that ends.

        Raises:
          ConfigError: another process holds it (named).
        """
        with open(self.path / "lock", "a+") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                f.seek(0)
                raise ConfigError(
                    "another process trains in this run directory",
                    where=self.path,
                    found=f.read().strip() or "an unnamed owner",
                    remedy="wait for it, or choose another --out",
                ) from e
            f.truncate(0)
            f.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
            f.flush()
            yield


def _leaves(tree: dict, prefix: str = "") -> dict[str, object]:
    out: dict[str, object] = {}
    for k, v in tree.items():
        if isinstance(v, dict):
            out |= _leaves(v, f"{prefix}{k}.")
        else:
            out[prefix + k] = v
    return out


def environment() -> dict[str, object]:
    """Versions, devices, commit and command: what another person needs to repeat a run."""
    import jax

    names = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "zarr"]
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty"]
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
        revision = commit.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        revision = None
    return {
        "rsvlm_jax": importlib.metadata.version("rsvlm-jax"),
        "commit": revision,
        "python": platform.python_version(),
        "packages": {n: importlib.metadata.version(n) for n in names},
        "platform": platform.platform(),
        "devices": [str(d) for d in jax.devices()],
        "command": sys.argv,
    }
