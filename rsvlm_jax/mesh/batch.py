"""Whether a batch fits on a mesh, said before anything compiles and in the words of the config."""

from __future__ import annotations

import math
from collections.abc import Iterable

from jax.sharding import Mesh

from rsvlm_jax.config import ConfigError

from .constraints import ACTIVATIONS


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts the first axis of a batch is split."""
    return math.prod(mesh.shape[axis] for axis in ACTIVATIONS["batch"])


def check_batch(mesh: Mesh, size: int, lengths: Iterable[int] = (), *, micro: int = 1) -> None:
    """Refuse a batch that the mesh does not divide.

    Args:
      size: samples of a batch, over all processes.
      lengths: positions of its rows, those of every shape that it may have.
      micro: parts that a batch is cut into before it is split (`TrainConfig.micro_batches`).

    Raises:
      ConfigError: `size` is no multiple of slices x data x fsdp (times `micro`), or a length no
        multiple of context.
    """
    parts = batch_parts(mesh) * micro
    if size % parts:
        axes = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in ACTIVATIONS["batch"])
        cut = f" x micro_batches={micro}" if micro > 1 else ""
        raise ConfigError(
            "the batch does not divide over the mesh",
            where="TrainConfig.batch_size",
            expected=f"a multiple of {parts} ({axes}{cut})",
            found=size,
        )
    context = mesh.shape["context"]
    for length in lengths:
        if length % context:
            raise ConfigError(
                "a sequence does not divide over the mesh",
                where="MeshConfig.context",
                expected=f"lengths that are multiples of {context}",
                found=length,
                remedy="another context, or a length that it divides",
            )
