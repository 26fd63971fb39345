"""Requests that look like ambiguous ones and have one reading only, each with the framing in which it must leave us."""

from __future__ import annotations

from dataclasses import dataclass

from tests.adversarial.ambiguities import HEAD, INSIDE


@dataclass(frozen=True)
class Clear:
    """A request that has one reading, whatever it looks like: as it is sent, and as an origin must get it.

    last: nothing behind it is read as a request. upgrade: it asks the origin for a WebSocket.
    """

    sent: str
    line: str = "POST /first HTTP/1.1"
    fields: str = ""
    body: str = ""
    last: bool = False
    upgrade: bool = False


def _get(*fields: str, target: str = "http://ORIGIN/first", method: str = "GET", version: str = "1.1") -> str:
    return "\r\n".join((f"{method} {target} HTTP/{version}", "Host: ORIGIN", *fields, "", ""))


def _post(fields: str, body: str) -> str:
    return f"{HEAD}{fields}\r\n\r\n{body}"


_LENGTH = "Content-Length: 5\r\n"
_CODED = "Transfer-Encoding: chunked\r\n"
_HELLO = "5\r\nhello\r\n0\r\n\r\n"
_GET = "GET /first HTTP/1.1"

CLEAR = {
    # §2.2: one empty line before a request, or behind a body, is nothing.
    "empty line before": Clear("\r\n" + _get(), _GET),
    "empty line behind": Clear(_post("Content-Length: 5", "hello\r\n"), fields=_LENGTH, body="hello"),
    # §3.2: the target in absolute-form; what it says behind the authority is the origin's.
    "no path": Clear(_get(target="http://ORIGIN"), "GET / HTTP/1.1"),
    "no path, query": Clear(_get(target="http://ORIGIN?a=b"), "GET /?a=b HTTP/1.1"),
    "no path, OPTIONS": Clear(_get(target="http://ORIGIN", method="OPTIONS"), "OPTIONS * HTTP/1.1"),
    "a path of two slashes": Clear(_get(target="http://ORIGIN//x/"), "GET //x/ HTTP/1.1"),
    "a URL as path": Clear(_get(target="http://ORIGIN/http://x/"), "GET /http://x/ HTTP/1.1"),
    "a path of odd octets": Clear(_get(target='http://ORIGIN/\\..;|<>"^{}`'), 'GET /\\..;|<>"^{}` HTTP/1.1'),
    "encoded line ends": Clear(_get(target="http://ORIGIN/%0d%0aX:%20y"), "GET /%0d%0aX:%20y HTTP/1.1"),
    "method in lower case": Clear(_get(method="get"), "get /first HTTP/1.1"),
    "method of odd octets": Clear(_get(method="!#$%&'*+-.^_`|~"), "!#$%&'*+-.^_`|~ /first HTTP/1.1"),
    "another Host": Clear(_get().replace("Host: ORIGIN", "Host: other"), _GET),
    "odd Host": Clear(_get().replace("Host: ORIGIN", "hOsT:a b, c@d/e"), _GET),
    "empty Host": Clear(_get().replace("Host: ORIGIN", "Host:"), _GET),
    "HTTP/1.0": Clear(_get(version="1.0"), _GET, last=True),
    "HTTP/1.0, no Host": Clear("GET http://ORIGIN/first HTTP/1.0\r\n\r\n", _GET, last=True),
    "HTTP/1.0, keep-alive": Clear(_get("Connection: keep-alive", version="1.0"), _GET, last=True),
    "HTTP/1.0, length": Clear(_get(_LENGTH.strip(), version="1.0") + "hello", _GET, _LENGTH, "hello", last=True),
    "HTTP/1.0, Expect": Clear(_get("Expect: 100-continue", version="1.0"), _GET, last=True),
    # §5: fields that look like others, and whitespace that means nothing.
    "whitespace round a value": Clear(_get("X: \t a \t b\t "), _GET, "X: a \t b\r\n"),
    "no whitespace": Clear(_post("Content-Length:5", "hello"), fields=_LENGTH, body="hello"),
    "tabs round a length": Clear(_post("Content-Length:\t5\t ", "hello"), fields=_LENGTH, body="hello"),
    "empty value": Clear(_get("X:"), _GET, "X: \r\n"),
    "obs-text": Clear(_get("X: \x85\xa0\xff"), _GET, "X: \x85\xa0\xff\r\n"),
    "a colon in a value": Clear(_get("X: Content-Length: 5"), _GET, "X: Content-Length: 5\r\n"),
    "name of odd octets": Clear(_get("!#$%&'*+-.^_`|~: a"), _GET, "!#$%&'*+-.^_`|~: a\r\n"),
    "no coding: another name": Clear(
        _post("X-Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
        fields=f"X-Transfer-Encoding: chunked\r\n{_LENGTH}",
        body="0\r\n\r\n",
    ),
    "no coding: of content": Clear(
        _post("Content-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
        fields=f"Content-Encoding: chunked\r\n{_LENGTH}",
        body="0\r\n\r\n",
    ),
    "no coding: TE": Clear(_get("TE: chunked, trailers", "Connection: TE"), _GET),
    "no length: another name": Clear(_get("X-Content-Length: 5"), _GET, "X-Content-Length: 5\r\n"),
    # §6: lengths that are written anew, or not there.
    "length": Clear(_post("Content-Length: 5", "hello"), fields=_LENGTH, body="hello"),
    "length zero": Clear(_post("Content-Length: 0", ""), fields="Content-Length: 0\r\n"),
    "length with leading zeros": Clear(_post("Content-Length: 0005", "hello"), fields=_LENGTH, body="hello"),
    "length with a leading zero, octal": Clear(
        _post("Content-Length: 010", "0123456789"), fields="Content-Length: 10\r\n", body="0123456789"
    ),
    "length of a GET": Clear(_get("Content-Length: 5") + "hello", _GET, _LENGTH, "hello"),
    "length of a DELETE": Clear(
        _get("Content-Length: 5", method="DELETE") + "hello", "DELETE /first HTTP/1.1", _LENGTH, "hello"
    ),
    "length of a request": Clear(
        _post(f"Content-Length: {len(INSIDE)}", INSIDE), fields=f"Content-Length: {len(INSIDE)}\r\n", body=INSIDE
    ),
    "coding": Clear(_post("Transfer-Encoding: chunked", _HELLO), fields=_CODED, body=_HELLO),
    "coding of a GET": Clear(_get("Transfer-Encoding: chunked") + _HELLO, _GET, _CODED, _HELLO),
    "coding in capitals": Clear(_post("Transfer-Encoding: CHUNKED", _HELLO), fields=_CODED, body=_HELLO),
    "coding in mixed case": Clear(_post("Transfer-Encoding: cHuNkEd", _HELLO), fields=_CODED, body=_HELLO),
    "coding in tabs": Clear(_post("Transfer-Encoding:\tchunked \t", _HELLO), fields=_CODED, body=_HELLO),
    "coding without space": Clear(_post("Transfer-Encoding:chunked", _HELLO), fields=_CODED, body=_HELLO),
    # §7.1: chunks are made anew, extensions and what must be no trailer are dropped.
    "no chunk": Clear(_post("Transfer-Encoding: chunked", "0\r\n\r\n"), fields=_CODED, body="0\r\n\r\n"),
    **{
        f"chunk {chunks!r}": Clear(_post("Transfer-Encoding: chunked", chunks), fields=_CODED, body=_HELLO)
        for chunks in (
            *("00005\r\nhello\r\n0\r\n\r\n", "000000000000005\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n00000\r\n\r\n"),
            *("5;\r\nhello\r\n0;\r\n\r\n", "5;a=b;c\r\nhello\r\n0;x\r\n\r\n", "5; a = b\r\nhello\r\n0\r\n\r\n"),
            *(
                '5;a="q;\\""\r\nhello\r\n0\r\n\r\n',
                '5;a="\r\nhello\r\n0\r\n\r\n',
                "5;\xff\xa0\r\nhello\r\n0;\t\r\n\r\n",
            ),
            *("5;0x5\r\nhello\r\n0\r\n\r\n", "5;GET / HTTP/1.1\r\nhello\r\n0;GET / HTTP/1.1\r\n\r\n"),
            *(
                "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
                "1\r\nh\r\n1\r\ne\r\n3\r\nllo\r\n0\r\n\r\n",
                f"5;{'a' * 900}\r\nhello\r\n0\r\n\r\n",
            ),
            *("5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n", "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "5\r\nhello\r\n0\r\nHost: x\r\nhost: y\r\n\r\n",
            *("5\r\nhello\r\n0\r\nConnection: X\r\nX: y\r\n\r\n", "5\r\nhello\r\n0\r\nExpect: 100-continue\r\n\r\n"),
        )
    },
    "size in capitals": Clear(
        _post("Transfer-Encoding: chunked", "A\r\n0123456789\r\n0\r\n\r\n"),
        fields=_CODED,
        body="a\r\n0123456789\r\n0\r\n\r\n",
    ),
    "a chunk that looks like the last": Clear(
        _post("Transfer-Encoding: chunked", "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"),
        fields=_CODED,
        body="7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
    ),
    "a request in a chunk": Clear(
        _post("Transfer-Encoding: chunked", f"{len(INSIDE):X}\r\n{INSIDE}\r\n0\r\n\r\n"),
        fields=_CODED,
        body=f"{len(INSIDE):x}\r\n{INSIDE}\r\n0\r\n\r\n",
    ),
    "a trailer": Clear(
        _post("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\nX:y\r\n\r\n"),
        fields=_CODED,
        body="5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    ),
    # §7.4, §9.3, §9.6, RFC 9110 §7.6.1, §7.8, §10.1.1: what concerns the connection is this hop's alone.
    "close": Clear(_get("Connection: close"), _GET, last=True),
    "close, in a list": Clear(_get("Connection: keep-alive , CLOSE"), _GET, last=True),
    "close, a second field": Clear(_get("Connection: x", "Connection: close"), _GET, last=True),
    "close, and a body": Clear(
        _post("Connection: close\r\nContent-Length: 5", "hello"), fields=_LENGTH, body="hello", last=True
    ),
    "close for a proxy": Clear(_get("Proxy-Connection: close"), _GET),
    "keep-alive": Clear(_get("Connection: keep-alive", "Keep-Alive: timeout=5"), _GET),
    "Connection names the length": Clear(
        _post("Connection: Content-Length\r\nContent-Length: 5", "hello"), fields=_LENGTH, body="hello"
    ),
    "Connection names the coding": Clear(
        _post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", _HELLO), fields=_CODED, body=_HELLO
    ),
    "Connection names Host": Clear(_get("Connection: Host, X", "X: y"), _GET),
    "an upgrade not passed on": Clear(
        _get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x"), _GET
    ),
    "a websocket": Clear(
        _get("Connection: keep-alive, Upgrade", "Upgrade: h2c, WebSocket", "Sec-WebSocket-Version: 777"),
        _GET,
        "Sec-WebSocket-Version: 777\r\n",
        upgrade=True,
    ),
    "Expect": Clear(
        _post("Expect: 100-continue\r\nContent-Length: 5", "hello"),
        fields=f"Expect: 100-continue\r\n{_LENGTH}",
        body="hello",
    ),
    "Max-Forwards": Clear(_get("Max-Forwards: 1", method="OPTIONS"), "OPTIONS /first HTTP/1.1", "Max-Forwards: 0\r\n"),
}
