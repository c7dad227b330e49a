"""The directory of a run, and the lock that keeps a second process out of it.

RUN/
  config.json        the resolved Experiment
  environment.json   versions, devices, git commit, command
  processor/         tokenizer, templates, bands, target, intervals: all that prediction needs
  metrics.jsonl      a row for every optimiser step
  timing.jsonl       beside it, what was measured: seconds, share of waiting for a batch, rates
  skipped.jsonl      a row for every step that was skipped, with its samples
  held_out.jsonl     a row for every step after which what is held out was scored, where it is
  unreadable.json    how many training windows could not be read, and why the first
  bad_samples.jsonl  each of them, with its cube, place and reason; absent if there are none
  checkpoints/       Orbax steps with SHA-256 manifests
  report/            tables and figures; report_CUBE/ of another cube
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
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rsvlm_jax.config import CheckpointError, ConfigError, Experiment, from_json, to_json
from rsvlm_jax.mesh import together

HOW = re.compile(
    r"mesh\..*|train\.(micro_batches|remat|attention|save_every|log_every|keep|keep_every|sinks"
    r"|max_bad_steps)|(data|conversations)\.(workers|threads|prefetch)"
)
"""Fields that say how a run is computed, kept and told, and not what: they may change on the way.
Its numbers then stay the same up to rounding (and up to the random numbers of another
`micro_batches`)."""


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never a torn one."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        tmp.write_text(text)
        tmp.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise


Which = int | Literal["best"] | None
"""A checkpoint of a run: a step, that of the lowest held-out loss, or the newest that verifies."""


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
    def has_processor(self) -> bool:
        """Whether the processor was saved whole: its own file is written last."""
        return any((self.processor / name).is_file() for name in ("processor.json", "chat.json"))

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        return self.path / "timing.jsonl"

    @property
    def skipped(self) -> Path:
        return self.path / "skipped.jsonl"

    @property
    def held_out(self) -> Path:
        return self.path / "held_out.jsonl"

    @property
    def unreadable(self) -> Path:
        return self.path / "unreadable.json"

    @property
    def bad_samples(self) -> Path:
        return self.path / "bad_samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def stopped(self) -> int | None:
        """The step at which early stopping ended the run; None: it did not."""
        return next((r["step"] for r in _rows(self.held_out) if r.get("stopped")), None)

    def step_of(self, which: Which) -> int | None:
        """The step that a word says; None: the newest that verifies.

        Raises:
          CheckpointError: nothing was scored, or no checkpoint of a scored step is there.
        """
        if which != "best":
            return which
        folder = self.checkpoints
        scores = {r["step"]: r["loss"] for r in _rows(self.held_out) if r["loss"] is not None}
        there = {s: v for s, v in scores.items() if (folder / str(s) / "manifest.json").is_file()}
        if not there:
            raise CheckpointError(
                "no best step", where=self.path,
                expected="checkpoints of steps with a held-out loss (held_out.jsonl)",
                found=f"{len(scores)} scores", remedy="train with --train.keep-best 1",
            )  # fmt: skip
        return min(there, key=lambda step: (there[step], step))

    def skipped_steps(self) -> int:
        """How many steps were skipped, because something was not finite or stood out."""
        return sum(1 for _ in _rows(self.skipped))

    def unreadable_windows(self) -> dict[str, object]:
        """`CubeSource.unreadable` of the training windows, as `fit` left it."""
        if not self.unreadable.is_file():
            return {"windows": 0, "first": None}
        return json.loads(self.unreadable.read_text())

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
        """Make the directory, or reopen it when it holds the same experiment: `held`, let go."""
        with (run := cls(Path(path))).held(experiment):
            return run

    @contextlib.contextmanager
    def held(self, experiment: Experiment) -> Iterator[tuple[str, ...]]:
        """Hold the directory for an experiment while training in it. Process 0 holds it for all.

        A directory of the same experiment is gone on with, also where what does not say what is
        computed (`HOW`) has changed: then `config.json` says the new way.

        Yields:
          The fields that have changed.

        Raises:
          ConfigError: as `locked`; it belongs to another experiment; another process does not see
            the same directory.
        """
        with locked(self.path) if together.index() == 0 else contextlib.nullcontext():
            changed: tuple[str, ...] = ()
            if together.index() == 0:
                if self.config.is_file():
                    changed = self._changed(experiment)
                if changed or not self.config.is_file():
                    self._write(self.config, to_json(experiment))
            together.first("locked")
            if not self.config.is_file():
                raise ConfigError(
                    "the run directory is not that of process 0",
                    where=f"{self.path} on {socket.gethostname()}",
                    remedy="choose an --out that all hosts share",
                )
            yield changed

    def _changed(self, experiment: Experiment) -> tuple[str, ...]:
        old, new = (
            # Losses that are stated and the same ones by default are the same experiment.
            _leaves(dataclasses.asdict(dataclasses.replace(e, loss=e.losses)))
            for e in (self.experiment(), experiment)
        )
        fields = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        if all(HOW.fullmatch(field) for field in fields):
            return tuple(fields)
        raise other_owner(
            "the run directory belongs to another experiment",
            self.path,
            old,
            new,
            remedy="choose another --out, or delete the directory",
        )

    def started(self) -> None:
        """Write down what the run, which is held, goes on with."""
        text = json.dumps(environment(), indent=2) + "\n"
        self._write(self.path / "environment.json", text)

    def _write(self, path: Path, text: str) -> None:
        try:
            write_atomic(path, text)
        except OSError as e:
            raise ConfigError(
                f"cannot write the run directory ({e.strerror})",
                where=self.path,
                remedy="choose another --out",
            ) from e


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    from rsvlm_jax.train.rows import read_rows  # with Orbax: seconds, which most verbs spare

    return read_rows(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a directory, made where it is missing; the lock goes with the process, however it ends.

    Raises:
      ConfigError: another process holds it (named), or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            f = stack.enter_context(open(path / "lock", "a+"))
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ConfigError(
                "another process works in this directory",
                where=path,
                found=(path / "lock").read_text().strip() or "an unnamed owner",
                remedy="wait for it, or choose another --out",
            ) from e
        except OSError as e:
            raise ConfigError(
                f"cannot write the directory ({e.strerror})",
                where=path,
                remedy="choose another --out",
            ) from e
        f.truncate(0)
        f.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        f.flush()
        yield


def other_owner(what: str, path: Path, old: dict, new: dict, *, remedy: str) -> ConfigError:
    """The error for a directory of another configuration; names the first fields that differ."""
    a, b = _leaves(old), _leaves(new)
    keys = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
    return ConfigError(
        what,
        where=f"{path} ({', '.join(keys[:5])})",
        expected=", ".join(str(b.get(k)) for k in keys[:5]),
        found=", ".join(str(a.get(k)) for k in keys[:5]),
        remedy=remedy,
    )


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
