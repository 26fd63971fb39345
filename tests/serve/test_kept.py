"""The connection to an origin between two requests of one client connection: when it serves again, and when not.

On real sockets: whether a peer has left or spoken is the kernel's to say (ATTACKS 3.12, 4.10).
"""

from __future__ import annotations

import socket
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import h11
import pytest
import trio
from netaddr import IPAddress

from proxyd.net.dialer import Dialled
from proxyd.net.stream import TcpStream
from proxyd.net.wire import Wire
from proxyd.policy.address import Destination, Endpoint, Resolution
from proxyd.policy.client import Egress
from proxyd.policy.model import Parent
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.verdict import Allow, decide
from proxyd.serve.kept import Kept, Origin
from tests.serve.scene import NOW, OK, PERMIT_LOCAL, PUBLIC, policy

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER: Final = IPAddress("93.184.216.35")
_POLICY: Final = policy(PERMIT_LOCAL)


def allowed(host: str = "example.com", port: int = 80, *addresses: IPAddress) -> Allow:
    """What the judge says of a request to there."""
    verdict = decide(
        Destination(host, port),
        _POLICY.client[0],
        Snapshot.of(_POLICY, NOW.date(), Own()),
        Resolution(addresses or (PUBLIC,)),
    )
    assert isinstance(verdict, Allow)
    return verdict


@contextmanager
def connected(allow: Allow | None = None, address: IPAddress = PUBLIC) -> Iterator[tuple[Origin, socket.socket]]:
    """A connection to an origin at `address`, as far as anybody knows, and the origin's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        with theirs:
            ours.setblocking(False)  # noqa: FBT003 - the only way to say it
            stream = TcpStream(ours)
            allow = allowed() if allow is None else allow
            yield Origin(allow, Dialled(stream, address), Wire(stream, h11.CLIENT)), theirs


async def exchange(origin: Origin, theirs: socket.socket, response: bytes = OK) -> None:
    """One request and its response, to its end."""
    wire = origin.wire
    await wire.send(h11.Request(method="GET", target="/", headers=[("Host", "example.com")]))
    await wire.send(h11.EndOfMessage())
    theirs.sendall(response)
    await wire.receive_head()
    while not isinstance(await wire.receive(), h11.EndOfMessage):
        pass


def left(theirs: socket.socket) -> bool:
    """Whether our side of the connection is closed; what was said before does not count."""
    theirs.settimeout(20)
    with suppress(ConnectionResetError):  # what it said was not read
        while theirs.recv(65536):
            pass
    return True


def arrived(origin: Origin) -> None:
    """Wait until the kernel has something to say of the peer: data, an end or a reset."""
    stream = origin.dialled.stream
    assert isinstance(stream, TcpStream)
    with trio.testing.assert_no_checkpoints():
        while stream.quiet:
            pass


async def test_what_was_kept_serves_the_next_request_and_is_known_to_have_served() -> None:
    """The same connection, its wire ready for another exchange; and it is handed out once."""
    kept = Kept()
    with connected() as (origin, theirs):
        for _ in range(3):
            await exchange(origin, theirs)
            await kept.keep(origin)
            again = await kept.take(allowed())
            assert again is not None
            assert (again.dialled, again.wire, again.used) == (origin.dialled, origin.wire, True)
            assert await kept.take(allowed()) is None
            origin = again  # noqa: PLW2901 - the next request's


async def test_a_new_connection_has_not_served_yet() -> None:
    """A failure on it is the origin's, and no request is repeated for it."""
    with connected() as (origin, _):
        assert not origin.used


async def test_only_a_socket_is_kept() -> None:
    """Of others nobody can tell, without waiting, whether the origin is still there."""
    with connected() as (origin, _):
        assert origin.keepable
        ours, _ = trio.testing.memory_stream_pair()
        other = Dialled(cast("TcpStream", ours), PUBLIC)
        assert not Origin(origin.allow, other, Wire(ours, h11.CLIENT)).keepable


async def test_r10_what_left_in_another_way_than_the_policy_has_it_serves_nobody() -> None:
    """A reload may have put a parent proxy between us and the world: never otherwise, from then on."""
    kept = Kept()
    with connected() as (origin, theirs):
        await exchange(origin, theirs)
        await kept.keep(origin)
        parent = Parent(address=Endpoint(IPAddress("192.0.2.7"), 3128))
        assert await kept.take(allowed(), parent) is None
        assert origin.dialled.stream.socket.fileno() == -1


async def test_without_one_there_is_none() -> None:
    kept = Kept()
    assert await kept.take(allowed()) is None
    await kept.close()


@pytest.mark.parametrize(
    "allow",
    [
        pytest.param(lambda: allowed("other.example"), id="host"),
        pytest.param(lambda: allowed("example.com", 8080), id="port"),
        pytest.param(lambda: allowed("example.com", 80, OTHER), id="address"),
    ],
)
async def test_attack_3_12_another_destination_or_address_gets_another_connection(allow: object) -> None:
    """Each request is judged anew, and served only where its own Allow leads; the old connection is closed."""
    assert callable(allow)
    kept = Kept()
    with connected() as (origin, theirs):
        await exchange(origin, theirs)
        await kept.keep(origin)
        assert await kept.take(allow()) is None
        assert left(theirs)
        assert await kept.take(allowed()) is None


async def test_attack_3_12_the_address_connected_to_is_what_counts() -> None:
    """A later answer may have more addresses, or fewer, as long as this one was judged again."""
    kept = Kept()
    with connected(allowed("example.com", 80, PUBLIC, OTHER), OTHER) as (origin, theirs):
        await exchange(origin, theirs)
        await kept.keep(origin)
        assert await kept.take(allowed("example.com", 80, OTHER)) is not None
        await kept.keep(origin)
    with connected(allowed("example.com", 80, PUBLIC, OTHER), OTHER) as (origin, theirs):
        kept = Kept()
        await exchange(origin, theirs)
        await kept.keep(origin)
        assert await kept.take(allowed("example.com", 80, PUBLIC)) is None


async def test_attack_3_12_a_connection_that_left_by_another_way_serves_no_request() -> None:
    """A reload gave the client another source address: the network behind it tells clients apart by that."""
    kept = Kept()
    with connected() as (origin, theirs):
        await exchange(origin, theirs)
        await kept.keep(origin)
        here, there = (_leaving_by(allowed(), Egress(interface=name)) for name in ("eth0", "eth1"))
        before = await kept.take(allowed())
        assert before is not None
        before = replace(before, allow=here)
        assert before.serves(here)
        assert not before.serves(there)
        assert not before.serves(allowed())


def _leaving_by(allow: Allow, egress: Egress) -> Allow:
    """The same permission, for a client whose connections leave by another way."""
    (agent,) = _POLICY.client
    moved = replace(agent, egress=egress)
    snapshot = Snapshot.of(replace(_POLICY, client=(moved,)), NOW.date(), Own())
    verdict = decide(allow.destination, moved, snapshot, Resolution(allow.addresses))
    assert isinstance(verdict, Allow)
    return verdict


async def test_r9_what_a_permit_opened_serves_no_request_that_is_allowed_otherwise() -> None:
    """The host has a permit for one of its addresses only: the two kinds of connection do not mix."""
    inner, outer = IPAddress("10.0.0.5"), PUBLIC
    permitted, plain = allowed("ui.example", 8080, inner), allowed("ui.example", 8080, outer)
    assert (permitted.permitted, plain.permitted) == (True, False)
    for before, address, now in ((permitted, outer, plain), (plain, inner, permitted)):
        kept = Kept()
        with connected(before, address) as (origin, theirs):
            await exchange(origin, theirs)
            await kept.keep(origin)
            assert await kept.take(now) is None
            assert left(theirs)


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"x", b""])
async def test_attack_5_an_origin_that_speaks_unasked_or_leaves_serves_nobody_again(unasked: bytes) -> None:
    """What it says between two requests would be read as the answer to the next one."""
    kept = Kept()
    with connected() as (origin, theirs):
        await exchange(origin, theirs)
        await kept.keep(origin)
        if unasked:
            theirs.sendall(unasked)
        else:
            theirs.shutdown(socket.SHUT_WR)
        arrived(origin)
        assert await kept.take(allowed()) is None
        assert left(theirs)


async def test_attack_5_what_came_behind_the_last_response_is_never_an_answer() -> None:
    """A response in two pieces that is longer than it says, or two responses to one request."""
    kept = Kept()
    with connected() as (origin, theirs):
        await exchange(origin, theirs, OK + OK)
        await kept.keep(origin)
        assert left(theirs)
        assert await kept.take(allowed()) is None


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_connection_that_the_origin_ends_is_not_kept(response: bytes) -> None:
    kept = Kept()
    with connected() as (origin, theirs):
        await exchange(origin, theirs, response)
        await kept.keep(origin)
        assert left(theirs)


async def test_an_exchange_that_is_not_over_leaves_nothing_to_keep() -> None:
    """Half a response: the rest of it would be the beginning of the next one."""
    kept = Kept()
    with connected() as (origin, theirs):
        await origin.wire.send(h11.Request(method="GET", target="/", headers=[("Host", "example.com")]))
        await origin.wire.send(h11.EndOfMessage())
        theirs.sendall(OK[:-1])
        await origin.wire.receive_head()
        await kept.keep(origin)
        assert left(theirs)
        assert await kept.take(allowed()) is None


async def test_the_end_of_the_clients_connection_is_the_end_of_this_one() -> None:
    kept = Kept()
    with connected() as (origin, theirs):
        await exchange(origin, theirs)
        await kept.keep(origin)
        await kept.close()
        assert left(theirs)
        assert await kept.take(allowed()) is None
        await kept.close()
