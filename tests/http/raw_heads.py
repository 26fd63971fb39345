"""Raw heads, read as the daemon will read them: the framing first, then h11, then what is asked."""

from __future__ import annotations

from typing import Final

import h11

from proxyd.http.framing import MAX_HEAD, Malformed, check_head
from proxyd.http.request import Asked, read_request
from proxyd.policy.verdict import Reason

VIA: Final = "gateway"
"""Our name in Via."""


def head(*fields: str, line: str = "POST http://example.com/ HTTP/1.1", host: str | None = "example.com") -> bytes:
    """A request head with its line ends; a field may hold any character up to U+00FF."""
    hosts = () if host is None else (f"Host: {host}",)
    return "\r\n".join((line, *hosts, *fields, "", "")).encode("latin-1")


def request_of(raw: bytes) -> h11.Request:
    """What h11 makes of a head. Raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


def read(raw: bytes) -> Asked:
    """What is asked. Raises Malformed, or h11.RemoteProtocolError, whichever of the three refuses first."""
    check_head(raw)
    return read_request(request_of(raw), VIA)


def understand(raw: bytes) -> Asked | Reason:
    """What is asked, or why not. h11 gives no reason of ours: what it refuses is malformed."""
    try:
        return read(raw)
    except Malformed as malformed:
        return malformed.reason
    except h11.RemoteProtocolError:
        return Reason.MALFORMED_REQUEST


def said(error: Exception) -> str:
    """All the words that a log of this error could show."""
    hidden = error.__suppress_context__ or error.__context__ is None
    return f"{error} {error!r} {error.__cause__!r} {'' if hidden else error.__context__!r}"
