"""The Record: everything logged, counted or shown of a request derives from this one type.

Redaction is by construction: there is no field for a header, a path, a query, a body or a credential, and each
field that a client can influence is already in normal form when it gets here (a host is letters, digits, dots and
hyphens; a method is a known word). `schema` publishes the format. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

SCHEMA: Final = 1
"""The number of this record format. A field may be added under the same number; none changes its meaning."""

MAX_ADDRESSES: Final = 16  # of a DNS answer, in one record; `truncated` says when there were more

DIGEST_DIGITS: Final = 16
"""Hex digits of the policy's digest in a record: enough to tell policies apart, and to read."""

# event -> the fields that its records have, in this order
_SUBJECT = ("client", "client_address", "user", "method", "scheme", "host", "port")
_JUDGEMENT = ("verdict", "reason", "rule", "refused", "would", "status")
_POLICY = ("policy", "digest")
FIELDS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "start": ("schema", "time", "event", "pid", "listening", *_POLICY, "truncated"),
    "decision": (
        *("schema", "time", "event", "id", *_SUBJECT, "addresses", *_JUDGEMENT, *_POLICY, "dns_ms", "truncated"),
    ),
    "close": (
        *("schema", "time", "event", "id", *_SUBJECT, "address", *_JUDGEMENT, *_POLICY, "outcome"),
        *("bytes_up", "bytes_down", "dns_ms", "connect_ms", "first_byte_ms", "duration_ms", "truncated"),
    ),
    "stop": ("schema", "time", "event", "pid", "connections", *_POLICY),
    "reload": (
        *("schema", "time", "event", "pid", "outcome", "problems", "changes", "revoked", *_POLICY, "truncated"),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One line of the audit log. None means: not applicable, or not known.

    Times are RFC 3339 in UTC, durations are milliseconds, bytes are payload between client and origin.
    """

    time: str
    event: str
    id: str | None = None
    client: str | None = None
    client_address: str | None = None
    user: str | None = None
    method: str | None = None
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    addresses: tuple[str, ...] | None = None
    address: str | None = None
    verdict: str | None = None
    reason: str | None = None
    rule: str | None = None
    refused: str | None = None
    would: str | None = None
    status: int | None = None
    policy: str | None = None
    digest: str | None = None
    outcome: str | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    dns_ms: float | None = None
    connect_ms: float | None = None
    first_byte_ms: float | None = None
    duration_ms: float | None = None
    pid: int | None = None
    listening: tuple[str, ...] = ()
    connections: int = 0
    problems: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    revoked: int = 0
    schema: int = SCHEMA
    truncated: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The fields of this event, in their documented order."""
        return {name: getattr(self, name) for name in FIELDS_OF[self.event]}


def timestamp(now: dt.datetime) -> str:
    """A time of day in UTC as the records spell it (RFC 3339)."""
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
