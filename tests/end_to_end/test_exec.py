"""`proxyd exec` as it is used: real clients, exit statuses, signals, a terminal, and what is left when it is over.

That nothing else gets out is in `test_exec_on_attacks.py`.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.confined import PYTHON, Cell, account, cell, place
from tests.end_to_end.daemon import PATIENCE, state_of, ticks
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["account", "cell", "place"]

_URLLIB: Final = """
import sys, urllib.error, urllib.request
opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if "direct" in sys.argv[2:] else []))
try:
    print(opener.open(sys.argv[1], timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print("no way:", error)
"""
_NODE: Final = """
const [url, how] = process.argv.slice(1), target = new URL(how ? url : process.env.http_proxy);
const path = how ? "/" : url;
const options = {host: target.hostname, port: target.port || 80, path, agent: false};
const failed = error => console.log("no way:", error.code);
const answered = answer => { console.log(answer.statusCode); answer.resume() };
require("http").get(options, answered).on("error", failed);
"""
_CURL: Final = ("curl", "-s", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}\\n")
CLIENTS: Final[dict[str, Callable[[str], tuple[str, ...]]]] = {
    "curl": lambda url: (*_CURL, url),
    "urllib": lambda url: (PYTHON, "-c", _URLLIB, url),
    "node": lambda url: (tool("node"), "-e", _NODE, url),
}
DIRECT: Final[dict[str, Callable[[str], tuple[str, ...]]]] = {
    "curl --noproxy": lambda url: (*_CURL, "--noproxy", "*", url),
    "curl without variables": lambda url: ("env", "-i", f"PATH={os.environ['PATH']}", *_CURL, url),
    "urllib": lambda url: (PYTHON, "-c", _URLLIB, url, "direct"),
    "node": lambda url: (tool("node"), "-e", _NODE, url, "direct"),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reaches_what_is_allowed_and_nothing_else(cell: Cell, account: str, client: str) -> None:
    assert account
    for url, status in ((cell.scene.url, 200), ("http://10.0.0.5/", 403), ("http://metadata.google.internal/", 403)):
        done = cell.run(*CLIENTS[client](url))
        assert (done.stdout, done.returncode) == (f"{status}\n", 0), done.stderr
    reasons = [each["reason"] for each in cell.records() if each["event"] == "decision"]
    assert reasons == [None, "address_denied", "name_locked"]
    assert cell.scene.origin.connections == 1


@pytest.mark.parametrize("client", DIRECT)
def test_6_5_a_client_that_ignores_its_settings_reaches_nothing(cell: Cell, account: str, client: str) -> None:
    assert account
    host = cell.scene.origin
    by_address = f"http://93.184.216.34:{host.port}/"
    for url in (cell.scene.url, by_address):
        done = cell.run(*DIRECT[client](url))
        assert re.fullmatch(r"000\n|no way: .*\n", done.stdout), done
    assert host.connections == 0
    assert cell.scene.nameserver.asked == []
    assert [each for each in cell.records() if each["event"] == "decision"] == []


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), -9),
        (("sh", "-c", "kill -TERM $$"), -15),
        (("/etc/passwd",), 126),
        (("/nowhere/at/all",), 127),
        (("there-is-no-such-command",), 127),
    ],
)
def test_its_exit_status_is_the_command_s(cell: Cell, words: tuple[str, ...], status: int) -> None:
    done = cell.run(*words)
    assert done.returncode == status
    if status in (126, 127):
        assert f"proxyd: exec: {words[0]}: " in done.stderr
    cell.wait_for_the_end()


def test_its_streams_are_the_command_s_and_carry_nothing_else(cell: Cell) -> None:
    script = "cat; echo words >&2; curl -s -o /dev/null http://10.0.0.5/; ls /proc/self/fd | tr '\\n' ' '"
    done = cell.run("sh", "-c", script, stdin=None, input="given\n")
    assert done.stdout.startswith("given\n0 1 2 ")
    assert len(done.stdout.split()) == 5  # and the folder that ls itself reads
    assert [line for line in done.stderr.splitlines() if not line.startswith("proxyd: exec: ")] == ["words"]
    assert len(cell.records()) > 2


def test_arguments_arrive_as_they_were_given(cell: Cell) -> None:
    words = ("--", "-x", "--policy", "a b", "", "ü", "--help")
    done = cell.run(PYTHON, "-c", "import sys; print(sys.argv[1:])", *words)
    assert done.stdout == f"{list(words)}\n", done.stderr


def test_the_environment_is_the_caller_s_but_for_the_proxy(cell: Cell) -> None:
    cell.env |= {"No_Proxy": "*", "NO_PROXY": "10.0.0.5", "https_proxy": "http://evil:1", "KEPT": "yes"}
    said = dict(line.split("=", 1) for line in cell.run("env").stdout.splitlines() if "=" in line)
    assert said.pop("NODE_USE_ENV_PROXY") == "1"
    proxy = {name: value for name, value in said.items() if name.lower().endswith("_proxy")}
    names = ("http", "https", "ws", "wss", "all")
    assert proxy == {
        spelt: "http://127.0.0.1:3128" for name in names for spelt in (f"{name}_proxy", f"{name}_PROXY".upper())
    }
    assert said["KEPT"] == "yes"


def test_nobody_is_there_when_it_is_over(cell: Cell, account: str) -> None:
    """Nor while something that it has left behind goes on; that has no way out any more."""
    assert account
    script = (
        f"(exec >/dev/null 2>&1; sleep 1000) & {' '.join(_CURL[:-1])} %{{http_code}} {cell.scene.url}; echo; echo $!"
    )
    code, left = cell.run("sh", "-c", script).stdout.split()
    assert code == "200"
    cell.wait_for_the_end()
    assert state_of(int(left)) in "SR"
    listening = Path(f"/proc/{left}/net/tcp").read_text()
    assert ":0C38 00000000:0000 0A" not in listening
    os.kill(int(left), signal.SIGKILL)


def test_when_the_command_is_killed_the_proxy_ends(cell: Cell) -> None:
    command = cell.start("cat")
    _wait_for_start(cell)
    command.kill()
    command.communicate()
    cell.wait_for_the_end()
    assert [each["event"] for each in cell.records()] == ["start", "stop"]


def test_r12_when_the_proxy_is_killed_the_command_goes_on_and_gets_nowhere(cell: Cell) -> None:
    script = f"echo begun; read go; {' '.join(_CURL[:-1])} %{{http_code}} {cell.scene.url}; echo; exit 3"
    command = cell.start("sh", "-c", script)
    assert command.stdout is not None
    assert command.stdout.readline() == "begun\n"
    for each in cell.processes():
        if each != command.pid:
            with suppress(ProcessLookupError):  # a worker ends with its supervisor
                os.kill(each, signal.SIGKILL)
    cell.wait_for_the_end()
    said, _ = command.communicate("go\n")
    assert (said, command.returncode) == ("000\n", 3)
    assert cell.scene.origin.connections == 0


def test_two_at_once_do_not_know_each_other(cell: Cell) -> None:
    script = f"echo; read go; {' '.join(_CURL[:-1])} %{{http_code}} {cell.scene.url}"
    commands = [cell.start("sh", "-c", script) for _ in range(2)]
    for each in commands:
        assert each.stdout is not None
        assert each.stdout.readline() == "\n"
    assert [each.communicate("go\n")[0] for each in commands] == ["200", "200"]


def test_exec_within_exec_is_no_less_confined(cell: Cell, account: str) -> None:
    """The inner proxy is confined, too: it has no resolver. Root has given up the right to be root in there."""
    cell.env["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parents[2]), sysconfig.get_path("purelib")))
    done = cell.run(PYTHON, *cell.command(*_CURL, cell.scene.url)[1:])
    if account == "root" and os.geteuid() == 0:
        assert (done.returncode, done.stdout) == (69, "")
        assert "exec: this system does not let an account confine itself: Operation not permitted" in done.stderr
    else:
        refused = done.stdout in ("502\n", "504\n")
        assert refused or (not done.stdout and done.returncode), done.stderr  # where it cannot even read its program
    assert cell.scene.nameserver.asked == []
    assert cell.scene.origin.connections == 0


def test_whoever_is_listened_to_otherwise_is_not(cell: Cell, place: Path) -> None:
    """Listeners, the control socket and the admin listener are those of a proxy that others use, and may be taken."""
    (place / "token").write_text("x" * 40)
    (place / "token").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cell.write(
            f'[listen]\nhttp = ["127.0.0.1:{port}", "unix:{place}/s", "systemd"]\ncontrol = "{place}/c"\n'
            f'[admin]\nlisten = "127.0.0.1:{port + 1}"\ntoken_file = "{place}/token"\n'
            '[[client]]\nname = "agent"\nnetworks = ["127.0.0.0/8"]\n'
            '[[client]]\nname = "local"\nusers = [65000]\n',
            workers=2,
        )
        done = cell.run(*_CURL, cell.scene.url)
    assert (done.stdout, done.returncode) == ("200\n", 0), done.stderr
    assert {each.name for each in place.iterdir()}.isdisjoint({"s", "c"})
    assert [each["event"] for each in cell.records()].count("start") == 2
    assert {str(each["listening"]) for each in cell.records() if each["event"] == "start"} == {"['127.0.0.1:3128']"}


@pytest.mark.parametrize(("users", "status"), [("[{uid}]", 200), ("[{other}]", 403)])
def test_r2_its_clients_are_known_by_their_account(cell: Cell, account: str, users: str, status: int) -> None:
    uid = 65534 if account == "nobody" and os.geteuid() == 0 else os.geteuid()
    spelt = users.format(uid=uid, other=uid + 1)
    cell.write(f'[[client]]\nname = "agent"\nnetworks = ["127.0.0.0/8"]\nusers = {spelt}\n')
    assert cell.run(*_CURL, cell.scene.url).stdout == f"{status}\n"


def test_a_policy_that_knows_no_such_client_refuses_it(cell: Cell) -> None:
    cell.write('[[client]]\nname = "other"\nnetworks = ["192.0.2.0/24"]\n')
    assert cell.run(*_CURL, cell.scene.url).stdout == "403\n"
    assert cell.records()[1]["reason"] == "client_unknown"


@pytest.mark.parametrize(
    ("spoil", "status", "why"),
    [
        ("policy", 78, "defualt"),
        ("no policy", 78, "exec.toml"),
        ("log", 78, "name another log with --audit"),
        ("resolvers", 78, "dns"),
    ],
)
def test_r12_what_cannot_be_served_starts_nothing(cell: Cell, place: Path, spoil: str, status: int, why: str) -> None:
    ran = place / "ran"
    if spoil == "policy":
        cell.policy.write_text(cell.policy.read_text().replace("default =", "defualt ="))
    elif spoil == "no policy":
        cell.policy.unlink()
    elif spoil == "log":
        cell.audit.mkdir()
    else:
        cell.write(f'[dns]\nservers = ["9.9.9.9"]\nhosts_file = "{place}/none"\n')
    done = cell.run("touch", str(ran))
    assert (done.returncode, done.stdout) == (status, "")
    assert why in done.stderr
    assert not ran.exists()
    cell.wait_for_the_end()


_FORBID: Final = """
import ctypes, os, sys
from pathlib import Path
libc, uid, gid = ctypes.CDLL(None), os.geteuid(), os.getegid()
assert libc.unshare(0x10000000) == 0
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
Path("/proc/sys/user/max_user_namespaces").write_text("0")
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_r12_where_nobody_may_confine_itself_nothing_is_started(cell: Cell, place: Path) -> None:
    ran = place / "ran"
    command = [sys.executable, "-c", _FORBID, *cell.command("touch", str(ran))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=cell.env)  # noqa: S603 - our own program
    assert done.returncode == 69
    assert "exec: this system does not let an account confine itself" in done.stderr
    assert "user.max_user_namespaces above 0" in done.stderr
    assert not ran.exists()
    cell.wait_for_the_end()


@pytest.mark.parametrize(("state", "where"), [("", ".local/state"), ("relative", ".local/state"), ("/", "state")])
def test_records_go_where_programs_keep_their_state(cell: Cell, place: Path, state: str, where: str) -> None:
    cell.env["XDG_STATE_HOME"] = str(place / "state") if state == "/" else state
    command = cell.command(*_CURL, "http://10.0.0.5/")
    at = command.index("--audit")
    done = subprocess.run(  # noqa: S603 - our own program
        command[:at] + command[at + 2 :], capture_output=True, text=True, check=False, env=cell.env
    )
    log = place / where / "proxyd" / "audit.jsonl"
    assert f"proxyd: exec: audit to {log}\n" in done.stderr
    assert "address_denied" in log.read_text()
    assert log.parent.stat().st_mode & 0o777 == 0o700
    assert log.stat().st_mode & 0o777 == 0o640


def test_an_audit_log_of_the_policy_s_own_is_used(cell: Cell, place: Path) -> None:
    own = place / "own.jsonl"
    cell.write(f'[audit]\nto = "{own}"\n')
    done = cell.run(*_CURL, "http://10.0.0.5/")
    assert done.stdout == "403\n"
    assert "audit to" not in done.stderr
    assert "address_denied" in own.read_text()
    assert not cell.audit.exists()


def test_at_a_terminal_it_can_be_stopped_continued_and_interrupted(cell: Cell, account: str) -> None:
    """An interactive shell, whose jobs they are: ^Z, fg and ^C reach the command and nobody else."""
    assert account
    command = " ".join(f"'{word}'" for word in cell.command("cat"))
    master, slave = pty.openpty()
    shell = subprocess.Popen(  # noqa: S603 - our own program
        [PYTHON, "-c", _INTERACTIVE], stdin=slave, stdout=slave, stderr=slave, env=cell.env | {"PS1": "prompt> "}
    )
    os.close(slave)
    try:
        _type(master, "", "prompt> ")
        os.write(master, f"{command}\n".encode())
        _wait_for_start(cell)
        _type(master, "one\n", "one\r\none\r\n")
        _type(master, "\x1a", "Stopped")
        _type(master, "fg\n", "exec")
        _type(master, "two\n", "two\r\ntwo\r\n")
        _type(master, "\x03", "prompt> ")
        _type(master, "echo status $?\n", "status 130")
        cell.wait_for_the_end()
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


_INTERACTIVE: Final = (
    "import os, signal; os.login_tty(0); signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp('sh', ['sh', '-i'])"
)
"""As at any terminal, wherever the tests themselves run: who runs them in the background ignores ^C."""


def test_its_terminal_cannot_be_typed_into(cell: Cell) -> None:
    """TIOCSTI: what it would type, the shell that waits outside would do."""
    master, slave = pty.openpty()
    script = "import fcntl; fcntl.ioctl(0, 0x5412, b'x')"
    done = cell.run(PYTHON, "-c", script, stdin=slave)
    os.close(slave)
    os.close(master)
    assert done.returncode == 1
    assert "PermissionError: [Errno 1] Operation not permitted" in done.stderr


def _type(master: int, keys: str, until: str) -> None:
    """Type, and read until something is said."""
    os.write(master, keys.encode())
    said = ""
    while until not in said:
        assert select.select([master], [], [], PATIENCE)[0], said
        said += os.read(master, 65536).decode(errors="replace")


def _wait_for_start(cell: Cell) -> None:
    for _ in ticks():
        if any(each["event"] == "start" for each in cell.records()):
            return
    raise AssertionError("it did not start")
