"""A client's connections leave as its policy says, or not at all (R3, R12): source address, interface, mark."""

from __future__ import annotations

import ctypes
import datetime as dt
import errno
import socket
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
import trio
from netaddr import IPAddress

from proxyd.net import dialer
from proxyd.net.dialer import DialError, NoEgress, connect, dial, leave_by
from proxyd.policy.address import Destination, Resolution
from proxyd.policy.client import Egress
from proxyd.policy.load import load
from proxyd.policy.snapshot import Peer, Snapshot
from proxyd.policy.verdict import Allow, Reason, decide
from tests import namespace
from tests.net.joined import open_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

POLICY: Final = b"""\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "allow"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
[[permit]]
host = "origin.example"
ports = ["1-65535"]
networks = ["127.0.0.0/8", "::1/128"]
reason = "origins of these tests"
"""
DAY: Final = dt.date(2026, 8, 1)
SNAPSHOT: Final = Snapshot.of(load("main.toml", lambda name, _beside, secret=False: (name, POLICY), DAY), DAY)
SO_MARK: Final = 36
SO_BINDTODEVICE: Final = 25
IP_BIND_ADDRESS_NO_PORT: Final = 24
HERE_4, HERE_6 = IPAddress("127.0.0.1"), IPAddress("::1")
SOURCE_4, SOURCE_6 = IPAddress("127.0.0.9"), IPAddress(namespace.origin_6())
NOT_OURS_4, NOT_OURS_6 = IPAddress("192.0.2.1"), IPAddress("2001:db8:ffff::1")
needs_privilege = pytest.mark.skipif(not namespace.isolated, reason="no network of our own to be privileged in")


def allow(*addresses: IPAddress, port: int, egress: Egress) -> Allow:
    """The judge's permission to connect to these, for a client with this egress."""
    client = SNAPSHOT.identify(Peer(IPAddress("127.0.0.1")))
    assert client is not None
    client = replace(client, egress=egress)
    verdict = decide(Destination("origin.example", port), client, SNAPSHOT, Resolution(addresses))
    assert isinstance(verdict, Allow)
    return verdict


class Origin:
    """Listens on one port of both families."""

    def __init__(self) -> None:
        self.sockets = [socket.socket(socket.AF_INET), socket.socket(socket.AF_INET6)]
        for sock, host in zip(self.sockets, ("127.0.0.1", "::1"), strict=True):
            sock.bind((host, self.port if sock.family == socket.AF_INET6 else 0))
            sock.listen()
            sock.settimeout(0)

    @property
    def port(self) -> int:
        """Where."""
        return int(self.sockets[0].getsockname()[1])

    @property
    def peers(self) -> list[str]:
        """Who has connected: their addresses."""
        peers = []
        for sock in self.sockets:
            try:
                while True:
                    connection, peer = sock.accept()
                    connection.close()
                    peers.append(str(peer[0]))
            except BlockingIOError:
                continue
        return peers

    def close(self) -> None:
        """Listen no more."""
        for sock in self.sockets:
            sock.close()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """An origin on this host; no descriptor is left open."""
    before = open_files()
    origin = Origin()
    yield origin
    origin.close()
    assert open_files() == before


async def unavailable(origin: Origin, egress: Egress, *addresses: IPAddress) -> None:
    """Hold that nothing leaves, in this way or in any other."""
    with pytest.raises(DialError) as caught:
        await dial(allow(*addresses, port=origin.port, egress=egress))
    assert caught.value.reason is Reason.EGRESS_UNAVAILABLE
    assert origin.peers == []


# Source addresses


@pytest.mark.parametrize(("address", "source"), [(HERE_4, SOURCE_4), (HERE_6, SOURCE_6)], ids=["IPv4", "IPv6"])
async def test_r3_the_origin_sees_the_clients_source_address(
    origin: Origin, address: IPAddress, source: IPAddress
) -> None:
    egress = Egress(addresses=(SOURCE_4, SOURCE_6))
    dialled = await dial(allow(address, port=origin.port, egress=egress))
    sock = dialled.stream.socket
    assert sock.getsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT) == 1, "or 28,000 connections would be all"
    assert sock.getsockname()[0] == str(source)
    dialled.stream.close()
    assert origin.peers == [str(source)]


async def test_many_connections_leave_from_one_address_at_once(origin: Origin) -> None:
    permission = allow(HERE_4, port=origin.port, egress=Egress(addresses=(SOURCE_4,)))
    dialled = [await dial(permission) for _ in range(50)]
    for each in dialled:
        each.stream.close()
    assert origin.peers == [str(SOURCE_4)] * 50


@pytest.mark.parametrize(
    ("source", "used", "unused"), [(SOURCE_4, HERE_4, HERE_6), (SOURCE_6, HERE_6, HERE_4)], ids=["IPv4", "IPv6"]
)
async def test_r12_a_family_without_a_source_address_is_not_used(
    origin: Origin, source: IPAddress, used: IPAddress, unused: IPAddress
) -> None:
    egress = Egress(addresses=(source,))
    dialled = await dial(allow(HERE_4, HERE_6, port=origin.port, egress=egress))
    assert dialled.address == used
    dialled.stream.close()
    assert origin.peers == [str(source)]
    await unavailable(origin, egress, unused)


@pytest.mark.parametrize("addresses", [(HERE_4,), (HERE_6,), (HERE_4, HERE_6)], ids=str)
async def test_r12_a_source_address_that_is_not_ours_is_no_way_out(
    origin: Origin, addresses: tuple[IPAddress, ...]
) -> None:
    await unavailable(origin, Egress(addresses=(NOT_OURS_4, NOT_OURS_6)), *addresses)


async def test_without_an_egress_the_kernel_chooses(origin: Origin) -> None:
    dialled = await dial(allow(HERE_4, port=origin.port, egress=Egress()))
    dialled.stream.close()
    assert origin.peers == ["127.0.0.1"]


# Interface and mark


@pytest.mark.parametrize("address", [HERE_4, HERE_6], ids=str)
async def test_r3_a_connection_leaves_by_the_clients_interface(origin: Origin, address: IPAddress) -> None:
    dialled = await dial(allow(address, port=origin.port, egress=Egress(interface="lo")))
    assert dialled.stream.socket.getsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
    dialled.stream.close()


@pytest.mark.parametrize("addresses", [(HERE_4,), (HERE_6,), (HERE_4, HERE_6)], ids=str)
async def test_r12_an_interface_that_does_not_exist_is_no_way_out(
    origin: Origin, addresses: tuple[IPAddress, ...]
) -> None:
    await unavailable(origin, Egress(interface="nosuch0"), *addresses)


@needs_privilege
@pytest.mark.parametrize("address", [HERE_4, HERE_6], ids=str)
async def test_r3_packets_have_the_clients_mark(origin: Origin, address: IPAddress) -> None:
    everything = Egress(addresses=(SOURCE_4, SOURCE_6), interface="lo", mark=0x7FFF_FFFF)
    dialled = await dial(allow(address, port=origin.port, egress=everything))
    assert dialled.stream.socket.getsockopt(socket.SOL_SOCKET, SO_MARK) == 0x7FFF_FFFF
    dialled.stream.close()


@needs_privilege
@pytest.mark.parametrize("addresses", [(HERE_4,), (HERE_6,), (HERE_4, HERE_6)], ids=str)
async def test_r12_without_the_privilege_to_mark_nothing_leaves_unmarked(
    origin: Origin, addresses: tuple[IPAddress, ...]
) -> None:
    """A route by mark is often the only thing between a client and the wrong network."""
    with without_capabilities():
        await unavailable(origin, Egress(addresses=(SOURCE_4, SOURCE_6), mark=7), *addresses)


@contextmanager
def without_capabilities() -> Iterator[None]:
    """As an account without privileges, for as long as it lasts (capset(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, before) == 0
    none = (ctypes.c_uint32 * 6)(0, before[1], before[2], 0, before[4], before[5])
    assert libc.capset(header, none) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


# What is told of it


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        ([NoEgress(errno.EPERM, "no")], Reason.EGRESS_UNAVAILABLE),
        ([NoEgress(errno.EAFNOSUPPORT, "no"), NoEgress(errno.EADDRNOTAVAIL, "no")], Reason.EGRESS_UNAVAILABLE),
        ([NoEgress(errno.EAFNOSUPPORT, "no"), TimeoutError(errno.ETIMEDOUT, "no")], Reason.CONNECT_TIMEOUT),
        ([NoEgress(errno.EADDRNOTAVAIL, "no"), OSError(errno.ECONNREFUSED, "no")], Reason.CONNECT_REFUSED),
        ([NoEgress(errno.EAFNOSUPPORT, "no"), OSError(errno.ENETUNREACH, "no")], Reason.CONNECT_UNREACHABLE),
        ([NoEgress(errno.EAFNOSUPPORT, "no"), OSError(errno.EADDRNOTAVAIL, "no")], Reason.OUT_OF_RESOURCES),
    ],
)
async def test_what_the_way_out_met_is_told_and_not_that_there_was_no_other(
    monkeypatch: pytest.MonkeyPatch, failures: list[OSError], reason: Reason
) -> None:
    """A family that is not used is no failure of one that is."""
    addresses = [IPAddress(f"93.184.216.{last}") for last in range(1, len(failures) + 1)]
    met = dict(zip(addresses, failures, strict=True))

    async def fail(address: IPAddress, *_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise met[address]

    monkeypatch.setattr(dialer, "connect", fail)
    with pytest.raises(DialError) as caught:
        await dial(allow(*addresses, port=443, egress=Egress()))
    assert caught.value.reason is reason


async def test_r12_whoever_connects_to_one_address_is_told_the_same(origin: Origin) -> None:
    """A parent proxy is dialled so."""
    with pytest.raises(NoEgress):
        await connect(HERE_6, origin.port, Egress(addresses=(SOURCE_4,)))
    stream = await connect(HERE_4, origin.port, Egress(addresses=(SOURCE_4,)))
    stream.close()
    assert origin.peers == [str(SOURCE_4)]


@pytest.mark.parametrize("addresses", [(NOT_OURS_4,), (SOURCE_4, HERE_4), (SOURCE_6,)], ids=str)
def test_r12_a_socket_that_cannot_leave_as_it_must_says_so(addresses: tuple[IPAddress, ...]) -> None:
    with socket.socket() as sock, pytest.raises(NoEgress):
        leave_by(sock, Egress(addresses=addresses))
