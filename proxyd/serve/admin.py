"""The admin listener: metrics and health, for the operator's programs and nobody else. The supervisor holds it.

Nothing here can be asked to change anything. Whoever connects and says nothing is in nobody's way: there are a few
places, and the one who has waited longest makes room.
"""

from __future__ import annotations

import hmac
import os
import selectors
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from proxyd.net.identity import uid_by_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PLACES: Final = 16  # connections at once
_PIECE: Final = 65536  # octets read at once; a head of more than h11's 16 KiB is refused
_SCHEME: Final = b"bearer"  # RFC 6750; in any case (RFC 9110 §11.1)


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered to one path."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


@dataclass(slots=True, eq=False)
class _Caller:
    """One connection. unsent: what is left of the answer; None before there is one."""

    sock: socket.socket
    http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.SERVER))
    unsent: bytes | None = None


class Desk:
    """Answers one request for each connection, when `work` is called: it is due whenever `fileno` is readable."""

    def __init__(
        self,
        listener: socket.socket,
        token: Callable[[], str],
        pages: Mapping[str, Callable[[], Page]],
        complain: Callable[[str], None],
    ) -> None:
        """listener: closed with `close`. token: what is to be shown on loopback. pages: path -> what is there."""
        self._listener = listener
        self._token = token
        self._pages = pages
        self._complain = complain
        self._callers: dict[_Caller, None] = {}  # in the order in which they came
        self._selector = selectors.EpollSelector()
        listener.settimeout(0)
        self._selector.register(listener, selectors.EVENT_READ)

    def fileno(self) -> int:
        """What tells by being readable that there is something to do (epoll(7))."""
        return self._selector.fileno()

    def close(self) -> None:
        """Answer nobody any more."""
        for caller in [*self._callers]:
            self._hang_up(caller)
        self._selector.close()
        self._listener.close()

    def work(self) -> None:
        """Do what can be done without waiting. Raises OSError if somebody could not be let in: files ran out.

        Those who are here come first: whoever has asked is answered before a newcomer takes their place.
        """
        due = [key.data for key, _ in self._selector.select(0)]
        for caller in filter(None, due):
            self._serve(caller)
        if None in due:
            self._accept()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        if sock.family == socket.AF_UNIX and not _is_ours(sock):
            sock.close()
            return
        if len(self._callers) >= PLACES:
            self._hang_up(next(iter(self._callers)))
        sock.settimeout(0)
        caller = _Caller(sock)
        try:
            self._selector.register(sock, selectors.EVENT_READ, caller)
        except OSError:
            sock.close()
            raise
        self._callers[caller] = None

    def _serve(self, caller: _Caller) -> None:
        try:
            if caller.unsent is None:
                self._hear(caller)
            if caller.unsent is not None:
                self._send(caller)
        except OSError:
            self._hang_up(caller)
        except Exception as bug:  # noqa: BLE001 - it ends this connection, and must not end the workers' parent
            self._hang_up(caller)
            self._complain(f"bug: {type(bug).__name__} on the admin listener")

    def _hear(self, caller: _Caller) -> None:
        """Read what has come; once that is a whole request, there is an answer to be sent. Raises OSError."""
        with suppress(BlockingIOError):
            try:
                caller.http.receive_data(caller.sock.recv(_PIECE))
                event = caller.http.next_event()
            except h11.RemoteProtocolError as error:
                self._answer(caller, _plain(HTTPStatus(error.error_status_hint)))
                return
            if isinstance(event, h11.Request):
                self._answer(caller, self._page(event), without_body=event.method == b"HEAD")
            elif event is not h11.NEED_DATA:
                raise ConnectionAbortedError

    def _page(self, request: h11.Request) -> Page:
        """What there is for this request."""
        if self._listener.family != socket.AF_UNIX and not self._is_authorized(request):
            return _plain(HTTPStatus.UNAUTHORIZED)
        page = self._pages.get(request.target.decode("ascii"))
        if page is None:
            return _plain(HTTPStatus.NOT_FOUND)
        if request.method not in (b"GET", b"HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        return page()

    def _is_authorized(self, request: h11.Request) -> bool:
        token = self._token().encode()
        shown = [value for name, value in request.headers if name == b"authorization"]
        scheme, _, credential = shown[0].partition(b" ") if len(shown) == 1 else (b"", b"", b"")
        return bool(token) and scheme.lower() == _SCHEME and hmac.compare_digest(credential.lstrip(b" "), token)

    def _answer(self, caller: _Caller, page: Page, *, without_body: bool = False) -> None:
        fields = [
            ("Content-Type", page.content_type),
            ("Content-Length", str(len(page.body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ]
        if page.status == HTTPStatus.UNAUTHORIZED:
            fields.append(("WWW-Authenticate", "Bearer"))
        if page.status == HTTPStatus.METHOD_NOT_ALLOWED:
            fields.append(("Allow", "GET, HEAD"))
        head = caller.http.send(h11.Response(status_code=page.status, reason=page.status.phrase, headers=fields)) or b""
        caller.unsent = head if without_body else head + page.body

    def _send(self, caller: _Caller) -> None:
        """Send what is left, as far as it goes. Raises OSError."""
        octets = caller.unsent or b""
        with suppress(BlockingIOError):
            octets = octets[caller.sock.send(octets) :]
        caller.unsent = octets
        if octets:
            self._selector.modify(caller.sock, selectors.EVENT_WRITE, caller)
        else:
            self._hang_up(caller)

    def _hang_up(self, caller: _Caller) -> None:
        del self._callers[caller]
        self._selector.unregister(caller.sock)
        caller.sock.close()


def _is_ours(sock: socket.socket) -> bool:
    """Whether root or the account that runs proxyd is at the other end; the socket's file keeps others out already."""
    with suppress(OSError):
        return uid_by_credentials(sock) in (0, os.geteuid())
    return False


def _plain(status: HTTPStatus) -> Page:
    return Page(f"{status.value} {status.phrase}\n".encode(), status=status)
