"""Who a client is: what the kernel says of its connection and what only it can know, and nothing that it claims (R2).

ATTACKS 4.11, 7.2; MISSION R7. Accounts are those of real processes; a connection that is closed before anybody looked
whose it is belongs to nobody, not to root, which is what the kernel's table says of it.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.policy.password import SALT_OCTETS, new_hash
from tests.end_to_end.asking import basic, connect, get
from tests.end_to_end.daemon import Daemon, read_all, status
from tests.end_to_end.test_workers import stopped, until
from tests.tools import give_up, tool

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Scene

OURS: Final = pwd.getpwnam("nobody").pw_uid
ANOTHER: Final = 40_002
PASSWORD: Final = "p:a@ss %wörd"  # noqa: S105 - planted, to be looked for
QUOTED: Final = "p%3Aa%40ss%20%25w%C3%B6rd"
HASH: Final = str(new_hash(PASSWORD, b"s" * SALT_OCTETS))

BY_ACCOUNT: Final = '[[client]]\nname = "agent"\nusers = ["nobody"]\n'
BY_CREDENTIAL: Final = f'[[client]]\nname = "agent"\n[client.credential]\nuser = "agent"\npassword = "{HASH}"\n'
OTHERS_OF_THIS_HOST: Final = '[[client]]\nname = "others"\nnetworks = ["127.0.0.0/8"]\n'
BY_BOTH: Final = BY_CREDENTIAL.replace("[client.credential]", 'users = ["nobody"]\n[client.credential]')

CLAIMS: Final = (
    "X-Forwarded-User: nobody",
    "X-Forwarded-For: 127.0.0.1",
    "Forwarded: for=127.0.0.1;by=nobody",
    f"X-Remote-User: {OURS}",
    "Via: 1.1 nobody",
    "Authorization: Basic bm9ib2R5Og==",
    basic("nobody", ""),
    basic("agent", PASSWORD),
)


def curl(proxy: Daemon, *arguments: str, account: int | None = None) -> str:
    """Run curl, as a process of some account: the statuses of the proxy and of the origin, and the body."""
    said = ("-w", "%{http_connect} %{http_code} ", "-sS", "-m", "60", "-x", f"http://127.0.0.1:{proxy.port}")
    command = [tool("curl"), "-q", *said, *arguments]
    if account is None:
        return subprocess.run(command, capture_output=True, check=False, text=True).stdout  # noqa: S603 - a fixed program
    done = subprocess.run(  # noqa: S603 - a fixed program
        command, capture_output=True, check=False, text=True, user=account, group=account, extra_groups=[]
    )
    return done.stdout


# Accounts


@pytest.mark.usefixtures("accounts")
def test_r2_the_account_of_a_process_decides_and_is_on_record(scene: Scene) -> None:
    proxy = scene.start(BY_ACCOUNT)
    assert curl(proxy, f"{scene.url}/", account=OURS) == "you sent GET / HTTP/1.1 and 0 octets000 200 "
    assert curl(proxy, "-p", f"{scene.url}/", account=OURS) == "you sent GET / HTTP/1.1 and 0 octets200 200 "
    for account in (ANOTHER, 0):
        assert curl(proxy, "-o", os.devnull, f"{scene.url}/", account=account) == "000 403 "
        assert curl(proxy, "-p", f"{scene.url}/", account=account) == "403 000 "
    assert scene.origin.connections == 2
    known = [(each["client"], each["user"], each["reason"]) for each in proxy.decisions()]
    assert known == [
        *[("agent", "nobody", None)] * 2,
        *[(None, str(ANOTHER), "client_unknown")] * 2,
        *[(None, "0", "client_unknown")] * 2,
    ]


@pytest.mark.usefixtures("accounts")
def test_attack_7_2_nothing_that_another_account_claims_makes_it_ours(scene: Scene) -> None:
    proxy = scene.start(BY_ACCOUNT)
    for claim in CLAIMS:
        assert curl(proxy, "-o", os.devnull, "-H", claim, f"{scene.url}/", account=ANOTHER) == "000 403 ", claim
        assert curl(proxy, "-p", "--proxy-header", claim, f"{scene.url}/", account=ANOTHER) == "403 000 ", claim
    assert scene.origin.connections == 0
    assert {each["user"] for each in proxy.decisions()} == {str(ANOTHER)}


def test_attack_4_11_a_connection_closed_before_its_owner_is_looked_up_is_nobodys(scene: Scene) -> None:
    """The kernel says uid 0 of it: a client that is root is not meant by that. One that stays open is."""
    proxy = scene.start(f'[[client]]\nname = "agent"\nusers = [{os.getuid()}, 0]\n')
    proxy.wait_for_start()
    [worker] = proxy.workers()
    request = f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    with proxy.connect() as open_:
        with stopped(worker):
            open_.sendall(request)
            with proxy.connect() as closed:
                closed.sendall(request)
        assert status(read_all(open_)) == 200
    decisions = {each["verdict"]: each for each in proxy.decisions()}
    assert (decisions["allow"]["client"], decisions["allow"]["user"]) == ("agent", str(os.getuid()))
    assert (decisions["deny"]["client"], decisions["deny"]["user"]) == (None, None)
    assert decisions["deny"]["reason"] == "client_unknown"
    assert scene.origin.connections == 1


def called_by(account: int, proxy: Daemon) -> socket.socket:
    """A connection whose socket an account has made."""
    ours = os.geteuid()
    os.seteuid(account)
    try:
        return socket.create_connection(("127.0.0.1", proxy.port))
    finally:
        os.seteuid(ours)


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize(("closes", "who"), [(False, ("agent", "nobody")), (True, (None, None))])
def test_attack_4_11_who_hurries_to_leave_sheds_nothing_that_holds_for_its_account(
    scene: Scene, who: tuple[str | None, str | None], *, closes: bool
) -> None:
    """Behind the client with `users` stands one that anybody of this host may be, and that reaches everything."""
    proxy = scene.start(BY_ACCOUNT + '[client.destinations]\ndefault = "deny"\n' + OTHERS_OF_THIS_HOST)
    proxy.wait_for_start()
    [worker] = proxy.workers()
    request = f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    with stopped(worker):
        caller = called_by(OURS, proxy)
        caller.sendall(request)
        caller.close() if closes else caller.shutdown(socket.SHUT_WR)
    with caller:
        until(lambda: proxy.decisions() != [], "nothing is decided")
    [decided] = proxy.decisions()
    assert (decided["client"], decided["user"], decided["verdict"]) == (*who, "deny")
    assert scene.origin.connections == 0


@pytest.mark.usefixtures("accounts")
def test_r2_an_account_and_a_credential_are_both_needed(scene: Scene) -> None:
    proxy = scene.start(BY_BOTH)
    right, wrong = f"agent:{PASSWORD}", "agent:guessed"
    for account, credential, expected in (
        (OURS, right, "200"),
        (OURS, wrong, "407"),
        (OURS, None, "407"),
        (ANOTHER, right, "403"),
        (ANOTHER, None, "403"),
    ):
        shown = () if credential is None else ("-U", credential)
        said = curl(proxy, "-o", os.devnull, *shown, f"{scene.url}/", account=account)
        assert said == f"000 {expected} ", (account, credential)
    assert scene.origin.connections == 1
    assert [each["reason"] for each in proxy.decisions()] == [
        *(None, "credential_required", "credential_required", "client_unknown", "client_unknown")
    ]


# Credentials, with the clients that show them

_URLLIB: Final = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=60).status)"
_REQUESTS: Final = "import sys, requests; print(requests.get(sys.argv[1], timeout=60).status_code)"
_NODE: Final = """
const { ProxyAgent, fetch } = require("undici");
const proxy = new URL(process.env.http_proxy);
const [name, word] = [proxy.username, proxy.password].map(decodeURIComponent);
const token = "Basic " + Buffer.from(`${name}:${word}`).toString("base64");
proxy.username = proxy.password = "";
fetch(process.argv[1], { dispatcher: new ProxyAgent({ uri: proxy.href, token }) }).then(
  (answer) => console.log(answer.status),
  (error) => console.log(String(error.cause ?? error)),
);
"""
_NODE_MODULES: Final = "/usr/share/nodejs"
OTHERS: Final = {
    "urllib": (sys.executable, "-c", _URLLIB),
    "requests": (sys.executable, "-c", _REQUESTS),
    "undici": ("node", "-e", _NODE),
}


@pytest.mark.parametrize("client", OTHERS)
def test_clients_that_have_the_credential_in_the_url_of_the_proxy(scene: Scene, client: str) -> None:
    if client == "undici" and not Path(_NODE_MODULES, "undici").exists():
        give_up("install node-undici to run this")
    proxy = scene.start(BY_CREDENTIAL.replace(HASH, str(new_hash("p:a@ss %", b"t" * SALT_OCTETS))))
    program, *arguments = OTHERS[client]
    said = []
    for word in ("p%3Aa%40ss%20%25", "guessed"):
        url = f"http://agent:{word}@127.0.0.1:{proxy.port}"
        command = [tool(program), *arguments, f"{scene.url}/"]
        env = os.environ | {"http_proxy": url, "no_proxy": "", "NODE_PATH": _NODE_MODULES}
        done = subprocess.run(command, capture_output=True, check=False, env=env, text=True, timeout=60)  # noqa: S603 - our own words
        said.append(done.stdout + done.stderr)
    assert said[0] == "200\n"
    assert "200" not in said[1]
    reasons = [(each["client"], each["reason"]) for each in proxy.decisions()]
    assert reasons == [("agent", None), (None, "credential_required")]
    assert len(scene.origin.heads) == 1
    assert b"proxy-auth" not in scene.origin.heads[0].lower()


def test_curl_shows_it_at_once_or_when_it_is_asked_for(scene: Scene) -> None:
    """With --proxy-anyauth the 407 comes first, and what follows goes over the same connection."""
    proxy = scene.start(BY_CREDENTIAL)
    for how in ((), ("--proxy-anyauth",), ("-p",), ("-p", "--proxy-anyauth")):
        said = curl(proxy, "-o", os.devnull, *how, "-U", f"agent:{PASSWORD}", f"{scene.url}/")
        assert said.endswith(" 200 "), how
    url = f"http://agent:{QUOTED}@127.0.0.1:{proxy.port}"
    assert curl(proxy, "-o", os.devnull, "-x", url, f"{scene.url}/") == "000 200 "
    assert scene.origin.connections == 5
    assert {each["client"] for each in proxy.decisions() if each["verdict"] == "allow"} == {"agent"}


def test_r2_a_wrong_credential_is_407_and_the_right_one_may_follow(scene: Scene) -> None:
    proxy = scene.start(BY_CREDENTIAL)
    right = basic("agent", PASSWORD)
    wrong = (
        "",
        basic("agent", PASSWORD + "x"),
        basic("Agent", PASSWORD),
        basic("", PASSWORD),
        f"{right}x",
        f"X-{right}",
    )
    with proxy.connect() as client:
        for shown in wrong:
            refused = get(client, f"{scene.url}/", *filter(None, [shown]))
            assert (refused.status, refused.reason) == (407, "credential_required"), shown
            assert refused.fields["proxy-authenticate"] == 'Basic realm="proxyd", charset="UTF-8"'
        assert scene.origin.connections == 0
        assert scene.nameserver.asked == []
        assert get(client, f"{scene.url}/", right).status == 200
        assert get(client, f"{scene.url}/").status == 407  # each request shows it anew
        assert get(client, f"{scene.url}/", right, right).status == 407  # two are none
    with proxy.connect() as client:
        assert connect(client, scene.target).status == 407
    assert [each["client"] for each in proxy.decisions()] == [*[None] * len(wrong), "agent", *[None] * 3]


# Secrets


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of proxyd to its end."""
    command = [sys.executable, "-m", "proxyd", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our own program


@pytest.fixture
def in_a_file(scene: Scene, tmp_path: Path) -> Path:
    """A policy whose credential is in a file, as `proxyd password` made it."""
    made = run("password", stdin=f"{PASSWORD}\n")
    hashed = tmp_path / "agent.hash"
    hashed.write_text(made.stdout)
    hashed.chmod(0o640)
    return scene.start(BY_CREDENTIAL.replace(f'password = "{HASH}"', 'file = "agent.hash"')).policy


def test_r7_a_credential_file_that_others_may_read_or_write_is_refused(in_a_file: Path, tmp_path: Path) -> None:
    for mode in (0o644, 0o604, 0o660, 0o602):
        (tmp_path / "agent.hash").chmod(mode)
        answer = run("--policy", str(in_a_file))
        assert answer.returncode == 78
        assert "client[0].credential.file: cannot be read: others may read or write it; chmod 0640" in answer.stderr
        assert "$scrypt$" not in answer.stdout + answer.stderr
    (tmp_path / "agent.hash").chmod(0o600)
    assert run("check", str(in_a_file)).returncode == 0


def test_r7_neither_the_password_nor_its_hash_is_in_anything_that_is_said(
    scene: Scene, in_a_file: Path, tmp_path: Path
) -> None:
    """Not in the log, on stderr, in what a refusal or a command says, nor in what /proc shows of our processes."""
    digest = (tmp_path / "agent.hash").read_text().strip()
    proxy = scene.start(BY_CREDENTIAL, workers=2)
    proxy.wait_for_start(2)
    said = []
    for shown in (basic("agent", PASSWORD), basic("agent", "guessed" + PASSWORD), basic(PASSWORD, PASSWORD)):
        with proxy.connect() as client:
            said += [str(get(client, url, shown)) for url in (f"{scene.url}/", "http://10.0.0.5/")]
    changed = proxy.reload(proxy.policy.read_text().replace(HASH, digest))
    assert changed["changes"] == ["client agent: credential.password: … -> …"]
    assert proxy.reload(proxy.policy.read_text().replace(digest, digest[:-1] + "!"))["outcome"] == "refused"
    for command in (("check", str(in_a_file)), ("explain", scene.url, "--policy", str(proxy.policy))):
        answer = run(*command)
        said += [answer.stdout, answer.stderr]
    for pid in (proxy.pid, *proxy.workers()):
        said += [Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ", "comm")]
    said += [proxy.audit.read_text(), proxy.complaints()]
    assert all(said[index] for index in (0, -1, -2))
    for text in said:
        for secret in (PASSWORD, QUOTED, "wörd", HASH, digest, digest[-20:-2], HASH[-20:]):
            assert secret not in text
    assert b"p:a@" not in b"".join(scene.origin.heads)
