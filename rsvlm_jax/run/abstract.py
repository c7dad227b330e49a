"""The train step of an experiment from shapes alone: what it would be, nothing allocated.

    abstract_step(experiment, mesh) -> AbstractStep      .lower().compile() is the real program

Sizes of 7B and 13B compile on a laptop for a mesh of simulated devices, or of a pod that is not
here; what the program then says (`memory_analysis()`, `rsvlm_jax.mesh.collectives`) is what the
real one says. No files are read: neither data nor checkpoints nor a tokenizer have to be there.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rsvlm_jax.config import BandSetSpec, ConfigError, Experiment
from rsvlm_jax.core import flat
from rsvlm_jax.data.batch import Batch, Images
from rsvlm_jax.mesh.batch import check_batch
from rsvlm_jax.mesh.rules import RULES, batch_sharding, state_shardings
from rsvlm_jax.train.optimizer import make_optimizer
from rsvlm_jax.train.state import TrainState, init_state
from rsvlm_jax.train.step import make_train_step

from .program import Program, program


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """A step and the shapes that it takes.

    Attributes:
      step: of `make_train_step`.
      state, batch: trees of `jax.ShapeDtypeStruct` with their placement.
    """

    program: Program
    step: Any
    state: TrainState
    batch: Batch

    def lower(self) -> Any:
        """`jax.jit(...).lower` of the shapes."""
        return self.step.lower(self.state, self.batch)

    @property
    def state_bytes(self) -> int:
        """Of the state on one device, by its shapes and placement."""
        return device_bytes(self.state)

    @property
    def argument_bytes(self) -> int:
        """Of state and batch on one device."""
        return self.state_bytes + device_bytes(self.batch)


def abstract_step(
    experiment: Experiment,
    mesh: Mesh,
    *,
    batch: Batch | None = None,
    bandsets: tuple[BandSetSpec, ...] = (),
    visual_tokens: int | None = None,
) -> AbstractStep:
    """The train step of an experiment on a mesh.

    Args:
      experiment: its own `mesh` says the plan only.
      mesh: of simulated devices, of a topology, or of real ones.
      batch: arrays or shapes; needed for an experiment on a cube, whose dates and windows only its
        data say. Of conversations: rows of the greatest length, an image each.
      bandsets: of the model's inputs.
      visual_tokens: of a sample (`connector.token_count`), where there is a head and no budget.

    Raises:
      ConfigError: a batch that the mesh does not divide, a plan that does not fit the parameters,
        or no batch where one is needed.
    """
    if batch is None:
        batch = talk_batch(experiment)
    rows, length = batch.tokens.shape
    check_batch(mesh, rows, (length,), micro=experiment.train.micro_batches)
    made = program(
        experiment.model,
        bandsets,
        image_token=0,  # ids are numbers in the program, not shapes
        reg_token=None if experiment.model.head is None else 1,
        visual_tokens=visual_tokens,
        window=experiment.data.window if experiment.model.is_dense else None,
        lora=experiment.lora,
        stored=experiment.base,
        remat=experiment.train.remat,
        attention=experiment.train.attention,
        segments=segments_of(experiment),
    )
    state = abstract_state(experiment, made, mesh)
    optimizer = make_optimizer(experiment.optimizer, experiment.train.steps, made.params)
    step = make_train_step(made.graphdef, experiment, optimizer, mesh, state)
    place = batch_sharding(mesh)
    return AbstractStep(made, step, state, jax.tree.map(lambda x: _shape(x, place), batch))


def abstract_state(experiment: Experiment, made: Program, mesh: Mesh) -> TrainState:
    """Shapes and placement of the state before the first step.

    Raises:
      ConfigError: the plan does not fit the parameters.
    """
    optimizer = make_optimizer(experiment.optimizer, experiment.train.steps, made.params)
    plan = experiment.mesh.plan

    def first(params: Any, stats: Any) -> TrainState:
        return init_state(
            params,
            stats,
            optimizer,
            mesh,
            config=experiment.optimizer,
            plan=plan,
            spike=experiment.train.spike,
        )

    shapes = jax.eval_shape(first, made.params, made.stats)
    placed = state_shardings(shapes, RULES[plan], mesh)
    return jax.tree.map(_shape, shapes, placed)


def segments_of(experiment: Experiment) -> int | None:
    """Of a row at most, as far as it is known without the data: packing puts in what fits."""
    talk = experiment.conversations
    return None if talk is not None and talk.pack else 1


def talk_batch(experiment: Experiment, *, images: int = 1) -> Batch:
    """Shapes of a batch of conversations: all rows of the greatest length, with `images` each.

    Raises:
      ConfigError: an experiment without conversations.
    """
    config = experiment.conversations
    if config is None:
        raise ConfigError(
            "the shapes of a cube's batch are those of its data",
            where="abstract_step(batch)",
            expected="a batch, or an experiment on conversations",
            found=None,
        )
    b, length, edge = experiment.train.batch_size, config.length, experiment.model.vision.image_size

    def nothing(dtype: Any, *shape: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), shape)  # one number, whatever the shape

    text = nothing(np.int32, b, length)
    arrays = Batch(
        obs={},
        tokens=text,
        segment=text,
        position=text,
        weight=nothing(np.float32, b, length),
        image_slot=text,
        target=nothing(np.float32, b, 0),
        target_valid=nothing(bool, b, 0),
        sample=nothing(np.int32, b),
        images=Images(nothing(np.float32, b * images, edge, edge, 3), nothing(np.int32, b, images)),
    )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)


def device_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays or placed shapes on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in flat(tree).values()
    )


def _shape(x: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
