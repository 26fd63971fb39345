"""Through a parent proxy: everything, to judged addresses, nothing beside it, also when it lies (ATTACKS 6; R12)."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.policy.password import SALT_OCTETS, new_hash
from tests import namespace
from tests.adversarial.squid import PORT as SQUIDS_PORT
from tests.adversarial.squid import squid
from tests.end_to_end.asking import basic, connect, get
from tests.end_to_end.daemon import read_all, read_until
from tests.end_to_end.nameserver import Says
from tests.end_to_end.origin import HttpOrigin, Listener, echo, read_head
from tests.end_to_end.starting import run
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

    Behave = Callable[[socket.socket], None]
    Make = Callable[[Behave], "Scripted"]

own_network = pytest.mark.skipif(not namespace.isolated, reason="no network of our own: there is no such address here")
PASSWORD: Final = "s3cret:parent wörd"  # noqa: S105 - planted, to be looked for
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


def through(port: int, more: str = "") -> str:
    """A policy whose connections leave through a parent on this host."""
    return f'[parent]\naddress = "127.0.0.1:{port}"\n{more}'


@dataclass
class Scripted:
    """A parent that does what a test tells it to with each CONNECT, and leads nowhere but to itself.

    heads: what it was asked, octet for octet.
    """

    behave: Behave
    heads: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = Listener(self._serve, ("127.0.0.1",))
        self.port, self.close = self._listener.port, self._listener.close

    @property
    def connections(self) -> int:
        """How many came."""
        return self._listener.connections

    def _serve(self, connection: socket.socket) -> None:
        head, _ = read_head(connection)
        self.heads.append(head)
        self.behave(connection)


def says(octets: bytes) -> Behave:
    """A parent that answers so, and ends."""
    return lambda connection: connection.sendall(octets)


@pytest.fixture
def parents() -> Iterator[Make]:
    """Makes scripted parents."""
    made: list[Scripted] = []

    def make(behave: Behave) -> Scripted:
        made.append(Scripted(behave))
        return made[-1]

    yield make
    for each in made:
        each.close()


def refused_connect(proxy: Daemon, target: str) -> tuple[int, str, str]:
    """Ask for a tunnel: the status, our reason, and our Proxy-Status."""
    with proxy.connect() as client:
        answer = connect(client, target)
        return answer.status, answer.reason, answer.fields.get("proxy-status", "")


# A real one


def test_attack_6_2_everything_goes_through_the_parent_which_is_asked_for_addresses(scene: Scene) -> None:
    parent = scene.start()
    proxy = scene.start(through(parent.port))
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/a").body.startswith(b"you sent GET /a ")
    with proxy.connect() as client:
        assert connect(client, scene.target).status == 200
        client.sendall(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"you sent GET /b" in read_all(client)
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/", "Connection: Upgrade", "Upgrade: websocket").status == 101
        client.sendall(b"echoed")
        assert read_until(client, b"echoed")
    with proxy.connect() as client:
        assert get(client, f"http://six.test:{scene.origin.port}/").status == 200
    relayed = [(each["method"], each["host"], each["status"]) for each in parent.closings()]
    here, six = scene.origin.addresses
    assert sorted(relayed) == sorted([*[("CONNECT", here, 200)] * 3, ("CONNECT", six, 200)])
    assert scene.origin.connections == len(relayed)  # nothing came any other way
    assert [each["dns_ms"] for each in parent.decisions()] == [None] * 4
    assert {each["address"] for each in proxy.closings()} == {here, six}
    assert b"proxyd" not in scene.origin.heads[1]


def test_attack_6_1_what_is_refused_here_never_reaches_the_parent(scene: Scene) -> None:
    scene.nameserver.zone["inner.test"] = Says(a=("10.0.0.5",))
    scene.nameserver.zone["mixed.test"] = Says(a=(namespace.origin_4(), "169.254.169.254"))
    parent = scene.start()
    proxy = scene.start(through(parent.port))
    for host, reason in (
        ("10.0.0.5", "address_denied"),
        ("169.254.169.254", "address_locked"),
        ("inner.test", "address_denied"),
        ("mixed.test", "address_locked"),
        ("localhost", "name_denied"),
    ):
        assert refused_connect(proxy, f"{host}:80")[:2] == (403, reason)
        with proxy.connect() as client:
            assert get(client, f"http://{host}/").reason == reason
    assert parent.decisions() == []


@own_network
def test_r11_refused_by_the_parent_is_told_from_refused_by_us(scene: Scene) -> None:
    """In the status, in the reason, in Proxy-Status, and in the log; the parent's own words stay with us."""
    origin = HttpOrigin(("10.0.0.5",))
    permit = f'[[permit]]\nhost = "10.0.0.5"\nports = [{origin.port}]\nnetworks = ["10.0.0.5/32"]\nreason = "ours"\n'
    parent = scene.start()
    proxy = scene.start(f"{through(parent.port)}\n{permit}")
    assert refused_connect(proxy, f"10.0.0.5:{origin.port}") == (
        502,
        "parent_refused",
        'proxyd; error=destination_unavailable; details="parent_refused"',
    )
    assert refused_connect(proxy, "10.0.0.6:80") == (
        403,
        "address_denied",
        'proxyd; error=destination_ip_prohibited; details="address_denied"',
    )
    closings = [(each["host"], each["verdict"], each["reason"], each["status"]) for each in proxy.closings()]
    assert closings == [("10.0.0.5", "error", "parent_refused", 502), ("10.0.0.6", "deny", "address_denied", 403)]
    assert [each["reason"] for each in parent.decisions()] == ["address_denied"]
    assert f"parent 127.0.0.1:{parent.port}: answers 403 to CONNECT" in proxy.complaints()
    assert origin.connections == 0
    origin.close()


@own_network
def test_squid_as_a_parent(scene: Scene, tmp_path: Path) -> None:
    inner = HttpOrigin(("10.0.0.5",))
    permit = f'[[permit]]\nhost = "10.0.0.5"\nports = [{inner.port}]\nnetworks = ["10.0.0.5/32"]\nreason = "ours"\n'
    folder = tmp_path / "squid"
    folder.mkdir()
    folder.chmod(0o777)
    with squid(tool("squid"), folder, scene.nameserver):
        proxy = scene.start(f"{through(SQUIDS_PORT)}\n{permit}")
        with proxy.connect() as client:
            assert get(client, f"{scene.url}/a").body.startswith(b"you sent GET /a ")
        with proxy.connect() as client:
            assert connect(client, scene.target).status == 200
            client.sendall(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"you sent GET /b" in read_all(client)
        assert refused_connect(proxy, f"10.0.0.5:{inner.port}")[:2] == (502, "parent_refused")
        assert refused_connect(proxy, "10.0.0.6:80")[:2] == (403, "address_denied")
        assert refused_connect(proxy, f"{scene.origin.addresses[0]}:81")[:2] == (502, "parent_refused")
    asked = (folder / "access.log").read_text()
    assert [line.split()[6] for line in asked.splitlines() if "/200 " in line] == [
        f"{scene.origin.addresses[0]}:{scene.origin.port}"
    ] * 2
    assert (scene.origin.connections, inner.connections) == (2, 0)
    inner.close()


# One that is not there, or lies


def test_r12_a_parent_that_is_down_is_502_and_nobody_goes_directly(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    proxy = scene.start(through(port))
    unreachable = (502, "parent_unreachable", 'proxyd; error=connection_refused; details="parent_unreachable"')
    assert refused_connect(proxy, scene.target) == unreachable
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").reason == "parent_unreachable"
    assert refused_connect(proxy, "10.0.0.5:80")[:2] == (403, "address_denied")
    assert scene.origin.connections == 0
    logged = [(each["verdict"], each["reason"], each["status"]) for each in proxy.closings()]
    assert logged == [*[("error", "parent_unreachable", 502)] * 2, ("deny", "address_denied", 403)]
    assert f"parent 127.0.0.1:{port}: Connection refused" in proxy.complaints()
    outcome = proxy.reload(
        proxy.policy.read_text().replace(through(port), "")
    )  # only a policy without it goes directly
    assert outcome["outcome"] == "done"
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200


LIES: Final = {
    "forbidden": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "wants a credential": b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n',
    "elsewhere": b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.5/\r\nContent-Length: 0\r\n\r\n",
    "too many": b"HTTP/1.1 429 Slow Down\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "bad gateway": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "a page that never ends": b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "only a promise": b"HTTP/1.1 100 Continue\r\n\r\n",
    "no head": b"\r\n\r\n",
    "a ghost": b"ICY 200 OK\r\n\r\n",
    "another version": b"HTTP/2 200\r\n\r\n",
    "half a head": b"HTTP/1.1 200 Connection est",
    "silence": b"",
    "a bare line feed": b"HTTP/1.1 200 OK\nX: y\n\n",
    "a fold": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
    "a zero octet": b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    "another proxyd": b"HTTP/1.1 200 OK\r\nProxy-Status: proxyd; error=x\r\n\n",
}


@pytest.mark.parametrize("lie", LIES)
def test_r12_a_parent_that_does_not_say_200_gave_no_tunnel(scene: Scene, parents: Make, lie: str) -> None:
    """Whatever it says: 502 from us, no octet of it, and nothing on a way beside it."""
    parent = parents(says(LIES[lie]))
    proxy = scene.start(through(parent.port))
    with proxy.connect() as client:
        answer = connect(client, scene.target)
    assert (answer.status, answer.reason) == (502, "parent_refused")
    assert answer.fields.keys() <= {
        *("content-type", "content-length", "cache-control", "proxy-status", "connection"),
    }
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").reason == "parent_refused"
    assert parent.connections == 2
    assert scene.origin.connections == 0
    assert {each["reason"] for each in proxy.closings()} == {"parent_refused"}
    assert {head.split(b" ")[1].decode() for head in parent.heads} == {
        f"{scene.origin.addresses[0]}:{scene.origin.port}"
    }


def test_r12_a_parent_that_says_nothing_is_given_up_in_time(scene: Scene, parents: Make) -> None:
    """The client gives up at five seconds; what is said before that is said by us."""
    parent = parents(echo_nothing)
    proxy = scene.start(through(parent.port))
    assert refused_connect(proxy, scene.target)[:2] == (504, "connect_timeout")
    assert scene.origin.connections == 0


def echo_nothing(connection: socket.socket) -> None:
    """Hear everything out, and say nothing."""
    read_all(connection)


@pytest.mark.parametrize(
    "grant",
    [
        ESTABLISHED,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 299 Fine\r\nX-Padding: y\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + ESTABLISHED,
    ],
)
def test_what_comes_with_the_grant_is_the_tunnels_first(scene: Scene, parents: Make, grant: bytes) -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(grant + b"220 early\r\n")
        echo(connection)

    parent = parents(behave)
    proxy = scene.start(through(parent.port))
    with proxy.connect() as client:
        assert connect(client, scene.target).status == 200
        assert read_until(client, b"220 early\r\n")
        client.sendall(b"echoed")
        assert read_until(client, b"echoed")
    assert scene.origin.connections == 0
    assert parent.heads[0].startswith(f"CONNECT {scene.origin.addresses[0]}:{scene.origin.port} HTTP/1.1\r\n".encode())


def test_another_address_is_tried_where_the_parent_cannot_reach_the_first(scene: Scene, parents: Make) -> None:
    """And none after a refusal: it was the parent's decision, and not the network's."""
    for status, tried in ((502, 2), (403, 1)):
        parent = parents(says(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()))
        proxy = scene.start(through(parent.port))
        assert refused_connect(proxy, f"both.test:{scene.origin.port}")[:2] == (502, "parent_refused")
        assert parent.connections == tried
    assert scene.origin.connections == 0


def test_attack_2_17_no_client_reaches_the_parent_itself(scene: Scene, parents: Make) -> None:
    """Not even where a permit opens its address: it would be a proxy that judges nothing."""
    scene.nameserver.zone["way-out.test"] = Says(a=("127.0.0.1",))
    parent = parents(says(ESTABLISHED))
    permit = f'[[permit]]\nhost = "way-out.test"\nports = [{parent.port}]\nnetworks = ["127.0.0.1/32"]\nreason = "x"\n'
    proxy = scene.start(f"{through(parent.port)}\n{permit}")
    assert refused_connect(proxy, f"way-out.test:{parent.port}")[:2] == (403, "address_locked")
    assert refused_connect(proxy, f"127.0.0.1:{parent.port}")[0] == 403
    assert proxy.decisions()[0]["rule"] == "the parent proxy"
    assert parent.connections == 0


# Its credential


def credential(folder: Path, mode: int = 0o600, text: str = f"ours:{PASSWORD}\n") -> str:
    """The key, and the file that it names."""
    file = folder / "parent.credential"
    file.write_text(text)
    file.chmod(mode)
    return 'credential_file = "parent.credential"\n'


def test_r7_the_credential_is_shown_to_the_parent_and_to_nobody_else(scene: Scene, tmp_path: Path) -> None:
    hashed = new_hash(PASSWORD, b"s" * SALT_OCTETS)
    parent = scene.start(f'[[client]]\nname = "child"\n[client.credential]\nuser = "ours"\npassword = "{hashed}"\n')
    proxy = scene.start(through(parent.port, credential(tmp_path)), workers=2)
    proxy.wait_for_start(2)
    said = []
    with proxy.connect() as client:
        said.append(str(get(client, f"{scene.url}/", basic("ours", "theirs"))))
    with proxy.connect() as client:
        assert connect(client, scene.target).status == 200
    assert {each["client"] for each in parent.decisions()} == {"child"}
    credential(tmp_path, text="ours:wrong\n")
    outcome = proxy.reload()
    with proxy.connect() as client:
        wrong = get(client, f"{scene.url}/")
    assert (wrong.status, wrong.reason) == (502, "parent_refused")
    assert "proxy-authenticate" not in wrong.fields
    credential(tmp_path)
    for command in (("check", str(proxy.policy)), ("explain", f"{scene.url}/", "--policy", str(proxy.policy))):
        done = run(*command)
        said += [done.stdout, done.stderr]
    for pid in (proxy.pid, *proxy.workers()):
        said += [Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ", "comm")]
    said += [str(outcome), str(wrong), proxy.audit.read_text(), proxy.complaints()]
    said += [head.decode("latin-1") for head in scene.origin.heads]
    secrets = (PASSWORD, "wörd", "s3cret", "ours:wrong", basic("ours", PASSWORD).rpartition(" ")[2])
    assert [secret for secret in secrets for text in said if secret in text] == []
    assert "answers 407 to CONNECT" in proxy.complaints()


@pytest.mark.parametrize(
    ("mode", "text", "why"),
    [
        (0o644, "a:b", "parent.credential_file: cannot be read: others may read or write it; chmod 0640"),
        (0o602, "a:b", "parent.credential_file: cannot be read: others may read or write it; chmod 0640"),
        (0o600, "s3cret", "parent.credential_file: is no credential; write user:password on one line"),
        (0o600, "s3cret:a\r\nX-Forged: b", "parent.credential_file: is no credential"),
        (0o600, None, "parent.credential_file: cannot be read: No such file or directory"),
    ],
)
def test_r12_a_credential_file_that_will_not_do_is_78(
    scene: Scene, tmp_path: Path, mode: int, text: str | None, why: str
) -> None:
    key = credential(tmp_path, mode, text or "")
    if text is None:
        os.unlink(tmp_path / "parent.credential")  # noqa: PTH108 - as it was made
    plain = scene.start()
    policy = tmp_path / "wrong.toml"
    policy.write_text(plain.policy.read_text() + through(9, key))
    for command in (("--policy", str(policy)), ("check", str(policy))):
        done = run(*command)
        assert done.returncode == 78
        assert why in done.stderr
        assert "s3cret" not in done.stdout + done.stderr


def test_attack_6_4_a_parent_that_would_be_proxyd_itself_is_78(scene: Scene, tmp_path: Path) -> None:
    """One request would come back thousands of times, until time or files run out."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    plain = scene.start()
    policy = tmp_path / "itself.toml"
    policy.write_text(plain.policy.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}") + through(port))
    done = run("--policy", str(policy))
    assert done.returncode == 78
    assert f"parent.address: at 127.0.0.1:{port} proxyd itself listens" in done.stderr
