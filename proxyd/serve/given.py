"""What a worker was given, taken up: the policy loaded, the sockets and the log opened. Nothing of it is in use yet."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netaddr import IPAddress, IPNetwork

from proxyd.audit.sink import FileSink, Sink
from proxyd.net.certificate import server_context
from proxyd.net.listening import bound_to
from proxyd.policy.dns import Routes
from proxyd.serve.charge import described
from proxyd.serve.current import InForce
from proxyd.serve.handover import Handover

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from proxyd.policy.address import Endpoint
    from proxyd.policy.model import Audit, Policy
    from proxyd.serve.channel import Message


@dataclass(frozen=True, slots=True)
class Given:
    """place: which of the workers this one is. ledger: the memory of the limits. tally: that of what is counted.

    listeners: where to listen -> the socket. tls: what is shown to clients who speak TLS, if any do.
    sink: where records go; None where the one in use will do.
    """

    handover: Handover
    policy: Policy
    place: int
    ledger: int
    tally: int
    listeners: Mapping[str, socket.socket]
    tls: ssl.SSLContext | None
    sink: Sink | None

    @classmethod
    def take(cls, message: Message, files: list[int], audit: Audit | None = None) -> Given:
        """Take up what came. audit: as it is now, if there is one. Raises ValueError, PolicyError or OSError.

        Then everything that came is closed again.
        """
        with ExitStack() as stack:
            for number in files[1:]:
                stack.callback(os.close, number)
            handover = _arrived(files)
            policy = handover.policy()
            listen = policy.listen
            tls = server_context(handover.certificate, handover.private_key) if listen.https else None
            sink = None if audit is not None and audit.to == policy.audit.to else open_sink(policy.audit)
            stack.pop_all()
        ledger, tally, *numbers = files[1:]
        sockets = (socket.socket(fileno=number) for number in numbers)
        listeners = dict(zip(handover.listeners, sockets, strict=True))
        return cls(handover, policy, message["place"], ledger, tally, listeners, tls, sink)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The addresses and ports listened on."""
        bound = map(bound_to, self.listeners.values())
        return tuple(each for each in bound if each is not None)

    @property
    def described(self) -> tuple[str, ...]:
        """The listeners, as the log names them."""
        return tuple(described(where, sock) for where, sock in self.listeners.items())

    @property
    def addresses(self) -> frozenset[IPNetwork]:
        """The addresses listened on, as networks."""
        return frozenset(IPNetwork(each.address) for each in self.endpoints)

    @property
    def routes(self) -> Routes:
        """Whom to ask for which name."""
        hosts = {name: tuple(map(IPAddress, texts)) for name, texts in self.handover.hosts.items()}
        return Routes(self.handover.servers, self.policy.dns.zone, hosts)

    @property
    def in_force(self) -> InForce:
        """The policy, as it is to hold here."""
        ports = frozenset(each.port for each in self.endpoints) | self.policy.ports
        return InForce(self.policy, ports, self.handover.accounts)

    def let_go(self) -> None:
        """Close all of it: it will not be used."""
        for sock in self.listeners.values():
            sock.close()
        os.close(self.ledger)
        os.close(self.tally)
        if self.sink is not None:
            self.sink.close()


def _arrived(files: list[int]) -> Handover:
    """The handover, if all that belongs to it came too: the kernel leaves out files for which there is no number.

    Raises ValueError.
    """
    handover = Handover.from_file(files[0]) if files else None
    if handover is None or len(files) != 3 + len(handover.listeners):
        raise ValueError("not all files arrived; it has as many open as it may")
    return handover


def open_sink(audit: Audit) -> Sink:
    """Where the policy says that records go. Raises OSError."""
    return Sink(sys.stdout.fileno()) if audit.to == "stdout" else FileSink(audit.to)
