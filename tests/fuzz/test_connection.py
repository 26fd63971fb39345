"""The scripts of `connection`: each comes to what its name says, and books that do not balance are seen (R7)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from proxyd.audit.render import json_line
from tests.fuzz.books import Heard, balance
from tests.fuzz.conversations import LEFT, REFUSED, SEEDS, SERVED, TUNNELS
from tests.fuzz.playing import played
from tests.fuzz.scripts import Script
from tests.fuzz.targets.connection import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable

Books = tuple[Heard, list[dict[str, Any]]]

SPECIAL: Final = {
    "answered_here": ("OPTIONS that is answered here",),
    "aborted": ("HTTP/1.0, and it is torn", "HTTP/1.0, and it is torn in chunks", "origin stalls in the middle"),
    "closed": ("TLS", "TLS of the right name", "WebSocket"),
    "complete": (
        "WebSocket that is not to be",
        "full disk, for a while",
        "the end is announced",
        "the end is announced before",
    ),
    "idle": ("HTTP/1.0 CONNECT", "a client that never reads"),
    "reset": ("spoken to first", "WebSocket, early"),
    "revoked": ("a tunnel that is cut", "a tunnel too late", "cut before the answer"),
    "tls_name": ("TLS of another name", "no TLS", "no TLS in time"),
    "nothing asked": ("nothing is said", "nothing but an empty line"),
    "head_timeout": ("half a head", "empty lines, which were taken for the end of a head"),
    "address_denied": (
        *("private address", "a name that is private", "a name that is private, uniformly", "mixed answer"),
    ),
    "address_locked": ("metadata address", "metadata behind a name"),
    "name_locked": ("metadata name", "metadata in the chain"),
    "name_denied": ("denied name",),
    "name_reserved": ("reserved name",),
    "not_allowlisted": ("not on the list",),
    "port_denied": ("port",),
    "credential_required": ("credential of another",),
    "malformed_request": ("no head", "bare LF", "two lengths", "half a head, and the end", "a body that is none"),
    "malformed_target": ("origin-form",),
    "head_too_large": ("too many fields",),
    "method_refused": ("TRACE",),
    "expectation_failed": ("expectation",),
    "version_unsupported": ("version",),
    "coding_unsupported": ("coding",),
    "loop_detected": ("loop",),
    "body_timeout": ("half a body",),
    "rate_limit": ("too fast",),
    "concurrency_limit": ("too many",),
    "overloaded": ("busy",),
    "connection_limit": ("one connection too many",),
    "audit_unwritable": ("full disk",),
    "dns_error": ("no name",),
    "dns_timeout": ("no nameserver", "slow nameserver"),
    "connect_timeout": ("slow origin",),
    "origin_closed": ("origin ends", "origin resets"),
    "origin_timeout": ("origin stalls", "origin does not read"),
    "origin_malformed": (
        *("origin garbage", "origin asks for our credential", "origin switches unasked"),
        "origin switches to another protocol",
    ),
}
EXPECTED: Final = (
    dict.fromkeys(SERVED, "complete")
    | dict.fromkeys(LEFT, "client_gone")
    | {name: name.removeprefix("dialling: ").replace(" ", "_") for name in REFUSED}
    | {name: word for word, names in SPECIAL.items() for name in names}
)
DIALS: Final = {
    "kept": (3, 2),
    "kept, and asked again": (2, 2),
    "kept, and the origin said too much": (2, 2),
    "kept, and the origin says more": (2, 2),
    "kept for another host": (3, 3),
    "pipelined": (3, 2),
    "origin ends": (1, 1),
    "cut before the answer": (1, 1),
    "credential": (2, 1),
    "a tunnel too late": (1, 1),
    "mixed answer": (1, 0),
}
"""How many requests there are, and how many connections to origins."""


def test_there_is_a_word_for_each_script() -> None:
    assert EXPECTED.keys() == (SERVED | TUNNELS | REFUSED | LEFT).keys() == SEEDS.keys()
    assert len(SEEDS) == sum(map(len, (SERVED, TUNNELS, REFUSED, LEFT))), "two bear one name"


@pytest.mark.parametrize("name", SEEDS)
def test_each_script_comes_to_what_its_name_says(name: str) -> None:
    assert TARGET.attempt(SEEDS[name]) == EXPECTED[name]


@pytest.mark.parametrize("name", DIALS)
def test_origins_are_dialled_as_often_as_needs_be(name: str) -> None:
    """ATTACKS 3.12, 4.10."""
    playing = played(Script.read(SEEDS[name]))
    assert (len(playing.world.attempted) // 2, len(playing.lines)) == DIALS[name]


def test_a_script_reads_as_it_is_written_and_anything_reads_as_a_script() -> None:
    for seed in SEEDS.values():
        assert Script.read(seed).written() == seed
        for step in Script.read(seed).steps:
            assert b"".join(step.pieces()) == step.octets
    for octets in (b"", b"\0", bytes(range(256)) * 3):
        assert TARGET.attempt(octets) in ("nothing asked", "connection_limit")


def books(name: str) -> Books:
    """What a client heard, and the closing records of its requests."""
    playing = played(Script.read(SEEDS[name]))
    heard = Heard(bytes(playing.client.heard), playing.whole, playing.client.abortive)
    return heard, [json.loads(json_line(closing)) for _, closing in playing.world.trail()]


WRONG: Final[dict[str, Callable[[Heard, list[dict[str, Any]]], Books]]] = {
    "an octet less": lambda heard, closings: (replace(heard, octets=heard.octets[:-1]), closings),
    "an octet more": lambda heard, closings: (replace(heard, octets=heard.octets + b"x"), closings),
    "an answer more": lambda heard, closings: (replace(heard, octets=heard.octets + heard.octets), closings),
    "no answer": lambda heard, closings: (replace(heard, octets=b""), closings),
    "a line of another's": lambda heard, closings: (
        replace(heard, octets=heard.octets.replace(b"\r\n", b"\r\nX:y\r\n", 1)),
        closings,
    ),
    "a request less": lambda heard, closings: (heard, closings[1:]),
    "a request more": lambda heard, closings: (heard, closings * 2),
    "another status": lambda heard, closings: (heard, [{**each, "status": 299} for each in closings]),
    "broken off": lambda heard, closings: (heard, [{**each, "outcome": "aborted"} for each in closings]),
    "a tunnel": lambda heard, closings: (heard, [{**each, "outcome": "closed"} for each in closings]),
}


@pytest.mark.parametrize("name", ["GET", "HTTP/1.0", "pipelined", "private address", "credential"])
@pytest.mark.parametrize("wrong", WRONG)
def test_books_that_do_not_balance_are_seen(name: str, wrong: str) -> None:
    heard, closings = books(name)
    balance(heard, closings, ())
    with pytest.raises(AssertionError):
        balance(*WRONG[wrong](heard, closings), secrets=())


@pytest.mark.parametrize("field", ["reason", "id", "rule"])
def test_a_refusal_that_says_something_else_is_seen(field: str) -> None:
    heard, closings = books("private address")
    with pytest.raises(AssertionError):
        balance(heard, [{**each, field: "other"} for each in closings], ())
    with pytest.raises(AssertionError, match="it is told"):
        balance(heard, closings, (b"decision",))
