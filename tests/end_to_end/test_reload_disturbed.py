"""Reloads under load, in a storm, and while workers die: nothing is lost, and all workers end up with one policy (R12).

ATTACKS 7.7, 8.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from tests import namespace
from tests.end_to_end.asking import connect, get
from tests.end_to_end.daemon import PATIENCE, files_of, refuses
from tests.end_to_end.test_reload import DENY
from tests.end_to_end.test_workers import accepted_by, at_each, gone, stopped, until
from tests.tools import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

pytestmark = pytest.mark.skipif(
    not namespace.isolated, reason="no network of our own: what stands in for public addresses is permitted, not denied"
)

STORM: Final = 50


@pytest.fixture
def proxy(scene: Scene) -> Daemon:
    """Two workers."""
    scene.nameserver.zone["second.test"] = scene.nameserver.zone["origin.test"]
    proxy = scene.start(workers=2)
    proxy.wait_for_start(2)
    return proxy


@contextmanager
def load(works: list[Callable[[], None]]) -> Iterator[list[int]]:
    """Meanwhile, all of these again and again: how often each was done. The first that fails says so in the end."""
    over = threading.Event()
    done = [0] * len(works)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while not over.is_set():
                works[number]()
                done[number] += 1
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []


def advanced(done: list[int], beyond: list[int]) -> bool:
    """Whether everything was done more often than that."""
    return all(now > then for now, then in zip(done, beyond, strict=True))


def test_under_load_nothing_is_lost_that_both_policies_allow(scene: Scene, proxy: Daemon) -> None:
    """Kept-alive requests, new connections and tunnels, while the file is written in two pieces, and reloaded at each.

    The half that is a policy has the denial; the half that is none changes nothing.
    """
    before = proxy.policy.read_text()
    pieces = (before + DENY, before + DENY + "\n[[deny]]\nname", before + '\n[[deny]]\nhosts = ["x', before)
    with ExitStack() as stack:
        kept = at_each(proxy, stack)

        def on_a_kept_connection(client: socket.socket) -> None:
            assert get(client, f"{scene.url}/kept").status == 200

        def on_a_new_one() -> None:
            with proxy.connect() as client:
                assert get(client, f"{scene.url}/new").status == 200

        def in_a_tunnel() -> None:
            with proxy.connect() as client:
                assert connect(client, scene.target).status == 200
                assert get(client, "/inside").status == 200

        works = [*(lambda client=client: on_a_kept_connection(client) for client in kept), on_a_new_one, in_a_tunnel]
        with load(works) as done:
            outcomes = []
            for _ in range(4):
                for piece in pieces:
                    so_far = [count + 1 for count in done]
                    outcomes.append(proxy.reload(piece)["outcome"])
                    until(partial(advanced, done, so_far), "it stands still")
    assert outcomes == ["done", "refused", "refused", "done"] * 4
    assert {each["verdict"] for each in proxy.decisions() if each["host"] == "origin.test"} == {"allow"}
    assert "bug" not in proxy.complaints()


def test_listeners_are_added_removed_and_kept_without_dropping_a_connection(scene: Scene, proxy: Daemon) -> None:
    one = proxy.policy.read_text()
    port = free_port()
    two = one.replace('http = ["127.0.0.1:0"]', f'http = ["127.0.0.1:0", "127.0.0.1:{port}"]')

    def on_the_first() -> None:
        with proxy.connect() as client:
            assert get(client, f"{scene.url}/").status == 200

    with ExitStack() as stack, load([on_the_first]):
        kept = at_each(proxy, stack)
        for _ in range(3):
            assert proxy.reload(two)["outcome"] == "done"
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)) for _ in range(8)]
            assert {get(client, f"{scene.url}/").status for client in clients} == {200}
            assert get(kept[0], f"http://127.0.0.1:{port}/").reason == "address_locked"  # proxyd itself, from now on
            assert connect(clients[0], scene.target).status == 200
            assert proxy.reload(one)["outcome"] == "done"
            until(partial(refuses, port), "it is listened on still")
            assert {get(client, f"{scene.url}/").status for client in (*clients[1:], *kept)} == {200}
            assert get(clients[0], "/inside").status == 200
            assert get(kept[0], f"http://127.0.0.1:{port}/").reason == "address_denied"


def in_force(proxy: Daemon) -> None:
    """Hold that both workers have the policy that the last reload left in force."""
    until(lambda: len(proxy.workers()) == 2, "no two workers")
    with ExitStack() as stack:
        at_each(proxy, stack)
        decided = [each for each in proxy.decisions() if each["reason"] == "address_denied"][-2:]
    assert {each["digest"] for each in decided} == {proxy.reloads()[-1]["digest"]}


def test_a_worker_that_is_killed_while_others_are_ready_takes_the_reload_with_it(scene: Scene, proxy: Daemon) -> None:
    """It is stopped when it should make ready, and killed once the other one is: that one must forget it again."""
    before, (one, other) = proxy.policy.read_text(), proxy.workers()
    files = sorted(files_of(other).values())
    with stopped(one):
        proxy.policy.write_text(before + DENY)
        proxy.signal(signal.SIGHUP)
        until(lambda: len(files_of(other)) > len(files), "it does not make ready")
        os.kill(one, signal.SIGKILL)
    until(proxy.reloads, "it never ends")
    assert proxy.reloads()[0]["outcome"] == "refused"
    proxy.wait_for_start(3)
    until(lambda: sorted(files_of(other).values()) == files, "it keeps what it was given")
    in_force(proxy)
    assert proxy.reload()["outcome"] == "done"
    in_force(proxy)
    with proxy.connect() as client:
        assert get(client, f"http://second.test:{scene.origin.port}/").status == 403


def test_workers_that_are_killed_while_it_reloads_leave_all_with_one_policy(proxy: Daemon) -> None:
    before = proxy.policy.read_text()
    for number in range(4):
        victim = proxy.workers()[number % 2]
        count = len(proxy.reloads())
        proxy.policy.write_text(before if number % 2 else before + DENY)
        proxy.signal(signal.SIGHUP)
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: gone(victim), "it lives")  # type: ignore[misc]
        until(lambda count=count: len(proxy.reloads()) > count, "it never ends")  # type: ignore[misc]
        in_force(proxy)
    assert proxy.reload(before + DENY)["outcome"] == "done"
    in_force(proxy)


def test_attack_8_a_storm_of_sighups_ends_nothing_and_leaks_nothing(scene: Scene, proxy: Daemon) -> None:
    """The last policy is in force; nobody has died, and nobody has more files open than before."""
    before, workers = proxy.policy.read_text(), proxy.workers()
    assert proxy.reload(before)["outcome"] == "done"
    files = how_many_files(proxy)
    with ExitStack() as stack:
        kept = at_each(proxy, stack)
        for number in range(STORM):
            temporary = proxy.policy.with_suffix(".new")
            temporary.write_text(before if number % 2 == 0 else before + DENY)
            temporary.rename(proxy.policy)
            proxy.signal(signal.SIGHUP)
        proxy.reload()
        until(lambda: served_by(proxy, kept, scene), "the last one is not in force")
    until(lambda: how_many_files(proxy) == files, "a leak")
    assert {each["outcome"] for each in proxy.reloads()} == {"done"}
    assert 2 <= len(proxy.reloads()) <= STORM + 2
    assert proxy.workers() == workers
    assert proxy.stop() == 0


def how_many_files(proxy: Daemon) -> dict[int, int]:
    """How many files each of its processes has open."""
    return {pid: len(files_of(pid)) for pid in (proxy.pid, *proxy.workers())}


def served_by(proxy: Daemon, kept: list[socket.socket], scene: Scene) -> bool:
    """Whether both workers refuse what the last policy denies."""
    assert {accepted_by(proxy.workers(), client) for client in kept} == set(proxy.workers())
    return {get(client, f"http://second.test:{scene.origin.port}/").status for client in kept} == {403}


def test_a_reload_moves_the_audit_log_and_no_record_is_lost(scene: Scene, proxy: Daemon, tmp_path: Path) -> None:
    """What is decided under the new policy is in the new log; what was begun under the old one ends there, too."""
    log = tmp_path / "moved.jsonl"
    with ExitStack() as stack:
        [tunnel, _] = at_each(proxy, stack)
        assert connect(tunnel, scene.target).status == 200
        proxy.policy.write_text(proxy.policy.read_text() + f'\n[audit]\nto = "{log}"\n')
        proxy.signal(signal.SIGHUP)
        until(lambda: log.exists() and '"event":"reload"' in log.read_text(), "it does not move")
        with proxy.connect() as client:
            assert get(client, f"{scene.url}/").status == 200
        assert get(tunnel, "/inside").status == 200
    until(lambda: log.read_text().count('"event":"close"') == 2, "a record is missing")
    assert log.read_text().count('"event":"decision"') == 1
    assert [each["event"] for each in proxy.lines()].count("close") == 2  # of those that were refused before
    assert f"{log}" in " ".join(files_of(proxy.workers()[0]).values())
