"""Scripts on real sockets: clients play theirs to a daemon, and at every address is an origin that plays another's.

Inside `namespace.everywhere()`. Which script an origin plays is chance, as it cannot know who asks; so is the order in
which connections meet. What each client said and heard is kept, to be held against the audit log.
"""

from __future__ import annotations

import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Final

from tests.adversarial.corpus import Address, public
from tests.end_to_end.daemon import PATIENCE
from tests.end_to_end.nameserver import Says
from tests.end_to_end.origin import Listener
from tests.fuzz.books import Heard, next_answer
from tests.fuzz.conversations import NAME, SEEDS, SERVED, TUNNELS, WORDS
from tests.fuzz.framed import requests_in
from tests.fuzz.scripts import Script, mutated
from tests.fuzz.town import HOMES, mood
from tests.namespace import ORIGIN_4, ORIGIN_6
from tests.serve.scene import OK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.end_to_end.daemon import Daemon

AT_ONCE: Final = 24
"""Clients."""
PORTS: Final = (80, 81, 443, 8022)
"""Where origins listen, at every address there is."""
HUSH: Final = 0.25  # seconds of silence after which a client ends its side, and an origin goes on
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
_SEEDS: Final = (*SEEDS.values(), *SERVED.values(), *(2 * [*TUNNELS.values()]))
"""Half of the clients mean well: the others are refused before an origin hears of them."""

ZONE: Final = {
    "example.com": Says(a=(ORIGIN_4,)),
    NAME: Says(a=(ORIGIN_4,), aaaa=(ORIGIN_6,)),
    "other.example": Says(aaaa=(ORIGIN_6,)),
    "ui.example": Says(a=("10.0.0.5",)),
    "private.example": Says(a=("10.0.0.5",)),
    "mixed.example": Says(a=(ORIGIN_4, "10.0.0.5")),
    "metadata.example": Says(a=("169.254.169.254",), aaaa=("fd00:ec2::254",)),
    "chain.example": Says(cname="metadata.google.internal"),
    "rebound.example": Says(a=(ORIGIN_4,), ttl=0, then=Says(a=("127.0.0.1",), ttl=0)),
    "metadata.google.internal": Says(a=(ORIGIN_4,)),
    "denied.example": Says(a=(ORIGIN_4,)),
    "printer.local": Says(a=(ORIGIN_4,)),
}
"""What the nameserver says. No mutation makes one of the names that mean harm of another, but they are asked for."""
_IN_OTHER_WORDS: Final = {
    mood("private"): b"private.example",
    mood("mixed"): b"mixed.example",
    mood("metadata"): b"metadata.example",
    mood("chain"): b"chain.example",
    mood("both families"): b"rebound.example",
    mood("no name"): b"unheard-of.example",
}
"""The name that is asked for in the place of NAME, where a script has DNS say something else."""


@dataclass(frozen=True)
class Talk:
    """What came of one client's script. source: the address that it alone comes from."""

    source: str
    said: bytes
    heard: Heard


def talks(daemon: Daemon, numbers: Iterable[int], seed: str) -> list[Talk]:
    """Let clients play a mutated script each, some at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda number: _talk(daemon, number, seed), numbers))


def _talk(daemon: Daemon, number: int, seed: str) -> Talk:
    random = Random(f"{seed}-{number}")  # noqa: S311 - to be had again
    script = Script.read(mutated(random.choice(_SEEDS), _SEEDS, WORDS, random))
    source = f"127.{script.home % len(HOMES)}.{1 + (number >> 8)}.{number & 255}"
    with daemon.connect(source) as client:
        return _Client(client, script).play(source)


class _Client:
    """One client at its script. As long as it has not ended its side itself, its books must balance to the octet."""

    def __init__(self, sock: socket.socket, script: Script) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._script = script
        self._said = bytearray()
        self._heard = bytearray()
        self._whole = True
        self._reset = self._lost = False

    def play(self, source: str) -> Talk:
        self._play()
        return Talk(source, bytes(self._said), Heard(bytes(self._heard), self._whole, self._reset, self._lost))

    def _play(self) -> None:
        try:
            for step in self._script.steps:
                if step.kind == "c" and self._whole:
                    self._say(step.pieces())
                elif step.kind == "e":
                    self._end()
                elif step.kind == "r":
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                    self._whole, self._lost = False, True
                    return
            if self._hear(HUSH):
                self._end()
                assert not self._hear(PATIENCE), "the connection is not let go of"
        except BrokenPipeError:
            self._whole, self._lost = False, True
        except ConnectionResetError:
            self._whole, self._reset, self._lost = False, True, True

    def _say(self, pieces: list[bytes]) -> None:
        otherwise = _IN_OTHER_WORDS.get(self._script.mood, NAME.encode())
        for piece in pieces:
            octets = piece.replace(NAME.encode(), otherwise)
            self._said += octets
            self._sock.sendall(octets)

    def _end(self) -> None:
        self._whole = False
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _hear(self, seconds: float) -> bool:
        """What comes, until the end, or silence, or everything is answered: whether that it was, and no end."""
        self._sock.settimeout(seconds)
        try:
            while octets := self._sock.recv(65536):
                self._heard += octets
                if self._whole and self._is_answered():
                    return True
        except TimeoutError:
            return True
        return False

    def _is_answered(self) -> bool:
        rest = bytes(self._heard)
        requests = requests_in(bytes(self._said))
        for request in requests:
            answer = next_answer(rest, request.method)
            if answer.how != "whole" or not request.complete:
                return False
            rest = answer.rest
        return bool(requests)


@dataclass
class Origins:
    """Everybody there is. hits: connections to addresses at which nobody may arrive."""

    seed: str
    hits: list[str] = field(default_factory=list)
    arrivals: int = 0

    def __post_init__(self) -> None:
        self._numbers = count()
        self._lock = threading.Lock()
        self._listeners = [Listener(self._serve, ("0.0.0.0", "::"), port) for port in PORTS]

    def close(self) -> None:
        """Listen no more."""
        for listener in self._listeners:
            listener.close()

    def _serve(self, sock: socket.socket) -> None:
        where = sock.getsockname()[0].partition("%")[0].removeprefix("::ffff:")
        with self._lock:
            self.arrivals += 1
            number = next(self._numbers)
            if not public(Address.read(where)):
                self.hits.append(where)
        random = Random(f"{self.seed}-origin-{number}")  # noqa: S311 - to be had again
        script = Script.read(mutated(random.choice(_SEEDS), _SEEDS, WORDS, random))
        steps = [step for step in script.steps if step.kind in "CER"]
        sock.settimeout(HUSH)
        if not steps:
            with suppress(TimeoutError):
                sock.recv(65536)
            sock.sendall(OK)
        for step in steps:
            with suppress(TimeoutError):  # it speaks now, asked or not
                sock.recv(65536)
            if step.kind == "R":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                return
            if step.kind == "E":
                break
            for piece in step.pieces():
                sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(PATIENCE)
        while sock.recv(65536):
            pass
