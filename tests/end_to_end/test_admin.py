"""The admin listener of the real daemon: who gets there, and that nobody ever does through the proxy itself.

ATTACKS 2.17 and 7.1: the token is known to the client here, and every policy that could open a way is tried. What it
tells is in test_metrics.py.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests import namespace
from tests.end_to_end.daemon import files_of, read_all, status
from tests.end_to_end.nameserver import Says
from tests.end_to_end.origin import Listener
from tests.end_to_end.scraping import SHOWN, TOKEN, Scraper, at_loopback, at_unix, until
from tests.end_to_end.starting import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

own_network = pytest.mark.skipif(not namespace.isolated, reason="no network of our own: there is no such address here")

LITERALS: Final = (
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "[::1]", "0.0.0.0", "[::]", "0", "127.1", "2130706433"),
    *("0x7f000001", "0177.0.0.1", "127.0.0.1.", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
    *("[::ffff:0:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[64:ff9b:1:7f00:0:100::]", "[2002:7f00:1::1]"),
    *("[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[2606:4700::5efe:7f00:1]", "[::1%25lo]", "[::1%lo]"),
)
NAMES: Final = {
    "here.test": Says(a=("127.0.0.1",)),
    "here6.test": Says(aaaa=("::1",)),
    "both-here.test": Says(a=("127.0.0.1",), aaaa=("::1",)),
    "mapped.test": Says(aaaa=("::ffff:127.0.0.1",)),
    "nat64.test": Says(aaaa=("64:ff9b::7f00:1",)),
    "unspecified.test": Says(a=("0.0.0.0",), aaaa=("::",)),
    "mixed.test": Says(a=("127.0.0.1", namespace.origin_4())),
    "chain.test": Says(cname="here.test"),
    "rebinding.test": Says(a=(namespace.origin_4(),), ttl=0, then=Says(a=("127.0.0.1",), ttl=0)),
    "own.test": Says(a=(namespace.ORIGIN_4,), aaaa=(namespace.ORIGIN_6,)),
}
LOCAL: Final = ("localhost", "LOCALHOST.", "localhost.localdomain", "x.localhost", *NAMES)
OWN: Final = (namespace.ORIGIN_4, namespace.OTHER_4, f"[{namespace.ORIGIN_6}]", "10.0.0.5", "169.254.169.254")
"""This host's other addresses: nobody listens there, and it is not even tried."""


def permits(port: int) -> str:
    """All that could be meant to open it, as far as a policy takes it: each host, this very port, all that is here."""
    rows = [(name, f"{port}") for name in NAMES]
    rows += [(host, '"1024-65535"') for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost", "x.localhost")]
    rows += [(host.strip("[]"), f"{port}") for host in OWN[:3]]
    networks = '"127.0.0.0/8", "::1/128", "64:ff9b::/96", "10.0.0.0/8", "93.184.216.0/24", "2606:2800::/32"'
    return "".join(
        f'[[permit]]\nhost = "{host}"\nports = [{ports}]\nnetworks = [{networks}]\nreason = "metrics"\n'
        for host, ports in rows
    )


POLICIES: Final = {
    "plain": "",
    "permits": "{permits}",
    "ports": '[destinations]\ndefault = "allow"\nports = [{port}]\n{permits}',
    "report": '[destinations]\ndefault = "deny"\nmode = "report"\n{permits}',
    "allowlist": '[destinations]\ndefault = "deny"\n[[allow]]\nhosts = ["*.test", "here.test"]\n'
    'ports = [{port}]\nreason = "x"\n{permits}',
    "client": '[[client]]\nname = "tester"\nnetworks = ["127.0.0.0/8"]\ndestinations = {{ports = [{port}]}}\n{permits}',
    "parent": '[parent]\naddress = "127.0.0.1:{parent}"\n{permits}',
}


@pytest.fixture
def parent() -> Iterator[Listener]:
    """A parent that would connect to whatever it is asked for: it must be asked for nothing."""
    listener = Listener(lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n"), ("127.0.0.1",))
    yield listener
    listener.close()


def requests(host: str, port: int) -> Iterator[bytes]:
    """Every way to ask for it."""
    where = f"{host}:{port}"
    yield f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()
    yield f"GET http://{where}/metrics HTTP/1.1\r\nHost: {where}\r\n{SHOWN}\r\n\r\n".encode()
    yield (
        f"GET http://{where}/metrics HTTP/1.1\r\nHost: {where}\r\n{SHOWN}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def attack(proxy: Daemon, port: int) -> list[tuple[bytes, bytes]]:
    """Ask for it in every spelling and way there is: each request with its answer."""
    tried = []
    for host in (*LITERALS, *LOCAL, *OWN):
        for request in requests(host, port):
            with proxy.connect() as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                tried.append((request, read_all(client)))
    return tried


@own_network
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("which", POLICIES)
def test_attack_7_1_nobody_gets_there_through_the_proxy(
    scene: Scene, tmp_path: Path, parent: Listener, host: str, which: str
) -> None:
    """By no spelling and in no way, whatever the policy permits; nor after a reload."""
    scene.nameserver.zone |= NAMES
    admin, scraper = at_loopback(tmp_path, host)
    port = int(scraper.where[1])
    extra = POLICIES[which].format(permits=permits(port), port=port, parent=parent.port)
    proxy = scene.start(extra + admin)
    reached = parent.connections
    for turn in range(2):
        scene.nameserver.zone["rebinding.test"] = NAMES["rebinding.test"]
        tried = attack(proxy, port)
        wrong = [each for each in tried if status(each[1]) not in (400, 403) or b"proxyd_" in each[1]]
        assert wrong == []
        assert len(tried) == 3 * (len(LITERALS) + len(LOCAL) + len(OWN))
        if turn == 0:
            assert proxy.reload(proxy.policy.read_text() + "# the same\n")["outcome"] == "done"
    reasons = {
        (each["host"], each["reason"]) for each in proxy.decisions() if each["host"] in ("here.test", "127.0.0.1")
    }
    if which != "plain":
        assert reasons == {("here.test", "address_locked"), ("127.0.0.1", "address_locked")}
    assert parent.connections == reached == 0
    assert scraper.samples()["proxyd_connections_total"] >= 1, "who may asks all the same"


@own_network
def test_attack_7_1_the_canary_sings(scene: Scene, tmp_path: Path) -> None:
    """What those attacks would find where something listens that is not ours: with the same permits it is reached."""
    scene.nameserver.zone |= NAMES
    admin, scraper = at_loopback(tmp_path)
    canary = Listener(lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nproxyd_canary"), ("127.0.0.1",))
    proxy = scene.start(permits(canary.port) + admin)
    reached = {request.split(b" ")[1] for request, answer in attack(proxy, canary.port) if status(answer) == 200}
    canary.close()
    for host in ("127.0.0.1", "localhost", "here.test"):
        assert f"{host}:{canary.port}".encode() in reached
        assert f"http://{host}:{canary.port}/metrics".encode() in reached
    assert scraper.ready()[0] in (200, 503)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "here.test"])
def test_attack_7_8_explain_says_that_it_is_locked(scene: Scene, tmp_path: Path, host: str) -> None:
    """As the daemon does; and that nothing opens it."""
    admin, scraper = at_loopback(tmp_path)
    proxy = scene.start(permits(int(scraper.where[1])) + admin)
    told = run(
        *("explain", f"http://{host}:{scraper.where[1]}/metrics", "--policy", str(proxy.policy)),
        *(("--address", "127.0.0.1") if host == "here.test" else ()),
    )
    assert told.returncode == 1
    assert "address_locked" in told.stdout
    assert "[[permit]]" not in told.stdout


# Who gets there


def test_r2_on_loopback_who_knows_the_token_gets_there_and_a_reload_takes_another_into_use(
    scene: Scene, tmp_path: Path
) -> None:
    """R12: a reload that could not read it keeps the old one."""
    admin, scraper = at_loopback(tmp_path)
    proxy = scene.start(admin)
    wrong = (
        (),
        (SHOWN, SHOWN),
        (SHOWN[:-1],),
        (f"{SHOWN}x",),
        (f"Proxy-{SHOWN}",),
        (SHOWN.replace("Bearer", "Basic"),),
    )
    other = TOKEN[::-1]

    def asked(*fields: str) -> int:
        return Scraper(scraper.where, fields).ask("/metrics")[0]

    assert [asked(*fields) for fields in wrong] == [401] * len(wrong)
    assert [asked(SHOWN), asked(SHOWN.replace("Bearer", "bearer"))] == [200, 200]
    (tmp_path / "token").write_text(other)
    assert asked(SHOWN) == 200
    assert proxy.reload()["outcome"] == "done"
    assert [asked(SHOWN), asked(f"Authorization: Bearer {other}")] == [401, 200]
    for spoil in (lambda: (tmp_path / "token").write_text("short"), (tmp_path / "token").unlink):
        spoil()
        assert proxy.reload()["outcome"] == "refused"
        assert [asked(SHOWN), asked(), asked(f"Authorization: Bearer {other}")] == [401, 401, 200]


@pytest.mark.usefixtures("accounts")
def test_r2_a_unix_socket_is_its_accounts_and_another_gets_nothing_though_its_mode_lets_it(
    scene: Scene, tmp_path: Path
) -> None:
    admin, scraper = at_unix(tmp_path)
    scene.start(admin)
    path = Path(str(scraper.where))
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in path.parents[:-2]:
        folder.chmod(0o755)
    assert _as_nobody(path) == "not permitted"
    path.chmod(0o777)
    assert _as_nobody(path) == "nothing"
    assert scraper.ask("/healthz") == (200, "ok\n")


def _as_nobody(path: Path) -> str:
    """What another account gets there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"failed"
        try:
            os.setuid(65534)
            with Scraper(str(path)).begin("/metrics") as sock:
                said = sock.recv(100) or b"nothing"
        except PermissionError:
            said = b"not permitted"
        except (BrokenPipeError, ConnectionResetError):
            said = b"nothing"
        finally:
            os.write(writing, said)
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as file:
        return file.read()


def test_r7_the_token_is_nowhere_but_in_its_file(scene: Scene, tmp_path: Path) -> None:
    """In no log, no line, no metric, no command line or environment; and no worker has it in its memory."""
    admin, scraper = at_loopback(tmp_path)
    proxy = scene.start(admin, workers=2)
    proxy.wait_for_start(2)
    for fields in ((SHOWN,), (f"{SHOWN}x",)):
        Scraper(scraper.where, fields).ask("/metrics")
    assert proxy.reload()["outcome"] == "done"
    until(lambda: scraper.ready()[0] == 200, "it is not ready")
    told = [proxy.audit.read_text(), proxy.complaints(), scraper.ask("/metrics")[1], proxy.policy.read_text()]
    for pid in (proxy.pid, *proxy.workers()):
        told += [Path(f"/proc/{pid}/{each}").read_bytes().decode("latin-1") for each in ("cmdline", "environ")]
    assert [each for each in told if TOKEN in each] == []
    assert TOKEN.encode() in b"".join(_memory(proxy.pid)), "or nothing would be found anywhere"
    for worker in proxy.workers():
        assert TOKEN.encode() not in b"".join(_memory(worker))


def _memory(pid: int) -> Iterator[bytes]:
    """What a process has in its memory and may write (proc(5))."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, mode, *_ = line.split()
            begin, end = (int(each, 16) for each in where.split("-"))
            if mode.startswith("rw") and "memfd" not in line:
                memory.seek(begin)
                yield memory.read(end - begin) or b""


def test_attack_7_1_no_worker_has_a_socket_of_it(scene: Scene, tmp_path: Path) -> None:
    """Also not one that began while somebody was there."""
    admin, scraper = at_unix(tmp_path)
    proxy = scene.start(admin, workers=2)
    until(lambda: scraper.ready()[0] == 200, "it is not ready")
    with scraper.connect():
        os.kill(proxy.workers()[0], 9)
        until(lambda: scraper.samples()["proxyd_worker_deaths_total"] == 1, "its death is not told")
        until(lambda: scraper.ready()[0] == 200, "it is not replaced")
        table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        own = {f"socket:[{line[6]}]" for line in table if line[7:] == [scraper.where]}
        assert len(own) == 2, "the listener, and whoever is there"
        assert own <= set(files_of(proxy.pid).values())
        for worker in proxy.workers():
            assert not own & set(files_of(worker).values())


# What stops the start, and a reload


@pytest.mark.parametrize(
    ("listen", "token", "said"),
    [
        ("0.0.0.0:9128", TOKEN, 'write "127.0.0.1:9128"'),
        ("127.0.0.1:0", TOKEN, 'write "127.0.0.1:9128"'),
        ("systemd", TOKEN, 'write "127.0.0.1:9128" or "unix:/run/proxyd/admin"'),
        ("127.0.0.1:9128", None, "No such file or directory"),
        ("127.0.0.1:9128", "short", "`openssl rand -hex 32` makes one"),
        ("127.0.0.1:3128", TOKEN, "choose another"),
    ],
)
def test_r12_what_will_not_do_is_78_with_the_way_out(tmp_path: Path, listen: str, token: str | None, said: str) -> None:
    path = tmp_path / "token"
    if token is not None:
        path.touch(0o600)
        path.write_text(token)
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'schema = 1\nname = "p"\n[listen]\nhttp = ["127.0.0.1:3128"]\n[destinations]\ndefault = "allow"\n'
        '[dns]\nservers = ["127.0.0.1"]\n[[client]]\nname = "a"\nnetworks = ["127.0.0.0/8"]\n'
        f'[admin]\nlisten = "{listen}"\ntoken_file = "{path}"\n'
    )
    ended = run("--policy", str(policy))
    assert ended.returncode == 78
    assert said in ended.stderr
    assert TOKEN not in ended.stderr


def test_r12_a_reload_that_moves_it_is_refused_and_it_stays(scene: Scene, tmp_path: Path) -> None:
    admin, scraper = at_unix(tmp_path)
    proxy = scene.start(admin)
    text = proxy.policy.read_text()
    for other in (text.replace(admin, ""), text.replace("/admin", "/other")):
        assert proxy.reload(other)["problems"] == ["admin.listen: a reload cannot change it; restart proxyd"]
    assert scraper.ask("/healthz")[0] == 200
    assert proxy.reload(text)["outcome"] == "done"
