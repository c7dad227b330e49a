"""What is said: the turns of a conversation, before any template.

`<image>` in a question stands for one image; the images themselves are given beside the messages,
in the order in which they stand in the text. A backslash before it makes it plain text, which is
what `escape` is for: text that a user typed goes through it and never becomes an image::

    "<image>\\nwhat is this?"        one image and a question
    "what does \\\\<image> mean?"      a question that holds the seven characters "<image>"

Nothing else in a message has a meaning: "</s>" is four characters.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from rsvlm_jax.config import DataError
from rsvlm_jax.config.check import near_or_none

Role = Literal["system", "user", "assistant"]
ROLES = ("system", "user", "assistant")

IMAGE = "<image>"
_IMAGE = re.compile(r"(\\?)<image>")


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn. LLaVA's files say "human" and "gpt" for "user" and "assistant"."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(
                "unknown role", where="Message.role", expected=" | ".join(ROLES),
                found=repr(self.role), remedy=near_or_none(str(self.role), ROLES),
            )  # fmt: skip


def escape(text: str) -> str:
    """What a user typed as the content of a message: no part of it stands for an image."""
    return text.replace(IMAGE, "\\" + IMAGE)


def split_images(content: str) -> list[str]:
    """The plain texts between the images of a message: one more than there are images."""
    texts, at = [""], 0
    for found in _IMAGE.finditer(content):
        texts[-1] += content[at : found.start()]
        at = found.end()
        if found[1]:
            texts[-1] += IMAGE
        else:
            texts.append("")
    texts[-1] += content[at:]
    return texts


def count_images(content: str) -> int:
    """How many images a message names."""
    return len(split_images(content)) - 1


def check_turns(messages: Sequence[Message]) -> None:
    """Refuse what is no conversation: a system message or none, then question and answer in turn.

    Raises:
      DataError: an empty conversation, one that begins with an answer, two turns of one speaker in
        a row, a system message that is not the first, an empty turn, an image in an answer.
    """
    turns = [m for i, m in enumerate(messages) if i or m.role != "system"]
    if not turns:
        raise DataError("an empty conversation", where="messages", expected="a question")
    shift = len(messages) - len(turns)
    for i, message in enumerate(turns):
        where, expected = f"messages[{i + shift}]", ("user", "assistant")[i % 2]
        if message.role != expected:
            what = f"two {message.role} turns in a row" if i else "an answer before any question"
            if message.role == "system":
                what = "a system message among the turns"
            raise DataError(what, where=where, expected=expected, found=message.role)
        if not message.content.strip():
            raise DataError("an empty turn", where=where, expected="some words")
    for i, message in enumerate(messages):
        if message.role != "user" and count_images(message.content):
            raise DataError(
                f"an image in a turn of the {message.role}", where=f"messages[{i}]",
                expected=f"{IMAGE} in questions alone",
                remedy=f"write it as \\{IMAGE} where the word itself is meant",
            )  # fmt: skip
