"""What a request asks: the target says where to, the Host field nothing, and the real client is understood.

R4, R7; ATTACKS 4 and 9. Heads go through framing and h11 first, as the daemon's do.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress

from proxyd.http.framing import Malformed
from proxyd.http.request import MAX_MEMBERS, Asked, field_tokens, known_method
from proxyd.policy.address import Destination
from proxyd.policy.verdict import Reason
from tests.http.raw_heads import head, read, said, understand

EXAMPLE: Final = Destination("example.com", 80)
EXAMPLE_TLS: Final = Destination("example.com", 443)
repeatable: Final = partial(Asked, "http", repeatable=True)
APPLE: Final = "api.sandbox.push.apple.com"


def address(text: str, port: int) -> Destination:
    return Destination(text, port, IPAddress(text))


def ask(*fields: str, method: str = "GET", version: str = "1.1", url: str = "http://example.com/") -> Asked | Reason:
    return understand(head(*fields, line=f"{method} {url} HTTP/{version}"))


def connect(*fields: str, target: str = "example.com:443", version: str = "1.1") -> Asked | Reason:
    return ask(*fields, method="CONNECT", url=target, version=version)


# The client, as captured (OpenClaw 2026.9.6 and what it starts): every field of every head, in its order

BASIC: Final = "Basic dXNAZXI6cGE6c3Mgw7Y="
FETCH_END: Final = "accept: */*|accept-language: *|user-agent: undici|accept-encoding: gzip, deflate"
FETCH: Final = f"host: {{}}|connection: keep-alive|{FETCH_END}"
FETCH_POST: Final = (
    f"host: {{}}|connection: keep-alive|content-type: application/octet-stream|{FETCH_END}|content-length: 1048576"
)
FETCH_STREAM: Final = f"host: {{}}|connection: keep-alive|{FETCH_END}|transfer-encoding: chunked"
FETCH_CORS: Final = FETCH.replace("user-agent", "sec-fetch-mode: cors|user-agent")
FETCH_BASIC: Final = FETCH.replace("accept:", f"proxy-authorization: {BASIC}|accept:")
UNDICI: Final = "host: {}|connection: keep-alive"
UNDICI_CONNECT: Final = "host: {}|connection: close|proxy-connection: keep-alive"
UNDICI_BASIC: Final = f"host: {{}}|connection: close|proxy-authorization: {BASIC}|proxy-connection: keep-alive"
VALIDATE_BASIC: Final = UNDICI_BASIC.replace(BASIC, "Basic dXNlcjpwYUBzcw==")
NODE: Final = "Host: {}|Proxy-Connection: close|Connection: close"
NODE_POST: Final = f"content-length: 1048576|{NODE}"
NODE_BASIC: Final = NODE.replace("|", f"|Proxy-Authorization: {BASIC}|", 1)
NODE_CONNECT: Final = "Host: {}|Proxy-Connection: close"
NODE_CONNECT_BASIC: Final = f"{NODE_CONNECT}|Proxy-Authorization: {BASIC}"
KEEP_ALIVE: Final = "Host: {}|Proxy-Connection: Keep-Alive"
AXIOS: Final = (
    "Accept: application/json, text/plain, */*|User-Agent: axios/1.21.1|Accept-Encoding: gzip, compress, deflate, br|"
    "host: {}|Proxy-Connection: close|Connection: close"
)
AXIOS_BASIC: Final = AXIOS.replace("host", f"Proxy-Authorization: {BASIC}|host")
GOT: Final = (
    "user-agent: got (https://github.com/sindresorhus/got)|accept-encoding: gzip, deflate, br, zstd|"
    "Host: {}|Proxy-Connection: close|Connection: close"
)
NODE_FETCH: Final = (
    "accept: */*|accept-encoding: gzip, deflate, br|user-agent: node-fetch|"
    "Host: {}|Proxy-Connection: close|Connection: close"
)
WEBSOCKET: Final = (
    "host: {}|connection: upgrade|upgrade: websocket|sec-websocket-key: Q6CueLT+bVnyEXhZWPTfzw==|"
    "sec-websocket-version: 13|sec-websocket-extensions: permessage-deflate; client_max_window_bits|"
    "accept: */*|accept-language: *|sec-fetch-mode: websocket|user-agent: node|pragma: no-cache|"
    "cache-control: no-cache|accept-encoding: gzip, deflate"
)
CURL: Final = "Host: {}|User-Agent: curl/7.88.1|Accept: */*|Proxy-Connection: Keep-Alive"
CURL_CONNECT: Final = "Host: {}|User-Agent: curl/7.88.1|Proxy-Connection: Keep-Alive"
CURL_WEBSOCKET: Final = (
    f"{CURL}|Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Version: 13|"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
GIT: Final = "Host: {}|User-Agent: git/2.39.5|Proxy-Connection: Keep-Alive"

CAPTURED: Final = {
    "fetch": ("GET http://example.com/a?b=c", FETCH, "example.com", repeatable(EXAMPLE, "/a?b=c")),
    "fetch, first of two": ("GET http://example.com/s?i=0", FETCH, "example.com", repeatable(EXAMPLE, "/s?i=0")),
    "fetch, second of two": ("GET http://example.com/s?i=1", FETCH, "example.com", repeatable(EXAMPLE, "/s?i=1")),
    "fetch POST 1 MiB": ("POST http://example.com/echo", FETCH_POST, "example.com", Asked("http", EXAMPLE, "/echo")),
    "fetch stream": ("POST http://example.com/echo", FETCH_STREAM, "example.com", Asked("http", EXAMPLE, "/echo")),
    "fetch another port": (
        "GET http://example.com:8080/",
        FETCH,
        "example.com:8080",
        repeatable(Destination("example.com", 8080), "/"),
    ),
    "fetch IPv6": (
        "GET http://[2606:2800:220:1:248:1893:25c8:1946]/",
        FETCH,
        "[2606:2800:220:1:248:1893:25c8:1946]",
        repeatable(address("2606:2800:220:1:248:1893:25c8:1946", 80), "/"),
    ),
    "fetch IDN": (
        "GET http://xn--mnchen-3ya.example.com/",
        FETCH,
        "xn--mnchen-3ya.example.com",
        repeatable(Destination("xn--mnchen-3ya.example.com", 80), "/"),
    ),
    "fetch trailing dot": ("GET http://example.com./", FETCH, "example.com.", repeatable(EXAMPLE, "/")),
    "fetch 0x7f000001": (
        "GET http://127.0.0.1/",
        FETCH_CORS,
        "127.0.0.1",
        repeatable(address("127.0.0.1", 80), "/"),
    ),
    "fetch with credentials": (
        "GET http://example.com/a?b=c",
        FETCH_BASIC,
        "example.com",
        repeatable(EXAMPLE, "/a?b=c"),
    ),
    "fetch https": ("CONNECT example.com:443", UNDICI_CONNECT, "example.com", Asked("connect", EXAMPLE_TLS, "")),
    "guarded fetch http": ("CONNECT example.com:80", UNDICI_CONNECT, "example.com", Asked("connect", EXAMPLE, "")),
    "guarded fetch private.test": (
        "CONNECT private.test:80",
        UNDICI_CONNECT,
        "private.test",
        Asked("connect", Destination("private.test", 80), ""),
    ),
    "fetch https with credentials": (
        "CONNECT example.com:443",
        UNDICI_BASIC,
        "example.com",
        Asked("connect", EXAMPLE_TLS, ""),
    ),
    "guarded fetch with credentials": (
        "CONNECT example.com:80",
        UNDICI_BASIC,
        "example.com",
        Asked("connect", EXAMPLE, ""),
    ),
    "undici.request": ("GET http://example.com/a", UNDICI, "example.com", repeatable(EXAMPLE, "/a")),
    "node:http": ("GET http://example.com:80/a?b=c", NODE, "example.com", repeatable(EXAMPLE, "/a?b=c")),
    "node:http POST 1 MiB": (
        "POST http://example.com:80/echo",
        NODE_POST,
        "example.com",
        Asked("http", EXAMPLE, "/echo"),
    ),
    "node:http with credentials": (
        "GET http://example.com:80/a?b=c",
        NODE_BASIC,
        "example.com",
        repeatable(EXAMPLE, "/a?b=c"),
    ),
    "node:https, ws wss, axios, got and node-fetch https": (
        "CONNECT example.com:443",
        NODE_CONNECT,
        "example.com:443",
        Asked("connect", EXAMPLE_TLS, ""),
    ),
    "node:https, ws wss and axios https with credentials": (
        "CONNECT example.com:443",
        NODE_CONNECT_BASIC,
        "example.com:443",
        Asked("connect", EXAMPLE_TLS, ""),
    ),
    "ws ws": ("CONNECT example.com:80", NODE_CONNECT, "example.com:80", Asked("connect", EXAMPLE, "")),
    "global WebSocket": (
        "GET http://example.com/ws",
        WEBSOCKET,
        "example.com",
        Asked("http", EXAMPLE, "/ws", upgrade=True),
    ),
    "axios": ("GET http://example.com/a?b=c", AXIOS, "example.com", repeatable(EXAMPLE, "/a?b=c")),
    "axios with credentials": (
        "GET http://example.com/a?b=c",
        AXIOS_BASIC,
        "example.com",
        repeatable(EXAMPLE, "/a?b=c"),
    ),
    "got": ("GET http://example.com:80/a", GOT, "example.com", repeatable(EXAMPLE, "/a")),
    "node-fetch": ("GET http://example.com:80/a", NODE_FETCH, "example.com", repeatable(EXAMPLE, "/a")),
    "Apple push": (
        f"CONNECT {APPLE}:443",
        KEEP_ALIVE,
        f"{APPLE}:443",
        Asked("connect", Destination(APPLE, 443), ""),
    ),
    "Apple push with credentials": (
        f"CONNECT {APPLE}:443",
        f"{KEEP_ALIVE}|Proxy-Authorization: {BASIC}",
        f"{APPLE}:443",
        Asked("connect", Destination(APPLE, 443), ""),
    ),
    "validate, canary 1": (
        "CONNECT 127.0.0.1:42581",
        UNDICI_CONNECT,
        "127.0.0.1:42581",
        Asked("connect", address("127.0.0.1", 42581), ""),
    ),
    "validate, canary 2": (
        "CONNECT 127.0.0.1:38375",
        UNDICI_CONNECT,
        "127.0.0.1:38375",
        Asked("connect", address("127.0.0.1", 38375), ""),
    ),
    "validate, denied URL": (
        "CONNECT 10.0.0.5:80",
        UNDICI_CONNECT,
        "10.0.0.5",
        Asked("connect", address("10.0.0.5", 80), ""),
    ),
    "validate with credentials": (
        "CONNECT example.com:443",
        VALIDATE_BASIC,
        "example.com",
        Asked("connect", EXAMPLE_TLS, ""),
    ),
    "validate with credentials, canary": (
        "CONNECT 127.0.0.1:44821",
        VALIDATE_BASIC,
        "127.0.0.1:44821",
        Asked("connect", address("127.0.0.1", 44821), ""),
    ),
    "curl": ("GET http://example.com/a", CURL, "example.com", repeatable(EXAMPLE, "/a")),
    "curl https": ("CONNECT example.com:443", CURL_CONNECT, "example.com:443", Asked("connect", EXAMPLE_TLS, "")),
    "curl WebSocket": (
        "GET http://example.com/ws",
        CURL_WEBSOCKET,
        "example.com",
        Asked("http", EXAMPLE, "/ws", upgrade=True),
    ),
    "git": ("CONNECT example.com:443", GIT, "example.com:443", Asked("connect", EXAMPLE_TLS, "")),
    "npm": ("CONNECT example.com:443", KEEP_ALIVE, "example.com:443", Asked("connect", EXAMPLE_TLS, "")),
}


def captured_head(name: str) -> bytes:
    line, fields, host, _ = CAPTURED[name]
    return head(*fields.format(host).split("|"), line=f"{line} HTTP/1.1", host=None)


@pytest.mark.parametrize("name", CAPTURED)
def test_every_captured_head_is_understood(name: str) -> None:
    assert understand(captured_head(name)) == CAPTURED[name][-1]


def test_a_connect_by_http_1_0_without_any_field_is_understood() -> None:
    """Python's urllib."""
    assert understand(b"CONNECT example.com:443 HTTP/1.0\r\n\r\n") == Asked("connect", EXAMPLE_TLS, "")


def test_the_one_captured_head_that_asks_no_proxy_is_refused() -> None:
    """Expect through node:http: the client forgets the proxy and sends origin-form."""
    raw = head("content-length: 5", "Expect: 100-continue", "Host: example.com", "Connection: close", host=None)
    assert understand(raw.replace(b"http://example.com/", b"/echo")) is Reason.MALFORMED_TARGET


# The target


@pytest.mark.parametrize("host", ["evil.example", "example.com:22", "127.0.0.1", "", "[", "a b", "user@evil.example"])
def test_attack_4_1_the_host_field_says_nothing(host: str) -> None:
    assert understand(head(line="GET http://example.com/ HTTP/1.1", host=host)) == repeatable(EXAMPLE, "/")
    assert understand(head(line="CONNECT example.com:443 HTTP/1.1", host=host)) == Asked("connect", EXAMPLE_TLS, "")


def test_attack_4_1_two_hosts_or_none_are_malformed() -> None:
    assert ask("Host: example.com") is Reason.MALFORMED_REQUEST
    assert ask("host: evil.example") is Reason.MALFORMED_REQUEST
    assert understand(head(host=None)) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "target",
    [
        "example.com:65558",
        "example.com:0",
        "example.com:-1",
        "example.com:+443",
        "example.com:443:443",
        "example.com",
        "example.com:",
        "example.com:0443",
        "::1:443",
        "[::1]",
        ":443",
        "example.com:443x",
        "example.com:4_3",
    ],
)
def test_attack_4_5_a_connect_target_has_one_port_in_plain_digits(target: str) -> None:
    assert connect(target=target) is Reason.MALFORMED_TARGET


@pytest.mark.parametrize(
    "target",
    [
        "http://example.com:443",
        "/",
        "*:443",
        "*",
        "example.com:443/path",
        "//example.com:443",
        "u@example.com:443",
        "example.com:443?",
        "example.com:443#",
        "https://example.com/",
    ],
)
def test_attack_4_6_a_connect_target_is_an_authority_and_nothing_else(target: str) -> None:
    assert connect(target=target) is Reason.MALFORMED_TARGET


@pytest.mark.parametrize(
    "url",
    [
        "urn:a:b",
        "ftp://example.com/",
        "gopher://example.com/",
        "file:///etc/passwd",
        "https://example.com/",
        "http:a",
        "http:///example.com",
        "//example.com/",
        "/",
        "*",
        "HTTP://example.com/",
        "http:/example.com",
        "example.com:80",
        "http://",
        "http://u:p@example.com/",
        "http://example.com@evil.example/",
        "http://example.com\\@evil.example/",
        "http://example.com/#",
        "http://example.com#@evil.example/",
        "http://example.com:/",
        "http://127.1/",
        "http://example.com:80:80/",
        "http://[::1%25eth0]/",
        "http://[example.com]/",
        "http://ex%61mple.com/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "connect"])
def test_attack_4_7_a_request_target_is_an_http_url_in_absolute_form(url: str, method: str) -> None:
    assert ask(url=url, method=method) is Reason.MALFORMED_TARGET


@pytest.mark.parametrize("spoiler", ["\x80", "\xe9", "\xff", "\x85"])
def test_attack_1_7_a_target_is_ascii(spoiler: str) -> None:
    assert ask(url=f"http://ex{spoiler}ample.com/") is Reason.MALFORMED_REQUEST
    assert ask(url=f"http://example.com/{spoiler}") is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("tail", "origin_form"),
    [
        ("", "/"),
        ("/", "/"),
        ("?", "/?"),
        ("?a=/b", "/?a=/b"),
        ("/a?b=c?d", "/a?b=c?d"),
        ("//evil.example/", "//evil.example/"),
        ("/a/../b", "/a/../b"),
        ("/%2e%2e/%2f;a\\b", "/%2e%2e/%2f;a\\b"),
        ("/@:[]", "/@:[]"),
        ("/http://b/", "/http://b/"),
    ],
)
def test_attack_4_8_path_and_query_go_through_untouched(tail: str, origin_form: str) -> None:
    assert ask(url=f"http://example.com{tail}") == repeatable(EXAMPLE, origin_form)


def test_options_for_a_whole_server_is_an_asterisk_where_no_path_is_given() -> None:
    """RFC 9112 §3.2.4."""
    for tail, origin_form in (("", "*"), ("/", "/"), ("?a", "/?a")):
        assert ask(method="OPTIONS", url=f"http://example.com{tail}") == repeatable(EXAMPLE, origin_form)


# What we do not speak


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0", "0.0"])
def test_a_version_other_than_1_0_and_1_1_is_unsupported(version: str) -> None:
    assert ask(version=version) is Reason.VERSION_UNSUPPORTED
    assert connect(version=version) is Reason.VERSION_UNSUPPORTED


def test_attack_5_http_1_0_has_no_transfer_encoding() -> None:
    for method in ("GET", "POST"):
        assert ask("Transfer-Encoding: chunked", method=method, version="1.0") is Reason.MALFORMED_REQUEST
        assert ask("Transfer-Encoding: chunked", method=method) == Asked("http", EXAMPLE, "/")


def test_attack_4_13_trace_is_refused() -> None:
    assert ask(method="TRACE") is Reason.METHOD_REFUSED
    assert ask("Max-Forwards: 0", method="TRACE") is Reason.METHOD_REFUSED


def test_a_method_that_nobody_registered_is_served_and_is_case_sensitive() -> None:
    assert ask(method="trace") == ask(method="BREW") == Asked("http", EXAMPLE, "/")


@pytest.mark.parametrize("expectation", ["100-continue", "100-Continue", "100-continue, 100-CONTINUE", ""])
def test_attack_4_13_the_expectation_that_is_met(expectation: str) -> None:
    assert ask(f"Expect: {expectation}", "Content-Length: 5", method="POST") == Asked("http", EXAMPLE, "/")


@pytest.mark.parametrize("expectation", ["200-ok", "100-continue, x", "100-continue=1", "100"])
def test_attack_4_13_an_expectation_that_cannot_be_met(expectation: str) -> None:
    assert ask(f"Expect: {expectation}") is Reason.EXPECTATION_FAILED
    assert ask("Expect: 100-continue", f"Expect: {expectation}") is Reason.EXPECTATION_FAILED
    assert connect(f"Expect: {expectation}") is Reason.EXPECTATION_FAILED
    assert ask(f"Expect: {expectation}", version="1.0") == repeatable(EXAMPLE, "/")


@pytest.mark.parametrize("body", ["Content-Length: 5", "Content-Length: 0", "Transfer-Encoding: chunked"])
def test_a_connect_has_no_body(body: str) -> None:
    assert connect(body) is Reason.MALFORMED_REQUEST
    assert connect("Content-Type: text/plain") == Asked("connect", EXAMPLE_TLS, "")


@pytest.mark.parametrize(
    "via",
    [
        "1.1 gateway",
        "1.0 gateway",
        "HTTP/1.1 gateway",
        "1.1 GATEWAY",
        "1.1 a, 1.0 gateway",
        "1.1\tgateway (x), 1.1 b",
        "1.1  gateway",
    ],
)
def test_attack_4_13_a_request_that_passed_here_before_is_a_loop(via: str) -> None:
    assert ask(f"Via: {via}") is connect(f"via: {via}") is Reason.LOOP_DETECTED
    assert ask("Via: 1.1 a", f"VIA: {via}") is Reason.LOOP_DETECTED


@pytest.mark.parametrize("via", ["1.1 gateway2", "1.1 a (gateway)", "gateway 1.1", "gateway", "1.1 b.gateway", ""])
def test_attack_4_13_another_proxy_is_no_loop(via: str) -> None:
    assert ask(f"Via: {via}", "X-Via: 1.1 gateway") == repeatable(EXAMPLE, "/")


# WebSocket


@pytest.mark.parametrize(
    ("connection", "upgrade"),
    [
        ("Upgrade", "websocket"),
        ("keep-alive, UPGRADE", "WebSocket"),
        ("upgrade,", "h2c, websocket"),
        ("upgrade", ",websocket"),
    ],
)
def test_a_websocket_is_asked_for_by_two_tokens(connection: str, upgrade: str) -> None:
    websocket = Asked("http", EXAMPLE, "/", upgrade=True)
    assert ask(f"Connection: {connection}", f"Upgrade: {upgrade}") == websocket
    assert ask("Connection: close", f"Upgrade: {upgrade}", "Upgrade: x", f"Connection: {connection}") == websocket


@pytest.mark.parametrize(
    ("connection", "upgrade"),
    [
        ("upgrade", "notwebsocket"),
        ("upgrade", "websocket2"),
        ("upgrade", "web socket"),
        ("upgrade", "h2c"),
        ("upgrade", ""),
        ("notupgrade", "websocket"),
        ("upgrade-insecure", "websocket"),
        ("keep-alive", "websocket"),
        ("", "websocket"),
    ],
)
def test_attack_4_12_tokens_are_compared_whole(connection: str, upgrade: str) -> None:
    assert ask(f"Connection: {connection}", f"Upgrade: {upgrade}") == repeatable(EXAMPLE, "/")


def test_an_upgrade_is_for_get_by_http_1_1() -> None:
    fields = ("Connection: upgrade", "Upgrade: websocket")
    plain = Asked("http", EXAMPLE, "/")
    assert ask(*fields, method="POST") == plain
    assert ask(*fields, method="OPTIONS") == ask(*fields, version="1.0") == repeatable(EXAMPLE, "/")
    assert connect(*fields) == Asked("connect", EXAMPLE_TLS, "")
    assert ask("Content-Length: 5", *fields, method="POST") == plain


@pytest.mark.parametrize("body", ["Content-Length: 5", "Content-Length: 0", "Transfer-Encoding: chunked"])
def test_attack_5_an_upgrade_has_no_body(body: str) -> None:
    assert ask("Connection: upgrade", "Upgrade: websocket", body) is Reason.MALFORMED_REQUEST


# A second time


@pytest.mark.parametrize(
    ("method", "fields", "may"),
    [
        ("GET", (), True),
        ("HEAD", (), True),
        ("OPTIONS", (), True),
        ("GET", ("Cookie: a=b", "Authorization: Bearer x", "Connection: close"), True),
        ("GET", ("Content-Length: 5",), False),
        ("GET", ("Content-Length: 0",), False),
        ("HEAD", ("Transfer-Encoding: chunked",), False),
        ("OPTIONS", ("Content-Length: 5",), False),
        ("GET", ("Connection: upgrade", "Upgrade: websocket"), False),
        *((method, (), False) for method in ("POST", "PUT", "PATCH", "DELETE", "QUERY", "get", "BREW")),
    ],
)
def test_attack_4_10_only_a_safe_request_without_a_body_may_be_sent_a_second_time(
    method: str,
    fields: tuple[str, ...],
    may: bool,  # noqa: FBT001 - a table
) -> None:
    """RFC 9110 §9.2.1: what changes nothing, and of which nothing is on its way; no tunnel of either kind."""
    asked = ask(*fields, method=method)
    assert isinstance(asked, Asked)
    assert asked.repeatable is may


def test_a_connect_is_never_sent_a_second_time() -> None:
    asked = connect()
    assert isinstance(asked, Asked)
    assert not asked.repeatable


# Max-Forwards


def test_attack_4_13_a_request_that_came_as_far_as_it_may_is_answered_here() -> None:
    for value in ("0", "00"):
        assert ask(f"Max-Forwards: {value}", method="OPTIONS") == repeatable(EXAMPLE, "/", answer_here=True)
    for value in ("1", "10"):
        assert ask(f"Max-Forwards: {value}", method="OPTIONS") == repeatable(EXAMPLE, "/")


@pytest.mark.parametrize("value", ["-1", "+1", "1.0", "", "1, 1", "x", "0x0", "\xb2", "1_0", "9" * 5_000])
def test_attack_4_13_max_forwards_is_one_plain_number(value: str) -> None:
    assert ask(f"Max-Forwards: {value}", method="OPTIONS") is Reason.MALFORMED_REQUEST
    assert ask(f"Max-Forwards: {value}") == repeatable(EXAMPLE, "/")


def test_attack_4_13_two_max_forwards_are_malformed() -> None:
    assert ask("Max-Forwards: 1", "max-forwards: 1", method="OPTIONS") is Reason.MALFORMED_REQUEST
    assert ask("Max-Forwards: 1", "max-forwards: 1") == repeatable(EXAMPLE, "/")


# Words


def test_r7_a_method_is_logged_only_if_it_is_a_known_word() -> None:
    for word in ("CONNECT", "GET", "TRACE", "PROPFIND"):
        assert known_method(word.encode()) == word
    for secret in (b"hunter2", b"get", b"GETT", b""):
        assert known_method(secret) == "other"


def test_list_fields_are_read_across_their_lines_in_lower_case() -> None:
    fields = [(b"a", b"B, c ,,\td"), (b"x", b"no"), (b"a", b"B"), (b"a", b""), (b"a", b"\xc9 e")]
    assert field_tokens(fields, b"a") == {"b", "c", "d", "\xc9 e"}
    assert field_tokens(fields, b"missing") == field_tokens([], b"a") == frozenset()
    assert field_tokens([(b"a", b" , ,")], b"a") == frozenset(), "there, and empty"


@pytest.mark.parametrize("name", ["Connection", "Upgrade", "Expect", "Via"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_attack_8_a_list_field_of_more_than_256_members_is_too_large(name: str, method: str) -> None:
    """A head full of commas cost us a hundred times what it cost who sent it; an empty member counts like any other."""
    assert MAX_MEMBERS == 256
    member = {"Expect": "100-continue", "Via": "1.1 elsewhere"}.get(name, "x")
    for each in (member, ""):
        most = f"{name}: {','.join([each] * MAX_MEMBERS)}"
        plain = Asked("http", EXAMPLE, "/", repeatable=method != "POST")
        assert ask(most, method=method) == plain
        assert ask(f"{most},", method=method) is Reason.HEAD_TOO_LARGE
        assert ask(most, f"{name}:", method=method) is Reason.HEAD_TOO_LARGE, "its lines are one list"
        assert ask(most, f"X-{name}: {',' * 9000}", method=method) == plain


@pytest.mark.parametrize("name", ["Expect", "Via"])
def test_attack_8_a_list_field_of_a_connect_has_no_more_members(name: str) -> None:
    assert connect(f"{name}: {',' * (MAX_MEMBERS - 1)}") == Asked("connect", EXAMPLE_TLS, "")
    assert connect(f"{name}: {',' * MAX_MEMBERS}") is Reason.HEAD_TOO_LARGE


# What a refusal may say

SPOILT: Final = [
    "GET http://example.com/{0}?{0}=@{0} HTTP/1.1|Transfer-Encoding: chunked, {0}",
    "GET http://user:{0}@example.com/ HTTP/1.1",
    "GET http://{0}.example.com:{0}/{0} HTTP/1.1",
    "GET http://[{0}]/ HTTP/1.1",
    "GET http://{0}.1/ HTTP/1.1",
    "GET http://example.com/#{0} HTTP/1.1",
    "GET /bot{0}/getMe?{0} HTTP/1.1",
    "GET {0}://example.com/ HTTP/1.1",
    "CONNECT {0} HTTP/1.1|Proxy-Authorization: Basic {0}",
    "CONNECT example.com:{0} HTTP/1.1",
    "CONNECT {0}@example.com:443 HTTP/1.1",
    "CONNECT {0}.example.com:443 HTTP/1.1|Content-Length: 1",
    "TRACE http://example.com/{0} HTTP/1.1|Cookie: {0}",
    "GET http://example.com/{0} HTTP/2.0|Cookie: {0}",
    "GET http://example.com/ HTTP/1.1|Expect: {0}",
    "OPTIONS http://example.com/{0} HTTP/1.1|Max-Forwards: {0}",
    "GET http://example.com/{0} HTTP/1.1|Via: 1.1 gateway ({0})",
    "GET http://example.com/{0} HTTP/1.1|Connection: upgrade|Upgrade: websocket|Content-Length: 1|X: {0}",
]


@pytest.mark.parametrize("template", SPOILT)
@given(secret=st.from_regex(r"s3cr3t[A-Za-z0-9]{8}", fullmatch=True))
def test_attack_9_no_refusal_quotes_what_it_refuses(template: str, secret: str) -> None:
    line, *fields = template.format(secret).split("|")
    with pytest.raises(Malformed) as caught:
        read(head(*fields, line=line))
    assert secret not in said(caught.value)


tokens = st.sampled_from(["GET", "OPTIONS", "CONNECT", "POST", "TRACE", "X"])
targets = st.one_of(
    st.text("htp:/exampl.co@[]1%?#*", min_size=1, max_size=20),
    st.sampled_from(["http://example.com/", "http://example.com", "example.com:443"]),
)
names = st.sampled_from(["Via", "Expect", "Max-Forwards", "Connection", "Upgrade", "Content-Length", "Cookie"])
values = st.one_of(
    st.sampled_from(["1.1 gateway", "100-continue", "0", "upgrade", "websocket"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f\x80\x85\xa0"), max_size=9),
)


@given(tokens, targets, st.lists(st.tuples(names, values), max_size=4))
def test_whatever_h11_reads_is_understood_or_malformed_and_nothing_else(
    method: str, target: str, fields: list[tuple[str, str]]
) -> None:
    answer = understand(head(*(f"{name}: {value}" for name, value in fields), line=f"{method} {target} HTTP/1.1"))
    if isinstance(answer, Asked):
        assert answer.scheme == ("connect" if method == "CONNECT" else "http")
        h11.Request(method="GET", target=answer.origin_form or "/", headers=[("Host", str(answer.destination))])
