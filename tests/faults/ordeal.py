"""What must hold of a daemon before, during and after any fault, in one place."""

from __future__ import annotations

import time
import tomllib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxyd.serve.worker import BEAT_SECONDS
from tests import namespace
from tests.end_to_end.asking import get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.origin import Listener
from tests.end_to_end.vitals import MB, Vitals, forget_peak, totals, vitals
from tests.faults.bystander import HOME, Bystander

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

GROWTH: Final = 16 * MB
"""That all workers together may take more at their peak, unless a fault is stated to cost more."""


@dataclass
class Walls:
    """Listeners where nobody may ever arrive. port: theirs, at every protected IPv4 address and at loopback."""

    port: int
    _listener: Listener

    @property
    def arrivals(self) -> int:
        """How many came."""
        return self._listener.connections


@contextmanager
def walls() -> Iterator[Walls]:
    """Put them up."""
    protected = tuple(each for each in namespace.PROTECTED if ":" not in each) if namespace.isolated else ()
    listener = Listener(lambda _connection: None, ("127.0.0.1", *protected))
    try:
        yield Walls(listener.port, listener)
    finally:
        listener.close()


@contextmanager
def ordeal(scene: Scene, proxy: Daemon, *, growth: int = GROWTH) -> Iterator[Bystander]:
    """A fault is done to `proxy` meanwhile, of which others notice nothing. The test calls `go_on` while it lasts.

    growth: octets that the workers may take more. The test ends what it holds (its clients) before it leaves.
    """
    with walls() as wall:
        warm_up(scene, proxy)
        before = at_rest(proxy)
        workers = proxy.workers()
        forget_peak(proxy)
        with Bystander(scene, proxy, f"http://127.0.0.1:{wall.port}/") as bystander:
            yield bystander
            bystander.go_on()
        assert wall.arrivals == 0, "something got through"
    assert proxy.workers() == workers, f"not the same processes serve: {proxy.complaints()}"
    grown = vitals(proxy).peak - before.memory
    assert grown <= growth, f"the workers took {grown >> 20} MB more"
    books(proxy, bystander)
    recovered(proxy, before)


def books(proxy: Daemon, bystander: Bystander) -> None:
    """Every request is on record, and ended; the bystander's are all there, and nothing says "bug"."""
    of_bystander = Counter(each["status"] for each in proxy.closings() if each["client_address"] == HOME)
    assert of_bystander == bystander.asked
    identities = [each["id"] for each in proxy.decisions()]
    assert len(set(identities)) == len(identities), "a request was decided twice"
    assert "bug" not in proxy.complaints()


def recovered(proxy: Daemon, before: Vitals) -> None:
    """Wait until the workers hold no more files and tasks than before."""
    now = before
    for _ in ticks():
        now = vitals(proxy)
        if now.files <= before.files and now.tasks <= before.tasks:
            return
    raise AssertionError(f"held on: {now.files} files for {before.files}, {now.tasks} tasks for {before.tasks}")


def warm_up(scene: Scene, proxy: Daemon) -> None:
    """Let each worker open what it opens once."""
    proxy.wait_for_start(places(proxy))
    for _ in range(8 * places(proxy)):
        with proxy.connect() as client:
            assert get(client, f"{scene.url}/").status == 200


def places(proxy: Daemon) -> int:
    """How many workers its policy has."""
    return int(tomllib.loads(proxy.policy.read_text()).get("workers", 1))


def at_rest(proxy: Daemon) -> Vitals:
    """How the workers are once nothing has changed for a beat of each: they count their tasks as often as they beat."""
    last, since = vitals(proxy), time.monotonic()
    for _ in ticks():
        now = vitals(proxy)
        if (now.files, now.tasks) != (last.files, last.tasks):
            last, since = now, time.monotonic()
        elif min(totals(proxy).pulses) > since + BEAT_SECONDS:
            return now
    raise AssertionError(f"the workers do not come to rest: {last}, {vitals(proxy)}")
