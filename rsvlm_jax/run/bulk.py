"""Prompts in bulk: JSON lines in, JSON lines out, taken up where an interrupted run stopped.

    {"question_id": 7, "image": "a.tif", "text": "Is it a rural or an urban area?"}
    -> {"question_id": 7, "prompt": "Is it ...", "text": "rural", "answer_id": ..., "model_id": ...,
        "metadata": {...}}

The answers are LLaVA's (`model_vqa_loader.py`), in the order of the prompts, one line for each. A
run that was killed leaves whole lines and at most a piece of one: the piece is cut off, what is
there is compared with the prompts, and the rest is asked. Who answers is the caller's matter.
"""

from __future__ import annotations

import codecs
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsvlm_jax.config import ConfigError, DataError, Preempted, strict_json

_ID = ("question_id", "id")
_TEXT = ("text", "question", "prompt")
_IMAGE = ("image", "image_id", "images")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One line.

    Attributes:
      question_id: of the file, or the line's number from 0 on.
      text: what is asked.
      images: names of the images as they stand in the file.
      more: the other keys (`row`, `col`, `category`).
    """

    question_id: Any
    text: str
    images: tuple[str, ...]
    more: dict[str, Any]


Answer = str | tuple[str, dict[str, Any]]
"""Text; or text and what goes into the line's `metadata` beside the settings."""


def read_prompts(path: str | os.PathLike[str]) -> tuple[Prompt, ...]:
    """LLaVA's and GeoChat's question files, and ours.

    Keys: `question_id` or `id`; `text`, `question` or `prompt`; `image`, `image_id` or `images`
    (one name or a list), which may be absent. Empty lines are passed over.

    Raises:
      DataError: not a file, not UTF-8, not JSON, no question; with the line.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as e:
        raise DataError(f"cannot read the prompts ({e.strerror})", where=path) from e
    found = []
    for i, line in enumerate(raw.removeprefix(codecs.BOM_UTF8).split(b"\n")):
        if line.strip():
            found.append(_prompt(line, len(found), f"{path}, line {i + 1}"))
    if not found:
        raise DataError("no prompts", where=path, expected='lines of {"text": ..., "image": ...}')
    return tuple(found)


def _prompt(line: bytes, number: int, where: str) -> Prompt:
    try:
        said = line.decode("utf-8")
        entry = json.loads(said, parse_constant=lambda _: None)  # NaN and the like, as written
    except UnicodeDecodeError as e:
        raise DataError("not UTF-8", where=where, found=f"byte {line[e.start]:#04x}") from e
    except (ValueError, RecursionError) as e:
        raise DataError("not JSON", where=where, found=repr(said[:60])) from e
    text = next((entry[k] for k in _TEXT if k in entry), None) if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            "not a prompt", where=where, expected='{"question_id": ..., "image": ..., "text": ...}',
            found=repr(said[:60]),
        )  # fmt: skip
    images = next((entry[k] for k in _IMAGE if entry.get(k) is not None), ())
    images = (images,) if isinstance(images, str) else images
    if not isinstance(images, list | tuple) or not all(isinstance(i, str) for i in images):
        raise DataError("not names of images", where=where, expected="a name, or a list of names",
                        found=repr(images)[:60])  # fmt: skip
    name = next((entry[k] for k in _ID if k in entry), number)
    more = {k: v for k, v in entry.items() if k not in (*_ID, *_TEXT, *_IMAGE)}
    return Prompt(name, text, tuple(images), more)


def answer_all(
    prompts: Sequence[Prompt],
    out: str | os.PathLike[str],
    answer: Callable[[Sequence[Prompt]], Sequence[Answer]],
    *,
    model_id: str,
    settings: dict[str, Any],
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> int:
    """Ask all prompts that `out` has no answer to; their number.

    Args:
      answer: the answers of some prompts, in their order.
      model_id, settings: written into every line; an answer file with others is refused.
      progress: (answered, all), after every batch.
      stop: asked before every batch.

    Raises:
      ConfigError: a batch of no prompts.
      DataError: `out` holds answers to other prompts, or of another model or other settings.
      Preempted: `stop` said so; what is answered is kept.
    """
    if batch_size < 1:
        raise ConfigError("not a size", where="batch_size", expected="1 or more", found=batch_size)
    path = Path(out)
    settings = json.loads(strict_json(settings))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise DataError("another process writes this answer file", where=path) from e
        done = _resume(path, prompts, model_id, settings)
        for first in range(done, len(prompts), batch_size):
            if stop is not None and stop():
                raise Preempted(
                    f"stopped after {first} of {len(prompts)} answers; run again to go on",
                    where=path,
                )
            asked = prompts[first : first + batch_size]
            lines = [
                _line(p, a, model_id, settings) for p, a in zip(asked, answer(asked), strict=True)
            ]
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
            if progress is not None:
                progress(first + len(asked), len(prompts))
    return len(prompts) - done


def _line(prompt: Prompt, answer: Answer, model_id: str, settings: dict[str, Any]) -> bytes:
    text, more = answer if isinstance(answer, tuple) else (answer, {})
    entry = {
        "question_id": prompt.question_id,
        "prompt": prompt.text,
        "text": text,
        "answer_id": _answer_id(prompt, model_id, settings),
        "model_id": model_id,
        "metadata": {**prompt.more, **more, "settings": settings},
    }
    if prompt.images:
        entry["image"] = prompt.images[0] if len(prompt.images) == 1 else list(prompt.images)
    return (strict_json(entry) + "\n").encode()


def _answer_id(prompt: Prompt, model_id: str, settings: dict[str, Any]) -> str:
    """Of all that an answer depends on: images and places too."""
    asked = dataclasses.astuple(prompt)
    return hashlib.sha256(strict_json([asked, model_id, settings]).encode()).hexdigest()[:22]


def _resume(path: Path, prompts: Sequence[Prompt], model_id: str, settings: dict[str, Any]) -> int:
    """Whole lines in `path`, each compared with its prompt; a piece of a line is cut off."""
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    lines = whole.splitlines()
    remedy = "name another --out, or remove the file"
    if len(lines) > len(prompts):
        raise DataError(
            "an answer file of other prompts", where=path, expected=f"<= {len(prompts)} answers",
            found=len(lines), remedy=remedy,
        )  # fmt: skip
    for i, (line, prompt) in enumerate(zip(lines, prompts, strict=False)):
        where = f"{path}, line {i + 1}"
        try:
            entry = json.loads(line)
            found = (entry["question_id"], entry["prompt"])
            by = (entry["model_id"], entry["metadata"]["settings"])
            answer_id = entry["answer_id"]
        except (ValueError, KeyError, TypeError) as e:
            raise DataError("not an answer file", where=where, remedy=remedy) from e
        wanted = (prompt.question_id, prompt.text)
        if found != wanted:
            raise DataError(
                "an answer file of another prompt file", where=where,
                expected=f"question {wanted[0]!r}, {wanted[1][:40]!r}",
                found=f"question {found[0]!r}, {str(found[1])[:40]!r}", remedy=remedy,
            )  # fmt: skip
        if by != (model_id, settings):
            raise DataError(
                "answers of another model or other settings", where=where,
                expected=f"{model_id}, {settings}", found=f"{by[0]}, {by[1]}", remedy=remedy,
            )  # fmt: skip
        if answer_id != _answer_id(prompt, model_id, settings):
            raise DataError(
                "an answer file of another prompt file", where=where,
                expected=f"question {wanted[0]!r} about {', '.join(prompt.images) or prompt.more}",
                found=f"about {entry.get('image') or entry['metadata']}", remedy=remedy,
            )  # fmt: skip
    if len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return len(lines)
