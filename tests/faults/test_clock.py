"""The wall clock jumps: nothing but the day of the policy and the time in the records goes by it (R10, R12).

`faulty.c` sets it, for proxyd alone; the machine's own, and the monotonic one, are as ever.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.resolver import LONGEST_TTL
from tests import namespace
from tests.end_to_end.asking import answer, connect, get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.origin import HttpOrigin
from tests.end_to_end.starting import run
from tests.end_to_end.vitals import totals
from tests.faults.faulty import Faults
from tests.faults.ordeal import ordeal, warm_up
from tests.faults.victims import echoed
from tests.tools import give_up

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

HOUR: Final = 3600
DAY: Final = 24 * HOUR
JUMPS: Final = (-HOUR, HOUR, 400 * DAY, -DAY)
INSIDE: Final = "10.0.0.5"
BURST: Final = 5
RATED: Final = f"""
[[client]]
name = "tester"
networks = ["127.0.0.0/8"]
[client.limits]
requests_per_second = 1
burst = {BURST}
"""
PERMIT: Final = f"""
[[permit]]
host = "{INSIDE}"
ports = [{{port}}]
networks = ["{INSIDE}/32"]
reason = "a service of this house"
expires = {{day}}
"""


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """A clock that is right, until it is set."""
    return Faults(tmp_path)


def sweeps(proxy: Daemon, count: int = 2) -> None:
    """Wait until the worker has looked so many times at what is too old, as it does once a second."""
    seen = {pulse for pulse in totals(proxy).pulses if pulse}
    for _ in ticks():
        seen |= {pulse for pulse in totals(proxy).pulses if pulse}
        if len(seen) > count:
            return
    raise AssertionError("it shows no sign of life")


def test_r12_a_clock_that_jumps_ends_nothing_and_forgets_nothing(
    scene: Scene, faults: Faults, figures: dict[str, str], *, long: bool
) -> None:
    """Idle tunnels, heads half sent, idle connections and answers of DNS are as old as they are, whatever it says."""
    jumps = [*JUMPS, *(JUMPS[each % len(JUMPS)] for each in range(10_000 if long else 1000))]
    scene.nameserver.zone["origin.test"].ttl = int(LONGEST_TTL)
    proxy = scene.start(env=faults.env)
    warm_up(scene, proxy)
    target = f"{scene.origin.addresses[0]}:{scene.origin.port}"
    with ordeal(scene, proxy) as bystander, proxy.connect() as tunnel, proxy.connect() as idle:
        assert connect(tunnel, target).status == 200
        assert get(tunnel, "/", "Connection: Upgrade", "Upgrade: websocket").status == 101
        assert get(idle, f"{scene.url}/").status == 200
        asked = list(scene.nameserver.asked)
        for ahead in JUMPS:
            with proxy.connect() as slow:
                slow.sendall(f"GET {scene.url}/ HTTP/1.1\r\n".encode())
                sweeps(proxy, 1)
                faults.set_clock(ahead)
                sweeps(proxy)
                slow.sendall(b"Host: x\r\n\r\n")
                assert answer(slow).status == 200
            assert get(idle, f"{scene.url}/").status == 200
            assert echoed(tunnel, b"an echo")
        for ahead in jumps:
            faults.set_clock(ahead)
            assert get(idle, f"{scene.url}/").status == 200
        bystander.go_on()
        assert echoed(tunnel, b"an echo")
        assert scene.nameserver.asked == asked
    _are_sound(proxy)
    figures["clock"] = f"{len(jumps) + len(JUMPS)} jumps of up to 400 days, 0 tunnels cut, 0 lookups more"


def _are_sound(proxy: Daemon) -> None:
    """Every duration is one, every time is spelt as ever, and both ways of the clock are in the log."""
    records = proxy.records()
    assert min(each[name] for each in records for name in each if name.endswith("_ms") and each[name] is not None) >= 0
    assert max(each["duration_ms"] for each in records if each["event"] == "close") < HOUR * 1000
    assert all(len(each["time"]) == len("2026-11-21T11:02:18.017Z") and each["time"][-1] == "Z" for each in records)
    times = [dt.datetime.fromisoformat(each["time"]) for each in records]
    assert times != sorted(times)
    assert max(times) - min(times) > dt.timedelta(days=400)


def test_r10_limits_are_of_true_seconds(scene: Scene, faults: Faults) -> None:
    """A clock that runs ahead gives no more requests, and one that was set back takes none away."""
    proxy = scene.start(RATED, env=faults.env)
    proxy.wait_for_start()
    with proxy.connect() as asking:
        began = time.monotonic()
        told = []
        for each in range(200):
            faults.set_clock(each * HOUR)
            told.append(get(asking, f"{scene.url}/").status)
        assert set(told) == {200, 429}
        assert told.count(200) <= BURST + 1 + (time.monotonic() - began)
        faults.set_clock(-400 * DAY)
        next(None for _ in ticks() if get(asking, f"{scene.url}/").status == 200)


def test_r9_a_permit_is_judged_by_the_day_whichever_way_the_clock_went(scene: Scene, faults: Faults) -> None:
    """It ends when its day has, and what it had opened is cut; where the day is set back, it holds again."""
    if not namespace.isolated:
        give_up("a network namespace of its own is needed, for a private address")
    inside = HttpOrigin((INSIDE,))
    today = dt.datetime.now(dt.UTC).date()
    proxy = scene.start(PERMIT.format(port=inside.port, day=today), env=faults.env)
    proxy.wait_for_start()
    url = f"http://{INSIDE}:{inside.port}/"
    faults.set_clock(-HOUR)
    with proxy.connect() as client:
        for _ in range(3):
            assert get(client, url).status == 200
            with proxy.connect() as tunnel:
                assert connect(tunnel, f"{INSIDE}:{inside.port}").status == 200
                faults.set_clock(2 * DAY)
                assert get(client, url).reason == "address_denied"
                assert tunnel.recv(1) == b"", "it is cut"
            faults.set_clock(-2 * DAY)
    arrived = inside.connections
    faults.set_clock(DAY)
    with proxy.connect() as client:
        for ahead in (DAY, 2 * DAY, 400 * DAY):
            faults.set_clock(ahead)
            assert get(client, url).reason == "address_denied"
    assert inside.connections == arrived
    inside.close()
    assert [each["outcome"] for each in proxy.closings()].count("revoked") == 3


def test_r12_a_reload_and_a_death_take_as_long_as_ever(scene: Scene, faults: Faults) -> None:
    """Whoever dies while the clock is set back an hour is replaced in a moment, and so is a policy."""
    proxy = scene.start(env=faults.env)
    proxy.wait_for_start()
    for started, ahead in enumerate((-HOUR, HOUR, -DAY), 2):
        faults.set_clock(ahead)
        assert proxy.reload()["outcome"] == "done"
        os.kill(proxy.workers()[0], signal.SIGKILL)
        proxy.wait_for_start(started)
        with proxy.connect() as client:
            assert get(client, f"{scene.url}/").status == 200


def test_r7_the_log_of_a_clock_that_went_back_is_read_to_its_end(scene: Scene, faults: Faults) -> None:
    """`proxyd log --since` shows each record by its own time, and `proxyd report` counts them all."""
    proxy = scene.start(env=faults.env)
    proxy.wait_for_start()
    for ahead in (0, -3 * HOUR, 0, HOUR, -DAY, 0):
        faults.set_clock(ahead)
        with proxy.connect() as client:
            assert get(client, f"{scene.url}/").status == 200
        records = proxy.records()  # the last one is written before the clock is set again
    shown = run("log", "--json", str(proxy.audit))
    assert [line for line in map(json.loads, shown.stdout.splitlines()) if "verdict" in line] == records
    since = run("log", "--json", "--since", "2h", str(proxy.audit))
    assert sum("verdict" in json.loads(line) for line in since.stdout.splitlines()) == 8
    assert (shown.returncode, since.returncode) == (0, 0)
    reported = run("report", str(proxy.audit))
    assert reported.returncode == 0, reported.stderr
