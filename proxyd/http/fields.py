"""Header fields as they leave us: what belongs to one hop stays on it, and nothing forges a trusted proxy.

Pure rewriting of h11 events. Framing fields are left to h11, which frames each message anew.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from proxyd.http.proxy_status import members_of_others
from proxyd.http.request import field_tokens
from proxyd.policy.address import bracketed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from collections.abc import Set as AbstractSet

    from proxyd.http.request import Asked
    from proxyd.policy.address import Destination

Fields = list[tuple[bytes, bytes]]
Message = h11.Request | h11.InformationalResponse | h11.Response | h11.EndOfMessage

# RFC 9110 §7.6.1, and the fields of a proxy's own conversation with its client (§11.7).
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"upgrade"})
# What `Connection: …` must not take away, or a message would change its framing or its destination.
_PROTECTED = frozenset({b"host", b"content-length", b"transfer-encoding", b"via"})
# What a reverse proxy in front of a private destination would be trusted for, in the spelling of `_plain`: forwarding
# fields, and those in which the common authenticating proxies vouch for a user (MISSION: trusted-proxy auth).
_IDENTITY = frozenset(
    {b"forwarded", b"x-real-ip", b"true-client-ip", b"client-ip", b"cf-connecting-ip", b"fastly-client-ip"}
    | {
        b"x-user",
        b"x-user-id",
        b"x-username",
        b"x-userinfo",
        b"x-email",
        b"x-originating-ip",
        b"x-cluster-client-ip",
        b"x-host",
    }
    | {b"sm-user", b"x-token-subject", b"x-rewrite-url", b"x-arr-clientcert", b"x-azure-clientip"}
)
_IDENTITY_PREFIXES = (
    *(b"x-forwarded", b"x-original-", b"x-client-", b"x-remote-", b"remote-", b"x-envoy-", b"x-ssl-", b"ssl-client"),
    *(b"x-openclaw-", b"x-auth-request-", b"x-auth-user", b"x-authuser", b"x-auth-email", b"x-authenti"),
    *(b"x-webauth-", b"x-vouch-", b"x-pomerium-", b"x-consumer-", b"x-amzn-oidc-"),
    *(b"tailscale-", b"cf-access-", b"x-goog-authenticated-user-", b"x-ms-client-principal", b"oidc-", b"impersonate-"),
)
# What would change the meaning of a message after it was judged (RFC 9110 §6.5.1).
_NO_TRAILERS = frozenset(
    {b"authorization", b"cache-control", b"content-encoding", b"content-length", b"content-range", b"content-type"}
    | {b"age", b"date", b"expires", b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"location"}
    | {b"pragma", b"range", b"retry-after", b"vary", b"www-authenticate"}
    | {b"cookie", b"expect", b"host", b"max-forwards", b"set-cookie", b"trailer", b"transfer-encoding", b"via"}
)
_UPGRADE: Final[Fields] = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
_PUNCTUATION = re.compile(rb"[^a-z0-9]")


def request_to_origin(
    request: h11.Request, asked: Asked, via: str, *, without_identity: Collection[str] | None, keep: bool = False
) -> h11.Request:
    """The request as the origin gets it: origin-form, its own Host first.

    via: our name in Via. without_identity: leave out what a trusted proxy would vouch with, and headers of these names
    besides; None leaves them in. keep: whether another request may follow on the same connection.
    """
    replaced = {b"host", b"proxy-status"} if request.http_version > b"1.0" else {b"host", b"proxy-status", b"expect"}
    kept = _without(replaced, _end_to_end(request))
    fields = [(b"Host", host_field(asked.destination)), *_count_hops(request.method, kept)]
    fields = fields if without_identity is None else _without_identity(fields, without_identity)
    fields.append((b"Via", _via(request.http_version, via)))
    if asked.upgrade:
        fields += _UPGRADE
    elif not keep:
        fields.append((b"Connection", b"close"))
    return h11.Request(method=request.method, target=asked.origin_form, headers=_plain_length(fields))


def response_to_client(response: h11.Response, via: str) -> h11.Response:
    """A final response as the client gets it. h11 adds the framing that the client understands."""
    empty = response.status_code == HTTPStatus.NO_CONTENT  # must not say how long it is (RFC 9110 §8.6)
    framing = {b"transfer-encoding", b"content-length"} if empty else {b"transfer-encoding"}
    fields = _without(framing, _without_our_status(_end_to_end(response)))
    fields.append((b"Via", _via(response.http_version, via)))
    return h11.Response(status_code=response.status_code, headers=_plain_length(fields), reason=response.reason)


def informational_to_client(response: h11.InformationalResponse) -> h11.InformationalResponse:
    """An interim response as the client gets it; a 101 keeps the upgrade it grants."""
    framing = {b"transfer-encoding", b"content-length"}
    fields = _without(framing, _without_our_status(_end_to_end(response)))
    fields += _UPGRADE if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS else []
    return h11.InformationalResponse(status_code=response.status_code, headers=fields, reason=response.reason)


def trailers(message: h11.EndOfMessage, *, without_identity: Collection[str] | None = None) -> Fields:
    """The trailer fields that may be passed on, by the same rules as a head (RFC 9110 §6.5.1)."""
    fields = _without(_NO_TRAILERS, _without_our_status(_end_to_end(message)))
    return fields if without_identity is None else _without_identity(fields, without_identity)


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
    """The fields that bear none of `names`."""
    return [(name, value) for name, value in fields if name.lower() not in names]


def _plain_length(fields: Fields) -> Fields:
    """Content-Length written anew: a reader that takes `010` for octal must not disagree with us."""
    return [(name, b"%d" % int(value) if name.lower() == b"content-length" else value) for name, value in fields]


def _without_identity(fields: Fields, more: Collection[str]) -> Fields:
    """The fields in which nobody vouches for anybody; what a message cannot do without stays."""
    identity = (_IDENTITY | {_plain(name.encode()) for name in more}) - _PROTECTED
    return [
        (name, value)
        for name, value in fields
        if _plain(name) not in identity and not _plain(name).startswith(_IDENTITY_PREFIXES)
    ]


def _plain(name: bytes) -> bytes:
    """A name as gateways to CGI and the like read it: there `X_Forwarded.User` and `X-Forwarded-User` are one."""
    return _PUNCTUATION.sub(b"-", name.lower())


def _count_hops(method: bytes, fields: Fields) -> Fields:
    """Max-Forwards one less, where it counts (RFC 9110 §7.6.2)."""
    if method != b"OPTIONS":
        return fields
    return [(name, b"%d" % (int(value) - 1) if name.lower() == b"max-forwards" else value) for name, value in fields]


def _via(version: bytes, name: str) -> bytes:
    """RFC 9110 §7.6.3: the version in which the message was received, and who received it."""
    return version + b" " + name.encode()


def _without_our_status(fields: Fields) -> Fields:
    """Without members of Proxy-Status that bear our name: an origin must not speak for us (R11).

    A field whose quotes do not end could hide one, and is dropped whole.
    """
    kept: Fields = []
    for name, value in fields:
        if name.lower() != b"proxy-status":
            kept.append((name, value))
        elif members := members_of_others(value):
            kept.append((name, members))
    return kept
