"""What is trained on, whatever it is: cubes (`prepare`) or conversations (`talk`).

Both have `experiment`, `processor` (saved in the run), `program` (of the model) and `unreadable`
(how many samples could not be read so far), and

    lengths                   positions of a row, of every shape that a batch may have
    start(model)              fill in, or check, what a model has of its data before the first step
    batches(sharding, log)    endless training batches
    held_out(sharding)        what is held out, each sample once; None: nothing that has a loss
    unread()                  samples that were found unreadable before training
    facts()                   what `describe` says of it
"""

from __future__ import annotations

from rsvlm_jax.config import Experiment

from .prepare import Prepared, prepare
from .start import check_sources
from .talk import PreparedTalk, prepare_talk

Work = Prepared | PreparedTalk


def prepared(experiment: Experiment) -> Work:
    """Open, look up, check and split what an experiment trains on.

    Raises:
      ConfigError, DataError, CubeError: see `prepare` and `prepare_talk`.
      CheckpointError: an `init_from` that is not there.
    """
    check_sources(experiment)
    return prepare(experiment) if experiment.conversations is None else prepare_talk(experiment)
