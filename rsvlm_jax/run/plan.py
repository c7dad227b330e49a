"""`plan(experiment, "v5e:16x16") -> PlanReport`: what a step would be on a pod that is not here.

The experiment's real train step (or a prefill, or a decode step) is compiled from shapes alone, in
a process of its own (`rsvlm_jax.run.plan_compile`): by libtpu for TPUs, on simulated CPU devices
for "cpu:N" and "gpu:N". Nothing is allocated; neither data nor checkpoints nor a tokenizer have to
be there. What the compiler says (memory, collectives) is beside what formulas say (operations, the
roofline's time), and the report says what neither proves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rsvlm_jax.config import ConfigError, Experiment, MeshConfig
from rsvlm_jax.config.io import to_dict
from rsvlm_jax.mesh.links import links_of
from rsvlm_jax.mesh.topology import Topology, topology
from rsvlm_jax.train.flops import again

from .plan_advice import remedies
from .plan_apart import compiled_apart
from .plan_report import PlanReport
from .plan_search import Candidate, Found, search
from .roofline import Estimate, estimate

USABLE = 0.9
"""Of a GPU's memory: what its runtime and fragments leave."""

Program = Literal["train", "prefill", "decode"]


class PlanRefused(ConfigError):
    """A plan that does not fit (exit code 2)."""


@dataclasses.dataclass(frozen=True)
class Serving:
    """Generation that is planned: texts at a time, positions of a prompt, tokens after it."""

    rows: int = 8
    prompt: int = 1024
    new: int = 256

    def __post_init__(self) -> None:
        for name in ("rows", "prompt", "new"):
            at_least_one(name, getattr(self, name))


def at_least_one(name: str, value: int | None) -> None:
    """ConfigError for a number of an option that is less than 1; None is none."""
    if value is not None and value < 1:
        raise ConfigError("impossible number", where=f"--{name}", expected=">= 1", found=value)


def plan(
    experiment: Experiment,
    where: str,
    *,
    program: Program = "train",
    price: float | None = None,
    dates: int | None = None,
    length: int | None = None,
    serving: Serving = Serving(),
) -> PlanReport:
    """Compile a program of an experiment for a topology, and say what it needs.

    Args:
      where: name of a topology (`rsvlm_jax.mesh.topology`); of TPUs that of one slice, of which
        there are `MeshConfig.slices`.
      program: "prefill" and "decode" are of `serving`.
      price: dollars of a chip for an hour.
      dates: of a series whose cube is not at hand and whose inputs do not say.
      length: positions of a row; None: as the experiment says.

    Returns:
      the report, whether it fits or not; `require` refuses what does not.

    Raises:
      ConfigError: no such topology, no libtpu or another process that has it alone, a flag that the
        compiler does not know, a mesh or a batch that does not go with the topology, nothing that
        says the shapes of the data.
    """
    found = topology(where)
    _check(price, dates, length)
    experiment, assumed = spread(experiment, found)
    request = {
        "experiment": to_dict(experiment),
        "topology": found.name,
        "program": program,
        "dates": dates,
        "length": length,
        **to_dict(serving),
    }
    raw = compiled_apart(request, found, slices=experiment.mesh.slices)
    return _report(experiment, found, raw, program, price, [*assumed, *raw.pop("assumed", [])])


def choose(
    experiment: Experiment,
    where: str,
    *,
    best: int = 2,
    price: float | None = None,
    dates: int | None = None,
    length: int | None = None,
) -> Found:
    """Mesh, batch, micro-batches and remat that fit and take the least time a sample.

    Args:
      best: choices that are compiled and fit, of which the fastest is taken.
      price, dates, length: as of `plan`.

    Raises:
      ConfigError: as `plan`; or nothing fits by formula.
    """
    found = topology(where)
    _check(price, dates, length)

    def ranked() -> list[Candidate]:
        request = {"experiment": to_dict(experiment), "topology": found.name, "program": "search",
                   "dates": dates, "length": length}  # fmt: skip
        here = topology("cpu:1")  # formulas: no devices
        raw = compiled_apart(request, here, slices=1)
        return [Candidate(**row) for row in raw["ranked"]]

    def compiled(choice: Experiment) -> PlanReport:
        return plan(choice, where, price=price, dates=dates, length=length)

    return search(experiment, where, compiled=compiled, ranked=ranked, best=best)


def _check(price: float | None, dates: int | None, length: int | None) -> None:
    at_least_one("dates", dates)
    at_least_one("length", length)
    if price is not None and not 0 <= price < float("inf"):
        raise ConfigError("impossible price", where="--price", expected=">= 0", found=price)


def require(report: PlanReport) -> PlanReport:
    """The report of a plan that fits.

    Raises:
      PlanRefused: it does not, with bytes and remedies.
    """
    if report.fits is False:
        raise PlanRefused(report.refusal)
    return report


def spread(experiment: Experiment, where: Topology) -> tuple[Experiment, list[str]]:
    """The experiment on all devices: a mesh of one, which is written where none was thought of,
    becomes "fsdp" of all."""
    one = MeshConfig(plan=experiment.mesh.plan)
    if where.devices == 1 or experiment.mesh != one:
        return experiment, []
    mesh = dataclasses.replace(one, fsdp=-1)
    if one.plan in ("replicated", "lora_dp"):
        mesh = dataclasses.replace(one, data=-1)
    line = f"the experiment's mesh is of one device: here {'data' if mesh.data < 0 else 'fsdp'}=-1"
    return dataclasses.replace(experiment, mesh=mesh), [line]


def _report(
    experiment: Experiment,
    where: Topology,
    raw: Mapping[str, Any],
    program: Program,
    price: float | None,
    assumed: Sequence[str],
) -> PlanReport:
    argument = raw.get("argument_bytes", raw["plain_bytes"])
    temporary = raw.get("temporary_bytes")
    peak = raw["needed_bytes"] if raw["refused"] else raw["peak_bytes"]
    if where.kind != "tpu" and temporary is not None:
        peak = max(peak, argument + temporary)  # the CPU's own figure leaves temporaries out
    fits = fits_in(where, raw, argument, peak)
    made = None
    if where.chip is not None:
        made = _estimate(experiment, where, raw, program)
    dollars = None
    if price is not None and made is not None:
        dollars = price * raw["chips"] * made.step_seconds * 1000 / 3600
    collectives = raw["collectives"]
    return PlanReport(
        experiment=experiment.name,
        topology=where.name,
        program=program,
        compiler=raw["compiler"],
        chips=raw["chips"],
        devices=raw["devices"],
        mesh=raw["mesh"],
        settings=_settings(experiment, raw, program),
        fits=fits,
        refused=raw["refused"],
        hbm_bytes=where.hbm,
        peak_bytes=peak,
        argument_bytes=argument,
        formula_bytes=raw["formula_bytes"],
        temporary_bytes=temporary,
        donated_bytes=raw.get("donated_bytes"),
        largest=tuple(raw["largest"]),
        remedies=tuple(remedies(experiment, raw, where)) if fits is False else (),
        collectives=tuple(collectives or ()),
        collective_bytes=None if collectives is None else sum(c["bytes"] for c in collectives),
        gathered_by_sums=tuple(raw["gathered_by_sums"]),
        summed_whole=tuple(raw["summed_whole"]),
        replicated=tuple(raw["replicated"]),
        parameters=raw["parameters"],
        trained_parameters=raw["trained_parameters"],
        flops=raw["flops"],
        tokens=raw["tokens"],
        kernels=raw["kernels"],
        lower_seconds=raw["lower_seconds"],
        compile_seconds=raw["compile_seconds"],
        estimate=made,
        dollars=dollars,
        assumed=(*assumed, *_sent_line(where, raw)) + (() if made is None else made.assumptions),
        unproven=unproven(where, experiment.mesh.slices),
    )


def fits_in(where: Topology, raw: Mapping[str, Any], argument: int, peak: int) -> bool | None:
    """Of a GPU the program is not there: what goes in and comes out may prove that it does not fit,
    nothing proves that it does."""
    if where.hbm is None:
        return None
    if where.kind == "tpu":
        return not raw["refused"] and peak <= where.hbm
    kept = argument + raw.get("output_bytes", 0) - raw.get("donated_bytes", 0)
    return False if kept > USABLE * where.hbm else None


def unproven(where: Topology, slices: int) -> tuple[str, ...]:
    """What a program for a topology does not say, a line each."""
    if where.kind != "tpu" or slices == 1:
        return where.unproven
    line = "what goes between slices: transfers by their hosts, not counted, in no time told here"
    return (*where.unproven, line)


def _sent_line(where: Topology, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """What the time of sending rests on, for GPUs: their program is a CPU's, which gathers float32
    where theirs would gather the type of the computation."""
    if where.kind != "gpu" or raw["collectives"] is None or where.devices == 1:
        return ()
    if raw.get("sent") is not None:
        return ("time: bytes sent by formula (`rsvlm_jax.run.traffic`), not those of this program",)
    return ("time: bytes sent as the CPU's program sends them, in float32",)


def _settings(experiment: Experiment, raw: Mapping[str, Any], program: Program) -> dict[str, Any]:
    train = experiment.train
    made: dict[str, Any] = {"rows": raw["rows"], "length": raw["length"]}
    if program == "train":
        made |= {"micro_batches": train.micro_batches, "remat": train.remat}
    return made | {"plan": experiment.mesh.plan, "base": experiment.base}


def _estimate(
    experiment: Experiment, where: Topology, raw: Mapping[str, Any], program: Program
) -> Estimate | None:
    """The roofline of a step, with the bytes that the compiled program sends."""
    if raw["collectives"] is None or raw["refused"] or where.chip is None:
        return None
    if where.kind == "tpu" and experiment.mesh.slices > 1:
        return None  # what goes between slices takes a time that nothing here tells
    sent: dict[Any, float] = {}
    by_formula = where.kind == "gpu" and raw.get("sent") is not None
    for row in raw["sent"] if by_formula else raw["collectives"]:
        every = tuple(raw["mesh"])
        axes = every if row["axes"] == "unknown" else tuple(filter(None, row["axes"].split("+")))
        if axes:
            sent[axes] = sent.get(axes, 0.0) + row["bytes"]
    shape = where.shape if where.kind == "tpu" else ()
    links = links_of(where.chip, raw["mesh"], shape) if raw["mesh"] else None
    decoder, more = experiment.model.decoder, 0.0
    if program == "train" and decoder is not None:
        more = again(decoder, raw["tokens"], raw["length"], experiment.train.remat)
    return estimate(
        flops=raw["flops"] / raw["devices"],
        flops_again=more / raw["devices"],
        hbm_bytes_moved=float(raw["moved_bytes"]),
        collective=sent,
        chip=where.chip,
        links=links,
        tokens_per_chip=raw["tokens"] / raw["devices"],
    )
