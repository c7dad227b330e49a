"""`rsvlm plan EXPERIMENT.py --topology v5e:16x16 [overrides]`: compiled before a pod is rented."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rsvlm_jax.config import ConfigError, Experiment

from .options import experiments_folder, load_experiment, parse, say

if TYPE_CHECKING:
    from rsvlm_jax.run.plan_report import PlanReport


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile an experiment's step for a pod that is not here, and say whether it fits. Every field
    of the experiment is an option, as of `rsvlm train`."""

    topology: str | None
    """v5e:16x16, v5p:4x4x4, v6e:8x8, v4:..., tpu7x:..., cpu:N, gpu:N; chips of one slice."""
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    compare: tuple[str, ...] = ()
    """Further topologies, side by side with the first."""
    search: bool = False
    """Find mesh, batch, micro-batches and remat that fit and take the least time: all by formula,
    the best by the compiler."""
    serve: bool = False
    """Plan generation: a prefill and a decode step, in place of training."""
    rows: int | None = None
    """Texts at a time, with --serve; 8 by default."""
    prompt: int | None = None
    """Positions of a prompt, with --serve; 1024 by default."""
    new: int | None = None
    """Tokens after it, with --serve; 256 by default."""
    price: float | None = None
    """Dollars of a chip for an hour."""
    dates: int | None = None
    """Of a series, where neither its cube nor its inputs say."""
    length: int | None = None
    """Positions of a row; as the experiment says by default."""
    out: Path | None = None
    """Folder for `report.json` and `index.html`, a page with charts."""
    tiny: bool = False
    """Shrink the experiment first, as `rsvlm train --tiny` does."""


def run(args: Sequence[str]) -> dict[str, Any]:
    rest = list(args)
    if rest and not rest[0].startswith("-"):
        check_imports(rest[0])
        experiment = load_experiment(rest.pop(0))
    elif "-h" in rest or "--help" in rest:
        experiment = load_experiment("forkme")
    else:
        raise ConfigError(
            "no experiment given", expected="rsvlm plan EXPERIMENT.py[:STAGE] --topology v5e:16x16"
        )
    if "--tiny" in rest:
        experiment = experiment.tiny()
    options = parse(
        Options, rest, prog="rsvlm plan EXPERIMENT.py", default=Options(None, experiment)
    )
    if options.topology is None:
        raise ConfigError("no topology given", expected="--topology v5e:16x16, cpu:8 and the like")
    if options.search and options.serve:
        raise ConfigError(
            "a search is of training", where="--search", expected="no --serve beside it"
        )
    _check(options)
    names = (options.topology, *options.compare)
    from rsvlm_jax.mesh.topology import topology

    for name in names:  # all of them, before the first is compiled
        topology(name)
    reports = [report for name in names for report in _reports(options, name)]
    for report in reports:
        print("\n".join([*report.lines(), ""]))
    if len(reports) > 1:
        from rsvlm_jax.run.plan_report import table

        print("\n".join(table(reports)))
    if options.out is not None:
        from rsvlm_jax.run.plan_page import write_page

        say(f"written: {write_page(reports, options.out)}")
    from rsvlm_jax.run.plan import require

    fitting = [r for r in reports if r.fits is not False]
    if not fitting or (options.serve and len(fitting) < len(reports)):
        require(next(r for r in reports if r.fits is False))
    first = reports[0].to_dict()
    return first if len(reports) == 1 else {**first, "plans": [r.to_dict() for r in reports]}


SERVING = ("rows", "prompt", "new")
TRAINING = ("dates", "length")


def _check(options: Options) -> None:
    """ConfigError for an option that would change nothing."""
    idle = TRAINING if options.serve else SERVING
    for name in idle:
        if getattr(options, name) is not None:
            raise ConfigError(
                "an option without effect",
                where=f"--{name}",
                expected="no --serve beside it" if options.serve else "--serve beside it",
                found=getattr(options, name),
            )
    if options.serve and options.config.base not in ("float", "bfloat16"):
        raise ConfigError(
            "generation is planned of floats", where="--base", expected="float or bfloat16",
            found=options.config.base, remedy="leave --base out: LoRA is merged to serve",
        )  # fmt: skip


def _reports(options: Options, name: str) -> list[PlanReport]:
    """The plans of one topology: of training one, of generation two."""
    from rsvlm_jax.run.plan import Serving, choose, plan

    given = {"price": options.price, "dates": options.dates, "length": options.length}
    if options.search:
        say(f"searching for {options.config.name} on {name} ...")
        found = choose(options.config, name, **given)
        say(f"{found.count} choices may fit by formula; compiled were")
        for choice, fits in found.tried:
            word = "fits" if fits else "does not fit"
            seconds = f"{choice.step_seconds:.3g} s by formula"
            say(f"  {choice.options()}: {word}, {seconds}")
        if found.report is None or found.chosen is None:
            raise ConfigError(
                "none of the best choices fits",
                where=name,
                expected="one that the compiler takes",
                found=f"{len(found.tried)} that it refuses",
                remedy="more chips, or with LoRA --base int8 or nf4",
            )
        say(f"chosen: {found.chosen.options()}")
        return [found.report]
    made = []
    for program in ("prefill", "decode") if options.serve else ("train",):
        say(f"compiling {program} of {options.config.name} for {name} ...")
        told = {n: v for n in SERVING if (v := getattr(options, n)) is not None}
        serving = Serving(**told)
        made.append(plan(options.config, name, program=program, serving=serving, **given))
    return made


ALLOWED = ("rsvlm_jax.config", "experiments", "__future__")
"""What an experiment may import beside the standard library."""


def check_imports(path: str) -> None:
    """Refuse an experiment that imports more than the configuration: it would load JAX, or open
    data, where a plan is to need neither.

    Raises:
      ConfigError: with file, line and the import.
    """
    name = path if Path(path).is_file() else path.rpartition(":")[0] or path
    file = Path(name) if Path(name).suffix else experiments_folder() / f"{name}.py"
    if not file.is_file():
        return  # `load_experiment` says so
    try:
        tree = ast.parse(file.read_text())
    except SyntaxError:
        return  # and this
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        for word in names:
            first = word.partition(".")[0]
            inside = any(word == a or word.startswith(f"{a}.") for a in ALLOWED)
            if not inside and first not in sys.stdlib_module_names:
                raise ConfigError(
                    "an experiment imports what it may not",
                    where=f"{file}, line {node.lineno}",
                    expected="rsvlm_jax.config and the standard library",
                    found=word,
                )
