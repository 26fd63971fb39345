"""A running worker serves by what it was handed, and by nothing of its own: resolvers, limits, a parent, its name."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import dns.message
import dns.rcode
import trio
from netaddr import IPAddress

from proxyd.net.host import SPARE_FILES
from proxyd.policy.address import Endpoint
from proxyd.policy.dns import Server
from proxyd.policy.model import Parent
from proxyd.serve import worker as worker_module
from proxyd.serve.ledger import EVERYBODY, Ledger
from tests.serve.handed import handover
from tests.serve.scene import VIA, connect, get, policy
from tests.serve.working import WHERE, Log, bound_to_trio, echo, permitting, running

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_worker_asks_the_servers_it_was_handed(tmp_path: Path) -> None:
    """R3: and takes their no for an answer."""
    with trio.socket.socket(type=socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        host, port = server.getsockname()
        asked: set[str] = set()

        async def answer() -> None:
            while True:
                packet, sender = await server.recvfrom(4096)
                query = dns.message.from_wire(packet)
                asked.add(str(query.question[0].name))
                response = dns.message.make_response(query)
                response.set_rcode(dns.rcode.NXDOMAIN)
                await server.sendto(response.to_wire(), sender)

        made = policy('[[deny]]\nname = "denied"\nreason = "a test"\nhosts = ["denied.example"]')
        async with (
            running(
                Log(tmp_path / "log"), made, handover("", WHERE, servers=(Server(Endpoint(IPAddress(host), port)),))
            ) as worker,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(answer)
            client = await worker.client()
            await client.stream.send_all(get("http://denied.example/"))
            assert (await client.answer()).reason == "name_denied"
            await client.stream.send_all(get("http://nowhere.example/"))
            assert (await client.answer()).reason == "dns_error"
            await client.leave()
            nursery.cancel_scope.cancel()
    assert asked == {"nowhere.example."}


async def test_the_places_are_those_of_all_workers_together(tmp_path: Path) -> None:
    """R10: not each one's share: one worker may have them all, and none has what another one has."""
    made = policy("[limits]\nconnections = 3")
    async with running(Log(tmp_path / "log"), made, handover("", WHERE, workers=2)) as worker:
        sibling = Ledger(os.dup(worker.memory), 1, 2, (EVERYBODY,), time.monotonic)
        place = sibling.enter(3, 3)
        assert place is not None
        inside = [await worker.client() for _ in range(2)]
        for client in inside:
            await client.stream.send_all(get("http://127.0.0.1/"))
            assert (await client.answer()).reason == "address_denied"
        full = sibling.enter(3, 3)
        assert full is None
        late = await worker.client()
        assert await inside[0].rest() == b""
        place.leave()
        sibling.close()
        again = await worker.client()
        await again.stream.send_all(get("http://127.0.0.1/"))
        assert (await again.answer()).reason == "address_denied"
        for client in (*inside, late, again):
            await client.leave()


async def test_a_worker_lets_no_more_in_than_it_has_files_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS 8 (EMFILE): two for each connection, and some to spare."""
    monkeypatch.setattr(worker_module, "file_limit", lambda: 4 + SPARE_FILES)
    async with running(Log(tmp_path / "log"), policy()) as worker:
        clients = [await worker.client() for _ in range(2)]
        for client in clients:
            await client.stream.send_all(get("http://127.0.0.1/"))
            assert (await client.answer()).reason == "address_denied"
        clients.append(await worker.client())
        assert await clients[0].rest() == b""
        await clients[-1].stream.send_all(get("http://127.0.0.1/"))
        assert (await clients[-1].answer()).reason == "address_denied"
        for client in clients:
            await client.leave()


async def test_with_a_parent_every_connection_leaves_through_it(tmp_path: Path) -> None:
    """ATTACKS 6.1, 6.2: and it is asked for the judged address."""
    listening = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    asked: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        asked.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nhello")

    made = replace(policy(), parent=Parent(address=bound_to_trio(listening)))
    async with running(Log(tmp_path / "log"), made) as worker, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listening])
        client = await worker.client()
        await client.stream.send_all(connect("93.184.216.34:443"))
        assert (await client.until(b"hello")).startswith(b"HTTP/1.1 200 ")
        await client.leave()
        nursery.cancel_scope.cancel()
    assert [head.split(b"\r\n")[0] for head in asked] == [b"CONNECT 93.184.216.34:443 HTTP/1.1"]


async def test_a_worker_bears_the_name_it_was_handed_in_via(tmp_path: Path) -> None:
    """ATTACKS 4.13: the same as its siblings, or a loop through another of them would be none."""
    async with echo(as_http=True) as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.client()
        await client.stream.send_all(get(f"http://{origin}/"))
        assert f"Via: 1.1 {VIA}\r\n" in (await client.answer()).body.decode()
        await client.stream.send_all(get(f"http://{origin}/", f"Via: 1.1 {VIA}"))
        assert (await client.answer()).reason == "loop_detected"
        await client.leave()
