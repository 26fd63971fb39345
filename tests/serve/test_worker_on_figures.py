"""A running worker counts what it writes down, and shows that it lives for as long as it lets clients in."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

from proxyd.observe.tally import RESTS, TIMED
from proxyd.serve import worker as worker_module
from tests.serve.handed import open_files, text
from tests.serve.scene import get, policy
from tests.serve.working import Log, echo, permit, permitting, refuses, running, send

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.serve.working import Worker


async def until(seen: Callable[[], bool]) -> None:
    """Wait for what another task is about to do; `running` gives up waiting."""
    while not seen():  # noqa: ASYNC110 - shared memory has no events
        await trio.sleep(0.001)


async def ask(worker: Worker, url: str = "http://127.0.0.1/") -> str:
    """A request on a connection of its own: why it is refused."""
    client = await worker.client()
    await client.stream.send_all(get(url, "Connection: close"))
    reason = (await client.answer()).reason
    await client.leave()
    return reason


async def test_what_is_on_record_is_counted(tmp_path: Path) -> None:
    """R7: connections, decisions, ends, octets, and how long each part took."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        assert await ask(worker) == "address_denied"
        client = await worker.tunnel(origin)
        await client.stream.send_all(b"hello")
        assert await client.exactly(5) == b"hello"
        open_now = worker.counted().accounts["agent"]
        await client.leave()
        send(signal.SIGTERM)
        await worker.ended.wait()
        totals = worker.counted()
    agent = totals.accounts["agent"]
    assert (open_now.tunnels, open_now.requests, agent.tunnels, agent.requests) == (1, 0, 0, 0)
    kinds = {("allow", ""): 1, ("deny", "address_denied"): 1}
    assert (agent.decided, agent.ended, agent.bytes_up, agent.bytes_down) == (kinds, kinds, 5, 5)
    assert (totals.connections, totals.dropped, totals.unwritten) == (2, 0, 0)
    timed = {what: sum(totals.timed[what].counts) for what in TIMED}
    assert timed == {"dns": 0, "connect": 1, "first_byte": 1, "audit": len(worker.log.records)}


async def test_r12_what_cannot_be_written_is_counted_as_that(tmp_path: Path) -> None:
    """An operator is told by a figure, too, that everything is refused."""
    async with running(Log(tmp_path / "log", "No space left on device"), policy()) as worker:
        await ask(worker)
        send(signal.SIGTERM)
        await worker.ended.wait()
        totals = worker.counted()
    assert totals.unwritten == len(worker.log.records) >= 4
    assert totals.accounts["agent"].decided == {}
    assert totals.accounts["agent"].ended == {("deny", "address_denied"): 1}


async def test_a_worker_shows_that_it_lives_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stuck does not, whatever it has counted before."""
    monkeypatch.setattr(worker_module, "BEAT_SECONDS", 0.001)
    async with running(Log(tmp_path / "log"), policy()) as worker:
        for _ in range(3):
            (before,) = worker.counted().pulses
            await until(lambda before=before: worker.counted().pulses > (before,))  # type: ignore[misc] # a tuple


async def test_a_worker_that_lets_nobody_in_any_more_does_not_count_as_one_that_serves(tmp_path: Path) -> None:
    """It drains, and what runs is still counted; nor is one that drains for an hour taken for stuck."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        await until(lambda: worker.counted().pulses > (0.0,))
        client = await worker.tunnel(origin)
        send(signal.SIGTERM)
        while not await refuses(worker.where):
            pass
        await until(lambda: worker.counted().pulses == (RESTS,))
        assert worker.counted().accounts["agent"].tunnels == 1
        await client.leave()
        await worker.ended.wait()
        assert worker.counted().accounts["agent"].tunnels == 0


async def test_what_is_cut_off_in_the_end_is_not_left_open(tmp_path: Path) -> None:
    """Its closing record is written, and counted, before the worker lets go of the figures."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin, 0.0)) as worker:
        client = await worker.tunnel(origin)
        send(signal.SIGTERM)
        await worker.ended.wait()
        await client.leave()
        agent = worker.counted().accounts["agent"]
    assert (agent.tunnels, agent.ended) == (0, {("allow", ""): 1})


async def test_after_a_reload_a_client_that_is_new_is_counted_apart_and_no_file_is_left_open(tmp_path: Path) -> None:
    """R10: what was counted before stays, and what is open ends where it was opened."""
    before = open_files()
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.tunnel(origin)
        inside = len(open_files())
        for _ in range(3):
            await worker.reload(text(permit(origin)).replace('"agent"', '"other"'))
        assert len(open_files()) == inside
        assert await ask(worker) == "address_denied"
        assert worker.counted().accounts["agent"].tunnels == 1
        await client.leave()
        await until(lambda: worker.counted().accounts["agent"].tunnels == 0)
        accounts = worker.counted().accounts
        assert accounts["agent"].decided == accounts["agent"].ended == {("allow", ""): 1}
        assert accounts["other"].decided == {("deny", "address_denied"): 1}
    assert open_files().keys() == before.keys()
