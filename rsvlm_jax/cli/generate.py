"""`rsvlm generate RUN --cube IN --at ROW COL --ask QUESTION`, or prompts as JSON lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tyro.conf import Positional

from rsvlm_jax.config import ConfigError, strict_json

from .options import parse, say


@dataclasses.dataclass(frozen=True)
class Options:
    """Ask a run questions about places in a cube; one JSON object a line on stdout."""

    run: Positional[Path]
    """Run directory of a model trained with `--data.templates questions`."""
    cube: str
    """Path of a cube, sample:NAME or world:PRESET."""
    at: tuple[int, int] = (0, 0)
    """Row and column of the window's upper left pixel."""
    ask: tuple[str, ...] = ()
    """Questions."""
    prompts: Path | None = None
    """JSON lines with "question" and, to override --at, "row" and "col"."""


def run(args: Sequence[str]) -> dict[str, object]:
    options = parse(Options, args, prog="rsvlm generate")
    prompts = list(_prompts(options))
    if not prompts:
        raise ConfigError("no question", expected="--ask QUESTION or --prompts FILE")
    from rsvlm_jax.run.cubes import find_cube
    from rsvlm_jax.run.trained import load_run

    loaded, cube = load_run(options.run), find_cube(options.cube)
    answers = []
    for question, row, col in prompts:
        (answer,) = loaded.chat(question, loaded.window(cube, row, col))
        answers.append({"row": row, "col": col, **dataclasses.asdict(answer)})
        print(strict_json(answers[-1]), flush=True)
    say(f"{len(answers)} answers")
    return {"step": loaded.step, "answers": answers}


def _prompts(options: Options) -> Iterator[tuple[str, int, int]]:
    for question in options.ask:
        yield question, *options.at
    if options.prompts is None:
        return
    try:
        lines = options.prompts.read_text().splitlines()
    except OSError as e:
        raise ConfigError(f"cannot read the prompts ({e.strerror})", where=options.prompts) from e
    for i, line in enumerate(lines, 1):
        where = f"{options.prompts}, line {i}"
        try:
            prompt = json.loads(line)
            question = prompt["question"]
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigError(
                "not a prompt", where=where, expected='{"question": ...}', found=line[:60]
            ) from e
        yield question, prompt.get("row", options.at[0]), prompt.get("col", options.at[1])
