"""`shown_credential`: what it reads is what RFC 7617 and RFC 4648 say, and all else shows nothing (R2, R7).

A line each is a value of Proxy-Authorization. A credential has one spelling but for the scheme's case and the spaces
behind it, and its password is in nothing that could be logged.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import replace
from typing import Final

import h11
from hypothesis import strategies as st

from proxyd.http.credential import shown_credential
from proxyd.http.framing import Malformed
from tests.fuzz.strict import says_nothing
from tests.fuzz.target import Target

_BASIC: Final = re.compile(rb"basic +([A-Za-z0-9+/]+=*)", re.IGNORECASE)  # RFC 9110 §11.4, RFC 4648 §4


def _attempt(data: bytes) -> str:
    values = data.split(b"\n", 2) if data else []
    fields = [
        (b"host", b"x"),
        *((b"Proxy-Authorization", value) for value in values),
        (b"authorization", b"Basic eDp5"),
    ]
    try:
        request = h11.Request(method="GET", target="/", headers=fields)
    except h11.LocalProtocolError:
        return "no field"
    try:
        shown = shown_credential(request.headers)
    except Malformed as malformed:
        assert len(values) > 1
        says_nothing(malformed, "proxyd.http.credential")
        return "several"
    assert len(values) <= 1, "one of several is chosen"
    expected = _by_the_book(values[0]) if values else None
    assert (shown and (shown.user, shown.password)) == expected
    if shown is None:
        return "none"
    assert values[0].split()[1] == base64.b64encode(f"{shown.user}:{shown.password}".encode()), "it has two spellings"
    assert repr(shown) == str(shown) == repr(replace(shown, password="")), "the password shows"
    return "one"


def _by_the_book(value: bytes) -> tuple[str, str] | None:
    """RFC 7617 §2: user-id and password behind `Basic`, in strict base64 of UTF-8 without controls."""
    token = _BASIC.fullmatch(value)
    if token is None:
        return None
    try:
        octets = binascii.a2b_base64(token[1], strict_mode=True)
        text = octets.decode("utf-8", "strict")
    except ValueError:
        return None
    stray_bits = binascii.b2a_base64(octets, newline=False) != token[1]  # RFC 4648 §3.5
    if stray_bits or any(ord(each) < 0x20 or ord(each) == 0x7F for each in text) or ":" not in text:
        return None
    user, password = text.split(":", 1)
    return user, password


def _basic(octets: bytes, scheme: bytes = b"Basic ") -> bytes:
    return scheme + base64.b64encode(octets)


_texts = st.text(max_size=20).map(str.encode) | st.binary(max_size=20)
_values = st.one_of(
    st.builds(
        lambda scheme, user, password, behind: _basic(user + b":" + password, scheme) + behind,
        st.sampled_from([b"Basic ", b"basic  ", b"BASIC ", b"Bearer ", b"Basic\t"]),
        _texts,
        _texts,
        st.sampled_from([b"", b"", b"", b"=", b" x", b","]),
    ),
    _texts.map(_basic),
    _texts,
)

TARGET: Final = Target(
    attempt=_attempt,
    about=("proxyd.http.credential",),
    seeds={
        "RFC 7617": b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        "RFC 7617, UTF-8": b"Basic dGVzdDoxMjPCow==",
        "OpenClaw's": b"Basic dXNAZXI6cGE6c3Mgw7Y=",
        "scheme": b"bAsIc   YTpi",
        "empty": _basic(b":"),
        "no field": b"Basic YTpi\r",
        "none": b"",
        "no value": b"\n",
        "no colon": _basic(b"user"),
        "no UTF-8": _basic(b"a:\xff"),
        "NUL behind it": _basic(b"a:b\0"),
        "other letters": b"Basic YTp_",
        "skipped letters": b"Basic YT-pi",
        "stray bits": b"Basic YTp=",
        "more padding": b"Basic YTpi====",
        "padding inside": b"Basic YQ==OmI=",
        "two words": b"Basic YTpi YTpi",
        "other scheme": b"Digest username=a",
        "another scheme's name": b"Basically YTpi",
        "the same twice": b"Basic YTpi\nBasic YTpi",
        "and an empty one": b"Basic YTpi\n",
    },
    inputs=st.lists(_values, max_size=2).map(b"\n".join),
    outcomes=frozenset({"no field", "several", "none", "one"}),
    longest=512,
    words=(b"Basic ", b"\n", b"==", b"YTpi"),
)
