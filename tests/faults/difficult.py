"""Peers that make difficulties: origins that follow a script, clients in crowds, and streams that nobody reads.

Each client comes from an address of its own, so that its records are found by where it came from.
"""

from __future__ import annotations

import itertools
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from tests.end_to_end.asking import connect, get
from tests.end_to_end.daemon import read_until
from tests.end_to_end.origin import Listener
from tests.end_to_end.vitals import MB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.end_to_end.daemon import Daemon

OFFERED: Final = 500 * MB
KERNELS: Final = 100 * MB
"""What the kernel may hold of a stream that nobody reads, on two connections: tcp_rmem and tcp_wmem, twice each."""

LONG_ENOUGH: Final = 120.0  # seconds for which a peer of ours waits for anything; no test lasts so long

IDLE: Final = "[limits]\nidle_seconds = 12\n"
"""Soon enough to wait for, and longer than a loaded machine stands still."""

SLOWLY: Final = 3.5  # seconds between two octets, so that five last for longer than that

Step = bytes | Callable[[socket.socket], None]
"""What a peer does next: say something, or anything else."""


OK: Final = b"HTTP/1.1 200 OK\r\n"
HELLO: Final = OK + b"Content-Length: 5\r\n\r\nhello"
SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket")

# Steps


def hear(connection: socket.socket) -> None:
    """Take the request's head, and nothing of its body. Raises ConnectionError where none comes."""
    try:
        read_until(connection, b"\r\n\r\n")
    except AssertionError as given_up:
        raise ConnectionError("who came has left") from given_up


def hear_octet(connection: socket.socket) -> None:
    """Take what comes first."""
    connection.recv(1)


def stay(connection: socket.socket) -> None:
    """Read whatever comes, and say nothing, until the other side ends."""
    while connection.recv(65536):
        pass


def ignore(connection: socket.socket) -> None:
    """Read nothing and say nothing until the other side is gone altogether."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP | select.POLLERR)
    poll.poll(LONG_ENOUGH * 1000)


def end(connection: socket.socket) -> None:
    """End our side."""
    connection.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket) -> None:
    """Break it off: the other side is told with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def for_ever(piece: bytes) -> Step:
    """Say the same again and again, until nobody listens any more."""

    def say(connection: socket.socket) -> None:
        while True:
            connection.sendall(piece * max(1, 16_384 // len(piece)))

    return say


def dripping(octets: bytes, pause: float) -> Step:
    """Say it octet by octet."""

    def drip(connection: socket.socket) -> None:
        for octet in octets:
            connection.sendall(bytes((octet,)))
            time.sleep(pause)

    return drip


def pause(seconds: float) -> Step:
    """Do nothing for a while."""
    return lambda _: time.sleep(seconds)


def follow(script: Sequence[Step], connection: socket.socket) -> None:
    """Do one thing after the other. Raises OSError where the other side is gone."""
    connection.settimeout(LONG_ENOUGH)
    for step in script:
        if isinstance(step, bytes):
            connection.sendall(step)
        else:
            step(connection)


def leaving(script: Sequence[Step], left: threading.Event) -> Step:
    """The same, and then let it be known that it is over, however it went."""

    def play(connection: socket.socket) -> None:
        try:
            follow(script, connection)
        finally:
            left.set()

    return play


@dataclass
class Origins:
    """One at each port, at the address of the scene's. `close` ends their listening."""

    address: str
    _listeners: list[Listener] = field(default_factory=list)

    def add(self, *script: Step) -> str:
        """One that does this with every connection: its host and port."""
        listener = Listener(lambda connection: follow(script, connection), (self.address,))
        self._listeners.append(listener)
        return f"{self.address}:{listener.port}"

    def close(self) -> None:
        """Let go of them."""
        for each in self._listeners:
            each.close()


# Clients


@dataclass(frozen=True)
class Told:
    """What a client was told before its connection ended. ended: "end" or "reset"."""

    octets: bytes
    ended: str

    @property
    def status(self) -> int | None:
        """Of the last response that has begun; None where there is none."""
        lines = [line for line in self.octets.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        return int(lines[-1].split(b" ")[1]) if lines else None

    @property
    def body(self) -> bytes:
        """What follows the last head, as it is framed."""
        return self.octets.rpartition(b"\r\n\r\n")[2]


def asking(url: str, method: str = "GET", *fields: str) -> bytes:
    """A request's head."""
    return "\r\n".join((f"{method} {url} HTTP/1.1", "Host: x", *fields, "", "")).encode()


def open_tunnel(proxy: Daemon, where: str, home: str, *, websocket: bool) -> socket.socket:
    """A tunnel to there, of either kind, from that address."""
    client = proxy.connect(home)
    if websocket:
        assert get(client, f"http://{where}/", *UPGRADE).status == 101
    else:
        assert connect(client, where).status == 200
    return client


def tell(client: socket.socket, octets: bytes, heard: threading.Event | None = None) -> Told:
    """Send this, and hear what comes until the end. heard: is set once something came."""
    client.settimeout(LONG_ENOUGH)
    speaker = threading.Thread(target=_say, args=(client, octets), daemon=True)
    speaker.start()
    said = bytearray()
    ended = "end"
    try:
        while data := client.recv(65536):
            said += data
            if heard is not None:
                heard.set()
    except ConnectionResetError:
        ended = "reset"
    return Told(bytes(said), ended)


def _say(client: socket.socket, octets: bytes) -> None:
    with suppress(OSError):  # nobody listens any more: what was told counts
        client.sendall(octets)


def homes(subnet: int) -> Iterator[str]:
    """Addresses of loopback to come from, each once."""
    return (f"127.0.{subnet + above}.{last}" for above, last in itertools.product(range(8), range(1, 255)))


class Crowds:
    """Connections of many clients; as a context, it lets go in the end of all that have not left."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def gather(self, proxy: Daemon, count: int, subnet: int, places: int = 8) -> list[socket.socket]:
        """So many connections, from so many addresses in turn."""
        where = itertools.cycle(itertools.islice(homes(subnet), places))
        return [self._stack.enter_context(proxy.connect(next(where))) for _ in range(count)]

    def add(self, *clients: socket.socket) -> list[socket.socket]:
        """Others, too."""
        return [self._stack.enter_context(each) for each in clients]


def leave(crowd: list[socket.socket], how: Callable[[socket.socket], None] = reset) -> None:
    """All of them at once."""
    for client in crowd:
        how(client)
        client.close()
    crowd.clear()


def of(records: list[dict[str, Any]], subnet: int) -> list[dict[str, Any]]:
    """Those of clients that came from there."""
    return [each for each in records if str(each["client_address"]).startswith(f"127.0.{subnet}.")]


@contextmanager
def many_files() -> Iterator[None]:
    """Let this process have as many files open as the system grants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def drip(slow: list[socket.socket], drippers: int) -> list[Told]:
    """An octet of each of the first so many now and then, until all of them have been answered."""
    octets = iter(b"GET http://x/ HTTP/1.1\r\nX: " + b"y" * 10_000)
    poll = select.poll()
    waiting = {client.fileno(): client for client in slow}
    for number in waiting:
        poll.register(number, select.POLLIN)
    told = []
    began = time.monotonic()
    while waiting:
        assert time.monotonic() < began + LONG_ENOUGH, f"{len(waiting)} slow heads are borne for ever"
        octet = bytes((next(octets),))
        for client in slow[:drippers]:
            if client.fileno() in waiting:
                client.send(octet)
        for number, _ in poll.poll(200):
            poll.unregister(number)
            told.append(Told(waiting.pop(number).recv(65536), "end"))
        time.sleep(0.2)
    return told


def ended(clients: list[socket.socket]) -> None:
    """Wait until the other side has ended each of them, reading nothing until then."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLRDHUP)
    waiting = {client.fileno() for client in clients}
    while waiting:
        happened = poll.poll(LONG_ENOUGH * 1000)
        assert happened, f"{len(waiting)} are borne for ever"
        for number, _ in happened:
            poll.unregister(number)
            waiting.discard(number)
    leave(clients)


def is_open(client: socket.socket) -> bool:
    """Whether the other side has neither ended nor reset it."""
    client.settimeout(0)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


# Streams that nobody reads


class Pump:
    """Sends zeros into a connection, as far as they are taken. `taken` says how many were; `over` that it is done."""

    def __init__(self, sock: socket.socket, most: int) -> None:
        self._sock = sock
        self._most = most
        self.taken = 0
        self.over = threading.Event()
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        piece = memoryview(bytes(256 * 1024))
        self._sock.settimeout(LONG_ENOUGH)
        try:
            while self.taken < self._most:
                self.taken += self._sock.send(piece[: self._most - self.taken])
        except OSError:  # nobody is there any more
            return
        finally:
            self.over.set()


def until_stuck(pumps: Sequence[Pump], go_on: Callable[[int], None]) -> int:
    """Let others go on until none of them moves any more: how much was taken."""
    before = None
    while before != (before := [each.taken for each in pumps]) or not all(before):
        go_on(5)
    return sum(before)


def swallow(client: socket.socket, count: int) -> int:
    """Read so many octets, or to the end: how many came."""
    client.settimeout(LONG_ENOUGH)
    left = count
    buffer = bytearray(1 << 20)
    while left and (got := client.recv_into(buffer, min(left, len(buffer)))):
        left -= got
    return count - left
