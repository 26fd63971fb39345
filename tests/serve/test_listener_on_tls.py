"""Clients who speak TLS to us: a handshake, and then they are as all others (ATTACKS 8).

In the place of TLS itself is what a test says of it; `tests/net/test_tls.py` has the real one.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, cast

import pytest
import trio
from netaddr import IPAddress
from trio.testing import memory_stream_pair

from proxyd.policy.snapshot import Peer as Guest
from proxyd.serve import listener as listener_module
from proxyd.serve.listener import HANDSHAKE_SECONDS, HANDSHAKES, STRANGERS, Doorman
from tests.serve.counting import Counting
from tests.serve.scene import Peer, World, connect, get, in_virtual_time, policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.abc import HalfCloseableStream
    from trio.testing import MemoryReceiveStream, MemorySendStream

    from proxyd.net.stream import TcpStream
    from proxyd.observe.tally import Tally

STRANGER: Final = "10.9.9.9"  # no [[client]] has this address
FULL_AT_ONE: Final = policy("[limits]\nconnections = 1\n")


class Secured:
    """In the place of a TlsStream: it is `tcp`, once the handshake has gone as the test says."""

    handshakes: Callable[[], Awaitable[None]]

    def __init__(self, tcp: HalfCloseableStream, context: ssl.SSLContext) -> None:
        assert isinstance(context, ssl.SSLContext)
        self._tcp = tcp

    def __getattr__(self, name: str) -> object:
        return getattr(self._tcp, name)

    async def handshake(self) -> None:
        """Agree."""
        await type(self).handshakes()


async def _agrees() -> None:
    await trio.lowlevel.checkpoint()


async def _never_speaks() -> None:
    await trio.sleep_forever()


async def _is_gone() -> None:
    """Or speaks something else: a TlsStream says the same of both."""
    await trio.lowlevel.checkpoint()
    raise trio.BrokenResourceError


class Closing:
    """A stream in memory that can be closed at once, as TCP can."""

    def __init__(self, stream: trio.StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def close(self) -> None:
        """As TcpStream has it."""
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class Front:
    """A doorman whose clients speak TLS, as far as the test says."""

    def __init__(self, world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counting = Counting()
        self.doorman = Doorman(world.seams, lambda _: None, 1000, cast("Tally", self.counting))
        self.doorman.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._sessions = nursery
        monkeypatch.setattr(listener_module, "TlsStream", Secured)
        monkeypatch.setattr(listener_module, "hang_up", trio.aclose_forcefully)

    async def comes(self, handshakes: Callable[[], Awaitable[None]], address: str = "127.0.0.1") -> Peer:
        """A client whose handshake goes so."""
        Secured.handshakes = staticmethod(handshakes)
        ours, theirs = memory_stream_pair()
        tcp = cast("TcpStream", Closing(theirs))
        self._sessions.start_soon(self.doorman.receive_tls, tcp, Guest(IPAddress(address)))
        await trio.testing.wait_all_tasks_blocked()
        return Peer(ours)


@in_virtual_time
async def test_a_client_over_tls_is_served_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2: who it is, whether there is room, and what it may, are the same questions."""
    world = World(FULL_AT_ONE)
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery, monkeypatch)
        client = await front.comes(_agrees)
        await client.send(connect())
        await world.origin()
        await client.until(b"\r\n\r\n")
        assert (await (await front.comes(_agrees)).answer()).reason == "connection_limit"
        stranger = await front.comes(_agrees, STRANGER)
        await stranger.send(get())
        assert (await stranger.answer()).reason == "client_unknown"
        await world.leave()
        for each in (client, stranger):
            await each.leave()


@pytest.mark.parametrize(("handshakes", "seconds"), [(_is_gone, 0.0), (_never_speaks, HANDSHAKE_SECONDS)])
@in_virtual_time
async def test_who_does_not_speak_tls_is_let_go_and_takes_no_place(
    monkeypatch: pytest.MonkeyPatch, handshakes: Callable[[], Awaitable[None]], seconds: float
) -> None:
    """ATTACKS 8: without a word, for there is no language to say it in; the silent have 10 s."""
    world = World(FULL_AT_ONE)
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery, monkeypatch)
        for _ in range(HANDSHAKES + 1 if not seconds else 1):
            one = await front.comes(handshakes)
            assert await one.rest() == b""
        assert trio.current_time() == seconds
    assert (front.doorman.served, world.records, world.house.connections) == (0, [], 0)
    assert HANDSHAKE_SECONDS == 10.0


@in_virtual_time
async def test_attack_8_who_stalls_in_a_handshake_makes_room_and_keeps_no_client_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only so many are made at once; for one more, who waits longest is closed: first of those who are many."""
    world = World()
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery, monkeypatch)
        alone = await front.comes(_never_speaks, "127.0.0.2")
        silent = [await front.comes(_never_speaks) for _ in range(HANDSHAKES - 1)]
        assert front.counting.noted == []
        client = await front.comes(_agrees)
        await silent.pop(0).closed()
        assert front.counting.noted == ["dropped"]
        await client.send(get("http://127.0.0.1/"))
        assert (await client.answer()).reason == "address_denied"
        silent.append(await front.comes(_never_speaks))
        assert front.counting.noted == ["dropped"], "who has agreed is in nobody's way"
        silent.append(await front.comes(_never_speaks))
        await silent.pop(0).closed()
        assert front.counting.noted == ["dropped"] * 2
        for each in (alone, *silent):
            assert await each.rest() == b""
        assert trio.current_time() == HANDSHAKE_SECONDS
        assert front.counting.noted == ["dropped"] * 2, "to be silent is another matter"
        await client.leave()
    assert HANDSHAKES == 256


@in_virtual_time
async def test_attack_8_strangers_who_never_shake_hands_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be refused anyway: a few may hear so, and take no place of a client's."""
    world = World()
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery, monkeypatch)
        silent = [await front.comes(_never_speaks, STRANGER) for _ in range(STRANGERS)]
        client = await front.comes(_agrees)
        assert front.counting.noted == []
        await client.send(get("http://127.0.0.1/"))
        assert (await client.answer()).status == 403
        another = await front.comes(_agrees, STRANGER)
        await silent[0].closed()
        assert front.counting.noted == ["dropped"]
        await another.send(get())
        assert (await another.answer()).reason == "client_unknown"
        await silent[1].silent()
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_without_a_certificate_nobody_is_served_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """R12: the policy has taken it away, and this client came a moment before its listener went."""
    world = World()
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery, monkeypatch)
        front.doorman.tls = None
        await (await front.comes(_agrees)).closed()
    assert front.doorman.served == 0
