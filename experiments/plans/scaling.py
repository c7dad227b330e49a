"""Scaling on paper: `python -m experiments.plans.scaling [--check]` writes `SCALING.md` beside it.

LLaVA-1.5's stage 2 (projector and language model train, the tower is frozen) at 7B and 13B, with
four rows of 2,048 positions and an image each on every chip, on 8 to 256 chips, under three plans.
Nothing is compiled and nothing measured: formulas (`rsvlm_jax.run.traffic`) of the real parameter
trees under the real sharding tables, and the roofline (`rsvlm_jax.run.roofline`). With `--check`
nothing is written, and another text than the one that is there is an error.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from experiments import llava15_stage2
from rsvlm_jax.config import Experiment, LlamaConfig, MeshConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.mesh.chips import Chip, chip_named
from rsvlm_jax.mesh.links import Links, links_of, wires_of
from rsvlm_jax.run.abstract import talk_batch
from rsvlm_jax.run.program import Program, program
from rsvlm_jax.run.roofline import REACH, Estimate, estimate
from rsvlm_jax.run.traffic import (
    Part,
    elementwise_bytes,
    gradient_bytes,
    kept_bytes,
    optimizer_bytes,
    parts_of,
    sent_bytes,
    state_bytes,
)
from rsvlm_jax.train.flops import again, step_flops

from .scaling_words import AFTER, HEAD, LAST, MEASURED, PUBLISHED

FILE = Path(__file__).with_name("SCALING.md")
ROWS, LENGTH = 4, 2048
"""Of a chip, and positions of each."""

TORI: dict[int, dict[int, tuple[int, ...]]] = {
    2: {8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)},
    3: {8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8)},
    0: dict.fromkeys((8, 16, 32, 64, 128, 256), ()),
}
"""Topologies by the axes of the torus (0: a switch) and the count of chips."""

GROUP = {"v5e": 64, "v6e": 32, "v5p": 16, "H100": 8}
"""Chips that hold one copy of the model in HSDP."""

TENSOR = 4
KEEPS: tuple[Remat, ...] = ("none", "save_qkv_mlp", "save_context", "full")
FITS = 0.9
"""Share of memory that what is counted here may take; the rest is the compiler's."""

GIB = 2.0**30
COLUMNS = (
    *("chips", "plan", "data x fsdp x tensor", "state", "gradients", "remat", "kept", "of memory"),
    *("sent", "compute", "memory", "links", "step", "MFU", "efficiency", "needs"),
)
WORDS = ("plan", "data x fsdp x tensor", "remat")


@dataclasses.dataclass(frozen=True)
class Model:
    """An experiment's parameters, and the operations of one row of its batch."""

    name: str
    experiment: Experiment
    program: Program
    flops: float


@functools.cache
def model(size: Literal["7b", "13b"]) -> Model:
    """Of one size, as shapes."""
    experiment = llava15_stage2.experiment(size)
    made = program(experiment.model, image_token=0)
    one = dataclasses.replace(experiment.train, batch_size=1)
    batch = talk_batch(dataclasses.replace(experiment, train=one))
    flops = step_flops(made.graphdef, experiment, made.params, made.stats, batch)
    return Model(size.upper(), experiment, made, flops.causal)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: a plan on so many chips."""

    chips: int
    plan: str
    sizes: dict[str, int]
    state: float
    gradients: float
    remat: str
    kept: float
    total: float
    sent: float
    made: Estimate
    slowest: Estimate
    fastest: Estimate
    alone: float

    @property
    def fits(self) -> bool:
        return self.remat != ""

    @property
    def efficiency(self) -> float:
        """Tokens a second, over those of chips that send nothing."""
        return self.alone / self.made.step_seconds


def meshes(chip: Chip, count: int) -> Iterator[tuple[str, MeshConfig]]:
    """FSDP over all, HSDP of groups, FSDP with tensor parallelism."""
    yield "FSDP", MeshConfig(fsdp=count, plan="fsdp")
    group = GROUP[chip.name]
    if count > group:
        yield "HSDP", MeshConfig(data=count // group, fsdp=group, plan="fsdp")
    yield "tensor", MeshConfig(fsdp=count // TENSOR, tensor=TENSOR)


def row(of: Model, chip: Chip, count: int, plan: str, mesh: MeshConfig) -> Row:
    """A plan of a model on so many chips of a kind."""
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    train = dataclasses.replace(of.experiment.train, batch_size=ROWS * count)
    experiment = dataclasses.replace(of.experiment, mesh=mesh, train=train)
    parts = parts_of(experiment, of.program, sizes)
    links = links_of(chip, sizes, TORI[wires_of(chip).dims][count])
    state = state_bytes(experiment, parts, sizes)
    gradients = gradient_bytes(parts, sizes)
    tokens, batch = ROWS * LENGTH, ROWS * mesh.tensor
    always = state + gradients + _whole(of, parts, sizes, batch) + _images(experiment)
    room = FITS * chip.hbm
    choice = [(r, kept_bytes(experiment.model, batch * LENGTH, r) / mesh.tensor) for r in KEEPS]
    choice = [(r, n + _inputs(of, batch, mesh.tensor)) for r, n in choice]
    remat, kept = next(((r, n) for r, n in choice if always + n <= room), ("", choice[-1][1]))
    train = dataclasses.replace(train, remat=remat or "full")
    experiment = dataclasses.replace(experiment, train=train)
    sent = sent_bytes(experiment, parts, sizes)
    moved = elementwise_bytes(experiment.model, tokens) + optimizer_bytes(experiment, parts, sizes)
    given: dict[str, Any] = {
        "flops": of.flops * ROWS,
        "flops_again": again(experiment.model.decoder, tokens, LENGTH, remat or "full"),
        "hbm_bytes_moved": moved,
        "collective": sent,
        "chip": chip,
        "links": links,
        "tokens_per_chip": tokens,
    }
    reach = REACH["gpu" if wires_of(chip).node else "tpu"]
    made, slow, fast = (
        estimate(**given, reach=dataclasses.replace(reach, overlap=overlap))
        for overlap in (reach.overlap, 0.0, 1.0)
    )
    alone = estimate(**{**given, "collective": {}}).step_seconds
    total = always + kept
    amount = sum(sent.values())
    return Row(
        count, plan, sizes, state, gradients, remat, kept, total, amount, made, slow, fast, alone
    )


def _whole(of: Model, parts: tuple[Part, ...], sizes: dict[str, int], rows: int) -> float:
    """Two layers gathered at a time, and a chunk of the words' scores and of their gradient."""
    decoder: Any = of.experiment.model.decoder
    layer = sum(p.on_one(sizes, used=True) * p.wire for p in parts if p.gathers == 2)
    return 2 * layer / decoder.layers + 2 * 4 * 2.0**27 / sizes["tensor"]


def _images(experiment: Experiment) -> float:
    """Features of all images of the step, in the model's dtype: every chip has them."""
    model, rows = experiment.model, experiment.train.batch_size
    return rows * model.frame_tokens * model.frame_width * 2.0


def _inputs(of: Model, rows: int, tensor: int) -> float:
    """Under "tensor" a layer's input is whole on every chip, not split."""
    decoder: Any = of.experiment.model.decoder
    return rows * LENGTH * decoder.layers * decoder.width * 2.0 * (1 - 1 / tensor)


def table(of: Model, chip: Chip) -> Iterator[str]:
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|" + "|".join("---" if name in WORDS else "--:" for name in COLUMNS) + "|"
    for count in TORI[0]:
        for plan, mesh in meshes(chip, count):
            yield line(row(of, chip, count, plan, mesh), chip)


def line(r: Row, chip: Chip) -> str:
    e = r.made
    shape = " x ".join(str(r.sizes[a]) for a in ("data", "fsdp", "tensor"))
    memory = f"{r.state / GIB:.1f} | {r.gradients / GIB:.1f} | {r.remat or 'full'} | "
    memory += f"{r.kept / GIB:.1f} | {r.total / chip.hbm:.0%}{'' if r.fits else ', no'}"
    if not r.fits:
        return f"| {r.chips} | {r.plan} | {shape} | {memory} | " + " | ".join(["-"] * 8) + " |"
    times = (e.compute_seconds, e.memory_seconds, e.communication_seconds, e.step_seconds)
    seconds = " | ".join(f"{1e3 * s:.0f}" for s in times)
    mfu = f"{e.mfu:.0%} ({r.slowest.mfu:.0%}-{r.fastest.mfu:.0%})"
    rest = f"{mfu} | {r.efficiency:.0%} | {e.tokens_needed:.0f}"
    return (
        f"| {r.chips} | {r.plan} | {shape} | {memory} | {r.sent / 1e9:.1f} | {seconds} | {rest} |"
    )


def seven_on_eight() -> Estimate:
    """Llama2-7B on eight H100 as NVIDIA measures it: 2 rows of 4,096 on each, FSDP."""
    chip, length, rows = chip_named("H100"), 4096, 2
    decoder = LlamaConfig(vocab_size=32000)
    width, inner = decoder.width, decoder.mlp_dim
    weights = decoder.layers * (4 * width**2 + 3 * width * inner)
    head = decoder.vocab_size * width
    scores = decoder.layers * 4 * length * width / 2
    tokens = rows * length
    numbers = weights + 2 * head
    experiment = llava15_stage2.experiment()
    links: Links = links_of(chip, {"fsdp": 8})
    return estimate(
        flops=3.0 * tokens * (2 * (weights + head) + scores),
        hbm_bytes_moved=elementwise_bytes(experiment.model, tokens) + 28 * numbers / 8,
        collective={"fsdp": 7 / 8 * (2 * 2 + 4) * numbers},
        chip=chip,
        links=links,
        tokens_per_chip=tokens,
    )


def about(chip: Chip) -> str:
    """A line on a chip."""
    w = wires_of(chip)
    kind = f"nodes of {w.node}" if w.node else f"a torus of {w.dims} axes"
    return (
        f"{chip.bf16 / 1e12:g} TFLOP/s, {chip.hbm / GIB:.4g} GiB at {chip.bandwidth / 1e9:g} GB/s; "
        f"{w.link / 1e9:g} GB/s a link one way, {kind}, {w.beyond / 1e9:g} GB/s a chip beyond.\n"
        f"Links: {w.source}.\n"
    )


def text() -> str:
    """The whole file."""
    group = ", ".join(f"{n} ({kind})" for kind, n in GROUP.items())
    said = [HEAD.format(rows=ROWS, length=LENGTH, fits=FITS, group=group, tensor=TENSOR)]
    for kind in ("v5p", "v5e", "v6e", "H100"):
        chip = chip_named(kind)
        said.append(f"## {kind}\n")
        said.append(about(chip))
        for of in (model("7b"), model("13b")):
            said.append(f"### {of.name}\n")
            said += [*table(of, chip), ""]
    said.append(AFTER)
    said.append("| workload | published | source |\n|---|---|---|")
    said += [f"| {workload} | {figure} | {source} |" for workload, figure, source in PUBLISHED]
    one = seven_on_eight()
    slower = MEASURED / one.step_seconds
    said.append(LAST.format(one.step_seconds, one.mfu, slower, one.mfu / slower))
    return "\n".join(said).rstrip() + "\n"


def main() -> int:
    found = text()
    if "--check" in sys.argv[1:]:
        if not FILE.exists() or FILE.read_text() != found:
            print(f"error: {FILE.name} is not what {__spec__.name} gives", file=sys.stderr)
            return 1
        return 0
    FILE.write_text(found)
    print(FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
