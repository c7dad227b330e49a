"""What the processes of a run have to agree on: program, configuration, data, and when to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import socket
import threading
from pathlib import Path

import jax

import data_zarr
import rsvlm_jax
from rsvlm_jax.config import ConfigError, DataError, Experiment
from rsvlm_jax.mesh import together
from rsvlm_jax.mesh.together import when_set

from .rundir import other_owner


class Agreement:
    """Whether all processes stop before a step: asked by some, answered alike on all.

    Whoever is asked to stop sets a key. In each process a thread then holds the loop before its
    next step, tells the step that was begun last, and hears those of the others; all stop before
    the step after the latest of them. (The loops may be several steps apart: a step is begun
    without waiting for the one before.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun, self._last = -1, None
        self._asked = False
        if together.count() > 1:
            self._key = together.key_of("stop")
            when_set(self._key, self._settle)

    def __call__(self, step: int, asked: bool) -> bool:
        """Args: the step that would be begun; whether this process was asked to stop."""
        if together.count() == 1:
            return asked
        with self._lock:
            if self._last is not None and step > self._last:
                return True
            self._begun = step
        if asked and not self._asked:
            self._asked = True
            with contextlib.suppress(Exception):  # another was first
                together.client().key_value_set(self._key, "")
        return False

    def _settle(self, _: str) -> None:
        with self._lock:
            self._last = max(together.each("begun", self._begun))


def same_config(experiment: Experiment) -> None:
    """Check that all processes run one program with one configuration.

    Raises:
      ConfigError: some process has another; names it and what differs.
    """
    mine = {"host": socket.gethostname(), "code": _code_digest(), "jax": jax.__version__,
            "config": json.loads(json.dumps(dataclasses.asdict(experiment)))}  # fmt: skip
    told = together.each("config", mine)
    for number, other in enumerate(told):
        who = f"process {number} on {other['host']}"
        for name, what in (("jax", "JAX"), ("code", "rsvlm_jax")):
            if other[name] != told[0][name]:
                raise ConfigError(
                    f"another version of {what} than that of process 0", where=who,
                    expected=told[0][name][:12], found=other[name][:12],
                    remedy="install the same on all hosts",
                )  # fmt: skip
        if other["config"] != told[0]["config"]:
            raise other_owner(
                "another configuration than that of process 0", Path(who), other["config"],
                told[0]["config"], remedy="start all processes with the same command",
            )  # fmt: skip


def same_data(order: str) -> None:
    """Check that all processes read one sequence of samples.

    Raises:
      DataError: some process has other files, or another part of them.
    """
    told = together.each("data", [socket.gethostname(), order])
    for number, (host, other) in enumerate(told):
        if other != told[0][1]:
            raise DataError(
                "other data than that of process 0", where=f"process {number} on {host}",
                expected=f"order {told[0][1][:12]}", found=other[:12],
                remedy="give all hosts the same files",
            )  # fmt: skip


def _code_digest() -> str:
    """Of all Python files of the two packages."""
    digest = hashlib.sha256()
    for package in (rsvlm_jax, data_zarr):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()
