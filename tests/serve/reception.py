"""The admin listener's desk in the tests, and whoever comes to it. Over real sockets, and nobody waits: `work` is
called when there is something to do, as the supervisor calls it.
"""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.listening import bind, bind_unix
from proxyd.policy.address import parse_endpoint
from proxyd.serve.admin import Desk, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKEN: Final = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of these tests
SHOWN: Final = f"Authorization: Bearer {TOKEN}"
LARGE: Final = b"x" * (8 << 20)
"""More than the buffers of two sockets hold."""

PATIENCE: Final = 20.0  # seconds until a test gives up


def bug() -> Page:
    raise ZeroDivisionError("a secret")


class Scene:
    """A desk, and whoever comes to it."""

    def __init__(self, listener: socket.socket) -> None:
        self.token = TOKEN
        self.complaints: list[str] = []
        pages: dict[str, Callable[[], Page]] = {
            "/page": lambda: Page(b"here\n"),
            "/large": lambda: Page(LARGE, "text/large"),
            "/ill": lambda: Page(b"ill\n", status=HTTPStatus.SERVICE_UNAVAILABLE),
            "/bug": bug,
        }
        self.where = listener.getsockname()
        self.family = listener.family
        self.desk = Desk(listener, lambda: self.token, pages, self.complaints.append)
        self._stack = ExitStack()

    def caller(self, says: bytes = b"") -> socket.socket:
        """Somebody who connects, and says something."""
        caller = self._stack.enter_context(socket.socket(self.family))
        caller.settimeout(PATIENCE)
        caller.connect(self.where)
        caller.sendall(says)
        return caller

    def due(self) -> bool:
        """Whether the supervisor would be woken."""
        return bool(select.select([self.desk], [], [], 0)[0])

    def rest(self) -> int:
        """Let the desk work until it has nothing to do; how often it worked."""
        turns = 0
        while self.due():
            self.desk.work()
            turns += 1
            assert turns < 20_000, "it is never done"
        return turns

    def ask(self, request: bytes) -> bytes:
        """What is answered, up to the end of the connection."""
        caller = self.caller(request)
        return self.heard(caller)

    def heard(self, caller: socket.socket) -> bytes:
        """What a caller gets, up to the end of the connection."""
        self.rest()
        caller.settimeout(0)
        answer = b""
        while True:
            try:
                piece = caller.recv(1 << 20)
            except BlockingIOError:
                assert self.due(), f"nothing more comes after {answer[:200]!r}"
                self.rest()
                continue
            if not piece:
                return answer
            answer += piece

    def close(self) -> None:
        self._stack.close()
        self.desk.close()


@contextmanager
def scene_at(listener: socket.socket) -> Iterator[Scene]:
    scene = Scene(listener)
    try:
        yield scene
    finally:
        scene.close()


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Scene]:
    """A desk at a Unix socket."""
    with scene_at(bind_unix(str(tmp_path / "admin"), 0o600)) as scene:
        yield scene


@pytest.fixture(params=["127.0.0.1:0", "[::1]:0"])
def loopback(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A desk on loopback."""
    with scene_at(bind(parse_endpoint(request.param))[0]) as scene:
        yield scene


def get(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", *fields, "", "")).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def field(answer: bytes, name: str) -> str | None:
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {each.partition(": ")[0].lower(): each.partition(": ")[2] for each in lines}.get(name)
