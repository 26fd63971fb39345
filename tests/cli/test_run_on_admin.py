"""`proxyd --policy` with an admin listener: where it is bound, what is answered there, and that nothing is left of it.

R1, R2, R12. Real but for the workers, of whom there are none.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.cli import main, run
from proxyd.net.listening import bind, bind_unix
from proxyd.policy.address import parse_endpoint
from tests.cli.policies import text, write
from tests.cli.start import Start, start
from tests.serve.stage import open_files
from tests.tools import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["start", "write"]

TOKEN: Final = "0123456789abcdefghijklmnopqrstuv"  # noqa: S105 - of these tests


@pytest.fixture
def write_for(write: Callable[[str], str], tmp_path: Path) -> Callable[[str], str]:
    """Writes a policy with an admin listener there, on loopback, and its token: where that is."""

    def write_for(where: str) -> str:
        path = tmp_path / "token"
        path.touch(0o600)
        path.write_text(TOKEN)
        return write(text(more=f'[admin]\nlisten = "{where}"\ntoken_file = "{path}"'))

    return write_for


class Asker:
    """Somebody who asks, while the supervisor runs in this very thread; the end comes once they have their answer."""

    def __init__(self, family: socket.AddressFamily, where: str | tuple[str, int], *fields: str) -> None:
        self.answers: list[bytes] = []
        self._family, self._where, self._fields = family, where, fields
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        """In the first turn of the supervisor."""
        self._thread.start()

    def result(self) -> list[bytes]:
        """What was answered: metrics, health, readiness."""
        self._thread.join()
        return self.answers

    def _run(self) -> None:
        try:
            for path in ("/metrics", "/healthz", "/readyz"):
                with socket.socket(self._family) as sock:
                    sock.settimeout(20)
                    sock.connect(self._where)
                    sock.sendall("\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *self._fields, "", "")).encode())
                    self.answers.append(b"".join(iter(lambda: sock.recv(65536), b"")))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)


def test_at_a_unix_socket_its_own_account_is_answered(
    start: Start, write: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2: mode 0600, whatever the umask; and its file goes in the end."""
    path = tmp_path / "admin"
    asker = Asker(socket.AF_UNIX, str(path))
    modes: list[int] = []
    start.script = [(lambda: modes.append(stat.S_IMODE(path.stat().st_mode)), asker.begin)]
    monkeypatch.setattr(start, "turn", patient(start))
    files, umask = open_files(), os.umask(0)
    try:
        assert main(["--policy", write(text(more=f'[admin]\nlisten = "unix:{path}"'))]) == 0
    finally:
        os.umask(umask)
    metrics, health, readiness = asker.result()
    assert b"\nproxyd_build_info{" in metrics
    assert health.startswith(b"HTTP/1.1 200 ")
    assert readiness.startswith(b"HTTP/1.1 ")
    assert (modes, path.exists(), open_files()) == ([0o600], False, files)


def patient(start: Start) -> Callable[..., None]:
    """Its script, and then turns without end: the end comes from elsewhere."""

    def turn(charge: object) -> None:
        start.served.append(charge)  # type: ignore[arg-type] # as it is
        for act in start.script.pop(0) if start.script else ():
            act()

    return turn


@pytest.mark.parametrize(("shown", "status"), [((f"Authorization: Bearer {TOKEN}",), b"200"), ((), b"401")])
def test_on_loopback_who_knows_the_token_is(
    start: Start,
    write_for: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    shown: tuple[str, ...],
    status: bytes,
    capfd: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    asker = Asker(socket.AF_INET, ("127.0.0.1", port), *shown)
    start.script = [(asker.begin,)]
    monkeypatch.setattr(start, "turn", patient(start))
    files = open_files()
    assert main(["--policy", write_for(f"127.0.0.1:{port}")]) == 0
    assert [answer.split(b" ")[1] for answer in asker.result()][:2] == [status] * 2
    assert open_files() == files
    assert TOKEN not in "".join(capfd.readouterr())


# What stops the start


def test_a_unix_socket_at_which_somebody_listens_is_69_and_theirs(
    start: Start, write: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A second proxyd takes nothing away from the first, and leaves nothing open."""
    path = tmp_path / "admin"
    files = open_files()
    with bind_unix(str(path), 0o600):
        assert main(["--policy", write(text(more=f'[admin]\nlisten = "unix:{path}"'))]) == 69
        assert path.is_socket()
    why = "somebody listens there already, or something else is there; stop them (another proxyd?) or remove it"
    assert capfd.readouterr().err == f"proxyd: admin.listen: unix:{path}: {why}\n"
    assert (start.served, open_files()) == ([], files)


def test_one_that_was_left_behind_is_replaced(start: Start, write: Callable[[str], str], tmp_path: Path) -> None:
    """A proxyd that was killed leaves its own."""
    path = tmp_path / "admin"
    bind_unix(str(path), 0o600).close()
    assert main(["--policy", write(text(more=f'[admin]\nlisten = "unix:{path}"'))]) == 0
    assert (len(start.served), path.exists()) == (1, False)


def test_a_folder_that_is_missing_is_69_with_the_way_out(
    start: Start, write: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = f"unix:{tmp_path}/missing/admin"
    assert main(["--policy", write(text(more=f'[admin]\nlisten = "{where}"'))]) == 69
    why = "No such file or directory; name a path in a folder of this account's own"
    assert capfd.readouterr().err == f"proxyd: admin.listen: {where}: {why}\n"
    assert start.served == []


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EADDRINUSE, "somebody listens there already; stop them (another proxyd?) or choose another port"),
        (errno.EACCES, "not permitted; choose a port above 1023, or grant CAP_NET_BIND_SERVICE"),
        (errno.EADDRNOTAVAIL, "this host has no such address; `ip address` shows which it has"),
    ],
)
def test_a_port_that_cannot_be_had_is_69_with_a_ports_way_out(
    start: Start,
    write_for: Callable[[str], str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    why: str,
) -> None:
    def cannot(*_: object) -> tuple[socket.socket, ...]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run, "bind", cannot)
    files = open_files()
    assert main(["--policy", write_for("127.0.0.1:9128")]) == 69
    assert capfd.readouterr().err == f"proxyd: admin.listen: 127.0.0.1:9128: {why}\n"
    assert (start.served, open_files()) == ([], files)


def test_a_real_port_in_use_is_69(
    start: Start, write_for: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Also by proxyd's own listener at every address, which would take its place."""
    with bind(parse_endpoint("127.0.0.1:0"))[0] as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        assert main(["--policy", write_for(where)]) == 69
    assert capfd.readouterr().err.startswith(f"proxyd: admin.listen: {where}: somebody listens there already; ")
    assert start.served == []


# Its end


def test_its_file_is_removed_while_it_is_still_ours(
    start: Start, write: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is closed, another proxyd may have made its own there."""
    path = tmp_path / "admin"
    seen: list[bool] = []
    remove = run._remove  # noqa: SLF001 - what is watched

    def watched(where: str) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            seen.append(probe.connect_ex(where) == 0)
        remove(where)

    monkeypatch.setattr(run, "_remove", watched)
    assert main(["--policy", write(text(more=f'[admin]\nlisten = "unix:{path}"'))]) == 0
    assert (seen, len(start.served), path.exists()) == ([True], 1, False)


def test_an_end_by_a_bug_leaves_nothing_of_it(start: Start, write: Callable[[str], str], tmp_path: Path) -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    files = open_files()
    start.script = [(bug,)]
    with pytest.raises(RuntimeError, match="a bug"):
        main(["--policy", write(text(more=f'[admin]\nlisten = "unix:{tmp_path}/admin"'))])
    assert (open_files(), (tmp_path / "admin").exists()) == (files, False)


LOADED: Final = """
import sys
from proxyd.cli import run
from proxyd.policy.load import load
dear = ("h11", "prometheus_client", "proxyd.serve.admin", "proxyd.serve.pages")
print([name for name in dear if name in sys.modules])
"""


def test_who_has_none_does_without_what_it_needs() -> None:
    """A third of a supervisor's memory."""
    said = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert said.stdout == "[]\n"
