"""Host patterns: matching label by label, against every near miss of a suffix (ATTACKS 1.10), and their normal form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.policy.address import BadTarget
from proxyd.policy.names import NameTable, normal_pattern

label = st.text(alphabet="ab", min_size=1, max_size=2)
name = st.lists(label, min_size=1, max_size=4).map(".".join)
pattern = st.builds(str.__add__, st.sampled_from(("", "*.")), name)


def naive(pattern: str, host: str) -> bool:
    """The rule said once more, on lists of labels."""
    wanted, asked = pattern.split("."), host.split(".")
    if wanted[0] == "*":
        return len(asked) >= len(wanted) and asked[-len(wanted) + 1 :] == wanted[1:]
    return wanted == asked


@given(st.lists(pattern, max_size=6), name)
def test_every_pattern_that_matches_is_found_the_most_specific_first(patterns: list[str], host: str) -> None:
    found = list(NameTable((each, each) for each in patterns).matches(host))
    assert sorted(found) == sorted(each for each in patterns if naive(each, host))
    assert found == sorted(found, key=lambda each: ("*" in each, -each.count(".")))


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("example.com", "example.com", True),
        ("example.com", "a.example.com", False),
        ("example.com", "evilexample.com", False),
        ("example.com", "example.com.evil.net", False),
        ("example.com", "com", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "b.a.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "evilexample.com", False),
        ("*.example.com", "a.evilexample.com", False),
        ("*.example.com", "example.com.evil.net", False),
        ("*.example.com", "a.example.com.evil.net", False),
        ("*.com", "example.com", True),
        ("*.com", "com", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("::1", "::1", True),
    ],
)
def test_attack_1_10_matching_is_label_by_label(pattern: str, host: str, *, matches: bool) -> None:
    assert list(NameTable([(pattern, "row")]).matches(host)) == ["row"] * matches
    assert NameTable([(pattern, "row")]).first(host) == ("row" if matches else None)


def test_of_equal_patterns_each_is_found_in_the_order_given() -> None:
    rows = [("a.b", 1), ("*.b", 2), ("a.b", 3), ("*.b", 4)]
    assert list(NameTable(rows).matches("a.b")) == [1, 3, 2, 4]


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("example.com", "example.com"),
        ("Example.COM.", "example.com"),
        ("*.Example.com", "*.example.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_a_pattern_has_one_normal_form(written: str, normal: str) -> None:
    assert normal_pattern(written) == normal
    assert normal_pattern(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "*.", "*.*.com", "a.*.com", "a*.com", ".com", "**.com", "* .com", "-a.com"),
        *("*.0.0.1", "*.127.0.0.1", "*.::1", "127.1", "[::1]", "[example.com]", "a:b", "::1%lo", "example.com:443"),
        *("::1/64", "10.0.0.0/8", "::\x00"),
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        normal_pattern(text)
