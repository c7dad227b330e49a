"""Mesh, batch, micro-batches and remat for a topology: by formula all, by the compiler the best.

    ranked(experiment, where) -> [Candidate]      that may fit, the fastest first; seconds for all
    search(experiment, "v5e:16x16") -> Found      of these the first that the compiler takes

Formulas are those of `rsvlm_jax.run.traffic` and the roofline. What they say of memory is a lower
bound (`MARGIN` is laid on activations), so that some candidates are refused by the compiler, which
takes seconds; the step of one that fits takes a minute or two at 7B. The batch stays the recipe's,
where some mesh divides it, else it becomes the next that the devices divide: another batch is
another experiment, and the report says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from rsvlm_jax.config import ConfigError, Experiment, MeshConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.mesh.links import links_of, wires_of
from rsvlm_jax.mesh.topology import Topology, topology
from rsvlm_jax.train.flops import again, frame_count, step_flops

from .plan_advice import REMATS
from .plan_report import PlanReport
from .plan_shapes import shapes_of
from .program import Program, program
from .roofline import estimate
from .traffic import (
    elementwise_bytes,
    gradient_bytes,
    kept_bytes,
    optimizer_bytes,
    parts_of,
    sent_bytes,
    state_bytes,
    tower_bytes,
)

MARGIN = 1.5
"""Activations in memory over what the formula keeps: float32 beside bfloat16, double buffers."""

TENSOR = (1, 2, 4, 8)
WHOLE = 32
"""Chips over "fsdp" up to which XLA for TPUs scatters a gradient as it sums it. With more it sums
the whole gradient and slices it: twice the bytes (found with libtpu 0.0.52)."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One choice, by formula.

    Attributes:
      mesh: sizes of data, fsdp and tensor.
      batch_size, micro_batches, remat: of `TrainConfig`.
      needed_bytes: of a device, at least.
      step_seconds, mfu: by the roofline.
    """

    mesh: dict[str, int]
    batch_size: int
    micro_batches: int
    remat: Remat
    needed_bytes: int
    step_seconds: float
    mfu: float

    @property
    def seconds_a_sample(self) -> float:
        return self.step_seconds / self.batch_size

    def options(self) -> str:
        """As words of a command line."""
        words = [f"--mesh.{name} {size}" for name, size in self.mesh.items()]
        words += [
            f"--train.batch-size {self.batch_size}",
            f"--train.micro-batches {self.micro_batches}",
            f"--train.remat {self.remat}",
        ]
        return " ".join(words)

    def of(self, experiment: Experiment) -> Experiment:
        """The experiment with this choice."""
        mesh = MeshConfig(plan=experiment.mesh.plan, slices=experiment.mesh.slices, **self.mesh)
        train = dataclasses.replace(
            experiment.train,
            batch_size=self.batch_size,
            micro_batches=self.micro_batches,
            remat=self.remat,
        )
        return dataclasses.replace(experiment, mesh=mesh, train=train)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
      report: the compiled plan of the choice that fits and takes the least time a sample; None
        where none of those that were compiled fits.
      chosen: the choice.
      tried: (choice, whether the compiler took it), in order.
      count: choices that may fit by formula.
    """

    report: PlanReport | None
    chosen: Candidate | None
    tried: tuple[tuple[Candidate, bool], ...]
    count: int


def search(
    experiment: Experiment,
    where: str,
    *,
    compiled: Callable[[Experiment], PlanReport],
    ranked: Callable[[], list[Candidate]],
    best: int = 2,
    most: int = 8,
) -> Found:
    """Compile the best choices until `best` of them fit.

    Args:
      compiled: a choice's plan.
      ranked: the choices, the fastest first.
      most: to compile at most.

    Raises:
      ConfigError: no choice fits by formula.
    """
    choices = ranked()
    if not choices:
        raise ConfigError(
            "no mesh, micro-batches and remat fit by formula",
            where=where,
            expected="state and activations of a sample on a device",
            found=experiment.name,
            remedy="more chips, or with LoRA --base int8 or nf4",
        )
    tried: list[tuple[Candidate, bool]] = []
    fitting: list[tuple[float, Candidate, PlanReport]] = []
    for choice in choices[:most]:
        report = compiled(choice.of(experiment))
        fits = report.fits is not False
        tried.append((choice, fits))
        if fits:
            seconds = (report.step_seconds or choice.step_seconds) / choice.batch_size
            fitting.append((seconds, choice, report))
        if len(fitting) == best:
            break
    if not fitting:
        return Found(None, None, tuple(tried), len(choices))
    _, chosen, report = min(fitting, key=lambda row: row[0])
    return Found(report, chosen, tuple(tried), len(choices))


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Of the batch that the shapes are of: rows, positions of one, frames through the tower."""

    rows: int
    length: int
    frames: int


def ranked(
    experiment: Experiment, where: str, *, dates: int | None = None, length: int | None = None
) -> list[Candidate]:
    """Choices that fit by formula, those with the least time a sample first.

    Raises:
      ConfigError: a topology without a known memory or links, an optimiser or a mesh ("context")
        that formulas do not cover.
    """
    found = topology(where)
    if found.chip is None or found.hbm is None:
        raise ConfigError(
            "nothing says what fits and how fast it is",
            where=where,
            expected="a topology of TPUs, or gpu:N",
            found=found.kind,
        )
    if experiment.mesh.context != 1:
        raise ConfigError(
            "no formula for positions that are split",
            where="MeshConfig.context",
            expected="1, with --search",
            found=experiment.mesh.context,
        )
    state_bytes(experiment, (), {})  # refuses an optimiser by its name, before any mesh is tried
    wires_of(found.chip)
    shapes = shapes_of(experiment, dates=dates, length=length)
    made = program(
        experiment.model,
        shapes.bandsets,
        image_token=0,
        reg_token=None if experiment.model.head is None else 1,
        visual_tokens=shapes.visual_tokens,
        window=experiment.data.window if experiment.model.is_dense else None,
        lora=experiment.lora,
        stored=experiment.base,
    )
    flops = step_flops(made.graphdef, experiment, made.params, made.stats, shapes.batch).causal
    rows, positions = shapes.batch.tokens.shape
    frames = frame_count(made.graphdef, made.params, made.stats, shapes.batch)
    of = _Sizes(rows, positions, frames)
    devices = found.devices * (experiment.mesh.slices if found.kind == "tpu" else 1)
    batch = _batch(experiment, devices)
    candidates = []
    for mesh in _meshes(experiment, devices, batch):
        candidates += _of_mesh(
            experiment, found, made, mesh, batch, of, flops * batch / rows, devices
        )
    return sorted(candidates, key=lambda c: (c.seconds_a_sample, c.needed_bytes))


def _batch(experiment: Experiment, devices: int) -> int:
    """The recipe's, or the next that some mesh divides: with "tensor" up to 8, a device in 8."""
    size = experiment.train.batch_size
    widest = max(TENSOR) if experiment.mesh.plan == "fsdp_tensor" else 1
    for parts in (devices // t for t in TENSOR if t <= widest and devices % t == 0):
        if size % parts == 0:
            return size
    return -(-size // devices) * devices


def _meshes(experiment: Experiment, devices: int, batch: int) -> Iterator[dict[str, int]]:
    plan, slices = experiment.mesh.plan, experiment.mesh.slices
    inside = devices // slices
    for tensor in TENSOR if plan == "fsdp_tensor" else (1,):
        if inside % tensor:
            continue
        left = inside // tensor
        sizes = [f for f in range(1, left + 1) if left % f == 0]
        if plan in ("replicated", "lora_dp"):
            sizes = [1]
        for fsdp in sizes:
            if batch % (left * slices) == 0:
                yield {"data": left // fsdp, "fsdp": fsdp, "tensor": tensor}


def _of_mesh(
    experiment: Experiment,
    where: Topology,
    made: Program,
    mesh: dict[str, int],
    batch: int,
    of: _Sizes,
    flops: float,
    devices: int,
) -> list[Candidate]:
    chip, hbm = where.chip, where.hbm
    assert chip is not None
    assert hbm is not None
    sizes = {**mesh, "slice": experiment.mesh.slices}
    try:
        parts = parts_of(experiment, made, sizes)
        links = links_of(chip, sizes, where.shape if where.kind == "tpu" else ())
    except ConfigError:  # sizes that do not divide a weight, or lie on no topology
        return []
    fixed = state_bytes(experiment, parts, sizes) + gradient_bytes(parts, sizes)
    length = of.length
    if fixed > hbm:
        return []
    fixed += _around(experiment, made, mesh)
    per_device = batch * length / devices
    found = []
    rows = batch * mesh["tensor"] // devices
    for micro in (m for m in range(1, rows + 1) if rows % m == 0):
        for remat in REMATS:
            train = dataclasses.replace(
                experiment.train, batch_size=batch, micro_batches=micro, remat=remat
            )
            choice = dataclasses.replace(experiment, train=train)
            tokens = per_device / micro * mesh["tensor"]
            kept = _kept(choice, tokens) / mesh["tensor"]
            needed = fixed + MARGIN * kept
            if needed > hbm:
                continue
            sent = _sent(choice, parts, sizes, where, of)
            time = estimate(
                flops=flops / devices,
                flops_again=0.0
                if choice.model.decoder is None
                else again(choice.model.decoder, batch * length / devices, length, remat),
                hbm_bytes_moved=optimizer_bytes(choice, parts, sizes)
                + elementwise_bytes(choice.model, per_device)
                + tower_bytes(choice.model, parts, of.frames / of.rows * batch / devices)
                + 2 * kept * micro,
                collective=sent,
                chip=chip,
                links=links,
                tokens_per_chip=per_device,
            )
            found.append(
                Candidate(mesh, batch, micro, remat, round(needed), time.step_seconds, time.mfu)
            )
            break  # the least remat that fits is the fastest of this cut
    return found


def _kept(experiment: Experiment, tokens: float) -> float:
    return kept_bytes(experiment.model, tokens, experiment.train.remat)


def _sent(
    experiment: Experiment, parts: Any, sizes: dict[str, int], where: Topology, of: _Sizes
) -> Any:
    """`sent_bytes`, with gradients that are summed whole where XLA does so."""
    images = of.frames / of.rows
    sent = dict(sent_bytes(experiment, parts, sizes, images=images, length=of.length))
    if where.kind == "tpu" and sizes["fsdp"] > WHOLE:
        whole = math.fsum(
            4 * p.on_one(sizes, used=True) for p in parts if p.trained and "fsdp" in p.axes
        )
        sent["fsdp"] = sent.get("fsdp", 0.0) + experiment.train.micro_batches * whole
    return sent


def _around(experiment: Experiment, made: Program, mesh: dict[str, int]) -> int:
    """Bytes beside state and activations: two gathered layers, the table and the head with their
    gradients, frozen kernels once more in the type of the computation."""
    width = 2 if experiment.model.dtype == "bfloat16" else 4
    layers = table = frozen = 0
    for path, x in flat(made.params).items():
        if "/layers/" in path and x.ndim > 2:
            layers = layers + math.prod(x.shape[1:])
        elif path.startswith("decoder/"):
            table += x.size
        if experiment.lora is not None and x.dtype.itemsize == 4 and x.ndim > 1:
            frozen += x.size
    split = mesh["fsdp"] * mesh["tensor"]
    text = experiment.loss.text > 0
    return (
        2 * layers * width // mesh["tensor"]
        + (table * (width + 4) // mesh["tensor"] if text else 0)
        + frozen * width // split
    )
