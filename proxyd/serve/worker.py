"""One worker: listeners inside, sessions outside, so that those close while these finish; tunnels outlive both.

It wires the floors together, hears signals, and ends when it is told to; a session's rules are not here.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from netaddr import IPNetwork

from proxyd.audit.record import DIGEST_DIGITS, Record, timestamp
from proxyd.audit.sink import SinkError
from proxyd.net.dialer import dial
from proxyd.net.host import own_addresses
from proxyd.net.listening import bound_to
from proxyd.net.resolver import Resolver
from proxyd.net.tunnels import Tunnels
from proxyd.serve.current import CurrentPolicy
from proxyd.serve.handover import AT_ONCE
from proxyd.serve.judge import Judge
from proxyd.serve.listener import Doorman, accept_forever
from proxyd.serve.seams import Seams

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from proxyd.audit.sink import Sink
    from proxyd.policy.model import Policy
    from proxyd.serve.handover import Handover


async def serve(
    policy: Policy,
    handover: Handover,
    sockets: list[socket.socket],
    sink: Sink,
    complain: Callable[[str], None],
    leash: int,
) -> None:
    """Serve on listening `sockets` until SIGTERM, then drain; AT_ONCE ends at once.

    sink: where the records go; reopened on SIGUSR1. leash: a pipe, whose end means that the supervisor is gone.
    """
    endpoints = [bound_to(sock) for sock in sockets]
    ports = frozenset(each.port for each in endpoints)
    bound = frozenset(IPNetwork(each.address) for each in endpoints)
    current = CurrentPolicy(policy, ports, utc_now, lambda: own_addresses() | bound, complain)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1, AT_ONCE) as signals:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what came before anybody could hear it is heard now
        async with trio.open_nursery() as background:
            tunnels = Tunnels()
            background.start_soon(tunnels.run)
            seams = Seams(
                snapshot=current,
                judge=Judge(),
                resolve=Resolver(background, handover.servers).resolve,
                dial=dial,
                record=sink.write,
                now=utc_now,
                via=handover.via,
                complain=complain,
                tunnels=tunnels,
            )
            doorman = Doorman(seams, max(1, policy.limits.connections // handover.workers))
            _note(seams, policy, "start", pid=os.getpid(), listening=tuple(map(str, endpoints)))
            with trio.CancelScope() as patience:
                async with trio.open_nursery() as sessions, trio.open_nursery() as listeners:
                    end = _End(seams, listeners, patience, policy.limits.drain_seconds)
                    background.start_soon(_hear, signals, sink, end, complain)
                    background.start_soon(_outlive_nobody, leash, end)
                    for sock in sockets:
                        listeners.start_soon(accept_forever, sock, doorman, sessions, complain)
                await tunnels.drained()
            tunnels.revoke(lambda _: True, "aborted")
            _note(seams, policy, "stop", pid=os.getpid(), connections=doorman.served)
            background.cancel_scope.cancel()


def utc_now() -> dt.datetime:
    """The time of day, in UTC."""
    return dt.datetime.now(dt.UTC)


@dataclass(slots=True)
class _End:
    """The two steps of ending: no more clients, then no more patience."""

    seams: Seams
    listeners: trio.Nursery
    patience: trio.CancelScope
    drain_seconds: float

    def begin(self) -> None:
        """Drain. Whoever asks again is not in a greater hurry."""
        if not self.seams.drain.begun:
            self.listeners.cancel_scope.cancel()
            self.patience.deadline = trio.current_time() + self.drain_seconds
            self.seams.drain.begin()

    def at_once(self) -> None:
        """Wait for nobody."""
        self.patience.cancel()


async def _hear(signals: AsyncIterator[int], sink: Sink, end: _End, complain: Callable[[str], None]) -> None:
    async for number in signals:
        if number == signal.SIGUSR1:
            _reopen(sink, complain)
        elif number == AT_ONCE:
            end.at_once()
        else:
            end.begin()


async def _outlive_nobody(leash: int, end: _End) -> None:
    """Drain when the supervisor is gone, however it went: nobody restarts or ends us any more."""
    await trio.lowlevel.wait_readable(leash)
    end.begin()


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
