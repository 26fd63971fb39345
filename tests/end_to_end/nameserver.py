"""A scripted DNS server on loopback, UDP and TCP: it answers what a test tells it to, and remembers every question."""

from __future__ import annotations

import socketserver
import struct
import threading
import time
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass
class Says:
    """What the server says of a name. `then` is said from the second question of the same type on."""

    a: tuple[str, ...] = ()
    aaaa: tuple[str, ...] = ()
    cname: str | None = None
    rcode: str = "NOERROR"
    ttl: int = 60
    silent: bool = False
    truncated: bool = False
    garbage: bytes | None = None
    then: Says | None = None


@dataclass
class Nameserver:
    """Set `zone[name]` to script it; read `asked` for the questions, as (name, type), and `times` for when."""

    zone: dict[str, Says] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    over_tcp: int = 0

    def __post_init__(self) -> None:
        outer = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                if (reply := outer.answer(data, tcp=False)) is not None:
                    sock.sendto(reply, self.client_address)

        class Stream(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer.over_tcp += 1
                size = struct.unpack("!H", self.request.recv(2, 0x100))[0]
                if (reply := outer.answer(self.request.recv(size, 0x100), tcp=True)) is not None:
                    self.request.sendall(struct.pack("!H", len(reply)) + reply)

        self._udp, self._tcp = _bound_to_one_port(Datagram, Stream)
        self.port = self._udp.server_address[1]
        for server in (self._udp, self._tcp):
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()

    def answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        """The reply to one question, or None for silence."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        rdtype = dns.rdatatype.to_text(question.rdtype)
        says = self.zone.get(name, Says(rcode="NXDOMAIN"))
        if (name, rdtype) in self.asked and says.then is not None and not tcp:
            says = says.then
        self.times.append(time.monotonic())
        self.asked.append((name, rdtype))
        if says.silent or says.garbage is not None:
            return says.garbage
        reply = dns.message.make_response(query)
        reply.set_rcode(dns.rcode.from_text(says.rcode))
        if says.truncated and not tcp:
            reply.flags |= dns.flags.TC
        else:
            self._fill(reply, name, rdtype, says)
        return reply.to_wire()

    def _fill(self, reply: dns.message.Message, name: str, rdtype: str, says: Says) -> None:
        """The records, following CNAMEs inside the zone as a recursive server does."""
        while says.cname is not None:
            reply.answer.append(dns.rrset.from_text(f"{name}.", says.ttl, "IN", "CNAME", f"{says.cname}."))
            name, says = says.cname, self.zone.get(says.cname, Says())
        addresses = says.a if rdtype == "A" else says.aaaa
        if addresses:
            reply.answer.append(dns.rrset.from_text(f"{name}.", says.ttl, "IN", rdtype, *addresses))


def _bound_to_one_port(
    datagram: type[socketserver.BaseRequestHandler], stream: type[socketserver.BaseRequestHandler]
) -> tuple[socketserver.ThreadingUDPServer, socketserver.ThreadingTCPServer]:
    """Servers at one port of both protocols; a port that is free for one may be taken for the other."""
    while True:
        udp = socketserver.ThreadingUDPServer(("127.0.0.1", 0), datagram)
        try:
            return udp, socketserver.ThreadingTCPServer(("127.0.0.1", udp.server_address[1]), stream)
        except OSError:
            udp.server_close()
