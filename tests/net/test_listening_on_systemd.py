"""Sockets that the service manager made: ours if made for us, and only those that listen (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net import listening
from proxyd.net.host import KEEPALIVE_IDLE
from proxyd.net.listening import bound_to, inherited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Hand = Callable[..., None]

FIRST: Final = 700
"""Stands for 3: what is there is the test runner's."""
VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hand]:
    """Hands these sockets over, as a service manager does: by number, and in the environment."""
    monkeypatch.setattr(listening, "_FIRST_INHERITED", FIRST)
    handed: list[int] = []

    def over(*sockets: socket.socket, names: str | None = None, pid: str = "", count: str = "") -> None:
        for number, sock in enumerate(sockets, FIRST):
            os.dup2(sock.fileno(), number)
            sock.close()
            handed.append(number)
        monkeypatch.setenv("LISTEN_FDS", count or str(len(sockets)))
        monkeypatch.setenv("LISTEN_PID", pid or str(os.getpid()))
        if names is not None:
            monkeypatch.setenv("LISTEN_FDNAMES", names)

    yield over
    assert not [name for name in VARIABLES if name in os.environ], "whatever was in it, a child must not read it again"
    for number in handed:
        with suppress(OSError):
            os.close(number)


def listener(host: str = "127.0.0.1") -> socket.socket:
    """One that listens."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    sock.listen()
    return sock


def test_what_was_handed_over_is_ours_with_its_name(hand: Hand) -> None:
    one, two = listener(), listener("::1")
    where = [bound_to(one), bound_to(two)]
    hand(one, two, names="http:https")
    found = inherited()
    assert [name for name, _ in found] == ["http", "https"]
    assert [bound_to(sock) for _, sock in found] == where
    for number, (_, sock) in enumerate(found, FIRST):
        with sock:
            assert (sock.fileno(), sock.get_inheritable()) == (number, False)
    assert inherited() == [], "and cannot be taken twice"


@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, ["", ""]), ("", ["", ""]), ("a", ["a", ""]), ("a:", ["a", ""]), ("a:b:c", ["a", "b"])],
)
def test_a_name_that_is_missing_is_none(hand: Hand, names: str | None, expected: list[str]) -> None:
    hand(listener(), listener(), names=names)
    found = inherited()
    for _, sock in found:
        sock.close()
    assert [name for name, _ in found] == expected


def test_a_unix_socket_may_be_handed_over(hand: Hand, tmp_path: Path) -> None:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "proxyd.sock"))
    unix.listen()
    hand(unix)
    ((_, sock),) = inherited()
    with sock:
        assert (sock.family, bound_to(sock)) == (socket.AF_UNIX, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_attack_8_clients_of_a_socket_that_was_handed_over_are_looked_for_like_others(hand: Hand, host: str) -> None:
    """Or those that vanish would stay until they have been idle for an hour."""
    hand(listener(host))
    ((_, sock),) = inherited()
    with sock, socket.create_connection(sock.getsockname()[:2]), sock.accept()[0] as accepted:
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_what_does_not_listen_is_left_alone_and_takes_no_others_name(hand: Hand) -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    sequence, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        hand(datagrams, bound, sequence, listener(), names="dgram:bound:packets:http")
        ((name, sock),) = inherited()
        with sock:
            assert (name, sock.fileno()) == ("http", FIRST + 3)
        for number in range(FIRST, FIRST + 3):
            os.fstat(number)  # still open


def test_a_number_that_is_no_socket_is_left_alone(hand: Hand, tmp_path: Path) -> None:
    """Nor is one that is not even open."""
    hand(listener(), count="3", names="http:file:closed")
    with (tmp_path / "file").open("wb") as file:
        os.dup2(file.fileno(), FIRST + 1)
    try:
        ((name, sock),) = inherited()
        sock.close()
        assert name == "http"
        os.fstat(FIRST + 1)
    finally:
        os.close(FIRST + 1)


@pytest.mark.parametrize(
    ("pid", "count"),
    [("1", "1"), (f"{os.getpid()}0", "1"), (f" {os.getpid()}", "1"), ("", "x"), ("", "-1"), ("", "1.0"), ("", " 1")],
)
def test_r1_what_was_made_for_another_process_or_makes_no_sense_is_not_taken(hand: Hand, pid: str, count: str) -> None:
    """The number may be anything here: to serve on it would be to serve on a socket that nobody meant."""
    hand(listener(), pid=pid, count=count)
    assert inherited() == []
    os.fstat(FIRST)


@pytest.mark.parametrize("missing", ["LISTEN_FDS", "LISTEN_PID"])
def test_half_of_what_must_be_said_is_nothing(hand: Hand, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hand(listener())
    monkeypatch.delenv(missing)
    assert inherited() == []


def test_without_a_service_manager_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert inherited() == []
