"""One question to one server over TCP and TLS, for real; TLS never falls back to plain text (ATTACKS 3.5, 3.8)."""

from __future__ import annotations

import ssl
import struct
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.message
import pytest
import trio
from netaddr import IPAddress

from proxyd.net import nameserver
from proxyd.net.nameserver import TRY_SECONDS, ask
from proxyd.net.resolver import DnsError, Resolver
from proxyd.policy.address import Endpoint
from proxyd.policy.dns import Routes, Server
from proxyd.policy.verdict import Reason
from tests.net.answering import (
    EVIL,
    GOOD,
    answering,
    data,
    framed,
    question,
    saying,
    serving,
    truncated,
    wrong_id,
    wrong_name,
)
from tests.net.names import CLIENT, FOUR, NAME, A, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.adversarial.tls import Certificates

    Speaks = Callable[[trio.SocketStream], Awaitable[None]]

HANDSHAKE: Final = b"\x16"  # the first octet of a TLS connection (RFC 8446 §5.1)


@dataclass
class Heard:
    """What reached a server: the first octets of each connection, and every datagram."""

    connections: list[bytes] = field(default_factory=list)
    datagrams: list[bytes] = field(default_factory=list)

    def nothing_in_plain_text(self, attempts: int) -> None:
        """Hold that there were so many connections, each of TLS, and no datagram."""
        assert [first[:1] for first in self.connections] == [HANDSHAKE] * attempts
        assert not any(b"\3www\7example" in first for first in self.connections)
        assert self.datagrams == []


@asynccontextmanager
async def listening(speak: Speaks, heard: Heard, host: str = "127.0.0.1") -> AsyncIterator[Endpoint]:
    """A server that speaks so to each connection, and answers each datagram with a lie."""
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    with trio.socket.socket(family) as tcp, trio.socket.socket(family, trio.socket.SOCK_DGRAM) as udp:
        await tcp.bind((host, 0))
        await udp.bind((host, tcp.getsockname()[1]))
        tcp.listen()

        async def hear_datagrams() -> None:
            while True:
                query, peer = await udp.recvfrom(65535)
                heard.datagrams.append(query)
                await udp.sendto(answering(query, EVIL), peer)

        async def serve(connection: trio.socket.SocketType) -> None:
            async with trio.SocketStream(connection) as stream:
                heard.connections.append(await connection.recv(65535, trio.socket.MSG_PEEK))
                with suppress(trio.BrokenResourceError):  # who will have nothing to do with it is no failure of it
                    await speak(stream)

        async def accept() -> None:
            while True:
                connection, _ = await tcp.accept()
                nursery.start_soon(serve, connection)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_datagrams)
            nursery.start_soon(accept)
            yield Endpoint(IPAddress(host), tcp.getsockname()[1])
            nursery.cancel_scope.cancel()


async def answer(stream: trio.abc.Stream) -> None:
    """Answer one question, an octet at a time."""
    query = bytes(await stream.receive_some(65535))
    for octet in framed(answering(query[2:], GOOD)):
        await stream.send_all(bytes([octet]))


def over_tls(context: ssl.SSLContext) -> Speaks:
    """Answers over TLS."""

    async def speak(stream: trio.SocketStream) -> None:
        await answer(trio.SSLStream(stream, context, server_side=True))

    return speak


async def keep_silent(_: trio.SocketStream) -> None:
    """Neither speak nor end."""
    await trio.sleep_forever()


async def close(_: trio.SocketStream) -> None:
    """End at once."""


async def speak_plainly(stream: trio.SocketStream) -> None:
    """Answer a handshake with what a plain server would send, an answer to the question."""
    await stream.send_all(framed(answering(question().to_wire(), EVIL)))


@pytest.fixture
def trusting(certified: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This host trusts the tests' authority, and no other."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    monkeypatch.setenv("SSL_CERT_DIR", str(certified.authority.parent / "nowhere"))
    nameserver._trusting.cache_clear()  # noqa: SLF001 - whom it trusts is asked for once
    yield
    nameserver._trusting.cache_clear()  # noqa: SLF001 - the same


# TCP


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_r3_a_server_that_is_asked_over_tcp_is_asked_over_nothing_else(host: str) -> None:
    heard = Heard()
    async with listening(answer, heard, host) as endpoint:
        assert data(await ask(question(), Server(endpoint, "tcp"))) == [FOUR]
    assert (len(heard.connections), heard.datagrams) == (1, [])


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
async def test_attack_8_a_server_that_accepts_and_is_silent_is_waited_for_no_longer(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS, in the middle of the handshake. And it is not asked in another way either."""
    monkeypatch.setattr(nameserver, "TRY_SECONDS", 0.05)
    heard = Heard()
    async with listening(keep_silent, heard) as endpoint:
        with pytest.raises(dns.exception.Timeout):
            await ask(question(), Server(endpoint, protocol))
    assert (heard.datagrams, TRY_SECONDS) == ([], 1.0)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("protocol", ["udp", "tcp", "tls"])
async def test_r3_nobody_there_is_an_error_at_once(protocol: str) -> None:
    with trio.socket.socket() as tcp, trio.socket.socket(type=trio.socket.SOCK_DGRAM) as udp:
        await tcp.bind(("127.0.0.1", 0))  # not listening
        await udp.bind(tcp.getsockname())
        await udp.connect(("127.0.0.1", 9))  # and hears nobody else
        server = Server(Endpoint(IPAddress("127.0.0.1"), tcp.getsockname()[1]), protocol)
        with pytest.raises(ConnectionRefusedError):
            await ask(question(), server)


# TLS


@pytest.mark.usefixtures("trusting", "patience")
@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", ""), ("::1", ""), ("127.0.0.1", "dns.example")])
async def test_r3_a_server_with_a_good_certificate_is_asked_over_tls(
    certified: Certificates, host: str, name: str
) -> None:
    """For its name, if the policy has one, or else for its address (RFC 8310 §8.1)."""
    heard = Heard()
    async with listening(over_tls(certified.context), heard, host) as endpoint:
        assert data(await ask(question(), Server(endpoint, "tls", name))) == [FOUR]
    heard.nothing_in_plain_text(1)


async def fails(nursery: trio.Nursery, speak: Speaks, host: str = "127.0.0.1", name: str = "") -> None:
    """Hold that a lookup fails with a server that speaks so, and that nothing was said to it in plain text."""
    heard = Heard()
    async with listening(speak, heard, host) as endpoint:
        with pytest.raises(DnsError) as caught:
            await Resolver(nursery, Routes((Server(endpoint, "tls", name),))).resolve(NAME, CLIENT)
    assert caught.value.reason is Reason.DNS_ERROR
    heard.nothing_in_plain_text(2)


@pytest.mark.usefixtures("trusting", "patience")
@pytest.mark.parametrize(
    ("host", "name"), [("127.0.0.1", "other.example"), ("127.0.0.1", "example"), ("127.0.0.2", "")]
)
async def test_attack_3_5_a_certificate_for_another_name_fails_the_lookup(
    nursery: trio.Nursery, certified: Certificates, host: str, name: str
) -> None:
    await fails(nursery, over_tls(certified.context), host, name)


@pytest.mark.usefixtures("trusting", "patience")
@pytest.mark.parametrize("name", ["", "dns.example"])
async def test_attack_3_5_a_certificate_of_a_stranger_fails_the_lookup(
    nursery: trio.Nursery, uncertified: Certificates, name: str
) -> None:
    await fails(nursery, over_tls(uncertified.context), name=name)


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let it speak TLS 1.1 and nothing newer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.usefixtures("trusting", "patience")
async def test_attack_3_5_a_server_that_knows_only_old_tls_fails_the_lookup(
    nursery: trio.Nursery, certified: Certificates
) -> None:
    """RFC 9325 §3.1.1. One who would speak it, would be answered."""
    directory = certified.authority.parent
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "origin.pem", directory / "origin.key")
    async with listening(over_tls(old(context)), Heard()) as endpoint:
        stream = await trio.open_tcp_stream(str(endpoint.address), endpoint.port)  # noqa: TID251 - an address
        trusting = old(ssl.create_default_context(cafile=str(certified.authority)))
        tls = trio.SSLStream(stream, trusting, server_hostname="127.0.0.1")
        await tls.do_handshake()
        await stream.aclose()
    await fails(nursery, over_tls(context))


@pytest.mark.usefixtures("trusting", "patience")
@pytest.mark.parametrize("speak", [answer, speak_plainly, close])
async def test_attack_3_5_a_server_that_speaks_no_tls_fails_the_lookup(nursery: trio.Nursery, speak: Speaks) -> None:
    await fails(nursery, speak)


@pytest.mark.usefixtures("trusting", "patience")
async def test_attack_3_5_a_server_that_breaks_off_after_the_handshake_fails_the_lookup(
    nursery: trio.Nursery, certified: Certificates
) -> None:
    """Without a close_notify, as with one."""

    async def half(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, certified.context, server_side=True)
        query = bytes(await tls.receive_some(65535))
        await tls.send_all(struct.pack("!H", len(query)) + query[2:20])

    await fails(nursery, half)


@pytest.mark.usefixtures("trusting", "patience")
async def test_r12_the_next_server_is_asked_where_one_has_no_good_certificate(
    nursery: trio.Nursery, certified: Certificates, uncertified: Certificates
) -> None:
    good, bad = Heard(), Heard()
    async with (
        listening(over_tls(uncertified.context), bad) as first,
        listening(over_tls(certified.context), good) as second,
    ):
        routes = Routes((Server(first, "tls"), Server(second, "tls")))
        found = await Resolver(nursery, routes).resolve(NAME, CLIENT)
    assert FOUR in map(str, found.addresses)
    for heard in (bad, good):
        heard.nothing_in_plain_text(2)


@pytest.mark.parametrize(
    ("over_tcp", "error"),
    [
        (lambda wire: framed(wrong_id(reply(dns.message.from_wire(wire), [A]))), dns.exception.FormError),
        (lambda wire: framed(wrong_name(reply(dns.message.from_wire(wire), [A]))), dns.exception.FormError),
        (lambda _: framed(b"abc")[:-1], EOFError),
        (lambda _: b"", EOFError),
    ],
    ids=["wrong id", "wrong name", "cut", "closed"],
)
async def test_attack_3_8_over_tcp_too_only_a_whole_answer_to_our_question_counts(
    over_tcp: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    async with serving(saying(truncated), over_tcp) as server:
        with pytest.raises(error):
            await ask(question(), server)
