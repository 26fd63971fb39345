"""What a request asks of a proxy, read from an h11.Request in one way only.

The request target says where to; the Host field says nothing (RFC 9112 §3.2.2: a proxy ignores it, ATTACKS 4.1).
Nothing here judges whether the destination may be had.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxyd.http.framing import Malformed
from proxyd.policy.address import BadTarget, Destination, parse_absolute_form, parse_authority
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    import h11

MAX_MEMBERS = 256  # of Connection, Upgrade, Expect or Via

_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
    | {"COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "QUERY", "REPORT", "SEARCH", "TRACE", "UNLOCK"}
)
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_HOPS = re.compile(rb"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, understood.

    scheme: "connect" for a tunnel, else "http".
    origin_form: path and query as the origin will see them; "*" for OPTIONS without a path; "" for a tunnel.
    upgrade: whether a WebSocket is asked for.
    answer_here: whether it has come as far as Max-Forwards lets it (RFC 9110 §7.6.2).
    repeatable: whether it may be sent a second time where nobody heard the first (RFC 9110 §9.2.2), as it stands.
    """

    scheme: str
    destination: Destination
    origin_form: str
    upgrade: bool = False
    answer_here: bool = False
    repeatable: bool = False


def known_method(method: bytes) -> str:
    """The method for the log; one that nobody registered could be anything, a secret too, and is "other" (R7)."""
    word = method.decode("ascii")
    return word if word in _METHODS else "other"


def read_request(request: h11.Request, via: str) -> Asked:
    """Understand a request whose head passed `framing.check_head`. Raises Malformed.

    via: our own name in Via, in lower case; a request that bears it has been here before.
    """
    _refuse_what_we_do_not_speak(request)
    if any(member.split()[1:2] == [via] for member in field_tokens(request.headers, b"via")):
        raise Malformed("this request has passed here before", Reason.LOOP_DETECTED)
    target = request.target.decode("ascii")
    try:
        if request.method == b"CONNECT":
            return _read_connect(request, target)
        destination, path = parse_absolute_form(target)
    except BadTarget as bad:
        raise Malformed(str(bad), Reason.MALFORMED_TARGET) from None
    upgrade = _wants_websocket(request)
    return Asked(
        "http",
        destination,
        _origin_form(request.method, path),
        upgrade=upgrade,
        answer_here=_is_last_hop(request),
        repeatable=request.method in _SAFE and not upgrade and not _has_body(request),
    )


def field_tokens(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> frozenset[str]:
    """The members of a list field, in lower case. `name` and the names in `fields` are in lower case.

    Raises Malformed for one of more than MAX_MEMBERS members: each costs us more than it costs who sends it.
    """
    found = [value for field, value in fields if field == name]
    if not found:
        return frozenset()
    values = b",".join(found)
    if values.count(b",") >= MAX_MEMBERS:
        raise Malformed("a list field has too many members", Reason.HEAD_TOO_LARGE)
    return frozenset(token.strip().lower().decode("latin-1") for token in values.split(b",")) - {""}


def check_version(head: h11.Request | h11.InformationalResponse | h11.Response) -> None:
    """Refuse a version that is not ours, and what HTTP/1.0 does not know (RFC 9112 §6.1). Raises Malformed."""
    if head.http_version not in (b"1.0", b"1.1"):
        raise Malformed("the version is neither HTTP/1.0 nor HTTP/1.1", Reason.VERSION_UNSUPPORTED)
    if head.http_version == b"1.0" and any(name == b"transfer-encoding" for name, _ in head.headers):
        raise Malformed("HTTP/1.0 has no Transfer-Encoding")


def _refuse_what_we_do_not_speak(request: h11.Request) -> None:
    check_version(request)
    if request.method == b"TRACE":
        raise Malformed("TRACE would reflect credentials", Reason.METHOD_REFUSED)
    if request.http_version == b"1.1" and field_tokens(request.headers, b"expect") - {"100-continue"}:
        raise Malformed("the only expectation met is 100-continue", Reason.EXPECTATION_FAILED)


def _read_connect(request: h11.Request, target: str) -> Asked:
    """A CONNECT has no body; some read one where a length is given (RFC 9110 §9.3.6)."""
    if _has_body(request):
        raise Malformed("a CONNECT has no body")
    return Asked("connect", parse_authority(target), "")


def _origin_form(method: bytes, path: str) -> str:
    """RFC 9112 §3.2.1 and §3.2.4: an empty path is "/", and "*" for OPTIONS."""
    if not path and method == b"OPTIONS":
        return "*"
    return path if path.startswith("/") else f"/{path}"


def _wants_websocket(request: h11.Request) -> bool:
    """Whether to pass an upgrade on: to a WebSocket and nothing else, and only without a body to confuse it."""
    upgrades, options = (field_tokens(request.headers, name) for name in (b"upgrade", b"connection"))
    asked = "websocket" in upgrades and "upgrade" in options
    if not asked or request.method != b"GET" or request.http_version != b"1.1":
        return False
    if _has_body(request):
        raise Malformed("an upgrade has no body")
    return True


def _has_body(request: h11.Request) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers)


def _is_last_hop(request: h11.Request) -> bool:
    """Max-Forwards is for OPTIONS and TRACE; elsewhere it is an ordinary field (RFC 9110 §7.6.2)."""
    values = [value for name, value in request.headers if name == b"max-forwards"]
    if request.method != b"OPTIONS" or not values:
        return False
    if len(values) > 1 or not _HOPS.fullmatch(values[0]):
        raise Malformed("Max-Forwards is not one plain number")
    return int(values[0]) == 0
