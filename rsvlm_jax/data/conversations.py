"""Conversations about images, as LLaVA's files hold them: read, checked, split.

    [{"id": "7", "image": "a.png",          a name, several, or none
      "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                        {"from": "gpt", "value": "A harbour."}]}]

The same objects may stand line by line (JSON lines). What is wrong in the form of a file is refused
at once, with its entry; whether an image can be decoded is found out when it is read. Not here:
templates and tokens (`chat`), order and rows (`plan`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_zarr.samples import QUESTIONS, sample_questions
from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.config.check import near_or_none
from rsvlm_jax.core.shapes import Bool

from .messages import IMAGE, Message, Role, check_turns, count_images

SPEAKERS: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "system": "system",
}  # fmt: skip
_OTHERS = ("images", "video", "videos")
"""What other formats call "image"."""
SHORT_ANSWER = "Answer the question using a single word or phrase."
"""LLaVA-1.5's words after the questions of VQA sets, in training and in evaluation."""


@dataclasses.dataclass(frozen=True)
class Conversation:
    """One conversation.

    Attributes:
      id: as in its file; the number of the entry where there is none.
      images: names as in the file, in the order of the placeholders.
      messages: user and assistant in turn, after at most one of the system.
      file, folder: where it stands, and what image names are relative to.
      type: the data set's own kind of question, where it tells.
    """

    id: str
    images: tuple[str, ...]
    messages: tuple[Message, ...]
    file: str = ""
    folder: str = ""
    type: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the images."""
        return tuple(os.path.join(self.folder, name) for name in self.images)

    @property
    def question(self) -> str:
        """What the user says first."""
        return next(m.content for m in self.messages if m.role == "user")


def read_conversations(
    path: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None
) -> tuple[Conversation, ...]:
    """All conversations of a file, or of a shipped set of questions ("sample:rsvqa_lr").

    As in LLaVA, what the assistant says before the user has spoken is dropped.

    Args:
      images: folder that image names are relative to; None: that of the file.

    Raises:
      DataError: not JSON, not UTF-8, an empty conversation or message, an unknown speaker, turns
        that do not alternate, placeholders that are not those of the images, or no such image
        file; with the file and the entry.
      ConfigError: no such shipped set.
    """
    kind, _, name = str(path).partition(":")
    if kind == "sample":
        return _shipped(name)
    folder = str(Path(path).parent if images is None else images)
    found = tuple(_conversation(entry, str(path), folder, at, i) for i, at, entry in _entries(path))
    if not found:
        raise DataError("no conversation", where=str(path), expected="one or more", found=0)
    _check_files(found)
    return found


def held_out(
    conversations: Sequence[Conversation], share: float, by: Literal["image", "question"]
) -> Bool[np.ndarray, " n"]:
    """Which conversations are kept from training; the same on every machine.

    Things (images by name; or an image with a question) are ranked by a hash of what they are, and
    the first `share` of them is held out: with one of 20 images all conversations about it. A
    conversation about several images is held out with any of them, so training shows none of the
    images that are held out. Conversations without an image count by their question. What is said
    twice, word by word, about the same image is on one side.

    Raises:
      ConfigError: nothing would be left on one of the sides.
    """
    things = [_things(c, by) for c in conversations]
    ranked = sorted({t for some in things for t in some}, key=_rank)
    chosen = set(ranked[: round(share * len(ranked))])
    out = np.array([not chosen.isdisjoint(some) for some in things], bool)
    if share and (out.all() or not out.any()):
        raise ConfigError(
            "nothing to hold out" if not out.any() else "nothing left to train on",
            where="ConversationConfig.held_out",
            expected="a share of the "
            + ("images" if by == "image" else "questions")
            + " that leaves some on both sides",
            found=f"{share} of {len(ranked)}",
        )
    return out


def _things(conversation: Conversation, by: str) -> tuple[str, ...]:
    if by == "image" and conversation.images:
        return conversation.images
    return (json.dumps([conversation.images, conversation.question]),)


def _rank(thing: str) -> bytes:
    return hashlib.sha256(thing.encode("utf-8", "surrogatepass")).digest()


def _shipped(name: str) -> tuple[Conversation, ...]:
    if name not in QUESTIONS:
        raise ConfigError(
            "no such shipped conversations",
            where=f"sample:{name}",
            expected=", ".join(f"sample:{q}" for q in QUESTIONS),
            found=repr(name),
            remedy=near_or_none(name, tuple(QUESTIONS)),
        )
    return tuple(
        Conversation(
            id=str(i),
            images=(q.image.name,),
            messages=(
                Message("user", f"{IMAGE}\n{q.question}\n{SHORT_ANSWER}"),
                Message("assistant", q.answer),
            ),
            file=f"sample:{name}",
            folder=str(q.image.parent),
            type=q.type,
        )
        for i, q in enumerate(sample_questions(name))
    )


def _entries(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, Any]]:
    """(number, where, object) of a list, or of lines."""
    text = _text(Path(path))
    if text.lstrip()[:1] == "[":
        listed = _json(text, str(path), 1)
        for i, entry in enumerate(listed):
            yield i, f"{path}[{i}]", entry
        return
    for i, line in enumerate(text.split("\n")):
        if line.strip():
            yield i, f"{path}, line {i + 1}", _json(line, str(path), i + 1)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError("no readable conversations", where=path, found=error.strerror) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            "text that is not UTF-8", where=f"{path}, line {line}", expected="UTF-8",
            found=f"byte 0x{data[error.start]:02x}", remedy="save the file as UTF-8",
        ) from error  # fmt: skip


def _json(text: str, where: str, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        at = line + getattr(error, "lineno", 1) - 1
        raise DataError(
            "not JSON", where=f"{where}, line {at}",
            expected="a list of conversations, or one on every line",
            found=getattr(error, "msg", error),
        ) from error  # fmt: skip


def _conversation(entry: Any, file: str, folder: str, at: str, number: int) -> Conversation:
    if not isinstance(entry, Mapping):
        raise DataError(
            "not a conversation", where=at, expected='{"id", "image", "conversations"}',
            found=type(entry).__name__,
        )  # fmt: skip
    if "id" in entry:
        at = f"{at} (id {entry['id']!r})"
    turns = entry.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError(
            "an empty conversation", where=at,
            expected='"conversations": [{"from", "value"}, ...]',
            found=repr(turns)[:40] if "conversations" in entry else f"keys {', '.join(entry)}",
        )  # fmt: skip
    messages = [_message(turn, f"{at}, turn {i}") for i, turn in enumerate(turns)]
    if messages[0].role == "assistant":
        del messages[0]  # as LLaVA does
    _check_turns(messages, at)
    return Conversation(
        id=str(entry.get("id", number)),
        images=_images(entry, messages, at),
        messages=tuple(messages),
        file=file,
        folder=folder,
        type=str(entry["type"]) if "type" in entry else None,
    )


def _message(turn: Any, at: str) -> Message:
    if not isinstance(turn, Mapping) or not {"from", "value"} <= set(turn):
        raise DataError("not a turn", where=at, expected='{"from", "value"}', found=repr(turn)[:60])
    speaker, value = turn["from"], turn["value"]
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise DataError(
            "unknown role", where=at, expected="human | gpt | system", found=repr(speaker),
            remedy=near_or_none(str(speaker), tuple(SPEAKERS)),
        )  # fmt: skip
    if not isinstance(value, str) or not value.strip():
        raise DataError("an empty message", where=at, expected="words", found=repr(value))
    return Message(SPEAKERS[speaker], value)


def _check_turns(messages: Sequence[Message], at: str) -> None:
    try:
        check_turns(messages)
    except DataError as error:
        raise error.at(at) from error
    if all(m.role != "assistant" for m in messages):
        raise DataError(
            "a conversation without an answer", where=at, expected="a turn of gpt",
            found=", ".join(m.role for m in messages) or "nothing",
        )  # fmt: skip


def _images(entry: Mapping[str, Any], messages: Sequence[Message], at: str) -> tuple[str, ...]:
    given = entry.get("image")
    names = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise DataError(
            "not the name of an image", where=at, expected="a string or a list of them",
            found=repr(given)[:60],
        )  # fmt: skip
    count = sum(count_images(m.content) for m in messages)
    if count != len(names):
        raise DataError(
            "the placeholders are not those of the images", where=at,
            expected=f"{IMAGE} once for each of {len(names)} images", found=f"{count}",
            remedy=next((f'"image", not "{k}", names them' for k in _OTHERS if k in entry), None),
        )  # fmt: skip
    return tuple(names)


def _check_files(conversations: Sequence[Conversation]) -> None:
    """Every folder is listed once: a question for each of a million files would take minutes."""
    folders: dict[str, set[str]] = {}
    missing: dict[str, Conversation] = {}
    for conversation in conversations:
        for path in conversation.paths:
            folder, name = os.path.split(path)
            if folder not in folders:
                try:
                    folders[folder] = set(os.listdir(folder or "."))
                except OSError:
                    folders[folder] = set()
            if name not in folders[folder]:
                missing.setdefault(path, conversation)
    if missing:
        path, first = next(iter(missing.items()))
        raise DataError(
            "no such image",
            where=f"{first.file} (id {first.id!r})",
            expected=path,
            found="no such file" if len(missing) == 1 else f"{len(missing)} images missing",
            remedy="set ConversationConfig.images to the folder that their names are relative to",
        )
