"""proxyd as others start it: with sockets that a service manager hands over, with few open files, or to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from tests.end_to_end.daemon import PATIENCE
from tests.tools import give_up

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping

# Each becomes the program that its last arguments name (execve(2)), so that the process id stays the same.
_HAND_OVER: Final = """
import fcntl, os, sys
names, numbers, owner, program = sys.argv[1], sys.argv[2].split(","), sys.argv[3] or str(os.getpid()), sys.argv[4:]
numbers = [int(each) for each in numbers if each]
high = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in numbers]
for number in numbers:
    os.close(number)
for place, number in enumerate(high, 3):
    os.dup2(number, place)
    os.close(number)
os.environ |= {"LISTEN_PID": owner, "LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names}
os.execv(program[0], program)
"""
_LIMIT: Final = """
import os, resource, sys
files, program = int(sys.argv[1]), sys.argv[2:]
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
os.execv(program[0], program)
"""


@contextmanager
def handing_over(sockets: Mapping[str, socket.socket], owner: str = "") -> Iterator[None]:
    """What is started meanwhile gets these listening sockets, by these names, as systemd would do it.

    owner: the process that they are said to be for, if it is another one.
    """
    numbers = [sock.fileno() for sock in sockets.values()]
    arguments = (":".join(sockets), ",".join(map(str, numbers)), owner)
    with _started_by(_HAND_OVER, *arguments, pass_fds=numbers):
        yield


@contextmanager
def with_files(most: int) -> Iterator[None]:
    """What is started meanwhile may have so many files open, and cannot have more."""
    with _started_by(_LIMIT, str(most)):
        yield


@contextmanager
def _started_by(prologue: str, *arguments: str, **more: Any) -> Iterator[None]:  # noqa: ANN401 - passed through
    popen = subprocess.Popen

    def start(command: list[str], **rest: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - passed through
        return popen([sys.executable, "-c", prologue, *arguments, *command], **rest, **more)

    with mock.patch.object(subprocess, "Popen", start):
        yield


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run proxyd where it is expected to end by itself."""
    command = [sys.executable, "-m", "proxyd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)  # noqa: S603 - our own program


def need_accounts() -> None:
    """Give up where no process of another account can be started."""
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split()[:2] != ["0", "0"]:
        give_up("only root can start processes of other accounts: run this as root")
