"""Pipes on loan: none is lent with an octet in it, none is leaked, and to find none is no error (DESIGN, "Traps")."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from proxyd.net.pipes import MOST, SPARE, Pipe, Pipes
from tests.net.joined import MUCH, End, connected, open_files

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def linked() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The near end of a TCP connection, and the far end."""
    near, far = connected()
    with near, far:
        yield near, far


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    """A free list that is closed in the end."""
    made = Pipes()
    yield made
    made.close()


def test_octets_pass_through_and_are_counted() -> None:
    with linked() as (source, writer), linked() as (sink, reader):
        pipe = Pipe()
        writer.send(b"hello")
        assert (pipe.fill(source.fileno()), pipe.held) == (5, 5)
        assert (pipe.drain(sink.fileno()), pipe.held) == (5, 0)
        assert reader.recv(10) == b"hello"
        pipe.close()


def test_where_nothing_can_be_had_nothing_is_held() -> None:
    """Not yet, because of urgent data, or never again: a pipe cannot tell."""
    with linked() as (source, writer):
        pipe = Pipe()
        assert (pipe.fill(source.fileno()), pipe.held) == (0, 0)
        writer.send(b"!", socket.MSG_OOB)
        writer.send(b"behind it")
        assert (pipe.fill(source.fileno()), pipe.held) == (0, 0)
        assert source.recv(100) == b"behind it"
        writer.shutdown(socket.SHUT_WR)
        assert (pipe.fill(source.fileno()), pipe.held) == (0, 0)
        pipe.close()


def test_a_reset_is_an_error_at_either_end() -> None:
    with linked() as (source, writer), linked() as (sink, reader):
        pipe = Pipe()
        writer.send(b"hello")
        assert pipe.fill(source.fileno()) == 5
        for sock in (writer, reader):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        with pytest.raises(ConnectionResetError):
            pipe.drain(sink.fileno())
        assert pipe.held == 5
        pipe.close()
        pipe = Pipe()
        with pytest.raises(ConnectionResetError):
            pipe.fill(source.fileno())
        assert pipe.held == 0
        pipe.close()


def test_a_sink_without_room_leaves_the_octets_in_the_pipe() -> None:
    with linked() as (source, writer), linked() as (sink, reader):
        pipe = Pipe()
        stuffed = End(sink).stuff(MUCH)
        assert stuffed < MUCH
        writer.send(b"hello")
        assert pipe.fill(source.fileno()) == 5
        with pytest.raises(BlockingIOError):
            pipe.drain(sink.fileno())
        assert pipe.held == 5
        while stuffed:
            stuffed -= len(reader.recv(stuffed))
        assert pipe.drain(sink.fileno()) == 5
        assert reader.recv(10) == b"hello"
        pipe.close()


def test_a_returned_pipe_is_lent_again(pipes: Pipes) -> None:
    first = pipes.borrow()
    assert first is not None
    pipes.give_back(first)
    assert pipes.borrow() is first
    pipes.give_back(first)
    assert pipes.lent == 0


def test_a_pipe_with_an_octet_in_it_is_never_lent_again(pipes: Pipes) -> None:
    """One leaked octet is one tunnel reading another's."""
    with linked() as (source, writer):
        pipe = pipes.borrow()
        assert pipe is not None
        writer.send(b"secret")
        while not pipe.held:
            pipe.fill(source.fileno())
        pipes.give_back(pipe)
        fresh = pipes.borrow()
        assert fresh is not None
        assert fresh is not pipe
        assert fresh.held == 0
        pipes.give_back(fresh)


def test_no_more_are_lent_than_the_account_can_afford(pipes: Pipes) -> None:
    lent = [pipes.borrow() for _ in range(MOST)]
    assert None not in lent
    assert pipes.borrow() is None
    for pipe in lent:
        assert pipe is not None
        pipes.give_back(pipe)
    assert pipes.borrow() is not None
    pipes.lent -= 1


def test_descriptors_come_back(pipes: Pipes) -> None:
    before = open_files()
    for pipe in [pipes.borrow() for _ in range(MOST)]:
        assert pipe is not None
        pipes.give_back(pipe)
    assert open_files() == before + 2 * SPARE
    pipes.close()
    assert open_files() == before


def test_to_have_no_more_files_is_to_have_no_pipe(pipes: Pipes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert pipes.borrow() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert pipes.lent == 0


def test_to_have_no_more_pipe_buffers_is_to_have_no_pipe(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(flags: int) -> tuple[int, int]:
        assert flags == os.O_NONBLOCK | os.O_CLOEXEC
        raise PermissionError

    monkeypatch.setattr(os, "pipe2", refused)
    assert pipes.borrow() is None
    assert pipes.lent == 0


@pytest.mark.parametrize("error", [OSError(errno.ENOSYS, ""), OSError(errno.EPERM, ""), OSError(errno.EINVAL, "")])
def test_where_splice_is_refused_there_are_no_pipes(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """By a seccomp filter, or a kernel that only looks like Linux."""

    def refused(*_: object, **_more: object) -> int:
        raise error

    before = open_files()
    monkeypatch.setattr(os, "splice", refused)
    assert Pipes().borrow() is None
    assert open_files() == before


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOMEM])
def test_what_cannot_be_spliced_now_is_left_to_be_copied(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The connection is as it was: a tunnel that stands is no worse for it (ATTACKS 8)."""

    def refused(*_: object, **_more: object) -> int:
        raise OSError(number, "")

    with linked() as (source, writer):
        pipe = Pipe()
        writer.send(b"hello")
        with monkeypatch.context() as patched:
            patched.setattr(os, "splice", refused)
            assert (pipe.fill(source.fileno()), pipe.held) == (0, 0)
        assert pipe.fill(source.fileno()) == 5
        pipe.close()


def test_where_there_is_no_splice_there_are_no_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "splice")
    assert Pipes().borrow() is None
