"""Clients of a daemon whose processes are done things to: one whose worker lives, and others who come back when cut.

A bystander of an `ordeal` may be served by any worker. Where workers die, what is to be held is another thing: who was
at another worker notices nothing, and who was at the dead one is served when they come again.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from tests.end_to_end.asking import connect, get
from tests.end_to_end.daemon import PATIENCE
from tests.end_to_end.origin import Listener, echo
from tests.end_to_end.test_workers import accepted_by

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

REGULAR: Final = "127.0.0.98"
"""Where those connect from who must notice nothing."""

CUT: Final = (ConnectionError, TimeoutError)


def origin_of(scene: Scene) -> str:
    """The origin by address, which needs no lookup."""
    return f"{scene.origin.addresses[0]}:{scene.origin.port}"


@dataclass
class Regular:
    """Somebody with a connection and a tunnel at one worker. denied: a URL that nobody may reach."""

    scene: Scene
    proxy: Daemon
    worker: int
    denied: str
    visits: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self._kept, self._tunnel = (self._stack.enter_context(self._at_the_worker()) for _ in range(2))
        echoing = Listener(echo, self.scene.origin.addresses[:1])
        self._stack.callback(echoing.close)
        assert connect(self._tunnel, f"{echoing.addresses[0]}:{echoing.port}").status == 200
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def visit(self) -> None:
        """Do everything once, on what was there from the beginning."""
        assert get(self._kept, f"http://{origin_of(self.scene)}/").status == 200
        assert get(self._kept, self.denied).status == 403
        self.use_tunnel()
        self.visits += 1

    def use_tunnel(self) -> None:
        """The tunnel alone: while a worker drains, it is all that is left."""
        self._tunnel.sendall(b"an echo")
        assert self._tunnel.recv(100) == b"an echo"

    def leave(self) -> None:
        """Close what there is."""
        self._stack.close()

    def _at_the_worker(self) -> socket.socket:
        """The kernel deals connections out by a hash; another one each time."""
        while True:
            client = self.proxy.connect(REGULAR)
            if accepted_by(self.proxy.workers(), client) == self.worker:
                return client
            client.close()


class Returning:
    """As a context: threads that ask on fresh connections, and again whenever they are cut.

    answers: how many, by status. cuts: how often a connection ended without an answer. rounds: of each of them.
    """

    def __init__(self, ask: Callable[[int], int], expected: tuple[int, ...], count: int = 4) -> None:
        """ask: one question on a connection of its own, its number in the circle of what is expected: the status."""
        self._ask = ask
        self._expected = expected
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._come, args=(number,), daemon=True) for number in range(count)]
        self.answers: Counter[int] = Counter()
        self.cuts = 0
        self.rounds = [0] * count
        self.trouble: str | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "somebody waits for ever"
        assert self.trouble is None, self.trouble

    def go_on(self, rounds: int = 1) -> None:
        """Wait until each of them has had so many more answers."""
        with self._changed:
            aims = [done + rounds for done in self.rounds]
            came = self._changed.wait_for(lambda: self.trouble is not None or self._are_at(aims), PATIENCE)
        assert self.trouble is None, self.trouble
        assert came, "somebody waits, and nothing comes"

    def _are_at(self, aims: list[int]) -> bool:
        return all(done >= aim for done, aim in zip(self.rounds, aims, strict=True))

    def _come(self, number: int) -> None:
        while not self._over.is_set():
            which = self.rounds[number] % len(self._expected)
            status = None
            try:
                status = self._ask(which)
            except CUT:
                pass
            except AssertionError as error:
                if "ended early: b''" not in str(error):  # half an answer is none
                    self._say(f"{error}")
                    return
            with self._changed:
                if status is None:
                    self.cuts += 1
                    continue
                self.answers[status] += 1
                self.rounds[number] += 1
                if status != self._expected[which]:
                    self.trouble = f"{status} where {self._expected[which]} was due"
                self._changed.notify_all()

    def _say(self, trouble: str) -> None:
        with self._changed:
            self.trouble = trouble
            self._changed.notify_all()


def returning(scene: Scene, proxy: Daemon, denied: str, count: int = 4) -> Returning:
    """Who asks for what is allowed, and then for what is denied, again and again."""
    urls = (f"http://{origin_of(scene)}/", denied)

    def ask(which: int) -> int:
        with proxy.connect() as client:
            return get(client, urls[which]).status

    return Returning(ask, (200, 403), count)
