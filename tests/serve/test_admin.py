"""The admin listener: who is heard, and what is answered. R2, R7, R12, ATTACKS 7.1.

Whoever stands in its way is in test_admin_on_crowds.py.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

import pytest

from proxyd.serve import admin
from tests.serve.reception import LARGE, SHOWN, TOKEN, Scene, field, get, loopback, status, unix

__all__ = ["loopback", "unix"]


# What is answered


def test_a_page_is_answered_whole_and_the_connection_ends(unix: Scene) -> None:
    answer = unix.ask(get("/page"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"here\n"
    assert [field(answer, name) for name in ("content-type", "content-length", "cache-control", "connection")] == [
        "text/plain; charset=utf-8",
        "5",
        "no-store",
        "close",
    ]


def test_a_page_has_its_own_status_and_type(unix: Scene) -> None:
    assert (status(unix.ask(get("/ill"))), unix.ask(get("/ill")).endswith(b"\r\n\r\nill\n")) == (503, True)
    assert field(unix.ask(get("/large")), "content-type") == "text/large"


def test_a_large_page_is_answered_as_fast_as_it_is_read_and_no_faster(unix: Scene) -> None:
    """Nothing is lost, and nobody spins meanwhile."""
    caller = unix.caller(get("/large"))
    assert unix.rest() < 10
    assert not unix.due()
    answer = unix.heard(caller)
    assert answer.partition(b"\r\n\r\n")[2] == LARGE


@pytest.mark.parametrize("target", ["/page", "/ill", "/nowhere"])
def test_head_is_answered_by_a_head(unix: Scene, target: str) -> None:
    """RFC 9110 §9.3.2: with the length that the body would have."""
    full, bare = unix.ask(get(target)), unix.ask(get(target, method="HEAD"))
    assert bare == full.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        *((get("/page", method=method), 405) for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get")),
        *((get(target), 404) for target in ("/", "/pag", "/page/", "/Page", "//page", "/page?x", "/%70age", "*")),
        (get("/a/../page"), 404),
        (get("http://127.0.0.1:9128/page"), 404),
        (get("127.0.0.1:9128", method="CONNECT"), 404),
        (get("/page", method="CONNECT"), 405),
        (get("/page", "Upgrade: websocket", "Connection: Upgrade"), 200),
        (get("/page", "Expect: 100-continue", "Content-Length: 5"), 200),
        (get("/page", "Transfer-Encoding: chunked"), 200),
        (b"GET /page HTTP/1.0\r\n\r\n", 200),
        (b"GET /page\r\n\r\n", 400),
        (b"GET /page HTTP/1.1\r\n\r\n", 400),
        (get("/page", "Host: y"), 400),
        (get("/page\0"), 400),
        (get("/pagé"), 400),
        (b"GET /page\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (get("/page", "X: \0"), 400),
        (get("/page", "Content-Length: x"), 400),
        (get("/page", "Transfer-Encoding: gzip"), 501),
        (b"\0" * 100, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"\r\n\r\n\r\n\r\n", 400),
        (b"X" * 20_000, 431),
        (get("/page", f"X: {'y' * 17_000}")[:-2], 431),
    ],
)
def test_attack_8_whatever_else_is_asked_has_an_answer_and_is_no_bug(
    unix: Scene, request_: bytes, expected: int
) -> None:
    """Absolute forms, tunnels and HTTP/0.9 are no way to anything: it is no proxy, and changes nothing."""
    answer = unix.ask(request_)
    assert status(answer) == expected
    assert (b"here" in answer) is (expected == 200)
    assert unix.complaints == []


def test_a_method_that_is_none_here_is_told_which_there_are(unix: Scene) -> None:
    """RFC 9110 §15.5.6."""
    assert field(unix.ask(get("/page", method="POST")), "allow") == "GET, HEAD"
    assert field(unix.ask(get("/page")), "allow") is None


def test_of_several_requests_the_first_is_answered(unix: Scene) -> None:
    """Connection: close says so."""
    answer = unix.ask(get("/page") * 50)
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"here") == 1


def test_attack_8_a_request_may_come_octet_by_octet(unix: Scene) -> None:
    caller = unix.caller()
    for octet in get("/page"):
        caller.sendall(bytes([octet]))
        unix.rest()
    assert unix.heard(caller).endswith(b"here\n")


def test_who_has_said_all_they_have_to_say_is_answered(unix: Scene) -> None:
    """A half-close is no hurry."""
    caller = unix.caller(get("/page"))
    caller.shutdown(socket.SHUT_WR)
    assert unix.heard(caller).endswith(b"here\n")


@pytest.mark.parametrize(("says", "expected"), [(b"", b""), (b"GET /pa", b"HTTP/1.1 400 ")])
def test_who_ends_before_a_request_was_whole_gets_none(unix: Scene, says: bytes, expected: bytes) -> None:
    caller = unix.caller(says)
    unix.rest()
    caller.shutdown(socket.SHUT_WR)
    assert unix.heard(caller).startswith(expected)
    assert not unix.due()


def test_a_bug_ends_that_connection_and_is_told_without_its_words(unix: Scene) -> None:
    """R7, R12: the workers' parent must not end by it."""
    assert unix.ask(get("/bug")) == b""
    assert unix.complaints == ["bug: ZeroDivisionError on the admin listener"]
    assert unix.ask(get("/page")).endswith(b"here\n")


# Who is heard


@pytest.mark.parametrize(
    "fields",
    [
        (SHOWN,),
        (f"authorization: bearer {TOKEN}",),
        (f"AUTHORIZATION: BEARER {TOKEN}",),
        (f"Authorization: Bearer   {TOKEN} ",),
    ],
)
def test_r2_on_loopback_who_knows_the_token_is_heard(loopback: Scene, fields: tuple[str, ...]) -> None:
    """RFC 9110 §11.1, §11.4: a scheme in any case, and spaces."""
    assert status(loopback.ask(get("/page", *fields))) == 200


WRONG: Final = (
    (),
    (SHOWN, SHOWN),
    (SHOWN, "Authorization: Bearer x"),
    ("Authorization:",),
    ("Authorization: Bearer",),
    ("Authorization: Bearer ",),
    (f"Authorization: {TOKEN}",),
    (f"Authorization: Bearer {TOKEN[:-1]}",),
    (f"Authorization: Bearer {TOKEN}x",),
    (f"Authorization: Bearer {TOKEN} x",),
    (f"Authorization: Bearer {TOKEN.upper()}",),
    (f"Authorization: Bearer\t{TOKEN}",),
    (f"Authorization: Bearer{TOKEN}",),
    (f"Authorization: Basic {TOKEN}",),
    (f"Authorization: Bearer {TOKEN}, Bearer {TOKEN}",),
    (f"Proxy-Authorization: Bearer {TOKEN}",),
    (f"Cookie: token={TOKEN}",),
    ("Authorization: Bearer \x80\xff",),
)


@pytest.mark.parametrize("fields", WRONG)
@pytest.mark.parametrize("target", ["/page", "/nowhere", "/bug"])
def test_r2_on_loopback_nobody_else_is_and_learns_nothing(
    loopback: Scene, fields: tuple[str, ...], target: str
) -> None:
    """Not even which pages there are."""
    answer = loopback.ask("\r\n".join((f"GET {target} HTTP/1.1", "Host: x", *fields, "", "")).encode("latin-1"))
    assert status(answer) == 401
    assert field(answer, "www-authenticate") == "Bearer"
    assert answer.endswith(b"\r\n\r\n401 Unauthorized\n")
    assert TOKEN.encode() not in answer
    assert loopback.complaints == []


@pytest.mark.parametrize("fields", [(), ("Authorization: Bearer",), ("Authorization: Bearer ",)])
def test_r12_no_token_is_nobodys_token(loopback: Scene, fields: tuple[str, ...]) -> None:
    """A policy without one is refused; were one here all the same, it would open nothing."""
    loopback.token = ""
    assert status(loopback.ask(get("/page", *fields))) == 401


def test_the_token_is_the_one_of_this_moment(loopback: Scene) -> None:
    """A reload takes another into use."""
    loopback.token = TOKEN[::-1]
    assert status(loopback.ask(get("/page", SHOWN))) == 401
    assert status(loopback.ask(get("/page", f"Authorization: Bearer {TOKEN[::-1]}"))) == 200


def test_r2_at_a_unix_socket_no_token_is_asked_for(unix: Scene) -> None:
    assert status(unix.ask(get("/page"))) == 200
    assert status(unix.ask(get("/page", "Authorization: Bearer wrong"))) == 200


def cannot_be_known(_: socket.socket) -> int:
    raise OSError(errno.ENOTCONN, "it is gone")


@pytest.mark.parametrize(
    ("uid", "own", "is_heard"), [(0, 1000, True), (1000, 1000, True), (1001, 1000, False), (1001, 0, False)]
)
def test_r2_a_unix_socket_is_for_root_and_our_own_account(
    unix: Scene,
    uid: int,
    own: int,
    is_heard: bool,  # noqa: FBT001 - a table's column
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the mode of its file."""
    monkeypatch.setattr(admin, "uid_by_credentials", lambda _: uid)
    monkeypatch.setattr(os, "geteuid", lambda: own)
    caller = unix.caller()
    unix.rest()
    if is_heard:
        caller.sendall(get("/page"))
        assert unix.heard(caller).endswith(b"here\n")
    else:
        assert caller.recv(1) == b""


def test_r12_who_cannot_be_known_is_not_heard(unix: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "uid_by_credentials", cannot_be_known)
    caller = unix.caller()
    unix.rest()
    assert caller.recv(1) == b""
