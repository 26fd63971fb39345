"""A running worker, on real sockets and with real signals to this very process: it starts, serves, drains, ends."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from netaddr import IPAddress, IPNetwork

from proxyd.observe.tally import new_tally
from proxyd.policy.address import Endpoint
from proxyd.policy.snapshot import Own
from proxyd.serve import worker as worker_module
from proxyd.serve.channel import Channel
from proxyd.serve.current import CurrentPolicy
from proxyd.serve.handover import AT_ONCE
from proxyd.serve.judge import Judge
from proxyd.serve.worker import serve, utc_now
from tests.serve.handed import WORKERS, ledger, listener
from tests.serve.scene import SCHEMA, connect, get, policy
from tests.serve.working import Log, Worker, echo, given, permitting, refuses, running, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


async def test_a_worker_says_where_it_listens_and_how_many_it_served(tmp_path: Path) -> None:
    """R7: its own beginning and end are on record, under the policy's name and digest."""
    made = policy()
    async with running(Log(tmp_path / "log"), made) as worker:
        for _ in range(2):
            client = await worker.client()
            await client.stream.send_all(get("http://127.0.0.1/", "Connection: close"))
            assert b"address_denied" in await client.rest()
            await client.leave()
        send(signal.SIGTERM)
        await worker.ended.wait()
    start, *_, stop = worker.log.records
    assert worker.events() == ["start", "decision", "close", "decision", "close", "stop"]
    assert (start.listening, start.policy, start.digest) == ((str(worker.where),), "gateway", made.digest[:16])
    assert (stop.connections, stop.policy) == (2, "gateway")
    assert start.pid == stop.pid == os.getpid()
    lines = (tmp_path / "log").read_bytes().splitlines()
    for line in lines:
        SCHEMA.validate(json.loads(line))
    assert len(lines) == 6


def supervisor_gone(worker: Worker) -> None:
    """The other way of being told to end."""
    worker.lose_supervisor()


def sigterm(_: Worker) -> None:
    """The one way."""
    send(signal.SIGTERM)


@pytest.mark.parametrize("end", [sigterm, supervisor_gone])
async def test_the_end_lets_idle_connections_go_at_once_and_accepts_no_more(
    tmp_path: Path, end: Callable[[Worker], None]
) -> None:
    """ATTACKS 8 (SIGTERM): who waits for nothing is not waited for."""
    async with running(Log(tmp_path / "log"), policy("[limits]\ndrain_seconds = 3600")) as worker:
        clients = [await worker.client() for _ in range(3)]
        await clients[0].stream.send_all(get("http://127.0.0.1/"))
        await clients[0].answer()
        end(worker)
        for client in clients:
            assert await client.rest() == b""
        await worker.ended.wait()
        assert await refuses(worker.where)
        for client in clients:
            await client.leave()
    assert worker.events()[-1] == "stop"


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param((sigterm,), id="sigterm"),
        pytest.param((supervisor_gone,), id="supervisor-gone"),
        pytest.param((sigterm, sigterm), id="twice"),
        pytest.param((sigterm, supervisor_gone), id="sigterm-then-supervisor-gone"),
        pytest.param((supervisor_gone, sigterm), id="supervisor-gone-then-sigterm"),
    ],
)
async def test_the_end_lets_what_runs_finish_and_takes_nobody_in_meanwhile(
    tmp_path: Path, ends: tuple[Callable[[Worker], None], ...]
) -> None:
    """ATTACKS 8 (SIGTERM with open tunnels): listeners are closed while sessions live on.

    A service manager signals every process of a service, and the supervisor signals, too: the second SIGTERM that a
    worker hears is nobody's hurry.
    """
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.tunnel(origin)
        for end in ends:
            end(worker)
            while not await refuses(worker.where):
                pass
        assert not worker.ended.is_set()
        await client.stream.send_all(b"still here")
        assert await client.exactly(10) == b"still here"
        await client.leave()
        await worker.ended.wait()
    (close,) = [record for record in worker.log.records if record.event == "close"]
    assert (close.outcome, close.bytes_up, close.bytes_down) == ("closed", 10, 10)
    assert worker.events() == ["start", "decision", "close", "stop"]


async def test_the_end_waits_for_as_long_as_the_policy_says_and_cuts_off_then(tmp_path: Path) -> None:
    """DESIGN: grace is a deadline; what is cut off has its closing record all the same."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin, 0.1)) as worker:
        client = await worker.tunnel(origin)
        began = trio.current_time()
        send(signal.SIGTERM)
        await worker.ended.wait()
        assert trio.current_time() - began >= 0.1
        assert await client.rest() == b""
        await client.leave()
    assert worker.events() == ["start", "decision", "close", "stop"]
    assert worker.log.records[2].outcome == "aborted"


@pytest.fixture
def unhurt() -> Iterator[None]:
    """A SIGTERM that comes when a worker has just stopped to hear does not end the tests."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("unhurt")
async def test_who_asks_for_the_end_again_and_again_does_not_put_it_off(tmp_path: Path) -> None:
    """The drain begins once, and ends when it was to end."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin, 0.5)) as worker:
        client = await worker.tunnel(origin)
        while not worker.ended.is_set():
            send(signal.SIGTERM)
            with trio.move_on_after(0.05):
                await worker.ended.wait()
        await client.leave()
    assert worker.events() == ["start", "decision", "close", "stop"]


@pytest.mark.parametrize("first", [signal.SIGTERM, None])
async def test_what_the_supervisor_says_when_it_is_asked_twice_ends_at_once(
    tmp_path: Path, first: signal.Signals | None
) -> None:
    """An operator who asks twice means it; the drain would take an hour. Also one that had not begun to drain."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.tunnel(origin)
        if first is not None:
            send(first)
            while not await refuses(worker.where):
                pass
        assert not worker.ended.is_set()
        send(AT_ONCE)
        await worker.ended.wait()
        assert await refuses(worker.where)
        await client.leave()
    assert worker.events() == ["start", "decision", "close", "stop"]
    assert worker.log.records[2].outcome == "aborted"


@pytest.mark.parametrize("number", [signal.SIGTERM, AT_ONCE])
async def test_a_signal_that_came_before_it_could_be_heard_is_heard(tmp_path: Path, number: signal.Signals) -> None:
    """The supervisor starts it with its signals blocked: one that comes while Python starts is not lost, nor kills."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        signal.raise_signal(number)
        async with running(Log(tmp_path / "log"), policy("[limits]\ndrain_seconds = 3600")) as worker:
            await worker.ended.wait()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    finally:
        signal.sigtimedwait([number], 0)  # were it lost, it would kill the tests now
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert worker.events() == ["start", "stop"]


async def test_sigusr1_reopens_the_audit_log(tmp_path: Path) -> None:
    """logrotate: the next record is in the new file, and the one that was moved away is complete."""
    path, moved = tmp_path / "log", tmp_path / "log.1"
    async with running(Log(path), policy()) as worker:
        path.rename(moved)
        send(signal.SIGUSR1)
        while not path.exists():  # noqa: ASYNC110 - the file is the event
            await trio.sleep(0.001)
        assert not worker.ended.is_set()
        send(signal.SIGTERM)
        await worker.ended.wait()
    assert b'"event":"start"' in moved.read_bytes()
    assert b'"event":"stop"' in path.read_bytes()
    assert b'"event":"stop"' not in moved.read_bytes()


async def test_an_audit_log_that_cannot_be_reopened_is_complained_about_and_the_old_one_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """R12: there is no gap in the trail."""
    folder = tmp_path / "folder"
    folder.mkdir()
    async with running(Log(folder / "log"), policy()) as worker:
        folder.rename(tmp_path / "gone")
        send(signal.SIGUSR1)
        said = ""
        while not said:
            await trio.sleep(0.001)
            said = capfd.readouterr().err
        assert said == "proxyd: audit log: could not be reopened: No such file or directory\n"
        send(signal.SIGTERM)
        await worker.ended.wait()
    assert b'"event":"stop"' in (tmp_path / "gone" / "log").read_bytes()


async def test_a_beginning_and_an_end_that_cannot_be_recorded_are_complained_about(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """R12: nothing is connected to by starting; each request is refused."""
    async with running(Log(tmp_path / "log", "No space left on device"), policy()) as worker:
        client = await worker.client()
        await client.stream.send_all(connect("93.184.216.34:443"))
        assert (await client.answer()).reason == "audit_unwritable"
        await client.leave()
        send(signal.SIGTERM)
        await worker.ended.wait()
    said = capfd.readouterr().err
    for event in ("start", "decision", "stop"):
        assert f"proxyd: audit log: a {event} record could not be written: No space left on device\n" in said


async def test_a_worker_does_not_connect_to_itself(tmp_path: Path) -> None:
    """ATTACKS 2.17: not even where a permit says so; it knows its own ports."""
    log = Log(tmp_path / "log")
    everything = permitting(Endpoint(IPAddress("127.0.0.1"), 1))
    (permit,) = everything.permit
    made = replace(everything, permit=(replace(permit, ports=(range(1, 65536),)),))
    async with running(log, made) as worker:
        client = await worker.client()
        await client.stream.send_all(connect(str(worker.where)))
        assert (await client.answer()).reason == "address_locked"
        await client.leave()


async def test_the_bound_addresses_are_our_own_whatever_the_host_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATTACKS 2.17: also where the host tells nothing of itself, as beside Linux; and the host's stay ours, too.

    So does the port that the policy names, whatever the system chose.
    """
    made: list[CurrentPolicy] = []

    class Noted(CurrentPolicy):
        def __init__(self, *what: Any) -> None:  # noqa: ANN401 - handed through as it is
            super().__init__(*what)
            made.append(self)

    monkeypatch.setattr(worker_module, "CurrentPolicy", Noted)
    for told in (frozenset[IPNetwork](), frozenset({IPNetwork("198.51.100.0/24")})):
        monkeypatch.setattr(worker_module, "own_addresses", lambda told=told: told)
        async with running(Log(tmp_path / "log"), policy()) as worker:
            assert made[-1]().own == Own(frozenset({worker.where.port, 3128}), told | {IPNetwork(worker.where.address)})


async def test_a_worker_that_cannot_know_its_own_addresses_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: nothing is served, nothing begun."""

    def unreadable() -> frozenset[IPNetwork]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(worker_module, "own_addresses", unreadable)
    log = Log(tmp_path / "log")
    ours, theirs = Channel.pair()
    what = given(policy(), listener(), ledger(), new_tally(WORKERS))
    with pytest.RaisesGroup(PermissionError, allow_unwrapped=True):
        await serve(what, log, ours, pytest.fail)
    what.let_go()
    for each in (log, ours, theirs):
        each.close()
    assert log.records == []


async def test_what_was_decided_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No work twice: one worker has one judge, whoever connects."""
    judges: list[Judge] = []

    class Noted(Judge):
        def __init__(self) -> None:
            super().__init__()
            judges.append(self)

    monkeypatch.setattr(worker_module, "Judge", Noted)
    async with running(Log(tmp_path / "log"), policy()) as worker:
        for _ in range(3):
            client = await worker.client()
            await client.stream.send_all(get("http://127.0.0.1/"))
            assert (await client.answer()).reason == "address_denied"
            await client.leave()
    (judge,) = judges
    assert len(judge._verdicts) == 1  # noqa: SLF001 - what is remembered shows nowhere else


def test_the_time_of_day_is_in_utc() -> None:
    """R7, DESIGN: permits end at 00:00 UTC, and the records say so."""
    before = dt.datetime.now(dt.UTC)
    now = utc_now()
    assert now.tzinfo is dt.UTC
    assert before <= now <= dt.datetime.now(dt.UTC)
