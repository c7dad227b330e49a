"""`rsvlm plan EXPERIMENT.py --topology v5e:16x16 [overrides]`: compiled before a pod is rented."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from rsvlm_jax.config import ConfigError, Experiment

from .options import experiments_folder, load_experiment, parse, say


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile an experiment's step for a pod that is not here, and say whether it fits. Every field
    of the experiment is an option, as of `rsvlm train`."""

    topology: str | None
    """v5e:16x16, v5p:4x4x4, v6e:8x8, v4:..., tpu7x:..., cpu:N, gpu:N; chips of one slice."""
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    serve: bool = False
    """Plan generation: a prefill and a decode step, in place of training."""
    rows: int = 8
    """Texts at a time, with --serve."""
    prompt: int = 1024
    """Positions of a prompt, with --serve."""
    new: int = 256
    """Tokens after it, with --serve."""
    price: float | None = None
    """Dollars of a chip for an hour."""
    dates: int | None = None
    """Of a series, where neither its cube nor its inputs say."""
    length: int | None = None
    """Positions of a row; as the experiment says by default."""
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
    from rsvlm_jax.run.plan import Serving, plan, require

    programs = ("prefill", "decode") if options.serve else ("train",)
    reports = []
    for program in programs:
        say(f"compiling {program} of {options.config.name} for {options.topology} ...")
        report = plan(
            options.config,
            options.topology,
            program=program,
            price=options.price,
            dates=options.dates,
            length=options.length,
            serving=Serving(options.rows, options.prompt, options.new),
        )
        reports.append(report)
        for line in report.lines():
            print(line)
        require(report)
    found = reports[0].to_dict()
    return found if len(reports) == 1 else {**found, "programs": [r.to_dict() for r in reports]}


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
