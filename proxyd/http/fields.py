"""Header fields as they leave us: what belongs to one hop stays on it, and nothing forges a trusted proxy.

Pure rewriting of h11 events. Framing fields are left to h11, which frames each message anew.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from proxyd.http.request import field_tokens
from proxyd.policy.address import bracketed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from proxyd.http.request import Asked
    from proxyd.policy.address import Destination

Fields = list[tuple[bytes, bytes]]
Message = h11.Request | h11.InformationalResponse | h11.Response | h11.EndOfMessage

OUR_NAME: Final = "proxyd"
"""Our name in Proxy-Status (RFC 9209 §2)."""

# RFC 9110 §7.6.1, and the fields of a proxy's own conversation with its client (§11.7).
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"upgrade"})
# What `Connection: …` must not take away, or a message would change its framing or its destination.
_PROTECTED = frozenset({b"host", b"content-length", b"transfer-encoding", b"via"})
# What a reverse proxy in front of a private destination would be trusted for (MISSION: trusted-proxy auth).
_IDENTITY = frozenset({b"forwarded", b"x-forwarded-", b"x-real-ip", b"x-openclaw-scopes"})
# What would change the meaning of a message after it was judged (RFC 9110 §6.5.1).
_NO_TRAILERS = frozenset(
    {b"authorization", b"cache-control", b"content-encoding", b"content-length", b"content-range", b"content-type"}
    | {b"cookie", b"expect", b"host", b"max-forwards", b"set-cookie", b"trailer", b"transfer-encoding", b"via"}
)
_UPGRADE: Final[Fields] = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
_STRUCTURED_MEMBER = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*")+')


def request_to_origin(request: h11.Request, asked: Asked, via: str, *, drop_identity: bool) -> h11.Request:
    """The request as the origin gets it: origin-form, its own Host first, on a connection for itself alone.

    via: our name in Via. drop_identity: leave out what a trusted proxy would vouch with.
    """
    kept = _without(_IDENTITY, _end_to_end(request)) if drop_identity else _end_to_end(request)
    fields = [(b"Host", host_field(asked.destination)), *_without({b"host"}, _count_hops(request.method, kept))]
    fields.append((b"Via", _via(request.http_version, via)))
    fields += _UPGRADE if asked.upgrade else [(b"Connection", b"close")]
    return h11.Request(method=request.method, target=asked.origin_form, headers=fields)


def response_to_client(response: h11.Response, via: str) -> h11.Response:
    """A final response as the client gets it. h11 adds the framing that the client understands."""
    empty = response.status_code == HTTPStatus.NO_CONTENT  # must not say how long it is (RFC 9110 §8.6)
    framing = {b"transfer-encoding", b"content-length"} if empty else {b"transfer-encoding"}
    fields = _without(framing, _without_our_status(_end_to_end(response)))
    fields.append((b"Via", _via(response.http_version, via)))
    return h11.Response(status_code=response.status_code, headers=fields, reason=response.reason)


def informational_to_client(response: h11.InformationalResponse) -> h11.InformationalResponse:
    """An interim response as the client gets it; a 101 keeps the upgrade it grants."""
    framing = {b"transfer-encoding", b"content-length"}
    fields = _without(framing, _without_our_status(_end_to_end(response)))
    fields += _UPGRADE if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS else []
    return h11.InformationalResponse(status_code=response.status_code, headers=fields, reason=response.reason)


def trailers(message: h11.EndOfMessage, *, drop_identity: bool = False) -> Fields:
    """The trailer fields that may be passed on, by the same rules as a head (RFC 9110 §6.5.1)."""
    return _without(_NO_TRAILERS | (_IDENTITY if drop_identity else set()), _end_to_end(message))


def host_field(destination: Destination) -> bytes:
    """The Host of a request to `destination`; the port only where it is not 80 (RFC 9110 §7.2)."""
    return (bracketed(destination.host) if destination.port == 80 else str(destination)).encode()  # noqa: PLR2004


def grants_websocket(response: h11.InformationalResponse) -> bool:
    """Whether a 101 switches to the one protocol we asked for."""
    return field_tokens(response.headers, b"upgrade") == {"websocket"}


def _end_to_end(message: Message) -> Fields:
    """Without hop-by-hop fields, those that Connection names, and Proxy-* (but a response's Proxy-Status)."""
    named = {name.encode("latin-1") for name in field_tokens(message.headers, b"connection")} - _PROTECTED
    return [
        (name, value)
        for name, value in _without(_HOP_BY_HOP | named, message.headers.raw_items())
        if not name.lower().startswith(b"proxy-") or name.lower() == b"proxy-status"
    ]


def _without(names: AbstractSet[bytes], fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The fields that bear none of `names`, nor a name that one of them ending in "-" begins."""
    prefixes = tuple(name for name in names if name.endswith(b"-"))
    return [
        (name, value)
        for name, value in fields
        if name.lower() not in names and not (prefixes and name.lower().startswith(prefixes))
    ]


def _count_hops(method: bytes, fields: Fields) -> Fields:
    """Max-Forwards one less, where it counts (RFC 9110 §7.6.2)."""
    if method != b"OPTIONS":
        return fields
    return [(name, b"%d" % (int(value) - 1) if name.lower() == b"max-forwards" else value) for name, value in fields]


def _via(version: bytes, name: str) -> bytes:
    """RFC 9110 §7.6.3: the version in which the message was received, and who received it."""
    return version + b" " + name.encode()


def _without_our_status(fields: Fields) -> Iterable[tuple[bytes, bytes]]:
    """Without members of Proxy-Status that bear our name: an origin must not speak for us (R11)."""
    for name, value in fields:
        if name.lower() != b"proxy-status":
            yield name, value
        elif kept := b",".join(member for member in _STRUCTURED_MEMBER.findall(value) if not _is_ours(member)):
            yield name, kept.strip()


def _is_ours(member: bytes) -> bool:
    return member.partition(b";")[0].strip(b' \t"').lower() == OUR_NAME.encode()
