"""The model of an experiment, built abstractly and initialised in one jitted call.

Programs are cached by what they depend on: five folds of one experiment share their initialiser
and, through `rsvlm_jax.train.step`, their compiled steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
from flax import nnx

from rsvlm_jax.config import BandSetSpec, CheckpointError, ConfigError, Experiment, VLMConfig
from rsvlm_jax.core import flat, map_with_path
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.interop.llama2c import load_llama2c
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.train.checkpoint import Checkpoints
from rsvlm_jax.train.state import Tree, split_model

from .rundir import RunDir


@dataclasses.dataclass(frozen=True)
class Program:
    """A model without numbers.

    Attributes:
      graphdef: of the model.
      params, stats: trees of `jax.ShapeDtypeStruct`.
      init: seed -> (params, stats), jitted.
    """

    graphdef: nnx.GraphDef
    params: Tree
    stats: Tree
    init: Callable[[int], tuple[Tree, Tree]]

    @property
    def parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.params))


@functools.lru_cache(maxsize=16)
def program(
    config: VLMConfig,
    specs: tuple[BandSetSpec, ...],
    *,
    image_token: int,
    reg_token: int,
    visual_tokens: int,
) -> Program:
    """The program of a model; equal arguments give the same object."""

    def build(key: jax.Array) -> VisionLanguageModel:
        return VisionLanguageModel(
            config,
            specs,
            image_token=image_token,
            reg_token=reg_token,
            visual_tokens=visual_tokens,
            rngs=nnx.Rngs(key),
        )

    # Run once: an unoptimised program of many small draws compiles in a third of the time.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

    @functools.partial(jax.jit, compiler_options=fast)
    def numbers(seed: jax.Array) -> tuple[Tree, Tree]:
        return split_model(build(jax.random.key(seed)))[1:]

    graphdef, params, stats = split_model(nnx.eval_shape(lambda: build(jax.random.key(0))))
    return Program(graphdef, params, stats, numbers)


def start_from(params: Tree, source: str, experiment: Experiment) -> Tree:
    """Parameters with those of a checkpoint in place of some or all.

    Args:
      source: "asset:stories260k" for the shipped decoder, or a run directory.

    Raises:
      ConfigError: no such asset, or an asset without a decoder to put it into.
      CheckpointError: the run's parameters are of another model.
    """
    kind, _, name = source.partition(":")
    if kind != "asset":
        return _of_run(params, source)
    if name != "stories260k":
        raise ConfigError(
            "no such asset", where="Experiment.init_from", expected="asset:stories260k", found=name
        )
    decoder = experiment.model.decoder
    if decoder is None:
        return params  # the ablation without a language model starts from nothing
    return {**params, "decoder": load_llama2c(decoder)}


def _of_run(params: Tree, source: str) -> Tree:
    run = RunDir(Path(source))
    run.experiment()
    with Checkpoints(run.checkpoints) as checkpoints:
        found = checkpoints.restore_part({"params": params})["params"]
    mine, theirs = flat(params), flat(found)
    if mine.keys() != theirs.keys():
        raise CheckpointError(
            "the parameters are of another model",
            where=run.checkpoints,
            expected=", ".join(sorted(mine.keys() - theirs.keys())[:10]),
            found=", ".join(sorted(theirs.keys() - mine.keys())[:10]),
        )
    return map_with_path(lambda path, x: theirs[path], params)


def program_of(processor: Processor) -> Program:
    """The program that a processor belongs to."""
    return program(
        processor.config,
        processor.bandsets,
        image_token=processor.tokenizer.image,
        reg_token=processor.tokenizer.reg,
        visual_tokens=processor.visual_tokens,
    )
