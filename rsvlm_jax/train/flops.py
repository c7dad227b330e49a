"""Floating-point operations of a training step, by formula: those of its matrix products.

A product [M,K] x [K,N] is 2 M N K operations, whatever computes it. Which products there are is
read off the traced step, so that what is frozen counts as what it is: of a frozen trunk the
gradient of the input is computed and that of the weight is not (4 N operations a token, where
training all takes 6 N), of a frozen tower below all that is trained neither (2 N). The trace is of
shapes alone and takes no memory; a scan counts as often as it runs.

Three things are put in by hand, because how they are computed says nothing of what is needed:

    the language head    2 D V a position, forward; as much again for its input and its weight,
                         where each is trained. All positions count, supervised or not.
    causal attention     the products of [L, L] scores, counted in full and by half (`attention`)
    recomputation        none: that of remat is not what the model needs (`again` counts it)

What is not a product (norms, activations, softmax, the optimiser) is not counted, as everywhere
where MFU is told.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from rsvlm_jax.config import Experiment
from rsvlm_jax.config.training import Remat
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.nn import use_kernel

from .losses import losses, total
from .optimizer import trained_paths
from .state import Tree, merge, overlay, pick


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Operations of one optimiser step over one batch, all devices together.

    Attributes:
      full: with attention counted over all pairs of positions.
      attention: the decoder's products of scores among them; causality leaves half of these.
    """

    full: float
    attention: float

    @property
    def causal(self) -> float:
        """With causal attention counted by half: what the model needs."""
        return self.full - self.attention / 2


def step_flops(
    graphdef: nnx.GraphDef, experiment: Experiment, params: Tree, stats: Tree, batch: Batch
) -> StepFlops:
    """Of forward and backward pass of a batch; see the module.

    Args:
      graphdef: of the model; its kernels and its remat do not matter.
      params, stats, batch: arrays or `jax.ShapeDtypeStruct`.

    Raises:
      ConfigError: groups of the optimiser that take no parameter.
    """
    config = experiment.losses
    trained = trained_paths(experiment.optimizer, params)

    def objective(part: Tree, params: Tree, stats: Tree, batch: Batch) -> Any:
        model = merge(graphdef, overlay(params, part), stats)
        _plainly(model)
        encoded = model(batch, rng=jax.random.key(0))
        loss = jnp.float32(0)
        if config.huber or config.scale:
            numbers = dataclasses.replace(config, text=0.0)
            loss = total(losses(encoded, batch, model, numbers), numbers)
        return loss + jnp.sum(encoded.hidden.astype(jnp.float32)) if config.text else loss

    part = pick(params, trained)
    full = traced_flops(jax.value_and_grad(objective), part, params, stats, batch)
    decoder = experiment.model.decoder
    if decoder is None:
        return StepFlops(full, 0.0)
    b, length = batch.tokens.shape
    # Below the language head: all but the regression head and the language head's own weight.
    tied = getattr(decoder, "tie_embeddings", True)
    weight = "decoder/embed/embedding" if tied else "decoder/lm_head/kernel"
    below = [p for p in trained if (p != weight or tied) and not p.startswith("head/")]
    if config.text:
        passes = 1 + (weight in trained) + bool(below)
        full += passes * 2.0 * b * length * decoder.width * decoder.vocab_size
    # Forward 2 products of [L, L]; backward twice as many, unless all that is trained comes after
    # the layers. One scan runs them all, so that a part of them costs as much as all.
    passes = 3 if any(not p.startswith("decoder/norm/") for p in below) else 1
    width = decoder.heads * decoder.head_width
    attention = passes * 4.0 * b * length**2 * width * decoder.layers
    return StepFlops(full, attention)


def again(decoder: Any, tokens: int | float, length: int, remat: Remat) -> float:
    """Operations of the decoder's layers that `TrainConfig.remat` has computed once more.

    Nobody's backward pass reads what the MLP gives, so that its last product is never among them;
    what attention gives enters the norm before the MLP, so that its own last product always is.

        save_qkv_mlp  o                      save_context  q, k, v, o, gate, up
        offload       o, gate, up            full          these, and the scores, by half

    Args:
      decoder: `DecoderConfig`.
      tokens: positions of the step;  length: of a row.
    """
    wide, inner = decoder.width, decoder.heads * decoder.head_width
    qkv = wide * (inner + 2 * decoder.kv_heads * decoder.head_width)
    gates = (2 if decoder.kind == "llama" else 1) * wide * decoder.mlp_dim
    products = {
        "none": 0.0,
        "save_qkv_mlp": inner * wide,
        "offload": inner * wide + gates,
        "save_context": inner * wide + gates + qkv,
        "full": inner * wide + gates + qkv + length * inner,
    }
    return 2.0 * tokens * decoder.layers * products[remat]


def _plainly(model: nnx.Module) -> None:
    """Every product by itself and once: no fused attention, nothing computed again."""
    use_kernel(model, "plain")
    for _, module in nnx.iter_modules(model):
        if getattr(module, "remat", "none") != "none":
            module.remat = "none"  # type: ignore[attr-defined]


def frame_count(graphdef: nnx.GraphDef, params: Tree, stats: Tree, batch: Batch) -> int:
    """Images that go through the vision tower for a batch: of band sets, dates and groups.

    Args:
      params, stats, batch: arrays or `jax.ShapeDtypeStruct`.
    """

    def frames(params: Tree, stats: Tree, batch: Batch) -> list[jax.Array]:
        if batch.images is not None:
            pixels = batch.images.pixels
            return [] if pixels is None else [jnp.asarray(pixels)]
        model = merge(graphdef, params, stats)
        made = [front(batch.obs[name])[0] for name, front in model.spectral.items()]
        return [x.reshape(-1, *x.shape[2:]) for x in made]

    shapes = jax.eval_shape(frames, *jax.tree.map(_shape, (params, stats, batch)))
    return sum(x.shape[0] for x in shapes)


def traced_flops(fn: Callable[..., Any], *args: Any) -> float:
    """Operations of the matrix products and convolutions of a function, on shapes.

    Loops whose number of turns is not known before count as one turn; of branches the largest one
    counts.
    """
    return _count(jax.make_jaxpr(fn)(*jax.tree.map(_shape, args)).jaxpr)


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "shape") else x


def _count(jaxpr: Any) -> float:
    return math.fsum(_of_equation(eqn) for eqn in jaxpr.eqns)


def _of_equation(eqn: Any) -> float:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        k = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        return 2.0 * k * math.prod(eqn.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
        per_output = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
        return 2.0 * per_output * math.prod(eqn.outvars[0].aval.shape)
    if name == "cond":
        return max((_count(branch.jaxpr) for branch in eqn.params["branches"]), default=0.0)
    inner = math.fsum(map(_count, _inside(eqn.params)))
    return inner * eqn.params["length"] if name == "scan" else inner


def _inside(params: dict[str, Any]) -> list[Any]:
    """The programs that an equation runs: of `jit`, `scan`, `while`, `checkpoint`, `custom_vjp`."""
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found
