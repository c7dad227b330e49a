"""Low-rank adaptation (Hu et al. 2021) of the Linear layers of any model of ours.

    model --add_lora--> the same model, with two more parameters beside each kernel it takes:

    layers/attention/q/kernel          [layers, in, out]      paths and values as before
    layers/attention/q/kernel_lora_a   [layers, in, rank]     random
    layers/attention/q/kernel_lora_b   [layers, rank, out]    zeros: nothing changes at the start

    params --split_lora--> base, lora          --merge_lora--> kernel + scale * A @ B

The base may be quantised (`rsvlm_jax.nn.quantize`): QLoRA, y = x @ decode(codes) + scale * x A B.
What is trained is the optimiser's matter (`rsvlm_jax.config.LORA_ONLY`), where factors are stored
that of `rsvlm_jax.mesh.rules`, which places them by the path of their kernel.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jax.nn.initializers import variance_scaling

from rsvlm_jax.config import ConfigError, LoraConfig
from rsvlm_jax.core import LORA_A, LORA_B, is_lora
from rsvlm_jax.core.shapes import Array, Float

from .linear import Linear
from .quantize import dequantize_params

M = TypeVar("M", bound=nnx.Module)
Tree = dict[Any, Any]
"""A nested dict of arrays, keyed by the words of their paths."""


def add_lora(model: M, config: LoraConfig, rngs: nnx.Rngs) -> M:
    """Give the Linear layers that `config` takes their factors; changes and returns `model`.

    Works on stacked layers, and inside `jax.jit` or `nnx.eval_shape` on a model made there.

    Raises:
      ConfigError: the patterns take no Linear, or one that has LoRA already, or a language head,
        or an override takes none.
    """
    linears = {
        "/".join(map(str, (*path, "kernel"))): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear)
    }
    taken = sorted(path for path in linears if config.takes(path))
    if not taken:
        raise ConfigError(
            "LoRA takes no layer",
            where="LoraConfig.targets",
            expected="a pattern found in the path of a Linear's kernel",
            found=repr(config.targets),
            remedy=f"paths are like {', '.join(sorted(linears)[:3])}",
        )
    for i, override in enumerate(config.overrides):
        if not any(config.override_of(path) is override for path in taken):
            raise ConfigError(
                "an override takes no layer",
                where=f"LoraConfig.overrides[{i}].pattern",
                expected="a pattern found in the path of a target that no earlier override takes",
                found=repr(override.pattern),
            )
    for path in taken:
        module, rank = linears[path], config.rank_of(path)
        if path.endswith("lm_head/kernel"):
            raise ConfigError(
                "a language head takes no LoRA: losses read its kernel chunk by chunk",
                where=path, remedy="train it whole (OptimizerConfig.groups)",
            )  # fmt: skip
        if module.kernel_lora_a is not None:
            raise ConfigError("a layer has LoRA already", where=path)
        *stacked, d_in, d_out = module.shape
        # As PEFT: uniform within 1 / sqrt(in).
        init = variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=tuple(range(len(stacked))))
        a = init(rngs.params(), (*stacked, d_in, rank), jnp.float32)
        module.kernel_lora_a = nnx.Param(a)
        module.kernel_lora_b = nnx.Param(jnp.zeros((*stacked, rank, d_out), jnp.float32))
        module.lora_scale = config.scale_of(path)
    return model


def split_lora(params: Tree) -> tuple[Tree, Tree]:
    """Parameters without their LoRA factors, and these alone."""
    base, lora = {}, {}
    for key, value in params.items():
        if isinstance(value, dict):
            parts = split_lora(value)
            for whole, part in zip((base, lora), parts, strict=True):
                if part:
                    whole[key] = part
        else:
            (lora if is_lora(str(key)) else base)[key] = value
    return base, lora


def merge_lora(params: Tree, config: LoraConfig) -> Tree:
    """Plain parameters: `kernel + scale * A @ B`, computed in float32, stored and placed as kernel.

    Of a quantised base the result is float32, all of it: rounded to codes once more, it would no
    longer be the model that was trained.

    Args:
      params: of a model after `add_lora(model, config, ...)`, as a nested dict.

    Raises:
      ConfigError: factors of another rank than the config says, or that it does not take.
    """
    return _merge(dequantize_params(params), config, "")


def _merge(params: Tree, config: LoraConfig, prefix: str) -> Tree:
    merged = {}
    for key, value in params.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            merged[key] = _merge(value, config, f"{path}/")
        elif not is_lora(path):
            a, b = params.get(f"{key}{LORA_A}"), params.get(f"{key}{LORA_B}")
            ranks = (None, None) if a is None or b is None else (a.shape[-1], b.shape[-2])
            if ranks == (None, None) and a is b:
                merged[key] = value
                continue
            wanted = config.rank_of(path) if config.takes(path) else None
            if ranks != (wanted, wanted):
                raise ConfigError(
                    "LoRA of another config", where=path, expected=f"rank {wanted}",
                    found=f"A and B of ranks {ranks[0]} and {ranks[1]}",
                )  # fmt: skip
            merged[key] = _added(value, a, b, config.scale_of(path))
    return merged


def _added(kernel: Any, a: Any, b: Any, scale: float) -> Array:
    placed = isinstance(kernel, jax.Array) and not isinstance(kernel, Tracer)
    program = jax.jit(_sum, out_shardings=kernel.sharding) if placed else _sum
    return program(kernel, a, b, jnp.float32(scale))


def _sum(
    kernel: Float[Array, "*stacked I O"],
    a: Float[Array, "*stacked I R"],
    b: Float[Array, "*stacked R O"],
    scale: Float[Array, ""],
) -> Float[Array, "*stacked I O"]:
    def one(layer: tuple[Array, Array, Array]) -> Array:
        kernel, a, b = (x.astype(jnp.float32) for x in layer)
        # Exact where the default product of float32 is one of bfloat16 (TPU).
        return kernel + scale * jnp.matmul(a, b, precision="highest")

    # Layer by layer: of a stack of a 7B model the product alone would take gigabytes.
    if kernel.ndim == 2:
        return one((kernel, a, b)).astype(kernel.dtype)
    return jax.lax.map(lambda layer: one(layer).astype(kernel.dtype), (kernel, a, b))
