"""Text made safe to show (ATTACKS 9): one line, nothing that moves a cursor or turns a direction, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxyd.policy.text import printable


@given(st.text())
def test_whatever_comes_in_one_printable_line_comes_out(text: str) -> None:
    assert printable(text).isprintable()


@given(st.text())
def test_what_is_printable_already_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)


def test_attack_9_escapes_and_bidi_marks_are_spelt_out() -> None:
    assert printable("a\x1b[31m\n\u202eb") == "a\\x1b[31m\\n\\u202eb"
