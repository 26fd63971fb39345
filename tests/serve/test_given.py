"""What a worker was given is taken up whole, or all of it is closed again (R12)."""

from __future__ import annotations

import os
import ssl
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from netaddr import IPAddress, IPNetwork

from proxyd.audit.sink import FileSink, Sink
from proxyd.policy.address import Endpoint
from proxyd.policy.dns import Server
from proxyd.policy.load import PolicyError
from proxyd.policy.model import Audit
from proxyd.serve import given as given_module
from proxyd.serve.given import Given, open_sink
from tests.serve.handed import files, handover, inode, listener, open_files, text

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = {"do": "prepare", "number": 1, "place": 3}


def logging_to(path: Path) -> str:
    """A policy with its audit log there."""
    return text(f'[audit]\nto = "{path}"\n')


def taken(path: Path, *where: str, audit: Audit | None = None) -> Given:
    """A worker's charge with so many listeners."""
    handed = handover(logging_to(path), *where)
    return Given.take(MESSAGE, files(handed, *(listener() for _ in where)), audit)


def test_everything_that_came_is_taken(tmp_path: Path) -> None:
    """The policy from its bytes, both memories, the listeners in the handover's order, the log opened."""
    before = open_files()
    handed = handover(logging_to(tmp_path / "log"), "a", "b", workers=4)
    sockets = [listener(), listener()]
    names = [sock.getsockname() for sock in sockets]
    came = files(handed, *sockets)
    memories = [inode(number) for number in came[1:3]]
    given = Given.take(MESSAGE, came)
    assert (given.handover, given.policy, given.place) == (handed, handed.policy(), 3)
    assert [inode(given.ledger), inode(given.tally)] == memories
    assert given.described == tuple(f"127.0.0.1:{port}" for _, port in names)
    assert {where: sock.getsockname() for where, sock in given.listeners.items()} == dict(zip("ab", names, strict=True))
    assert isinstance(given.sink, FileSink)
    assert len(open_files()) == len(before) + 5, "two memories, two listeners, the log; the handover is read and closed"
    given.let_go()
    assert open_files() == before


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    """ATTACKS 2.17: where it listens is ours; accounts and resolvers are those that the supervisor found."""
    handed = handover(logging_to(tmp_path / "log"), "a", "b")
    servers = (Server(Endpoint(IPAddress("192.0.2.53"), 53)),)
    handed = replace(handed, accounts={"root": 0}, servers=servers, hosts={"nas.example": ("10.0.0.5", "fd00::5")})
    given = Given.take(MESSAGE, files(handed, listener(), listener()))
    ports = [sock.getsockname()[1] for sock in given.listeners.values()]
    assert [(str(each.address), each.port) for each in given.endpoints] == [("127.0.0.1", port) for port in ports]
    assert given.addresses == {IPNetwork("127.0.0.1/32")}
    assert (given.in_force.policy, given.in_force.accounts) == (given.policy, {"root": 0})
    assert given.in_force.ports == set(ports)
    assert given.routes.servers == servers
    assert given.routes.hosts == {"nas.example": (IPAddress("10.0.0.5"), IPAddress("fd00::5"))}
    given.let_go()


def test_the_log_in_use_is_not_opened_again_where_it_will_do(tmp_path: Path) -> None:
    """A FIFO's reader sees no second writer, and a file no gap."""
    before = open_files()
    same = Audit(to=str(tmp_path / "log"))
    given = taken(tmp_path / "log", "a", audit=same)
    assert given.sink is None
    assert not (tmp_path / "log").exists()
    given.let_go()
    other = taken(tmp_path / "log", "a", audit=Audit(to=str(tmp_path / "before")))
    assert isinstance(other.sink, FileSink)
    other.let_go()
    assert open_files() == before


def test_what_is_shown_to_clients_who_speak_tls_is_loaded_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a listener for them; what cannot be loaded is no policy to serve by (R12)."""
    before = open_files()
    asked: list[tuple[str, str]] = []
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def context(certificate: str, private_key: str) -> ssl.SSLContext:
        asked.append((certificate, private_key))
        if len(asked) > 1:
            raise ssl.SSLError(9, "PEM lib")
        return shown

    monkeypatch.setattr(given_module, "server_context", context)
    plain = taken(tmp_path / "log", "a")
    assert (plain.tls, asked) == (None, [])
    plain.let_go()
    lines = 'https = ["127.0.0.1:1"]\ncertificate = "/c.pem"\nprivate_key = "/k.pem"\n[destinations]'
    handed = handover(logging_to(tmp_path / "log").replace("[destinations]", lines), "tls a")
    handed = replace(handed, certificate="a chain", private_key="a key")
    given = Given.take(MESSAGE, files(handed, listener()))
    assert (given.tls, asked) == (shown, [("a chain", "a key")])  # not what may stand in those files by now
    given.let_go()
    with pytest.raises(OSError, match="PEM lib"):
        Given.take(MESSAGE, files(handed, listener()))
    assert open_files() == before


def _cut_off(came: list[int]) -> list[int]:
    os.ftruncate(came[0], 10)
    return came


def _dropping(*places: int) -> Callable[[list[int]], list[int]]:
    def drop(came: list[int]) -> list[int]:
        for place in places:
            os.close(came[place])
        return [number for place, number in enumerate(came) if place not in places]

    return drop


def _one_more(came: list[int]) -> list[int]:
    return [*came, os.open(os.devnull, os.O_RDONLY)]


@pytest.mark.parametrize(
    ("policy", "spoil", "error", "why"),
    [
        pytest.param("", _cut_off, ValueError, "column", id="handover-cut-off"),
        pytest.param("schema = 1", list, PolicyError, "name", id="policy-is-none"),
        pytest.param(logging_to(Path("/nowhere/log")), list, OSError, "No such file", id="log"),
        pytest.param("", _dropping(4), ValueError, "not all files arrived", id="a-listener-is-missing"),
        pytest.param("", _dropping(3, 4), ValueError, "not all files arrived", id="all-listeners-are-missing"),
        pytest.param("", _dropping(2, 3, 4), ValueError, "not all files arrived", id="a-memory-is-missing"),
        pytest.param("", _dropping(1, 2, 3, 4), ValueError, "not all files arrived", id="all-but-the-handover"),
        pytest.param("", _dropping(0, 1, 2, 3, 4), ValueError, "not all files arrived", id="no-file-arrived"),
        pytest.param("", _one_more, ValueError, "not all files arrived", id="one-too-many"),
    ],
)
def test_r12_what_cannot_be_taken_whole_is_closed_again(
    policy: str, spoil: Callable[[list[int]], list[int]], error: type[Exception], why: str
) -> None:
    """ATTACKS 8: also where this process has as many files open as it may: the kernel leaves the rest out (unix(7))."""
    before = open_files()
    with pytest.raises(error, match=why):
        Given.take(MESSAGE, spoil(files(handover(policy, "a", "b"), listener(), listener())))
    assert open_files() == before


def test_where_records_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To stdout as we were given it, or to a file of their own."""
    with Path(os.devnull).open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        sink = open_sink(Audit())
        assert (type(sink), sink._outlet.fd) == (Sink, stdout.fileno())  # noqa: SLF001 - where it writes to
        sink.close()
        os.fstat(stdout.fileno())
    sink = open_sink(Audit(to=str(tmp_path / "log")))
    assert isinstance(sink, FileSink)
    sink.close()


def test_attack_7_1_every_port_that_the_policy_names_is_our_own(tmp_path: Path) -> None:
    """Also that of the admin listener, of which no worker has a socket: nobody reaches it through the proxy."""
    lines = '[admin]\nlisten = "127.0.0.1:9128"\ntoken_file = "/nowhere/token"\n'
    policy = f"{logging_to(tmp_path / 'log')}{lines}".replace('"127.0.0.1:0"', '"127.0.0.1:0", "[::1]:3128"')
    given = Given.take(MESSAGE, files(handover(policy, "a"), listener()))
    (port,) = (each.port for each in given.endpoints)
    assert given.in_force.ports == {port, 3128, 9128}
    given.let_go()
