"""What is fuzzed: a reader of strangers' octets, the invariant it must keep, and where to begin.

Nothing of proxyd is imported here: whoever measures coverage starts to before it loads a target.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hypothesis.strategies import SearchStrategy

NAMES: Final = (
    "client_hello",
    "connection",
    "admin_request",
    "audit_log",
    "control_order",
    "dns_answers",
    "policy",
    "request_target",
    "request_head",
    "response_head",
    "credential",
)
"""All of them, as modules of `tests.fuzz.targets`."""


@dataclass(frozen=True)
class Target:
    """attempt: hands octets to a reader, holds the invariant, and says in a word or two what came of them.

    about: the modules that read them. seeds: what is valid, and what once broke something. inputs: octets that have the
    shape of what is meant. outcomes: the words that a run has to reach. longest: input, in octets. words: that
    mutation should know.
    """

    attempt: Callable[[bytes], str]
    about: tuple[str, ...]
    seeds: Mapping[str, bytes]
    inputs: SearchStrategy[bytes]
    outcomes: frozenset[str]
    longest: int = 4096
    words: tuple[bytes, ...] = ()


def target(name: str) -> Target:
    """The target of that name."""
    found: Target = import_module(f"tests.fuzz.targets.{name}").TARGET
    return found
