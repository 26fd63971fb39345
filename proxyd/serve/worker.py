"""One worker: listeners inside, sessions outside, so that those close while these finish; tunnels outlive both.

It wires the floors together, hears signals and its supervisor, and ends when it is told to; a session's rules are not
here.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from proxyd.audit.record import DIGEST_DIGITS, Record, timestamp
from proxyd.audit.sink import SinkError
from proxyd.net.dialer import dial
from proxyd.net.host import file_limit, own_addresses, tunnels_within
from proxyd.net.identity import Owners
from proxyd.net.parent import ParentDialer
from proxyd.net.resolver import Resolver
from proxyd.net.tunnels import Tunnels
from proxyd.observe.tally import Tally
from proxyd.serve.current import CurrentPolicy
from proxyd.serve.handover import AT_ONCE
from proxyd.serve.judge import Judge
from proxyd.serve.keyring import Keyring
from proxyd.serve.ledger import Ledger
from proxyd.serve.listener import Doorman, Listeners
from proxyd.serve.log import Log
from proxyd.serve.orders import Orders
from proxyd.serve.revocation import revoke, revoke_forever
from proxyd.serve.seams import Seams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from netaddr import IPNetwork

    from proxyd.audit.sink import Sink
    from proxyd.net.dialer import Dialled
    from proxyd.policy.verdict import Allow
    from proxyd.serve.channel import Channel
    from proxyd.serve.given import Given

BEAT_SECONDS: Final = 1.0  # between two signs of life


async def serve(given: Given, sink: Sink, channel: Channel, complain: Callable[[str], None]) -> None:
    """Serve what is given until SIGTERM, then drain; AT_ONCE ends at once.

    channel: to the supervisor, who may give something else later, and whose end is ours.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1, AT_ONCE) as signals, ExitStack() as at_last:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what came before anybody could hear it is heard now
        async with trio.open_nursery() as background:
            worker = Worker(given, sink, complain, background)
            at_last.callback(worker.close)
            worker.note("start", listening=given.described)
            with trio.CancelScope() as patience:
                async with trio.open_nursery() as sessions, trio.open_nursery() as accepting:
                    listeners = Listeners(worker.doorman, accepting, sessions, complain)
                    listeners.change(given.listeners)
                    accepting.start_soon(_beat, worker.tally)
                    end = _End(worker, accepting, patience)
                    background.start_soon(_hear, signals, worker.log, end)
                    background.start_soon(_obey, Orders(channel, given, partial(worker.install, listeners)), end)
                    background.start_soon(revoke_forever, worker.seams)
                await worker.tunnels.drained()
            worker.tunnels.revoke(lambda _: True, "aborted")
            worker.note("stop", connections=worker.doorman.served)
            background.cancel_scope.cancel()


def utc_now() -> dt.datetime:
    """The time of day, in UTC."""
    return dt.datetime.now(dt.UTC)


class Worker:
    """The floors wired together, for what is given; and again, where something else is given later."""

    def __init__(self, given: Given, sink: Sink, complain: Callable[[str], None], background: trio.Nursery) -> None:
        self._complain = complain
        self._addresses = given.addresses
        self._current = CurrentPolicy(given.in_force, utc_now, self._own_addresses, complain)
        self._ledger = Ledger(given.ledger, given.place, given.handover.workers, given.handover.ledger, time.monotonic)
        self._resolver = Resolver(background, given.routes)
        self.tally = Tally(given.tally, given.place, given.handover.ledger)
        self.log = Log(sink, self.tally, complain)
        self.tunnels = Tunnels()
        background.start_soon(self.tunnels.run)
        self.seams = Seams(
            snapshot=self._current,
            judge=Judge(),
            resolve=self._resolver.resolve,
            dial=self._dial,
            record=self.log.write,
            took=self.tally.took,
            now=utc_now,
            ledger=self._ledger,
            keyring=Keyring(),
            via=given.handover.via,
            complain=complain,
            tunnels=self.tunnels,
        )
        self._owners = Owners()
        peer = given.handover.peer
        owner_of = self._owners.of if peer is None else lambda _: peer
        self.doorman = Doorman(self.seams, owner_of, tunnels_within(file_limit()), self.tally)
        self.doorman.tls = given.tls

    def close(self) -> None:
        """Let go of what outlives every client."""
        self._owners.close()
        self._ledger.close()
        self.tally.close()

    async def _dial(self, allow: Allow) -> Dialled:
        """As the policy of this moment says: directly, or through the parent and never otherwise."""
        parent = self._current().policy.parent
        return await (dial(allow) if parent is None else ParentDialer(parent, self._complain).dial(allow))

    def install(self, listeners: Listeners, given: Given) -> int:
        """Take something else into use: how many connections that cut."""
        self._addresses = given.addresses
        self._current.install(given.in_force)
        self._ledger.change(given.ledger, given.handover.ledger)
        self.tally.change(given.tally, given.handover.ledger)
        self._resolver.change(given.routes)
        self.doorman.tls = given.tls
        if given.sink is not None:
            self.log.change(given.sink)
        listeners.change(given.listeners)
        return revoke(self.seams)

    def note(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - fields of a Record
        """Put this worker's own beginning or end on record."""
        policy = self._current().policy
        record = Record(
            time=timestamp(utc_now()),
            event=event,
            pid=os.getpid(),
            policy=policy.name,
            digest=policy.digest[:DIGEST_DIGITS],
            **facts,
        )
        try:
            self.log.write(record)
        except SinkError as error:
            self._complain(f"audit log: a {event} record could not be written: {error}")

    @property
    def drain_seconds(self) -> float:
        """How long what runs may take to its end."""
        return self._current().policy.limits.drain_seconds

    def _own_addresses(self) -> frozenset[IPNetwork]:
        return own_addresses() | self._addresses


@dataclass(slots=True)
class _End:
    """The two steps of ending: no more clients, then no more patience."""

    worker: Worker
    accepting: trio.Nursery
    patience: trio.CancelScope

    def begin(self) -> None:
        """Drain. Whoever asks again is not in a greater hurry."""
        drain = self.worker.seams.drain
        if not drain.begun:
            self.accepting.cancel_scope.cancel()
            self.patience.deadline = trio.current_time() + self.worker.drain_seconds
            drain.begin()

    def at_once(self) -> None:
        """Wait for nobody."""
        self.patience.cancel()


async def _beat(tally: Tally) -> None:
    """Show that clients are let in here, and that somebody sees to them."""
    try:
        while True:
            tally.beat(time.monotonic(), trio.lowlevel.current_statistics().tasks_living)
            await trio.sleep(BEAT_SECONDS)
    finally:
        tally.rest()


async def _hear(signals: AsyncIterator[int], log: Log, end: _End) -> None:
    async for number in signals:
        if number == signal.SIGUSR1:
            log.reopen()
        elif number == AT_ONCE:
            end.at_once()
        else:
            end.begin()


async def _obey(orders: Orders, end: _End) -> None:
    """Drain when the supervisor is gone, however it went: nobody restarts or ends us any more."""
    await orders.follow()
    end.begin()
