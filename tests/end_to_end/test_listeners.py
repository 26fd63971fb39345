"""Unix sockets and TLS: whom a listener lets in, and that everything is served there as at any other (R1, R2, R4)."""

from __future__ import annotations

import grp
import http.client
import os
import pwd
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.adversarial.tls import certificates
from tests.end_to_end.asking import answer, connect, get
from tests.end_to_end.daemon import PATIENCE, read_all, read_until, ticks
from tests.end_to_end.origin import Listener
from tests.end_to_end.starting import need_accounts, run
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

OURS: Final = pwd.getpwnam("nobody")
ANOTHER: Final = 40_002
ALSO_PLAIN: Final = "127.0.0.1:0"
UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==")
CANNOT_CONNECT: Final = 7  # curl(1), exit codes
NOT_TRUSTED: Final = 60


def curl(*arguments: str, account: tuple[int, int] | None = None) -> subprocess.CompletedProcess[str]:
    """Run curl, as a process of some account: the statuses of the proxy and of the origin are at the end of stdout."""
    said = ("-sS", "-m", "60", "-o", os.devnull, "-w", "%{http_connect} %{http_code}")
    command = [tool("curl"), "-q", *said, *arguments]
    if account is None:
        return subprocess.run(command, capture_output=True, check=False, text=True)  # noqa: S603 - a fixed program
    user, group = account
    return subprocess.run(  # noqa: S603 - a fixed program
        command, capture_output=True, check=False, text=True, user=user, group=group, extra_groups=[]
    )


# Unix sockets


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a Unix socket may be, in a folder that other accounts may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder / "proxyd.sock"
    shutil.rmtree(folder)


def on_unix(path: Path, more: str = "", client: str = f"users = [{os.getuid()}]") -> str:
    """A policy that listens there too, for one client."""
    return f'[listen]\nhttp = ["{ALSO_PLAIN}", "unix:{path}"]\n{more}\n[[client]]\nname = "agent"\n{client}\n'


def at(path: Path) -> socket.socket:
    """A client's connection to a Unix socket."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    return client


def ask_at(path: Path, url: str, account: tuple[int, int] | None = None) -> subprocess.CompletedProcess[str]:
    """Ask for a URL there, with curl."""
    return curl("--unix-socket", str(path), "--request-target", url, "http://proxy/", account=account)


def test_r4_everything_is_served_over_a_unix_socket_and_refused_as_anywhere(scene: Scene, path: Path) -> None:
    proxy = scene.start(on_unix(path))
    assert ask_at(path, f"{scene.url}/").stdout == "000 200"
    with at(path) as client:
        assert get(client, f"{scene.url}/").body.startswith(b"you sent GET / ")
        assert get(client, "http://10.0.0.5/").reason == "address_denied"
        assert connect(client, "169.254.169.254:80").reason == "address_locked"
    with at(path) as client:
        assert connect(client, scene.target).status == 200
        client.sendall(b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"you sent GET /inner" in read_all(client)
    with at(path) as client:
        assert get(client, f"{scene.url}/", *UPGRADE).status == 101
        client.sendall(b"echoed")
        assert read_until(client, b"echoed")
    assert scene.origin.connections == 4
    known = {(each["client"], each["client_address"], each["user"]) for each in proxy.decisions()}
    assert known == {("agent", None, str(os.getuid()))}


def test_r2_the_account_at_the_other_end_of_a_unix_socket_decides(scene: Scene, path: Path) -> None:
    """SO_PEERCRED: nobody is the client, root and another account are not, whatever the mode lets in."""
    need_accounts()
    proxy = scene.start(on_unix(path, 'unix_mode = "0666"', 'users = ["nobody"]'))
    for account, expected in (
        ((OURS.pw_uid, OURS.pw_gid), "000 200"),
        ((ANOTHER, ANOTHER), "000 403"),
        (None, "000 403"),
    ):
        assert ask_at(path, f"{scene.url}/", account).stdout == expected, account
    assert scene.origin.connections == 1
    known = [(each["client"], each["user"], each["reason"]) for each in proxy.decisions()]
    unknown = [(None, user, "client_unknown") for user in (str(ANOTHER), "0")]
    assert known == [("agent", "nobody", None), *unknown]


def test_r2_the_peer_of_a_unix_socket_has_no_address_that_a_network_could_hold(scene: Scene, path: Path) -> None:
    """Also not 127.0.0.0/8; who comes over TCP is known by his, and not by the first client's account."""
    networks = 'users = [7]\n[[client]]\nname = "tcp"\nnetworks = ["127.0.0.0/8", "::/0"]'
    proxy = scene.start(on_unix(path, client=networks))
    with at(path) as client:
        assert connect(client, scene.target, "X-Forwarded-For: 127.0.0.1").reason == "client_unknown"
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200
    assert [each["client"] for each in proxy.decisions()] == [None, "tcp"]


@pytest.mark.parametrize(
    ("more", "mode", "lets_in"),
    [
        ("", 0o600, ""),
        ('unix_mode = "0660"\nunix_group = "{group}"', 0o660, "group"),
        ('unix_mode = "0666"', 0o666, "all"),
    ],
)
def test_r2_the_mode_and_the_group_of_a_unix_socket_are_the_policys(
    scene: Scene, path: Path, more: str, mode: int, lets_in: str
) -> None:
    need_accounts()
    group = grp.getgrgid(OURS.pw_gid)
    everyone = f'users = ["nobody", {ANOTHER}]'
    scene.start(on_unix(path, more.format(group=group.gr_name), everyone))
    assert path.stat().st_mode & 0o7777 == mode
    assert path.stat().st_gid == (group.gr_gid if lets_in == "group" else os.getgid())
    for account, welcome in (
        ((ANOTHER, group.gr_gid), lets_in in ("group", "all")),
        ((ANOTHER, ANOTHER), lets_in == "all"),
    ):
        done = ask_at(path, f"{scene.url}/", account)
        assert (done.returncode, done.stdout) == ((0, "000 200") if welcome else (CANNOT_CONNECT, "000 000")), account


def test_r12_a_reload_that_narrows_the_mode_of_a_unix_socket_narrows_it_or_is_refused(scene: Scene, path: Path) -> None:
    """A policy that says 0600 while the socket lets everybody in would be a lie (ATTACKS 7.7)."""
    proxy = scene.start(on_unix(path, 'unix_mode = "0666"'))
    outcome = proxy.reload(proxy.policy.read_text().replace("0666", "0600"))
    assert outcome["outcome"] == "refused" or path.stat().st_mode & 0o777 == 0o600


def test_r12_a_group_that_this_host_has_not_is_78_and_a_socket_in_use_is_69(scene: Scene, path: Path) -> None:
    proxy = scene.start(on_unix(path))
    again = run("--policy", str(proxy.policy))
    assert (again.returncode, path.exists()) == (69, True)
    assert f"listen.http[1]: unix:{path}: somebody listens there already" in again.stderr
    with at(path) as client:
        assert get(client, f"{scene.url}/").status == 200
    wrong = proxy.policy.with_name("group.toml")
    wrong.write_text(proxy.policy.read_text().replace(f'{path}"]', f'{path}2"]\nunix_group = "no-such-group"'))
    done = run("--policy", str(wrong))
    assert (done.returncode, path.with_name("proxyd.sock2").exists()) == (78, False)
    assert "listen.unix_group: this host has no such group" in done.stderr


def test_a_socket_that_a_killed_proxyd_left_is_taken_over_and_removed_in_the_end(scene: Scene, path: Path) -> None:
    first = scene.start(on_unix(path))
    first.signal(signal.SIGKILL)
    first.wait()
    next(None for _ in ticks() if _nobody_listens(path))  # its worker hears of it, and drains
    assert path.exists()
    second = scene.start(on_unix(path))
    with at(path) as client:
        assert get(client, f"{scene.url}/").status == 200
    assert second.stop() == 0
    assert not path.exists()


def _nobody_listens(path: Path) -> bool:
    try:
        at(path).close()
    except ConnectionRefusedError:
        return True
    return False


# TLS


class Secured:
    """A daemon that speaks TLS to clients at 127.0.0.2, and a client's side of it."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.certificate, self.key = folder / "origin.pem", folder / "origin.key"
        self.authority = certificates(folder, ["proxy.test"], ["127.0.0.2"]).authority
        files = f'certificate = "{self.certificate}"\nprivate_key = "{self.key}"\n'
        self.daemon: Daemon = scene.start(f'[listen]\nhttp = ["{ALSO_PLAIN}"]\nhttps = ["127.0.0.2:0"]\n{files}')
        self.daemon.wait_for_start()  # the worker has read them too
        self.port = int(self.daemon.complaints().partition("tls 127.0.0.2:")[2].partition(";")[0])
        self.url = f"https://127.0.0.2:{self.port}"

    def connect(self, authority: Path | None = None) -> ssl.SSLSocket:
        """A client's connection that trusts one authority, and says so with ALPN."""
        context = ssl.create_default_context(cafile=authority or self.authority)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context.wrap_socket(self.plain(), server_hostname="127.0.0.2")

    def plain(self) -> socket.socket:
        """A connection on which nothing has been said."""
        return socket.create_connection(("127.0.0.2", self.port), PATIENCE)


@pytest.fixture
def secured(scene: Scene, tmp_path: Path) -> Secured:
    """The daemon, with a certificate for 127.0.0.2."""
    return Secured(scene, tmp_path)


def test_curl_with_an_https_proxy(scene: Scene, secured: Secured) -> None:
    through = ("-x", secured.url, "--proxy-cacert", str(secured.authority))
    for arguments, expected in (
        ((f"{scene.url}/",), "000 200"),
        (("-p", f"{scene.url}/"), "200 200"),
        (("http://10.0.0.5/",), "000 403"),
        (("-p", "http://10.0.0.5/"), "403 000"),
    ):
        assert curl(*through, *arguments).stdout == expected, arguments
    assert [each["reason"] for each in secured.daemon.decisions()] == [None, None, "address_denied", "address_denied"]
    untrusting = curl("-x", secured.url, f"{scene.url}/")
    assert (untrusting.returncode, scene.origin.connections) == (NOT_TRUSTED, 2)


def test_python_with_an_https_proxy(scene: Scene, secured: Secured) -> None:
    plain = http.client.HTTPSConnection(
        "127.0.0.2", secured.port, context=ssl.create_default_context(cafile=secured.authority), timeout=PATIENCE
    )
    for url, expected in ((f"{scene.url}/", 200), ("http://169.254.169.254/", 403), (f"{scene.url}/again", 200)):
        plain.request("GET", url)
        response = plain.getresponse()
        response.read()
        assert response.status == expected
    plain.close()
    with secured.connect() as client:
        assert client.selected_alpn_protocol() == "http/1.1"
        assert connect(client, scene.target).status == 200
        client.sendall(b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"you sent GET /inner" in read_all(client)
    with secured.connect() as client:
        assert connect(client, "10.0.0.5:80").reason == "address_denied"
        assert client.recv(1) == b""
    with secured.connect() as client:
        assert get(client, f"{scene.url}/", *UPGRADE).status == 101
        for octets in (b"a", b"b" * 300_000):
            client.sendall(octets)
            assert len(_exactly(client, len(octets))) == len(octets)


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := client.recv(65536)):
        data += piece
    return data


_NODE: Final = """
const https = require("https"), fs = require("fs");
const [port, authority, target] = process.argv.slice(1);
const proxy = { host: "127.0.0.2", port, ca: fs.readFileSync(authority), agent: false };
const ask = (options) => new Promise((told, failed) => {
  const request = https.request({ ...proxy, ...options });
  request.on("response", (response) => response.resume().on("end", () => told(`${response.statusCode}`)));
  request.on("connect", (response, socket) => {
    if (response.statusCode !== 200) { socket.destroy(); return told(`connect ${response.statusCode}`); }
    socket.write("GET /inner HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n");
    socket.once("data", (data) => { socket.destroy(); told(`connect ${/you sent GET .inner/.test(data)}`); });
  });
  request.on("upgrade", (response, socket) => {
    socket.write("echoed");
    socket.once("data", (data) => { socket.destroy(); told(`upgrade ${data}`); });
  });
  request.on("error", failed);
  request.end();
});
const upgrade = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Key": "eA==" };
(async () => {
  console.log(await ask({ path: `http://${target}/` }));
  console.log(await ask({ method: "CONNECT", path: target }));
  console.log(await ask({ path: `http://${target}/`, headers: upgrade }));
  console.log(await ask({ path: "http://10.0.0.5/" }));
  console.log(await ask({ method: "CONNECT", path: "10.0.0.5:80" }));
  console.log(await ask({ path: `http://${target}/`, ca: [] }).catch((error) => error.code));
})();
"""


def test_node_with_an_https_proxy(scene: Scene, secured: Secured) -> None:
    command = [tool("node"), "-e", _NODE, str(secured.port), str(secured.authority), scene.target]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=PATIENCE)  # noqa: S603 - our own words
    said = ["200", "connect true", "upgrade echoed", "403", "connect 403", "UNABLE_TO_VERIFY_LEAF_SIGNATURE"]
    assert (done.stdout.split("\n")[:-1], done.stderr) == (said, "")
    assert scene.origin.connections == 3


def test_a_certificate_is_replaced_by_a_reload_and_nothing_that_runs_ends(
    scene: Scene, secured: Secured, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    new = certificates(tmp_path / "new", ["proxy.test"], ["127.0.0.2"]).authority
    with secured.connect() as client:
        assert get(client, f"{scene.url}/", *UPGRADE).status == 101
        for name in ("origin.pem", "origin.key"):
            shutil.copy(tmp_path / "new" / name, tmp_path / name)
        secured.connect().close()  # until the reload the one that is held
        assert secured.daemon.reload()["outcome"] == "done"
        with secured.connect(new) as another:
            assert get(another, f"{scene.url}/").status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            secured.connect()
        client.sendall(b"still here")
        assert read_until(client, b"still here")


@pytest.mark.parametrize("spoil", ["garbage", "another key", "readable"])
def test_r12_a_certificate_that_will_not_do_is_refused_and_the_old_one_stays(
    scene: Scene, secured: Secured, tmp_path: Path, spoil: str
) -> None:
    (tmp_path / "new").mkdir()
    certificates(tmp_path / "new", ["proxy.test"], ["127.0.0.2"])
    if spoil == "readable":
        secured.key.chmod(0o644)
    else:
        key = (tmp_path / "new" / "origin.key").read_text() if spoil == "another key" else "-----BEGIN"
        secured.key.write_text(key)
    outcome = secured.daemon.reload()
    assert (outcome["outcome"], outcome["problems"][0].partition(" ")[0]) == ("refused", "listen.private_key:")
    with secured.connect() as client:
        assert get(client, f"{scene.url}/").status == 200
    assert run("--policy", str(secured.daemon.policy)).returncode == 78


def test_attack_8_a_client_that_breaks_off_in_a_tunnel_is_missed_though_its_origin_does_not_read(
    scene: Scene, secured: Secured
) -> None:
    """Nobody reads the client while what it sent is not taken: the tunnel stood for the idle hour."""
    over = threading.Event()

    def read_nothing(_: socket.socket) -> None:
        over.wait()

    origin = Listener(read_nothing, scene.origin.addresses)
    with secured.connect() as client:
        assert connect(client, f"{origin.addresses[0]}:{origin.port}").status == 200
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(100 << 20))  # more than the kernel takes (tcp_rmem, tcp_wmem)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    missed = any((last := secured.daemon.lines()[-1])["event"] == "close" for _ in ticks())
    over.set()
    origin.close()
    assert (missed, last.get("outcome")) == (True, "reset")


def test_who_does_not_speak_tls_at_its_port_gets_no_http_and_reaches_nobody(scene: Scene, secured: Secured) -> None:
    request = f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    for octets in (request, b"\x16\x03\x01\x00\x05hello", b"\0" * 600):
        with secured.plain() as client:
            client.sendall(octets)
            assert b"HTTP/" not in _until_gone(client), octets
    with secured.plain() as client:
        client.shutdown(socket.SHUT_WR)
        assert b"HTTP/" not in _until_gone(client)
    assert (scene.origin.connections, secured.daemon.records()) == (0, [])
    with secured.connect() as client:
        client.sendall(request)
        assert answer(client).status == 200


def _until_gone(client: socket.socket) -> bytes:
    """Everything until the other side ends, be it with a reset."""
    try:
        return read_all(client)
    except ConnectionResetError:
        return b""
