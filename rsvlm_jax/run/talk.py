"""From an experiment on conversations to its data. No step; the way back is `reopen`.

    prepare_talk(experiment) -> PreparedTalk      what `fit` trains on (`rsvlm_jax.run.work.Work`)

Templates, tokens and pixels are those of `rsvlm_jax.data.chat`, which is saved in the run: what was
trained with is what is asked with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from rsvlm_jax.config import ConfigError, Experiment
from rsvlm_jax.core import flat
from rsvlm_jax.data.badlog import BadLog
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.features import check_spec, digest_of
from rsvlm_jax.data.grouping import best_lengths
from rsvlm_jax.data.pipeline import placed
from rsvlm_jax.data.plan import Shape
from rsvlm_jax.data.samples import BadSample
from rsvlm_jax.data.talk import TalkBatches, talk_batches
from rsvlm_jax.data.talk_source import TalkSource
from rsvlm_jax.mesh.together import rows_of
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.train.optimizer import trained_paths

from .program import Program, program


@dataclasses.dataclass(frozen=True)
class PreparedTalk:
    """The conversations of an experiment: what `rsvlm_jax.run.work.Work` asks for.

    Attributes:
      train: what is trained on.
      test: what is held out; None: nothing.
    """

    experiment: Experiment
    processor: ChatProcessor
    train: TalkSource
    test: TalkSource | None

    @property
    def program(self) -> Program:
        """The model that is trained on it."""
        config = self.train.config
        most = config.length // int(self.train.tokens.min()) if config.pack else 1
        return program_of_talk(self.processor, self.experiment, segments=most)

    @property
    def lengths(self) -> tuple[int, ...]:
        """L, of the batches of training and of what is held out."""
        lengths = {*self.batches().plan.lengths}  # nothing is drawn: there is nothing to close
        if self.test is not None:
            lengths |= {*lengths_of(self.test)}
        return tuple(sorted(lengths))

    def start(self, model: VisionLanguageModel) -> None:
        """Check that precomputed features are of the tower that the model starts from.

        Raises:
          DataError: they are of another.
        """
        features = self.train.gallery.features
        if features is not None:
            pixels = digest_of(self.processor.image)
            check_spec(features.spec, features.folder, tower_digest(model), pixels)

    def batches(
        self, sharding: NamedSharding | None = None, log: BadLog | None = None
    ) -> TalkBatches:
        """The training batches, as the experiment says."""
        config, train = self.train.config, self.experiment.train
        return talk_batches(
            self.train,
            batch_size=train.batch_size,
            seed=train.seed,
            rows=None if sharding is None else rows_of(sharding, train.batch_size),
            sharding=sharding,
            log=log,
            threads=config.threads,
            workers=config.workers,
            prefetch=config.prefetch,
        )

    def held_out(self, sharding: NamedSharding | None = None) -> Iterator[Batch] | None:
        """What is held out, each conversation once and never packed; the last batch is filled up
        with rows of no weight. With several processes each reads its rows, placed by `sharding`."""
        if self.test is None:
            return None
        size = self.experiment.train.batch_size
        if sharding is None:
            return held_out_batches(self.test, size)
        batches = held_out_batches(self.test, size, rows_of(sharding, size))
        return (placed(batch, sharding, ahead=False) for batch in batches)

    def unread(self) -> list[BadSample]:
        """None: images are read in training."""
        return []

    @property
    def unreadable(self) -> dict[str, Any]:
        """How many conversations could not be read so far, and why the first."""
        return self.train.unreadable

    def facts(self) -> dict[str, Any]:
        """What is trained on, for `describe`."""
        plan = self.batches().plan  # nothing is drawn: there is nothing to close
        count = min(plan.epoch_batches(), _COUNTED)
        tokens = [plan.tokens(k) for k in range(count)]
        real, padded = sum(t.real for t in tokens), sum(t.padded for t in tokens)
        return {
            "files": [name for name, _ in self.train.config.files],
            "template": self.processor.template,
            "training_conversations": len(self.train),
            "held_out_conversations": 0 if self.test is None else len(self.test),
            "visual_tokens": self.processor.per_image,
            "lengths": list(plan.lengths),
            "real_tokens": f"{real / padded:.0%} of all in {count} batches",
            "batches_an_epoch": plan.epoch_batches(),
        }


_COUNTED = 200
"""Batches that `facts` counts the tokens of, at most."""


def prepare_talk(experiment: Experiment) -> PreparedTalk:
    """Read the files, make the processor, tokenise everything once. Reads no image.

    Raises:
      ConfigError, DataError: what the experiment asks for is not there, or cannot be: a tokenizer
        that is not the decoder's, images that do not fit into a row, nothing to learn, features
        beside a tower that is trained.
    """
    config = experiment.conversations
    assert config is not None
    processor = ChatProcessor.of(
        config.tokenizer,
        experiment.model,
        template=config.template,
        image=config.image,
        length=config.length,
    )
    if config.features is not None:
        paths = trained_paths(experiment.optimizer, program_of_talk(processor, experiment).params)
        moving = sorted(p for p in paths if p.startswith("vision/"))
        if moving:
            raise ConfigError(
                "features of a tower that is trained",
                where="ConversationConfig.features",
                expected='a frozen tower: GroupConfig("^vision/", 0.0)',
                found=f"{len(moving)} arrays with a learning rate, {moving[0]}",
            )
    train = TalkSource.of(config, processor, "train")
    test = TalkSource.of(config, processor, "held_out") if config.held_out else None
    return PreparedTalk(experiment, processor, train, test)


def program_of_talk(
    processor: ChatProcessor, experiment: Experiment, *, segments: int | None = None
) -> Program:
    """The program of a model of conversations.

    Args:
      segments: that a row has at most, where that is known.
    """
    image = processor.image_token
    return program(
        experiment.model,
        image_token=-1 if image is None else image,
        lora=experiment.lora,
        stored=experiment.base,
        remat=experiment.train.remat,
        attention=experiment.train.attention,
        segments=segments,
    )


def whole(x: jax.Array) -> np.ndarray:
    """An array on the host; of one that lies on the devices of several processes, all call it."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def tower_digest(model: VisionLanguageModel) -> str:
    """What features depend on: the tower's config, its numbers, the compute type."""
    params = flat(nnx.to_pure_dict(nnx.state(model.vision, nnx.Param)))
    arrays = {path: whole(x) for path, x in params.items()}
    return digest_of((model.config.vision, model.config.dtype), arrays)


def lengths_of(source: TalkSource) -> tuple[int, ...]:
    """Of the batches of what is held out."""
    return best_lengths(source.tokens, source.config.buckets, source.config.length)


def held_out_batches(
    source: TalkSource, batch_size: int, own: np.ndarray | None = None
) -> Iterator[Batch]:
    """Each conversation once, a row each, in few shapes: sorted by length.

    Args:
      own: rows of a batch that are read here; None: all.
    """
    own = np.arange(batch_size) if own is None else own
    lengths = lengths_of(source)
    most = int(source.images.max(initial=0))
    order = np.argsort(source.tokens, kind="stable")
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        shape = Shape(next(n for n in lengths if n >= source.tokens[rows].max()), most)
        filled = [(int(rows[min(i, len(rows) - 1)]),) for i in own]
        batch, _ = source.batch(filled, shape, own)
        real = own < len(rows)
        yield dataclasses.replace(
            batch,
            weight=np.where(real[:, None], batch.weight, np.float32(0)),
            sample=np.where(real, batch.sample, np.int32(-1)),
        )
