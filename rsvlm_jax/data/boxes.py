"""Boxes as GeoChat and VRSBench write them in text, read and written.

    {<x1><y1><x2><y2>|<theta>}     GeoChat: whole numbers, 0 .. 100 of width and height, and degrees
    {<x1><y1><x2><y2>}             VRSBench, and angle 0
    <p>a ship</p> {...}<delim>{...}   a phrase and its boxes; also {...}{...} or {...} {...}

(x1, y1, x2, y2) is the rectangle before it is turned; theta turns its corners about its centre,
clockwise as one sees it (y points down), in pixels: the rectangle is scaled to the image first.
That is what GeoChat's demonstration draws; its paper leaves the sense of the angle unsaid. Worked
through, in an image 200 wide and 100 high::

    {<40><40><60><60>|<90>}      pixels x 80 .. 120, y 40 .. 60, centre (100, 50), 40 x 20
    corners, turned by 90        (110, 30) (110, 70) (90, 70) (90, 30)

and back: `Box.of_polygon` gives the same text. What is malformed is None, with the reason; nothing
is repaired silently, for a score must know what a model wrote.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.core.shapes import Float

GRID = 100
"""Steps of a coordinate across the image."""

Number = int | float

_BRACED = re.compile(r"\{[^{}]*\}")
_NUMBER = r"<\s*(-?\d+(?:\.\d+)?)\s*>"
_BOX = re.compile(r"\{\s*" + r"\s*".join([_NUMBER] * 4) + r"\s*(?:\|\s*" + _NUMBER + r")?\s*\}")
_PHRASE = re.compile(r"<p>(.*?)</p>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Box:
    """One box on the grid; see the module for what its numbers mean.

    Attributes:
      x1, y1, x2, y2: 0 .. 100, x1 <= x2 and y1 <= y2.
      angle: degrees; None for a box without one.
    """

    x1: Number
    y1: Number
    x2: Number
    y2: Number
    angle: Number | None = None

    def __str__(self) -> str:
        corners = "".join(f"<{round(v)}>" for v in (self.x1, self.y1, self.x2, self.y2))
        return "{" + corners + ("}" if self.angle is None else f"|<{round(self.angle)}>}}")

    def rectangle(self, width: int, height: int) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels, not turned."""
        sx, sy = width / GRID, height / GRID
        return self.x1 * sx, self.y1 * sy, self.x2 * sx, self.y2 * sy

    def polygon(self, width: int, height: int) -> Float[np.ndarray, "4 2"]:
        """Corners (x, y) in pixels, from the one that was at the top left on, clockwise."""
        x1, y1, x2, y2 = self.rectangle(width, height)
        centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) - centre
        a = math.radians(self.angle or 0.0)
        turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        return corners @ turn.T + centre

    @classmethod
    def of_polygon(cls, corners: Float[np.ndarray, "4 2"], width: int, height: int) -> Box:
        """The box whose `polygon` these corners are: top left before it was turned, clockwise.

        Raises:
          DataError: corners of no rectangle (a side that is not at a right angle to the next, by
            more than a pixel), or of one beyond the image before it is turned.
        """
        along, down = corners[1] - corners[0], corners[3] - corners[0]
        w, h = float(np.hypot(*along)), float(np.hypot(*down))
        off = float(np.abs(corners[2] - (corners[1] + down)).max())
        if off > 1 or (w and h and abs(float(along @ down)) / max(w, h) > 1) or not w * h:
            raise DataError(
                "not the corners of a rectangle", where="Box.of_polygon", found=corners.tolist()
            )
        x, y = (float(v) for v in corners.mean(axis=0))
        angle = math.degrees(math.atan2(along[1], along[0]))
        sx, sy = GRID / width, GRID / height
        x1, x2 = (_on_grid((x + side) * sx) for side in (-w / 2, w / 2))
        y1, y2 = (_on_grid((y + side) * sy) for side in (-h / 2, h / 2))
        if reason := _problem(x1, y1, x2, y2, angle):
            raise DataError(reason, where="Box.of_polygon", found=(x1, y1, x2, y2))
        return cls(x1, y1, x2, y2, angle)


def _on_grid(value: float) -> float:
    """An edge of the image is on the grid, whatever rounding says."""
    return min(max(value, 0.0), float(GRID)) if -1e-9 < value < GRID + 1e-9 else value


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What a text says of boxes.

    Attributes:
      box: None where it is malformed.
      phrase: the last `<p>...</p>` before it; None: none.
      reason: why there is no box; "" where there is.
      text: as it was written.
    """

    box: Box | None
    phrase: str | None
    reason: str
    text: str


def parse_box(text: str) -> tuple[Box | None, str]:
    """One box: what stands between braces, and nothing else.

    Returns:
      the box and "", or None and the reason.
    """
    found = _BOX.fullmatch(text.strip())
    if not found:
        numbers = len(re.findall(_NUMBER, text))
        if text.strip()[:1] != "{" or text.strip()[-1:] != "}":
            return None, "no braces around it"
        return None, f"not <x1><y1><x2><y2> with or without |<theta> ({numbers} numbers)"
    *values, angle = (None if v is None else float(v) for v in found.groups())
    x1, y1, x2, y2 = (float(v) for v in values if v is not None)
    if reason := _problem(x1, y1, x2, y2, angle):
        return None, reason
    return Box(x1, y1, x2, y2, angle), ""


def parse_boxes(text: str) -> tuple[Parsed, ...]:
    """All boxes of an answer, in order, those that are malformed too; () for a text without any.

    An open brace that is never closed is one malformed box: an answer that was cut off.
    """
    phrases = [(m.end(), m[1].strip()) for m in _PHRASE.finditer(text)]
    found: list[Parsed] = []
    end = 0
    for braced in _BRACED.finditer(text):
        box, reason = parse_box(braced[0])
        found.append(Parsed(box, _before(phrases, braced.start()), reason, braced[0]))
        end = braced.end()
    if (at := text.find("{", end)) >= 0:
        found.append(Parsed(None, _before(phrases, at), "a brace that is not closed", text[at:]))
    return tuple(found)


def write_boxes(boxes: Sequence[Box], phrase: str | None = None) -> str:
    """`<p>phrase</p> {...}<delim>{...}`, as GeoChat was trained to answer.

    Raises:
      DataError: no boxes, or one outside the grid.
    """
    for box in boxes:
        if reason := _problem(box.x1, box.y1, box.x2, box.y2, box.angle):
            raise DataError(reason, where="write_boxes", found=box)
    if not boxes:
        raise DataError("no boxes", where="write_boxes", expected="one or more")
    said = "<delim>".join(map(str, boxes))
    return said if phrase is None else f"<p>{phrase}</p> {said}"


def _problem(x1: Number, y1: Number, x2: Number, y2: Number, angle: Number | None) -> str:
    if not all(0 <= v <= GRID for v in (x1, y1, x2, y2)):
        return f"a coordinate outside 0 .. {GRID}"
    if x1 > x2 or y1 > y2:
        return "corners in the wrong order"
    if angle is not None and not -360 <= angle <= 360:
        return "an angle beyond a whole turn"
    return ""


def _before(phrases: Sequence[tuple[int, str]], at: int) -> str | None:
    return next((words for end, words in reversed(phrases) if end <= at), None)
