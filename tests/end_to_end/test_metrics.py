"""Metrics and health of the real daemon: they agree with the audit log, whatever becomes of workers and policies.

R7, R10, R12. That nobody gets there through the proxy is in test_admin.py.
"""

from __future__ import annotations

import os
import resource
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.end_to_end.asking import connect, get
from tests.end_to_end.daemon import PATIENCE, files_of, read_all, ticks
from tests.end_to_end.nameserver import Says
from tests.end_to_end.scraping import Scraper, at_unix, until
from tests.end_to_end.starting import run
from tests.end_to_end.test_workers import stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

CLIENTS: Final = '[[client]]\nname = "tester"\nnetworks = ["127.0.0.1/32"]\n'
SECOND: Final = '[[client]]\nname = "second"\nnetworks = ["127.0.0.2/32"]\n'


@pytest.fixture
def started(scene: Scene, tmp_path: Path) -> Callable[..., tuple[Daemon, Scraper]]:
    """Starts a daemon with an admin listener, ready to serve, and who asks there."""

    def start(extra: str = CLIENTS, workers: int = 1) -> tuple[Daemon, Scraper]:
        admin, scraper = at_unix(tmp_path)
        proxy = scene.start(extra + admin, workers=workers)
        until(lambda: scraper.ready()[0] == 200, "it is not ready")
        return proxy, scraper

    return start


def logged(lines: list[dict[str, Any]]) -> dict[str, float]:
    """What metrics must say, by the audit log."""
    found: Counter[str] = Counter()
    for each in lines:
        name = {"decision": "proxyd_decisions_total", "close": "proxyd_requests_total"}.get(each["event"])
        if name is not None:
            client, verdict, reason = (each[key] or "" for key in ("client", "verdict", "reason"))
            found[f'{name}{{client="{client}",reason="{reason}",verdict="{verdict}"}}'] += 1
        if each["event"] == "close":
            for way in ("up", "down"):
                found[f'proxyd_bytes_total{{client="{client}",direction="{way}"}}'] += each[f"bytes_{way}"]
    return {name: value for name, value in found.items() if value}


def counted(scraper: Scraper) -> dict[str, float]:
    """What metrics do say of the same."""
    names = ("proxyd_decisions_total", "proxyd_requests_total", "proxyd_bytes_total")
    return {name: value for name, value in scraper.samples().items() if name.startswith(names) and value}


def agree(proxy: Daemon, scraper: Scraper) -> dict[str, float]:
    """Wait until both say the same, as a record is written before it is counted: what they say."""
    for _ in ticks():
        if (said := counted(scraper)) == logged(proxy.lines()):
            return said
    raise AssertionError((counted(scraper), logged(proxy.lines())))


def traffic(scene: Scene, proxy: Daemon) -> None:
    """Of each kind: allowed, refused, failed; requests and tunnels; with payload both ways."""
    scene.nameserver.zone["gone.test"] = Says(rcode="NXDOMAIN")
    for url in (f"{scene.url}/a", "http://10.0.0.5/", "http://169.254.169.254/", "http://gone.test/", "http://a..b/"):
        with proxy.connect() as client:
            get(client, url)
    with proxy.connect() as client:
        client.sendall(
            b"POST %s/b HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" % scene.url.encode() + b"x" * 1000
        )
        client.settimeout(60)
        assert client.recv(12) == b"HTTP/1.1 200"
    with proxy.connect() as client:
        assert connect(client, scene.target).status == 200
        client.sendall(b"GET /t HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"you sent" in read_all(client)
    with proxy.connect() as client:
        assert connect(client, "10.0.0.5:443").status == 403


def open_now(scraper: Scraper, kind: str = "tunnel") -> float:
    """What is under way of the client."""
    return scraper.samples()[f'proxyd_open{{client="tester",kind="{kind}"}}']


@pytest.mark.parametrize("workers", [1, 2])
def test_r7_metrics_agree_with_the_log(
    scene: Scene, started: Callable[..., tuple[Daemon, Scraper]], workers: int
) -> None:
    """All workers together; and nobody outside who is refused is left out."""
    proxy, scraper = started(workers=workers)
    for _ in range(3 * workers):
        traffic(scene, proxy)
    with proxy.connect(source="127.0.0.2") as stranger:
        assert get(stranger, scene.url).status == 403
    proxy.records()
    said = agree(proxy, scraper)
    assert len([name for name in said if name.startswith("proxyd_decisions_total")]) >= 5
    assert 'client=""' in "".join(said)
    samples = scraper.samples()
    assert samples["proxyd_connections_total"] == 24 * workers + 1
    assert samples["proxyd_audit_write_seconds_count"] == len(proxy.lines())
    assert samples["proxyd_first_byte_seconds_count"] == 9 * workers
    assert samples["proxyd_audit_failures_total"] == samples["proxyd_connections_dropped_total"] == 0
    assert samples["proxyd_workers"] == samples["proxyd_workers_serving"] == workers
    processes = {name for name in samples if name.startswith("proxyd_process_open_fds")}
    assert len(processes) == 1 + workers


def test_what_is_under_way_is_told_and_is_over_when_it_ends_or_its_worker_is_killed(
    scene: Scene, started: Callable[..., tuple[Daemon, Scraper]]
) -> None:
    """R12: what was counted stays; what was open with the one that died is open no more."""
    proxy, scraper = started(workers=2)
    clients = [proxy.connect() for _ in range(8)]
    for client in clients:
        assert connect(client, scene.target).status == 200
    assert open_now(scraper) == 8
    clients.pop().close()
    until(lambda: open_now(scraper) == 7, "one tunnel ended")
    before = agree(proxy, scraper)
    victim, other = proxy.workers()
    os.kill(victim, signal.SIGKILL)
    until(lambda: scraper.samples()["proxyd_worker_deaths_total"] == 1, "its death is not told")
    left = open_now(scraper)
    until(lambda: scraper.ready()[0] == 200, "it is not replaced")
    assert counted(scraper) == before
    assert other in proxy.workers()
    alive = [client for client in clients if _is_alive(client)]
    assert (open_now(scraper), len(alive)) == (left, left)
    traffic(scene, proxy)
    for client in clients:
        client.close()
    until(lambda: open_now(scraper) == 0, "all tunnels ended")
    agree(proxy, scraper)


def _is_alive(client: Any) -> bool:  # noqa: ANN401 - a socket
    """Whether the origin at the other end of a tunnel answers."""
    try:
        client.sendall(b"GET /t HTTP/1.1\r\nHost: x\r\n\r\n")
        return bool(client.recv(8) == b"HTTP/1.1")
    except OSError:
        return False


def test_a_client_that_a_reload_adds_is_counted_by_its_name(started: Callable[..., tuple[Daemon, Scraper]]) -> None:
    """R10: and before it was nobody's."""
    proxy, scraper = started(workers=2)
    for count in (1, 2):
        with proxy.connect(source="127.0.0.2") as client:
            assert get(client, "http://10.0.0.5/").status == 403
        proxy.records()
        agree(proxy, scraper)
        if count == 1:
            before = scraper.samples()
            assert proxy.reload(proxy.policy.read_text().replace(CLIENTS, CLIENTS + SECOND))["outcome"] == "done"
    after = scraper.samples()
    denied = 'proxyd_decisions_total{{client="second",reason="{}",verdict="deny"}}'
    assert denied.format("address_denied") not in before
    assert after[denied.format("address_denied")] == 1
    assert (before['proxyd_reloads_total{outcome="done"}'], after['proxyd_reloads_total{outcome="done"}']) == (0, 1)
    assert after["proxyd_policy_loaded_timestamp_seconds"] > before["proxyd_policy_loaded_timestamp_seconds"]
    assert proxy.reload("nonsense")["outcome"] == "refused"
    assert scraper.samples()["proxyd_reload_successful"] == 0
    assert counted(scraper) == logged(proxy.lines())


# Health


def test_r12_it_is_not_ready_while_a_worker_is_dead(
    started: Callable[..., tuple[Daemon, Scraper]], tmp_path: Path
) -> None:
    """Alive all the same. Whoever takes the dead one's place cannot write the log, and so does not serve."""
    log = tmp_path / "log"
    proxy, scraper = started(f'{CLIENTS}[audit]\nto = "{log}"\n', workers=2)
    log.unlink()
    log.mkdir()
    os.kill(proxy.workers()[0], signal.SIGKILL)
    until(lambda: scraper.ready() == (503, "1 of 2 workers serve\n"), "a worker that is dead serves no more")
    until(lambda: scraper.samples()["proxyd_worker_deaths_total"] >= 2, "who came next cannot serve")
    assert scraper.ready()[0] == 503
    assert scraper.ask("/healthz") == (200, "ok\n")
    log.rmdir()
    until(lambda: scraper.ready() == (200, "ok\n"), "it does not recover")


def test_while_it_drains_it_is_not_ready_and_tells_how_it_goes_to_the_end(
    scene: Scene, started: Callable[..., tuple[Daemon, Scraper]], tmp_path: Path
) -> None:
    """And its socket's file goes with it."""
    proxy, scraper = started(f"{CLIENTS}[limits]\ndrain_seconds = 3600\n", workers=2)
    with proxy.connect() as client:
        assert connect(client, scene.target).status == 200
        proxy.signal(signal.SIGTERM)
        until(lambda: scraper.ready() == (503, "ending\n"), "it is ready though it ends")
        assert scraper.ask("/healthz") == (200, "ok\n")
        until(lambda: scraper.samples()["proxyd_workers_serving"] == 0, "nobody is let in any more")
        assert open_now(scraper) == 1
    assert proxy.wait() == 0
    assert not (tmp_path / "admin").exists()


def test_who_asks_while_a_reload_waits_for_a_worker_is_answered_after_it(
    started: Callable[..., tuple[Daemon, Scraper]],
) -> None:
    """The supervisor does one thing at a time; nobody is turned away for it."""
    proxy, scraper = started(workers=2)
    with stopped(proxy.workers()[0]):
        proxy.signal(signal.SIGHUP)
        asked = [scraper.begin("/healthz") for _ in range(10)]
    until(lambda: [each["outcome"] for each in proxy.reloads()] == ["done"], "no reload")
    for each in asked:
        assert read_all(each).startswith(b"HTTP/1.1 200 ")
        each.close()


def test_attack_8_a_supervisor_without_files_hears_signals_and_answers_once_it_has_some(
    started: Callable[..., tuple[Daemon, Scraper]],
) -> None:
    """Whoever waits to be let in keeps it from nothing."""
    proxy, scraper = started(workers=2)
    limits = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
    scraper.ask("/healthz")
    files = files_of(proxy.pid)
    first_free = next(number for number in range(len(files) + 1) if number not in files)
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (first_free, limits[1]))
    with scraper.begin("/healthz") as asked:
        proxy.signal(signal.SIGHUP)
        until(lambda: "Too many open files" in proxy.complaints(), "it does not hear")
        asked.setblocking(False)  # noqa: FBT003 - the only way to say it
        with pytest.raises(BlockingIOError):
            asked.recv(1)
        asked.settimeout(PATIENCE)
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, limits)
        assert read_all(asked).startswith(b"HTTP/1.1 200 ")
    assert proxy.reload()["outcome"] == "done"


def test_r12_a_thousand_scrapes_leave_no_file_open(started: Callable[..., tuple[Daemon, Scraper]]) -> None:
    """Nor do reloads between them."""
    proxy, scraper = started()
    scraper.samples()
    before = len(files_of(proxy.pid))
    for number in range(1000):
        scraper.ask(("/healthz", "/readyz", "/nowhere", "/healthz")[number % 4])
        if number % 250 == 0:
            assert proxy.reload()["outcome"] == "done"
            scraper.samples()
    until(lambda: len(files_of(proxy.pid)) == before, "a file is left")


# Two of them


def test_a_second_proxyd_at_the_same_socket_is_refused_and_a_dead_ones_file_is_no_hindrance(
    started: Callable[..., tuple[Daemon, Scraper]],
) -> None:
    """R12: 69, and the first goes on."""
    proxy, scraper = started()
    refused = run("--policy", str(proxy.policy))
    assert refused.returncode == 69
    assert "admin.listen: unix:" in refused.stderr
    assert "somebody listens there already" in refused.stderr
    assert scraper.ready()[0] == 200
    workers = proxy.workers()
    proxy.signal(signal.SIGKILL)
    proxy.wait()
    assert Path(str(scraper.where)).is_socket(), "it was left behind"
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "its workers do not end")
    _, again = started()
    assert again.ask("/healthz")[0] == 200
