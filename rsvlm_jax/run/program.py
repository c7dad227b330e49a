"""The model of an experiment, built abstractly and initialised in one jitted call.

    params, stats = program.init(seed, place)         the base
    params = start_from(params, experiment)           filled (`rsvlm_jax.run.start`)
    params = program.adapt(params, seed, place)       stored as asked, LoRA's factors beside it

With a `Place` each device makes its part: a model need not fit on one of them.

Programs are cached by what they depend on: five folds of one experiment share their initialiser
and, through `rsvlm_jax.train.step`, their compiled steps.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from rsvlm_jax.config import BandSetSpec, LoraConfig, VLMConfig
from rsvlm_jax.config.training import AttentionKernel, Remat
from rsvlm_jax.core import base_path, flat, is_quantized, map_with_path
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.mesh.rules import RULES, replicated, resolve
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.nn import add_lora, merge_lora, split_lora, use_kernel
from rsvlm_jax.nn.linear import Linear
from rsvlm_jax.nn.quantize import dequantize_params, plain_shapes, quantize, quantize_params
from rsvlm_jax.train.state import Tree, split_model


@dataclasses.dataclass(frozen=True)
class Place:
    """Where parameters are made: a mesh, and the table that places them on it.

    Attributes:
      plan: a key of `rsvlm_jax.mesh.RULES`.
    """

    mesh: Mesh
    plan: str


Stored = Literal["float", "bfloat16", "int8", "nf4"]
"""Of the kernels that LoRA takes."""


@runtime_checkable
class Initialiser(Protocol):
    """`Program.init`."""

    def __call__(self, seed: int, place: Place | None = None) -> tuple[Tree, Tree]: ...


@runtime_checkable
class Adapter(Protocol):
    """`Program.adapt`."""

    def __call__(self, params: Tree, seed: int, place: Place | None = None) -> Tree: ...


@dataclasses.dataclass(frozen=True)
class Program:
    """A model without numbers.

    Attributes:
      graphdef: of the model, with codes and LoRA's factors.
      params, stats: trees of `jax.ShapeDtypeStruct`, as the graph definition has them.
      init: (seed, place) -> (params, stats) of the base, jitted. The numbers are the same wherever
        they are made; without a place, on the first device.
      adapt: (params of the base, seed, place) -> params. Without LoRA they stay as they are.
      plain: the way back: params -> params of the base, LoRA merged into kernels made float again.
    """

    graphdef: nnx.GraphDef
    params: Tree
    stats: Tree
    init: Initialiser
    adapt: Adapter
    plain: Callable[[Tree], Tree]

    @property
    def parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.params))


@functools.lru_cache(maxsize=16)
def program(
    config: VLMConfig,
    specs: tuple[BandSetSpec, ...] = (),
    *,
    image_token: int,
    reg_token: int | None = None,
    visual_tokens: int | None = None,
    window: int | None = None,
    lora: LoraConfig | None = None,
    stored: Stored = "float",
    remat: Remat = "none",
    attention: AttentionKernel = "auto",
    segments: int | None = None,
) -> Program:
    """The program of a model; equal arguments give the same object.

    Args:
      lora, stored: `Experiment.lora` and `Experiment.base`.
      remat, attention: as in `TrainConfig`.
      window, segments: as `VisionLanguageModel`.

    Raises:
      ConfigError: a LoRA that takes no layer of it (see `rsvlm_jax.nn.add_lora`), or layers that
        cannot be quantised.
    """

    def base(key: jax.Array) -> VisionLanguageModel:
        model = VisionLanguageModel(
            config,
            specs,
            image_token=image_token,
            reg_token=reg_token,
            visual_tokens=visual_tokens,
            window=window,
            segments=segments,
            remat=remat,
            rngs=nnx.Rngs(key),
        )
        use_kernel(model, attention)
        return model

    def whole(key: jax.Array) -> VisionLanguageModel:
        model = base(key)
        if lora is None:
            return model
        if stored in ("int8", "nf4"):
            quantize(model, stored, targets=lora.targets)
        add_lora(model, lora, nnx.Rngs(jax.random.fold_in(key, _FACTORS)))
        if stored == "bfloat16":
            for _, module in nnx.iter_modules(model):
                if isinstance(module, Linear) and module.kernel_lora_a is not None:
                    module.kernel = nnx.Param(module.kernel[...].astype(jnp.bfloat16))
        return model

    # Run once: an unoptimised program of many small draws compiles in a third of the time.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

    def base_of(seed: jax.Array) -> tuple[Tree, Tree]:
        return split_model(base(jax.random.key(seed)))[1:]

    def factors_of(seed: jax.Array) -> Tree:
        """Of the whole model nothing else is computed."""
        return split_lora(split_model(whole(jax.random.key(seed)))[1])[1]

    @functools.lru_cache(maxsize=8)
    def jitted(make: Callable[[jax.Array], Any], place: Place | None) -> Any:
        if place is None:
            return jax.jit(make, compiler_options=fast)
        placed = flat(resolve(params, RULES[place.plan], place.mesh))
        shaped = {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed[path])
            for path, x in flat(params).items()
        }
        # Of a kernel that codes stand for, as its codes; statistics are whole everywhere.
        found = shaped | plain_shapes(shaped)

        def of(path: str, _: Any) -> NamedSharding:
            return found[path].sharding if path in found else replicated(place.mesh)

        shapes = jax.eval_shape(make, jnp.int32(0))
        if isinstance(shapes, tuple):
            out = map_with_path(of, shapes[0]), jax.tree.map(lambda x: of("", x), shapes[1])
        else:
            out = map_with_path(of, shapes)
        return jax.jit(make, out_shardings=out, compiler_options=fast)

    def init(seed: int, place: Place | None = None) -> tuple[Tree, Tree]:
        return jitted(base_of, place)(jnp.int32(seed))

    def adapt(params: Tree, seed: int, place: Place | None = None) -> Tree:
        if lora is None:
            return params
        if stored in ("int8", "nf4"):
            params = quantize_params(params, stored, targets=coded)
        elif stored == "bfloat16":
            params = map_with_path(lambda p, x: x.astype(jnp.bfloat16) if p in half else x, params)
        return joined(params, jitted(factors_of, place)(jnp.int32(seed)))

    def plain(params: Tree) -> Tree:
        if lora is None:
            return params
        if stored in ("int8", "nf4"):
            params = dequantize_params(params)
        elif stored == "bfloat16":
            params = map_with_path(lambda p, x: x.astype(jnp.float32) if p in half else x, params)
        return merge_lora(params, lora)

    graphdef, params, stats = split_model(nnx.eval_shape(lambda: whole(jax.random.key(0))))
    # By path, what `quantize` took of the model: patterns may find kernels that are no Linear's.
    kernels = sorted({base_path(path) for path in flat(params) if is_quantized(path)})
    coded = f"^({'|'.join(map(re.escape, kernels))})$"
    half = frozenset(path for path, x in flat(params).items() if x.dtype == jnp.bfloat16)
    return Program(graphdef, params, stats, init, adapt, plain)


_FACTORS = 0x10_4A
"""Folded into the key of the model: its factors draw from another stream than its base."""


def program_of(
    processor: Processor,
    lora: LoraConfig | None = None,
    stored: Stored = "float",
    *,
    remat: Remat = "none",
    attention: AttentionKernel = "auto",
) -> Program:
    """The program that a processor belongs to. Args as `program`."""
    return program(
        processor.config,
        processor.bandsets,
        image_token=processor.tokenizer.image,
        reg_token=processor.tokenizer.reg,
        visual_tokens=processor.visual_tokens,
        window=processor.data.window if processor.config.is_dense else None,
        lora=lora,
        stored=stored,
        remat=remat,
        attention=attention,
        segments=1,
    )


def joined(tree: Tree, more: Tree) -> Tree:
    """Two nested dicts that have no leaf in common, as one."""
    both = dict(tree)
    for key, value in more.items():
        both[key] = joined(both[key], value) if key in both else value
    return both
