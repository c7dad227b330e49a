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

from rsvlm_jax.config import ConfigError, Experiment
from rsvlm_jax.core import flat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.mesh.batch import check_batch
from rsvlm_jax.mesh.rules import RULES, batch_sharding, replicated, resolve, state_shardings
from rsvlm_jax.models.heads import Standardised

from .gradient import gradient, gradient_in_parts
from .losses import Sums, losses, mean
from .once import made_once
from .optimizer import only_trained, trained_paths
from .spikes import judge
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
) -> Step:
    """`step(state, batch) -> (state, metrics)`, made once for equal arguments.

    Args:
      optimizer: of `make_optimizer(experiment.optimizer, ...)`.
      state: only its structure and shapes are read; `jax.ShapeDtypeStruct` will do.

    Metrics, float32 scalars: `loss`; the mean of every loss in use; `grad_norm` of the trained
    parameters before clipping; `skipped`, 1 where loss or gradient was not finite; with
    `TrainConfig.spike` also `spiked`, 1 where they leap out of the last steps. A step that is
    either changes neither parameters nor optimiser nor average, only the step count. Of
    conversations also `tokens` and `padded`: positions that hold something, and all of them.

    Raises:
      ConfigError: the sharding plan does not fit the parameters; or a state that remembers steps
        where `TrainConfig.spike` is None, or none where it is not.
    """
    plan = experiment.mesh.plan
    if (state.recent is None) != (experiment.train.spike is None):
        raise ConfigError(
            "a state of another setting",
            where="TrainConfig.spike",
            expected="init_state(..., spike=TrainConfig.spike)",
            found=f"{experiment.train.spike} and a state "
            + ("without recent steps" if state.recent is None else "with recent steps"),
        )
    shapes = _shapes(state)
    talk = experiment.conversations is not None
    train = experiment.train.micro_batches, experiment.train.spike
    about = experiment.optimizer, experiment.loss, train, optimizer, plan, talk
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
) -> Callable[[Any, Any, Batch], Standardised]:
    """`eval_step(params, stats, batch) -> Predictive`, replicated; made once for equal arguments.

    Args:
      params, stats: only their structure and shapes are read.

    Raises:
      ConfigError: the sharding plan does not fit the parameters.
    """
    key = ("eval", graphdef, mesh, plan, _shapes((params, stats)))

    def make() -> Step:
        def step(params: Any, stats: Any, batch: Batch) -> Standardised:
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
    part = pick(state.params, trained)
    loss, parts, grads = _gradient(graphdef, experiment, place, state, part, batch)
    # Summed to where they are stored, and only there: what follows is done on the parts.
    grads = jax.lax.with_sharding_constraint(grads, place)
    grads = only_trained(experiment.optimizer, grads, state.params)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    good, recent, told = finite, state.recent, {}
    if recent is not None and experiment.train.spike is not None:
        spiked, recent = judge(recent, loss, norm, experiment.train.spike)
        good, told = finite & ~spiked, {"spiked": spiked.astype(jnp.float32)}

    # optax wants a tree of all parameters; what stands for the frozen ones is never read.
    all_grads = overlay(state.params, grads)
    updates, opt_state = optimizer.update(all_grads, state.opt_state, state.params)
    moved = optax.apply_updates(part, pick(updates, trained))

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

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
        recent=recent,
    )
    metrics = {"loss": loss, **{name: mean(*sums) for name, sums in parts.items()}}
    metrics |= {"grad_norm": norm, "skipped": jnp.where(finite, 0.0, 1.0), **told}
    if experiment.conversations is not None:
        metrics["tokens"] = jnp.sum(jnp.asarray(batch.segment) > 0, dtype=jnp.float32)
        metrics["padded"] = jnp.float32(batch.segment.size)
    return state, metrics


def _gradient(
    graphdef: nnx.GraphDef,
    experiment: Experiment,
    place: Any,
    state: TrainState,
    part: Any,
    batch: Batch,
) -> tuple[Array, Sums, Any]:
    """Loss, its parts and the gradient of `part`, the trained parameters, and of no others:
    nothing is computed for frozen towers."""
    rng = jax.random.fold_in(jax.random.key(state.seed), state.step)

    def forward(part: Any, batch: Batch, rng: Array) -> Sums:
        for_model, for_head = jax.random.split(rng)
        model = merge(graphdef, overlay(state.params, part), state.stats)
        return losses(model(batch, rng=for_model), batch, model, experiment.loss, rng=for_head)

    count = experiment.train.micro_batches
    if count == 1:
        return gradient(forward, part, batch, rng, experiment.loss)
    return gradient_in_parts(forward, part, batch, rng, experiment.loss, count=count, place=place)


def _ema_decay(decay: float | None, step: Array) -> Array:
    """min(decay, (1 + t) / (10 + t)): a short run's average is not its starting point."""
    t = step.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay or 0.0), (1 + t) / (10 + t))


def _shapes(tree: Any) -> Hashable:
    """Paths, shapes and dtypes of a tree, as a key."""
    return tuple((path, tuple(x.shape), str(x.dtype)) for path, x in flat(tree).items())
