"""`proxyd validate`: what is proven, what is not, and what failed (R11). The real proxies are in end_to_end."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.cli import main
from proxyd.cli import validate as validate_module
from proxyd.net.probe import Answer, Canary, Proxy
from proxyd.policy.special import SPECIAL_NETWORKS
from tests.cli.looking_on import look_on

if TYPE_CHECKING:
    from collections.abc import Callable

DENIED = Answer(403, "Forbidden: address_denied", 'proxyd; error=destination_ip_prohibited; details="address_denied"')
OTHERS = Answer(403, "Forbidden")
FAILED = Answer(502, "Bad Gateway: dns_error", 'proxyd; error=dns_error; details="dns_error"')
LIMITED = Answer(429, "Too Many Requests: rate_limit", "proxyd; error=http_request_denied")
UNKNOWN = Answer(407, "Proxy Authentication Required: credential_required", "proxyd; error=http_request_denied")
FULL = Answer(503, "Service Unavailable: overloaded", "proxyd; error=connection_limit_reached")
PASSED = Answer(200, "OK")
DEAD = Answer(failure="Connection refused")


class World:
    """A proxy that answers as a test says; what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[str, str], Answer] = lambda way, target: PASSED if "example.com" in target else DENIED

    def connect(self, target: str) -> Answer:
        """A CONNECT."""
        self.asked.append(("CONNECT", target))
        return self.answer("CONNECT", target)

    def get(self, url: str, _host: str) -> Answer:
        """A GET."""
        self.asked.append(("GET", url))
        return self.answer("GET", url)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The world, in the place of proxies."""
    world = World()
    monkeypatch.setattr(Proxy, "connect", world.connect)
    monkeypatch.setattr(Proxy, "get", world.get)
    return world


def validated(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status, and what a program is told."""
    status = main(["validate", "--json", *arguments])
    return status, json.loads(capfd.readouterr().out)


def test_a_proxy_that_refuses_in_so_many_words_passes(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Every row of the built-in table, loopback in every disguise, both ways of asking; a public URL gets through."""
    status, told = validated(capfd)
    assert (status, told["counts"]["FAIL"], told["counts"]["unproven"]) == (0, 0, 0)
    assert told["counts"]["pass"] == 1 + 2 * (8 + len(SPECIAL_NETWORKS))
    assert ("CONNECT", "example.com:443") in world.asked
    for way, target in (
        ("CONNECT", "169.254.169.254:80"),
        ("GET", "http://169.254.169.254:80/"),
        ("CONNECT", "[fe80::]:80"),
    ):
        assert (way, target) in world.asked
    assert {target.partition(":")[0] for _, target in world.asked} >= {"127.0.0.1", "localhost"}


@pytest.mark.parametrize(
    ("answer", "verdict", "status"),
    [
        *(
            (DENIED, "pass", 0),
            (OTHERS, "unproven", 0),
            (DEAD, "unproven", 0),
            (FAILED, "FAIL", 1),
            (PASSED, "FAIL", 1),
        ),
        *((LIMITED, "unproven", 0), (UNKNOWN, "unproven", 0), (FULL, "unproven", 0)),
    ],
)
def test_only_a_denial_is_a_denial(
    world: World, capfd: pytest.CaptureFixture[str], answer: Answer, verdict: str, status: int
) -> None:
    """A lookup of ours that failed is no denial; of what another proxy says without a signal nobody knows.

    Nor does anybody of what we refused before we judged it: a client with limits is soon over them here.
    """
    world.answer = lambda way, target: PASSED if "example.com" in target else answer if "10.0.0.0" in target else DENIED
    found, told = validated(capfd)
    assert found == status
    assert [each["verdict"] for each in told["results"] if "10.0.0.0:80" in each["target"]] == [verdict] * 2


def test_a_dead_proxy_fails_and_proves_nothing(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.answer = lambda way, target: DEAD
    status, told = validated(capfd)
    assert (status, told["counts"]["pass"], told["counts"]["FAIL"]) == (1, 0, 1)


def test_a_canary_that_was_reached_fails_whatever_the_proxy_says(
    world: World, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nonce is the proof: an origin could forge a header."""
    canaries: list[Canary] = []

    def noted(address: str) -> Canary:
        canaries.append(Canary(address))
        return canaries[-1]

    monkeypatch.setattr(validate_module, "Canary", noted)

    def reach(_way: str, target: str) -> Answer:
        for canary in canaries:
            if "localhost" in target:
                socket.create_connection(("127.0.0.1" if canary is canaries[0] else "::1", canary.port)).close()
                assert canary.comes(20)
        return PASSED if "example.com" in target else DENIED

    world.answer = reach
    status, told = validated(capfd)
    assert status == 1
    failed = [each for each in told["results"] if each["verdict"] == "FAIL"]
    assert {each["said"] for each in failed} == {"the canary on loopback was reached"}
    assert {each["target"].partition(":")[0] for each in failed} == {"localhost"}


def test_urls_of_the_operators_own(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.answer = lambda way, target: PASSED if "good" in target else DENIED
    status, told = validated(
        capfd,
        "--allowed-url",
        "https://good.test/",
        "--denied-url",
        "http://bad.test:8080/x",
        "--proxy-url",
        "http://u:p@p.test",
    )
    assert status == 0
    assert told["proxy"] == "http://…@p.test:80"
    assert ("GET", "http://bad.test:8080/") in world.asked
    assert not any("example.com" in target for _, target in world.asked)


def test_a_person_sees_a_line_for_each_and_what_it_comes_to(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.answer = lambda way, target: PASSED if "example.com" in target else OTHERS if way == "GET" else DENIED
    assert main(["validate"]) == 0
    first, *_, last = capfd.readouterr().out.splitlines()
    assert first == f"pass      CONNECT  {'example.com:443':40}  200 OK"
    count = 8 + len(SPECIAL_NETWORKS)
    assert last == (
        f"http://127.0.0.1:3128: {1 + count} as they should be, 0 not, "
        f"{count} unproven: refused or failed, without saying that it was a denial"
    )


def test_on_a_terminal_verdicts_have_colours(
    world: World, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it comes to has that of the worst of them."""
    look_on(monkeypatch)
    for answer, verdict, colour in ((DENIED, "pass", 32), (OTHERS, "unproven", 33), (FAILED, "FAIL", 31)):
        world.answer = lambda way, target, answer=answer: PASSED if "example.com" in target else answer  # type: ignore[misc]
        main(["validate"])
        first, *_, one, last = capfd.readouterr().out.splitlines()
        assert first.startswith("\x1b[32mpass    \x1b[0m  CONNECT  example.com:443")
        assert one.startswith(f"\x1b[{colour}m{verdict:8}\x1b[0m")
        assert last.startswith(f"\x1b[{colour}mhttp://127.0.0.1:3128: ")


@pytest.mark.parametrize("option", ["--proxy-url", "--allowed-url"])
def test_a_program_is_told_what_is_no_url(option: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--json", option, "nowhere"]) == 2
    out, err = capfd.readouterr()
    (problem,) = json.loads(out)["problems"]
    assert problem.startswith(option)
    assert err == f"proxyd: {problem}\n"


@pytest.mark.usefixtures("world")
def test_without_ipv6_there_is_no_canary_on_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def canary(address: str) -> Canary:
        if ":" in address:
            raise OSError(99, "Cannot assign requested address")
        return Canary(address)

    monkeypatch.setattr(validate_module, "Canary", canary)
    _, told = validated(capfd)
    assert told["counts"]["pass"] == 1 + 2 * (7 + len(SPECIAL_NETWORKS))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--proxy-url", "127.0.0.1:3128"],
        ["--proxy-url", "http://u:secret@[x"],
        ["--allowed-url", "nowhere"],
        ["--denied-url", "ftp://x"],
    ],
)
def test_what_is_no_url_is_bad_usage(world: World, capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(["validate", *arguments]) == 2
    said = capfd.readouterr()
    assert (said.out, world.asked) == ("", [])
    assert "write http" in said.err
    assert "secret" not in said.err
