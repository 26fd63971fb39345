"""Headers that the policy says vouch for somebody: kept from what a permit opens, passed elsewhere (R9; MISSION)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests import namespace
from tests.end_to_end.asking import get
from tests.end_to_end.origin import HttpOrigin, Listener, more

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene

pytestmark = pytest.mark.skipif(not namespace.isolated, reason="no network of our own: every destination is permitted")

NAMED: Final = ("X-Team: forged", "x_team: forged", "X.Team: forged", "X-TEAM: forged", "Sec.Vouch: forged")
ALWAYS: Final = ("X-Forwarded-User: forged", "X-OpenClaw-Agent: forged")
PLAIN: Final = ("Authorization: Bearer mine", "X-Teams: mine", "X-My-X-Team: mine")
KEY: Final = 'identity_headers = ["X-Team", "sec-vouch"]\n'


@pytest.fixture
def inside() -> Iterator[HttpOrigin]:
    """An application at a private address, behind a proxy that it trusts."""
    origin = HttpOrigin(("10.0.0.5",))
    yield origin
    origin.close()


def permitting(inside: HttpOrigin, destinations: str = "", of_client: str = "") -> str:
    """A policy that permits it."""
    client = f'[[client]]\nname = "agent"\nnetworks = ["127.0.0.0/8"]\n{of_client}'
    permit = f'[[permit]]\nhost = "10.0.0.5"\nports = [{inside.port}]\nnetworks = ["10.0.0.5/32"]\nreason = "ours"\n'
    return f'[destinations]\ndefault = "allow"\n{destinations}\n{client}\n{permit}'


def sent(scene: Scene, policy: str, url: str, origin: HttpOrigin, *more: str) -> str:
    """The head that the origin got, of a request with all of them."""
    proxy = scene.start(policy)
    with proxy.connect() as client:
        assert get(client, url, *NAMED, *ALWAYS, *PLAIN, *more).status in (200, 101)
    return origin.heads[-1].decode()


@pytest.mark.parametrize("more", [(), ("Connection: Upgrade", "Upgrade: websocket")])
@pytest.mark.parametrize("for_whom", ["everybody", "the client"])
def test_r9_headers_that_the_policy_names_are_kept_from_a_permitted_destination(
    scene: Scene, inside: HttpOrigin, for_whom: str, more: tuple[str, ...]
) -> None:
    """In every spelling that a gateway would read as that name; and none that is merely like it."""
    own = f"[client.destinations]\n{KEY}"
    policy = permitting(inside, KEY) if for_whom == "everybody" else permitting(inside, of_client=own)
    head = sent(scene, policy, f"http://10.0.0.5:{inside.port}/", inside, *more)
    assert "forged" not in head
    assert [line in head.split("\r\n") for line in PLAIN] == [True] * 3


def test_elsewhere_they_are_passed(scene: Scene, inside: HttpOrigin) -> None:
    head = sent(scene, permitting(inside, KEY), f"{scene.url}/", scene.origin)
    assert [line in head.split("\r\n") for line in (*NAMED, *ALWAYS, *PLAIN)] == [True] * 10


def test_without_the_key_only_those_that_everybody_knows_are_kept(scene: Scene, inside: HttpOrigin) -> None:
    head = sent(scene, permitting(inside), f"http://10.0.0.5:{inside.port}/", inside)
    assert [line in head.split("\r\n") for line in NAMED] == [True] * 5
    assert [line in head.split("\r\n") for line in ALWAYS] == [False] * 2


def test_a_trailer_of_that_name_is_kept_from_it_too(scene: Scene) -> None:
    """And any other trailer is passed on (RFC 9110 §6.5.1)."""
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        data = b""
        while b"X-Sum: mine\r\n\r\n" not in data:
            data += more(connection)
        seen.append(data)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    trusting = Listener(serve, ("10.0.0.5", namespace.origin_4()))
    permit = f'[[permit]]\nhost = "10.0.0.5"\nports = [{trusting.port}]\nnetworks = ["10.0.0.5/32"]\nreason = "ours"\n'
    proxy = scene.start(f'[destinations]\ndefault = "allow"\n{KEY}\n{permit}')
    for host, passed in (("10.0.0.5", False), ("origin.test", True)):
        head = f"POST http://{host}:{trusting.port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        body = "5\r\nhello\r\n0\r\nX-Team: forged\r\nX-Sum: mine\r\n\r\n"
        assert proxy.ask(f"{head}Connection: close\r\n\r\n{body}".encode()).startswith(b"HTTP/1.1 200 ")
        assert (b"X-Team: forged" in seen[-1]) == passed, host
    trusting.close()
