"""No reader of ours: a bug for tests of the fuzzer, which nobody finds by luck and whoever is guided finds soon."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from tests.fuzz.target import Target

BUG: Final = b"bug!"


def _attempt(data: bytes) -> str:
    known = 0
    for octet, of_bug in zip(data, BUG, strict=False):
        if octet != of_bug:
            break
        known += 1
    assert known < len(BUG), "planted"
    return "near" if known else "far"


TARGET: Final = Target(
    attempt=_attempt, about=(__name__,), seeds={"none": b"...."}, inputs=st.binary(), outcomes=frozenset({"far"})
)
