"""One question to one server over UDP, on real sockets: whose answer counts, and what of it is read (ATTACKS 3, 8)."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import pytest
import trio

from proxyd.net import nameserver
from proxyd.net.nameserver import LONGEST_CHAIN, MOST_GUESSES, MOST_OCTETS, MOST_RECORDS, ask
from tests.net.answering import (
    EVIL,
    GOOD,
    LIES,
    LONG_NAME,
    TO_ITSELF,
    answering,
    data,
    framed,
    good,
    padded,
    question,
    record,
    saying,
    sending,
    serving,
    truncated,
    truncating,
)
from tests.net.names import FOUR, NAME, reply

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> float:
    """A short time for one question, where the clock is real."""
    monkeypatch.setattr(nameserver, "TRY_SECONDS", 0.05)
    return 0.05


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_real_server_answers_over_udp(host: str) -> None:
    async with serving(saying(good), host=host) as server:
        assert data(await ask(question(), server)) == [FOUR]


@pytest.mark.parametrize("lie", LIES)
async def test_attack_3_8_what_is_no_answer_to_our_question_is_not_even_looked_at(
    lie: Callable[[dns.message.Message], bytes],
) -> None:
    """The good answer that comes behind it counts: one forged packet does not fail a lookup either."""

    async def deliver(wire: bytes, sock: trio.socket.SocketType, peer: tuple[str, int]) -> None:
        for change in (lie, lie, good):
            await saying(change)(wire, sock, peer)

    async with serving(deliver) as server:
        assert data(await ask(question(), server)) == [FOUR]


async def test_attack_3_8_an_answer_from_another_port_does_not_count() -> None:
    async def deliver(wire: bytes, sock: trio.socket.SocketType, peer: tuple[str, int]) -> None:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            await stranger.bind(("127.0.0.1", 0))
            forged = reply(dns.message.from_wire(wire), [(NAME, 60, "A", "127.0.0.1")])
            await stranger.sendto(forged.to_wire(), peer)
        await saying(good)(wire, sock, peer)

    async with serving(deliver) as server:
        assert data(await ask(question(), server)) == [FOUR]


async def test_attack_3_8_an_answer_from_another_address_does_not_count() -> None:
    async def deliver(wire: bytes, sock: trio.socket.SocketType, peer: tuple[str, int]) -> None:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            await stranger.bind(("127.0.0.2", sock.getsockname()[1]))
            forged = reply(dns.message.from_wire(wire), [(NAME, 60, "A", "127.0.0.1")])
            await stranger.sendto(forged.to_wire(), peer)
        await saying(good)(wire, sock, peer)

    async with serving(deliver) as server:
        assert data(await ask(question(), server)) == [FOUR]


@pytest.mark.parametrize("lie", LIES)
async def test_attack_3_5_nothing_but_lies_is_silence(
    lie: Callable[[dns.message.Message], bytes], impatience: float
) -> None:
    async with serving(saying(lie)) as server:
        with pytest.raises(dns.exception.Timeout):
            await ask(question(), server)
    assert impatience <= 0.1


@pytest.mark.parametrize(
    ("guesses", "truth"), [(MOST_GUESSES - 1, FOUR), (MOST_GUESSES, "127.0.0.1"), (500, "127.0.0.1")]
)
async def test_attack_3_8_who_is_guessed_at_asks_over_tcp_where_nobody_can(guesses: int, truth: str) -> None:
    """RFC 5452 §9.3: each guess is one in 65,536, and must not have as many tries as there is time for."""
    wrong = [lambda query: bytes([query[0] ^ 1]) + answering(query, EVIL)[1:]] * guesses
    async with serving(
        sending(*wrong, lambda query: answering(query, GOOD)), lambda query: framed(answering(query, EVIL))
    ) as server:
        assert data(await ask(question(), server)) == [truth]


async def test_attack_3_5_an_answer_that_is_truncated_over_tcp_too_is_none() -> None:
    """Else it would say that the name has no address."""
    cut = sending(lambda query: answering(query, flags=0x8380))
    async with serving(cut, lambda query: framed(answering(query, flags=0x8380))) as server:
        with pytest.raises(dns.exception.FormError):
            await ask(question(), server)


# Answers that cost more to read than to send: dnspython takes half a second for some of 2 KiB


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[dns.message.Message]:
    """Whatever the parser read, so far."""
    messages: list[dns.message.Message] = []
    from_wire = dns.message.from_wire

    def reading(wire: bytes, *, ignore_trailing: bool = False) -> dns.message.Message:
        messages.append(from_wire(wire, ignore_trailing=ignore_trailing))
        return messages[-1]

    monkeypatch.setattr(dns.message, "from_wire", reading)
    return messages


BOMBS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "an octet too many": lambda query: padded(answering(query, EVIL), MOST_OCTETS + 1),
    "as long as UDP has it": lambda query: padded(answering(query, EVIL), 65507),
    "a record too many": lambda query: answering(query, *[EVIL] * (MOST_RECORDS + 1)),
    "4,000 records": lambda query: answering(query, *[EVIL] * 4000),
    "4,000 records in its header only": lambda query: answering(query)[:6] + b"\x0f\xa0" + answering(query)[8:],
    "a question too many": lambda query: (
        query[:2] + b"\x81\x80\0\2\0\0" + bytes(4) + query[12 : query.index(b"\0", 12) + 5] + TO_ITSELF + b"\0\1\0\1"
    ),
    "names of too many labels": lambda query: answering(query, *[record(1, bytes(4), owner=LONG_NAME)] * 20),
    "1,000 questions": lambda query: (
        query[:2] + b"\x81\x80\x03\xe8" + bytes(6) + LONG_NAME + b"\0\1\0\1" + (TO_ITSELF + b"\0\1\0\1") * 999
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_attack_8_an_answer_that_is_too_much_is_refused_before_it_is_parsed(
    parsed: list[dns.message.Message], bomb: str
) -> None:
    """ATTACKS 3.8: and passed over, as every datagram that is no answer."""
    async with serving(sending(BOMBS[bomb], lambda query: answering(query, GOOD))) as server:
        assert data(await ask(question(), server)) == [FOUR]
    assert len(parsed) == 1


@pytest.mark.parametrize("bomb", BOMBS)
async def test_attack_8_an_answer_that_is_too_much_is_refused_over_tcp_before_it_is_parsed(
    parsed: list[dns.message.Message], bomb: str
) -> None:
    async with serving(truncating(), lambda query: framed(BOMBS[bomb](query))) as server:
        with pytest.raises(dns.exception.FormError):
            await ask(question(), server)
    assert [message.flags & dns.flags.TC for message in parsed] == [dns.flags.TC]


async def test_attack_8_an_answer_that_is_too_long_is_not_even_received() -> None:
    async with serving(truncating(), lambda _: struct.pack("!H", MOST_OCTETS + 1)) as server:
        with pytest.raises(dns.exception.FormError):
            await ask(question(), server)


async def test_an_answer_may_be_as_long_and_have_as_many_records_as_the_bounds_say() -> None:
    async with serving(sending(lambda query: padded(answering(query, *[GOOD] * MOST_RECORDS), MOST_OCTETS))) as server:
        assert data(await ask(question(), server)) == [FOUR]
    assert (MOST_OCTETS, MOST_RECORDS) == (8192, 96)


COSTLY: Final = {
    "an alias of another class": record(5, b"\1x\xc0\x0c", rdclass=3),
    "an address of another class": record(1, b"\1x\xc0\x0c\0\1", rdclass=3),
    "a class of its own": record(1, bytes(4), rdclass=4711),
    "a type of its own": record(4711, bytes(4)),
    "a name": record(12, b"\1x\xc0\x0c"),
    "many strings": record(16, bytes(4000)),
    "many names": record(55, b"\1\1\0\1hk" + LONG_NAME * 10),
    "a key": record(250, LONG_NAME),
    "options": record(41, b"\0\3\0\0" * 100, rdclass=4096),
}


@pytest.mark.parametrize("costly", COSTLY)
async def test_attack_8_of_an_answer_only_addresses_and_aliases_are_read(costly: str) -> None:
    """ATTACKS 3.8: of what nobody asked for, no name is read, and no code is looked for that could read it."""
    async with serving(sending(lambda query: answering(query, COSTLY[costly], GOOD, COSTLY[costly]))) as server:
        answer = await ask(question(), server)
    assert {(rrset.rdtype, rrset.rdclass) for rrset in answer.answer} == {(1, 1), (65280, 1)}
    assert [str(record) for rrset in answer.answer if rrset.rdtype == dns.rdatatype.A for record in rrset] == [FOUR]


async def test_attack_3_4_more_aliases_than_a_chain_may_have_are_not_read_either() -> None:
    """To remember one takes the square of its labels; one more than the bound is read, so that it is noticed."""
    aliases = [record(5, b"\1x" + LONG_NAME[4:], owner=b"\2%02d" % at + TO_ITSELF) for at in range(MOST_RECORDS - 65)]
    async with serving(sending(lambda query: answering(query, *aliases, GOOD))) as server:
        answer = await ask(question(), server)
    assert sum(rrset.rdtype == dns.rdatatype.CNAME for rrset in answer.answer) == LONGEST_CHAIN + 1 < len(aliases)
    assert data(answer)[-1] == FOUR


async def test_attack_3_8_what_the_other_sections_hold_is_not_read() -> None:
    def answer(query: bytes) -> bytes:
        return answering(query, GOOD, others=b"\xff\xff\xff\xff") + b"\xff" * 1000

    async with serving(sending(answer)) as server:
        said = await ask(question(), server)
    assert (data(said), said.authority, said.additional) == ([FOUR], [], [])


async def test_attack_3_8_what_a_truncated_answer_holds_is_not_read() -> None:
    """Its last record may end anywhere."""
    async with serving(
        sending(lambda query: answering(query, GOOD, GOOD[:-2], flags=0x8380)),
        lambda query: framed(answering(query, GOOD)),
    ) as server:
        assert data(await ask(question(), server)) == [FOUR]


async def test_attack_3_8_a_truncated_answer_is_asked_for_again_over_tcp() -> None:
    many = [(NAME, 60, "A", f"93.184.216.{last}") for last in range(1, 61)]

    def over_tcp(wire: bytes) -> bytes:
        return framed(reply(dns.message.from_wire(wire), many).to_wire())

    async with serving(saying(truncated), over_tcp) as server:
        assert len(data(await ask(question(), server))) == 60
