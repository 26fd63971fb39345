"""Canaries: listeners on every address there is, of which each says where it was reached and remembers who came.

In the network of `everywhere` one listener per port is the origin at every public address and the canary at every
protected one: the local address of a connection is the address that was dialled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.adversarial.corpus import Address
from tests.end_to_end.origin import Listener, echo, more

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

PORTS: Final = (22, 25, 80, 443)
"""Where they listen: the web's ports, and some where a port that was misread would end (ATTACKS 4.5)."""

_REACHED: Final = re.compile(rb"you reached (\S+)")


@dataclass
class Visit:
    """A connection that arrived: the address and port that were dialled, and the requests that came.

    octets: the first that came. requests: how many there were.
    """

    address: Address
    port: int
    octets: bytes = b""
    requests: int = 0

    def __str__(self) -> str:
        return f"{self.address} port {self.port}: {self.octets!r}"


class Canaries:
    """All of them. They answer HTTP and WebSocket, so that an allowed request is seen to get through, and stay."""

    def __init__(self) -> None:
        self.visits: list[Visit] = []
        self._listeners = [Listener(self._serve, ("0.0.0.0", "::"), port) for port in PORTS]

    def close(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            listener.close()

    def hits(self, expected: Collection[Address]) -> list[Visit]:
        """Who arrived anywhere else than expected. A connection without an octet is a hit too."""
        return [visit for visit in self.visits if visit.address not in expected]

    def _serve(self, connection: socket.socket) -> None:
        where, port, *_ = connection.getsockname()
        visit = Visit(Address.read(where.partition("%")[0]), port)
        self.visits.append(visit)
        rest = visit.octets = more(connection)
        while True:
            while b"\r\n\r\n" not in rest:
                rest += more(connection)
            head, _, rest = rest.partition(b"\r\n\r\n")
            visit.requests += 1
            if b"\r\nupgrade: websocket\r\n" in head.lower() + b"\r\n":
                connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
                connection.sendall(b"X-Canary: you reached %b\r\n\r\n" % where.encode())
                return echo(connection)
            said = b"you reached %b" % where.encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


def reached(answer: bytes) -> Address | None:
    """The address at which an answer was given, if a canary gave it."""
    said = _REACHED.search(answer)
    return None if said is None else Address.read(said[1].decode())
