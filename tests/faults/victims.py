"""Whom a fault is done to: clients from an address and at an origin of their own, so that all others are spared."""

from __future__ import annotations

import resource
import shutil
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from tests import namespace
from tests.end_to_end.asking import connect, get
from tests.end_to_end.conftest import NAMES, POLICIES, Scene
from tests.end_to_end.daemon import Daemon, policy_text, ticks
from tests.end_to_end.nameserver import Nameserver, Says
from tests.end_to_end.origin import HttpOrigin
from tests.tools import give_up

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

_homes: Final = (f"127.0.{1 + number // 200}.{1 + number % 200}" for number in count())
_UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket")


@dataclass(frozen=True)
class Victims:
    """They ask `proxy` for `target`, an address and port where nobody else goes. home: where they connect from."""

    proxy: Daemon
    target: str
    home: str = field(default_factory=lambda: next(_homes))

    @property
    def url(self) -> str:
        """It, for a GET."""
        return f"http://{self.target}/"

    def connect(self) -> socket.socket:
        """One more of them."""
        return self.proxy.connect(self.home)

    def get(self) -> tuple[int, str]:
        """One asks for the URL, on a connection of its own: the status and the reason."""
        with self.connect() as client:
            told = get(client, self.url)
            return told.status, told.reason

    def ask_for_tunnel(self) -> tuple[int, str]:
        """The same for a CONNECT."""
        with self.connect() as client:
            told = connect(client, self.target)
            return told.status, told.reason

    def tunnel(self) -> socket.socket:
        """A tunnel, all the way to an origin that echoes."""
        with ExitStack() as stack:
            client = stack.enter_context(self.connect())
            assert connect(client, self.target).status == 200
            assert get(client, "/", *_UPGRADE).status == 101
            stack.pop_all()
        return client

    def ended(self) -> Counter[tuple[int, str]]:
        """What the log says of all that they asked, once all of it has ended: status, and reason or outcome."""
        for _ in ticks():
            ours = [each for each in self.proxy.lines() if each.get("client_address") == self.home]
            decided, closed = ([each for each in ours if each["event"] == event] for event in ("decision", "close"))
            if sorted(each["id"] for each in decided) == sorted(each["id"] for each in closed):
                return Counter((each["status"], each["reason"] or each["outcome"]) for each in closed)
        raise AssertionError("not each decision has one closing record")


@contextmanager
def a_scene(directory: Path) -> Iterator[Scene]:
    """A cast of their own, for many tests of one daemon."""
    nameserver, origin = Nameserver(), HttpOrigin((namespace.origin_4(),))
    nameserver.zone["origin.test"] = Says(a=(namespace.origin_4(),))
    shutil.copy(POLICIES / "denylist.toml", directory)
    with ExitStack() as at_last:
        at_last.callback(nameserver.close)
        at_last.callback(origin.close)

        def start(extra: str = "", **more: Any) -> Daemon:  # noqa: ANN401 - passed through
            policy, audit, errors = (directory / each for each in ("policy.toml", "audit.jsonl", "errors"))
            policy.write_text(policy_text(nameserver.port, origin.port, NAMES, extra))
            daemon = Daemon(policy, audit, errors, **more)
            at_last.callback(daemon.stop)
            return daemon

        yield Scene(nameserver, origin, start)


@contextmanager
def another_origin() -> Iterator[HttpOrigin]:
    """An origin at another public address than everybody's."""
    if not namespace.isolated:
        give_up("a network namespace of its own is needed, for a second public address")
    origin = HttpOrigin((namespace.OTHER_4,))
    try:
        yield origin
    finally:
        origin.close()


def echoed(client: socket.socket, octets: bytes) -> bool:
    """Whether a tunnel to an echo carries so much both ways, and alters nothing."""

    def send() -> None:
        with suppress(OSError):  # cut, while it is sent: what is heard tells
            client.sendall(octets)

    sender = threading.Thread(target=send)
    sender.start()
    heard = bytearray()
    while len(heard) < len(octets) and (piece := client.recv(1 << 16)):
        heard += piece
    sender.join()
    return heard == octets


@contextmanager
def lowered(pid: int, limit: int, soft: int) -> Iterator[None]:
    """Let a process have no more than that of something (prlimit(2)), for as long as it lasts."""
    before, hard = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (soft, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, limit, (before, hard))
