"""The drawings: shapes that say what the numbers say, and can be told without seeing colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from proxyd.observe.plot import LANE, Lane, bar, over_time


def drawn(text: str) -> ET.Element:
    """The drawing, which is well-formed."""
    return ET.fromstring(text)  # noqa: S314 - our own


def heights(path: str) -> list[float]:
    """How far above its ground each bar of a lane ends."""
    ground, *tops = (float(each) for each in re.findall(r"(?:M0 |V)([0-9.]+)", path))
    return [ground - top for top in tops[:-1]]


def test_each_lane_has_its_own_scale_and_place() -> None:
    svg = drawn(over_time("name", [Lane("a", [0, 5, 10]), Lane("b", [0.5, 0, 0])], ["x", "y", "z"]))
    assert svg.attrib["viewBox"] == f"0 0 30 {2 * LANE}"
    first, second = (path.attrib["d"] for path in svg.iter("path") if path.attrib["class"] in "ab")
    assert heights(first) == [0, 44, 88]
    assert heights(second) == [88, 0, 0]
    assert second.startswith(f"M0 {2 * LANE}V")


def test_one_among_a_million_is_seen() -> None:
    svg = drawn(over_time("name", [Lane("a", [1, 10**6])], ["", ""]))
    (path,) = (path.attrib["d"] for path in svg.iter("path") if path.attrib["class"] == "a")
    assert heights(path) == [3, 88]
    assert 'width="3"' in bar(1e-6, "a")


def test_it_is_told_without_colours() -> None:
    """A name for the whole, and a title for each step: for those who hear a page, or see no red."""
    svg = drawn(over_time("what <it> is", [Lane("a", [1, 2])], ["one & 1", '<b>"two"']))
    assert (svg.attrib["role"], svg.attrib["aria-label"]) == ("img", "what <it> is")
    assert [title.text for title in svg.iter("title")] == ["one & 1", '<b>"two"']
    assert {rect.attrib["height"] for rect in svg.iter("rect")} == {str(LANE)}


def test_marks_stand_in_the_middle_of_their_steps_once() -> None:
    svg = drawn(over_time("name", [Lane("a", [1, 2, 3])], ["", "", ""], [2, 0, 2]))
    assert [path.attrib["d"] for path in svg.iter("path") if path.attrib["class"] == "mark"] == [
        "M5 0V100",
        "M25 0V100",
    ]


@pytest.mark.parametrize(("part", "width"), [(0, "0"), (0.25, "25"), (1, "100"), (1 / 3, "33.33")])
def test_bars(part: float, width: str) -> None:
    svg = drawn(bar(part, "deny"))
    assert svg.attrib["aria-hidden"] == "true", "its number stands beside it"
    assert [(rect.attrib["width"], rect.attrib["class"]) for rect in svg] == [(width, "deny")]


def test_nothing_to_draw_is_drawn_as_nothing() -> None:
    assert drawn(over_time("name", [Lane("a", [])], [])).attrib["viewBox"] == "0 0 0 100"
