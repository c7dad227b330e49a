"""Who answers prompts in bulk: a model of images and text, or a run on cubes.

    image_answers(speaker, folder, config)      prompts name image files
    cube_answers(loaded, cube, at)              prompts name places: `row`, `col`, `cube`

Both give what `rsvlm_jax.run.bulk.answer_all` asks for. A prompt that cannot be answered (an image
that cannot be read, a question that is too long) gets an empty answer with the reason in its
metadata, so that one broken file among thousands costs one answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_zarr.cube import Cube
from data_zarr.errors import CubeError
from rsvlm_jax.config import ConfigError, DataError, GenerationConfig
from rsvlm_jax.data.messages import IMAGE, Message, count_images
from rsvlm_jax.generate import TokenMachine

from .bulk import Answer, Prompt
from .cubes import find_cube
from .speak import Speaker
from .trained import Loaded

Answers = Callable[[Sequence[Prompt]], list[Answer]]

ENDINGS = ("", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""GeoChat's files name images without their ending."""


def image_answers(
    speaker: Speaker,
    folder: Path,
    *,
    config: GenerationConfig,
    machine: TokenMachine | None = None,
    batch_size: int = 8,
    strict: bool = False,
) -> Answers:
    """Answers of a model of images and text.

    Args:
      folder: that images are named in.
      machine: what the answers have to look like.
      batch_size: of every call: a shorter one is filled up, so that the last does not need a
        program of its own. Where all of it is about the same images, they are read once.
      strict: a prompt that cannot be answered raises.
    """

    @functools.lru_cache(maxsize=4 * batch_size)
    def pixels(name: str) -> np.ndarray:
        return speaker.processor.pixels(_file(folder, name))

    def refusal(prompt: Prompt) -> str | None:
        try:
            for name in prompt.images:
                pixels(name)
            asked = [Message("user", _marked(prompt))]
            speaker.prompt(asked, len(prompt.images), config)
        except DataError as e:
            if strict:
                raise
            return str(e)
        return None

    def ask(prompts: Sequence[Prompt]) -> list[str]:
        if not prompts:
            return []
        filled = [*prompts, *[prompts[-1]] * (batch_size - len(prompts))]
        texts = [[Message("user", _marked(p))] for p in filled]
        looked = [[pixels(name) for name in p.images] for p in filled]
        shared = len(filled) > 1 and len({p.images for p in filled}) == 1 and bool(filled[0].images)
        said = speaker.answer(
            texts, looked, config=config, machine=machine, ready=True,
            shared=shared and not any(count_images(p.text) for p in filled),
        )  # fmt: skip
        return said[: len(prompts)]

    def answers(prompts: Sequence[Prompt]) -> list[Answer]:
        refused = [refusal(prompt) for prompt in prompts]
        said = iter(ask([p for p, why in zip(prompts, refused, strict=True) if why is None]))
        return [next(said) if why is None else ("", {"error": why}) for why in refused]

    return answers


def cube_answers(
    loaded: Loaded, cube: str | None, at: tuple[int, int], *, strict: bool = False
) -> Answers:
    """Answers of a run on cubes about windows by the row and column of their upper left pixel.

    Numbers are in the metadata: `value`, `lo` and `hi` of the 90 % interval, `unit`.

    Args:
      cube, at: of prompts that name none.
      strict: a prompt that cannot be answered raises.
    """
    opened: dict[str, Cube] = {}

    def one(prompt: Prompt) -> Answer:
        where = f"question {prompt.question_id!r}"
        name = prompt.more.get("cube", cube)
        if not isinstance(name, str):
            raise ConfigError("no cube", where=where, expected='--cube, or "cube" in the prompts')
        if name not in opened:
            opened[name] = find_cube(name)
        row, col = (prompt.more.get(k, v) for k, v in zip(("row", "col"), at, strict=True))
        if not all(type(x) is int for x in (row, col)):
            raise DataError(
                "not a place", where=where, expected='whole numbers "row" and "col"',
                found=f"{row!r}, {col!r}",
            )  # fmt: skip
        (answer,) = loaded.chat(prompt.text, loaded.window(opened[name], row, col))
        number = {k: getattr(answer, k) for k in ("value", "lo", "hi", "unit")}
        return answer.text, {"row": row, "col": col, **number}

    def answers(prompts: Sequence[Prompt]) -> list[Answer]:
        found: list[Answer] = []
        for prompt in prompts:
            try:
                found.append(one(prompt))
            except (DataError, CubeError) as e:
                if strict:
                    raise
                found.append(("", {"error": str(e)}))
        return found

    return answers


def _marked(prompt: Prompt) -> str:
    """The question behind its images, as LLaVA asks, unless it says itself where they stand."""
    if count_images(prompt.text):
        return prompt.text
    return f"{IMAGE}\n" * len(prompt.images) + prompt.text


def _file(folder: Path, name: str) -> Path:
    for ending in ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_file():
            return path
    raise DataError("no such image", where=folder / name, remedy="--images names their folder")
