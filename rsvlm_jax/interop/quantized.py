"""Weights that are quantised while they are read: the float model is never there.

    their arrays --one layer--> float32 --encode--> its codes --+
                   the next layer ...                           +--> stacked, placed

What is in memory beside the codes is one layer of one kernel. Scales are of whole kernels, so every
process reads all of a kernel, whatever part of its codes it keeps: the same numbers on every mesh.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from rsvlm_jax.config import DECODER_LINEARS
from rsvlm_jax.core import NF4, base_path, is_quantized
from rsvlm_jax.nn.quantize import Kind, encode

from . import rows
from .memory import aligned, put
from .rows import Lazy, Match

Wanted = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Codes:
    """Which weights are quantised as they are read, and how: see `rsvlm_jax.nn.quantize`."""

    kind: Kind
    targets: str = DECODER_LINEARS


def read(found: Match, theirs: Mapping[str, Lazy], ours: Wanted) -> Iterator[tuple[str, jax.Array]]:
    """As `rows.read`, but codes and scales where `ours` has them.

    Args:
      found: of the plain model.
      ours: shape, dtype and, where wanted, `sharding` of each path.
    """
    codes: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
    for path in filter(is_quantized, ours):
        codes.setdefault(base_path(path), {})[path] = ours[path]
    plain = {path: source for path, source in found.sources.items() if path not in codes}
    yield from rows.read(Match(plain, (), ()), theirs, ours)
    codes = {path: wanted for path, wanted in codes.items() if path in found.sources}
    # One buffer for all: what an allocator is given back in pieces it keeps.
    room = aligned((max((_layer(found, theirs, path) for path in codes), default=0),), np.float32)
    for path, wanted in codes.items():
        made = _encoded(path, rows.read_layers(found, theirs, path, room), wanted)
        for name in wanted:
            yield name, _placed(made.pop(name), wanted[name])


def _layer(found: Match, theirs: Mapping[str, Lazy], path: str) -> int:
    """Numbers in one layer of a kernel, or more, where it is a part of an array there."""
    return math.prod(theirs[found.sources[path][1][0]].shape)


def _encoded(path: str, layers: Iterator[np.ndarray], wanted: Wanted) -> dict[str, np.ndarray]:
    kind: Kind = "nf4" if f"{path}{NF4}" in wanted else "int8"
    parent, slash, leaf = path.rpartition("/")
    out = {name: aligned(tuple(x.shape), np.dtype(x.dtype)) for name, x in wanted.items()}
    for i, layer in enumerate(layers):
        for name, x in encode(leaf, jax.device_put(layer), kind).items():
            whole = out[f"{parent}{slash}{name}"]
            put(whole if whole.ndim == x.ndim else whole[i], np.asarray(x))  # waits
    return out


def _placed(x: np.ndarray, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    if wanted.sharding is None:
        return jax.block_until_ready(jax.device_put(x))
    return jax.make_array_from_callback(x.shape, wanted.sharding, lambda index: x[index])
