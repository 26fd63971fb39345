"""Signals, reloads and askers in storms, at a daemon that serves (R10, R12; ATTACKS 8): nobody else notices."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxyd.cli.files import EX_UNAVAILABLE
from tests.end_to_end.asking import connect, get
from tests.end_to_end.daemon import files_of, read_all, ticks
from tests.end_to_end.scraping import at_loopback
from tests.end_to_end.test_reload import DENY
from tests.end_to_end.test_workers import LONG_DRAIN, refuses, stopped, until
from tests.faults.ordeal import ordeal
from tests.faults.replaced import is_in_force, renamed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

SENDERS: Final = 4
SILENT: Final = 500
SCRAPERS: Final = 200
GROWTH: Final = 16 << 20

_SENDER: Final = """
import os, signal, sys, time
for number in range(int(sys.argv[2])):
    os.kill(int(sys.argv[1]), signal.SIGHUP)
    time.sleep(0.001)
"""


def memory(pid: int) -> int:
    """What a process has resident, in octets."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10


def run(*arguments: str) -> subprocess.Popen[bytes]:
    """A program of ours, in Python."""
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603


def last_in_force(proxy: Daemon, scene: Scene) -> str:
    """The digest of the decisions of both workers, after something was asked of each."""
    for _ in range(16):
        with proxy.connect() as client:
            get(client, f"{scene.url}/")
    [found] = {each["digest"] for each in proxy.decided()[-8:]}
    return str(found)


def test_attack_8_ten_thousand_sighups_of_several_processes_leave_the_policy_on_the_disk_in_force(
    scene: Scene, figures: dict[str, str], *, long: bool
) -> None:
    """Each reload is on record; files of the supervisor are bounded; and the last file is what holds in the end."""
    storm = 100_000 if long else 10_000
    proxy = scene.start(workers=2)
    proxy.wait_for_start(2)
    before = proxy.policy.read_text()
    assert proxy.reload()["outcome"] == "done"
    files, resident = len(files_of(proxy.pid)), memory(proxy.pid)
    most = files
    with ordeal(scene, proxy) as bystander:
        senders = [run("-c", _SENDER, str(proxy.pid), str(storm // SENDERS)) for _ in range(SENDERS)]
        turn = 0
        while any(sender.poll() is None for sender in senders):
            turn += 1
            renamed(proxy.policy, before + DENY * (turn % 2))
            bystander.go_on(1)
            most = max(most, len(files_of(proxy.pid)))
        for sender in senders:
            assert sender.communicate()[1] == b""
        renamed(proxy.policy, before + DENY + "# the last\n")
        until(lambda: is_in_force(proxy), "the last file is never in force")
        assert last_in_force(proxy, scene) == proxy.reloads()[-1]["digest"] != last_but(proxy)
    problems = [problem for each in proxy.reloads() for problem in each["problems"]]
    assert all("changes while it is read" in problem for problem in problems)
    assert most <= files + 8
    assert len(files_of(proxy.pid)) <= files
    assert memory(proxy.pid) - resident < GROWTH
    figures["a storm of SIGHUP"] = (
        f"{storm} of {SENDERS} processes, {len(proxy.reloads())} reloads, at most {most - files} files more"
    )


def last_but(proxy: Daemon) -> str:
    """The digest before the last file was written."""
    return str(proxy.reloads()[0]["digest"])


def with_control(folder: Path) -> str:
    """A policy that has a control socket."""
    return f'[listen]\nhttp = ["127.0.0.1:0"]\ncontrol = "{folder}/control"\n'


def test_attack_8_twenty_who_ask_for_a_reload_at_once_are_all_told(
    scene: Scene, tmp_path: Path, figures: dict[str, str]
) -> None:
    """Each has one of its own, on record; the first finds what has changed, and the others nothing."""
    proxy = scene.start(with_control(tmp_path), workers=2)
    proxy.wait_for_start(2)
    proxy.policy.write_text(proxy.policy.read_text() + DENY)
    with ordeal(scene, proxy) as bystander:
        with ThreadPoolExecutor(20) as pool:
            told = [each.result() for each in [pool.submit(asked_to_reload, proxy.policy) for _ in range(20)]]
        bystander.go_on(1)
    assert sorted(stdout.splitlines()[0] for stdout, _ in told) == [b"deny: +second"] + [b"nothing changed"] * 19
    assert {stderr for _, stderr in told} == {b""}
    assert [each["outcome"] for each in proxy.reloads()] == ["done"] * 20
    figures["reloads asked for at once"] = "20, each told and recorded"


def asked_to_reload(policy: Path) -> tuple[bytes, bytes]:
    """What one is told who asks for it: whoever took more than a second to say what they want asks again, as told."""
    for _ in ticks():
        asking = run("-m", "proxyd", "reload", "--policy", str(policy))
        told = asking.communicate()
        if asking.returncode != EX_UNAVAILABLE or b"asked within a second" not in told[1]:
            assert asking.returncode == 0, told
            return told
    raise AssertionError("nobody is heard")


def test_attack_8_five_hundred_who_say_nothing_at_the_control_socket_keep_no_signal_from_being_heard(
    scene: Scene, tmp_path: Path, figures: dict[str, str]
) -> None:
    """Each may take its second; signals and deaths come before the next. When they are gone, others are heard."""
    proxy = scene.start(with_control(tmp_path), workers=2)
    proxy.wait_for_start(2)
    files = len(files_of(proxy.pid))
    with ordeal(scene, proxy) as bystander, ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(silent(tmp_path / "control"))
        for _ in range(3):
            assert proxy.reload()["outcome"] == "done"
            bystander.go_on()
        assert len(files_of(proxy.pid)) <= files + 1
    with silent(tmp_path / "control") as asker:
        asker.sendall(b"reload\n")
        assert b'"problems": []' in read_all(asker)
    with ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(silent(tmp_path / "control"))
        os.kill(proxy.workers()[0], signal.SIGKILL)
        proxy.wait_for_start(3)
        assert proxy.stop() == 0
    figures["silent at the control socket"] = f"{SILENT}, SIGHUP, SIGCHLD and SIGTERM heard meanwhile"


def silent(path: Path) -> socket.socket:
    """Somebody who has connected there."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(str(path))
    return sock


def test_attack_8_two_hundred_scrapers_at_once_and_as_many_who_dawdle_are_noticed_by_no_client(
    scene: Scene, tmp_path: Path, figures: dict[str, str]
) -> None:
    """Who asks alone is answered whole, also among those who dawdle; the supervisor keeps to its few places."""
    admin, scraper = at_loopback(tmp_path)
    proxy = scene.start(admin, workers=2)
    proxy.wait_for_start(2)
    assert scraper.ask("/metrics")[0] == 200
    files, resident = len(files_of(proxy.pid)), memory(proxy.pid)
    answers: list[bytes] = []
    with ordeal(scene, proxy) as bystander, ExitStack() as stack:
        threads = [threading.Thread(target=taken(scraper.begin, answers)) for _ in range(SCRAPERS)]
        for thread in threads:
            thread.start()
        bystander.go_on()
        for thread in threads:
            thread.join()
        dawdlers = [stack.enter_context(scraper.connect()) for _ in range(SCRAPERS)]
        for dawdler in dawdlers:
            dawdle(dawdler)
            if dawdler in dawdlers[::40]:
                assert scraper.ask("/healthz") == (200, "ok\n")
                bystander.go_on(1)
        assert len(files_of(proxy.pid)) <= files + 17
    whole = [each for each in answers if is_whole(each)]
    assert whole
    assert {*answers} - {*whole} <= {b""}
    assert memory(proxy.pid) - resident < GROWTH
    until(lambda: len(files_of(proxy.pid)) <= files, "the supervisor holds on")
    assert scraper.ready() == (200, "ok\n")
    figures["scrapers"] = (
        f"{SCRAPERS} at once: {len(whole)} answered, {len(answers) - len(whole)} made room; {SCRAPERS} dawdled"
    )


def taken(begin: Callable[[str], socket.socket], answers: list[bytes]) -> Callable[[], None]:
    """Asks for the metrics, and notes what comes; who made room for another gets nothing."""

    def ask() -> None:
        try:
            with begin("/metrics") as sock:
                answers.append(read_all(sock))
        except ConnectionError:
            answers.append(b"")

    return ask


def is_whole(answer: bytes) -> bool:
    """Whether it is the metrics, to the last octet."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0]
    return head.startswith(b"HTTP/1.1 200 ") and int(length) == len(body)


def dawdle(sock: socket.socket) -> None:
    """Half a request, by somebody who may have made room already."""
    try:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
    except ConnectionError:
        return


def test_r12_an_end_that_comes_during_a_reload_lets_it_come_to_its_own_end_first(scene: Scene) -> None:
    """All workers change, or none does; then they drain. A reload that is asked for then is refused, and recorded."""
    proxy = scene.start(LONG_DRAIN, workers=2)
    proxy.wait_for_start(2)
    before = proxy.reload()["digest"]
    one, other = proxy.workers()
    with proxy.connect() as tunnel:
        assert connect(tunnel, scene.target).status == 200
        files = len(files_of(other))
        with stopped(one):
            proxy.policy.write_text(proxy.policy.read_text() + DENY)
            proxy.signal(signal.SIGHUP)
            until(lambda: len(files_of(other)) > files, "it does not make ready")
            proxy.signal(signal.SIGTERM)
        until(lambda: refuses(proxy), "somebody still listens")
        assert proxy.reload()["problems"] == ["proxyd is ending; start it again"]
        assert get(tunnel, "/inside").status == 200
    assert proxy.wait() == 0
    assert [each["outcome"] for each in proxy.reloads()] == ["done", "done", "refused"]
    stops = [each["digest"] for each in proxy.lines() if each["event"] == "stop"]
    assert stops == [proxy.reloads()[1]["digest"]] * 2 != [before] * 2
