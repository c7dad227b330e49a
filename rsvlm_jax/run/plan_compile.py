"""One program of a plan, compiled in a process of its own: `python -m rsvlm_jax.run.plan_compile`.

    stdin    {"experiment": ..., "topology": ..., "program": "train", ...}        (`Request`)
    argv     FOLDER: what the compiler writes, and `result.json`: {"raw": ...} or {"error": ...}

libtpu reads its flags once and ends the process where it does not know one; simulated devices are
counted before JAX starts. `rsvlm_jax.run.plan` starts this with the environment for it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal

from jax.sharding import Mesh

from rsvlm_jax.config import ConfigError, Experiment
from rsvlm_jax.config.io import from_dict
from rsvlm_jax.core import flat
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.hlo import collectives
from rsvlm_jax.mesh.topology import Topology, abstract_devices, topology
from rsvlm_jax.train.flops import frame_count, step_flops

from .abstract import AbstractStep, abstract_step, device_bytes
from .plan_memory import buffers, laid_out
from .plan_moves import by_kind, is_weight, told, weights
from .plan_shapes import shapes_of
from .traffic import (
    elementwise_bytes,
    kept_bytes,
    optimizer_bytes,
    parts_of,
    sent_bytes,
    tower_bytes,
)

LARGE = 2**20
"""Bytes of a parameter below which nothing is told by name."""

SHOWN = 8
"""Buffers that are kept, the largest."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be compiled.

    Attributes:
      topology: its name.
      program: the train step, or one of the two of generation; "search" compiles nothing.
      dates, length: of `rsvlm_jax.run.plan_shapes.shapes_of`.
      rows, prompt, new: of generation: texts at a time, positions of a prompt, tokens after it.
    """

    experiment: Experiment
    topology: str
    program: Literal["train", "prefill", "decode", "search"] = "train"
    dates: int | None = None
    length: int | None = None
    rows: int = 8
    prompt: int = 1024
    new: int = 256


def compile_plan(request: Request, folder: Path) -> dict[str, Any]:
    """Compile, and read what there is to know: plain JSON values.

    Args:
      folder: where XLA writes its text (`--xla_dump_to`).

    Raises:
      ConfigError: what cannot be planned, or a program that the compiler refuses for another
        reason than memory.
    """
    where, experiment = topology(request.topology), request.experiment
    mesh = plan_mesh(experiment, where)
    if request.program == "train":
        made, assumed = _step(request, mesh)
        lower, facts = made.lower, _of_step(made, experiment, mesh) | {"assumed": assumed}
        args = {"state": made.state, "batch": made.batch}
    else:
        from .plan_serve import serving

        served = serving(request, mesh)
        lower, args, facts = served.lower, served.arguments, served.facts
    start = time.perf_counter()
    lowered = lower()
    middle = time.perf_counter()
    refused = None
    compiled = None
    try:
        compiled = lowered.compile()
    except Exception as e:
        refused = _memory_refusal(str(e))
        if refused is None:
            raise ConfigError(
                "the compiler refuses the program",
                where=f"{experiment.name} on {where.name}",
                found=re.sub(r"\s+", " ", str(e))[:400],
            ) from e
    end = time.perf_counter()
    raw: dict[str, Any] = {
        "compiler": _compiler(where, mesh),
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "chips": where.chips * (experiment.mesh.slices if where.kind == "tpu" else 1),
        "devices": mesh.size,
        "plain_bytes": sum(map(device_bytes, args.values())),
        "lower_seconds": middle - start,
        "compile_seconds": end - middle,
        "needed_bytes": refused,
        "refused": compiled is None,
        **facts,
    }
    if compiled is not None:
        memory = compiled.memory_analysis()
        raw |= {
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes,
            "donated_bytes": memory.alias_size_in_bytes,
            "peak_bytes": memory.peak_memory_in_bytes,
            "program_bytes": memory.generated_code_size_in_bytes,
        }
    raw |= _of_text(folder, args, mesh, where)
    for buffer in raw["largest"]:
        if number := re.fullmatch(r"leaves\[(\d+)\]", buffer["what"]):
            buffer["what"] = facts["paths"][int(number[1])]
    return raw


def plan_mesh(experiment: Experiment, where: Topology) -> Mesh:
    """The mesh of an experiment on a topology.

    Raises:
      ConfigError: as `make_mesh`, or sizes that do not lie on the network of the topology.
    """
    devices = abstract_devices(where, slices=experiment.mesh.slices)
    try:
        return make_mesh(experiment.mesh, devices)
    except (NotImplementedError, AssertionError) as e:
        sizes = {k: v for k, v in dataclasses.asdict(experiment.mesh).items() if v != 1}
        raise ConfigError(
            "the mesh does not lie on the network of this topology",
            where=where.name,
            expected="axes that are products of its dimensions",
            found=", ".join(f"{k}={v}" for k, v in sizes.items()),
            remedy="fsdp alone (-1), or another split",
        ) from e


def _step(request: Request, mesh: Mesh) -> tuple[AbstractStep, list[str]]:
    """The step, and what was assumed of its shapes."""
    experiment = request.experiment
    if request.length is not None and experiment.conversations is not None:
        talk = dataclasses.replace(experiment.conversations, length=request.length)
        experiment = dataclasses.replace(experiment, conversations=talk)
    shapes = shapes_of(experiment, dates=request.dates, length=request.length)
    made = abstract_step(
        experiment,
        mesh,
        batch=shapes.batch,
        bandsets=shapes.bandsets,
        visual_tokens=shapes.visual_tokens,
    )
    return made, list(shapes.assumed)


def _of_step(made: AbstractStep, experiment: Experiment, mesh: Mesh) -> dict[str, Any]:
    """What shapes and formulas say of a step."""
    program, batch = made.program, made.batch
    rows, length = batch.tokens.shape
    flops = step_flops(program.graphdef, experiment, program.params, program.stats, batch)
    trained = sum(
        x.size for path, x in flat(made.state.opt_state).items() if "/mu/" in f"/{path}" and x.shape
    )
    frames = frame_count(program.graphdef, program.params, program.stats, batch)
    return {
        "parameters": program.parameters,
        "trained_parameters": trained,
        "parameter_bytes": device_bytes(made.state.params),
        "optimizer_bytes": device_bytes(made.state.opt_state),
        "rows": rows,
        "length": length,
        "tokens": rows * length,
        "frames": frames,
        "flops": flops.causal,
        "flops_full": flops.full,
        "replicated": _replicated(made, mesh),
        "moved_bytes": _moved(made, experiment, mesh, frames),
        "sent": _sent(made, experiment, mesh, frames),
    }


def _sent(
    made: AbstractStep, experiment: Experiment, mesh: Mesh, frames: int
) -> list[dict[str, Any]] | None:
    """Bytes that a device sends by formula, as rows of `collectives`; None: there is no formula."""
    sizes, (rows, length) = dict(mesh.shape), made.batch.tokens.shape
    if sizes.get("context", 1) > 1:
        return None
    parts = parts_of(experiment, made.program, sizes)
    found = sent_bytes(experiment, parts, sizes, images=frames / rows, length=length)
    joined = {axis if isinstance(axis, str) else "+".join(axis): n for axis, n in found.items()}
    return [{"axes": axis, "bytes": size} for axis, size in joined.items()]


def _moved(made: AbstractStep, experiment: Experiment, mesh: Mesh, frames: int) -> float:
    """Bytes to and from the memory of a device outside of matrix products, by formula."""
    sizes, batch = dict(mesh.shape), made.batch
    parts = parts_of(experiment, made.program, sizes)
    found = optimizer_bytes(experiment, parts, sizes)
    found += tower_bytes(experiment.model, parts, frames / mesh.size)
    if experiment.model.decoder is not None:
        tokens = math.prod(batch.tokens.shape) / mesh.size
        found += elementwise_bytes(experiment.model, tokens)
        found += 2 * kept_bytes(experiment.model, tokens, experiment.train.remat)
    return found


def _replicated(made: AbstractStep, mesh: Mesh) -> list[dict[str, Any]]:
    """Parameters that are whole on every device although there are several."""
    if mesh.size == 1:
        return []
    return [
        {"path": path, "bytes": math.prod(x.shape) * x.dtype.itemsize}
        for path, x in flat(made.state.params).items()
        if x.sharding.is_fully_replicated and math.prod(x.shape) * x.dtype.itemsize >= LARGE
    ]


def _of_text(folder: Path, args: dict[str, Any], mesh: Mesh, where: Topology) -> dict[str, Any]:
    """What the compiler's own text says: arguments, buffers, collectives."""
    text = _newest(folder, "after_optimizations.txt")
    assignment = _newest(folder, "after_optimizations-buffer-assignment.txt")
    if text is None:
        return {"largest": [], "collectives": None, "gathered_by_sums": [], "summed_whole": [],
                "formula_bytes": None, "kernels": None}  # fmt: skip
    found = collectives(text)
    largest = buffers(text, assignment)[:SHOWN] if assignment else []
    known = weights(args)
    whole = [c for c in found if c.kind == "all-reduce" and is_weight(c, known)]
    return {
        "formula_bytes": laid_out(args, text),
        "largest": [dataclasses.asdict(b) for b in largest],
        "collectives": by_kind(found, mesh, where),
        "gathered_by_sums": sorted({told(c) for c in whole if not c.sliced}),
        "summed_whole": sorted({told(c) for c in whole if c.sliced and where.kind == "tpu"}),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
    }


def _newest(folder: Path, ending: str) -> str | None:
    files = sorted(folder.glob(f"*{ending}"))
    return files[-1].read_text() if files else None


def _memory_refusal(line: str) -> int | None:
    """Bytes that a refused program would need; None: it was refused for another reason."""
    if "RESOURCE_EXHAUSTED" not in line:
        return None
    unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    for pattern in (r"\(([\d.]+)([KMGT])\) exceeds available", r"Used ([\d.]+)([KMGT])"):
        found = re.search(pattern, line)
        if found:
            return round(float(found[1]) * unit[found[2]])
    return 0


def _compiler(where: Topology, mesh: Mesh) -> str:
    if where.kind == "tpu":
        version = str(getattr(mesh.devices.flat[0].client, "platform_version", ""))
        return " ".join(f"libtpu {version}".split())[:120]
    import jaxlib

    return f"XLA for CPUs, jaxlib {jaxlib.version.__version__}, {mesh.size} simulated devices"


def main(folder: Path) -> int:
    data = json.load(sys.stdin)
    try:
        request = from_dict(Request, data, where="plan")
        if request.program == "search":
            from .plan_search import ranked

            found = ranked(
                request.experiment, request.topology, dates=request.dates, length=request.length
            )
            answer = {"raw": {"ranked": [dataclasses.asdict(c) for c in found]}}
        else:
            answer = {"raw": compile_plan(request, folder)}
    except Exception as e:
        code = getattr(e, "exit_code", None)
        if code is None:
            raise
        answer = {"error": str(e), "exit_code": code}
    (folder / "result.json").write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
