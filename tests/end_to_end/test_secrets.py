"""No secret that passes through is written down: not in the log, on stderr or in a refusal (R7; ATTACKS 9)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

SECRET = "hunter2secret"  # noqa: S105 - planted, to be looked for

REQUESTS = {
    "path and query": f"GET {{url}}/bot{SECRET}/getMe?key={SECRET} HTTP/1.1\r\nHost: x\r\n",
    "fields": f"GET {{url}}/ HTTP/1.1\r\nHost: {SECRET}\r\nAuthorization: Bearer {SECRET}\r\nCookie: a={SECRET}\r\n",
    "proxy credentials": f"GET {{url}}/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {SECRET}\r\n",
    "body": f"POST {{url}}/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SECRET)}\r\nConnection: close\r\n\r\n{SECRET}",
    "method": f"{SECRET} {{url}}/ HTTP/1.1\r\nHost: x\r\n",
    "userinfo": f"GET http://user:{SECRET}@origin.test/ HTTP/1.1\r\nHost: x\r\n",
    "field of a refused request": f"GET http://10.0.0.5/{SECRET} HTTP/1.1\r\nHost: x\r\nCookie: {SECRET}\r\n",
    "malformed head": f"GET {{url}}/{SECRET} HTTP/1.1\r\nAuthorization {SECRET}\r\nHost: x\r\n",
    "CONNECT field": f"CONNECT 10.0.0.5:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {SECRET}\r\n",
    "chunk extension": f"POST {{url}}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;{SECRET}\nx\r\n",
    "escapes": f"GET {{url}}/\x1b[31m{SECRET} HTTP/1.1\r\nHost: x\r\n",
}


@pytest.mark.parametrize("case", REQUESTS)
def test_attack_9_a_planted_secret_is_nowhere(scene: Scene, proxy: Daemon, case: str) -> None:
    request = REQUESTS[case].format(url=scene.url)
    end = "" if "\r\n\r\n" in request else "Connection: close\r\n\r\n"
    answer = proxy.ask((request + end).encode())
    assert len(proxy.decisions()) == 1
    titles = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (proxy.pid, *proxy.workers())]
    assert len(titles) > 1
    written = "".join((proxy.audit.read_text(), proxy.complaints(), *titles))
    assert SECRET not in written
    if answer.startswith(b"HTTP/1.1 4"):
        assert SECRET.encode() not in answer


def test_attack_9_a_proxys_credentials_do_not_reach_the_origin(scene: Scene, proxy: Daemon) -> None:
    proxy.ask(REQUESTS["proxy credentials"].format(url=scene.url).encode() + b"Connection: close\r\n\r\n")
    assert SECRET.encode() not in scene.origin.heads[0]


def test_attack_9_a_refusal_tells_no_address_that_a_name_resolved_to(scene: Scene, proxy: Daemon) -> None:
    scene.nameserver.zone["inner.test"] = type(scene.nameserver.zone["origin.test"])(a=("10.1.2.3",))
    answer = proxy.ask(b"GET http://inner.test/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"10.1.2.3" not in answer
    assert proxy.decisions()[0]["refused"] == "10.1.2.3"


def test_a_core_dump_is_never_made(proxy: Daemon) -> None:
    proxy.wait_for_start()
    for pid in (proxy.pid, *proxy.workers()):
        limits = Path(f"/proc/{pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] in (["0", "0"], ["1", "1"]), "one octet: none is made, whoever would take it"
