"""A conversation cut to the length of a row: whole turns while they fit, images never.

<s> .. image image .. question answer </s> question answer </s> question answer </s>
                                                          ^ here, if the third does not fit
                                    ^ within the first answer, if that does not (as LLaVA cuts)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rsvlm_jax.config import DataError

from .chat import ChatProcessor
from .conversations import Conversation

_ANY = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What of a conversation stands in a row.

    Attributes:
      turns: its first messages, so many.
      tokens, images: of them; tokens of images included.
    """

    turns: int
    tokens: int
    images: int


def fit_row(processor: ChatProcessor, conversation: Conversation, length: int) -> Fitted:
    """As many turns as fit, up to an answer.

    Raises:
      DataError: the images of the first question do not fit, or nothing is supervised.
    """
    ends = [i + 1 for i, m in enumerate(conversation.messages) if m.role == "assistant"]
    row = processor.encode(conversation.messages[: ends[-1]], length=_ANY)
    while len(row.ids) > length and len(ends) > 1:
        ends.pop()
        row = processor.encode(conversation.messages[: ends[-1]], length=_ANY)
    whole = len(row.ids)
    if whole > length:
        row = processor.encode(conversation.messages[: ends[-1]], length=length)
    if not row.supervised:
        raise DataError(
            "nothing to learn: all labels are masked", where="conversation",
            expected="an answer" if whole <= length else f"an answer in the first {length} tokens",
            found=f"{whole} tokens",
            remedy="a larger ConversationConfig.length" if whole > length else None,
        )  # fmt: skip
    return Fitted(ends[-1], len(row.ids), row.images)


def fit_rows(
    processor: ChatProcessor, conversations: Sequence[Conversation], length: int
) -> list[Fitted]:
    """All of them.

    Raises:
      DataError: the first that does not fit, and how many others do not.
    """
    fitted, wrong = [], []
    for conversation in conversations:
        try:
            fitted.append(fit_row(processor, conversation, length))
        except DataError as error:
            place = f"{conversation.file} (id {conversation.id!r})"
            wrong.append(error.at(place))
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        first = wrong[0]
        raise DataError(
            first.what, where=first.where, expected=first.expected,
            found=f"{first.found}{others}", remedy=first.remedy,
        ) from first  # fmt: skip
    return fitted
