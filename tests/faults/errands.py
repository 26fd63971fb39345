"""What is asked for while the audit log is in trouble, and what everybody is told: requests by each way.

Each asks on a connection of its own, so that one that is allowed is one arrival at the origin.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.end_to_end.asking import connect, get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.test_workers import until
from tests.end_to_end.vitals import totals

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.end_to_end.asking import Answer
    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

_UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket")
_TIMES: Final = 8  # of each kind: so that each of two workers gets some, as the kernel deals them out


class Errands:
    """Ask. served: how many requests were, each of which the origin must have seen, and must be on record.

    tunnel: one that stands.
    """

    def __init__(self, scene: Scene, proxy: Daemon, denied: str, tunnel: socket.socket) -> None:
        """denied: a URL that nobody may reach. tunnel: a connection to make the tunnel of."""
        self._scene = scene
        self._proxy = proxy
        self._denied = denied
        self._tunnel = tunnel
        self.served = 0
        self._asked = 0  # beside the tunnel
        self._note(connect(tunnel, scene.target), 200)
        assert get(tunnel, "/", *_UPGRADE).status == 101

    def are_done(self) -> None:
        """Everybody is served."""
        for _ in range(_TIMES):
            self._note(self._get(), 200)
            self._note(self._connect(), 200)
            self._note(self._upgrade(), 101)
        self.go_on()

    def are_refused(self) -> None:
        """Nobody is served, and nothing is dialled."""
        before = self.arrivals
        for _ in range(_TIMES):
            for answer in (self._get(), self._connect(), self._upgrade()):
                assert (answer.status, answer.reason) == (503, "audit_unwritable")
        self.go_on()
        assert self.arrivals == before, "something was dialled that is on no record"

    def until_refused(self) -> None:
        """Ask until all workers refuse; before, they serve, and are not otherwise in trouble."""
        in_a_row = 0
        for _ in ticks():
            while in_a_row < 2 * _TIMES:
                answer = self._get()
                if answer.status == 200:
                    self.served += 1
                    break
                assert (answer.status, answer.reason) == (503, "audit_unwritable")
                in_a_row += 1
            else:
                return
            in_a_row = 0
        raise AssertionError("requests are served, and where their records are nobody knows")

    def have_ended(self) -> None:
        """Wait until nobody has anything to write: each request but the tunnel has its closing record, or none for
        want of room.
        """
        until(lambda: self._ended == self._asked, "a request does not end")

    def go_on(self) -> None:
        """What never needed a record, or whose record is written: a denial, and a tunnel that stands."""
        for _ in range(_TIMES):
            with self._client() as client:
                assert get(client, self._denied).status == 403
        self._tunnel.sendall(b"an echo")
        assert self._tunnel.recv(100) == b"an echo"

    @property
    def arrivals(self) -> int:
        """How many connections the origin saw."""
        return self._scene.origin.connections

    @property
    def _ended(self) -> int:
        return sum(sum(each.ended.values()) for each in totals(self._proxy).accounts.values())

    @contextmanager
    def _client(self) -> Iterator[socket.socket]:
        """A connection for one request."""
        self._asked += 1
        with self._proxy.connect() as client:
            yield client

    def _note(self, answer: Answer, status: int) -> None:
        assert answer.status == status, answer
        self.served += 1

    def _get(self) -> Answer:
        with self._client() as client:
            return get(client, f"{self._scene.url}/")

    def _connect(self) -> Answer:
        with self._client() as client:
            return connect(client, self._scene.target)

    def _upgrade(self) -> Answer:
        with self._client() as client:
            return get(client, f"{self._scene.url}/", *_UPGRADE)
