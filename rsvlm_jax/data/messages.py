"""What is said: the turns of a conversation, before any template.

`<image>` in a message stands for one image; the images themselves are given beside the messages,
in the order in which they stand in the text.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from rsvlm_jax.config import DataError
from rsvlm_jax.config.check import near_or_none

Role = Literal["system", "user", "assistant"]
ROLES = ("system", "user", "assistant")


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
