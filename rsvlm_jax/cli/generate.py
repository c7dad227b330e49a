"""`rsvlm generate MODEL --prompts IN.jsonl --out OUT.jsonl`: prompts in bulk, restartable."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from rsvlm_jax.config import ConfigError, GenerationConfig, strict_json
from rsvlm_jax.config.check import positive

from .options import options_of_load, parse, say, stop_on_sigterm

GREEDY = GenerationConfig()


@dataclasses.dataclass(frozen=True)
class Options:
    """Answer prompts: about images (LLaVA's question files), or about places of a cube."""

    model: Positional[Path]
    """Run directory, or a directory of Hugging Face, LLaVA or GeoChat."""
    prompts: Path | None = None
    """JSON lines: {"question_id", "image", "text"}; for cubes "row", "col" and, if not --cube,
    "cube"."""
    out: Path | None = None
    """Answer file, in the order of the prompts; an interrupted one is gone on with, and a prompt
    that cannot be answered is noted in it. None: lines on stdout, up to the first that cannot."""
    ask: tuple[str, ...] = ()
    """Questions beside those of the file, asked about every --image or about the place --at."""
    image: tuple[Path, ...] = ()
    """Images that --ask is about, together."""
    images: Path | None = None
    """Folder that the prompts' images are named in; None: that of the prompt file."""
    cube: str | None = None
    """Path of a cube, sample:NAME or world:PRESET."""
    at: tuple[int, int] = (0, 0)
    """Row and column of the window's upper left pixel."""
    choices: tuple[str, ...] = ()
    """Answers to choose from: no other can come out."""
    pattern: str | None = None
    """Regular expression that an answer has to match (`rsvlm_jax.generate.grammar`)."""
    generation: Annotated[GenerationConfig, tyro.conf.arg(name="")] = GREEDY
    batch_size: int = 8
    """Prompts at a time."""
    quantize: Literal["int8", "nf4"] | None = None
    """Of the weights, as they are read. An adapter stays beside them."""
    vision: Path | None = None
    """Directory of the vision tower, where a LLaVA does not hold its own."""
    adapter: Path | None = None
    """Directory of a PEFT adapter, or of LLaVA's LoRA over a plain language model."""
    step: int | Literal["best"] | None = None
    """Checkpoint of a run: a step, or that of the lowest held-out loss; the newest by default."""
    allow_pickle: bool = False
    """Read .bin files, through torch's weights-only loader."""

    def __post_init__(self) -> None:
        positive(self, "batch_size")


def run(args: Sequence[str]) -> dict[str, object]:
    options = parse(Options, args, prog="rsvlm generate")
    if options.prompts is None and not options.ask:
        raise ConfigError("no question", expected="--ask QUESTION or --prompts FILE")
    if options.choices and options.pattern is not None:
        raise ConfigError("two grammars", expected="--choices or --pattern", found="both")
    with stop_on_sigterm() as stop:
        from rsvlm_jax.run.bulk import Prompt, answer_all, read_prompts

        asked = tuple(
            Prompt(f"ask-{i}", text, tuple(str(p.absolute()) for p in options.image), {})
            for i, text in enumerate(options.ask)
        )
        prompts = (*asked, *(read_prompts(options.prompts) if options.prompts else ()))
        answers, model_id, step = _who_answers(options)
        if options.out is None:
            return {"step": step, "answers": _print(prompts, answers, options.batch_size)}

        from .progress import Bars

        with Bars() as bars:
            made = answer_all(
                prompts,
                options.out,
                answers,
                model_id=model_id,
                settings=_settings(options),
                batch_size=options.batch_size,
                progress=lambda done, total: bars.update("answers", done, total),
                stop=stop,
            )
    say(f"{made} answers, {len(prompts)} in all: {options.out}")
    return {
        "step": step,
        "out": str(options.out),
        "answered": made,
        "prompts": len(prompts),
    }


def _who_answers(options: Options) -> tuple[Any, str, int | None]:
    """The answers, what the model is called, and the step of a run."""
    from rsvlm_jax.run.answers import cube_answers, image_answers
    from rsvlm_jax.run.load import load
    from rsvlm_jax.run.speak import Speaker
    from rsvlm_jax.run.trained import Loaded

    model = load(options.model, **options_of_load(options))
    if isinstance(model, Loaded):
        if options.choices or options.pattern is not None:
            raise ConfigError("a run on cubes takes no grammar", where="--choices, --pattern")
        answers = cube_answers(model, options.cube, options.at, strict=options.out is None)
        return answers, f"{options.model}@{model.step}", model.step
    if options.cube is not None:
        raise ConfigError(
            "the model reads images, not cubes", where="--cube", remedy="rsvlm chat draws cubes"
        )
    speaker = Speaker(model, model.processor)
    folder = options.images or (options.prompts or Path("x")).parent
    answers = image_answers(
        speaker,
        folder,
        config=options.generation,
        machine=_machine(options, speaker),
        batch_size=options.batch_size,
        strict=options.out is None,
    )
    name = str(options.model) if model.step is None else f"{options.model}@{model.step}"
    return answers, name + (f"+{options.adapter}" if options.adapter else ""), model.step


def _machine(options: Options, speaker: Any) -> Any:
    if not options.choices and options.pattern is None:
        return None
    from rsvlm_jax.generate.grammar import choices

    pattern = choices(options.choices) if options.choices else options.pattern
    return speaker.machine(pattern)


def _settings(options: Options) -> dict[str, Any]:
    """What the answers depend on beside the model: other settings are other answers."""
    said = dataclasses.asdict(options.generation)
    for name in ("images", "cube", "vision", "quantize"):
        if getattr(options, name) is not None:
            said[name] = str(getattr(options, name))
    if options.cube is not None or options.at != (0, 0):
        said["at"] = list(options.at)
    if options.choices or options.pattern is not None:
        said["pattern"] = options.pattern or list(options.choices)
    return said


def _print(prompts: Sequence[Any], answers: Any, size: int) -> list[dict[str, Any]]:
    """Answers as lines on stdout."""
    found = []
    for first in range(0, len(prompts), size):
        some = prompts[first : first + size]
        for prompt, answer in zip(some, answers(some), strict=True):
            text, more = answer if isinstance(answer, tuple) else (answer, {})
            found.append({"question": prompt.text, "text": text, **prompt.more, **more})
            print(strict_json(found[-1]), flush=True)
    say(f"{len(found)} answers")
    return found
