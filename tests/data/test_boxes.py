"""Boxes in text: GeoChat's and VRSBench's."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import DataError
from rsvlm_jax.data.boxes import Box, parse_box, parse_boxes, write_boxes


def test_the_worked_example():
    box, reason = parse_box("{<40><40><60><60>|<90>}")
    assert (box, reason) == (Box(40, 40, 60, 60, 90), "")
    assert box is not None
    assert box.rectangle(200, 100) == (80, 40, 120, 60)
    corners = box.polygon(200, 100)
    np.testing.assert_allclose(corners, [[110, 30], [110, 70], [90, 70], [90, 30]], atol=1e-9)
    assert str(Box.of_polygon(corners, 200, 100)) == "{<40><40><60><60>|<90>}"


def test_a_polygon_is_that_of_geochats_demonstration():
    """Its four formulas, written out."""
    x1, y1, x2, y2, a = 30.0, 20.0, 90.0, 40.0, math.radians(33)
    x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    wanted = [
        (math.cos(a) * u - math.sin(a) * v + x, math.sin(a) * u + math.cos(a) * v + y)
        for u, v in ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2))
    ]
    np.testing.assert_allclose(Box(x1, y1, x2, y2, 33).polygon(100, 100), wanted, atol=1e-9)


@settings(deadline=None)
@given(
    st.integers(0, 99), st.integers(0, 99), st.integers(1, 100), st.integers(1, 100),
    st.one_of(st.none(), st.integers(-179, 180)),
)  # fmt: skip
def test_what_is_written_is_read(x1: int, y1: int, x2: int, y2: int, angle: int | None):
    box = Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), angle)
    assert parse_box(str(box)) == (box, "")
    if x1 == x2 or y1 == y2:
        return
    again = Box.of_polygon(box.polygon(640, 480), 640, 480)
    np.testing.assert_allclose(again.rectangle(1, 1), box.rectangle(1, 1), atol=1e-6)
    assert abs((again.angle or 0) - (angle or 0)) % 360 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("joint", ["<delim>", "", " "])
def test_phrases_and_several_boxes(joint: str):
    ships, car = ("{<1><2><3><4>|<5>}", "{<6><7><8><9>}"), "{<0><0><1><1>}"
    text = f"<p>two ships</p> {joint.join(ships)} and <p>a car</p> {car}."
    found = parse_boxes(text)
    assert [p.box for p in found] == [Box(1, 2, 3, 4, 5), Box(6, 7, 8, 9), Box(0, 0, 1, 1)]
    assert [p.phrase for p in found] == ["two ships", "two ships", "a car"]
    assert write_boxes([found[0].box, found[1].box], "two ships") == (  # type: ignore[list-item]
        "<p>two ships</p> {<1><2><3><4>|<5>}<delim>{<6><7><8><9>}"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{<1><2><3>|<4>}", "not <x1>.*4 numbers"),  # GeoChat's demonstration reads it as a box
        ("{<1><2><3><4><5>}", "not <x1>.*5 numbers"),
        ("{<a><2><3><4>}", "not <x1>"),
        ("{1, 2, 3, 4}", "not <x1>.*0 numbers"),
        ("{}", "not <x1>"),
        ("{<1><2><3><104>}", "a coordinate outside 0 .. 100"),
        ("{<-1><2><3><4>}", "a coordinate outside 0 .. 100"),
        ("{<5><2><3><4>}", "corners in the wrong order"),
        ("{<1><2><3><4>|<900>}", "an angle beyond a whole turn"),
        ("<1><2><3><4>", "no braces around it"),
        ("{<1><2><3><4>} or so", "no braces around it"),
    ],
)
def test_a_malformed_box_is_none_with_its_reason(text: str, reason: str):
    box, found = parse_box(text)
    assert box is None
    assert re.match(reason, found), found


def test_an_answer_that_is_cut_off_is_a_malformed_box():
    (first, second) = parse_boxes("<p>x</p> {<1><2><3><4>}{<5><6")
    assert first.box is not None
    assert (second.box, second.reason, second.text) == (
        None,
        "a brace that is not closed",
        "{<5><6",
    )


def test_a_text_without_boxes():
    assert parse_boxes("There is none.") == ()


def test_boxes_outside_the_grid_are_not_written():
    with pytest.raises(DataError, match=r"outside 0 .. 100 in write_boxes"):
        write_boxes([Box(0, 0, 101, 1)])
    with pytest.raises(DataError, match=r"no boxes in write_boxes"):
        write_boxes([])


def test_corners_of_no_rectangle_are_refused():
    with pytest.raises(DataError, match=r"not the corners of a rectangle"):
        Box.of_polygon(np.array([[0, 0], [10, 0], [15, 10], [0, 10.0]]), 100, 100)
