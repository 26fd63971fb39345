"""R2, ATTACKS 6.5: `deploy/nftables/proxyd.nft` in a network of the test's own, tried by several accounts.

The accounts are numbers: what the file defines is replaced, and nothing else. All addresses are on loopback, so the
origin is not outside by its interface: another interface is made for what leaves this host.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.daemon import ticks
from tests.tools import give_up, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES: Final = Path(__file__).parents[2] / "deploy" / "nftables" / "proxyd.nft"
AGENT, PROXY, OTHER = 10001, 10002, 10003
OUTSIDE_4, OUTSIDE_6 = "198.51.100.2", "2001:db8:1::2"
PROXY_PORT, GATEWAY_PORT, OTHER_PORT = 3128, 18789, 8080

_SETUP: Final = """
set -e
ip link set lo up
ip link add out type veth peer name far
ip link set far netns "$1"
ip addr add 198.51.100.1/24 dev out
ip addr add 2001:db8:1::1/64 dev out nodad
ip link set out up
"""
_FAR: Final = """
set -e
ip link set lo up
ip addr add 198.51.100.2/24 dev far
ip addr add 2001:db8:1::2/64 dev far nodad
ip link set far up
"""
_SERVE: Final = """
import selectors, socket, sys
# echoes on every port named, by TCP and UDP, IPv4 and IPv6
selector = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        selector.register(sock, selectors.EVENT_READ)
print("serving", flush=True)
while True:
    for key, _ in selector.select():
        sock = key.fileobj
        if sock.type == socket.SOCK_DGRAM:
            sock.sendto(*sock.recvfrom(100))
        else:
            with sock.accept()[0] as client:
                client.settimeout(20)
                client.sendall(client.recv(100))
"""
_TRY: Final = """
import json, os, socket, sys
# as an account: what came of each connection, told as JSON
uid, tries = int(sys.argv[1]), json.loads(sys.argv[2])
if uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
def attempt(kind, host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if kind == "packet":
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
        return "reached"
    if kind == "ping":
        sock = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        port, said = 0, bytes([8, 0, 0, 0, 0, 0, 0, 1])
    else:
        sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        said = b"x"
    sock.settimeout(20)
    sock.connect((host, port))
    sock.sendall(said)
    return "reached" if sock.recv(100) else "ended"
found = []
for each in tries:
    try:
        found.append(attempt(*each))
    except TimeoutError:
        found.append("nobody said no")
    except OSError as error:
        found.append("refused")
print(json.dumps(found))
"""


class World:
    """This host and an outside, joined by a wire; the rules are in force on this host."""

    def __init__(self, rules: Path) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self.host, self.far = self._namespace(), self._namespace()
        self._do(self.host, "sh", "-c", _SETUP, "sh", str(self.far))
        self._do(self.far, "sh", "-c", _FAR)
        self._do(self.host, "sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")
        self._rules = rules
        self.serve(self.far, 0, 80, 53)
        self.serve(self.host, AGENT, GATEWAY_PORT, 9222)
        self.serve(self.host, PROXY, PROXY_PORT)
        self.serve(self.host, OTHER, OTHER_PORT)

    def load(self) -> None:
        """Put the rules in force."""
        self._do(self.host, tool("nft"), "-f", str(self._rules))

    def close(self) -> None:
        """End whatever holds it."""
        for each in self._processes:
            each.kill()
            each.communicate()

    def tried(self, uid: int, *tries: tuple[str, str, int], where: int | None = None) -> list[str]:
        """What comes of these connections, as an account, on this host or outside."""
        program = (sys.executable, "-c", _TRY, str(uid), json.dumps(tries))
        found: list[str] = json.loads(self._do(where or self.host, *program))
        return found

    def serve(self, where: int, uid: int, *ports: int) -> None:
        """An account that serves on some ports."""
        as_account = (tool("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups") if uid else ()
        python = (PYTHON, "-c", _SERVE, *map(str, ports))
        assert self._start(*_within(where), *as_account, *python).stdout.readline() == "serving\n"  # type: ignore[union-attr] # a pipe

    def ruleset(self) -> str:
        """What is in force."""
        said = self._do(self.host, tool("nft"), "list", "ruleset")
        return re.sub(r"packets \d+ bytes \d+", "", said)

    def refused(self) -> int:
        """How many packets of the agent's were refused."""
        said = self._do(self.host, tool("nft"), "list", "chain", "inet", "proxyd", "agent")
        (packets,) = re.findall(r"counter packets (\d+)", said)
        return int(packets)

    @contextmanager
    def trying(self, attempt: tuple[str, str, int], where: int) -> Iterator[subprocess.Popen[str]]:
        """Somebody who is connecting, for as long as it lasts."""
        client = self._start(*_within(where), sys.executable, "-c", _TRY, "0", json.dumps([attempt]))
        yield client
        client.kill()

    def _namespace(self) -> int:
        holder = self._start("unshare", "--net", "sh", "-c", "echo; exec sleep 1000")
        assert holder.stdout is not None
        holder.stdout.readline()
        return holder.pid

    def _start(self, *command: str) -> subprocess.Popen[str]:
        self._processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))  # noqa: S603 - our own
        return self._processes[-1]

    def _do(self, where: int, *command: str) -> str:
        done = subprocess.run([*_within(where), *command], capture_output=True, text=True, check=False)  # noqa: S603 - our own
        assert done.returncode == 0, done.stderr
        return done.stdout


PYTHON: Final = next(each for each in ("/usr/bin/python3", sys.executable) if Path(each).exists())
"""An interpreter that every account may read."""


def _within(where: int) -> tuple[str, ...]:
    return (tool("nsenter"), f"--net=/proc/{where}/ns/net")


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as shipped, with the accounts of this test."""
    text = RULES.read_text()
    for name, number in (("openclaw", AGENT), ("proxyd", PROXY), ("root", 0)):
        assert text.count(f'"{name}"') >= 1
        text = text.replace(f'= "{name}"', f"= {number}").replace(f'{{ "{name}" }}', f"{{ {number} }}")
    path = tmp_path_factory.mktemp("nft") / "proxyd.nft"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def world(rules: Path) -> Iterator[World]:
    """A world in which the rules are in force."""
    world = _new_world(rules)
    world.load()
    yield world
    world.close()


def _new_world(rules: Path) -> World:
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split()[:2] != ["0", "0"]:
        give_up("only root can have two accounts and firewall rules: run this as root")
    for each in ("nft", "ip", "nsenter", "setpriv"):
        tool(each)
    return World(rules)


EVERYTHING: Final[dict[str, tuple[str, str, int]]] = {
    "the proxy": ("tcp", "127.0.0.1", PROXY_PORT),
    "the proxy by IPv6": ("tcp", "::1", PROXY_PORT),
    "its Gateway": ("tcp", "127.0.0.1", GATEWAY_PORT),
    "another service": ("tcp", "127.0.0.1", OTHER_PORT),
    "another service by UDP": ("udp", "127.0.0.1", OTHER_PORT),
    "the proxy by UDP": ("udp", "127.0.0.1", PROXY_PORT),
    "this host's own address": ("tcp", "198.51.100.1", OTHER_PORT),
    "outside": ("tcp", OUTSIDE_4, 80),
    "outside by IPv6": ("tcp", OUTSIDE_6, 80),
    "DNS": ("udp", OUTSIDE_4, 53),
    "DNS by TCP": ("tcp", OUTSIDE_4, 53),
    "DNS by IPv6": ("udp", OUTSIDE_6, 53),
    "ping": ("ping", OUTSIDE_4, 0),
    "AF_PACKET": ("packet", "", 0),
}
LOCAL: Final = {
    each for each in EVERYTHING if "prox" in each or "service" in each or "Gateway" in each or "own" in each
}
OWN: Final = {"the proxy", "the proxy by IPv6", "its Gateway"}


@pytest.mark.parametrize(
    ("who", "reaches"),
    [
        (AGENT, OWN),
        (OTHER, LOCAL),
        (PROXY, set(EVERYTHING) - {"AF_PACKET"}),
        (0, set(EVERYTHING)),
    ],
)
def test_6_5_who_reaches_what(world: World, who: int, reaches: set[str]) -> None:
    """What is not reached is refused at once: nobody waits for a packet that was dropped."""
    found = dict(zip(EVERYTHING, world.tried(who, *EVERYTHING.values()), strict=True))
    assert found == {name: "reached" if name in reaches else "refused" for name in EVERYTHING}


def test_without_the_rules_everybody_reaches_everything(rules: Path) -> None:
    """What shows that the test above could fail."""
    world = _new_world(rules)
    try:
        found = dict(zip(EVERYTHING, world.tried(AGENT, *EVERYTHING.values()), strict=True))
        assert {name for name, said in found.items() if said != "reached"} == {"AF_PACKET"}
    finally:
        world.close()


def test_whoever_comes_in_is_answered_but_for_what_the_agent_opens_besides(world: World) -> None:
    """A port of the agent's that somebody outside may connect to would be a way out like any other."""
    ports = (PROXY_PORT, OTHER_PORT, GATEWAY_PORT)
    assert world.tried(0, *(("tcp", "198.51.100.1", port) for port in ports), where=world.far) == ["reached"] * 3
    before = world.refused()
    with world.trying(("tcp", "198.51.100.1", 9222), where=world.far) as client:
        for _ in ticks():
            if world.refused() > before:
                break
        assert world.refused() > before  # what would have answered it
        assert client.poll() is None


def test_they_can_be_loaded_again_and_again(world: World) -> None:
    before = world.ruleset()
    world.load()
    assert world.ruleset() == before
    assert "policy drop" in before


def test_nothing_is_wrong_with_them(rules: Path) -> None:
    if os.geteuid() != 0:
        give_up("nft wants to be root to check rules: run this as root")
    done = subprocess.run([tool("nft"), "-c", "-f", str(rules)], capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_the_accounts_that_they_name_are_those_that_are_made() -> None:
    made = (RULES.parents[1] / "systemd" / "proxyd.sysusers").read_text()
    assert re.search(r"^u proxyd ", made, re.MULTILINE)
    assert 'define proxy = "proxyd"' in RULES.read_text()
