"""Quantised weights of any model of ours: int8 or nf4 (`rsvlm_jax.nn.codes`) in place of kernels.

    model --quantize--> the same model, where two parameters stand for each kernel:

                                  int8                         nf4
    .../q/kernel [layers,in,out]  kernel_int8 [layers,in,out]  kernel_nf4 [layers,in/2,out]
                                  kernel_scale [layers,1,out]  kernel_scale [layers,in/64,out]
    embed/embedding [V,D]         embedding_int8 [V,D]         -
                                  embedding_scale [V,1]

    params --quantize_params--> params --dequantize_params--> params, rounded

They are parameters, so that checkpoints hold them and `rsvlm_jax.mesh.rules` places them, by the
path of their kernel; but they are frozen: an optimiser that would train them refuses. LoRA goes
beside them as beside a kernel (`rsvlm_jax.nn.add_lora`, before or after): QLoRA. Layers that are no
Linear (patches, depthwise kernels, norms, positions) stay as they are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rsvlm_jax.config import DECODER_LINEARS, ConfigError
from rsvlm_jax.config.check import one_of, regex
from rsvlm_jax.core import INT8, NF4, NF4_BLOCK, SCALE, base_path, flat, is_lora, is_quantized
from rsvlm_jax.core.shapes import Array, Float

from .codes import decode_int8, decode_nf4, encode_int8, encode_nf4
from .linear import Embed, Linear

M = TypeVar("M", bound=nnx.Module)
Tree = dict[Any, Any]
"""A nested dict of arrays, keyed by the words of their paths."""

Kind = Literal["int8", "nf4"]
KINDS = ("int8", "nf4")


def quantize(model: M, kind: Kind, *, targets: str = DECODER_LINEARS) -> M:
    """Put codes in place of the weights that `targets` takes; changes and returns `model`.

    Works on stacked layers, and inside `jax.jit` or `nnx.eval_shape` on a model made there.

    Args:
      targets: searched in the paths of the kernels of all Linear layers and of the table of tokens
        (`embed/embedding`), e.g. `rsvlm_jax.config.DECODER_WEIGHTS`.

    Raises:
      ConfigError: an unknown kind, no regular expression, one that takes nothing or what is
        quantised already, nf4 of a table or of inputs that are no multiple of 64.
    """
    modules: dict[str, Linear | Embed] = {}
    for words, module in nnx.iter_modules(model):
        if isinstance(module, Linear):
            modules["/".join(map(str, (*words, "kernel")))] = module
        elif isinstance(module, Embed) and words and words[-1] == "embed":
            modules["/".join(map(str, (*words, "embedding")))] = module
    shapes = {
        path: None if getattr(module, f"{_leaf(path)}{SCALE}") is not None
        else getattr(module, _leaf(path)).shape
        for path, module in modules.items()
    }  # fmt: skip
    for path in _taken(shapes, kind, targets):
        module, leaf = modules[path], _leaf(path)
        made = encode(leaf, getattr(module, leaf)[...], kind)
        delattr(module, leaf)
        for name, x in made.items():
            setattr(module, name, nnx.Param(x))
    return model


def quantize_params(params: Tree, kind: Kind, *, targets: str = DECODER_LINEARS) -> Tree:
    """The parameters of `quantize(model, ...)` from those of `model`.

    By path alone: `targets` must take no kernel of a layer that is no Linear (of patches).

    Raises:
      ConfigError: as `quantize`.
    """
    shapes = {
        base_path(path): None if is_quantized(path) else tuple(x.shape)
        for path, x in flat(params).items()
        if not is_lora(path) and re.search(r"(^|/)(kernel|embed/embedding)$", base_path(path))
    }
    return _encoded(params, set(_taken(shapes, kind, targets)), kind, "")


def dequantize_params(params: Tree, dtype: DTypeLike = jnp.float32) -> Tree:
    """Plain parameters: what the codes stand for, under the paths that the weights had."""
    made: Tree = {}
    for key, x in params.items():
        if isinstance(x, dict):
            made[key] = dequantize_params(x, dtype)
        elif not is_quantized(str(key)):
            made[key] = x
        elif not key.endswith(SCALE):
            name = base_path(key)
            made[name] = decode(key, x, params[f"{name}{SCALE}"], dtype)
    return made


def plain_shapes(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by path as if none were quantised: shapes in place of codes, placed like them.

    Args:
      params: by path, as `rsvlm_jax.core.flat` gives them.
    """
    made: dict[str, Any] = {}
    for path, x in params.items():
        if not is_quantized(path):
            made[path] = x
        elif not path.endswith(SCALE):
            *stacked, d_in, d_out = x.shape
            shape = (*stacked, d_in * (2 if path.endswith(NF4) else 1), d_out)
            sharding = getattr(x, "sharding", None)
            made[base_path(path)] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    return made


def encode(leaf: str, x: Float[Array, "*stacked I O"], kind: Kind) -> dict[str, Array]:
    """Codes and scales of one weight, by the names that they have in its place.

    Args:
      leaf: "kernel", or "embedding" (int8; a scale a row).
    """
    codes, scale = _encode(x, kind, -1 if leaf == "embedding" else -2)
    return {f"{leaf}{INT8 if kind == 'int8' else NF4}": codes, f"{leaf}{SCALE}": scale}


def decode(name: str, codes: Array, scale: Array, dtype: DTypeLike) -> Float[Array, "*stacked I O"]:
    """The weight that codes of this name, e.g. "kernel_nf4", stand for."""
    return _decode(codes, scale, "nf4" if name.endswith(NF4) else "int8", jnp.dtype(dtype))


# Programs, and layer by layer: of a stack the intermediate arrays would take several times its
# memory.


@functools.partial(jax.jit, static_argnums=(1, 2))
def _encode(x: Array, kind: Kind, axis: int) -> tuple[Array, Array]:
    def one(x: Array) -> tuple[Array, Array]:
        return encode_int8(x, axis) if kind == "int8" else encode_nf4(x)

    return one(x) if x.ndim == 2 else jax.lax.map(one, x)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _decode(codes: Array, scale: Array, kind: Kind, dtype: Any) -> Array:
    def one(layer: tuple[Array, Array]) -> Array:
        return (decode_int8 if kind == "int8" else decode_nf4)(*layer, dtype)

    return one((codes, scale)) if codes.ndim == 2 else jax.lax.map(one, (codes, scale))


def _encoded(params: Tree, taken: set[str], kind: Kind, prefix: str) -> Tree:
    made: Tree = {}
    for key, x in params.items():
        path = f"{prefix}{key}"
        if isinstance(x, dict):
            made[key] = _encoded(x, taken, kind, f"{path}/")
        else:
            made |= encode(key, x, kind) if path in taken else {key: x}
    return made


def _leaf(path: str) -> str:
    return path.rpartition("/")[2]


def _taken(shapes: Mapping[str, tuple[int, ...] | None], kind: Kind, targets: str) -> list[str]:
    """Paths of what is quantised.

    Args:
      shapes: of the weights that can be, by path; None where it was done before.
    """
    one_of(kind, KINDS, "quantize(kind)")
    regex(targets, "quantize(targets)")
    taken = sorted(path for path in shapes if re.search(targets, path))
    if not taken:
        raise ConfigError(
            "nothing is quantised",
            where="quantize(targets)",
            expected="a pattern found in the path of a Linear's kernel or of the table of tokens",
            found=repr(targets),
            remedy=f"paths are like {', '.join(sorted(shapes)[:3])}",
        )
    for path in taken:
        shape = shapes[path]
        if shape is None:
            raise ConfigError("quantised already", where=path, remedy="dequantize_params first")
        if kind == "nf4" and _leaf(path) == "embedding":
            raise ConfigError("a table of vectors has no nf4", where=path, remedy="int8")
        if kind == "nf4" and shape[-2] % NF4_BLOCK:
            raise ConfigError(
                "inputs that nf4 cannot cut into blocks", where=path,
                expected=f"a multiple of {NF4_BLOCK}", found=shape[-2],
                remedy="int8 there (quantize twice, with other targets)",
            )  # fmt: skip
    return taken
