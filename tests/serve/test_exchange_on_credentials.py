"""Who asks, where a client must know something: asked of each request anew, and told to nobody (R2, R7, ATTACKS 7.2).

Hashing is in no thread here, or the clock of these tests would not wait for it.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
import trio

from proxyd.policy.limits import Over
from proxyd.policy.password import PasswordHash
from proxyd.policy.verdict import Reason
from proxyd.serve.exchange import ANSWER_SECONDS
from proxyd.serve.keyring import Keyring
from tests.serve.scene import OK, SECRET, Answer, World, connect, connected, exchange, get, in_virtual_time, policy
from tests.serve.test_exchange_on_sockets import HEAD, SOON, Real, first

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.http.credential import Shown
    from proxyd.policy.client import Credential
    from proxyd.policy.snapshot import Peer

ALICE: Final = ("alice", SECRET)
BOB: Final = ("bob", "b" + SECRET)
HERE: Final = "10.1.2.3"
"""Where both come from, and nobody who needs no credential."""
GUESTS: Final = "10.1.9.9"
"""Where others come from too, who need none."""


def hashed(password: str) -> str:
    """A hash that costs next to nothing."""
    salt = b"sixteen octets.."
    return str(PasswordHash(10, 1, 1, salt, hashlib.scrypt(password.encode(), salt=salt, n=1024, r=1, p=1, dklen=32)))


def client(name: str, who: tuple[str, str] | None, *more: str, networks: str = "10.1.0.0/16") -> str:
    """One [[client]]."""
    lines = ["[[client]]", f'name = "{name}"', f'networks = ["{networks}"]']
    if who is not None:
        lines += ["[client.credential]", f'user = "{who[0]}"', f'password = "{hashed(who[1])}"']
    return "\n".join((*lines, *more, ""))


DENIED_TO_BOB: Final = '[[client.deny]]\nname = "not-bob"\nreason = "a test"\nhosts = ["alice.example"]'
CLIENTS: Final = (
    client("first", ALICE) + client("second", BOB, DENIED_TO_BOB) + client("guest", None, networks="10.1.9.0/24")
)


class Ring(Keyring):
    """Knows at once, or after so many seconds. asked: how often."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.asked = 0

    async def proves(self, shown: Shown, credential: Credential, _peer: Peer) -> bool:
        """Whether it is."""
        self.asked += 1
        await trio.sleep(self.seconds)
        fits = credential.password is not None and credential.password.fits(shown.password)
        return fits and shown.user == credential.user


def guarded(text: str = CLIENTS, ring: Ring | None = None, make: Callable[..., World] = World) -> World:
    """A world with these clients."""
    world = make(policy=policy(text))
    world.seams = replace(world.seams, keyring=ring or Ring())
    return world


def basic(user: str, password: str) -> str:
    """The field that shows a credential."""
    return "Proxy-Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def answered(world: World, request: bytes, address: str = HERE) -> Answer:
    """The answer of ours to one request, on a connection of its own."""
    async with connected(world, address) as client:
        await client.send(request)
        return await client.answer()


# Asked for, and shown


@in_virtual_time
async def test_r2_a_client_is_asked_for_its_credential_and_then_served_on_the_same_connection() -> None:
    """RFC 9110 §11.7.1: as curl does it that was not told to show it unasked."""
    world = guarded()
    async with connected(world, HERE) as client:
        await client.send(get())
        answer = await client.answer()
        assert (answer.status, answer.reason, "connection" in answer.fields) == (407, "credential_required", False)
        assert answer.fields["proxy-authenticate"] == 'Basic realm="proxyd", charset="UTF-8"'
        assert (world.count("resolve"), world.opened) == (0, 0)
        await exchange(world, client, get("http://example.com/", basic(*ALICE)))
        assert (await client.answer()).status == 200
    (asked, over), (allowed, _) = world.trail()
    assert (asked.client, asked.verdict, asked.reason, asked.rule) == (None, "deny", "credential_required", "client")
    assert (asked.host, asked.status, over.outcome) == ("example.com", 407, "refused")
    assert (allowed.client, allowed.verdict) == ("first", "allow")


@pytest.mark.parametrize("form", ["http", "connect", "websocket"])
@in_virtual_time
async def test_r2_r4_who_shows_it_unasked_is_served_at_once(form: str) -> None:
    """CLIENT.md: credentials in the proxy's URL are sent with the first request."""
    world = guarded()
    fields = ("Connection: Upgrade", "Upgrade: websocket") if form == "websocket" else ()
    request = connect if form == "connect" else get
    async with connected(world, HERE) as client:
        await client.send(
            request("example.com:443" if form == "connect" else "http://example.com/", *fields, basic(*BOB))
        )
        await world.origin()
    assert world.only()[0].client == "second"


@in_virtual_time
async def test_attack_4_10_each_request_on_a_connection_is_identified_anew() -> None:
    """What one request has shown counts for no other; the rules are those of whoever shows himself now."""
    world = guarded()
    url = "http://alice.example/"
    async with connected(world, HERE) as client:
        await exchange(world, client, get(url, basic(*ALICE)))
        assert (await client.answer()).status == 200
        await client.send(get(url))
        assert (await client.answer()).reason == "credential_required"
        await client.send(get(url, basic(*BOB)))
        assert (await client.answer()).problem["rule"] == "not-bob"
        await client.send(get(url, basic("alice", BOB[1])))
        assert (await client.answer()).reason == "credential_required"
        await exchange(world, client, get(url, basic(*ALICE)))
        assert (await client.answer()).status == 200
    assert [decision.client for decision, _ in world.trail()] == ["first", None, "second", None, "first"]


@pytest.mark.parametrize(
    "who",
    [
        *(("alice", BOB[1]), ("bob", SECRET), ("", SECRET), ("alice", ""), ("ALICE", SECRET), ("alice ", SECRET)),
        *(("alice", SECRET + "\0"), ("alice", SECRET.upper()), ("nobody", SECRET), ("alice:", SECRET)),
    ],
)
@in_virtual_time
async def test_attack_7_2_no_credential_of_one_client_counts_for_another(who: tuple[str, str]) -> None:
    world = guarded()
    answer = await answered(world, get("http://example.com/", basic(*who)))
    assert (answer.status, answer.reason) == (407, "credential_required")
    assert (world.count("resolve"), world.only()[0].client) == (0, None)


@pytest.mark.parametrize(
    "field",
    ["Authorization: Basic ", "Proxy-Authorization: Bearer ", "Proxy-Authorization: ", "X-Forwarded-User: alice;"],
)
@in_virtual_time
async def test_attack_7_2_nothing_else_that_a_client_says_makes_it_somebody(field: str) -> None:
    world = guarded()
    said = field + base64.b64encode(":".join(ALICE).encode()).decode()
    assert (await answered(world, get("http://example.com/", said))).reason == "credential_required"


@pytest.mark.parametrize(
    ("shown", "name"),
    [((basic(*ALICE),), "first"), ((basic(*BOB),), "second"), ((), "guest"), ((basic("x", "y"),), "guest")],
)
@in_virtual_time
async def test_r2_the_first_entry_all_of_whose_conditions_hold_is_who_asks(shown: tuple[str, ...], name: str) -> None:
    """In the policy's order; who shows nothing may still be somebody who needs not."""
    world = guarded()
    async with connected(world, GUESTS) as client:
        await exchange(world, client, get("http://example.com/", *shown))
    assert world.only()[0].client == name


@in_virtual_time
async def test_r2_an_entry_that_needs_no_credential_and_comes_first_hides_those_behind_it() -> None:
    """And nobody is asked what he knows, where it does not matter."""
    ring = Ring()
    world = guarded(client("guest", None) + client("first", ALICE), ring)
    async with connected(world, HERE) as peer:
        await exchange(world, peer, get("http://example.com/", basic(*ALICE)))
    assert (world.only()[0].client, ring.asked) == ("guest", 0)


# Where no credential helps


@pytest.mark.parametrize("fields", [(), (basic(*ALICE),), (basic(*ALICE), basic(*BOB))])
@in_virtual_time
async def test_r2_whom_no_credential_could_help_is_refused_and_not_asked(fields: tuple[str, ...]) -> None:
    """403, and nobody hashes anything for him; two credentials make no 400 of it."""
    ring = Ring()
    world = guarded(ring=ring)
    answer = await answered(world, get("http://example.com/", *fields), "10.9.9.9")
    assert (answer.status, answer.reason, answer.fields["connection"]) == (403, "client_unknown", "close")
    assert ("proxy-authenticate" in answer.fields, ring.asked) == (False, 0)


@pytest.mark.parametrize(
    ("address", "status", "reason"), [(HERE, 407, "credential_required"), ("127.0.0.1", 400, "malformed_request")]
)
@in_virtual_time
async def test_attack_7_2_two_credentials_are_none(address: str, status: int, reason: str) -> None:
    """Also the right one twice; and where none is needed, such a request can be read in two ways."""
    for second in (basic(*ALICE), basic(*BOB)):
        answer = await answered(guarded(), get("http://example.com/", basic(*ALICE), second), address)
        assert (answer.status, answer.reason) == (status, reason)


@pytest.mark.parametrize(("fields", "status"), [((), 407), ((basic(*ALICE),), 400)])
@pytest.mark.parametrize("target", ["/origin-form", "http://user@example.com/", "http://2130706433/"])
@in_virtual_time
async def test_r2_who_asks_comes_before_what_is_asked_for(fields: tuple[str, ...], status: int, target: str) -> None:
    """DESIGN: client, then form. On record is who sent what cannot be read, once he is known."""
    world = guarded()
    assert (await answered(world, get(target, *fields))).status == status
    assert world.only()[0].client == ("first" if fields else None)


@in_virtual_time
async def test_r10_who_is_not_identified_spends_nothing_of_anybodys_limits() -> None:
    """There is nobody to count it for."""
    world = guarded()
    async with connected(world, HERE) as client:
        await client.send(get())
        assert (await client.answer()).status == 407
        world.house.over = Over(Reason.RATE_LIMIT, 7)
        await client.send(get())
        assert (await client.answer()).status == 407, "and learns nothing of anybody's"
        await client.send(get("http://example.com/", basic(*ALICE)))
        assert (await client.answer()).status == 429


# What it looks like


@in_virtual_time
async def test_attack_4_10_a_connect_without_a_credential_closes_the_connection() -> None:
    """What a hasty client sent into the tunnel must not be read as its next request."""
    for pieces in ([connect() + get("http://smuggled.example/", basic(*ALICE))], [connect(), get(), b"x"]):
        world = guarded()
        async with connected(world, HERE) as client:
            await client.send(*pieces)
            answer = await client.answer()
            assert (answer.status, answer.fields["connection"]) == (407, "close")
            await client.closed()
        world.only()
        assert world.count("resolve") == 0


@pytest.mark.parametrize("request_", [get(version="1.0"), connect(version="1.0")])
@in_virtual_time
async def test_a_client_of_http_1_0_is_asked_too_and_comes_back(request_: bytes) -> None:
    """CLIENT.md: children of the client speak it."""
    world = guarded()
    async with connected(world, HERE) as client:
        await client.send(request_)
        answer = await client.answer()
        assert (answer.status, "proxy-authenticate" in answer.fields) == (407, True)
        await client.closed()
    async with connected(world, HERE) as client:
        await client.send(request_[:-2] + basic(*ALICE).encode() + b"\r\n\r\n")
        await world.origin()
    assert [decision.client for decision, _ in world.trail()] == [None, "first"]


@in_virtual_time
async def test_a_body_that_comes_without_a_credential_is_heard_out_and_never_read_as_a_request() -> None:
    world = guarded()
    smuggled = get("http://smuggled.example/", basic(*ALICE))
    async with connected(world, HERE) as client:
        await client.send(get("http://example.com/", f"Content-Length: {len(smuggled)}", method="POST"))
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (407, "close")
        await client.send(smuggled)
        await client.closed()
    world.only()


# Nobody is told


@pytest.mark.parametrize(
    "fields",
    [
        (basic(*ALICE),),
        (basic(*ALICE), "Connection: Proxy-Authorization"),
        (basic(*ALICE).replace("Proxy-Authorization", "PROXY-AUTHORIZATION"), "Connection: close"),
    ],
)
@in_virtual_time
async def test_r7_attack_9_a_credential_reaches_no_origin_no_record_and_no_complaint(fields: tuple[str, ...]) -> None:
    """Neither what was sent nor what it says; a tunnel has none of it either."""
    world = guarded()
    async with connected(world, HERE) as client:
        head = await exchange(
            world, client, get("http://example.com/", *fields, "Transfer-Encoding: chunked", method="PUT")
        )
        await client.send(b"0\r\n" + basic(*ALICE).encode() + b"\r\n\r\n")
        await client.answer()
    async with connected(world, HERE) as client:
        await client.send(connect("example.com:443", *fields) + b"tunnelled")
        assert await (await world.origin()).exactly(9) == b"tunnelled"
    everything = [head, repr(world.attempted).encode(), *(line.encode() for line in world.complaints)]
    for secret in (SECRET.encode(), basic(*ALICE).rpartition(" ")[2].encode(), b"alice", b"roxy-auth"):
        assert not any(secret in each for each in everything)


@in_virtual_time
async def test_r7_a_wrong_credential_is_in_no_refusal_record_or_complaint_either() -> None:
    world = guarded()
    async with connected(world, HERE) as client:
        await client.send(get("http://example.com/", basic("mallory", SECRET), "Connection: close"))
        heard = await client.rest()
    for secret in (SECRET.encode(), b"mallory", basic("mallory", SECRET).rpartition(" ")[2].encode()):
        assert secret not in heard + repr(world.attempted).encode() + repr(world.complaints).encode()


# Time


@in_virtual_time
async def test_attack_8_who_has_to_wait_for_the_hashes_of_others_is_told_so_after_exactly_4500_ms() -> None:
    """CLIENT.md: the client gives up at 5 s and must have an answer by then; nothing is decided of anybody."""
    world = guarded(ring=Ring(60.0))
    async with connected(world, HERE) as client:
        await client.send(get("http://example.com/", basic(*ALICE)))
        answer = await client.answer()
        assert trio.current_time() == ANSWER_SECONDS == 4.5
    assert (answer.status, answer.reason, answer.fields["retry-after"]) == (503, "overloaded", "1")
    decision, _ = world.only()
    assert (decision.client, decision.verdict, world.count("resolve")) == (None, "error", 0)


@in_virtual_time
async def test_the_time_that_a_hash_takes_is_not_there_for_the_dial() -> None:
    """The same 4.5 s."""
    world = guarded(ring=Ring(2.0))
    world.dial_seconds = 60.0
    async with connected(world, HERE) as client:
        await client.send(get("http://example.com/", basic(*ALICE)))
        assert (await client.answer()).reason == "connect_timeout"
        assert trio.current_time() == 4.5


# What is kept for the next request


@pytest.mark.parametrize(("second", "opened"), [(ALICE, 1), (BOB, 2)])
async def test_attack_3_12_what_was_dialled_for_one_client_is_no_other_s(second: tuple[str, str], opened: int) -> None:
    """An origin may know a connection by whoever spoke on it first; the clients may leave by different addresses."""
    world = guarded(make=Real)
    assert isinstance(world, Real)
    with trio.fail_after(SOON):
        async with connected(world, HERE) as client:
            kept = await first(world, client, request=get("http://example.com/", basic(*ALICE)))
            await client.send(get("http://example.com/again", basic(*second)))
            origin = kept if opened == 1 else await world.origin()
            assert (await origin.until(HEAD)).startswith(b"GET /again ")
            await origin.send(OK)
            assert (await client.answer()).status == 200
            if opened > 1:
                assert await kept.rest() == b""
    assert world.opened == opened
    assert [decision.client for decision, _ in world.trail()] == ["first", "first" if opened == 1 else "second"]


async def test_r10_clients_that_leave_by_different_addresses_share_no_connection() -> None:
    """Also where they are told apart by nothing else than this request."""
    egress = '[client.egress]\naddresses = ["203.0.112.{}"]'
    text = client("first", ALICE, egress.format(1)) + client("second", BOB, egress.format(2))
    world = guarded(text, make=Real)
    assert isinstance(world, Real)
    with trio.fail_after(SOON):
        async with connected(world, HERE) as peer:
            for who in (ALICE, BOB, ALICE):
                await first(world, peer, request=get("http://example.com/", basic(*who)))
    assert [str(allow.egress.addresses[0]) for allow in world.dialled] == ["203.0.112.1", "203.0.112.2", "203.0.112.1"]
