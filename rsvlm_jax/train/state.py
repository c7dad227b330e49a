"""The training state: a frozen pytree of pure nested dicts, and the way to and from a model.

    model --split_model--> graphdef, params, stats --init_state--> TrainState (placed on a mesh)
    merge(graphdef, params, stats) --> model

The graph definition is static and hashable: models of one configuration have equal ones, whatever
their numbers, so one compiled step serves all folds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.core import Tracer
from jax.sharding import Mesh, Sharding

from rsvlm_jax.config import OptimizerConfig
from rsvlm_jax.core import flat, map_with_path, pytree_dataclass
from rsvlm_jax.core.shapes import Array, Int
from rsvlm_jax.mesh import together
from rsvlm_jax.mesh.rules import RULES, state_shardings
from rsvlm_jax.nn.variables import Stat

from .once import made_once
from .optimizer import trained_paths
from .spikes import Recent, nothing_yet

Tree = Any
"""A nested dict of arrays (or of shapes, or of shardings)."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes.

    Attributes:
      step: optimiser steps taken, those that were skipped included.
      seed: of the step's random numbers; an array, so that seeds share one executable.
      params: of the model.
      stats: statistics of the training split (`rsvlm_jax.nn.variables.Stat`); never trained.
      opt_state: of the optimiser; holds nothing for frozen parameters.
      ema: moving average of the trained parameters, or None.
      recent: losses and gradient norms that spikes are told by, or None.
    """

    step: Int[Array, ""]
    seed: Int[Array, ""]
    params: Tree
    stats: Tree
    opt_state: Tree
    ema: Tree | None = None
    recent: Recent | None = None


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """A model as its definition, its parameters and its statistics.

    Raises:
      ValueError: the model holds other variables (from NNX, which names them).
    """
    graphdef, params, stats = nnx.split(model, nnx.Param, Stat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def create(make: Callable[[nnx.Rngs], nnx.Module], *, seed: int) -> tuple[nnx.GraphDef, Tree, Tree]:
    """`split_model` of a new model, initialised by one program that all seeds share.

    Constructing the model outside dispatches (and the first time compiles) every small operation
    by itself. The numbers are those of `make(nnx.Rngs(seed))` up to rounding.

    Args:
      make: the constructor. Equal definitions share the program, so what it makes has to follow
        from the random numbers and from what the module holds as static values (its config).
    """

    def arrays(seed: Any) -> tuple[Tree, Tree]:
        return split_model(make(nnx.Rngs(jax.random.key(seed))))[1:]

    graphdef, _, _ = split_model(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    # Run once and small: on CPU the optimised program takes four times as long to compile.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    program = made_once(("create", graphdef), lambda: jax.jit(arrays, compiler_options=fast))
    params, stats = program(jnp.int32(seed))
    return graphdef, params, stats


def merge(graphdef: nnx.GraphDef, params: Tree, stats: Tree) -> Any:
    """The model again; inside `jax.jit` its arrays are tracers."""
    return nnx.merge(graphdef, params, stats)


def init_state(
    params: Tree,
    stats: Tree,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    config: OptimizerConfig,
    plan: str = "fsdp_tensor",
    seed: int = 0,
    spike: float | None = None,
    donate: bool = False,
) -> TrainState:
    """The state before the first step, placed on a mesh.

    Args:
      params, stats: from `split_model`; copied, so that the step may donate the state.
      donate: `params` become the state's where they lie in their places, instead of a copy.
      optimizer: made of `config` by `make_optimizer`.
      plan: the table of `rsvlm_jax.mesh.rules.RULES` that places the parameters.
      seed: of the step's random numbers (date dropout).
      spike: `TrainConfig.spike`; the state remembers the last steps unless it is None.

    Raises:
      ConfigError: the table does not fit the parameters.
    """
    trained = trained_paths(config, params)

    def make(params: Tree, stats: Tree, seed: jax.Array) -> TrainState:
        return TrainState(
            step=jnp.int32(0),
            seed=seed,
            params=jax.tree.map(jnp.copy, params),
            stats=jax.tree.map(jnp.copy, stats),
            opt_state=optimizer.init(params),
            ema=None if config.ema is None else jax.tree.map(jnp.copy, pick(params, trained)),
            recent=None if spike is None else nothing_yet(),
        )

    args = params, stats, jnp.int32(seed)
    shardings = state_shardings(jax.eval_shape(make, *args), RULES[plan], mesh)
    if together.count() > 1:  # each process has made all numbers, on a device of its own
        places = shardings.params, shardings.stats, shardings.seed
        args = jax.tree.map(_spread, args, places)
    # One function object for equal arguments: `jax.jit` then finds what it compiled before.
    make = made_once(("init", optimizer, trained, config.ema is None, spike is None), lambda: make)
    donated = (0,) if donate else ()
    return jax.jit(make, out_shardings=shardings, donate_argnums=donated)(*args)


def _spread(x: Array, place: Sharding) -> Array:
    """An array that all processes have, over the devices of all."""
    if isinstance(x, Tracer):
        return x
    if isinstance(x, Array) and not x.is_fully_addressable:  # it lies there already
        return x
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])


def abstract(state: Tree) -> Tree:
    """Shapes, dtypes and placements of a tree of arrays: what `Checkpoints.restore` fills."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def eval_params(state: TrainState) -> Tree:
    """The parameters to evaluate with: the averages where they are kept, else the last ones."""
    return state.params if state.ema is None else overlay(state.params, state.ema)


def pick(tree: Tree, paths: Collection[str], prefix: str = "") -> Tree:
    """The part of a nested dict whose leaves have these paths."""
    part = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            below = pick(value, paths, f"{path}/")
            if below:
                part[key] = below
        elif path in paths:
            part[key] = value
    return part


def overlay(tree: Tree, part: Tree) -> Tree:
    """`tree` with the leaves of `part` in place of its own."""
    new = flat(part)
    return map_with_path(lambda path, x: new.get(path, x), tree)
