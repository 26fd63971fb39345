"""What origins were sent, held to what one client asked for: whole requests in our framing, or the beginning of one.

h11 reads both sides as a server: the octets that the client sent, and the octets that each origin was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import h11

from tests.fuzz.strict import strict_head, values

if TYPE_CHECKING:
    from collections.abc import Sequence

Fields = list[tuple[bytes, bytes]]
Closing = Mapping[str, Any]

_OF_ONE_HOP: Final = frozenset({b"keep-alive", b"te", b"proxy-authorization", b"proxy-connection", b"proxy-status"})
_VOUCHING: Final = (b"x-forwarded-", b"x-real-ip", b"forwarded", b"x-remote-user")


@dataclass
class Request:
    """A request as h11 reads it. complete: whether all of it is there. rest: what is behind it."""

    method: str
    target: bytes
    fields: Fields
    version: bytes
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)
    complete: bool = False
    rest: bytes = b""


@dataclass(frozen=True)
class Sent:
    """What one origin was sent. owner: the closing record of the request that it was dialled for.

    whole: the origin never ceased to listen.
    """

    octets: bytes
    owner: Closing
    whole: bool


@dataclass(frozen=True)
class Carried:
    """A request that an origin was sent. begin: where in all that it was sent. rest: what was sent behind it."""

    asked: Request
    closing: Closing
    begin: int
    rest: bytes


def next_request(octets: bytes) -> Request | None:
    """The first request in these octets; None where they are none, or not the whole head of one."""
    reader = h11.Connection(h11.SERVER)
    found: Request | None = None
    if not octets:
        return None  # to h11 that were the end
    reader.receive_data(octets)
    try:
        while (event := reader.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request):
                found = Request(event.method.decode(), event.target, list(event.headers), event.http_version)
            elif isinstance(event, h11.Data) and found is not None:
                found.body += event.data
            elif isinstance(event, h11.EndOfMessage) and found is not None:
                found.complete, found.trailers = True, list(event.headers)
                found.rest = reader.trailing_data[0]
                break
    except h11.RemoteProtocolError:
        pass  # what is complete before it counts
    return found


def has_body(request: Request) -> bool:
    """Whether it says how long its body is."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in request.fields)


def requests_in(octets: bytes) -> list[Request]:
    """The requests in what a client sent, up to one that has no end, or asks for a tunnel.

    One empty line before each is nothing (RFC 9112 §2.2).
    """
    found: list[Request] = []
    while (request := next_request(octets.removeprefix(b"\r\n"))) is not None:
        found.append(request)
        if not request.complete or request.method == "CONNECT":
            break
        octets = request.rest
    return found


def hold(sent: Sent, requests: Sequence[Request], closings: Sequence[Closing], via: str) -> list[Carried]:
    """Hold what an origin was sent to what the client asked: the requests that it was sent.

    requests, closings: of all that the client asked. A request may be sent on a connection that was kept, and again on
    one of its own.
    """
    if sent.owner["scheme"] == "connect":
        asked = requests[closings.index(sent.owner)]
        assert asked.rest.startswith(sent.octets), f"{sent} is not what was said in the tunnel, {asked.rest!r}"
        return [Carried(asked, sent.owner, 0, sent.octets)]
    forwarded = [(each, number) for number, each in enumerate(closings) if _may_be_forwarded(each)]
    carried: list[Carried] = []
    octets = sent.octets
    for closing, number in forwarded[[one for one, _ in forwarded].index(sent.owner) :]:
        if not octets or (b"\r\n\r\n" not in octets and not sent.whole):
            return carried
        if closing["connect_ms"] is not None and closing is not sent.owner and not _is_it(octets, requests[number]):
            continue  # it had to have a connection of its own
        rest = _hold_one(octets, requests[number], closing, via)
        carried.append(Carried(requests[number], closing, len(sent.octets) - len(octets), rest))
        octets = b"" if closing["status"] == 101 else rest
    assert not octets, f"sent, and asked for by nobody: {octets!r}"
    return carried


def _may_be_forwarded(closing: Closing) -> bool:
    return (closing["scheme"], closing["verdict"]) == ("http", "allow") or closing["address"] is not None


def _is_it(octets: bytes, asked: Request) -> bool:
    """Whether these octets begin with this request."""
    method, target, _ = strict_head(octets)[0].split(b" ")
    return method == asked.method.encode() and asked.target.endswith(target)


def _hold_one(octets: bytes, asked: Request, closing: Closing, via: str) -> bytes:
    """Hold the first request in these octets to the one that was asked: what is behind it."""
    line, fields, _ = strict_head(octets)
    got = next_request(octets)
    assert got is not None, octets
    told = f"{octets!r} where {asked}"
    assert line == b"%b %b HTTP/1.1" % (asked.method.encode(), got.target), told
    assert got.target == b"*" or (got.target.startswith(b"/") and asked.target.endswith(got.target.removeprefix(b"/")))
    host = f"[{closing['host']}]" if ":" in closing["host"] else closing["host"]
    assert values(fields, b"host") == [(host if closing["port"] == 80 else f"{host}:{closing['port']}").encode()], told
    assert values(fields, b"via")[-1].endswith(b" " + via.encode()), told
    assert not _OF_ONE_HOP & {name for name, _ in fields}, told
    assert set(values(fields, b"connection")) <= {b"close", b"Upgrade"}, told
    if closing["client"] == "permitted" and closing["rule"] == "local-ui":
        assert not any(name.startswith(_VOUCHING) for name, _ in [*fields, *got.trailers]), told
    body = bytes(asked.body)
    assert body.startswith(got.body), told
    if got.complete:
        assert asked.complete, told
        assert body == got.body, told
        assert closing["bytes_up"] == len(body) or closing["outcome"] != "complete", told
    upgrade = values(fields, b"connection") == [b"Upgrade"]
    if closing["status"] == 101:
        assert upgrade, f"a protocol is switched to that nobody asked for: {told}"
        assert asked.rest.startswith(got.rest), told
    else:
        assert not (upgrade and got.rest), told
    return got.rest
