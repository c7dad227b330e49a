"""Questions that the model is trained on: about the target, and about other things.

A question about the target is answered "The {name} is <reg>." and the number comes from the head;
any other question is answered without `<reg>`, from what the cube itself says (sensor, dates,
pixel size) or by admitting that a picture cannot tell. So the decoder learns *when* to give a
number. The words are plain because the shipped decoder knows 512 tokens and children's stories.

Not here: token layout and loss weights (`processor`), and knowledge about the place.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from . import chance
from .tokenizer import REG

TARGET = (
    "What is the {name}?",
    "What is the {name} here?",
    "What is the {name} in this image?",
    "What is the {name} of this place?",
    "How much {name} is there?",
    "How much {name} is here?",
    "How much {name} do you see?",
    "How much {name} does this place have?",
    "How big is the {name}?",
    "How high is the {name}?",
    "Tell me the {name}.",
    "Tell me how much {name} you see.",
    "Please tell me the {name} here.",
    "Give me the {name}.",
    "Find the {name}.",
    "Find the {name} of this place.",
    "Can you tell me the {name}?",
    "Can you find the {name} here?",
    "Do you know the {name}?",
    "Do you see how much {name} is here?",
    "I want to know the {name}.",
    "Look and tell me the {name}.",
    "Look at the image. What is the {name}?",
)
"""Training questions about the target."""

HELD_OUT = (
    "Could you say how much {name} you see?",
    "Please give the {name} of this image.",
    "I would like to know the {name} here.",
    "What is the {name} in the picture?",
    "How large is the {name} of this place?",
    "Say the {name}, please.",
)
"""Other wordings, never trained on: what a test of generalisation asks."""

UNKNOWN = (
    "How many people live here?",
    "Who lives here?",
    "Who owns this land?",
    "What is the name of this place?",
    "What is the name of the big dog?",
    "What color is the house?",
    "How old is the big tree?",
    "What animals play here?",
    "What is the boy doing?",
    "Is the girl happy?",
    "What will be here next year?",
    "How many birds do you see?",
    "How many boys are here?",
    "Tell me how many balls you see.",
    "Can you tell me how many trucks there are?",
)
"""What no picture of this kind tells."""

UNKNOWN_HELD_OUT = (
    "Who built the little house?",
    "How many dogs live here?",
    "What is the girl doing?",
    "How many cats do you see?",
    "Could you say how much cake you see?",
)
"""Other questions of that kind, never trained on."""

NOT_THE_TARGET = (
    *("water", "snow", "bread", "milk", "music", "noise", "money", "rain", "wind", "food"),
    *("joy", "honey"),
)
"""Put into the wordings of `TARGET` in turn, they get no number: else the decoder learns
the wordings and not what is asked for."""

ANSWER = f"The {{name}} is {REG}."
REFUSAL = "I can not tell that from this image."

_WORDS = (
    *("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten"),
    *("Eleven", "Twelve", "Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen"),
    *("Eighteen", "Nineteen", "Twenty"),
)


class QA(NamedTuple):
    """A question and its answer; `<reg>` in the answer stands for the number."""

    question: str
    answer: str

    @property
    def about_target(self) -> bool:
        return REG in self.answer


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a cube says about itself; a fact that is None is not asked about.

    Attributes:
      sensors: names of the imaging sensors, e.g. ("Sentinel-2",).
      optical, radar: whether such a band set is among the inputs.
      dates, bands: of the first imaging band set.
      gsd: metres a pixel.
      window: pixels along an edge of a sample.
    """

    sensors: tuple[str, ...] = ()
    optical: bool | None = None
    radar: bool | None = None
    dates: int | None = None
    bands: int | None = None
    gsd: float | None = None
    window: int | None = None


@dataclasses.dataclass(frozen=True)
class Questions:
    """All pairs for one target and one cube, and a reproducible draw from them.

    Attributes:
      name: the target in words ("tree cover").
      facts: of the cube.
      share: part of the draws that ask about the target.
    """

    name: str
    facts: Facts = Facts()
    share: float = 0.6

    @functools.cached_property
    def target(self) -> tuple[QA, ...]:
        return tuple(QA(q.format(name=self.name), self.target_answer) for q in TARGET)

    @functools.cached_property
    def held_out(self) -> tuple[QA, ...]:
        return tuple(QA(q.format(name=self.name), self.target_answer) for q in HELD_OUT)

    @functools.cached_property
    def other(self) -> tuple[QA, ...]:
        n = len(NOT_THE_TARGET)
        like = (q.format(name=NOT_THE_TARGET[i % n]) for i, q in enumerate(TARGET))
        return (*_about(self.facts), *(QA(q, REFUSAL) for q in (*like, *UNKNOWN)))

    @functools.cached_property
    def held_out_other(self) -> tuple[QA, ...]:
        return tuple(QA(q, REFUSAL) for q in UNKNOWN_HELD_OUT)

    @property
    def target_answer(self) -> str:
        return ANSWER.format(name=self.name)

    @property
    def pairs(self) -> tuple[QA, ...]:
        """Those about the target, then the others: what `draw` returns rows of."""
        return (*self.target, *self.other)

    def draw(self, seed: int, first: int, count: int = 1) -> np.ndarray:
        """Rows of `pairs` (i64 [count]) for the sample positions `first .. first + count - 1`."""
        u = chance.uniforms(seed, chance.QUESTION, first, count)
        mine = (u[:, 1] * len(self.target)).astype(np.int64)
        other = len(self.target) + (u[:, 2] * len(self.other)).astype(np.int64)
        return np.where(u[:, 0] < self.share, mine, other)


def number_word(n: int) -> str:
    """ "Five" for 5, digits above twenty."""
    return _WORDS[n] if 0 <= n < len(_WORDS) else str(n)


def _about(facts: Facts) -> list[QA]:
    pairs = []
    if facts.sensors:
        made = " and ".join(facts.sensors) + "."
        pairs += [QA("What sensor took this image?", made), QA("What sensor is this?", made)]
    if facts.optical is not None:
        pairs.append(QA("Is this an image in colors of light?", _yes(facts.optical)))
    if facts.radar is not None:
        pairs.append(QA("Is this a radar image?", _yes(facts.radar)))
    if facts.dates is not None:
        n = facts.dates
        pairs += [
            QA("How many dates are shown?", number_word(n) + "."),
            QA("Is this one date or many dates?", "One date." if n == 1 else "Many dates."),
        ]
    if facts.bands is not None:
        pairs.append(QA("How many bands are there?", number_word(facts.bands) + "."))
    if facts.gsd is not None:
        size = f"{round(facts.gsd, 1):g} meters."
        pairs += [
            QA("What is the ground sampling distance?", size),
            QA("How big is one pixel?", size),
        ]
    if facts.window is not None:
        pairs.append(QA("How many pixels wide is this?", number_word(facts.window) + "."))
    return pairs


def _yes(value: bool) -> str:
    return "Yes." if value else "No."
