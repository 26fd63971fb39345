"""A client that has nothing to do with a fault, and does the same round of errands all through it."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

from tests.end_to_end.asking import connect, get
from tests.end_to_end.daemon import PATIENCE

if TYPE_CHECKING:
    import socket

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

HOME: Final = "127.0.0.99"
"""Where it connects from, so that its records can be told from others'."""

_UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket")


class Bystander:
    """As a context: at its errands, in a thread. `asked` counts its requests by what must come of them."""

    def __init__(self, scene: Scene, proxy: Daemon, denied: str) -> None:
        """denied: a URL that nobody may reach."""
        self._proxy = proxy
        self._origin = f"{scene.origin.addresses[0]}:{scene.origin.port}"
        self._denied = denied
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._do_errands, daemon=True)
        self._after_a_round = threading.Condition()
        self._rounds = 0
        self.asked: Counter[int] = Counter()
        self.trouble: str | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the bystander hangs"

    def go_on(self, rounds: int = 2) -> None:
        """Wait until it has done so many more rounds: one of them began after this call. Fails at its first trouble."""
        with self._after_a_round:
            aim = self._rounds + rounds
            came = self._after_a_round.wait_for(lambda: self._rounds >= aim or self.trouble is not None, PATIENCE)
        assert self.trouble is None, self.trouble
        assert came, "the bystander waits, and nothing comes"

    def _do_errands(self) -> None:
        try:
            with self._proxy.connect(HOME) as kept, self._proxy.connect(HOME) as tunnel:
                self._open(tunnel)
                while not self._leaving.is_set():
                    self._round(kept, tunnel)
                    with self._after_a_round:
                        self._rounds += 1
                        self._after_a_round.notify_all()
        except (OSError, AssertionError) as trouble:
            with self._after_a_round:
                self.trouble = f"the bystander, after {self._rounds} rounds: {type(trouble).__name__}: {trouble}"
                self._after_a_round.notify_all()

    def _open(self, tunnel: socket.socket) -> None:
        self._expect(200, connect(tunnel, self._origin).status)
        assert get(tunnel, "/", *_UPGRADE).status == 101

    def _round(self, kept: socket.socket, tunnel: socket.socket) -> None:
        with self._proxy.connect(HOME) as fresh:
            self._expect(200, get(fresh, f"http://{self._origin}/").status)
        self._expect(200, get(kept, f"http://{self._origin}/").status)
        self._expect(403, get(kept, self._denied).status)
        tunnel.sendall(b"an echo")
        heard = tunnel.recv(100)
        assert heard == b"an echo", f"the tunnel said {heard!r}"

    def _expect(self, status: int, got: int) -> None:
        assert got == status, f"{got} where {status} was due"
        self.asked[status] += 1
