"""A nameserver that lies on the wire: what it says to a question is written out by a test, octet for octet."""

from __future__ import annotations

import random
import socket
import socketserver
import struct
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests import namespace

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    Lie = Callable[["Asked"], None]

DECOY: Final = namespace.OTHER_4
"""A public address, which the policy lets anybody reach: only belief in a lie leads there."""

TRUE: Final = namespace.origin_4()


@dataclass(frozen=True)
class Asked:
    """A question that arrived. nth: how often it had been before. connection: over which, unless over UDP."""

    wire: bytes
    name: str
    rdtype: str
    nth: int
    peer: tuple[str, int]
    _udp: socket.socket | None = None
    connection: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send a datagram; over TCP octets as they are."""
        if self.connection is not None:
            self.connection.sendall(data)
        elif self._udp is not None:
            self._udp.sendto(data, self.peer)

    def say(self, message: dns.message.Message | bytes) -> None:
        """Send a message, behind its length where that is due."""
        data = message if isinstance(message, bytes) else message.to_wire(max_size=65535)
        self.send(data if self.connection is None else framed(data))

    def answer(self, *records: tuple[str, ...], rcode: str = "NOERROR") -> dns.message.Message:
        """An answer with these records, each (type, data) of the name asked for, or (type, data, name)."""
        reply = dns.message.make_response(dns.message.from_wire(self.wire))
        reply.set_rcode(dns.rcode.from_text(rcode))
        for rdtype, data, *owner in records:
            name = owner[0] if owner else self.name
            reply.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", rdtype, data))
        return reply

    def addresses(self, *addresses: str) -> dns.message.Message:
        """An answer with these addresses, where their family is what was asked for."""
        reply = self.answer()
        if self.rdtype == "A" and addresses:
            reply.answer.append(dns.rrset.from_text(f"{self.name}.", 60, "IN", "A", *addresses))
        return reply


def framed(data: bytes) -> bytes:
    """A message as TCP carries it (RFC 1035 §4.2.2)."""
    return struct.pack("!H", len(data)) + data


def tell_the_truth(asked: Asked) -> None:
    """The name has one address, where the scene's origin listens."""
    asked.say(asked.addresses(TRUE))


def truncate(asked: Asked) -> None:
    """Say that there is more over TCP."""
    reply = asked.answer()
    reply.flags |= dns.flags.TC
    asked.say(reply)


class Liar:
    """Says of a name what stands under its first label in `lies`, over UDP, or in `over_tcp`, and else `otherwise`."""

    def __init__(
        self,
        lies: dict[str, Lie] | None = None,
        over_tcp: dict[str, Lie] | None = None,
        *,
        otherwise: Lie | None = None,
    ) -> None:
        """otherwise: the truth, unless it is given."""
        self.lies = lies or {}
        self.over_tcp = over_tcp or {}
        self.otherwise = otherwise or tell_the_truth
        self.asked: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._servers: tuple[socketserver.BaseServer, ...] = ()
        self.port = 0
        self.rise()

    def rise(self) -> None:
        """Listen, at the port where it was before: one that the system gives to nobody by itself."""
        datagram, stream = self._handlers()
        while not self._servers:
            port = self.port or random.randrange(20_000, 30_000)  # noqa: S311 - any
            udp = _Udp(("127.0.0.1", port), datagram, bind_and_activate=False)
            tcp = _Tcp(("127.0.0.1", port), stream, bind_and_activate=False)
            try:
                for server in (udp, tcp):
                    server.server_bind()
                    server.server_activate()
            except OSError:
                udp.server_close()
                tcp.server_close()
            else:
                self.port, self._servers = port, (udp, tcp)
        for each in self._servers:
            threading.Thread(target=each.serve_forever, args=(0.01,), daemon=True).start()

    def die(self) -> None:
        """Listen no longer: who asks now is told by the kernel that nobody is there."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = ()

    def questions(self, name: str) -> int:
        """How often a name was asked for, of either type."""
        with self._lock:
            return sum(count for (asked, _), count in self.asked.items() if asked == name)

    def _hear(self, wire: bytes, peer: tuple[str, int], sock: socket.socket, *, stream: bool) -> None:
        question = dns.message.from_wire(wire).question[0]
        name, rdtype = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        with self._lock:
            nth = self.asked[name, rdtype]
            self.asked[name, rdtype] += 1
        lies = self.over_tcp if stream else self.lies
        speak = lies.get(name.partition(".")[0], self.otherwise)
        speak(Asked(wire, name, rdtype, nth, peer, None if stream else sock, sock if stream else None))

    def _handlers(self) -> tuple[type[socketserver.BaseRequestHandler], type[socketserver.BaseRequestHandler]]:
        hear = self._hear

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                hear(self.request[0], self.client_address, self.request[1], stream=False)

        class Stream(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                (size,) = struct.unpack("!H", self.request.recv(2, socket.MSG_WAITALL))
                hear(self.request.recv(size, socket.MSG_WAITALL), self.client_address, self.request, stream=True)

        return Datagram, Stream


def in_tls(context: ssl.SSLContext, lie: Lie) -> Callable[[socket.socket], None]:
    """What a server does with a connection, which reads one question in TLS."""

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inner:
            wire = inner.recv(2 + 512)[2:]
            if not wire:
                return  # to a client of TLS 1.3 the handshake can fail after it succeeded here
            question = dns.message.from_wire(wire).question[0]
            name, rdtype = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
            lie(Asked(wire, name, rdtype, 0, inner.getpeername(), None, inner))

    return serve


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True
    max_packet_size = 65535

    def handle_error(self, *_: object) -> None:
        """A lie that nobody listens to any more."""


class _Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """The same."""
