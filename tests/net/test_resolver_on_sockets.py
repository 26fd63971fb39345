"""Lookups from end to end, of servers on loopback that are there, or not, or lie (R3, ATTACKS 3.4, 3.5)."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING

import dns.message
import pytest
import trio
from netaddr import IPAddress

from proxyd.net import nameserver
from proxyd.net import resolver as resolver_module
from proxyd.net.nameserver import LONGEST_CHAIN, ask
from proxyd.net.resolver import DnsError, Resolver
from proxyd.policy.address import Endpoint
from proxyd.policy.dns import Routes, Server
from proxyd.policy.verdict import Reason
from tests.net.answering import framed, good, question, saying, sending, serving, truncated, wrong_id, wrong_name
from tests.net.names import CHAIN_8, CLIENT, FOUR, NAME, SIX, A, numbers, reply

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.usefixtures("patience")


@pytest.mark.parametrize("too_long", [False, True])
async def test_attack_3_4_a_chain_off_the_wire_is_as_long_as_it_may_be_or_an_error_at_once(
    nursery: trio.Nursery,
    too_long: bool,  # noqa: FBT001 - a table
) -> None:
    """An error and no silence, which would be asked again."""
    ninth = [("c" * 8 + ".example.com", 60, "CNAME", "ninth.example."), ("ninth.example", 60, "A", FOUR)]
    records = [*CHAIN_8, *(ninth if too_long else [("c" * 8 + ".example.com", 60, "A", FOUR)])]
    async with serving(sending(lambda query: reply(dns.message.from_wire(query), records).to_wire())) as server:
        subject = Resolver(nursery, Routes((server,)))
        if too_long:
            with pytest.raises(DnsError, match="too long"):
                await subject.resolve(NAME, CLIENT)
        else:
            assert len((await subject.resolve(NAME, CLIENT)).chain) == LONGEST_CHAIN


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_server_that_is_not_there_fails_at_once_and_the_next_one_is_asked(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """The kernel tells who is connected. Without that, each lookup would wait for silence first, here for ever."""
    monkeypatch.setattr(nameserver, "TRY_SECONDS", math.inf)
    monkeypatch.setattr(resolver_module, "TOTAL_SECONDS", math.inf)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as taken, trio.fail_after(60):
        taken.bind((host, 0))
        taken.connect((host, 9))  # and hears nobody else
        dead = Server(Endpoint(IPAddress(host), taken.getsockname()[1]))
        with pytest.raises(ConnectionRefusedError):
            await ask(question(), dead)
        async with serving(saying(good)) as server:
            assert numbers(await Resolver(nursery, Routes((dead, server))).resolve(NAME, CLIENT)) == {FOUR, SIX}


@pytest.mark.parametrize(
    "over_tcp",
    [
        lambda wire: framed(wrong_id(reply(dns.message.from_wire(wire), [A]))),
        lambda wire: framed(wrong_name(reply(dns.message.from_wire(wire), [A]))),
        lambda _: framed(b"\xff" * 40),
        lambda _: framed(b"abc")[:-1],
        lambda _: b"",
        lambda _: None,
    ],
    ids=["wrong id", "wrong name", "garbage", "cut", "closed", "reset"],
)
async def test_attack_3_5_lies_over_tcp_fail_the_lookup_and_nothing_else(
    nursery: trio.Nursery, over_tcp: Callable[[bytes], bytes | None]
) -> None:
    async with serving(saying(truncated), over_tcp) as server:
        with pytest.raises(DnsError) as caught:
            await Resolver(nursery, Routes((server,))).resolve(NAME, CLIENT)
    assert caught.value.reason is Reason.DNS_ERROR


async def test_a_server_that_does_not_speak_tcp_fails_the_lookup_and_nothing_else(nursery: trio.Nursery) -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        await udp.bind(("127.0.0.1", 0))

        async def serve() -> None:
            while True:
                wire, peer = await udp.recvfrom(65535)
                await saying(truncated)(wire, udp, peer)

        async with trio.open_nursery() as server:
            server.start_soon(serve)
            endpoint = Endpoint(IPAddress("127.0.0.1"), udp.getsockname()[1])
            with pytest.raises(DnsError):
                await Resolver(nursery, Routes((Server(endpoint),))).resolve(NAME, CLIENT)
            server.cancel_scope.cancel()


async def test_r3_a_real_lookup_from_end_to_end(nursery: trio.Nursery) -> None:
    async with serving(saying(good)) as server:
        assert numbers(await Resolver(nursery, Routes((server,))).resolve(NAME, CLIENT)) == {FOUR, SIX}
