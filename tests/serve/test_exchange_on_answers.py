"""What a client is told of what DNS answered, where the policy wants errors to be uniform (ATTACKS 9).

The log always has the true reason.
"""

from __future__ import annotations

from typing import Final

import pytest
from netaddr import IPAddress

from proxyd.net.dialer import DialError
from proxyd.net.resolver import DnsError
from proxyd.policy.address import Resolution
from proxyd.policy.verdict import Reason
from tests.serve.scene import PUBLIC, Answer, World, connect, connected, get, in_virtual_time, policy

UNIFORM = "[dns]\nuniform_errors = true\n"
ROWS = """
[[deny]]
name = "corp"
reason = "a test"
hosts = ["*.corp.example"]
networks = ["203.0.112.0/22"]
[[permit]]
host = "ui.example"
reason = "a test"
ports = [25, 8080]
networks = ["10.0.0.0/8"]
"""
ANSWERS: Final[dict[str, Resolution | Exception]] = {
    "private.example": Resolution((IPAddress("10.20.30.40"),)),
    "mixed.example": Resolution((PUBLIC, IPAddress("10.20.30.40"))),
    "metadata.example": Resolution((IPAddress("169.254.169.254"),)),
    "denied.example": Resolution((IPAddress("203.0.113.9"),)),
    "alias.example": Resolution((PUBLIC,), ("db.corp.example",)),
    "local.example": Resolution((PUBLIC,), ("printer.local",)),
    "locked.example": Resolution((PUBLIC,), ("metadata.google.internal",)),
    "nowhere.example": DnsError("no", Reason.DNS_ERROR),
}
TRUE: Final = {
    "private.example": "address_denied",
    "mixed.example": "address_denied",
    "metadata.example": "address_locked",
    "denied.example": "address_denied",
    "alias.example": "name_denied",
    "local.example": "name_reserved",
    "locked.example": "name_locked",
    "nowhere.example": "dns_error",
}


async def answered(request: bytes, more: str = UNIFORM, error: Exception | None = None) -> tuple[Answer, World]:
    """The answer to one request, and the world in which it was made."""
    world = World(policy=policy(more + ROWS), answers=dict(ANSWERS), dial_error=error)
    async with connected(world) as client:
        await client.send(request)
        answer = await client.answer()
    return answer, world


def without_the_id(answer: Answer) -> tuple[str, dict[str, str], dict[str, object]]:
    """All of it that could tell two answers apart."""
    return answer.line, answer.fields, {name: value for name, value in answer.problem.items() if name != "decision"}


@pytest.mark.parametrize("host", sorted(TRUE))
@in_virtual_time
async def test_attack_9_a_name_that_its_answer_refuses_looks_like_one_that_does_not_exist(host: str) -> None:
    """To the last field, in a tunnel as in a plain request; on record is what it was, and what the client was told."""
    for refused, missing in (
        (get(f"http://{host}/"), get("http://nowhere.example/")),
        (connect(f"{host}:443"), connect("nowhere.example:443")),
    ):
        answer, world = await answered(refused)
        assert without_the_id(answer) == without_the_id((await answered(missing))[0])
        assert (answer.status, answer.reason) == (502, "dns_error")
        decision, close = world.only()
        assert (decision.reason, decision.verdict) == (TRUE[host], "error" if host == "nowhere.example" else "deny")
        assert (decision.status, close.status) == (502, 502)
        assert decision.id == answer.problem["decision"]


@pytest.mark.parametrize("host", sorted(TRUE))
@in_virtual_time
async def test_r11_otherwise_a_denial_is_told_as_one(host: str) -> None:
    answer, _ = await answered(get(f"http://{host}/"), "")
    assert (answer.status, answer.reason) == (502 if host == "nowhere.example" else 403, TRUE[host])


@pytest.mark.parametrize(
    ("request_", "reason", "rule"),
    [
        (get("http://db.corp.example/"), "name_denied", "corp"),
        (get("http://10.20.30.40/"), "address_denied", "private network"),
        (get("http://localhost/"), "name_reserved", None),
        (connect("example.com:25"), "port_denied", "port 25"),
    ],
)
@in_virtual_time
async def test_r11_what_needs_no_lookup_is_told_as_it_is(request_: bytes, reason: str, rule: str | None) -> None:
    """The client knows what it asked for; nothing was found out for it."""
    answer, world = await answered(request_)
    assert (answer.status, answer.reason) == (403, reason)
    assert rule is None or rule in str(answer.problem["rule"])
    assert world.count("resolve") == 0


@pytest.mark.parametrize("reason", [Reason.CONNECT_REFUSED, Reason.CONNECT_TIMEOUT])
@in_virtual_time
async def test_r11_a_public_destination_that_cannot_be_reached_is_told_as_it_is(reason: Reason) -> None:
    """It was allowed."""
    assert (await answered(get(), error=DialError(reason)))[0].reason == reason


@in_virtual_time
async def test_attack_9_a_port_that_only_a_permit_would_open_tells_nothing_of_where_the_name_leads() -> None:
    """It leads elsewhere than the permit says, and there might as well be none."""
    world = World(policy=policy(UNIFORM + ROWS), answers={"ui.example": Resolution((PUBLIC,))})
    async with connected(world) as client:
        await client.send(connect("ui.example:25"))
        assert (await client.answer()).reason == "dns_error"
    assert world.only()[0].reason == "port_denied"
