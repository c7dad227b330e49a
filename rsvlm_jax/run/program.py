"""The model of an experiment, built abstractly and initialised in one jitted call.

Programs are cached by what they depend on: five folds of one experiment share their initialiser
and, through `rsvlm_jax.train.step`, their compiled steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import nnx

from rsvlm_jax.config import BandSetSpec, VLMConfig
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.train.state import Tree, split_model


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


def program_of(processor: Processor) -> Program:
    """The program that a processor belongs to."""
    return program(
        processor.config,
        processor.bandsets,
        image_token=processor.tokenizer.image,
        reg_token=processor.tokenizer.reg,
        visual_tokens=processor.visual_tokens,
    )
