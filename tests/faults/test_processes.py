"""Processes of proxyd that are killed, stopped, or cannot be had, under load (R10, R12; ATTACKS 8).

Beyond `tests/end_to_end/test_workers.py`: many deaths in a row, deaths that leave a core, and a host that has no
process to give.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.asking import get
from tests.end_to_end.conftest import accounts
from tests.end_to_end.daemon import Daemon, files_of, state_of, ticks
from tests.end_to_end.scraping import at_unix
from tests.end_to_end.test_workers import LONG_DRAIN, gone, refuses, stopped, until
from tests.faults.ordeal import at_rest, ordeal, recovered, walls, warm_up
from tests.faults.patrons import REGULAR, Regular, returning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.scraping import Scraper

__all__ = ["accounts"]

SECRET: Final = "hunter2-in-a-crash"  # noqa: S105 - planted, to be looked for
CROWD: Final = 8  # workers, so that many may die while some live


def serving(proxy: Daemon, count: int) -> None:
    """Wait until that many are there, each with its start on record. After many deaths pauses are long: be patient."""
    for _ in range(6):
        for _ in ticks():
            if len(proxy.workers()) == count and started(proxy) >= set(proxy.workers()):
                return
    raise AssertionError(f"no {count} workers: {proxy.workers()}, {proxy.complaints()[-300:]}")


def started(proxy: Daemon) -> set[int]:
    """Every worker whose start is on record."""
    return {each["pid"] for each in proxy.lines() if each["event"] == "start"}


def say_nothing_of_it(proxy: Daemon) -> None:
    """No line on stderr says "bug", and none has a trace of Python's."""
    assert "bug" not in proxy.complaints()
    assert "Traceback" not in proxy.complaints()


# Deaths

SAID_OF_IT: Final = {("/healthz", 503, "workers that are stuck: 1\n"), ("/readyz", 503, "1 of 2 workers serve\n")}


@contextmanager
def watching(scraper: Scraper) -> Iterator[set[tuple[str, int, str]]]:
    """What is answered meanwhile to whoever asks for health and readiness: some of it holds for seconds only."""
    answers: set[tuple[str, int, str]] = set()
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            answers.update((path, *scraper.ask(path)) for path in ("/healthz", "/readyz"))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


@contextmanager
def a_worker_that_stands_still(scene: Scene, folder: Path, figures: dict[str, str]) -> Iterator[Regular]:
    """Meanwhile one worker of two is stopped, and for good.

    Who is at the other notices nothing; a reload is refused, as not all could change, and on record; health says that
    one is stuck, and readiness that one of two serves. Then it is replaced, all is as before, and a reload is done.
    """
    admin, scraper = at_unix(folder)
    proxy = scene.start(admin, workers=2)
    serving(proxy, 2)
    warm_up(scene, proxy)
    before = at_rest(proxy)
    still, other = proxy.workers()
    with Regular(scene, proxy, other, "http://10.0.0.5/") as regular, watching(scraper) as answers:
        os.kill(still, signal.SIGSTOP)
        proxy.signal(signal.SIGHUP)
        yield regular
        for _ in ticks():
            regular.visit()
            if proxy.reloads() and answers >= SAID_OF_IT:
                break
        assert answers >= SAID_OF_IT
        [refused] = proxy.reloads()
        assert (refused["outcome"], refused["problems"]) == ("refused", ["a worker did not answer in time"])
        until(lambda: still not in proxy.workers(), "it is not ended")
        serving(proxy, 2)
        until(lambda: scraper.ready()[0] == 200, "nobody serves in its place")
        assert proxy.reload()["outcome"] == "done"
        regular.visit()
    assert other in proxy.workers()
    assert "it is ended" in proxy.complaints()
    warm_up(scene, proxy)
    recovered(proxy, before)
    say_nothing_of_it(proxy)
    figures["a worker that stands still"] = f"1 reload refused meanwhile, {regular.visits} visits at the other worker"


def test_attack_8_workers_that_are_killed_in_a_row_take_nobody_with_them_but_their_own(
    scene: Scene, tmp_path: Path, figures: dict[str, str], *, long: bool
) -> None:
    """Fifty deaths in random order: the one at the spared worker notices nothing, and whoever is cut is served again.

    Each next worker has the same policy; no file is left open, in the supervisor or in them. Beside it, another daemon
    has a worker that stands still, for that takes its time.
    """
    kills = 200 if long else 50
    dice = random.Random(8)  # noqa: S311 - the same order each time
    with walls() as wall, a_worker_that_stands_still(scene, tmp_path, figures) as beside:
        proxy = scene.start(workers=CROWD)
        serving(proxy, CROWD)
        warm_up(scene, proxy)
        before, files = at_rest(proxy), len(files_of(proxy.pid))
        spared = proxy.workers()[0]
        denied = f"http://127.0.0.1:{wall.port}/"
        with Regular(scene, proxy, spared, denied) as regular, returning(scene, proxy, denied) as crowd:
            for _ in range(kills):
                victim = dice.choice(other_workers(proxy, spared))
                with suppress(ProcessLookupError):  # it was still dying of the time before
                    os.kill(victim, signal.SIGKILL)
                regular.visit()
                beside.visit()
            serving(proxy, CROWD)
            crowd.go_on(8)
            regular.visit()
        assert wall.arrivals == 0
    assert spared in proxy.workers()
    assert proxy.complaints().count("a worker ended (signal 9)") <= kills
    starts = [each for each in proxy.lines() if each["event"] == "start"]
    assert {each["digest"] for each in proxy.lines()} == {starts[0]["digest"]}
    assert len({each["id"] for each in proxy.decided()}) == len(proxy.decided())
    closings = [each for each in proxy.lines() if each["event"] == "close" and each["client_address"] == REGULAR]
    told = Counter(each["status"] for each in closings)
    assert (told[200], told[403]) == (regular.visits + 1, regular.visits)
    until(lambda: len(files_of(proxy.pid)) <= files, "the supervisor holds on to the dead")
    recovered(proxy, before)
    say_nothing_of_it(proxy)
    figures["workers killed in a row"] = (
        f"{kills} kills, {len(starts) - CROWD} replaced on record, {sum(crowd.answers.values())} answers and "
        f"{crowd.cuts} cuts elsewhere, {regular.visits} visits at the spared one"
    )


def other_workers(proxy: Daemon, spared: int) -> list[int]:
    """The workers that live, but for one; there is one at least, in time."""
    for _ in ticks():
        if found := [pid for pid in proxy.workers() if pid != spared]:
            return found
    raise AssertionError("nobody is replaced")


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV], ids=["SIGABRT", "SIGSEGV"])
def test_attack_9_a_worker_that_crashes_leaves_no_core_and_says_nothing_of_what_passed_through(
    scene: Scene, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where whoever starts proxyd lets cores be; its next worker does the same."""
    monkeypatch.chdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
    try:
        proxy = scene.start()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)
    serving(proxy, 1)
    for _ in range(2):
        [worker] = proxy.workers()
        with proxy.connect() as client:
            assert get(client, f"{scene.url}/", f"Authorization: {SECRET}").status == 200
            client.sendall(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nAuthorization: {SECRET}\r\n".encode())
            until(lambda worker=worker: gone_with(worker, number), "it lives")  # type: ignore[misc]
            with suppress(ConnectionResetError):  # the half was not read yet
                assert client.recv(1) == b""
        serving(proxy, 1)
        assert Path(f"/proc/{proxy.workers()[0]}/cwd").readlink() == tmp_path
    assert proxy.complaints().count(f"a worker ended (signal {number})") == 2
    assert SECRET not in proxy.complaints() + proxy.audit.read_text()
    assert not list(tmp_path.glob("*core*"))
    say_nothing_of_it(proxy)


def gone_with(pid: int, number: signal.Signals) -> bool:
    """Send it, and say whether it is over."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return gone(pid)


def allow_processes(proxy: Daemon, count: int) -> None:
    """Let its account have so many from now on, as far as the supervisor's own limit goes; asked by that account."""
    change = f"p, n = {proxy.pid}, r.RLIMIT_NPROC; r.prlimit(p, n, ({count}, r.prlimit(p, n)[1]))"
    subprocess.run([sys.executable, "-c", f"import resource as r; {change}"], check=True)  # noqa: S603 - our own program


@pytest.mark.usefixtures("accounts", "unprivileged")
def test_attack_8_a_host_that_has_no_process_to_give_is_asked_again_until_it_has(
    scene: Scene, figures: dict[str, str]
) -> None:
    """Fork is refused while a worker is to be replaced: the other one serves on, and then there are two again."""
    proxy = scene.start(workers=2)
    serving(proxy, 2)
    dead, other = proxy.workers()
    with Regular(scene, proxy, other, "http://10.0.0.5/") as regular:
        allow_processes(proxy, 0)
        os.kill(dead, signal.SIGKILL)
        for pause in ("0.2", "0.4", "0.8"):
            said = f"a worker could not be started: Resource temporarily unavailable; another is started in {pause} s"
            until(lambda said=said: said in proxy.complaints(), "nothing is said")  # type: ignore[misc]
            regular.visit()
        assert proxy.workers() == [other]
        assert proxy.reload()["outcome"] == "done"  # a place that is empty hinders none
        allow_processes(proxy, 4096)
        serving(proxy, 2)
        regular.visit()
    assert other in proxy.workers()
    assert {each["digest"] for each in proxy.lines()} == {proxy.reloads()[0]["digest"]}
    say_nothing_of_it(proxy)
    figures["no process to be had"] = "refused 3 times, 1 reload meanwhile, then replaced"


# The supervisor


def test_attack_8_a_supervisor_that_stands_still_is_noticed_by_no_client(scene: Scene, figures: dict[str, str]) -> None:
    """Workers serve on; one that dies meanwhile is replaced when it goes on, and a SIGHUP of meanwhile is heard."""
    proxy = scene.start(workers=2)
    serving(proxy, 2)
    with ordeal(scene, proxy) as bystander:
        for _ in range(10):
            with stopped(proxy.pid):
                bystander.go_on()
    with stopped(proxy.pid):
        dead, other = proxy.workers()
        with Regular(scene, proxy, other, "http://10.0.0.5/") as regular:
            os.kill(dead, signal.SIGKILL)
            proxy.signal(signal.SIGHUP)
            until(lambda: gone(dead), "it lives")
            for _ in range(10):
                regular.visit()
            assert proxy.reloads() == []
    until(proxy.reloads, "it was not heard")
    serving(proxy, 2)
    assert other in proxy.workers()
    say_nothing_of_it(proxy)
    figures["a supervisor that stands still"] = f"10 stops, {sum(bystander.asked.values())} requests of the bystander"


def test_attack_8_a_supervisor_that_is_killed_under_load_leaves_nobody_listening_and_another_begins_at_once(
    scene: Scene, tmp_path: Path
) -> None:
    """At the same port, control socket and admin socket. What was begun at the old one ends well, and it ends."""
    admin, scraper = at_unix(tmp_path)
    listen = f'[listen]\nhttp = ["127.0.0.1:0", "unix:{tmp_path}/clients"]\ncontrol = "{tmp_path}/control"\n'
    users = (
        f'[[client]]\nname = "tester"\nnetworks = ["127.0.0.0/8"]\n[[client]]\nname = "own"\nusers = [{os.getuid()}]\n'
    )
    proxy = scene.start(LONG_DRAIN + admin + listen + users, workers=2)
    serving(proxy, 2)
    workers = proxy.workers()
    with ExitStack() as stack:
        denied = "http://10.0.0.5/"
        crowd = stack.enter_context(returning(scene, proxy, denied))
        regular = stack.enter_context(Regular(scene, proxy, workers[0], denied))
        crowd.go_on(3)
        proxy.signal(signal.SIGKILL)
        assert proxy.wait() == -signal.SIGKILL
        until(lambda: refuses(proxy), "somebody still listens")
        proxy.policy.write_text(proxy.policy.read_text().replace("127.0.0.1:0", f"127.0.0.1:{proxy.port}"))
        next_one = begin_again(proxy)
        stack.callback(next_one.stop)
        serving(next_one, 2)
        crowd.go_on(3)
        assert scraper.ready()[0] == 200
        regular.use_tunnel()
        regular.leave()
        until(lambda: all(gone(worker) for worker in workers), "a worker without a supervisor")
        crowd.go_on(3)
    assert [each["event"] for each in proxy.lines()].count("stop") >= 2


def begin_again(proxy: Daemon) -> Daemon:
    """Another daemon with the same policy and log."""
    proxy.errors.write_text("")
    return Daemon(proxy.policy, proxy.audit, proxy.errors)


def test_a_worker_that_stands_still_when_its_supervisor_is_killed_is_no_port_that_nobody_gets(scene: Scene) -> None:
    """The kernel wakes it: its process group has lost who would have (setpgid(2), orphaned). Then it ends as any."""
    proxy = scene.start(workers=2)
    serving(proxy, 2)
    workers = proxy.workers()
    os.kill(workers[0], signal.SIGSTOP)
    until(lambda: state_of(workers[0]) == "T", "it does not stop")
    proxy.signal(signal.SIGKILL)
    proxy.wait()
    until(lambda: all(gone(worker) for worker in workers), "a worker without a supervisor")
    proxy.policy.write_text(proxy.policy.read_text().replace("127.0.0.1:0", f"127.0.0.1:{proxy.port}"))
    next_one = begin_again(proxy)
    with next_one.connect() as client:
        assert get(client, "http://10.0.0.5/").status == 403
    assert next_one.stop() == 0
