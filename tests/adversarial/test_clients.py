"""Real clients through the real daemon: ten programs in every situation: what each saw, and what the log says.

R4, R7, R11; ATTACKS 8 (a reset instead of the answer), 9 (credentials). CLIENT.md says which of these stacks OpenClaw
and its child processes are made of. What a client cannot do is in CANNOT, with the reason.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespace
from tests.adversarial.tls import Origin, certificates
from tests.end_to_end.conftest import POLICIES
from tests.end_to_end.daemon import Daemon, policy_text
from tests.end_to_end.nameserver import Nameserver, Says
from tests.end_to_end.origin import Listener
from tests.end_to_end.patient import patient
from tests.tools import give_up, tool

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

MIB = 1024 * 1024
BIG = random.Random(3).randbytes(64 * MIB)  # noqa: S311 - octets that no mistake repeats
SMALL_UPLOAD, LONG_UPLOAD = BIG[: 4 * MIB], BIG[: 32 * MIB]  # the second is more than all buffers on the way hold
MOST_GROWTH = 16 * MIB  # of the daemon's memory while 64 MiB pass through
PATIENCE = 180.0  # seconds for a client to end; none is decided by time
ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "clients"
DEBIAN_NODE_MODULES = "/usr/share/nodejs"
ENVIRONMENT = {"PATH": os.environ["PATH"], "NODE_PATH": DEBIAN_NODE_MODULES, "LC_ALL": "C"}
LOGIN, PASSWORD = "agent", "s3cret@word"  # planted, to be looked for
BASIC = base64.b64encode(f"{LOGIN}:{PASSWORD}".encode())

# client -> what it shows of a CONNECT that was refused; undici 5 keeps the status to itself, later ones show it
CLIENTS = {
    "curl": "CONNECT tunnel failed, response {status}",
    "wget": "Proxy tunneling failed: {phrase}: {reason}",
    "python_urllib": "Tunnel connection failed: {status} {phrase}: {reason}",
    "python_requests": "Tunnel connection failed: {status} {phrase}: {reason}",
    "python_httpx": "{status} {phrase}: {reason}",
    "python_aiohttp": "{status}, message='{phrase}: {reason}'",
    "http_1_0": "CONNECT: {status} {phrase}: {reason}",
    "node_http": "CONNECT: {status} {phrase}: {reason}",
    "node_undici": "!== 200 when HTTP Tunneling",
    "node_fetch": "fetch failed Error: Request was cancelled",
}
UNDICI = {"node_undici", "node_fetch"}  # their ProxyAgent tunnels always, as OpenClaw's guarded fetch does


@dataclass(frozen=True)
class Situation:
    """What a client is told to do, and what must come of it. `reason` is proxyd's, where it does not serve."""

    verb: str
    urls: tuple[str, ...]
    status: int = 200
    content: bytes = field(default=b"hello", repr=False)
    verdict: str = "allow"
    reason: str | None = None
    upload: bytes = field(default=b"", repr=False)
    credentials: bool = False

    def tunnelled(self, client: str) -> bool:
        """Whether the client asks with CONNECT."""
        return client in UNDICI or self.urls[0].startswith(("https:", "wss:"))


def _get(*urls: str, **expected: Any) -> Situation:  # noqa: ANN401 - passed through
    return Situation("get", urls, **expected)


def _upload(url: str, **expected: Any) -> Situation:  # noqa: ANN401 - passed through
    return Situation("upload", (url,), **expected)


DENIED = {"status": 403, "verdict": "deny", "reason": "address_denied"}
NOWHERE = {"status": 502, "verdict": "error", "reason": "dns_error"}
DIGESTED = {"upload": SMALL_UPLOAD, "content": hashlib.sha256(SMALL_UPLOAD).hexdigest().encode()}
THREE = ("/h/0", "/h/1", "/h/2")
SITUATIONS = {
    "plain GET": _get("http://origin.test:{plain}/hello"),
    "TLS GET": _get("https://origin.test:{tls}/hello"),
    "plain GET from an IPv6 literal": _get("http://[{six}]:{plain}/hello"),
    "TLS GET from an IPv6 literal": _get("https://[{six}]:{tls}/hello"),
    "streamed upload": _upload("http://origin.test:{plain}/digest", **DIGESTED),
    "streamed upload over TLS": _upload("https://origin.test:{tls}/digest", **DIGESTED),
    "64 MiB": _get("http://origin.test:{plain}/big", content=BIG),
    "64 MiB over TLS": _get("https://origin.test:{tls}/big", content=BIG),
    "early response": _upload("http://origin.test:{plain}/early", status=413, content=b"early", upload=LONG_UPLOAD),
    "refused request": _get("http://10.0.0.5/secret", **DENIED),
    "refused CONNECT": _get("https://inner.test/secret", **DENIED),
    "refused upload": _upload("http://10.0.0.5/secret", upload=LONG_UPLOAD, **DENIED),
    "no such name": _get("http://nowhere.test/x", **NOWHERE),
    "CONNECT to no such name": _get("https://nowhere.test/x", **NOWHERE),
    "three on one connection": _get(*(f"http://origin.test:{{plain}}{path}" for path in THREE)),
    "three in one tunnel": _get(*(f"https://origin.test:{{tls}}{path}" for path in THREE)),
    "credentials": _get("http://origin.test:{plain}/hello", credentials=True),
    "credentials with a CONNECT": _get("https://origin.test:{tls}/hello", credentials=True),
    "WebSocket": Situation("websocket", ("ws://origin.test:{plain}/ws",), status=101),
    "WebSocket over TLS": Situation("websocket", ("wss://origin.test:{tls}/ws",), status=101),
}
UPLOADS = ("streamed upload", "streamed upload over TLS", "early response", "refused upload")
SEVERAL = ("three on one connection", "three in one tunnel")
SOCKETS = ("WebSocket", "WebSocket over TLS")
CANNOT = {
    ("wget", UPLOADS): "sends no body but a file whose length it knows",
    ("http_1_0", UPLOADS): "HTTP/1.0 has no chunked bodies",
    ("python_urllib", SEVERAL): "asks each time on a new connection, with Connection: close",
    ("http_1_0", SEVERAL): "HTTP/1.0 ends the connection with the answer",
    ("wget", ("TLS GET from an IPv6 literal",)): "spells it CONNECT 2606:…:1946:443, no brackets: two readings, 400",
    ("python_urllib", ("TLS GET from an IPv6 literal",)): "the same, in Python 3.11",
    ("python_httpx", ("plain GET from an IPv6 literal", "TLS GET from an IPv6 literal")): "the same, in any request",
    ("python_aiohttp", ("WebSocket",)): "asks for GET ws://…, and the scheme of a request to a proxy is http",
    ("curl", SOCKETS): "knows WebSocket only where it was built in; Debian 12 does not",
    ("wget", SOCKETS): "knows no WebSocket",
    ("python_urllib", SOCKETS): "knows no WebSocket",
    ("python_requests", SOCKETS): "knows no WebSocket",
    ("python_httpx", SOCKETS): "knows no WebSocket",
    ("http_1_0", SOCKETS): "HTTP/1.0 has no Upgrade",
    ("node_fetch", SOCKETS): "knows no WebSocket; Node's own is undici's",
}
_LEFT_OUT = {(client, situation) for client, situations in CANNOT for situation in situations}
CELLS = [(client, what) for client in CLIENTS for what in SITUATIONS if (client, what) not in _LEFT_OUT]


@dataclass
class Tap:
    """Stands between a client and the proxy: counts connections, and keeps what the client sent."""

    proxy: Daemon
    heard: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = Listener(self._pass_on, ("127.0.0.1",))
        self.port, self.close = self._listener.port, self._listener.close

    @property
    def connections(self) -> int:
        """How many the client opened."""
        return self._listener.connections

    def _pass_on(self, client: socket.socket) -> None:
        with self.proxy.connect() as onward:
            back = threading.Thread(target=_pump, args=(onward, client, []), daemon=True)
            back.start()
            _pump(client, onward, self.heard)
            back.join()


def _pump(source: socket.socket, sink: socket.socket, heard: list[bytes]) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            heard.append(data)
            sink.sendall(data)
        sink.shutdown(1)


@dataclass
class Stage:
    """One daemon and one origin for all cells; each looks at its own part of the log."""

    origin: Origin
    proxy: Daemon
    authority: Path
    seen: list[tuple[str, str]] = field(default_factory=list)

    def ask(self, client: str, what: Situation, port: int) -> list[dict[str, Any]]:
        """Run the client: what it saw, an answer for each URL."""
        login = "{}:{}@".format(LOGIN, PASSWORD.replace("@", "%40")) if what.credentials else ""
        places = {"plain": self.origin.port, "tls": self.origin.tls_port, "six": namespace.origin_6()}
        command = [*_program(client), f"http://{login}127.0.0.1:{port}", str(self.authority), what.verb]
        command += [url.format(**places) for url in what.urls]
        run = subprocess.run(  # noqa: S603 - our own scripts
            command, input=what.upload, capture_output=True, check=False, cwd=ROOT, env=ENVIRONMENT, timeout=PATIENCE
        )
        assert run.returncode == 0, f"crashed: {run.stderr.decode()}"
        return [json.loads(line) for line in run.stdout.splitlines()]


def _program(client: str) -> list[str]:
    """The command that runs a client's script."""
    if not client.startswith("node"):
        if client in ("curl", "wget"):
            tool(client)
        return [sys.executable, "-m", f"tests.adversarial.clients.{client}"]
    node = tool("node")
    if client in UNDICI and not _undici():
        give_up("install node-undici to run this")
    return [node, str(SCRIPTS / f"{client}.js")]


@cache
def _undici() -> bool:
    """Whether Node finds undici."""
    command = [tool("node"), "-e", "require('undici')"]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False).returncode == 0  # noqa: S603 - fixed


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, figures: dict[str, str]) -> Iterator[Stage]:
    """The cast; in the end, how many cells were as they should be."""
    directory = tmp_path_factory.mktemp("clients")
    four, six = namespace.origin_4(), namespace.origin_6()
    issued = certificates(directory, ["origin.test"], [four, six])
    origin = Origin((four, six), issued.context, BIG)
    nameserver = Nameserver({"origin.test": Says(a=(four,)), "inner.test": Says(a=("10.0.0.5",))})
    shutil.copy(POLICIES / "denylist.toml", directory)
    policy, audit, errors = directory / "policy.toml", directory / "audit.jsonl", directory / "errors"
    tls = "" if namespace.isolated else "".join(_permit(host, origin.tls_port) for host in ("origin.test", four, six))
    policy.write_text(policy_text(nameserver.port, origin.port, ("origin.test",), tls))
    proxy = Daemon(policy, audit, errors, patient(directory / "patient"))  # one that sends all of a refused upload, too
    proxy.wait_for_start()
    stage = Stage(origin, proxy, issued.authority)
    yield stage
    proxy.stop()
    origin.close()
    nameserver.close()
    good = "all as they should be" if len(stage.seen) == len(CELLS) else f"{len(stage.seen)} as they should be"
    figures["clients"] = f"{len(CLIENTS)} clients, {len(SITUATIONS)} situations, {len(CELLS)} cells: {good}"


def _permit(host: str, port: int) -> str:
    """On plain loopback: what stands in for a public address."""
    networks = '["127.0.0.10/32", "::1/128"]'
    return f'[[permit]]\nhost = "{host}"\nports = [{port}]\nnetworks = {networks}\nreason = "stands in"\n'


def test_what_clients_cannot_do_is_about_clients_and_situations_that_there_are() -> None:
    assert {client for client, _ in _LEFT_OUT} <= CLIENTS.keys()
    assert {situation for _, situation in _LEFT_OUT} <= SITUATIONS.keys()
    assert {path.stem for path in SCRIPTS.iterdir() if path.is_file()} - {"__init__", "telling"} == CLIENTS.keys()


@pytest.mark.parametrize(("client", "situation"), CELLS)
def test_r4_r11_a_real_client_sees_what_it_should_and_the_log_says_so(
    stage: Stage, client: str, situation: str
) -> None:
    what, tap = SITUATIONS[situation], Tap(stage.proxy)
    before, heads = len(stage.proxy.lines()), len(stage.origin.heads)
    workers, complaints = stage.proxy.workers(), stage.proxy.complaints()
    memory = sum(map(_resident, workers))
    answers = stage.ask(client, what, tap.port if situation in SEVERAL or what.credentials else stage.proxy.port)
    assert len(answers) == len(what.urls)
    for answer in answers:
        _check_answer(client, what, answer)
    stage.proxy.records()  # is complete
    _check_log(client, what, stage.proxy.lines()[before:])
    assert stage.proxy.complaints() == complaints
    if what.credentials:
        _check_credentials(stage, tap, stage.origin.heads[heads:])
    if situation in SEVERAL:
        assert tap.connections <= (2 if client in UNDICI else 1)  # undici's pool opens a second at once
    if what.content is BIG:
        assert sum(map(_peak, workers)) - memory < MOST_GROWTH
    assert stage.proxy.workers() == workers != []
    tap.close()
    stage.seen.append((client, situation))


def _check_answer(client: str, what: Situation, answer: dict[str, Any]) -> None:
    """The origin's answer to the last octet, or proxyd's refusal as far as the client shows it; never a reset."""
    phrase = HTTPStatus(what.status).phrase
    if what.reason is not None and what.tunnelled(client):
        shown = CLIENTS[client].format(status=what.status, phrase=phrase, reason=what.reason)
        assert shown in answer.get("error", answer)
        return
    assert answer.get("status") == what.status, answer
    if what.reason is None:
        assert answer["digest"] == hashlib.sha256(what.content).hexdigest()
    else:
        assert json.loads(answer["text"])["reason"] == what.reason
        assert answer["reason"] in (f"{phrase}: {what.reason}", "")  # some do not show it


def _check_log(client: str, what: Situation, records: list[dict[str, Any]]) -> None:
    """One decision and one closing record for each request, that agree with what happened."""
    decisions = {record["id"]: record for record in records if record["event"] == "decision"}
    closings = {record["id"]: record for record in records if record["event"] == "close"}
    tunnelled = what.tunnelled(client)
    count = range(1, 3) if client in UNDICI and len(what.urls) > 1 else [1 if tunnelled else len(what.urls)]
    assert len(decisions) in count
    assert len(records) == 2 * len(decisions)
    assert decisions.keys() == closings.keys()
    scheme = "connect" if tunnelled else "http"
    for record in records:
        said = (record["scheme"], record["verdict"], record["reason"], record["client"])
        assert said == (scheme, what.verdict, what.reason, "tester")
    refused = what.reason is not None
    for record in closings.values():
        assert record["status"] == (200 if tunnelled and not refused else what.status)
        relayed = tunnelled or what.verb == "websocket"
        assert record["outcome"] in ({"refused"} if refused else {"closed", "reset"} if relayed else {"complete"})
        if what.upload is LONG_UPLOAD:
            assert record["bytes_up"] < len(LONG_UPLOAD)  # the answer was there before the question was


def _check_credentials(stage: Stage, tap: Tap, heads: list[bytes]) -> None:
    """The client did send them, and nobody else ever saw them (R7, ATTACKS 9)."""
    assert BASIC in b"".join(tap.heard)
    assert len(heads) == 1
    assert b"proxy-auth" not in heads[0].lower()
    for written in (heads[0], stage.proxy.audit.read_bytes()):
        assert BASIC not in written
        assert PASSWORD.encode() not in written


def _resident(pid: int) -> int:
    """The octets that a process has in memory; what it had at most is counted from here on (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory(pid, "VmRSS")


def _peak(pid: int) -> int:
    return _memory(pid, "VmHWM")


def _memory(pid: int, name: str) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024
