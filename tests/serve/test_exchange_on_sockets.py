"""One request after the other on real sockets: the origin's connection that is kept, and the tunnel that is given away.

Whether a peer has left or spoken is the kernel's to say; what is judged and recorded is the same as in memory.
"""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
import trio
from netaddr import IPAddress

from proxyd.net.dialer import DialError
from proxyd.net.tunnels import Tunnels
from proxyd.policy.address import Resolution
from proxyd.policy.verdict import Reason
from proxyd.serve.session import serve_connection
from proxyd.serve.trail import Trail
from tests.serve.scene import OK, PUBLIC, VIA, Peer, World, connect, connected, get, policy, tcp_streams, visit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxyd.net.stream import TcpStream
    from tests.serve.scene import Connection

HEAD: Final = b"\r\n\r\n"
OTHER: Final = IPAddress("93.184.216.35")
SOON: Final = 60.0
"""Real seconds after which a test is stuck."""
NO_BODY: Final = OK[:-2]
UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket")
SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
DENIED: Final = '[[deny]]\nname = "late"\nreason = "a test"\nhosts = ["example.com"]'


class Real(World):
    """A world whose origins are at the other end of real sockets.

    ours: our ends, in order. beside: how many were open when each was dialled.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ours: list[TcpStream] = []
        self.beside: list[int] = []
        self.origin_streams = self._streams

    def _streams(self) -> tuple[TcpStream, trio.SocketStream]:
        self.beside.append(sum(stream.fileno() >= 0 for stream in self.ours))
        ours, theirs = tcp_streams()
        self.ours.append(ours)
        return ours, theirs

    async def heard(self) -> None:
        """Wait until the kernel has something to say of the last origin."""
        await trio.lowlevel.wait_readable(self.ours[-1].socket)


@asynccontextmanager
async def served(world: Real) -> AsyncIterator[Connection]:
    """A client whose session has to come to its end soon."""
    with trio.fail_after(SOON):
        async with connected(world) as client:
            yield client


async def first(world: Real, client: Peer, response: bytes = OK, request: bytes | None = None) -> Peer:
    """A whole exchange on a new connection, which the origin at its other end may keep."""
    await client.send(get() if request is None else request)
    origin = await world.origin()
    await origin.until(HEAD)
    await origin.send(response)
    await client.answer()
    return origin


async def again(client: Peer, origin: Peer, request: bytes | None = None, response: bytes = OK) -> bytes:
    """A whole exchange on the connection that was kept: the head as the origin got it."""
    await client.send(get() if request is None else request)
    head = await origin.until(HEAD)
    await origin.send(response)
    assert (await client.answer(body=not head.startswith(b"HEAD "))).status == 200
    return head


async def reset(peer: Peer) -> None:
    """Break the connection off."""
    assert isinstance(peer.stream, trio.SocketStream)
    peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await peer.leave()


# Kept


async def test_a_connection_is_kept_for_requests_that_may_be_repeated() -> None:
    """ATTACKS 4.10: each is looked up, judged and recorded as if there were no other; only the dial is spared."""
    world = Real()
    async with served(world) as client:
        origin = await first(world, client)
        assert (
            await again(client, origin)
        ) == f"GET / HTTP/1.1\r\nHost: example.com\r\nVia: 1.1 {VIA}\r\n\r\n".encode()
        assert (await again(client, origin, get(method="HEAD"), NO_BODY)).startswith(b"HEAD / ")
        assert (await again(client, origin, get("http://example.com", method="OPTIONS"))).startswith(b"OPTIONS * ")
        assert (await again(client, origin, get("http://example.com/b"))).startswith(b"GET /b ")
    assert (world.opened, world.count("dial"), world.count("resolve"), world.count("record")) == (1, 1, 5, 10)
    trail = world.trail()
    assert [(decision.verdict, decision.addresses) for decision, _ in trail] == [("allow", (str(PUBLIC),))] * 5
    assert [(close.address, close.status, close.outcome) for _, close in trail] == [(str(PUBLIC), 200, "complete")] * 5
    assert [close.connect_ms is None for _, close in trail] == [False, True, True, True, True]
    for _, close in trail:
        assert close.dns_ms is not None
        assert close.first_byte_ms is not None
        assert close.duration_ms is not None
        assert close.dns_ms <= close.first_byte_ms <= close.duration_ms, "each has a time of its own"


async def test_a_connection_that_is_kept_ends_with_the_client_s() -> None:
    """It is shared with nobody, and outlives nobody."""
    world = Real()
    async with served(world) as client:
        origin = await first(world, client)
        assert world.ours[0].quiet
        await client.leave()
        assert await origin.rest() == b""


@pytest.mark.parametrize(
    ("request_", "connection"),
    [
        (get(), None),
        (get(method="HEAD"), None),
        (get(method="OPTIONS"), None),
        (get("http://example.com/", *UPGRADE), "Upgrade"),
        (get("http://example.com/", "Connection: close"), "close"),
        (get(version="1.0"), "close"),
        (get("http://example.com/", "Content-Length: 0"), "close"),
        (get("http://example.com/", "Content-Length: 0", method="POST"), "close"),
        (get("http://example.com/", method="POST"), "close"),
        (get("http://example.com/", method="DELETE"), "close"),
    ],
)
async def test_an_origin_is_told_to_close_unless_its_connection_is_kept(
    request_: bytes, connection: str | None
) -> None:
    """RFC 9112 §9.6, and what it is told is what is done."""
    world = Real()
    async with served(world) as client:
        await client.send(request_)
        origin = await world.origin()
        head = (await origin.until(HEAD)).decode()
        assert f"\r\nConnection: {connection}\r\n" in head if connection else "\r\nConnection:" not in head
        await origin.send(NO_BODY if request_.startswith(b"HEAD") else OK)
        await client.until(HEAD if request_.startswith(b"HEAD") else b"hi")
        if connection:
            assert await origin.rest() == b""
        else:
            assert world.ours[0].quiet
            await client.end()
            assert await origin.rest() == b""


@pytest.mark.parametrize(
    "request_",
    [
        get("http://other.example/"),
        get("http://example.com:8080/"),
        get("http://93.184.216.34/"),
        get("http://example.com/", "Content-Length: 0", method="POST"),
        get("http://example.com/", "Content-Length: 0"),
        get("http://example.com/", method="DELETE"),
        get("http://example.com/", *UPGRADE),
        connect("example.com:80"),
    ],
)
async def test_attack_3_12_no_other_request_gets_a_connection_that_was_kept(request_: bytes) -> None:
    """Neither one for another place, though it has the same address, nor one that could not be repeated."""
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        await client.send(request_)
        origin = await world.origin()
        if request_.startswith(b"CONNECT"):
            await client.until(HEAD)
            await origin.end()
        else:
            await origin.until(HEAD)
            await origin.send(OK)
            assert (await client.answer()).status == 200
        await client.leave()
        assert await kept.rest() == b"", "it heard nothing of it"
    assert (world.opened, len(world.trail())) == (2, 2)
    assert world.beside == [0, 0], "two files are counted for a connection: the client's, and one to an origin"


async def test_a_request_that_gets_no_kept_connection_leaves_none_to_the_next_one() -> None:
    """What was kept is closed before it is served, and its own is not kept in its place."""
    world = Real()
    async with served(world) as client:
        await first(world, client)
        for request in (get(method="POST"), get("http://example.com/", *UPGRADE)):
            other = await first(world, client, request=request)
            assert await other.rest() == b""
            await first(world, client)
    assert (world.opened, world.beside) == (5, [0] * 5)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        OK + b"\r\n",
    ],
)
async def test_attack_5_an_origin_that_means_to_close_or_says_too_much_is_not_kept(response: bytes) -> None:
    """Response splitting: what came behind an answer is no answer to the next request."""
    world = Real()
    async with served(world) as client:
        assert await (await first(world, client, response)).rest() == b""
        await first(world, client)
    assert world.opened == 2


@pytest.mark.parametrize("what", ["closes", "is reset", "speaks"])
async def test_attack_5_an_origin_that_closed_or_spoke_unasked_gets_no_further_request(what: str) -> None:
    """The client hears nothing of either."""
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        if what == "speaks":
            await kept.send(OK.replace(b"hi", b"no"))
        else:
            await (kept.leave() if what == "closes" else reset(kept))
        await world.heard()
        await client.send(get())
        origin = await world.origin()
        await origin.until(HEAD)
        await origin.send(OK)
        assert (await client.answer()).body == b"hi"
    assert (world.opened, [close.outcome for _, close in world.trail()]) == (2, ["complete"] * 2)


# Judged anew


@pytest.mark.parametrize(("addresses", "opened"), [((OTHER, PUBLIC), 1), ((OTHER,), 2)])
async def test_attack_3_12_a_connection_is_kept_only_as_long_as_its_address_is_allowed(
    addresses: tuple[IPAddress, ...], opened: int
) -> None:
    """The name leads elsewhere now: where it led before was judged for then."""
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        world.answers["example.com"] = Resolution(addresses)
        if opened == 1:
            await again(client, kept)
        else:
            await first(world, client)
            assert await kept.rest() == b""
    assert world.opened == opened
    assert world.trail()[1][1].address == str(PUBLIC if opened == 1 else OTHER)


async def test_attack_4_10_a_destination_that_is_denied_now_is_denied_though_its_connection_is_kept() -> None:
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        world.amend(policy(DENIED))
        await client.send(get())
        assert (await client.answer()).reason == "name_denied"
        await client.leave()
        assert await kept.rest() == b""
    assert world.opened == 1


# Closed at this very moment


@pytest.mark.parametrize("what", ["closes", "is reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_request_that_a_kept_connection_did_not_answer_is_repeated_once_on_a_new_one(
    method: str, what: str
) -> None:
    """RFC 9112 §9.3.1: the origin closed while it was on its way; the client hears nothing of it."""
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        await client.send(get(method=method))
        asked = await kept.until(HEAD)
        await (kept.leave() if what == "closes" else reset(kept))
        origin = await world.origin()
        assert await origin.until(HEAD) == asked
        await origin.send(NO_BODY if method == "HEAD" else OK)
        assert (await client.answer(body=method != "HEAD")).status == 200
        await again(client, origin)
    assert (world.opened, world.beside) == (2, [0, 0])
    _, (decision, close), _ = world.trail()
    assert (decision.verdict, close.status, close.outcome, close.address) == ("allow", 200, "complete", str(PUBLIC))
    assert close.connect_ms is not None
    assert close.first_byte_ms is not None
    assert [what for what, _ in world.timed].count("first_byte") == 3, "what was not answered has none"


async def test_attack_3_12_what_is_repeated_is_dialled_by_its_own_permission() -> None:
    """Not by the one that made the connection: an address that it names may be denied by now."""
    world = Real(answers={"example.com": Resolution((PUBLIC, OTHER))})
    async with served(world) as client:
        kept = await first(world, client)
        world.answers["example.com"] = Resolution((PUBLIC,))
        await client.send(get())
        await kept.until(HEAD)
        await kept.leave()
        await (await world.origin()).send(OK)
        assert (await client.answer()).status == 200
    assert [allow.addresses for allow in world.dialled] == [(PUBLIC, OTHER), (PUBLIC,)]


async def test_a_request_is_not_repeated_twice() -> None:
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        await client.send(get())
        await kept.until(HEAD)
        await kept.leave()
        origin = await world.origin()
        await origin.until(HEAD)
        await origin.leave()
        assert (await client.answer()).reason == "origin_closed"
    assert (world.opened, world.trail()[1][1].status) == (2, 502)


async def test_a_request_that_is_repeated_may_fail_like_any_other() -> None:
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        await client.send(get())
        await kept.until(HEAD)
        world.dial_error = DialError(Reason.CONNECT_REFUSED)
        await kept.leave()
        assert (await client.answer()).reason == "connect_refused"
        world.dial_error = None
        await first(world, client)
    assert [close.status for _, close in world.trail()] == [200, 502, 200]


@pytest.mark.parametrize(
    ("said", "reason", "status"),
    [(b"HTTP/1.1 103 Early Hints\r\n\r\n", "origin_closed", 502), (b"HTTP/1.1 2", "origin_malformed", 502)],
)
async def test_a_request_of_which_the_origin_has_heard_is_not_repeated(said: bytes, reason: str, status: int) -> None:
    """It began to answer: whatever it does then, it does once."""
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        await client.send(get(version="1.0"))
        await kept.until(HEAD)
        await kept.send(said)
        await kept.end()
        answer = await client.answer()
        assert (answer.status, answer.reason) == (status, reason)
    assert world.opened == 1


async def test_a_request_whose_client_has_left_is_not_repeated() -> None:
    world = Real()
    async with served(world) as client:
        kept = await first(world, client)
        await client.send(get())
        await kept.until(HEAD)
        await client.leave()
        await kept.send(OK)
        assert await kept.rest() == b""
    assert (world.opened, world.trail()[1][1].outcome) == (1, "client_gone")


# Given away


class Tunnelling(Real):
    """A world with a pool, and a client on a real socket. over: when the session is; ours: the client's end first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pool = Tunnels()
        self.seams = replace(self.seams, tunnels=self.pool)
        self.over = trio.Event()

    async def session(self, stream: TcpStream) -> None:
        """Serve it to its end."""
        await serve_connection(stream, visit(), self.seams)
        self.over.set()


@asynccontextmanager
async def tunnelling(world: Tunnelling, request: bytes) -> AsyncIterator[tuple[Peer, Peer]]:
    """The two ends of a tunnel that `request` asked for, once the session is over."""
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.pool.run)
            ours, theirs = tcp_streams()
            nursery.start_soon(world.session, ours)
            client = Peer(theirs)
            async with theirs:
                await client.send(request)
                origin = await world.origin()
                if not request.startswith(b"CONNECT"):
                    await origin.until(HEAD)
                    await origin.send(SWITCHING + b"origin's early bytes")
                assert (await client.until(HEAD)).split()[1] in (b"200", b"101")
                await world.over.wait()
                assert len(world.pool) == 1
                assert [record.event for record in world.records] == ["decision"]
                yield client, origin
                await world.leave()
                await world.pool.drained()
                nursery.cancel_scope.cancel()
    world.trail()
    assert world.complaints == []


async def test_a_tunnel_between_two_sockets_is_left_to_the_pool_and_the_session_is_over() -> None:
    """R7: its closing record comes from the pool; what was sent early comes first, and is counted."""
    world = Tunnelling()
    async with tunnelling(world, connect() + b"early") as (client, origin):
        assert await origin.exactly(5) == b"early"
        await origin.send(b"hello")
        assert await client.exactly(5) == b"hello"
        await client.send(b"\x00\xff")
        assert await origin.exactly(2) == b"\x00\xff"
        await client.end()
        assert await origin.rest() == b""
        await origin.send(b"bye")
        await origin.end()
        assert await client.rest() == b"bye"
    decision, close = world.only()
    assert (decision.verdict, decision.id) == ("allow", close.id)
    assert (close.outcome, close.bytes_up, close.bytes_down, close.status) == ("closed", 7, 8, 200)
    assert (close.address, close.host, close.port) == (str(PUBLIC), "example.com", 443)


async def test_a_websocket_between_two_sockets_is_left_to_the_pool_too() -> None:
    """R4: with what both had sent into it already."""
    world = Tunnelling()
    async with tunnelling(world, get("http://example.com/", *UPGRADE) + b"client's early bytes") as (client, origin):
        assert await origin.exactly(20) == b"client's early bytes"
        assert await client.exactly(20) == b"origin's early bytes"
        await client.end()
        assert await origin.rest() == b""
        await origin.end()
        assert await client.rest() == b""
    close = world.only()[1]
    assert (close.outcome, close.bytes_up, close.bytes_down, close.status) == ("closed", 20, 20, 101)


async def test_the_owner_of_a_tunnel_in_the_pool_is_the_trail_of_its_request() -> None:
    """Who revokes tunnels asks it; how it ended is on record as the pool said."""
    world = Tunnelling()
    async with tunnelling(world, connect()) as (client, origin):
        world.pool.revoke(lambda owner: isinstance(owner, Trail) and owner.id == world.records[0].id, "revoked")
        assert await client.rest() == b""
        assert await origin.rest() == b""
    assert world.only()[1].outcome == "revoked"


async def test_a_tunnel_that_breaks_off_is_on_record_as_reset() -> None:
    world = Tunnelling()
    async with tunnelling(world, connect()) as (client, origin):
        await reset(origin)
        assert await client.rest() == b""
    assert world.only()[1].outcome == "reset"


async def test_a_client_that_is_no_socket_is_relayed_by_its_session() -> None:
    """A pool is for sockets; nothing else is different."""
    world = Tunnelling()
    async with served(world) as client:
        await client.send(connect())
        origin = await world.origin()
        await client.until(HEAD)
        await client.send(b"ping")
        assert await origin.exactly(4) == b"ping"
        assert len(world.pool) == 0
        await client.end()
        assert await origin.rest() == b""
        await origin.leave()
    assert (world.only()[1].outcome, world.only()[1].bytes_up) == ("closed", 4)
