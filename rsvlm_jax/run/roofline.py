"""How long a training step takes at least, and how long it is expected to: pure arithmetic.

    estimate(flops=..., hbm_bytes_moved=..., collective={"fsdp": ...}, chip=..., links=...,
             tokens_per_chip=...) -> Estimate

All that goes in is of one step on one chip. With the shares of the peaks that `Reach` states::

    compute        (flops + flops_again) / (reach.matrix x chip.bf16)
    memory         hbm_bytes_moved / (reach.memory x chip.bandwidth)
    communication  sum over axes: bytes sent / (reach.link x links.rate(axis))
    work           compute + memory
    step           max(work, communication) + (1 - reach.overlap) x min(work, communication)
                   + waited
    MFU            flops / (step x chip.bf16)

The makers' peaks (`rsvlm_jax.mesh.chips`, `rsvlm_jax.mesh.links`) stand apart from what is assumed
to be reached of them, which `Estimate.assumptions` repeats. Not here: waiting for input, the first
step's compilation, the slowest of many hosts. Formulas of what goes in, by plan and by counts of
parameters: `rsvlm_jax.run.traffic`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from rsvlm_jax.config import ConfigError
from rsvlm_jax.mesh.chips import Chip
from rsvlm_jax.mesh.links import Axis, Links

Number = int | float

GROWING = ("tensor", "context")
"""Mesh axes over which activations are sent: more tokens, more bytes. Over the others it is
parameters and gradients, the same bytes whatever the batch."""


@dataclasses.dataclass(frozen=True)
class Reach:
    """Shares of the peaks that a good program reaches, with where they are from.

    Attributes:
      matrix: of the matrix peak, in products of a model's sizes.
      memory: of memory bandwidth.
      link: of what the wires carry.
      overlap: share of the shorter of work and communication that is hidden behind the other.
      notes: sources, a line each.
    """

    matrix: float
    memory: float
    link: float
    overlap: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("matrix", "memory", "link", "overlap"):
            value = getattr(self, name)
            if not (0 if name == "overlap" else 1e-6) <= value <= 1:
                raise ConfigError(
                    "no share", where=f"Reach.{name}", expected="more than 0, 1 at most",
                    found=value,
                )  # fmt: skip


_BOOK = "jax-ml.github.io/scaling-book/gpus"
_MATRIX = "matrix 0.80 of the peak: 798 of 989 TFLOP/s, the best bfloat16 product found on an H100"
_MEMORY = f"memory 0.93 of the peak: an H100 sums two arrays in 4.1 ms, not 3.84 ({_BOOK})"
_LINK = f"link 0.82 of the wires: 370 of 450 GB/s in a node of H100 ({_BOOK})"
_ICI = "link 1.00 of the wires: of ICI the table has what is reckoned with already"
_OVERLAP = "overlap 0.80: assumed, without a source; 0 and 1 bound it"

REACH = {
    "tpu": Reach(
        0.80, 0.93, 1.0, 0.80, (f"{_MATRIX}, taken for TPUs too", _MEMORY, _ICI, _OVERLAP)
    ),
    "gpu": Reach(0.80, 0.93, 0.82, 0.80, (_MATRIX, _MEMORY, _LINK, _OVERLAP)),
}
"""By kind of chip: what is assumed where nothing is said."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a step is expected to take; seconds.

    Attributes:
      step_seconds: of a whole step.
      compute_seconds, memory_seconds, communication_seconds: of its parts, each by itself.
      floor_seconds: the same at the makers' peaks, all of it hidden behind the longest part.
      mfu: operations that the model needs, over the time and the peak for bfloat16.
      tokens_per_chip: as given.
      tokens_needed: of a chip, for their products to take as long as what is sent of parameters and
        gradients; below it a step waits for its links, well above it does not.
      assumptions: what the figures rest on, a line each.
    """

    step_seconds: float
    compute_seconds: float
    memory_seconds: float
    communication_seconds: float
    floor_seconds: float
    mfu: float
    tokens_per_chip: Number
    tokens_needed: float
    assumptions: tuple[str, ...]

    @property
    def tokens_per_second(self) -> float:
        """Of one chip."""
        return self.tokens_per_chip / self.step_seconds

    @property
    def bound(self) -> str:
        """The longest of the three parts: "compute", "memory" or "communication"."""
        parts = ("compute", "memory", "communication")
        return max(parts, key=lambda part: getattr(self, f"{part}_seconds"))


def estimate(
    *,
    flops: Number,
    hbm_bytes_moved: Number,
    collective: Mapping[Axis, Number],
    chip: Chip,
    links: Links | None,
    tokens_per_chip: Number,
    flops_again: Number = 0.0,
    waited: Number = 0.0,
    reach: Reach | None = None,
) -> Estimate:
    """What one step takes on one chip; see the module.

    Args:
      flops: operations that the model needs (`step_flops(...).causal` over the chips).
      hbm_bytes_moved: bytes that go between chip and memory outside of matrix products: norms,
        activations, what is kept for the backward pass, the optimiser.
      collective: bytes that the chip sends over each mesh axis, or over several axes in one
        collective, as `rsvlm_jax.mesh.Collective.sent` counts them. Axes of one chip send nothing.
      links: of `links_of`; None where nothing is sent.
      tokens_per_chip: positions of the batch, over the chips.
      flops_again: operations of the forward pass that are done once more (remat).
      waited: seconds of a step in which nothing of this happens (dispatch).
      reach: default `REACH` of the chip's kind.

    Raises:
      ConfigError: a figure that is negative or not finite, no tokens, no operations, bytes over an
        axis that the mesh does not have, or no links for them.
    """
    given = {"flops": flops, "hbm_bytes_moved": hbm_bytes_moved, "flops_again": flops_again}
    given["waited"] = waited
    given |= {f"collective[{axis}]": sent for axis, sent in collective.items()}
    given["tokens_per_chip"] = tokens_per_chip
    for name, value in given.items():
        least = 0.0 if name not in ("flops", "tokens_per_chip") else 1e-9
        if not (least <= value < math.inf):
            raise ConfigError(
                "impossible figure of a step",
                where=f"estimate({name})",
                expected="a finite number, " + ("0 or more" if not least else "more than 0"),
                found=value,
            )
    reach = reach or REACH["tpu" if chip.kind.startswith("TPU") else "gpu"]
    sent = {axis: size for axis, size in collective.items() if size}
    if sent and links is None:
        raise ConfigError(
            "bytes to send and nothing to send them over",
            where="estimate(links)",
            expected="links_of(chip, mesh, topology)",
            found=None,
        )
    wire = {axis: size / links.rate(axis) for axis, size in sent.items()} if links else {}
    compute = (flops + flops_again) / (reach.matrix * chip.bf16)
    memory = hbm_bytes_moved / (reach.memory * chip.bandwidth)
    communication = math.fsum(wire.values()) / reach.link
    work = compute + memory
    step = max(work, communication) + (1 - reach.overlap) * min(work, communication) + waited
    floor = max(compute * reach.matrix, memory * reach.memory, communication * reach.link)
    fixed = math.fsum(s for axis, s in wire.items() if not _grows(axis)) / reach.link
    return Estimate(
        step_seconds=step,
        compute_seconds=compute,
        memory_seconds=memory,
        communication_seconds=communication,
        floor_seconds=floor,
        mfu=flops / (step * chip.bf16),
        tokens_per_chip=tokens_per_chip,
        tokens_needed=tokens_per_chip * fixed / compute,
        assumptions=(
            f"{chip.name}: {chip.bf16 / 1e12:g} TFLOP/s, {chip.bandwidth / 1e9:g} GB/s of memory",
            *reach.notes,
            *(links.notes if links else ()),
        ),
    )


def _grows(axis: Axis) -> bool:
    return any(name in GROWING for name in ((axis,) if isinstance(axis, str) else axis))
