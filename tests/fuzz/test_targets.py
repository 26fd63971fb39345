"""Each target: its seeds reach all that can come of an input, what is made keeps the invariant, nothing stays."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.target import NAMES, target

if TYPE_CHECKING:
    from tests.fuzz.target import Target

ROOM: Final = 200_000  # octets: what caches inside the interpreter may take between two turns
TURNS: Final = 5

every_target = pytest.mark.parametrize("name", NAMES)


@every_target
def test_the_seeds_keep_the_invariant_and_reach_every_outcome(name: str) -> None:
    fuzzed = target(name)
    assert {fuzzed.attempt(seed) for seed in fuzzed.seeds.values()} == fuzzed.outcomes


@every_target
def test_what_has_the_shape_of_an_input_keeps_the_invariant(name: str, long: bool, figures: dict[str, str]) -> None:  # noqa: FBT001 - a fixture
    """As it is made, and with pieces taken out, doubled and overwritten."""
    fuzzed = target(name)
    came = Counter[str]()

    @settings(max_examples=5000 if long else 150, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(fuzzed.inputs, _mutated(fuzzed)))
    def keeps_it(data: bytes) -> None:
        came[fuzzed.attempt(data[: fuzzed.longest])] += 1

    keeps_it()
    assert came.keys() <= fuzzed.outcomes
    assert len(came) > 1, "all inputs come to the same"
    figures[f"properties of {name}"] = ", ".join(f"{word} {count}" for word, count in came.most_common())


@every_target
def test_memory_is_back_to_the_baseline(name: str) -> None:
    """Whatever was read, nothing of it is kept."""
    fuzzed = target(name)
    taken = []
    tracemalloc.start()
    try:
        for _ in range(TURNS):
            for seed in fuzzed.seeds.values():
                fuzzed.attempt(seed)
            gc.collect()
            taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert taken[-1] - taken[1] < ROOM, taken


def _mutated(fuzzed: Target) -> st.SearchStrategy[bytes]:
    """A seed, or two of them spliced, with some octets in the place of others."""

    def change(one: bytes, other: bytes, at: int, end: int, between: bytes) -> bytes:
        at, end = at % (len(one) + 1), end % (len(other) + 1)
        return one[:at] + between + other[end:]

    seeds = st.sampled_from(list(fuzzed.seeds.values()))
    words = st.one_of(st.binary(max_size=4), st.sampled_from([*fuzzed.words, b""]))
    return st.builds(change, seeds, seeds, st.integers(0, 5000), st.integers(0, 5000), words)
