"""`proxyd health`: what is said and the exit status; whoever is asked is the real desk, or played where it errs."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import health, main
from proxyd.net.listening import bind_unix
from proxyd.serve.admin import Desk, Page
from tests.cli.policies import text, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["write"]

TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 - nobody's
READY, STUCK, STARTING = (
    Page(b"ok\n"),
    Page(b"1 workers are stuck\n", status=HTTPStatus.SERVICE_UNAVAILABLE),
    Page(b"0 of 2 workers serve\n", status=HTTPStatus.SERVICE_UNAVAILABLE),
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the admin listener is."""
    return str(tmp_path / "admin")


@pytest.fixture
def policy(path: str, write: Callable[[str], str]) -> str:
    """The policy's file, which says so."""
    return write(text(more=f'[admin]\nlisten = "unix:{path}"'))


@contextmanager
def serving(listener: socket.socket, alive: Page = READY, ready: Page = READY) -> Iterator[None]:
    """A supervisor's desk, worked until it is no longer wanted."""
    desk = Desk(listener, lambda: TOKEN, {"/healthz": lambda: alive, "/readyz": lambda: ready}, pytest.fail)
    served = threading.Event()

    def work() -> None:
        while not served.is_set():
            desk.work()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        served.set()
        worker.join()
        desk.close()


@contextmanager
def answered(listener: socket.socket, said: bytes) -> Iterator[None]:
    """Somebody who answers once, with these octets."""

    def serve() -> None:
        visitor, _ = listener.accept()
        with visitor:
            visitor.recv(65536)
            visitor.sendall(said)

    with listener:
        server = threading.Thread(target=serve)
        server.start()
        yield
        server.join()


@pytest.mark.parametrize(
    ("words", "alive", "ready", "status", "said"),
    [
        ([], READY, READY, 0, "ok"),
        ([], READY, STARTING, 1, "0 of 2 workers serve"),
        (["--alive"], READY, STARTING, 0, "ok"),  # a restart would not make it start faster
        (["--alive"], STUCK, READY, 1, "1 workers are stuck"),
    ],
)
def test_it_is_0_if_all_is_well_and_1_if_the_proxy_says_not(  # noqa: PLR0913, PLR0917 - a table
    words: list[str],
    alive: Page,
    ready: Page,
    status: int,
    said: str,
    policy: str,
    path: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Readiness is asked for, or with --alive only whether a restart would help."""
    with serving(bind_unix(path, 0o600), alive, ready):
        assert main(["health", "--policy", policy, *words]) == status
    assert capfd.readouterr() == (f"{said}\n", "")


@pytest.mark.parametrize(("token", "status"), [(TOKEN, 0), ("f" * 32, 69)])
def test_r2_on_loopback_the_token_is_shown(
    token: str, status: int, write: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is never told to anybody else, and never said."""
    secret = tmp_path / "token"
    secret.write_text(f"{token}\n")
    secret.chmod(0o600)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    policy = write(text(more=f'[admin]\nlisten = "127.0.0.1:{port}"\ntoken_file = "{secret}"'))
    with serving(listener):
        assert main(["health", "--policy", policy]) == status
    refused = f"proxyd: 127.0.0.1:{port}: answers 401 401 Unauthorized\n"
    assert capfd.readouterr() == (("ok\n", "") if status == 0 else ("", refused))


def test_a_token_that_others_may_read_is_78_and_nobody_is_asked(
    write: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o644)
    policy = write(text(more=f'[admin]\nlisten = "127.0.0.1:1"\ntoken_file = "{secret}"'))
    assert main(["health", "--policy", policy]) == 78
    said = f"proxyd: admin.token_file: {secret}: others may read or write it; chmod 0640 (it is 0o0644)\n"
    assert capfd.readouterr() == ("", said)


def test_r12_a_bad_policy_is_78(write: Callable[[str], str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--policy", write("x = 1")]) == 78
    out, err = capfd.readouterr()
    assert (out, err.startswith("proxyd: ")) == ("", True)


def test_a_policy_without_an_admin_listener_is_78_with_the_way_out(
    write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    name = write(text())
    assert main(["health", "--policy", name]) == 78
    assert capfd.readouterr().err == (
        f'proxyd: {name}: admin.listen: nobody can be asked; write listen = "unix:/run/proxyd/admin" under [admin], '
        "and restart\n"
    )


def test_nobody_there_is_69(policy: str, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No file, or one that was left behind."""
    assert main(["health", "--policy", policy]) == 69
    bind_unix(path, 0o600).close()
    assert main(["health", "--policy", policy]) == 69
    assert capfd.readouterr().err.splitlines() == [
        f"proxyd: unix:{path}: No such file or directory; is proxyd running with this policy?",
        f"proxyd: unix:{path}: Connection refused; is proxyd running with this policy?",
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "no answer; is proxyd running with this policy?"),
        (b"\x1b[2J\r\n\r\n", "no answer; is proxyd running with this policy?"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\no", "no answer; is proxyd running with this policy?"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n\x1b[2Jx", "answers 404 \\x1b[2Jx"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "answers 204 "),
    ],
)
def test_r12_what_is_no_answer_of_proxyds_is_69(
    said: bytes, why: str, policy: str, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever listens there instead: nothing of it says that all is well, or moves a cursor (ATTACKS 9)."""
    with answered(bind_unix(path, 0o600), said):
        assert main(["health", "--policy", policy]) == 69
    assert capfd.readouterr() == ("", f"proxyd: unix:{path}: {why}\n")


def test_one_that_does_not_answer_in_time_is_69(
    policy: str, path: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stuck supervisor, which nothing else would tell of."""
    assert health.PATIENCE_SECONDS == 3.0
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.001)
    with bind_unix(path, 0o600):
        assert main(["health", "--policy", policy]) == 69
    assert capfd.readouterr().err == f"proxyd: unix:{path}: no answer; is proxyd running with this policy?\n"


@pytest.mark.parametrize(
    ("page", "status", "told"), [(READY, 0, (True, "ok")), (STARTING, 1, (False, "0 of 2 workers serve"))]
)
def test_a_program_is_told_the_same(
    path: str, policy: str, page: Page, status: int, told: tuple[bool, str], capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(bind_unix(path, 0o600), ready=page):
        assert main(["health", "--policy", policy, "--json"]) == status
    assert json.loads(capfd.readouterr().out) == {"well": told[0], "said": told[1]}


def test_a_program_is_told_that_nobody_answers(policy: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--policy", policy, "--json"]) == 69
    (why,) = json.loads(capfd.readouterr().out)["problems"]
    assert why.endswith("is proxyd running with this policy?")
