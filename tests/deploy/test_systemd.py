"""R1, R12: `deploy/systemd/`, read by systemd's own tools; and what the service may not do, proxyd can do without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.asking import connect, get
from tests.end_to_end.conftest import nameserver, origin, scene
from tests.end_to_end.starting import need_accounts, run
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

__all__ = ["nameserver", "origin", "scene"]

UNITS: Final = Path(__file__).parents[2] / "deploy" / "systemd"
WORST_EXPOSURE: Final = 1.5


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as an operator would have them, with a program that exists."""
    for each in UNITS.glob("proxyd.*"):
        text = each.read_text().replace("/opt/proxyd/bin/proxyd", sys.executable)
        (tmp_path / each.name).write_text(text)
    return tmp_path


def _said(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - systemd's own program
    return done.returncode, done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_them(units: Path) -> None:
    both = (str(units / "proxyd.service"), str(units / "proxyd.socket"))
    assert _said(tool("systemd-analyze"), "verify", *both) == (0, "")


def test_systemd_finds_what_is_wrong(units: Path) -> None:
    """What shows that the test above could fail."""
    service = units / "proxyd.service"
    service.write_text(service.read_text().replace("ProtectSystem=strict", "ProtectSystem=stricter"))
    assert "Failed to parse protect system value" in _said(tool("systemd-analyze"), "verify", str(service))[1]


def test_the_service_is_hardly_exposed(units: Path) -> None:
    service = str(units / "proxyd.service")
    threshold = f"--threshold={WORST_EXPOSURE * 10:.0f}"
    status, said = _said(tool("systemd-analyze"), "security", "--offline=true", threshold, service)
    level = re.search(r"Overall exposure level for proxyd.service: ([\d.]+)", said)
    assert level is not None, said
    assert float(level[1]) <= WORST_EXPOSURE
    assert status == 0


def _directives(name: str) -> list[tuple[str, str]]:
    lines = (UNITS / name).read_text().splitlines()
    return [(key, value) for key, eq, value in (each.partition("=") for each in lines if each[:1] not in "#[") if eq]


@pytest.mark.parametrize("name", ["proxyd.service", "proxyd.socket"])
def test_every_block_says_what_it_is_for(name: str) -> None:
    """A line that begins a block of directives has a comment above it, but for what [Unit] and [Install] always say."""
    obvious = {"Description", "WantedBy", "Type"}
    lines = (UNITS / name).read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"[A-Z]\w+=", line) and before[:1] in ("", "[") and line.split("=")[0] not in obvious
    ]
    assert bare == ["ListenStream=127.0.0.1:3128"] if name.endswith("socket") else bare == []


def test_what_they_say_of_each_other_and_of_proxyd_is_so() -> None:
    service = dict(_directives("proxyd.service"))
    assert service["Type"] == "notify"
    assert "proxyd --policy /etc/proxyd/policy.toml" in service["ExecStart"]
    assert service["ExecReload"].endswith("proxyd reload --policy /etc/proxyd/policy.toml")
    assert service["RestartPreventExitStatus"] == "2 78"
    assert int(service["TimeoutStopSec"]) > 10  # limits.drain_seconds
    assert float(service["WatchdogSec"]) > 2 * 20  # STUCK_SECONDS of a worker, and then some
    assert service["User"] in (UNITS / "proxyd.sysusers").read_text()


# What is forbidden, as far as it can be had without systemd: a /proc of processes alone, and the filter of calls

_PROC: Final = """
mount --make-rprivate / && mount -t proc -o subset=pid,hidepid=invisible proc /proc && exec "$@"
"""
_FILTER: Final = """
import ctypes, json, os, struct, sys
# only these calls, by number; all others are EPERM. No memory that is both written and executed
allowed, program = json.loads(sys.argv[1]), sys.argv[2:]
step = struct.Struct("=HBBI").pack
steps = [step(0x20, 0, 0, 0)]
for number in allowed:
    steps += [step(0x15, 0, 1, number), step(0x06, 0, 0, 0x7FFF0000)]
steps.append(step(0x06, 0, 0, 0x00050001))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
whole = b"".join(steps)
filter = Program(len(steps), whole)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(65, 1, 0, 0, 0) == 0, "PR_SET_MDWE"
assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
os.execv(program[0], program)
"""


@pytest.fixture
def sandboxed(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, ...]], None]:
    """What is started from then on has these words before it."""
    popen = subprocess.Popen

    def begin(before: tuple[str, ...]) -> None:
        monkeypatch.setattr(subprocess, "Popen", lambda command, **more: popen([*before, *command], **more))

    return begin


def _serves(scene: Scene, proxy: Daemon, place: Path) -> None:
    """Everything that it does: names, addresses, tunnels, records, reload, control, accounts, Unix sockets."""
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200
        assert get(client, "http://10.0.0.5/").reason == "address_denied"
    with proxy.connect() as client:
        assert connect(client, scene.target).status == 200
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
    assert {each["client"] for each in proxy.decisions()} == {"tester"}
    proxy.wait_for_start(2)  # one that has not begun to hear cannot say that it is ready
    done = run("reload", "--policy", str(proxy.policy))
    assert done.returncode == 0, done.stderr
    assert (place / "s").is_socket()
    assert proxy.stop() == 0


def _policy(place: Path) -> str:
    return (
        f'[listen]\nhttp = ["127.0.0.1:0", "unix:{place}/s"]\ncontrol = "{place}/c"\n'
        '[[client]]\nname = "tester"\nusers = [0, 65000]\n'
    )


def test_it_serves_where_proc_shows_processes_alone(
    scene: Scene, tmp_path: Path, sandboxed: Callable[[tuple[str, ...]], None]
) -> None:
    """ProcSubset=pid, ProtectProc=invisible: there is no /proc/net and no /proc/sys."""
    need_accounts()
    sandboxed((tool("unshare"), "--mount", "sh", "-c", _PROC, "sh"))
    proxy = scene.start(_policy(tmp_path), workers=2)
    _serves(scene, proxy, tmp_path)


def _numbers(names: set[str]) -> list[int]:
    """System calls by number, as this machine's headers have them."""
    found = _said(tool("cc"), "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null")[1]
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)$", found, re.MULTILINE)}
    return sorted(number for name, number in numbers.items() if name in names)


def _group(name: str) -> set[str]:
    """The system calls of a group, and of the groups in it (systemd-analyze syscall-filter)."""
    status, said = _said(tool("systemd-analyze"), "syscall-filter", "--no-pager", name)
    assert status == 0, said
    words = {line.strip() for line in said.splitlines() if line.startswith("    ") and not line.strip().startswith("#")}
    return {call for word in words for call in (_group(word) if word.startswith("@") else {word})}


def _allowed() -> set[str]:
    """What the unit's SystemCallFilter lines leave, taken in order (systemd.exec(5))."""
    allowed = _group("@default")
    for key, value in _directives("proxyd.service"):
        if key == "SystemCallFilter":
            words = value.removeprefix("~").split()
            calls = {call for word in words for call in (_group(word) if word.startswith("@") else {word})}
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def test_it_serves_within_the_filter_of_system_calls(
    scene: Scene, tmp_path: Path, sandboxed: Callable[[tuple[str, ...]], None]
) -> None:
    allowed = _allowed()
    assert {"setuid", "mount", "ptrace", "bpf"}.isdisjoint(allowed)
    numbers = _numbers(allowed)
    assert len(numbers) > 200
    sandboxed((sys.executable, "-c", _FILTER, str(numbers)))
    proxy = scene.start(_policy(tmp_path), workers=2)
    _serves(scene, proxy, tmp_path)
