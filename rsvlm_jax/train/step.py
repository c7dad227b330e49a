"""The training step and the evaluation step: pure functions under `jax.jit`, placed on a mesh.

    step(state, batch) -> (state, metrics)          state donated, batch split over data x fsdp

One executable serves all runs with equal definition, configuration, optimiser and mesh: statistics
(band and target means), seeds and parameters are arrays that go in, so five folds compile once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from rsvlm_jax.config import Experiment
from rsvlm_jax.core import flat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.mesh.batch import check_batch
from rsvlm_jax.mesh.rules import RULES, batch_sharding, replicated, resolve, state_shardings
from rsvlm_jax.models.heads import Gaussian

from .losses import Sums, losses, mean, total
from .once import made_once
from .optimizer import trained_paths
from .state import TrainState, merge, overlay, pick

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function, whose last argument is a batch, and the mesh that it runs on.

    Attributes:
      jitted: for `.lower(...)`, which has to be called under `jax.set_mesh(mesh)`.
    """

    jitted: Any
    mesh: Mesh

    def __call__(self, *args: Any) -> Any:
        rows, length = args[-1].tokens.shape
        check_batch(self.mesh, rows, (length,))
        with jax.set_mesh(self.mesh):
            return self.jitted(*args)

    def lower(self, *args: Any) -> Any:
        """`jax.jit(...).lower` of arrays or shapes."""
        with jax.set_mesh(self.mesh):
            return self.jitted.lower(*args)


def make_train_step(
    graphdef: nnx.GraphDef,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`step(state, batch) -> (state, metrics)`, made once for equal arguments.

    Args:
      optimizer: of `make_optimizer(experiment.optimizer, ...)`.
      state: only its structure and shapes are read; `jax.ShapeDtypeStruct` will do.

    Metrics, float32 scalars: `loss`; the mean of every loss in use; `grad_norm` of the trained
    parameters before clipping; `skipped`, 1 where loss or gradient was not finite. Such a step
    changes neither parameters nor optimiser nor average, only the step count. Of conversations also
    `tokens` and `padded`: positions that hold something, and all of them.

    Raises:
      ConfigError: the sharding plan does not fit the parameters.
    """
    plan = experiment.mesh.plan
    shapes = _shapes(state)
    talk = experiment.conversations is not None
    about = experiment.optimizer, experiment.loss, optimizer, plan, talk
    key = ("train", graphdef, *about, mesh, shapes)

    def make() -> Step:
        place = state_shardings(state, RULES[plan], mesh)
        moved = pick(place.params, trained_paths(experiment.optimizer, state.params))

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            return _train_step(graphdef, experiment, optimizer, moved, state, batch)

        jitted = jax.jit(
            step,
            in_shardings=(place, batch_sharding(mesh)),
            out_shardings=(place, replicated(mesh)),
            donate_argnums=0,
        )
        return Step(jitted, mesh)

    return made_once(key, make)


def make_eval_step(
    graphdef: nnx.GraphDef, mesh: Mesh, params: Any, stats: Any, *, plan: str = "fsdp_tensor"
) -> Callable[[Any, Any, Batch], Gaussian]:
    """`eval_step(params, stats, batch) -> Predictive`, replicated; made once for equal arguments.

    Args:
      params, stats: only their structure and shapes are read.

    Raises:
      ConfigError: the sharding plan does not fit the parameters.
    """
    key = ("eval", graphdef, mesh, plan, _shapes((params, stats)))

    def make() -> Step:
        def step(params: Any, stats: Any, batch: Batch) -> Gaussian:
            model = merge(graphdef, params, stats)
            return model.head(model(batch))

        place = resolve(params, RULES[plan], mesh)
        jitted = jax.jit(
            step,
            in_shardings=(place, replicated(mesh), batch_sharding(mesh)),
            out_shardings=replicated(mesh),
        )
        return Step(jitted, mesh)

    return made_once(key, make)


def make_loss_step(
    graphdef: nnx.GraphDef, experiment: Experiment, mesh: Mesh, state: TrainState
) -> Callable[[Any, Any, Batch], Sums]:
    """`loss_step(params, stats, batch) -> {name: (sum, weight)}`, made once for equal arguments.

    Args:
      state: only the structure and shapes of its parameters and statistics are read.

    Raises:
      ConfigError: the sharding plan does not fit the parameters.
    """
    plan, config = experiment.mesh.plan, experiment.loss
    shapes = _shapes((state.params, state.stats))
    key = ("loss", graphdef, config, mesh, plan, shapes)

    def make() -> Step:
        def step(params: Any, stats: Any, batch: Batch) -> Sums:
            model = merge(graphdef, params, stats)
            return losses(model(batch), batch, model, config)

        place = resolve(state.params, RULES[plan], mesh)
        jitted = jax.jit(
            step,
            in_shardings=(place, replicated(mesh), batch_sharding(mesh)),
            out_shardings=replicated(mesh),
        )
        return Step(jitted, mesh)

    return made_once(key, make)


def _train_step(
    graphdef: nnx.GraphDef,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    place: Any,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    """Args: `place` is that of the trained parameters, and names them."""
    trained = frozenset(flat(place))
    rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
    for_model, for_head = jax.random.split(rng)

    def objective(part: Any) -> tuple[Array, Any]:
        model = merge(graphdef, overlay(state.params, part), state.stats)
        encoded = model(batch, rng=for_model)
        parts = losses(encoded, batch, model, experiment.loss, rng=for_head)
        return total(parts, experiment.loss), parts

    # The gradient is taken of the trained part only: nothing is computed for frozen towers.
    part = pick(state.params, trained)
    (loss, parts), grads = jax.value_and_grad(objective, has_aux=True)(part)
    # Summed to where they are stored, and only there: what follows is done on the parts.
    grads = jax.lax.with_sharding_constraint(grads, place)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)

    # optax wants a tree of all parameters; what stands for the frozen ones is never read.
    all_grads = overlay(state.params, grads)
    updates, opt_state = optimizer.update(all_grads, state.opt_state, state.params)
    moved = optax.apply_updates(part, pick(updates, trained))

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    part = keep(moved, part)
    ema = state.ema
    if ema is not None:
        decay = _ema_decay(experiment.optimizer.ema, state.step)
        average = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, part)
        ema = keep(average, ema)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=overlay(state.params, part),
        opt_state=keep(opt_state, state.opt_state),
        ema=ema,
    )
    metrics = {"loss": loss, **{name: mean(*sums) for name, sums in parts.items()}}
    skipped = jnp.where(finite, 0.0, 1.0)
    metrics = {**metrics, "grad_norm": norm, "skipped": skipped}
    if experiment.conversations is not None:
        metrics["tokens"] = jnp.sum(jnp.asarray(batch.segment) > 0, dtype=jnp.float32)
        metrics["padded"] = jnp.float32(batch.segment.size)
    return state, metrics


def _ema_decay(decay: float | None, step: Array) -> Array:
    """min(decay, (1 + t) / (10 + t)): a short run's average is not its starting point."""
    t = step.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay or 0.0), (1 + t) / (10 + t))


def _shapes(tree: Any) -> Hashable:
    """Paths, shapes and dtypes of a tree, as a key."""
    return tuple((path, tuple(x.shape), str(x.dtype)) for path, x in flat(tree).items())
