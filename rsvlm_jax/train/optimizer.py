"""The optimiser of a run: a direction, warm-up and cosine decay, by parameter group.

    clip by global norm -> direction -> + weight decay on kernels -> * schedule -> * group's scale

Directions, by `OptimizerConfig.kind`, are those of `rsvlm_jax.train.directions`.

A group is a pattern on parameter paths; the first pattern that matches wins, and parameters that
none matches have scale 1. Scale 0 freezes: no optimiser state, no update, no part in the norm.
Quantised weights must be frozen, and those in bfloat16. The layers before a group's `from_layer`
share an array with trained ones: no update, and optimiser state (zeros). Their gradients are made
zero once, by `only_trained`, before the step takes the norm and hands them to the optimiser.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rsvlm_jax.config import FROZEN_CODES, ConfigError, GroupConfig, OptimizerConfig
from rsvlm_jax.core import base_path, flat, is_quantized, map_with_path

from .directions import direction


def make_optimizer(
    config: OptimizerConfig, steps: int, params: Any
) -> optax.GradientTransformation:
    """The optimiser of a run.

    Equal arguments give the same object, so that steps made for several folds share one
    compilation (see `rsvlm_jax.train.step`).

    Args:
      steps: length of the run, which the schedule needs.
      params: arrays or shapes; their paths and dtypes are read, and of some the number of layers.

    Raises:
      ConfigError: a group pattern that is no regular expression or takes no parameter, groups
        that freeze everything, or that do not freeze quantised weights, or a `from_layer` of what
        has not so many layers.
    """
    firsts = _first_layers(config, params)
    return _make(config, steps, tuple(scales(config, params).items()), tuple(firsts.items()))


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear from peak/(w+1) to peak over w steps, then a cosine to zero, or
    to `floor` of the peak.

    Not from zero: the first step of a short run would be lost.
    """
    warm = int(config.warmup * steps)
    rest = max(1, steps - warm)

    def rate(count: Any) -> jax.Array:
        t = jnp.asarray(count, jnp.float32)
        rising = (t + 1) / (warm + 1)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((t - warm) / rest, 0, 1)))
        falling = config.floor + (1 - config.floor) * cosine
        return config.learning_rate * jnp.where(t < warm, rising, falling)

    return rate


def scales(config: OptimizerConfig, params: Any) -> dict[str, float]:
    """Factor on the learning rate by parameter path; 0 is frozen. Errors as `make_optimizer`."""
    result = {path: g.scale if g else 1.0 for path, g in _groups(config, params).items()}
    codes = sorted(path for path, scale in result.items() if scale and is_quantized(path))
    if codes:
        raise ConfigError(
            "quantised weights cannot be trained",
            where="OptimizerConfig.groups",
            expected="a scale of 0 for their codes and scales",
            found=f"{result[codes[0]]:g} for {codes[0]}",
            remedy=f"a group before the one that takes them: {FROZEN_CODES}",
        )
    shapes = flat(params)
    half = sorted(p for p, scale in result.items() if scale and shapes[p].dtype == jnp.bfloat16)
    if half:
        raise ConfigError(
            "weights stored in bfloat16 cannot be trained",
            where="OptimizerConfig.groups",
            expected="a scale of 0 for the base of LoRA",
            found=f"{result[half[0]]:g} for {half[0]}",
            remedy='groups=LORA_ONLY, or Experiment.base="float"',
        )
    if not any(result.values()):
        raise ConfigError(
            "all parameters are frozen",
            where="OptimizerConfig.groups",
            expected="some parameter with a scale other than 0",
        )
    return result


def only_trained(config: OptimizerConfig, grads: Any, params: Any) -> Any:
    """Gradients of the trained parameters, with zeros for layers before a group's `from_layer`.

    Args:
      params: all of them, arrays or shapes.

    Raises:
      ConfigError: as `make_optimizer`.
    """
    firsts = _first_layers(config, params)
    return map_with_path(lambda path, g: _upper(firsts.get(path, 0), g), grads)


def _upper(first: int, x: jax.Array) -> jax.Array:
    """A stack with zeros before its layer `first`."""
    if not first:
        return x
    trained = jnp.arange(x.shape[0]) >= first
    return jnp.where(jnp.expand_dims(trained, range(1, x.ndim)), x, jnp.zeros_like(x))


def _groups(config: OptimizerConfig, params: Any) -> dict[str, GroupConfig | None]:
    """The group that each parameter is in, by path."""
    groups = []
    for i, group in enumerate(config.groups):
        where = f"OptimizerConfig.groups[{i}].pattern"
        try:
            groups.append((re.compile(group.pattern), group))
        except re.error as e:
            raise ConfigError(
                f"not a regular expression ({e})", where=where, found=repr(group.pattern)
            ) from e
    taken = [0] * len(groups)
    result: dict[str, GroupConfig | None] = {}
    for path in flat(params):
        result[path] = None
        for i, (pattern, group) in enumerate(groups):
            if pattern.search(path):
                result[path] = group
                taken[i] += 1
                break
    for i, count in enumerate(taken):
        if not count:
            raise ConfigError(
                "a group takes no parameter",
                where=f"OptimizerConfig.groups[{i}].pattern",
                expected="a pattern found in a parameter path that no earlier group takes",
                found=repr(config.groups[i].pattern),
                remedy=f"paths begin with {', '.join(sorted({p.split('/')[0] for p in result}))}",
            )
    return result


def _first_layers(config: OptimizerConfig, params: Any) -> dict[str, int]:
    """The first layer that trains, by path, of stacked layers of which some stay."""
    shapes = flat(params)
    found = {p: g.from_layer for p, g in _groups(config, params).items() if g and g.from_layer}
    for path, first in found.items():
        layers = shapes[path].shape[0] if re.search(r"(^|/)layers/", path) else 0
        if first >= layers:
            raise ConfigError(
                "a group trains no layer",
                where="GroupConfig.from_layer",
                expected=f"less than the layers of {path} ({layers})",
                found=first,
            )
    return found


def trained_paths(config: OptimizerConfig, params: Any) -> frozenset[str]:
    """Paths of the parameters that are not frozen."""
    return frozenset(path for path, scale in scales(config, params).items() if scale)


@functools.lru_cache(maxsize=64)
def _make(
    config: OptimizerConfig,
    steps: int,
    scales: tuple[tuple[str, float], ...],
    firsts: tuple[tuple[str, int], ...],
) -> optax.GradientTransformation:
    scale, first = dict(scales), dict(firsts)

    def scaled(path: str, u: jax.Array) -> jax.Array:
        # Weight decay has moved the lower layers, too.
        return _upper(first.get(path, 0), u if scale[path] == 1 else u * scale[path])

    def rescale(updates: Any, params: Any = None) -> Any:
        del params
        return map_with_path(scaled, updates)

    def decayed(params: Any) -> Any:
        return map_with_path(lambda path, _: base_path(path).endswith("/kernel"), params)

    def label(params: Any) -> Any:
        return map_with_path(lambda path, _: "trained" if scale[path] else "frozen", params)

    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    trained = optax.chain(
        clip,
        direction(config),
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.scale_by_learning_rate(schedule(config, steps)),
        optax.stateless(rescale),
    )
    groups = optax.multi_transform({"trained": trained, "frozen": optax.set_to_zero()}, label)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # optax mixes its integer counts with floats, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return groups.update(updates, state, params)

    return optax.GradientTransformation(groups.init, update)
