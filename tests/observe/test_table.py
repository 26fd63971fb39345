"""Tables of the report: safe, and sortable by what a number is."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from proxyd.observe.table import Number, shown, table


def cells(text: str) -> list[list[ET.Element]]:
    """The rows of a table, its head first."""
    return [list(row) for row in ET.fromstring(text).iter("tr")]  # noqa: S314 - our own


def test_numbers_carry_what_they_are_and_a_bar() -> None:
    head, first, second = cells(
        table("t", ("a", "b"), [("x", Number(1500, "1.5 kB", "up")), ("y", Number(3000, "3 kB", "up"))], 1)
    )
    assert [each.attrib.get("aria-sort") for each in head] == [None, "descending"]
    assert [each.attrib.get("data-value") for each in first] == [None, "1500"]
    assert [rect.attrib["width"] for row in (first, second) for rect in row[1].iter("rect")] == ["50", "100"]


def test_a_column_of_noughts_has_no_bars_and_a_plain_number_none_at_all() -> None:
    _, row = cells(table("t", ("a", "b"), [(Number(0, "0", "up"), Number(5, "5"))]))
    assert [[rect.attrib["width"] for rect in cell.iter("rect")] for cell in row] == [["0"], []]


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '" onload="x', "'", "&amp;", "\x1b[2J", "\u202e", "\ud800", "a\nb"]
)
def test_attack_9_whatever_stands_in_a_cell_is_text(text: str) -> None:
    """Escaped for HTML, and what is not printable escaped for the eye."""
    said = shown(text)
    assert not set(said) & set("<>\"'")
    assert said.isprintable()
    document = table(text, (text,), [(text,), (Number(1, text, "up"),)])
    head, first, second = cells(document)
    assert [each.text for each in (head[0], first[0], second[0])].count(head[0].text) == 3
    assert ET.fromstring(document).attrib.keys() == {"class", "role", "tabindex", "aria-label"}  # noqa: S314 - our own
