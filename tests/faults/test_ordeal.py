"""The ordeal itself: a fault that hurts is seen, each way, and none is imagined (R10, R12)."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.asking import get
from tests.faults.ordeal import at_rest, books, ordeal, recovered, warm_up

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon


def test_where_nothing_happens_nothing_is_found(scene: Scene, proxy: Daemon) -> None:
    with ordeal(scene, proxy) as bystander:
        bystander.go_on()
    assert bystander.asked[403] >= 4
    assert bystander.asked[200] == 2 * bystander.asked[403] + 1


def test_a_worker_that_stands_still_is_noticed_by_the_bystander(
    scene: Scene, proxy: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match=r"nothing comes|hangs"), ordeal(scene, proxy) as bystander:  # noqa: PT012
        monkeypatch.setattr("tests.faults.bystander.PATIENCE", 1.0)
        (worker,) = proxy.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            bystander.go_on()
        finally:
            os.kill(worker, signal.SIGCONT)


def test_memory_that_grows_is_noticed(scene: Scene, proxy: Daemon) -> None:
    """It may even shrink here: held to a bound that it is above whatever it does."""
    with pytest.raises(AssertionError, match=r"took .* more"), ordeal(scene, proxy, growth=-1 << 30):
        pass


def test_what_is_not_let_go_of_is_noticed(scene: Scene, proxy: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    warm_up(scene, proxy)
    before = at_rest(proxy)
    recovered(proxy, before)
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200
        monkeypatch.setattr("tests.end_to_end.daemon.PATIENCE", 2.0)
        with pytest.raises(AssertionError, match="held on"):
            recovered(proxy, before)


def test_books_that_lack_a_request_are_noticed(scene: Scene, proxy: Daemon) -> None:
    with ordeal(scene, proxy) as bystander:
        pass
    bystander.asked[200] += 1
    with pytest.raises(AssertionError):
        books(proxy, bystander)
