"""What is served: a socket for each worker, and what is closed when another charge takes its place."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from proxyd.audit.sink import FileSink
from proxyd.serve.charge import CannotServe, Charge
from tests.serve.stage import Sockets, charge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Six of them."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.socket()) for _ in range(6)]


def with_pipe(listeners: dict[str, Sockets], pipe: FileSink) -> Charge:
    """A charge whose log is a FIFO."""
    plain = charge(listeners)
    return Charge(plain.policy, plain.handover, plain.listeners, pipe)


def test_each_place_has_a_socket_of_each_listener(sockets: list[socket.socket]) -> None:
    """DESIGN, "Processes": of several each its own; one that all share goes to everybody. In the handover's order."""
    a, b, c, shared = sockets[:4]
    served = charge({"b": (shared,), "a": (a, b, c)})
    assert served.handover.listeners == ("b", "a")
    assert [served.sockets_of(place) for place in range(3)] == [
        [shared.fileno(), own.fileno()] for own in (a, b, c)
    ]  # fmt: skip


def test_a_charge_without_listeners_has_no_sockets() -> None:
    assert charge().sockets_of(0) == []


def test_who_stops_listening_closes_every_socket(sockets: list[socket.socket]) -> None:
    """Of every worker: while one is open anywhere, the kernel lets clients in."""
    a, b, c, d, *others = sockets
    charge({"one": (a, b), "other": (c, d)}).stop_listening()
    assert [sock.fileno() for sock in (a, b, c, d)] == [-1] * 4
    assert all(sock.fileno() >= 0 for sock in others)


def test_what_another_charge_has_too_stays_open(sockets: list[socket.socket]) -> None:
    """By where it listens: a reload takes the sockets over as they are."""
    a, b, c, d, e, f = sockets
    before, after = charge({"kept": (a, b), "gone": (c, d)}), charge({"kept": (a, b), "new": (e, f)})
    before.let_go(after)
    assert [sock.fileno() >= 0 for sock in sockets] == [True, True, False, False, True, True]
    after.let_go(before)
    assert [sock.fileno() >= 0 for sock in sockets] == [True, True, False, False, False, False]
    after.let_go()
    assert [sock.fileno() for sock in sockets] == [-1] * 6


def test_an_address_is_told_as_it_is_by_now_and_a_path_as_it_was_written() -> None:
    """Port 0 is none that anybody could connect to; whether it speaks TLS is told, too."""
    with socket.create_server(("127.0.0.1", 0)) as sock, socket.socket(socket.AF_UNIX) as unix:
        served = charge({"127.0.0.1:0": (sock,), "tls 127.0.0.1:0": (sock,), "unix:/run/x": (unix,)})
        where = f"127.0.0.1:{sock.getsockname()[1]}"
        assert served.described == (where, f"tls {where}", "unix:/run/x")


@pytest.mark.parametrize("tls", ["", "tls "])
def test_the_file_of_a_unix_socket_goes_with_it_and_no_other_file_does(tmp_path: Path, tls: str) -> None:
    """Once it is closed, another proxyd may have made its own there."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as anothers:
        sock.bind(str(path))
        served = charge({f"{tls}unix:{path}": (sock,)})
        served.stop_listening(served)
        assert (path.is_socket(), sock.fileno() >= 0) == (True, True)
        served.stop_listening()
        assert (path.exists(), sock.fileno()) == (False, -1)
        anothers.bind(str(path))
        served.let_go()
        assert path.is_socket()


def test_a_unix_socket_whose_file_is_gone_is_closed_all_the_same(tmp_path: Path) -> None:
    """Somebody tidied up."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.unlink()
        charge({f"unix:{path}": (sock,)}).let_go()
        assert sock.fileno() == -1


def test_to_let_go_twice_closes_nobody_elses_socket(sockets: list[socket.socket]) -> None:
    """The numbers are others' by then."""
    served = charge({"one": (sockets[0],)})
    number = sockets[0].fileno()
    served.let_go()
    os.dup2(sockets[1].fileno(), number)
    served.let_go()
    os.close(number)


def test_the_logs_fifo_is_closed_unless_the_other_charge_has_the_very_same(tmp_path: Path) -> None:
    """Its reader waits for as long as somebody has it open to write."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    first, second = FileSink(str(fifo)), FileSink(str(fifo))
    one, same, other = with_pipe({}, first), with_pipe({}, first), with_pipe({}, second)
    for kept in (same, one):
        one.let_go(kept)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    one.let_go(other)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    other.let_go(charge())
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_who_cannot_serve_says_why_line_by_line() -> None:
    """And with which exit status, should that be the start."""
    reason = CannotServe("one thing", "another", status=78)
    assert (reason.problems, reason.status, str(reason)) == (("one thing", "another"), 78, "one thing\nanother")
