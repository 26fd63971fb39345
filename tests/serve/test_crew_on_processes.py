"""The crew starts a real process: what that has by then, and what it has not."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.observe.tally import new_tally
from proxyd.serve import crew as crew_module
from proxyd.serve.crew import Crew
from proxyd.serve.ears import SIGNALS
from proxyd.serve.handover import Handover
from tests.serve.stage import charge

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM: Final = """\
#!{python} -IS
import fcntl, os, socket, sys

def is_open(fd):
    try:
        return fcntl.fcntl(fd, fcntl.F_GETFD) >= 0
    except OSError:
        return False

own = [fd for fd in range(256) if is_open(fd)]
channel = socket.socket(fileno=os.dup(0))
told, files, _, _ = socket.recv_fds(channel, 65536, 250)
with open("/proc/self/status") as status:
    blocked = next(line.split()[1] for line in status if line.startswith("SigBlk"))
with open("{seen}.new", "w") as seen:
    print(sys.argv[1:], own, told.decode(), len(files), blocked, sep="\\n", file=seen)
    print(os.pread(files[0], 1 << 22, 0).decode(), end="", file=seen)
os.rename("{seen}.new", "{seen}")
channel.recv(1)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A program of the test's own in the place of Python; where it writes what it saw."""
    seen, path = tmp_path / "seen", tmp_path / "worker"
    path.write_text(PROGRAM.format(python=sys.executable, seen=seen))
    path.chmod(0o700)
    monkeypatch.setattr(crew_module, "sys", SimpleNamespace(executable=str(path)))
    yield seen
    assert seen.exists()


def test_a_real_process_gets_the_handover_and_no_file_but_its_channel(program: Path) -> None:
    """More than a pipe would hold; a file that others may inherit is not for it, and our signals are blocked in it."""
    ledger, tally = os.memfd_create("ledger"), new_tally(1)
    crew = Crew(1, ledger, tally, pytest.fail)
    given = charge(more=f"# {'a long policy' * 600}\n" * 60)
    with Path(os.devnull).open() as other:
        os.set_inheritable(other.fileno(), True)  # noqa: FBT003 - the only way to say it
        crew.fill(given)
        worker = crew._posts[0].worker  # noqa: SLF001 - the real process
        assert worker is not None
        while not program.exists():
            assert worker.poll() is None
    arguments, files, told, count, blocked, handover = program.read_text().split("\n", 5)
    assert arguments == repr(["-P", "-m", "proxyd.serve"])
    assert files == repr([0, 1, 2])
    assert told == '{"do": "serve", "place": 0}'
    assert int(count) == 3
    assert {number for number in SIGNALS if int(blocked, 16) & 1 << (number - 1)} == set(SIGNALS)
    assert _arrived(handover) == given.handover
    crew.ending = True
    crew.signal(signal.SIGKILL)
    worker.wait()
    crew.reap()
    assert (bool(crew), worker.returncode) == (False, -signal.SIGKILL)
    os.close(ledger)
    os.close(tally)


def _arrived(text: str) -> Handover:
    fd = os.memfd_create("again")
    os.write(fd, text.encode())
    return Handover.from_file(fd)
