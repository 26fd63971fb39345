"""R2, ATTACKS 6.5: what a command that `proxyd exec` confines tries, goes through the proxy or nowhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests import namespace
from tests.end_to_end import escapes
from tests.end_to_end.confined import PYTHON, Cell, account, cell, place
from tests.end_to_end.daemon import ticks
from tests.end_to_end.origin import Listener
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene

__all__ = ["account", "cell", "place"]

SOURCE: Final = Path(escapes.__file__).read_text()
NEVER: Final = {
    "a key asked for",
    "AF_VSOCK",
    "AF_ALG",
    "a stream of a pair",
    "packets of a pair",
    "setns from a nested network",
}
"""What need not get out where nothing confines it: that is up to the host, or to the kernel's own rules."""


class Outside:
    """What is there to be reached: services of every kind, and a process of the same account. `hits` counts."""

    def __init__(self, scene: Scene, place: Path) -> None:
        self.hits = 0
        self._stack = ExitStack()
        self._local = Listener(self._hit, ("127.0.0.1",))
        self._stack.callback(self._local.close)
        self._victim = self._stack.enter_context(subprocess.Popen(["/bin/sleep", "1000"]))
        self._stack.callback(self._victim.kill)
        abstract = f"proxyd-test-{os.getpid()}-{id(self)}"
        self._listen(f"\0{abstract}", socket.SOCK_STREAM)
        path, datagrams = str(place / "stream.sock"), str(place / "datagrams.sock")
        self._listen(path, socket.SOCK_STREAM)
        self._listen(datagrams, socket.SOCK_DGRAM)
        self.targets = {
            "four": namespace.origin_4(),
            "six": namespace.origin_6(),
            "port": str(scene.origin.port),
            "local": str(self._local.port),
            "nameserver": str(scene.nameserver.port),
            "path": path,
            "datagrams": datagrams,
            "abstract": abstract,
            "victim": str(self._victim.pid),
        }

    def close(self) -> None:
        """Nothing is left of it."""
        self._stack.close()

    def _hit(self, _: socket.socket) -> None:
        self.hits += 1

    def _listen(self, name: str, kind: socket.SocketKind) -> None:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        self._stack.callback(lambda: sock.shutdown(socket.SHUT_RDWR))
        sock.bind(name)
        if not name.startswith("\0"):
            Path(name).chmod(0o777)
        if kind == socket.SOCK_STREAM:
            sock.listen()
        threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        while True:
            try:
                if sock.type == socket.SOCK_STREAM:
                    sock.accept()[0].close()
                elif not sock.recv(100):
                    return
            except OSError:
                return
            self.hits += 1


@pytest.fixture
def outside(scene: Scene, place: Path, account: str) -> Iterator[Outside]:
    """It, as the account in question."""
    assert account
    outside = Outside(scene, place)
    yield outside
    outside.close()


def test_r2_6_5_nothing_that_is_tried_gets_out(cell: Cell, outside: Outside) -> None:
    """29 ways, with a socket left open besides; nothing reaches anybody, and nobody is asked for a name."""
    with socket.socket() as left_open:
        done = cell.run(PYTHON, "-c", SOURCE, json.dumps(outside.targets), pass_fds=(left_open.fileno(),))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 29
    assert {name: said for name, said in found.items() if said == "reached"} == {}
    assert found["a key asked for"] == found["io_uring"] == "OSError: [Errno 38] Function not implemented"
    assert outside.hits == 0
    assert cell.scene.nameserver.asked == []
    assert cell.scene.origin.connections == 0


def test_without_proxyd_the_same_gets_out(cell: Cell, outside: Outside) -> None:
    """What shows that the test above could fail."""
    with socket.socket() as left_open:
        done = subprocess.run(  # noqa: S603 - our own program
            [PYTHON, "-c", SOURCE, json.dumps(outside.targets)],
            capture_output=True,
            text=True,
            check=False,
            pass_fds=(left_open.fileno(),),
        )
    found = json.loads(done.stdout)
    may_fail = NEVER | ({"a raw socket", "AF_PACKET"} | _OF_ROOT)
    assert {name: said for name, said in found.items() if said != "reached" and name not in may_fail} == {}
    next(None for _ in ticks() if outside.hits > 5)
    assert cell.scene.origin.connections > 0


_OF_ROOT: Final = {"setns", "setns by pidfd", "memory of others", "a name looked up", "TCP from a nested network"}

_CALLS: Final = """
#include <stdio.h>
int main(void) {
    long socket, x32 = 0x40000000 + 41;
    __asm__ volatile("int $0x80" : "=a"(socket) : "a"(359), "b"(2), "c"(1), "d"(0) : "memory");
    __asm__ volatile("syscall" : "=a"(x32) : "a"(x32), "D"(1), "S"(1), "d"(0) : "rcx", "r11", "memory");
    printf("%ld %ld\\n", socket, x32);
    return 0;
}
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="there is no other way to make calls on this machine")
def test_calls_of_other_machines_do_not_exist(cell: Cell, place: Path, account: str) -> None:
    """32-bit calls and those of x32 have numbers of their own, which a filter of numbers would not know."""
    assert account
    source, program = place / "calls.c", place / "calls"
    source.write_text(_CALLS)
    subprocess.run([tool("cc"), "-o", str(program), str(source)], check=True)  # noqa: S603 - our own program
    program.chmod(0o755)
    done = cell.run(str(program))
    assert (done.stdout, done.returncode) == ("-38 -38\n", 0), done.stderr


def test_a_setuid_program_gains_nothing(cell: Cell, place: Path, accounts: None, unprivileged: None) -> None:
    assert accounts is unprivileged is None
    program = place / "id"
    program.write_bytes(Path(tool("id")).read_bytes())
    program.chmod(0o4755)
    plain = subprocess.run([str(program), "-u"], capture_output=True, text=True, check=True)  # noqa: S603 - our own program
    assert plain.stdout == "0\n"
    assert cell.run(str(program), "-u").stdout == "65534\n"
    done = cell.run("grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status")
    assert {line.split()[1].strip("0") for line in done.stdout.splitlines()} == {"", "1"}
    assert "NoNewPrivs:\t1" in done.stdout


def test_root_keeps_no_right_at_all(cell: Cell) -> None:
    done = cell.run("grep", "^Cap", "/proc/self/status")
    assert {line.split()[1].strip("0") for line in done.stdout.splitlines()} == {""}
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.parametrize("kind", ["stdin", "stdout", "stderr"])
def test_a_stream_that_is_a_socket_leading_out_is_refused(cell: Cell, kind: str, place: Path) -> None:
    """Of a connected TCP socket connect(2) makes one to somebody else; `nc -e` gives us such."""
    ran = place / "ran"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        done = cell.run("touch", str(ran), **{kind: client.fileno()})
        server.accept()[0].close()
    assert done.returncode == 69
    if kind != "stderr":
        assert done.stderr.startswith(f"proxyd: exec: {kind} is a socket by which the command could reach others")
    assert not ran.exists()


def test_streams_that_are_of_this_host_alone_are_as_good_as_pipes(cell: Cell) -> None:
    """As Node starts its children."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"to and fro\n")
        ours.shutdown(socket.SHUT_WR)
        assert cell.run("cat", stdin=theirs.fileno(), stdout=theirs.fileno()).returncode == 0
        assert ours.recv(100) == b"to and fro\n"


_ASK: Final = """
import os, signal, subprocess, sys
def ask(url):
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout
"""
_REWRITES: Final = (
    _ASK
    + """
url, policy, text = sys.argv[1:]
before = ask(url)
open(policy, "w").write(text)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline").read().split("\\0")
        if "exec" in words and policy in words:
            os.kill(int(pid), signal.SIGHUP)
    except OSError:
        pass
sys.stdin.readline()
print(before, ask(url))
"""
)
_KILLS: Final = (
    _ASK
    + """
os.kill(int(sys.stdin.readline()), signal.SIGKILL)
print("killed", flush=True)
sys.stdin.readline()
print(ask(sys.argv[1]))
"""
)


def test_r12_a_policy_that_the_command_rewrites_is_not_taken_into_use(cell: Cell, account: str) -> None:
    """It is the same account: it may write the file, and send signals."""
    assert account
    cell.policy.chmod(0o666)
    cell.write('[[deny]]\nname = "origin"\nhosts = ["origin.test"]\nreason = "tried"\n')
    denied = cell.policy.read_text()
    opened = denied.replace("origin.test", "elsewhere.test")
    command = cell.start(PYTHON, "-c", _REWRITES, cell.scene.url, str(cell.policy), opened)
    for _ in ticks():
        if any(each["event"] == "reload" for each in cell.records()):
            break
    said, errors = command.communicate("\n")
    [reload] = [each for each in cell.records() if each["event"] == "reload"]
    assert reload["outcome"] == "refused"
    assert reload["problems"] == ["exec: the policy is read once: who is confined may have written it"]
    assert said == "403 403\n", errors


def test_r12_a_worker_that_is_killed_is_not_started_anew(cell: Cell, account: str) -> None:
    """The program that would be started may be one that the command has written. Without it there is no way out."""
    assert account
    command = cell.start(PYTHON, "-c", _KILLS, cell.scene.url)
    next(None for _ in ticks() if any(each["event"] == "start" for each in cell.records()))
    [started] = [each["pid"] for each in cell.records() if each["event"] == "start"]
    assert command.stdin is not None
    assert command.stdout is not None
    command.stdin.write(f"{started}\n")
    command.stdin.flush()
    assert command.stdout.readline() == "killed\n"
    for _ in ticks():
        if [each for each in cell.processes() if each != command.pid] == []:
            break
    said, errors = command.communicate("\n")
    assert (said, command.returncode) == ("000\n", 0)  # nobody listens
    assert "a worker ended (signal 9); nobody takes its place" in errors
    assert len([each for each in cell.records() if each["event"] == "start"]) == 1
