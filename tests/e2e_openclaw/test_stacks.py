"""R4, R5, R6: every client that OpenClaw and its plugins use, inside OpenClaw's own process, with the proxy it set up.

CLIENT.md says how each asks a proxy. Each case has a host name of its own, so that what the log and the origin say of
it is about nothing else.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

import pytest

from tests import namespace
from tests.e2e_openclaw.origin import HELLO
from tests.e2e_openclaw.set_up import TLS
from tests.end_to_end.nameserver import Says
from tests.end_to_end.origin import HttpOrigin

if TYPE_CHECKING:
    from tests.e2e_openclaw.conftest import Scene

UPLOAD: Final = hashlib.sha256(b"0123456789abcdef" * 2**16).hexdigest()
PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
STACKS: Final = ("fetch", "node", "agent", "undici", "undici-fetch", "axios", "guarded")
TUNNELS_ALL: Final = ("guarded", "ws")
"""Those that ask for a tunnel for plain HTTP, too."""
ASKED: Final = [
    *((stack, verb) for stack in STACKS for verb in ("get", "post")),
    ("streamed", "post"),
]
BEYOND: Final = {(TLS, "axios", "http"): "UNABLE_TO_VERIFY_LEAF_SIGNATURE"}
"""What a client cannot do with any proxy. axios reads HTTP_PROXY, which is there for child processes, and asks for http://
URLs by itself; it knows no caFile, and holds the certificate of a proxy on loopback to the origin's name."""
DENIED: Final = {
    "private": (Says(a=("10.0.0.5",)), "address_denied"),
    "link-local": (Says(a=("169.254.169.254",)), "address_locked"),
    "six": (Says(aaaa=("fd00:ec2::254",)), "address_locked"),
    "loopback": (Says(a=("127.0.0.1",), aaaa=("::1",)), "address_denied"),
    "mixed": (Says(a=(namespace.ORIGIN_4, "10.0.0.5")), "address_denied"),
    "alias": (Says(cname="metadata.google.internal"), "name_locked"),
}


def is_tunnelled(stack: str, scheme: str) -> bool:
    """Whether the client asks the proxy for a tunnel."""
    return stack in TUNNELS_ALL or scheme in ("https", "wss")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("stack", "verb"), ASKED)
def test_r4_every_client_is_answered_through_the_proxy(scene: Scene, stack: str, verb: str, scheme: str) -> None:
    host = scene.host(f"{scheme}-{verb}-{stack}")
    answer = scene.stacks.ask(stack=stack, verb=verb, url=f"{scheme}://{host}/{HELLO}")
    if said := BEYOND.get((scene.name, stack, scheme)):
        assert (said in answer["error"], scene.decided(host), host in scene.outside.world.heads) == (True, [], False)
        return
    assert answer == {"status": 200, "text": UPLOAD if verb == "post" else HELLO}
    asked = ("CONNECT", "connect") if is_tunnelled(stack, scheme) else (verb.upper(), "http")
    assert scene.decided(host) == [(*asked, PORTS[scheme], "allow", None)]
    [head] = scene.outside.world.heads[host]
    assert head.startswith(f"{verb.upper()} /{HELLO} HTTP/1.1\n")
    assert "\nproxy-" not in head.lower()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", DENIED)
def test_r5_r6_what_is_denied_fails_and_nothing_arrives(scene: Scene, kind: str, stack: str, scheme: str) -> None:
    says, reason = DENIED[kind]
    host = scene.host(f"{scheme}-{kind}-{stack}", says)
    answer = scene.stacks.ask(stack=stack, verb="get", url=f"{scheme}://{host}/")
    assert scene.outside.intruders() == 0
    if said := BEYOND.get((scene.name, stack, scheme)):
        assert (said in answer["error"], scene.decided(host)) == (True, [])
        return
    tunnelled = is_tunnelled(stack, scheme)
    if tunnelled:
        assert "403" in answer["error"]
    else:
        assert (answer["status"], json.loads(answer["text"])["reason"]) == (403, reason)
    asked = ("CONNECT", "connect") if tunnelled else ("GET", "http")
    assert set(scene.decided(host)) == {(*asked, PORTS[scheme], "deny", reason)}


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("stack", ["ws", "global"])
def test_r4_a_web_socket_stays_open(scene: Scene, stack: str, scheme: str) -> None:
    host = scene.host(f"{scheme}-{stack}")
    answer = scene.stacks.ask(stack=stack, verb="converse", url=f"{scheme}://{host}/")
    assert answer == {"echoed": [f"message {count}" for count in range(30)]}
    asked = ("CONNECT", "connect") if is_tunnelled(stack, scheme) else ("GET", "http")
    assert scene.decided(host) == [(*asked, PORTS[scheme], "allow", None)]
    assert len(scene.outside.world.heads[host]) == 1


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("stack", ["ws", "global"])
def test_r5_a_web_socket_to_what_is_denied_never_opens(scene: Scene, stack: str, scheme: str) -> None:
    host = scene.host(f"{scheme}-{stack}-denied", Says(a=("10.0.0.5",)))
    assert "error" in scene.stacks.ask(stack=stack, verb="converse", url=f"{scheme}://{host}/")
    asked = ("CONNECT", "connect") if is_tunnelled(stack, scheme) else ("GET", "http")
    assert set(scene.decided(host)) == {(*asked, PORTS[scheme], "deny", "address_denied")}
    assert scene.outside.intruders() == 0


@pytest.mark.parametrize("stack", ["fetch", "node", "agent", "undici", "undici-fetch"])
def test_r5_the_metadata_service_by_its_address_is_refused(scene: Scene, stack: str) -> None:
    before = len(scene.decided("169.254.169.254"))
    answer = scene.stacks.ask(stack=stack, verb="get", url="http://169.254.169.254/latest/meta-data/")
    assert (answer["status"], json.loads(answer["text"])["rule"]) == (403, "cloud-metadata")
    assert scene.decided("169.254.169.254")[before:] == [("GET", "http", 80, "deny", "address_locked")]
    assert scene.outside.intruders() == 0


def test_a_guarded_fetch_of_a_protected_address_does_not_even_leave_openclaw(scene: Scene) -> None:
    before = len(scene.decided("10.0.0.5"))
    answer = scene.stacks.ask(stack="guarded", verb="get", url="http://10.0.0.5/")
    assert "SsrFBlockedError" in answer["error"]
    assert len(scene.decided("10.0.0.5")) == before
    assert scene.outside.intruders() == 0


def test_literal_loopback_goes_direct_as_the_readme_says(scene: Scene) -> None:
    local = HttpOrigin(("127.0.0.1",))
    answer = scene.stacks.ask(stack="fetch", verb="get", url=f"http://127.0.0.1:{local.port}/")
    assert (answer["status"], local.connections) == (200, 1)
    assert local.port not in {record["port"] for record in scene.proxy.decided()}
    local.close()
