"""A raw origin that reports exactly what octets it read, a raw client, and the daemon between them.

The origin answers each request on a connection, the first as its script says. Both sides send scripted octets in
scripted pieces, and a piece is sent only when proxyd has read the one before it: the kernel is asked (sock_diag(7)), so
that a split is a split and no test sleeps. What each side read is told octet for octet, but for chunks: where one ends
depends on what came in one read, so `joined` makes one chunk of neighbours.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tests import namespace
from tests.end_to_end.conftest import POLICIES
from tests.end_to_end.daemon import PATIENCE, Daemon, policy_text
from tests.end_to_end.origin import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Pieces = tuple[bytes, ...]

SPLITS = 3  # places at which the short form splits a case
OCTET_BY_OCTET = 2048  # octets; longer cases are not sent so
SAMPLE = 4  # of the others, one in so many is, in the short form

_CHUNK = re.compile(rb"([1-9a-f][0-9a-f]*)\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_VIA = re.compile(rb"\r\nVia: 1\.1 (\S+)\r\n")
# sock_diag(7), and where its answer has what: the attributes follow an inet_diag_msg; tcpi_bytes_received in tcp_info.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _INET_DIAG_INFO, _ANY = 4, 20, 2, 0xFFFF_FFFF
_ATTRIBUTES, _BYTES_RECEIVED = 16 + 72, 128
_READING = (1, 4, 5, 8)  # TCP states: established, or half-closed


@dataclass(frozen=True)
class Script:
    """What an origin does with one connection.

    says: what it sends, piece by piece, once it has read a request. after: whether it then ends its side, breaks off
    with a reset, or waits for proxyd to end, and answers what else is asked meanwhile. early: speak when the head is
    there, before the body. deaf: wait, but end when something else is asked.
    """

    says: Pieces
    after: Literal["wait", "end", "reset"] = "wait"
    early: bool = False
    deaf: bool = False


@dataclass
class Arrival:
    """One connection to the origin: what it read, whether its script is done and arrived, and whether it is over."""

    octets: bytes = b""
    said: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Outcome:
    """All there is to see of one client connection.

    answer: what the client read, chunks joined. reset: it ended by a reset. reached: what origins read, a connection
    each, chunks joined. records: verdict, and reason or outcome, of each request that was judged.
    """

    answer: bytes
    reset: bool
    reached: tuple[bytes, ...]
    records: tuple[tuple[str, str], ...]


@dataclass
class Tally:
    """What was tried, and what came of it."""

    cases: int = 0
    deliveries: int = 0
    disagreements: int = 0

    def __str__(self) -> str:
        return f"{self.cases} cases, {self.deliveries} deliveries: {self.disagreements} disagreements"


class Recorder:
    """The origin. Connections follow `scripts` in order, and `PLAIN` when there are no more."""

    PLAIN = Script((b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain",))

    def __init__(self) -> None:
        self._listener = Listener(self._serve, (namespace.origin_4(),))
        self.name = f"{namespace.origin_4()}:{self._listener.port}"
        self.port = self._listener.port
        self.close = self._listener.close
        self.scripts: list[Script] = []
        self._arrivals: list[Arrival] = []

    def wait_until_said(self, number: int) -> None:
        """Return when the connection of this number has its script done, and all of that has arrived at proxyd."""
        for _ in _turns():
            if len(self._arrivals) > number:
                break
        assert self._arrivals[number].said.wait(PATIENCE), "the origin's script does not end"

    def take(self, count: int) -> tuple[bytes, ...]:
        """What was read on the connections since the last time; `count` of them are known to have been made."""
        for _ in _turns():
            if len(self._arrivals) >= count:
                break
        taken, self._arrivals = self._arrivals, []
        assert all(arrival.over.wait(PATIENCE) for arrival in taken), "a connection to the origin does not end"
        return tuple(arrival.octets for arrival in taken)

    def _serve(self, connection: socket.socket) -> None:
        arrival = Arrival()
        self._arrivals.append(arrival)
        script = self.scripts.pop(0) if self.scripts else self.PLAIN
        try:
            if not _hear(connection, arrival, 1, early=script.early):
                return
            send_pieces(connection, script.says)
            said = sum(map(len, script.says))
            if script.after == "reset":
                wait_until_read(connection, said)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            _wait_until_arrived(connection, said)
            if script.after == "end":
                connection.shutdown(socket.SHUT_WR)
            arrival.said.set()
            answered = 1
            while _hear(connection, arrival, answered + 1) and not script.deaf:
                if script.after == "wait":
                    send_pieces(connection, self.PLAIN.says)
                answered += 1
        finally:
            arrival.said.set()
            arrival.over.set()


class Stage:
    """A daemon whose only destination is the recorder. `play` is one client connection, first byte to last.

    closings: the last closing records that were read.
    """

    def __init__(self, directory: Path, extra: str = "") -> None:
        self.origin = Recorder()
        policy, audit, errors = (directory / name for name in ("policy.toml", "audit.jsonl", "errors"))
        policy.write_text(policy_text(1, self.origin.port) + extra)
        shutil.copy(POLICIES / "denylist.toml", directory)
        for file in (audit, errors):
            file.touch()
        self.daemon = Daemon(policy, audit, errors)
        self._audit = audit.open("rb")
        self._unfinished = b""  # the beginning of a record that is being written
        self.closings: list[dict[str, Any]] = []
        self.via = self._learn_via()

    def close(self) -> None:
        """End it all."""
        self.daemon.stop()
        self.origin.close()
        late = [record for record in self._new_records() if record["event"] == "decision"]
        self._audit.close()
        assert not late, "something was read as a request after its connection had ended"

    def play(
        self, pieces: Sequence[bytes], *scripts: Script, ends: bool = False, then: Sequence[bytes] = ()
    ) -> Outcome:
        """Send `pieces`, hear everything out, and tell what happened.

        scripts: what the origin does with its connections. ends: the client ends its side when it has sent all.
        then: more that the client sends, each when one more of the origin's connections has its script done.
        """
        self.origin.scripts[:] = scripts
        answer, reset = b"", False
        with self.daemon.connect() as client:
            with suppress(BrokenPipeError, ConnectionResetError):  # proxyd may have answered and gone
                send_pieces(client, pieces)
                for number, later in enumerate(then):
                    self.origin.wait_until_said(number)
                    client.sendall(later)
                if ends:
                    client.shutdown(socket.SHUT_WR)
            try:
                while piece := client.recv(65536):
                    answer += piece
            except ConnectionResetError:
                reset = True
        decisions, closings = self.records()
        assert [record["id"] for record in decisions] == [record["id"] for record in closings]
        reached = self.origin.take(sum(closing["connect_ms"] is not None for closing in closings))
        records = tuple(
            (decided["verdict"], closing["reason"] or closing["outcome"])
            for decided, closing in zip(decisions, closings, strict=True)
        )
        return Outcome(joined(answer), reset, tuple(joined(octets) for octets in reached), records)

    def _learn_via(self) -> bytes:
        """Our name in Via is made anew for each daemon."""
        plain = self.play([b"GET http://%b/ HTTP/1.0\r\n\r\n" % self.origin.name.encode()])
        found = _VIA.search(plain.answer)
        assert found is not None, plain
        return found[1]

    def records(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The decisions since the last time, and their closings, once each decision has one."""
        records: list[dict[str, Any]] = []
        for _ in _turns():
            records += self._new_records()
            decisions = [record for record in records if record["event"] == "decision"]
            closings = [record for record in records if record["event"] == "close"]
            if decisions and len(decisions) == len(closings):
                assert {record["id"] for record in decisions} == {record["id"] for record in closings}
                self.closings = closings
                return decisions, closings
        raise AssertionError(f"decisions without a closing record: {records}")

    def _new_records(self) -> list[dict[str, Any]]:
        """Every record written since the last time."""
        *lines, self._unfinished = (self._unfinished + self._audit.read()).split(b"\n")
        return [json.loads(line) for line in lines]


def deliveries(case: bytes, behind: bytes, *, long: bool) -> Iterator[Pieces]:
    """The octets in one piece; in two, split everywhere in the case or at some places; octet by octet."""
    octets = case + behind
    yield (octets,)
    step = 1 if long else max(1, len(case) // SPLITS)
    for at in range(len(case), 0, -step):
        if at < len(octets):
            yield octets[:at], octets[at:]
    if len(case) <= OCTET_BY_OCTET and (long or len(case) % SAMPLE == 0):
        yield (
            (*(case[at : at + 1] for at in range(len(case))), behind)
            if behind
            else tuple(bytes([octet]) for octet in case)
        )


def send_pieces(sock: socket.socket, pieces: Sequence[bytes]) -> None:
    """Send the pieces, the first that this side sends, each when the one before was read."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sent = 0
    for piece in pieces:
        if sent:
            wait_until_read(sock, sent)
        sock.sendall(piece)
        sent += len(piece)


def wait_until_read(sock: socket.socket, sent: int) -> None:
    """Return when the program at the other end, on this host, has read all `sent` octets, or reads no more."""
    for _ in _turns():
        theirs = _progress(sock.getpeername(), sock.getsockname())
        if theirs is None or (theirs[0] == 0 and theirs[1] >= sent):
            return
    raise AssertionError("proxyd does not read")


def _wait_until_arrived(sock: socket.socket, sent: int) -> None:
    """Return when all `sent` octets are where the program at the other end can read them, or it reads no more."""
    for _ in _turns():
        theirs = _progress(sock.getpeername(), sock.getsockname())
        if theirs is None or theirs[1] >= sent:
            return
    raise AssertionError("what the origin sends does not arrive")


def joined(octets: bytes) -> bytes:
    """Messages with neighbouring chunks made one, a message that breaks off included. Raises AssertionError."""
    done = b""
    while octets:
        message, octets, _ = _first_message(octets)
        done += message
    return done


def _hear(connection: socket.socket, arrival: Arrival, count: int, *, early: bool = False) -> bool:
    """Read until so many requests are there as a whole, or, if that is early enough, a head: whether they came."""
    while not (b"\r\n\r\n" in arrival.octets if early else _requests(arrival.octets) >= count):
        if not (piece := connection.recv(65536)):
            return False
        arrival.octets += piece
    return True


def _requests(octets: bytes) -> int:
    """How many whole messages these octets begin with."""
    count, whole = 0, True
    while octets and whole:
        _, octets, whole = _first_message(octets)
        count += whole
    return count


def _first_message(octets: bytes) -> tuple[bytes, bytes, bool]:
    """The first message in normal form, what follows it, and whether it is whole."""
    head, end, rest = octets.partition(b"\r\n\r\n")
    head += end
    if not end:
        return head, b"", False
    if b"\r\ntransfer-encoding: chunked\r\n" in head.lower():
        body, rest, whole = _chunked(rest)
        return head + body, rest, whole
    length = int(found[1]) if (found := _LENGTH.search(head)) else 0
    return head + rest[:length], rest[length:], len(rest) >= length


def _chunked(octets: bytes) -> tuple[bytes, bytes, bool]:
    """A chunked body in normal form, what follows it, and whether it is whole."""
    payload = b""
    while size := _CHUNK.match(octets):
        end = size.end() + int(size[1], 16)
        if len(octets) < end + 2:
            break
        assert octets[end : end + 2] == b"\r\n", f"no chunk of ours: {octets!r}"
        payload += octets[size.end() : end]
        octets = octets[end + 2 :]
    chunk = b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
    if not octets.startswith(b"0\r\n"):
        return chunk + octets, b"", False
    trailers, end_of_trailers, rest = octets.partition(b"\r\n\r\n")
    return chunk + trailers + end_of_trailers, rest, bool(end_of_trailers)


def _progress(local: tuple[str, int], remote: tuple[str, int]) -> tuple[int, int] | None:
    """Of a TCP/IPv4 connection on this host: octets that wait to be read, octets received; None if nobody reads."""
    ends = (socket.inet_aton(local[0]), bytes(12), socket.inet_aton(remote[0]), bytes(12))
    wanted = struct.pack("!HH", local[1], remote[1]) + b"".join(ends) + struct.pack("=III", 0, _ANY, _ANY)
    request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ANY) + wanted
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, 1, 0, 0) + request)
        answer = kernel.recv(8192)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind != _SOCK_DIAG_BY_FAMILY:
        (error,) = struct.unpack_from("=i", answer, 16)
        if error != -errno.ENOENT:
            raise OSError(-error, os.strerror(-error))
        return None
    if answer[17] not in _READING:
        return None
    (unread,) = struct.unpack_from("=I", answer, 16 + 56)
    at = _ATTRIBUTES
    while at < len(answer):
        size, attribute = struct.unpack_from("=HH", answer, at)
        if attribute == _INET_DIAG_INFO:
            return unread, struct.unpack_from("=Q", answer, at + 4 + _BYTES_RECEIVED)[0]
        at += (size + 3) & ~3
    return None


def _turns() -> Iterator[None]:
    """Turns of waiting, until a test gives up."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
        time.sleep(0.0001)
