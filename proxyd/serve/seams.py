"""What a session is given from outside: plain callables, so that a test passes functions. No logic lives here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxyd.serve.crowd import Crowd
from proxyd.serve.drain import Drain

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Awaitable, Callable

    from proxyd.audit.record import Record
    from proxyd.net.dialer import Dialled
    from proxyd.net.tunnels import Tunnels
    from proxyd.policy.address import Resolution
    from proxyd.policy.snapshot import Snapshot
    from proxyd.policy.verdict import Allow
    from proxyd.serve.exchange import Exchange
    from proxyd.serve.judge import Verdict
    from proxyd.serve.keyring import Keyring
    from proxyd.serve.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """The world, as a session sees it.

    snapshot: the policy as it stands now. judge: `decide`, or what says the same.
    resolve: given a name and the client who asks; raises DnsError. dial: raises DialError.
    record: returns when the record is written; raises SinkError. now: the time of day, in UTC.
    took: counts how many seconds something took.
    ledger: what is used of the limits. keyring: who knows his password.
    via: our name in Via. complain: a line for the operator, outside the audit log.
    drain: who waits when the end is announced. crowd: who can make room for others.
    live: the exchanges that a new policy may have to cut.
    tunnels: where tunnels between two sockets live once they stand; None where there can be no pool.
    """

    snapshot: Callable[[], Snapshot]
    judge: Callable[..., Verdict]
    resolve: Callable[[str, str], Awaitable[Resolution]]
    dial: Callable[[Allow], Awaitable[Dialled]]
    record: Callable[[Record], None]
    took: Callable[[str, float], None]
    now: Callable[[], dt.datetime]
    ledger: Ledger
    keyring: Keyring
    via: str
    complain: Callable[[str], None]
    tunnels: Tunnels | None = None
    drain: Drain = field(default_factory=Drain)
    crowd: Crowd = field(default_factory=Crowd)
    live: set[Exchange] = field(default_factory=set)
