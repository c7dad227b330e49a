"""The two programs of generation from shapes alone: reading a prompt, and one more token.

    serving(request, mesh) -> Served      of the decoder of an experiment, LoRA merged, its floats
                                          in the type of the computation (`load(dtype=...)`)

They are those of `rsvlm_jax.generate.engine`. A prompt comes as embeddings, so that the vision
tower is not in them. Of the loop over new tokens one turn is counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rsvlm_jax.config import ConfigError, GenerationConfig
from rsvlm_jax.core import compute_dtype, flat
from rsvlm_jax.generate import engine
from rsvlm_jax.generate.request import Plan, program_of
from rsvlm_jax.generate.rules import Rules
from rsvlm_jax.generate.sampling import Filters
from rsvlm_jax.mesh.batch import batch_parts
from rsvlm_jax.mesh.constraints import ACTIVATIONS
from rsvlm_jax.mesh.rules import RULES, replicated, resolve
from rsvlm_jax.models.language import language_model
from rsvlm_jax.nn import use_kernel

from .abstract import device_bytes

if TYPE_CHECKING:
    from .plan_compile import Request

_END = (2,)
"""An end token; which one it is makes no other program."""


@dataclasses.dataclass(frozen=True)
class Served:
    """A program of generation, and what goes into it.

    Attributes:
      lower: `jax.jit(...).lower` of the shapes.
      arguments: trees of placed shapes, by the names of the function's arguments.
      facts: as `rsvlm_jax.run.plan_compile` tells them of a step.
    """

    lower: Callable[[], Any]
    arguments: dict[str, Any]
    facts: dict[str, Any]


def serving(request: Request, mesh: Mesh) -> Served:
    """The program that `request.program` names.

    Raises:
      ConfigError: no decoder, rows that the mesh does not divide, more positions than the decoder
        was made for, or a plan that does not fit the parameters.
    """
    experiment, rows = request.experiment, request.rows
    config, slots = experiment.model.decoder, request.prompt + request.new
    if config is None:
        raise ConfigError(
            "nothing that says anything", where="VLMConfig.decoder", expected="a decoder, to serve"
        )
    if rows % batch_parts(mesh):
        raise ConfigError(
            "the texts do not divide over the mesh",
            where="--rows",
            expected=f"a multiple of {batch_parts(mesh)}",
            found=rows,
            remedy="or --mesh.fsdp 1 --mesh.tensor -1, which splits the model alone",
        )
    if slots > config.positions:
        raise ConfigError(
            "more positions than the decoder was made for",
            where="--prompt, --new",
            expected=f"{config.positions} together at most",
            found=slots,
        )
    dtype = compute_dtype(experiment.model.dtype)
    decoder = nnx.eval_shape(lambda: language_model(config, remat="none", rngs=nnx.Rngs(0)))
    use_kernel(decoder, experiment.train.attention)
    graphdef, state = nnx.split(decoder)
    params = {"decoder": nnx.to_pure_dict(state)}
    placed = flat(resolve(params, RULES[experiment.mesh.plan], mesh))
    leaves, tree = jax.tree.flatten(state)
    keyed = jax.tree_util.tree_flatten_with_path(state)[0]
    paths = ["/".join(str(k.key) for k in path if hasattr(k, "key")) for path, _ in keyed]
    leaves = [
        jax.ShapeDtypeStruct(
            x.shape,
            dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype,
            sharding=placed[f"decoder/{path}"],
        )
        for path, x in zip(paths, leaves, strict=True)
    ]
    generation = GenerationConfig(max_new_tokens=request.new)
    filters = Filters.of(generation)
    plan = Plan(request.new, slots, filters, False, False, jnp.dtype(dtype).name, 1, 0)
    program = program_of(graphdef, tree, plan)
    whole = replicated(mesh)
    rules = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=whole),
        Rules.of(generation, config.vocab_size, _END, None, (), None),
    )
    split = NamedSharding(mesh, PartitionSpec(ACTIVATIONS["batch"]))
    prefix = jax.ShapeDtypeStruct((rows, request.prompt, config.width), dtype, sharding=split)
    valid = jax.ShapeDtypeStruct((rows, request.prompt), bool, sharding=split)
    with jax.set_mesh(mesh):
        text, _ = jax.eval_shape(
            lambda *a: engine._prefill(program, *a), leaves, rules, prefix, valid, None, None
        )
    cache = jax.tree.map(lambda x: _beside(x, rows, config.kv_heads, mesh), text)
    cache_bytes = device_bytes(cache.cache)
    weights = 2.0 * sum(
        x.size for path, x in zip(paths, leaves, strict=True) if "embed" not in path
    )
    if "decoder/lm_head/kernel" not in placed:
        weights += 2.0 * config.vocab_size * config.width
    scores = 4.0 * config.layers * config.heads * config.head_width

    if request.program == "prefill":
        args: dict[str, Any] = {"leaves": leaves, "rules": rules, "prefix": prefix, "valid": valid}
        tokens = rows * request.prompt
        head = 2.0 * config.vocab_size * config.width  # of the last position alone
        flops = (weights - head) * tokens + head * rows
        flops += scores * rows * request.prompt**2 / 2

        def lower() -> Any:
            with jax.set_mesh(mesh):
                return engine._prefill.lower(program, leaves, rules, prefix, valid, None, None)
    else:
        until = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        args = {"leaves": leaves, "rules": rules, "state": cache, "until": until}
        tokens = rows
        flops = weights * rows + scores * rows * slots
        step = jax.jit(engine._advance, static_argnums=0, donate_argnums=3)

        def lower() -> Any:
            with jax.set_mesh(mesh):
                return step.lower(program, leaves, rules, cache, until, None, None)

    facts = {
        "parameters": sum(x.size for x in leaves),
        "trained_parameters": 0,
        "parameter_bytes": device_bytes(dict(zip(paths, leaves, strict=True))),
        "optimizer_bytes": 0,
        "cache_bytes": cache_bytes,
        "rows": rows,
        "length": request.prompt,
        "tokens": tokens,
        "frames": 0,
        "flops": flops,
        "flops_full": flops,
        "replicated": [],
        "paths": [f"decoder/{path}" for path in paths],
        "moved_bytes": device_bytes(args["leaves"]) + cache_bytes,
        "assumed": [
            f"the decoder alone, in {jnp.dtype(dtype).name}, LoRA merged; the vision tower is not "
            "in it",
            f"{rows} texts of {request.prompt} positions, and {request.new} tokens after them",
        ],
    }
    return Served(lower, args, facts)


def _beside(x: Any, rows: int, kv_heads: int, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """An array of the state, placed: rows as a batch, key heads over "tensor" where they divide."""
    spec: list[Any] = [None] * x.ndim
    if x.ndim == 5:  # slots of all layers: [layers, B, Hkv, ...]
        spec[1] = ACTIVATIONS["batch"]
        if kv_heads % mesh.shape["tensor"] == 0:
            spec[2] = "tensor"
    elif x.ndim and x.shape[0] == rows:
        spec[0] = ACTIVATIONS["batch"]
    place = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
