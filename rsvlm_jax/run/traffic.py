"""What a plan holds on a chip and sends in a step, by counts of parameters: formulas, no program.

    parts = parts_of(experiment, program, {"data": 2, "fsdp": 4})     parameters that are used alike
    state_bytes(experiment, parts, sizes)                             on one chip, to the byte
    sent_bytes(experiment, parts, sizes)                              by one chip, by mesh axis

With f, t chips along "fsdp" and "tensor", d along "data" and "slice", m micro-batches, and N
numbers of parameters, of which each chip of "tensor" has N/t where "tensor" splits them::

    state     (4 N frozen + (4 + moments) N trained) / (f t), each by what splits it
    fsdp      m (f-1)/f [ gathers x w N/t + 4 N/t if trained ]
              gathers: 2 of stacked layers that a gradient passes, else 1; w: 2 bytes in bfloat16
    data      m 2 (d-1)/d x 4 N/(f t), gradients that are summed where they are stored (HSDP)
              of what "fsdp" does not split: m 2 (df-1)/(df) x 4 N/t, over both
    tensor    2 (t-1)/t x activations: a decoder layer sums 2 forward and, backward, once for each
              product that reads what all chips have (q, k, v, gate, up); a tower 2 forward
    images    (df-1)/(df) x features of all images of the step: they go to every chip of the batch

What is sent is counted as by `rsvlm_jax.mesh.Collective.sent` (a ring). The compiler may do better:
sum the gradients of q, k and v before they are sent, gather no feature that is not asked for.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jax.sharding import AbstractMesh

from rsvlm_jax.config import ConfigError, Experiment
from rsvlm_jax.config.model import VLMConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh.build import AXES
from rsvlm_jax.mesh.links import Axis
from rsvlm_jax.mesh.rules import RULES, resolve
from rsvlm_jax.train.optimizer import trained_paths

from .program import Program

MOMENTS = {"adamw": 8, "sgd": 0}
"""Bytes of an optimiser's state for each trained number. The others keep parts of matrices."""

SCALARS = {"adamw": 16, "sgd": 12}
"""Bytes beside: step, seed, and the counts of the optimiser and of its schedule."""

_ORDER = (
    *("vision", "resampler", "pixel", "selection", "temporal", "connector", "decoder", "head"),
)
"""Towers, each fed by those before it."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Parameters that are stored and used alike.

    Attributes:
      tower: first word of their paths.
      axes: mesh axes of more than one chip that split them where they are stored.
      count: numbers, of all chips together.
      stored, wire: bytes of one, where it is stored, and where it is gathered.
      trained: whether there are gradients and moments.
      gathers: how often a pass over one micro-batch gathers them, where "fsdp" splits them.
    """

    tower: str
    axes: tuple[str, ...]
    count: int
    stored: int
    wire: int
    trained: bool
    gathers: int

    def on_one(self, sizes: Mapping[str, int], *, used: bool = False) -> float:
        """Numbers on one chip, as stored or, gathered over "fsdp", as used."""
        axes = [axis for axis in self.axes if not (used and axis == "fsdp")]
        return self.count / math.prod(sizes.get(axis, 1) for axis in axes)


def parts_of(experiment: Experiment, made: Program, sizes: Mapping[str, int]) -> tuple[Part, ...]:
    """The parameters of a program under the experiment's plan, on a mesh of these sizes.

    Args:
      experiment: its `mesh` says the plan only.
      sizes: chips along each axis of the mesh; axes that are not there are of one.

    Raises:
      ConfigError: the plan does not fit the parameters.
    """
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    placed = flat(resolve(made.params, RULES[experiment.mesh.plan], AbstractMesh(shape, AXES)))
    trained = trained_paths(experiment.optimizer, made.params)
    reached = _reached(trained)
    bfloat16 = experiment.model.dtype == "bfloat16"
    counts: collections.Counter[Part] = collections.Counter()
    for path, x in flat(made.params).items():
        tower, words = path.split("/")[0], path.split("/")
        entries = [(e,) if isinstance(e, str) else e or () for e in placed[path].spec]
        axes = tuple(a for e in entries for a in e if sizes.get(a, 1) > 1)
        stacked = any(word in ("layers", "blocks") for word in words)
        narrow = bfloat16 and x.dtype.itemsize == 4 and words[-1] != "embedding"
        part = Part(
            tower=tower,
            axes=axes,
            count=0,
            stored=x.dtype.itemsize,
            wire=2 if narrow else x.dtype.itemsize,
            trained=path in trained,
            gathers=2 if stacked and tower in reached else 1,
        )
        counts[part] += math.prod(x.shape)
    return tuple(dataclasses.replace(part, count=n) for part, n in counts.items())


def _reached(trained: frozenset[str]) -> frozenset[str]:
    """Towers that a gradient passes through: the first that is trained, and all after it."""
    first = min(_ORDER.index(path.split("/")[0]) for path in trained)
    return frozenset(_ORDER[first:])


def state_bytes(experiment: Experiment, parts: tuple[Part, ...], sizes: Mapping[str, int]) -> int:
    """Parameters, moments, average and counts on one chip; not statistics of a cube.

    Raises:
      ConfigError: an optimiser that is not on paper.
    """
    kind = experiment.optimizer.kind
    if kind not in MOMENTS:
        raise ConfigError(
            "no formula for the state of this optimiser",
            where="OptimizerConfig.kind",
            expected=" or ".join(MOMENTS),
            found=kind,
        )
    more = MOMENTS[kind] + (0 if experiment.optimizer.ema is None else 4)
    held = (p.on_one(sizes) * (p.stored + (more if p.trained else 0)) for p in parts)
    return round(math.fsum(held)) + SCALARS[kind]


def gradient_bytes(parts: tuple[Part, ...], sizes: Mapping[str, int]) -> int:
    """Gradients on one chip, in float32, where they are stored."""
    return round(math.fsum(4 * p.on_one(sizes) for p in parts if p.trained))


def sent_bytes(
    experiment: Experiment,
    parts: tuple[Part, ...],
    sizes: Mapping[str, int],
    *,
    images: int | float = 1,
    length: int | None = None,
) -> dict[Axis, float]:
    """Bytes that one chip sends in one step, by the mesh axes that they go over.

    Args:
      images: of a row: pictures, or frames of a cube that go through the tower.
      length: positions of a row; None: the greatest of conversations.

    Raises:
      ConfigError: no length, or positions that are split over "context".
    """
    if length is None and experiment.conversations is not None:
        length = experiment.conversations.length
    if length is None or sizes.get("context", 1) > 1:
        raise ConfigError(
            "no formula for what this step sends",
            where="sent_bytes(experiment, sizes)",
            expected="the length of a row, and context=1",
            found=f"context={sizes.get('context', 1)}, length={length}",
        )
    f, t = sizes.get("fsdp", 1), sizes.get("tensor", 1)
    replicas = tuple(a for a in ("slice", "data") if sizes.get(a, 1) > 1)
    d = math.prod(sizes[a] for a in replicas)
    whole = (*replicas, *(("fsdp",) if f > 1 else ()))
    found: collections.defaultdict[tuple[str, ...], float] = collections.defaultdict(float)
    for part in parts:
        used = part.on_one(sizes, used=True)
        if "fsdp" in part.axes:
            found["fsdp",] += _ring(f) * used * part.gathers * part.wire
            if part.trained:
                found["fsdp",] += _ring(f) * used * 4
                found[replicas] += 2 * _ring(d) * used / f * 4
        elif part.trained:
            found[whole] += 2 * _ring(d * f) * used * 4
    for axis in found:
        found[axis] *= experiment.train.micro_batches
    model, rows = experiment.model, experiment.train.batch_size
    width = 2 if model.dtype == "bfloat16" else 4
    visual = rows * images * model.frame_tokens
    found[whole] += _ring(d * f) * visual * model.frame_width * width
    if t > 1:
        summed = _summed(experiment, parts, rows * images, rows * length)
        found["tensor",] += 2 * _ring(t) * summed * width / (d * f)
        labels = 3 * rows * length * 4  # largest, sum, and the word's own
        found["tensor",] += 2 * _ring(t) * labels / (d * f)
    return {axes[0] if len(axes) == 1 else axes: n for axes, n in found.items() if n}


def _ring(n: int) -> float:
    return (n - 1) / n


SHARED = 5
"""Products of a decoder layer that read the same activation on all chips of "tensor"."""


def _summed(
    experiment: Experiment, parts: tuple[Part, ...], images: int | float, positions: int
) -> float:
    """Numbers that are summed over "tensor" in a step, of all rows together."""
    model = experiment.model
    decoder = model.decoder
    if decoder is None:
        return 0.0
    passed = any(p.gathers == 2 for p in parts if p.tower == "decoder")
    again = 1 if experiment.train.remat != "none" and passed else 0
    text = positions * decoder.width
    layers = text * decoder.layers * (2 + (SHARED + again if passed else 0))
    ends = 2 * text if passed else text  # the token table; back from the language head
    connector = images * model.frame_tokens * decoder.width
    return layers + ends + connector + _towers(model, images)


def _towers(model: VLMConfig, images: int | float) -> float:
    vision: Any = model.vision
    tokens, layers = _tower(model)
    return 2.0 * images * tokens * vision.width * layers if layers else 0.0


def _tower(model: VLMConfig) -> tuple[int, int]:
    """Tokens of an image and layers that run, of a vision transformer; of others (0, 0)."""
    vision: Any = model.vision
    if not hasattr(vision, "layers"):
        return 0, 0
    tokens = (vision.image_size // vision.patch_size) ** 2 + (vision.kind != "siglip")
    return tokens, max(i % (vision.layers + 1) for i in vision.feature_layers)


def kept_bytes(model: VLMConfig, tokens: int | float, remat: str) -> float:
    """Activations of the decoder that wait for the backward pass, in the model's dtype, for so many
    positions on a chip: of each layer its input, and by `TrainConfig.remat`

        full          nothing else
        save_context  what attention gives
        save_qkv_mlp  that, queries, keys, values, and what enters the MLP's activation
        none          that, both norms, the rotated queries and keys, and what the MLP multiplies
    """
    decoder: Any = model.decoder
    kv = decoder.kv_heads * decoder.head_width
    heads = decoder.heads * decoder.head_width
    gated = 2 if decoder.kind == "llama" else 1
    numbers = decoder.width
    if remat != "full":
        numbers += heads
    if remat in ("save_qkv_mlp", "none"):
        numbers += heads + 2 * kv + gated * decoder.mlp_dim
    if remat == "none":
        numbers += 2 * decoder.width + heads + kv + 2 * decoder.mlp_dim
    return float(tokens) * decoder.layers * numbers * (2 if model.dtype == "bfloat16" else 4)


def elementwise_bytes(model: VLMConfig, tokens: int | float) -> float:
    """Bytes to and from memory of a decoder's norms, rotations, sums and activations, for so many
    positions on a chip, forward and backward (twice as much), each operation by itself: of the
    width 14 D a layer (two norms read and write, two sums read two and write one, queries and keys
    are rotated), of the MLP 3 F (reads two, writes one). Attention's scores stay on the chip.
    """
    decoder: Any = model.decoder
    numbers = 3 * decoder.layers * (14 * decoder.width + 3 * decoder.mlp_dim)
    return float(tokens) * numbers * (2 if model.dtype == "bfloat16" else 4)


def tower_bytes(model: VLMConfig, parts: tuple[Part, ...], images: int | float) -> float:
    """The same of a vision transformer, for so many images on a chip: of the width 10 D a layer
    (two norms, two sums), of the MLP 2 F; backward twice as much, where a gradient passes it."""
    vision: Any = model.vision
    tokens, layers = _tower(model)
    if not layers:
        return 0.0
    passed = any(p.tower == "vision" and (p.trained or p.gathers == 2) for p in parts)
    numbers = layers * (10 * vision.width + 2 * vision.mlp_dim) * (3 if passed else 1)
    return float(images) * tokens * numbers * (2 if model.dtype == "bfloat16" else 4)


def optimizer_bytes(
    experiment: Experiment, parts: tuple[Part, ...], sizes: Mapping[str, int]
) -> float:
    """Bytes of the optimiser's step: parameters, moments and gradients read, all but the last
    written."""
    more = MOMENTS.get(experiment.optimizer.kind, 8)
    return math.fsum(p.on_one(sizes) * (2 * (p.stored + more) + 4) for p in parts if p.trained)
