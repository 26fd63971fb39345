"""How long an exchange took, part by part: on record and counted, and nothing of what did not happen (R7).

`World.trail` holds after every scenario, here and elsewhere, that both say the same. What a connection that was kept
does to it is in `test_exchange_on_sockets`.
"""

from __future__ import annotations

from typing import Final

import pytest
import trio

from proxyd.net.dialer import DialError
from proxyd.net.resolver import DnsError
from proxyd.policy.verdict import Reason
from proxyd.serve.exchange import ANSWER_SECONDS
from tests.serve.scene import OK, Peer, World, connect, connected, get, in_virtual_time, policy

SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
UPGRADE: Final = get("http://example.com/", "Connection: upgrade", "Upgrade: websocket")
EARLY: Final = b"HTTP/1.1 103 Early Hints\r\n\r\n"


def world() -> World:
    """One in which a lookup takes 0.25 s and connecting 0.5 s."""
    return World(dns_seconds=0.25, dial_seconds=0.5)


async def asked(world: World, client: Peer, request: bytes) -> Peer:
    """The origin that got a request."""
    await client.send(request)
    origin = await world.origin()
    await origin.until(b"\r\n\r\n")
    return origin


def figures(world: World) -> tuple[float | None, float | None, float | None, float | None]:
    """What the closing record of the only request says of its time, in milliseconds."""
    _, close = world.only()
    return close.dns_ms, close.connect_ms, close.first_byte_ms, close.duration_ms


@in_virtual_time
async def test_a_request_s_first_byte_comes_after_its_lookup_and_connecting_and_before_its_end() -> None:
    scene = world()
    async with connected(scene) as client:
        origin = await asked(scene, client, get())
        await trio.sleep(1.0)
        await origin.send(OK[:-1])
        await trio.sleep(2.0)
        await origin.send(OK[-1:])
        assert (await client.answer()).status == 200
    assert figures(scene) == (250.0, 500.0, 1750.0, 3750.0)
    assert scene.timed == [("dns", 0.25), ("connect", 0.5), ("first_byte", 1.75)]


@in_virtual_time
async def test_the_time_that_a_client_takes_for_its_head_is_its_own() -> None:
    scene = world()
    async with connected(scene) as client:
        head = get()
        await client.send(head[:-2])
        await trio.sleep(10.0)
        origin = await asked(scene, client, head[-2:])
        await origin.send(OK)
        assert (await client.answer()).status == 200
    assert figures(scene) == (250.0, 500.0, 750.0, 750.0)


@in_virtual_time
async def test_a_tunnel_s_first_byte_is_its_200_whenever_the_origin_speaks() -> None:
    """What comes later is between the two, and none of the proxy's."""
    scene = world()
    async with connected(scene) as client:
        await client.send(connect())
        origin = await scene.origin()
        await client.until(b"\r\n\r\n")
        await trio.sleep(5.0)
        await origin.send(b"hello")
        assert await client.exactly(5) == b"hello"
        await origin.leave()
        assert await client.rest() == b""
    assert figures(scene) == (250.0, 500.0, 750.0, 5750.0)


@in_virtual_time
async def test_a_websocket_s_first_byte_is_its_101_also_behind_an_interim_answer() -> None:
    scene = world()
    async with connected(scene) as client:
        origin = await asked(scene, client, UPGRADE)
        await trio.sleep(0.25)
        await origin.send(EARLY)
        await trio.sleep(1.0)
        await origin.send(SWITCHING)
        assert b" 101 " in await client.until(b"websocket\r\n\r\n")
        await trio.sleep(3.0)
        await origin.leave()
        await client.rest()
    assert figures(scene) == (250.0, 500.0, 2000.0, 5000.0)


@pytest.mark.parametrize("interim", [0, 1, 3])
@in_virtual_time
async def test_an_answer_begins_with_its_final_head_once(interim: int) -> None:
    """RFC 9110 §15.2: what comes before says only that something will come."""
    scene = world()
    async with connected(scene) as client:
        origin = await asked(scene, client, get())
        for _ in range(interim):
            await origin.send(EARLY)
            await trio.sleep(1.0)
        await origin.send(OK)
        await client.until(b"hi")
    assert scene.timed[2:] == [("first_byte", 0.75 + interim)]


@in_virtual_time
async def test_an_answer_may_begin_before_the_question_is_complete() -> None:
    scene = world()
    async with connected(scene) as client:
        origin = await asked(scene, client, get("http://example.com/", "Content-Length: 2", method="PUT"))
        await origin.send(OK[:-1])
        await trio.sleep(1.0)
        await client.send(b"hi")
        await origin.send(OK[-1:])
        assert (await client.answer()).status == 200
    assert figures(scene)[2:] == (750.0, 1750.0)


ROWS: Final = '[[deny]]\nname = "evil"\nreason = "a test"\nhosts = ["evil.example"]'


@pytest.mark.parametrize(
    ("request_head", "status", "timed"),
    [
        pytest.param(get("http://127.0.0.1/"), 403, [], id="address"),
        pytest.param(get("http://evil.example/"), 403, [], id="name"),
        pytest.param(get("http://nowhere.example/"), 502, ["dns"], id="lookup"),
        pytest.param(get("/"), 400, [], id="form"),
        pytest.param(connect("evil.example:443"), 403, [], id="tunnel"),
        pytest.param(get("*", "Max-Forwards: 0", method="OPTIONS"), 400, [], id="options"),
        pytest.param(get("http://example.com", "Max-Forwards: 0", method="OPTIONS"), 200, ["dns"], id="last-hop"),
        pytest.param(get("http://example.com", "Expect: something"), 417, [], id="expectation"),
        pytest.param(b"\r\n\0", 400, [], id="nothing"),
    ],
)
@in_virtual_time
async def test_what_no_origin_answered_has_no_first_byte(request_head: bytes, status: int, timed: list[str]) -> None:
    """A figure of ours would flatter the origins."""
    scene = world()
    scene.policy = policy(ROWS)
    scene.amend(scene.policy)
    scene.answers["nowhere.example"] = DnsError("no", Reason.DNS_ERROR)
    async with connected(scene) as client:
        await client.send(request_head)
        assert (await client.answer()).status == status
    assert [what for what, _ in scene.timed] == timed
    assert figures(scene)[2] is None


@in_virtual_time
async def test_a_connection_that_is_not_made_is_not_timed() -> None:
    """How long it takes to fail is the timeout's to say, and would hide how long it takes to succeed."""
    scene = world()
    scene.dial_error = DialError(Reason.CONNECT_REFUSED)
    async with connected(scene) as client:
        await client.send(get())
        assert (await client.answer()).reason == "connect_refused"
    assert scene.timed == [("dns", 0.25)]


@in_virtual_time
async def test_a_lookup_that_is_given_up_took_as_long_as_it_was_waited_for() -> None:
    """Or the slowest would not be seen at all."""
    scene = World(dns_seconds=100.0)
    async with connected(scene) as client:
        await client.send(get())
        assert (await client.answer()).reason == "dns_timeout"
    assert scene.timed == [("dns", ANSWER_SECONDS)]


@pytest.mark.parametrize(
    ("answer", "reason", "begun"),
    [
        (b"", "origin_closed", False),
        (EARLY, "origin_closed", False),
        (b"SSH-2.0-x\r\n\r\n", "origin_malformed", False),
        (SWITCHING, "origin_malformed", False),
        (OK.replace(b"200", b"407"), "origin_malformed", True),
    ],
)
@in_virtual_time
async def test_an_origin_that_did_not_answer_has_no_first_byte(answer: bytes, reason: str, *, begun: bool) -> None:
    """One that answered what may not be passed on has answered."""
    scene = world()
    async with connected(scene) as client:
        origin = await asked(scene, client, get())
        await origin.send(answer)
        await origin.leave()
        await client.rest()
    _, close = scene.only()
    assert (close.reason, close.first_byte_ms) == (reason, 750.0 if begun else None)
