"""Features of a frozen tower, computed once for an experiment on conversations.

    rsvlm features EXPERIMENT.py --out FOLDER
    rsvlm train EXPERIMENT.py --out RUN --conversations.features FOLDER

The tower is the one that training would start from (`Experiment.init_from`), preprocessing that of
its processor; both are named in the folder, and training refuses another's. Killed, it goes on
after the last shard that is whole.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import jax
import numpy as np

from rsvlm_jax.config import ConfigError, Experiment
from rsvlm_jax.data.features import Stored, digest_of
from rsvlm_jax.data.precompute import Written, write_features
from rsvlm_jax.train.state import merge

from .fit import initial
from .talk import prepare_talk, tower_digest


def compute_features(
    experiment: Experiment,
    *,
    out: str | os.PathLike[str],
    dtype: Stored = "bfloat16",
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the features of all images of an experiment, held-out ones included.

    Args:
      out: a folder, new or of the same tower and preprocessing.
      dtype: as stored.
      batch: images encoded together.
      progress: called with (images done, images in all).

    Raises:
      ConfigError: an experiment on cubes, or a tower that starts anew. DataError, CheckpointError:
        as `fit`; and see `write_features`.
    """
    config = experiment.conversations
    if config is None or experiment.init_from is None:
        raise ConfigError(
            "no features to compute once",
            where="Experiment.conversations" if config is None else "Experiment.init_from",
            expected="conversations, and a checkpoint with their vision tower",
            found=None,
        )
    # Not the features that the page may name already: there are none yet.
    pixels = dataclasses.replace(config, features=None)
    work = prepare_talk(dataclasses.replace(experiment, conversations=pixels))
    model = merge(work.program.graphdef, *initial(work))
    sources = [source for source in (work.train, work.test) if source is not None]
    paths = sorted({p for source in sources for c in source.conversations for p in c.paths})
    encode = jax.jit(model.tower_features)
    return write_features(
        out,
        paths,
        work.processor.pixels,
        lambda x: np.asarray(encode(x), np.float32),
        tower=tower_digest(model),
        preprocessing=digest_of(work.processor.image),
        dtype=dtype,
        batch=batch,
        progress=progress,
    )
