"""A running worker changes to another policy: what is served goes on; what it refuses is cut (ATTACKS 7.7)."""

from __future__ import annotations

import datetime as dt
import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from proxyd.net.listening import bound_to
from proxyd.serve import revocation as revocation_module
from proxyd.serve import worker as worker_module
from proxyd.serve.ledger import EVERYBODY
from tests.serve.handed import handover, listener, text
from tests.serve.scene import NOW, Peer, get, policy
from tests.serve.working import WHERE, Log, echo, permit, permitting, refuses, running, send, stream_to

if TYPE_CHECKING:
    from pathlib import Path

DENIED = '[[deny]]\nname = "new"\nreason = "a test"\nhosts = ["nas.local"]\n'


async def reason(client: Peer, url: str = "http://nas.local/") -> str:
    """Why a request is refused."""
    await client.stream.send_all(get(url))
    return (await client.answer()).reason


async def test_another_policy_holds_from_the_next_request_on(tmp_path: Path) -> None:
    """R10: on the same connection; and the end of the worker is on record under the new policy's digest."""
    async with running(Log(tmp_path / "log"), policy()) as worker:
        client = await worker.client()
        assert await reason(client) == "name_reserved"
        assert await worker.reload(text(DENIED)) == 0
        assert await reason(client) == "name_denied"
        assert await worker.reload(text()) == 0
        assert await reason(client) == "name_reserved"
        await client.leave()
        send(signal.SIGTERM)
        await worker.ended.wait()
    digests = [record.digest for record in worker.log.records if record.event == "decision"]
    assert digests[0] != digests[1] != digests[2]
    assert worker.log.records[-1].digest == digests[2]


async def test_r12_a_policy_that_was_only_made_ready_holds_for_nobody(tmp_path: Path) -> None:
    """Another worker could not: all stay as they were."""
    async with running(Log(tmp_path / "log"), policy()) as worker:
        client = await worker.client()
        assert await worker.order("prepare", text(DENIED)) == {"ready": True}
        assert await reason(client) == "name_reserved"
        assert await worker.order("abort") == {}
        assert await reason(client) == "name_reserved"
        await client.leave()


async def test_tunnels_that_the_new_policy_refuses_are_cut_and_the_others_are_not(tmp_path: Path) -> None:
    """ATTACKS 7.7: a live tunnel does not outlive its permit; each has its closing record."""
    async with echo() as one, echo() as other, running(Log(tmp_path / "log"), permitting(one)) as worker:
        assert await worker.reload(text(permit(one) + permit(other))) == 0
        kept, cut = await worker.tunnel(one), await worker.tunnel(other)
        assert await worker.reload(text(permit(one))) == 1
        assert await cut.rest() == b""
        await kept.stream.send_all(b"still here")
        assert await kept.exactly(10) == b"still here"
        for client in (kept, cut):
            await client.leave()
        send(signal.SIGTERM)
        await worker.ended.wait()
    outcomes = {record.port: record.outcome for record in worker.log.records if record.event == "close"}
    assert outcomes == {one.port: "closed", other.port: "revoked"}


async def test_a_connection_of_whom_the_new_policy_does_not_know_is_let_go(tmp_path: Path) -> None:
    """R2: while it waits for its next request."""
    async with running(Log(tmp_path / "log"), policy()) as worker:
        client = await worker.client()
        assert await reason(client) == "name_reserved"
        await worker.reload(text().replace("127.0.0.0/8", "10.0.0.0/8"))
        assert await client.rest() == b""
        await client.leave()


async def test_a_listener_that_is_new_lets_clients_in_and_one_that_went_does_not(tmp_path: Path) -> None:
    """And the one that both policies have never stopped."""
    async with running(Log(tmp_path / "log"), policy()) as worker:
        new = listener()
        where = bound_to(new)
        assert where is not None
        await worker.reload(text(), new)
        new.close()
        for each in (where, worker.where):
            client = Peer(await stream_to(each))
            assert await reason(client) == "name_reserved"
            await client.leave()
        await worker.reload(text())
        while not await refuses(where):
            pass
        assert not await refuses(worker.where)


async def test_records_go_where_the_new_policy_says(tmp_path: Path) -> None:
    """R7: from the next one on, and none is lost between the two."""
    other = tmp_path / "other"
    async with running(Log(tmp_path / "log"), policy()) as worker:
        client = await worker.client()
        await reason(client)
        await worker.reload(text(f'{DENIED}[audit]\nto = "{other}"\n'))
        await reason(client)
        await client.leave()
        send(signal.SIGTERM)
        await worker.ended.wait()
    assert worker.events() == ["start", "decision", "close"]
    records = [json.loads(line) for line in other.read_bytes().splitlines()]
    assert records[0]["reason"] == "name_denied"
    assert [each["event"] for each in records] == ["decision", "close", "stop"]


async def test_limits_are_those_of_the_new_policy_and_what_is_inside_counts(tmp_path: Path) -> None:
    """A client that is new has an account of its own, and nobody who is inside is put out."""
    handed = replace(handover("", WHERE), ledger=(EVERYBODY, "agent"))
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin), handed) as worker:
        limited = text(f"[client.limits]\ntunnels = 1\n{permit(origin)}")
        assert await worker.reload(limited) == 0
        first = await worker.tunnel(origin)
        client = await worker.client()
        await client.stream.send_all(get(str(origin), method="CONNECT"))
        assert (await client.answer()).reason == "concurrency_limit"
        renamed = limited.replace('"agent"', '"other"')
        assert await worker.reload(renamed) == 0, "it is the other client by now, who may have the tunnel"
        second = await worker.tunnel(origin)
        for each in (first, second, client):
            await each.leave()


@pytest.mark.parametrize("orders", [("prepare", "commit"), ("prepare", "abort")])
async def test_a_reload_that_reaches_a_worker_which_drains_ends_it_no_sooner(
    tmp_path: Path, orders: tuple[str, str]
) -> None:
    """ATTACKS 8: a service manager's SIGTERM reaches the workers first; what runs is finished, and nobody is let in."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.tunnel(origin)
        send(signal.SIGTERM)
        while not await refuses(worker.where):
            pass
        new = listener()
        where = bound_to(new)
        assert where is not None
        assert await worker.order(orders[0], text(permit(origin)), new) == {"ready": True}
        await worker.order(orders[1])
        new.close()
        assert await refuses(where)
        await client.stream.send_all(b"still here")
        assert await client.exactly(10) == b"still here"
        assert not worker.ended.is_set()
        await client.leave()
        await worker.ended.wait()
    assert worker.events() == ["start", "decision", "close", "stop"]


async def test_a_supervisor_that_dies_between_the_two_phases_leaves_the_old_policy_and_a_worker_that_drains(
    tmp_path: Path,
) -> None:
    """R12: half a reload is none; the listener that it brought is closed."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.tunnel(origin)
        new = listener()
        where = bound_to(new)
        assert where is not None
        await worker.order("prepare", text(DENIED), new)
        new.close()
        worker.lose_supervisor()
        for each in (worker.where, where):
            while not await refuses(each):
                await trio.lowlevel.checkpoint()
        await client.stream.send_all(b"still here")
        assert await client.exactly(10) == b"still here"
        await client.leave()
        await worker.ended.wait()
    digests = {record.digest for record in worker.log.records}
    assert len(digests) == 1


async def test_a_tunnel_ends_with_the_day_of_its_permit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN, "Time and change": nobody reloads anything at 00:00 UTC."""
    now = [NOW]
    monkeypatch.setattr(worker_module, "utc_now", lambda: now[0])
    monkeypatch.setattr(revocation_module, "LOOK_SECONDS", 0.01)
    async with echo() as origin:
        made = policy(f"{permit(origin)}expires = {NOW.date()}")
        async with running(Log(tmp_path / "log"), made) as worker:
            client = await worker.tunnel(origin)
            now[0] += dt.timedelta(days=1)
            assert await client.rest() == b""
            await client.leave()
    (close,) = [record for record in worker.log.records if record.event == "close"]
    assert close.outcome == "revoked"
