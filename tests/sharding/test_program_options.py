"""`TrainConfig.remat` and `TrainConfig.attention` reach the model that is trained."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from nano import BANDSETS, IMAGE, REG, config, experiment

from rsvlm_jax.config import LossConfig, TrainConfig
from rsvlm_jax.run.prepare import Prepared
from rsvlm_jax.run.program import program
from rsvlm_jax.run.talk import PreparedTalk
from rsvlm_jax.train.state import merge

TRAIN = TrainConfig(remat="save_context", attention="chunked")


def model_of(made):
    return merge(made.graphdef, made.params, made.stats)


def test_what_is_asked_for_is_built() -> None:
    names = {"image_token": IMAGE, "reg_token": REG}
    plain = model_of(program(config(), BANDSETS, **names))
    assert (plain.decoder.remat, plain.vision.remat) == ("none", "none")
    assert plain.decoder.layers.attention.kernel == "auto"
    other = model_of(program(config(), BANDSETS, **names, remat="full", attention="plain"))
    assert (other.decoder.remat, other.vision.remat) == ("full", "full")
    assert other.decoder.layers.attention.kernel == "plain"


def test_the_experiment_of_a_cube_is_heard(untyped: None) -> None:
    processor = SimpleNamespace(
        config=config(), bandsets=BANDSETS, visual_tokens=None,
        tokenizer=SimpleNamespace(image=IMAGE, reg=REG),
    )  # fmt: skip
    asked = dataclasses.replace(experiment(), train=TRAIN)
    made = Prepared.program.fget(SimpleNamespace(experiment=asked, processor=processor))
    model = model_of(made)
    assert (model.decoder.remat, model.segments) == ("save_context", 1)
    assert model.temporal.blocks.attention.kernel == "chunked"


@pytest.mark.parametrize(("pack", "segments"), [(False, 1), (True, 5)])
def test_the_experiment_of_conversations_is_heard(untyped: None, pack, segments) -> None:
    """A row of 64 tokens holds five conversations of 12 at most."""
    plain = dataclasses.replace(config(), inputs=(), head=None)
    text = LossConfig(text=1.0, huber=0.0, scale=0.0)
    asked = dataclasses.replace(experiment(), train=TRAIN, model=plain, loss=text)
    source = SimpleNamespace(
        config=SimpleNamespace(length=64, pack=pack), tokens=np.array([30, 12, 64])
    )
    work = SimpleNamespace(
        experiment=asked, train=source, processor=SimpleNamespace(image_token=IMAGE)
    )
    model = model_of(PreparedTalk.program.fget(work))
    assert (model.decoder.remat, model.segments) == ("save_context", segments)
    assert model.vision.layers.attention.kernel == "chunked"
