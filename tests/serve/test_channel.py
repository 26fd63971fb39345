"""Messages between the supervisor and a worker: whole, with their files, up to the end. Over a real socket pair."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from proxyd.serve.channel import MAX_FILES, MAX_OCTETS, Channel
from tests.serve.stage import open_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.serve.channel import Message

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends; a test that waited for ever would fail."""
    ours, theirs = Channel.pair()
    for end in (ours, theirs):
        end.socket.settimeout(20)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"do": "serve", "place": 3, "number": 7},
        {"cannot": "söme\n\x1b\u202e\ud800", "revoked": 0, "ready": True, "nothing": None},
        {"cannot": "x" * (MAX_OCTETS - len('{"cannot": ""}'))},
    ],
)
def test_what_is_sent_is_received_and_both_ways(pair: Pair, message: Message) -> None:
    """Up to the longest message there may be."""
    for here, there in (pair, pair[::-1]):
        here.send(message)
        assert there.receive() == (message, [])


def test_each_message_comes_for_itself(pair: Pair) -> None:
    """However many wait: two are never read as one, nor one as two."""
    ours, theirs = pair
    for number in range(50):
        ours.send({"number": number})
    assert [theirs.receive() for _ in range(50)] == [({"number": number}, []) for number in range(50)]


@pytest.mark.parametrize("count", [1, 3, MAX_FILES])
def test_files_come_with_their_message_in_their_order(pair: Pair, count: int) -> None:
    """They are other numbers of the same files, ours stay open, and none outlives an exec by accident (R7)."""
    ours, theirs = pair
    files = [os.memfd_create("file") for _ in range(count)]
    ours.send({"do": "serve"}, files)
    ours.send({"do": "next"})
    received = theirs.receive()
    assert received is not None
    message, arrived = received
    assert message == {"do": "serve"}
    assert [os.fstat(fd).st_ino for fd in arrived] == [os.fstat(fd).st_ino for fd in files]
    assert not set(arrived) & set(files)
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in arrived)
    assert theirs.receive() == ({"do": "next"}, [])
    for fd in (*files, *arrived):
        os.close(fd)


def test_more_files_than_the_kernel_takes_are_an_error_and_nothing_is_sent(pair: Pair) -> None:
    """Half of the listeners would be worse than none."""
    ours, theirs = pair
    with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
        ours.send({"do": "serve"}, [0] * 254)
    assert refused.value.errno == errno.EINVAL
    ours.send({"do": "next"})
    assert theirs.receive() == ({"do": "next"}, [])


def test_the_end_of_one_end_is_heard_at_the_other_behind_what_was_said(pair: Pair) -> None:
    """A supervisor that was killed, or a worker that died: what it said last counts."""
    ours, theirs = pair
    ours.send({"do": "serve"})
    ours.close()
    assert theirs.receive() == ({"do": "serve"}, [])
    assert theirs.receive() is None
    assert theirs.receive() is None
    with pytest.raises(BrokenPipeError):
        theirs.send({})


def test_what_is_no_message_is_a_value_error(pair: Pair) -> None:
    """Also what was cut off because it was too long; it is never half of a message."""
    ours, theirs = pair
    for octets in (b"{", b"\xff\xfe", json.dumps({"cannot": "x" * MAX_OCTETS}).encode()):
        ours.socket.send(octets)
        with pytest.raises(ValueError):  # noqa: PT011 - of which kind is JSON's own matter
            theirs.receive()
    ours.send({"number": 1})
    assert theirs.receive() == ({"number": 1}, [])


def test_who_has_no_patience_hears_nothing(pair: Pair) -> None:
    """The caller's time limit is an OSError, as every other failure is."""
    theirs = pair[1]
    theirs.socket.settimeout(0)
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the time limit
        theirs.receive()


def test_a_pair_is_two_files_and_closed_it_is_none() -> None:
    """Workers come and go for years; and no exec inherits an end."""
    before = open_files()
    ends = Channel.pair()
    assert [end.socket.get_inheritable() for end in ends] == [False, False]
    assert {end.socket.type for end in ends} == {socket.SOCK_SEQPACKET}
    for end in ends:
        end.close()
    assert open_files() == before


@pytest.mark.parametrize("octets", [b"[]", b"7", b"null", b"{", b"\xff", b"[" * MAX_OCTETS])
def test_what_is_no_message_is_an_error_and_its_files_are_closed(pair: Pair, octets: bytes) -> None:
    """A worker that was taken over must not end the supervisor, nor fill its table of files."""
    before = open_files()
    with open(os.devnull, "rb") as file:  # noqa: PTH123 - a file, and nothing of a path
        socket.send_fds(pair[0].socket, [octets], [file.fileno()])
    with pytest.raises(ValueError):  # noqa: PT011 - json's own words for some of them
        pair[1].receive()
    assert open_files() == before
