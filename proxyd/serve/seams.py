"""What a session is given from outside: plain callables, so that a test passes functions. No logic lives here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxyd.serve.drain import Drain

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Awaitable, Callable

    from proxyd.audit.record import Record
    from proxyd.net.dialer import Dialled
    from proxyd.policy.address import Resolution
    from proxyd.policy.model import Snapshot
    from proxyd.policy.verdict import Allow


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """The world, as a session sees it.

    snapshot: the policy as it stands now. resolve: raises DnsError. dial: raises DialError.
    record: returns when the record is written; raises SinkError. now: the time of day, in UTC.
    via: our name in Via. complain: a line for the operator, outside the audit log.
    """

    snapshot: Callable[[], Snapshot]
    resolve: Callable[[str], Awaitable[Resolution]]
    dial: Callable[[Allow], Awaitable[Dialled]]
    record: Callable[[Record], None]
    now: Callable[[], dt.datetime]
    via: str
    complain: Callable[[str], None]
    drain: Drain = field(default_factory=Drain)
