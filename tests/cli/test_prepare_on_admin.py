"""What a policy asks for of the admin listener, made ready: its token, and what a reload may change of it.

R2, R7, R12. Where it may be is in tests/policy/test_admin.py; it is bound in test_run_on_admin.py.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.cli.desk import Desk, desk
from tests.cli.policies import text, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["desk", "write"]

TOKEN: Final = "0123456789abcdefghijklmnopqrstuv"  # noqa: S105 - of these tests


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with a token."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def asked(token: Path, listen: str = "127.0.0.1:9128", name: str = "agent") -> str:
    """A policy with an admin listener on loopback."""
    return text(more=f'[admin]\nlisten = "{listen}"\ntoken_file = "{token}"').replace('"agent"', f'"{name}"')


def test_who_asks_for_none_has_none(desk: Desk, write: Callable[[str], str]) -> None:
    assert desk.prepare(write(text())).token == ""
    assert desk.prepare(write(text(more='[admin]\nlisten = "unix:/run/admin"'))).token == ""


@pytest.mark.parametrize(
    "said",
    [TOKEN, f"{TOKEN}\n", f"  {TOKEN}\r\n", "a" * 512, "A1._~+/-" * 4 + "==", TOKEN.encode().hex()],
)
def test_a_token_is_what_the_file_says(desk: Desk, write: Callable[[str], str], token: Path, said: str) -> None:
    """RFC 6750 §2.1; an editor's newline is no part of it."""
    token.write_text(said)
    assert desk.prepare(write(asked(token))).token == said.strip()


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_group_may_read_it(desk: Desk, write: Callable[[str], str], token: Path, mode: int) -> None:
    token.chmod(mode)
    assert desk.prepare(write(asked(token))).token == TOKEN


@pytest.mark.parametrize(
    "said",
    [
        *("", "\n", TOKEN[:31], "a" * 513, f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", f"{TOKEN}=a", "=" * 32, "é" * 32),
        *(f"Bearer {TOKEN}", f"{TOKEN}\0", f'"{TOKEN}"'),
    ],
)
def test_r12_what_is_no_token_is_78_with_the_way_out_and_is_not_repeated(
    desk: Desk, write: Callable[[str], str], token: Path, said: str
) -> None:
    """R7: a line on stderr goes into logs."""
    token.write_text(said)
    why = f"admin.token_file: {token}: is no token of 32 letters and digits at least; `openssl rand -hex 32` makes one"
    assert desk.refused(write(asked(token))) == ((why,), 78)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o606, 0o660, 0o620, 0o601, 0o777])
def test_r2_a_token_that_others_may_read_is_78(desk: Desk, write: Callable[[str], str], token: Path, mode: int) -> None:
    token.chmod(mode)
    why = f"admin.token_file: {token}: others may read or write it; chmod 0640 (it is {mode:#06o})"
    assert desk.refused(write(asked(token))) == ((why,), 78)


def remove(path: Path) -> None:
    path.unlink()


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (remove, "No such file or directory"),
        (make_folder, "Is a directory"),
        (make_fifo, "it is no regular file"),
    ],
)
def test_r12_a_token_that_cannot_be_read_is_78(
    desk: Desk, write: Callable[[str], str], token: Path, spoil: Callable[[Path], None], why: str
) -> None:
    """No token is none that is asked for; a FIFO is not waited for."""
    spoil(token)
    assert desk.refused(write(asked(token))) == ((f"admin.token_file: {token}: {why}",), 78)


def test_r7_the_token_is_in_nothing_that_is_shown_or_handed_over(
    desk: Desk, write: Callable[[str], str], token: Path
) -> None:
    """No worker learns it; nor does the digest of the policy tell of it."""
    charge = desk.prepare(write(asked(token)))
    assert TOKEN not in repr(charge)
    with os.fdopen(charge.handover.as_file(), "rb") as file:
        file.seek(0)
        handed = file.read()
    assert str(token) in json.loads(handed)["files"]["kept"][0]["text"], "the policy says where it is"
    assert TOKEN.encode() not in handed


# A reload


def test_a_reload_takes_another_token_into_use(desk: Desk, write: Callable[[str], str], token: Path) -> None:
    """Another content, or another file; the old charge has the old one until then."""
    first = desk.prepare(write(asked(token)))
    token.write_text(TOKEN[::-1])
    second = desk.prepare(write(asked(token)), first)
    assert (first.token, second.token) == (TOKEN, TOKEN[::-1])
    elsewhere = token.with_name("elsewhere")
    elsewhere.touch(0o600)
    elsewhere.write_text(TOKEN * 2)
    assert desk.prepare(write(asked(elsewhere)), second).token == TOKEN * 2


def test_r12_a_reload_with_a_bad_token_is_refused(desk: Desk, write: Callable[[str], str], token: Path) -> None:
    first = desk.prepare(write(asked(token)))
    token.write_text("short")
    (why,), status = desk.refused(write(asked(token, name="other")), first)
    assert (why.startswith(f"admin.token_file: {token}: is no token"), status) == (True, 78)


@pytest.mark.parametrize("listen", ["127.0.0.1:9129", "127.0.0.2:9128", "[::1]:9128"])
def test_r12_a_reload_cannot_move_it(desk: Desk, write: Callable[[str], str], token: Path, listen: str) -> None:
    """Its port is one that nobody reaches through proxyd, and was judged so from the beginning."""
    first = desk.prepare(write(asked(token)))
    why = "admin.listen: a reload cannot change it; restart proxyd"
    assert desk.refused(write(asked(token, listen)), first) == ((why,), 78)
    assert desk.refused(write(text()), first) == ((why,), 78)
    assert desk.refused(write(text(more='[admin]\nlisten = "unix:/run/admin"')), first) == ((why,), 78)
    without = desk.prepare(write(text()))
    assert desk.refused(write(asked(token)), without) == ((why,), 78)
