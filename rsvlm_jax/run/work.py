"""What is trained on, whatever it is: cubes (`prepare`) or conversations (`talk`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from jax.sharding import NamedSharding

from rsvlm_jax.config import Experiment
from rsvlm_jax.data.badlog import BadLog
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.pipeline import Batches
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.data.samples import BadSample

from .prepare import prepare
from .program import Program
from .talk import prepare_talk


@runtime_checkable
class Work(Protocol):
    """The data of an experiment, and the model that it asks for.

    Attributes:
      processor: saved in the run.
      program: of the model.
      unreadable: {"windows": samples that could not be read so far, "first": why the first}.
    """

    @property
    def experiment(self) -> Experiment: ...
    @property
    def processor(self) -> Processor | ChatProcessor: ...
    @property
    def program(self) -> Program: ...
    @property
    def unreadable(self) -> dict[str, Any]: ...

    def start(self, model: Any) -> None:
        """Fill in, or check, what a model has to have of its data before the first step."""

    def batches(self, sharding: NamedSharding | None = None, log: BadLog | None = None) -> Batches:
        """Endless training batches."""
        ...

    def held_out(self) -> Iterator[Batch] | None:
        """What is held out, each sample once, as NumPy arrays; None: nothing for a loss."""
        ...

    def unread(self) -> list[BadSample]:
        """Samples that were found unreadable before training."""
        ...

    def facts(self) -> dict[str, Any]:
        """What `describe` says of it."""
        ...


def prepared(experiment: Experiment) -> Work:
    """Open, look up, check and split what an experiment trains on.

    Raises:
      ConfigError, DataError, CubeError: see `prepare` and `prepare_talk`.
    """
    return prepare(experiment) if experiment.conversations is None else prepare_talk(experiment)
