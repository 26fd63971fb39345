"""A policy taken into use while proxyd runs, by SIGHUP and by `proxyd reload`: all of it, by everybody, or none (R12).

ATTACKS 7.7; DESIGN, "Time and change". What the new policy refuses is cut, whatever it is; what both allow never
notices. What happens to a reload that is disturbed is in `test_reload_disturbed.py`.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.policy.password import SALT_OCTETS, new_hash
from tests import namespace
from tests.end_to_end.asking import answer, basic, connect, get
from tests.end_to_end.daemon import read_all, read_until
from tests.end_to_end.origin import Listener, read_head
from tests.end_to_end.test_workers import at_each, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

    Reload = Callable[[Daemon, str], dict[str, Any]]

pytestmark = pytest.mark.skipif(
    not namespace.isolated, reason="no network of our own: what stands in for public addresses is permitted, not denied"
)

DENY: Final = '\n[[deny]]\nname = "second"\nhosts = ["second.test"]\nreason = "x"\n'


@pytest.fixture
def proxy(scene: Scene, tmp_path: Path) -> Daemon:
    """Two workers, and a control socket."""
    scene.nameserver.zone["second.test"] = scene.nameserver.zone["origin.test"]
    proxy = scene.start(f'[listen]\nhttp = ["127.0.0.1:0"]\ncontrol = "{tmp_path}/control"\n', workers=2)
    proxy.wait_for_start(2)
    return proxy


def command(proxy: Daemon) -> subprocess.CompletedProcess[str]:
    """Run `proxyd reload`."""
    arguments = [sys.executable, "-m", "proxyd", "reload", "--policy", str(proxy.policy)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our own program


def by_command(proxy: Daemon, policy: str) -> dict[str, Any]:
    """Reload with `proxyd reload`, which waits until it is done: what the log has of it."""
    proxy.policy.write_text(policy)
    done = command(proxy)
    assert (done.returncode, done.stderr) == (0, "")
    record = proxy.reloads()[-1]
    changes = "".join(f"{change}\n" for change in record["changes"] or ["nothing changed"])
    assert done.stdout == f"{changes}reloaded: policy test; {record['revoked']} connections cut\n"
    return record


def by_signal(proxy: Daemon, policy: str) -> dict[str, Any]:
    """Reload with SIGHUP."""
    return proxy.reload(policy)


# A good policy


@pytest.mark.parametrize("reload", [by_signal, by_command])
def test_a_good_policy_holds_at_once_at_both_workers(scene: Scene, proxy: Daemon, reload: Reload) -> None:
    """Also for the next request on connections that there were before."""
    workers, before = proxy.workers(), proxy.policy.read_text()
    origin, second = f"{scene.url}/", f"http://second.test:{scene.origin.port}/"
    with ExitStack() as stack:
        clients = at_each(proxy, stack)
        for policy, changes, expected in (
            (before + DENY, ["deny: +second"], (403, "name_denied")),
            (before, ["deny: -second"], (200, "OK")),
            (before, [], (200, "OK")),
        ):
            done = reload(proxy, policy)
            assert (done["outcome"], done["problems"], done["changes"], done["revoked"]) == ("done", [], changes, 0)
            for client in clients:
                assert ((said := get(client, second)).status, said.reason) == expected
                assert get(client, origin).status == 200
            with proxy.connect() as another:
                assert get(another, second).status == expected[0]
            assert {each["digest"] for each in proxy.decisions()[-5:]} == {done["digest"]}
    assert proxy.workers() == workers


@pytest.fixture
def held(scene: Scene) -> Iterator[Listener]:
    """An origin that answers /half with half of a response, and /wait with none, until the test is over."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        head, _ = read_head(connection)
        if b" /half " in head:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        over.wait(600)
        connection.sendall(b"late")

    listener = Listener(serve, scene.origin.addresses[:1])
    yield listener
    over.set()
    listener.close()


def begin(client: socket.socket, url: str) -> None:
    """Ask for something whose answer is yet to come."""
    client.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def web_socket(client: socket.socket, url: str) -> None:
    """Ask for a WebSocket, and get it."""
    assert get(client, url, "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13").status == 101


def echoes(client: socket.socket) -> None:
    """Hold that a WebSocket lives."""
    client.sendall(b"still there")
    assert client.recv(11, socket.MSG_WAITALL) == b"still there"


@pytest.mark.parametrize("reload", [by_signal, by_command])
def test_attack_7_7_what_is_refused_by_now_is_cut_and_the_rest_lives(
    scene: Scene, proxy: Daemon, held: Listener, reload: Reload
) -> None:
    """Tunnels, WebSockets, answers that are under way, and requests that wait for one: at both workers."""
    slow = f"http://second.test:{held.port}"
    with ExitStack() as stack:
        refused = [at_each(proxy, stack) for _ in range(4)]
        kept = [at_each(proxy, stack) for _ in range(2)]
        for tunnel, socket_, half, wait in zip(*refused, strict=True):
            assert connect(tunnel, f"second.test:{scene.origin.port}").status == 200
            web_socket(socket_, f"http://second.test:{scene.origin.port}/ws")
            begin(half, f"{slow}/half")
            read_until(half, b"half")
            begin(wait, f"{slow}/wait")
        for tunnel, socket_ in zip(*kept, strict=True):
            assert connect(tunnel, scene.target).status == 200
            web_socket(socket_, f"{scene.url}/ws")
        until(lambda: held.connections == 4, "they do not arrive")
        done = reload(proxy, proxy.policy.read_text() + DENY)
        assert done["revoked"] == 8
        for tunnel, socket_, half, wait in zip(*refused, strict=True):
            assert (read_all(tunnel), read_all(socket_), read_all(half)) == (b"", b"", b"")
            assert ((said := answer(wait)).status, said.reason) == (403, "revoked")
        for tunnel, socket_ in zip(*kept, strict=True):
            assert get(tunnel, "/inside").status == 200
            echoes(socket_)
    closings = [each for each in proxy.closings() if each["host"] == "second.test"]
    told = sorted((each["outcome"], each["verdict"], each["reason"], each["status"]) for each in closings)
    assert [outcome for outcome, *_ in told] == ["refused"] * 2 + ["revoked"] * 6
    assert [rest for _, *rest in told][:2] == [["deny", "revoked", 403]] * 2
    assert "revoked" not in {each["outcome"] for each in proxy.closings() if each["host"] == "origin.test"}


ONE: Final = '[[client]]\nname = "one"\nnetworks = ["127.0.0.1/32"]\n'
TWO: Final = '[[client]]\nname = "two"\nnetworks = ["127.0.0.2/32"]\n'
OWN: Final = (
    '[client.destinations]\ndefault = "deny"\n[[client.allow]]\nhosts = ["six.test"]\nports = [443]\nreason = "x"\n'
)


@pytest.mark.parametrize("after", [ONE, ONE + TWO + OWN], ids=["an address", "rows of its own"])
def test_attack_7_7_who_may_no_longer_is_cut_and_others_are_not(scene: Scene, after: str) -> None:
    proxy = scene.start(ONE + TWO)
    with proxy.connect() as one, proxy.connect("127.0.0.2") as two, proxy.connect("127.0.0.2") as idle:
        for client in (one, two):
            assert connect(client, scene.target).status == 200
        assert get(idle, f"{scene.url}/").status == 200
        done = proxy.reload(proxy.policy.read_text().replace(ONE + TWO, after))
        assert done["revoked"] == 1
        assert read_all(two) == b""
        assert get(one, "/inside").status == 200
        if after == ONE:
            assert read_all(idle) == b""  # it would have to be refused whatever it asks
        else:
            assert get(idle, f"{scene.url}/").reason == "not_allowlisted"
    assert {each["outcome"] for each in proxy.closings() if each["client"] == "one"} == {"closed"}


def test_attack_7_7_a_credential_that_is_changed_cuts_what_the_old_one_opened(scene: Scene) -> None:
    """And leaves what another client's opened; the connection itself lives, and may show the new one."""
    old, new, other = (str(new_hash(word, b"s" * SALT_OCTETS)) for word in ("old", "new", "other"))
    row = '[[client]]\nname = "{0}"\n[client.credential]\nuser = "{0}"\npassword = "{1}"\n'
    proxy = scene.start(row.format("one", old) + row.format("two", other))
    with proxy.connect() as one, proxy.connect() as two, proxy.connect() as idle:
        assert connect(one, scene.target, basic("one", "old")).status == 200
        assert connect(two, scene.target, basic("two", "other")).status == 200
        assert get(idle, f"{scene.url}/", basic("one", "old")).status == 200
        done = proxy.reload(proxy.policy.read_text().replace(old, new))
        assert (done["changes"], done["revoked"]) == (["client one: credential.password: … -> …"], 1)
        assert read_all(one) == b""
        assert get(two, "/inside").status == 200
        assert get(idle, f"{scene.url}/", basic("one", "old")).status == 407
        assert get(idle, f"{scene.url}/", basic("one", "new")).status == 200


# A bad policy

BAD: Final[dict[str, tuple[Callable[[str], str], str]]] = {
    "syntax": (lambda text: text + "[[deny\n", "is not TOML"),
    "an unknown key": (lambda text: text.replace("[destinations]", "[destination]"), "unknown key"),
    "a test that fails": (
        lambda text: text + '\n[[test]]\nurl = "http://10.0.0.5/"\nexpect = "allow"\n',
        "is denied (address_denied) by rfc1918-private, but expected to be allowed",
    ),
    "half of it": (lambda text: text[: text.index("[[client]]") + 20], "is not TOML"),
    "nothing": (lambda text: "", "is missing"),
    "no such include": (lambda text: text.replace("denylist.toml", "gone.toml"), "cannot be read"),
    "another number of workers": (lambda text: text.replace("workers = 2", "workers = 3"), "restart proxyd"),
    "an address that is not here": (
        lambda text: text.replace('"127.0.0.1:0"]', '"127.0.0.1:0", "[fd77::1]:3128"]').replace(
            "127.0.0.0/8", "fd77::/64"
        ),
        "no such address",
    ),
    "a log that cannot be": (lambda text: text + '\n[audit]\nto = "/nonexistent/folder/log"\n', "audit.to: "),
}


def test_r12_a_bad_policy_leaves_everything_as_it_was_and_says_why(scene: Scene, proxy: Daemon) -> None:
    before, workers = proxy.policy.read_text(), proxy.workers()
    second = f"http://second.test:{scene.origin.port}/"
    with ExitStack() as stack:
        clients = at_each(proxy, stack)
        [tunnel, _] = at_each(proxy, stack)
        assert connect(tunnel, scene.target).status == 200
        digest = proxy.decided()[0]["digest"]
        for case, (spoil, why) in BAD.items():
            refused = proxy.reload(spoil(before) + (DENY if spoil(before) else ""))
            assert refused["outcome"] == "refused", case
            assert any(why in problem for problem in refused["problems"]), (case, refused["problems"])
            assert (refused["digest"], refused["changes"], refused["revoked"]) == (digest, [], 0), case
            assert "reload refused, policy test stays as it was: " in proxy.complaints()
            asked = command(proxy)
            assert asked.returncode == 78, case
            assert why in asked.stderr, case
            assert "Traceback" not in asked.stderr + proxy.complaints()
            assert {get(client, second).status for client in clients} == {200}, case
        assert get(tunnel, "/inside").status == 200
        assert {each["digest"] for each in proxy.decided()} == {digest}
        assert proxy.workers() == workers
        assert proxy.reload(before + DENY)["outcome"] == "done"
        assert {get(client, second).status for client in clients} == {403}


def test_a_policy_that_is_gone_is_no_policy(scene: Scene, proxy: Daemon) -> None:
    proxy.policy.rename(proxy.policy.with_suffix(".away"))
    refused = proxy.reload()
    assert refused["outcome"] == "refused"
    assert "cannot be read" in refused["problems"][0]
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200


# Who may ask


@pytest.mark.usefixtures("accounts")
def test_only_root_and_its_own_account_are_heard(
    scene: Scene, proxy: Daemon, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The socket's file keeps others out; and who gets past that is known by the kernel, and not heard."""
    assert (tmp_path / "control").stat().st_mode & 0o777 == 0o600
    proxy.policy.write_text(proxy.policy.read_text() + DENY)
    request.getfixturevalue("unprivileged")  # from now on; with the right to pass over a file's mode
    asked = command(proxy)
    assert asked.returncode == 69
    assert "no answer" in asked.stderr
    assert proxy.reloads() == []
    with proxy.connect() as client:
        assert get(client, f"http://second.test:{scene.origin.port}/").status == 200


def test_nobody_there_to_ask_is_69_and_no_control_socket_78(scene: Scene, proxy: Daemon, tmp_path: Path) -> None:
    proxy.stop()
    assert not (tmp_path / "control").exists()
    asked = command(proxy)
    assert (asked.returncode, asked.stderr.count("\n")) == (69, 1)
    plain = command(scene.start())
    assert plain.returncode == 78
    assert "or send it SIGHUP" in plain.stderr
