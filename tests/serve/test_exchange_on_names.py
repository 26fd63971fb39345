"""The name inside a tunnel: on port 443 it must be the host that was asked for, where the policy wants that.

ATTACKS 4.2, 4.3: or an allowed host of a shared address is a door to all its neighbours. Not one octet of a tunnel
that is refused reaches the origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import trio

from proxyd.http.client_hello import ALERT_UNRECOGNIZED_NAME
from proxyd.serve.exchange import LINGER_SILENCE
from proxyd.serve.opening import SECONDS
from tests.http.hellos import GOOD, NAME, extension, hello, of_openssl, records, server_name
from tests.serve.scene import World, connect, connected, in_virtual_time, policy

if TYPE_CHECKING:
    from tests.serve.scene import Connection, Peer

HEAD: Final = b"\r\n\r\n"
STREAM: Final = GOOD["TLS 1.3"][0]
TUNNEL: Final = connect(f"{NAME}:443")
ALLOW: Final = f"""
[[allow]]
name = "api"
reason = "a test"
hosts = ["{NAME}", "93.184.216.34"]
ports = [443, 8443]
"""
OTHERS: Final = {
    "another name": of_openssl("evil.example"),
    "a neighbour": of_openssl("www.example.com"),
    "a name below": of_openssl(f"evil.{NAME}"),
    "a name behind": of_openssl(f"{NAME}.evil.example"),
    "no name": of_openssl(None),
    "an address": of_openssl("93.184.216.34"),
    "two names": hello(server_name(NAME.encode(), b"evil.example")),
    "two extensions": hello(server_name(NAME.encode()), server_name(b"evil.example")),
    "encrypted, and another name outside": hello(server_name(b"evil.example"), extension(0xFE0D, bytes(60))),
    "HTTP": f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode(),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SSLv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(35),
    "an alert before": b"\x15\x03\x03\x00\x02\x01\x00" + STREAM,
    "more than 16 KiB": b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(20_000),
}


def strict() -> World:
    """A world of an allowlist, where the name must match."""
    return World(policy=policy(ALLOW, default="deny"))


async def opened(world: World, client: Connection, request: bytes = TUNNEL) -> Peer:
    """The origin of a tunnel to which the client has been told 200."""
    await client.send(request)
    origin = await world.origin()
    assert await client.until(HEAD) == b"HTTP/1.1 200 Connection Established\r\n\r\n"
    return origin


# That name


@pytest.mark.parametrize("pieces", [[STREAM], [bytes([octet]) for octet in STREAM], [records(STREAM[5:], 1)]])
@in_virtual_time
async def test_attack_4_2_a_tunnel_to_the_host_that_was_asked_for_is_as_any_other(pieces: list[bytes]) -> None:
    """Every octet of the ClientHello reaches the origin, as it was cut into records, and is counted."""
    world = strict()
    async with connected(world) as client:
        origin = await opened(world, client)
        await client.send(*pieces)
        assert await origin.exactly(len(b"".join(pieces))) == b"".join(pieces)
        await origin.send(b"ServerHello")
        assert await client.exactly(11) == b"ServerHello"
        await client.send(b"more")
        assert await origin.exactly(4) == b"more"
        await client.end()
        assert await origin.rest() == b""
        await origin.end()
    _, close = world.only()
    assert (close.outcome, close.verdict, close.reason) == ("closed", "allow", None)
    assert (close.bytes_up, close.bytes_down) == (len(b"".join(pieces)) + 4, 11)


@pytest.mark.parametrize("at", [1, 100, len(STREAM)])
@in_virtual_time
async def test_attack_4_10_a_client_hello_that_came_with_the_connect_is_heard_all_the_same(at: int) -> None:
    world = strict()
    async with connected(world) as client:
        origin = await opened(world, client, TUNNEL + STREAM[:at])
        await client.send(STREAM[at:] + b"early data")
        assert await origin.exactly(len(STREAM) + 10) == STREAM + b"early data"


@pytest.mark.parametrize("stream", [of_openssl(None), of_openssl("93.184.216.34")])
@in_virtual_time
async def test_to_an_address_a_client_sends_no_name(stream: bytes) -> None:
    """RFC 6066 §3."""
    world = strict()
    async with connected(world) as client:
        origin = await opened(world, client, connect("93.184.216.34:443"))
        await client.send(stream)
        assert await origin.exactly(len(stream)) == stream


@in_virtual_time
async def test_attack_4_2_a_client_hello_that_pretends_to_be_encrypted_is_judged_by_its_outer_name() -> None:
    """Some clients always pretend (RFC 9849 §6.2)."""
    world = strict()
    stream = hello(server_name(NAME.encode()), extension(0xFE0D, bytes(60)))
    async with connected(world) as client:
        origin = await opened(world, client)
        await client.send(stream)
        assert await origin.exactly(len(stream)) == stream


# Another


@pytest.mark.parametrize("stream", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@in_virtual_time
async def test_attack_4_2_and_4_3_nothing_of_a_tunnel_to_anywhere_else_reaches_the_origin(
    stream: bytes,
    early: bool,  # noqa: FBT001
) -> None:
    """The client has an alert and the end; on record it is a denial, and not one octet went up."""
    world = strict()
    async with connected(world) as client:
        origin = await opened(world, client, TUNNEL + stream if early else TUNNEL)
        if not early:
            await client.send(stream)
        assert await client.rest() == ALERT_UNRECOGNIZED_NAME
        await client.leave()
        assert await origin.rest() == b""
    decision, close = world.only()
    assert (decision.verdict, decision.rule) == ("allow", "api")
    assert (close.verdict, close.reason, close.rule, close.outcome) == ("deny", "tls_name", "tls_name", "tls_name")
    assert (close.status, close.bytes_up, close.bytes_down, close.host) == (200, 0, 0, NAME)


@in_virtual_time
async def test_attack_4_2_nor_does_a_name_open_an_address() -> None:
    """The name would not have been allowed, had it been asked for."""
    world = strict()
    async with connected(world) as client:
        origin = await opened(world, client, connect("93.184.216.34:443"))
        await client.send(of_openssl("evil.example"))
        assert await client.rest() == ALERT_UNRECOGNIZED_NAME
        await client.leave()
        assert await origin.rest() == b""


@pytest.mark.parametrize("said", [b"", STREAM[:100]])
@in_virtual_time
async def test_attack_4_3_who_says_nothing_for_exactly_5_s_has_named_nobody(said: bytes) -> None:
    """A server that speaks first says nothing to a client that we do not know the name of."""
    world = strict()
    async with connected(world) as client:
        origin = await opened(world, client)
        await client.send(said)
        await origin.send(b"220 ready")
        assert await client.exactly(7) == ALERT_UNRECOGNIZED_NAME
        assert trio.current_time() == SECONDS == 5.0
        assert await client.rest() == b""
        await client.leave()
        assert await origin.rest() == b""
    assert world.only()[1].outcome == "tls_name"


@in_virtual_time
async def test_a_client_that_is_refused_so_is_heard_out_so_that_no_reset_overtakes_the_alert() -> None:
    """ATTACKS 8."""
    world = strict()
    async with connected(world) as client:
        await opened(world, client)
        await client.send(OTHERS["another name"])
        assert await client.rest() == ALERT_UNRECOGNIZED_NAME
        assert world.house.tunnels == 0, "others need not wait for that"
        await client.over.wait()
        assert client.ended == LINGER_SILENCE == 1.0


@in_virtual_time
async def test_a_client_that_ends_its_side_without_a_name_is_refused_at_once() -> None:
    world = strict()
    async with connected(world) as client:
        origin = await opened(world, client)
        await client.end()
        assert await client.rest() == ALERT_UNRECOGNIZED_NAME
        assert await origin.rest() == b""
        assert trio.current_time() == 0.0


@in_virtual_time
async def test_a_client_that_is_gone_when_it_is_told_is_on_record_as_denied_and_gone() -> None:
    world = strict()
    async with connected(world) as client:
        origin = await opened(world, client)
        await client.send(STREAM[:100])
        await client.leave()
        assert await origin.rest() == b""
    _, close = world.only()
    assert (close.verdict, close.reason, close.outcome) == ("deny", "tls_name", "client_gone")


# Where it matters


async def passes(world: World, request: bytes, stream: bytes) -> None:
    """Hold that a tunnel carries whatever it is."""
    async with connected(world) as client:
        origin = await opened(world, client, request)
        await client.send(stream)
        assert await origin.exactly(len(stream)) == stream
    assert world.only()[1].verdict == "allow"


@pytest.mark.parametrize("which", ["another name", "no name", "HTTP"])
@pytest.mark.parametrize(
    ("own", "default", "port", "held"),
    [
        ("", "deny", 443, True),
        ("", "deny", 8443, False),
        ("", "allow", 443, False),
        ('[client.destinations]\ntls_name = "match"', "allow", 443, True),
        ('[client.destinations]\ntls_name = "match"', "allow", 8443, False),
        ('[client.destinations]\ntls_name = "off"', "deny", 443, False),
        ('[client.destinations]\ndefault = "deny"', "allow", 443, True),
    ],
)
@in_virtual_time
async def test_it_matters_on_port_443_and_where_the_default_is_deny_or_the_policy_says_so(
    own: str, default: str, port: int, which: str, *, held: bool
) -> None:
    """The rules of this client count. On other ports there may be anything."""
    world = World(policy=policy(own + (ALLOW if "deny" in own + default else ""), default=default))
    request = connect(f"{NAME}:{port}")
    if not held:
        await passes(world, request, OTHERS[which])
        return
    async with connected(world) as client:
        origin = await opened(world, client, request)
        await client.send(OTHERS[which])
        assert await client.rest() == ALERT_UNRECOGNIZED_NAME
        await client.leave()
        assert await origin.rest() == b""


@in_virtual_time
async def test_where_it_does_not_matter_a_server_may_speak_first() -> None:
    """CLIENT.md: tunnels are byte-transparent."""
    world = World()
    async with connected(world) as client:
        origin = await opened(world, client)
        await origin.send(b"220 ready")
        assert await client.exactly(9) == b"220 ready"
        await client.silent(60.0)
