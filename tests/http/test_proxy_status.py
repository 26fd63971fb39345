"""Whose refusal it is, as Proxy-Status says (RFC 9209, R11). `test_fields` has what is left of an origin's fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.http.proxy_status import OUR_NAME, has_our_refusal, members_of_others

PARTS = ["proxyd", "PROXYD", '"proxyd"', "; error=x", ";error=y", ", ", ",", '"', "\\", "cdn", '; details="', "a", " "]


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ('proxyd; error=dns_error; details="dns_error"', True),
        ('cdn; error=x,"proxyd" ;error=dns_error', True),
        ("PROXYD;error=x", True),
        ("proxyd", False),
        ("proxyd; details=x", False),
        ("proxyd; xerror=x", False),
        ("cdn; error=x", False),
        ("", False),
        ('cdn; details="a, proxyd; error=x; b"', False),
        ('cdn; details="a\\", proxyd; error=x; b"', False),
        ('proxyd; error=x; details="', False),
    ],
)
def test_r11_our_refusal_is_a_member_of_its_own(value: str, *, ours: bool) -> None:
    """`validate` believes it: what an origin can say in the details of another member is none."""
    assert OUR_NAME == "proxyd"
    assert has_our_refusal(value.encode()) is ours
    assert not has_our_refusal(members_of_others(value.encode()))


@given(st.lists(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), max_size=3))
def test_r11_what_is_left_of_an_origins_fields_is_no_refusal_of_ours(fields: list[str]) -> None:
    """Alone, or as the one list that several fields are (RFC 9110 §5.2)."""
    left = [members for each in fields if (members := members_of_others(each.encode()))]
    assert not has_our_refusal(b", ".join(left))
    assert members_of_others(b", ".join(left)) == b", ".join(left)


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (b"proxyd; error=x, cdn; a=b,, proxyd", b"cdn; a=b"),
        (b'cdn; details="a, proxyd"', b'cdn; details="a, proxyd"'),
        (b'cdn; details="a', b""),
        (b"a" * 2048, b"a" * 2048),
        (b"a" * 2049, b""),
    ],
)
def test_members_of_others_are_left(value: bytes, left: bytes) -> None:
    """A field without end is not worth its time."""
    assert members_of_others(value) == left
