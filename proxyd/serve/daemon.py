"""The running proxy: listeners inside, sessions outside, so that those close while these finish.

It wires the floors together, hears signals, and ends when it is told to; a session's rules are not here.
"""

from __future__ import annotations

import datetime as dt
import secrets
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from netaddr import IPNetwork

from proxyd.audit.record import DIGEST_DIGITS, Record, timestamp
from proxyd.audit.sink import SinkError
from proxyd.net.dialer import dial
from proxyd.net.host import own_addresses
from proxyd.net.resolver import Resolver
from proxyd.serve.complaints import Complaints
from proxyd.serve.current import CurrentPolicy
from proxyd.serve.listener import Doorman, accept_forever, bound_to
from proxyd.serve.seams import Seams

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from proxyd.audit.sink import Sink
    from proxyd.policy.address import Endpoint
    from proxyd.policy.model import Policy


async def serve(policy: Policy, sockets: list[socket.socket], servers: tuple[Endpoint, ...], sink: Sink) -> None:
    """Serve on listening `sockets` until SIGTERM or SIGINT, then drain; a second one ends at once.

    servers: the resolvers to ask. sink: where the records go; reopened on SIGUSR1.
    """
    complain = Complaints()
    endpoints = [bound_to(sock) for sock in sockets]
    ports = frozenset(each.port for each in endpoints)
    bound = frozenset(IPNetwork(each.address) for each in endpoints)
    current = CurrentPolicy(policy, ports, utc_now, lambda: own_addresses() | bound, complain)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP) as signals:
        async with trio.open_nursery() as background:
            seams = Seams(
                snapshot=current,
                resolve=Resolver(background, servers).resolve,
                dial=dial,
                record=sink.write,
                now=utc_now,
                via=f"proxyd-{secrets.token_hex(4)}",
                complain=complain,
            )
            doorman = Doorman(seams, policy.limits.connections)
            _note(seams, policy, "start", listening=tuple(str(endpoint) for endpoint in endpoints))
            async with trio.open_nursery() as sessions, trio.open_nursery() as listeners:
                end = _End(seams, listeners, sessions, policy.limits.drain_seconds)
                background.start_soon(_hear, signals, sink, end, complain)
                for sock in sockets:
                    listeners.start_soon(accept_forever, sock, doorman, sessions, complain)
            _note(seams, policy, "stop", connections=doorman.served)
            background.cancel_scope.cancel()


def utc_now() -> dt.datetime:
    """The time of day, in UTC."""
    return dt.datetime.now(dt.UTC)


@dataclass(slots=True)
class _End:
    """The two steps of ending: no more clients, then no more patience."""

    seams: Seams
    listeners: trio.Nursery
    sessions: trio.Nursery
    drain_seconds: float

    def __call__(self) -> None:
        """Take the next step."""
        if self.seams.drain.begun:
            self.sessions.cancel_scope.cancel()
            return
        self.listeners.cancel_scope.cancel()
        self.sessions.cancel_scope.deadline = trio.current_time() + self.drain_seconds
        self.seams.drain.begin()


async def _hear(signals: AsyncIterator[int], sink: Sink, end: _End, complain: Callable[[str], None]) -> None:
    async for number in signals:
        if number == signal.SIGUSR1:
            _reopen(sink, complain)
        elif number == signal.SIGHUP:
            complain("SIGHUP: this version does not reload its policy; restart it to run another one")
        else:
            end()


def _reopen(sink: Sink, complain: Callable[[str], None]) -> None:
    try:
        sink.reopen()
    except SinkError as error:
        complain(f"audit log: could not be reopened: {error}")


def _note(seams: Seams, policy: Policy, event: str, **facts: Any) -> None:  # noqa: ANN401 - fields of a Record
    """Put the daemon's own beginning or end on record."""
    record = Record(
        time=timestamp(seams.now()), event=event, policy=policy.name, digest=policy.digest[:DIGEST_DIGITS], **facts
    )
    try:
        seams.record(record)
    except SinkError as error:
        seams.complain(f"audit log: a {event} record could not be written: {error}")
