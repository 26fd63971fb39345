"""The one name of the bench: a nameserver knows it, and so does an /etc/hosts that only the bench sees.

Who resolves names itself asks the nameserver once and then its own cache. Who asks the system has no cache: it finds
the name in the file, which is as cheap as it gets.
"""

from __future__ import annotations

import ctypes
import os
import socketserver
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.namespace import ORIGIN_4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME: Final = "bench.example.com"
TTL: Final = 3600

_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2_0000, 0x1000, 0x4000, 0x4_0000


def show_own_files(directory: Path) -> None:
    """Let this process, and those it starts, see an /etc/hosts and resolv.conf of their own. Raises OSError.

    And a /dev/shm: Squid looks there for what another Squid may have left.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS))
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check(libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, None))
    texts = {"hosts": f"127.0.0.1 localhost\n{ORIGIN_4} {NAME}\n", "resolv.conf": "nameserver 127.0.0.1\n"}
    for name, text in texts.items():
        own = directory / name
        own.write_text(text)
        own.chmod(0o644)
        _check(libc.mount(bytes(own), f"/etc/{name}".encode(), None, _MS_BIND, None))


@contextmanager
def served() -> Iterator[None]:
    """Meanwhile a nameserver answers at 127.0.0.1:53; some contenders ask at no other port."""
    with socketserver.ThreadingUDPServer(("127.0.0.1", 53), _Question) as server:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


class _Question(socketserver.BaseRequestHandler):
    """One datagram to the nameserver: the name has one address, and no other name has any."""

    def handle(self) -> None:
        data, sock = self.request
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        if query.question == [dns.rrset.RRset(dns.name.from_text(NAME), dns.rdataclass.IN, dns.rdatatype.A)]:
            reply.answer.append(dns.rrset.from_text(NAME + ".", TTL, "IN", "A", ORIGIN_4))
        sock.sendto(reply.to_wire(), self.client_address)


def _check(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
