"""How a tunnel opens: what is heard of a client before anything of it goes on, and whether it names the host (4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio.testing import memory_stream_pair

from proxyd.http.client_hello import MAX_OCTETS, ClientHello
from proxyd.policy.address import parse_authority
from proxyd.serve.opening import SECONDS, hear, names
from tests.http.hellos import GOOD, NAME
from tests.serve.scene import Peer, in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Sequence

STREAM: Final = GOOD["TLS 1.3"][0]
HEARD: Final = ClientHello(NAME, encrypted=False)


async def heard(
    early: bytes, pieces: Sequence[bytes] = (), pause: float = 0.0, *, ends: bool = False
) -> tuple[bytes, ClientHello | None]:
    """What is heard of a client that has sent `early`, and then sends one piece after the other."""
    ours, theirs = memory_stream_pair()
    client = Peer(theirs)

    async def speak() -> None:
        for piece in pieces:
            await trio.sleep(pause)
            await client.send(piece)
        if ends:
            await client.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        found = await hear(ours, early)
        nursery.cancel_scope.cancel()
    return found


@pytest.mark.parametrize("at", [0, 1, 5, 200, len(STREAM) - 1, len(STREAM)])
@in_virtual_time
async def test_attack_4_10_a_client_hello_is_heard_whether_it_came_early_or_not(at: int) -> None:
    """And whoever hears it has every octet of it, to send it on."""
    assert await heard(STREAM[:at], [STREAM[at:]]) == (STREAM, HEARD)
    assert trio.current_time() == 0.0


@in_virtual_time
async def test_attack_4_3_octet_by_octet_is_the_same() -> None:
    assert await heard(b"", [bytes([octet]) for octet in STREAM]) == (STREAM, HEARD)


@in_virtual_time
async def test_what_came_behind_it_is_not_lost_however_much_it_is() -> None:
    """TLS 1.3 has early data; a client need not wait for our 200 to send it."""
    behind = b"x" * 100_000
    assert await heard(STREAM + behind) == (STREAM + behind, HEARD)
    early, hello = await heard(STREAM[:100], [STREAM[100:] + behind])
    assert hello == HEARD
    assert (STREAM + behind).startswith(early)


@pytest.mark.parametrize("early", [0, 20])
@in_virtual_time
async def test_attack_4_3_what_is_no_tls_is_not_waited_for(early: int) -> None:
    """At its first wrong octet: an HTTP request may never say more."""
    request = b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert await heard(request[:early], [request[early:]]) == (request[: early or None], None)
    assert trio.current_time() == 0.0


@in_virtual_time
async def test_attack_4_3_of_one_that_is_too_long_no_more_is_read() -> None:
    endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(100_000)
    early, hello = await heard(b"", [endless])
    assert hello is None
    assert MAX_OCTETS < len(early) <= 2 * MAX_OCTETS


@pytest.mark.parametrize("early", [b"", STREAM[:100]])
@in_virtual_time
async def test_attack_4_3_silence_ends_after_exactly_5_s(early: bytes) -> None:
    """Also of a server that speaks first, and whose client waits for that."""
    assert await heard(early) == (early, None)
    assert trio.current_time() == SECONDS == 5.0


@in_virtual_time
async def test_attack_8_one_octet_a_second_makes_it_no_longer() -> None:
    early, hello = await heard(b"", [bytes([octet]) for octet in STREAM], 1.0)
    assert (early, hello) == (STREAM[:4], None)
    assert trio.current_time() == 5.0


@in_virtual_time
async def test_one_that_is_complete_in_just_under_5_s_is_in_time() -> None:
    assert await heard(b"", [STREAM[:200], STREAM[200:]], 2.4375) == (STREAM, HEARD)
    assert trio.current_time() == 4.875


@pytest.mark.parametrize("early", [b"", STREAM[:100]])
@in_virtual_time
async def test_a_client_that_ends_within_it_has_sent_none(early: bytes) -> None:
    assert await heard(early, ends=True) == (early, None)
    assert trio.current_time() == 0.0


@in_virtual_time
async def test_a_client_that_breaks_off_is_the_callers_to_hear_of() -> None:
    ours, _ = memory_stream_pair()

    async def reset() -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    ours.receive_stream.receive_some_hook = reset
    with pytest.raises(trio.BrokenResourceError):
        await hear(ours, b"")


@pytest.mark.parametrize(
    ("name", "host", "good"),
    [
        (NAME, NAME, True),
        (NAME, "API.Example.COM.", True),
        ("evil.example", NAME, False),
        ("evil.api.example.com", NAME, False),
        ("example.com", NAME, False),
        ("api.example.com.evil.example", NAME, False),
        ("api.example.com.", NAME, False),
        ("", NAME, False),
        (None, NAME, False),
        (None, "93.184.216.34", True),
        (None, "[2606:2800:220:1:248:1893:25c8:1946]", True),
        ("93.184.216.34", "93.184.216.34", True),
        ("evil.example", "93.184.216.34", False),
        ("93.184.216.35", "93.184.216.34", False),
        ("93.184.216.34", NAME, False),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True])
def test_attack_4_2_the_name_must_be_the_host_that_was_asked_for(
    name: str | None,
    host: str,
    good: bool,  # noqa: FBT001
    encrypted: bool,  # noqa: FBT001
) -> None:
    """None is sent for an address (RFC 6066 §3). Of an encrypted one, the outer name counts (RFC 9849)."""
    destination = parse_authority(f"{host}:443")
    assert (destination.address is not None) == (destination.host[0] in "29")
    assert names(ClientHello(name, encrypted), destination) is good


@pytest.mark.parametrize("host", [NAME, "93.184.216.34"])
def test_attack_4_3_what_is_no_client_hello_names_nobody(host: str) -> None:
    assert not names(None, parse_authority(f"{host}:443"))
