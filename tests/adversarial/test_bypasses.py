"""The README's transcript: proxyd refuses all eight bypasses (R3, R5), and what it says of Squid is what Squid does."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.adversarial.bypasses import ATTEMPTS, BYPASSES, Bypass, Stage, outcomes, proxyd, stage, transcript
from tests.adversarial.squid import squid
from tests.end_to_end.daemon import read_all
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.daemon import Daemon

DOORS = ("127.0.0.1", "::1")  # one for each of the sockets on which everybody listens

pytestmark = pytest.mark.usefixtures("everywhere")


@pytest.fixture(scope="module")
def around(everywhere: None) -> Iterator[Stage]:  # noqa: ARG001 - it is made in that network
    """The nameserver, and everybody on port 80."""
    with stage() as made:
        yield made


@pytest.fixture(scope="module")
def daemon(around: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """proxyd with its default policy."""
    with proxyd(tmp_path_factory.mktemp("proxyd"), around.nameserver) as started:
        yield started


@pytest.fixture(scope="module")
def by_proxyd(daemon: Daemon) -> dict[str, str]:
    """What proxyd made of every attempt."""
    return outcomes(daemon.connect)


@pytest.fixture(scope="module")
def by_squid(around: Stage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Squid made of every attempt."""
    with squid(tool("squid"), tmp_path_factory.mktemp("squid"), around.nameserver) as connect:
        return outcomes(connect)


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.url)
def test_proxyd_refuses_it_and_says_why(attempt: Bypass, by_proxyd: dict[str, str]) -> None:
    """R5; ATTACKS 2.4, 2.5, 2.7, 2.9, 2.11, 2.12, 3.2, 3.4."""
    assert by_proxyd[attempt.url] == attempt.proxyd


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.url)
def test_what_is_said_of_squid_is_what_it_does(attempt: Bypass, by_squid: dict[str, str]) -> None:
    assert by_squid[attempt.url] == attempt.squid


def test_no_bypass_connects_to_anything(around: Stage, daemon: Daemon) -> None:
    """Refused is not enough: not even a connection is made, as the listener and the records say."""
    arrived, decided = _arrived(around), len(daemon.decisions())
    outcomes(daemon.connect)
    assert _arrived(around) - arrived == len(DOORS) + 1
    verdicts = [(each["host"], each["verdict"]) for each in daemon.decisions()[decided:]]
    assert [host for host, verdict in verdicts if verdict != "deny"] == ["public.test"]
    assert len(verdicts) == len(ATTEMPTS)


def test_there_are_eight_bypasses_and_proxyd_is_to_refuse_them_all() -> None:
    assert len({attempt.name for attempt in BYPASSES}) == 8
    assert all(attempt.proxyd.startswith("403 ") for attempt in BYPASSES)


def test_the_transcript_fits_a_terminal_and_a_readme() -> None:
    lines = transcript(ATTEMPTS)
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 100


def _arrived(around: Stage) -> int:
    """How many connections were accepted, the one that this takes at each door included: none waits behind it."""
    for door in DOORS:
        with socket.create_connection((door, 80)) as knock:
            knock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert read_all(knock).endswith(b"reached " + door.encode())
    return around.everybody.connections
