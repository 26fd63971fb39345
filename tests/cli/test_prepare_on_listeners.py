"""Listeners that are no plain address: Unix sockets, what the service manager hands over, and TLS."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import prepare as prepare_module
from tests.adversarial.tls import certificates
from tests.cli.desk import Desk, desk
from tests.cli.policies import text, write
from tests.serve.stage import open_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["desk", "write"]

LOCAL = '[[client]]\nname = "local"\nusers = [0]'


def unix(*paths: Path, more: str = "", tables: str = "") -> str:
    """A policy with Unix sockets."""
    places = ", ".join(f'"unix:{path}"' for path in paths)
    return text(f"http = [{places}]\n{more}", f"{LOCAL}\n{tables}")


# Unix sockets


def test_r2_a_unix_socket_is_for_whom_the_policy_says_and_one_for_all_workers(
    desk: Desk, write: Callable[[str], str], tmp_path: Path
) -> None:
    policy = unix(tmp_path / "sock", more='unix_mode = "0620"')
    charge = desk.prepare(write(f"workers = 3\n{policy}"))
    ((sock,),) = charge.listeners.values()
    assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o620
    assert [charge.sockets_of(place) for place in range(3)] == [[sock.fileno()]] * 3


def test_a_group_that_does_not_exist_is_78(desk: Desk, write: Callable[[str], str], tmp_path: Path) -> None:
    """And what could be had is let go of, its file too."""
    listen = f'http = ["127.0.0.1:0", "unix:{tmp_path}/sock"]\nunix_group = "no-such-group"'
    why = "listen.unix_group: this host has no such group"
    assert desk.refused(write(text(listen, LOCAL))) == ((why,), 78)
    assert not (tmp_path / "sock").exists()


def test_a_start_that_was_none_leaves_no_file_of_a_socket(
    desk: Desk, write: Callable[[str], str], tmp_path: Path
) -> None:
    """Neither where another listener cannot be had nor where the log cannot."""
    places = (tmp_path / "one", tmp_path / "missing" / "other")
    (why,), status = desk.refused(write(unix(*places)))
    assert (status, why) == (69, f"listen.http[1]: unix:{places[1]}: No such file or directory")
    assert desk.refused(write(unix(places[0], tables=f'[audit]\nto = "{tmp_path}"')))[1] == 78
    assert not places[0].exists()


@pytest.mark.parametrize(("more", "name"), [('unix_mode = "0660"', "unix_mode"), ('unix_group = "root"', "unix_group")])
def test_r12_who_may_use_a_unix_socket_is_not_said_to_be_changed_by_a_reload(
    more: str, name: str, desk: Desk, write: Callable[[str], str], tmp_path: Path
) -> None:
    """It is the file's mode since it was made; "reloaded" was said, and everybody could come as before."""
    before = desk.prepare(write(unix(tmp_path / "sock")))
    why = f"listen.{name}: a reload cannot change it; restart proxyd"
    assert desk.refused(write(unix(tmp_path / "sock", more=more)), before) == ((why,), 78)


def test_a_reload_takes_a_unix_socket_over(desk: Desk, write: Callable[[str], str], tmp_path: Path) -> None:
    """Its file stays where it is, whoever prepares what; and one that fails takes it away from nobody."""
    before = desk.prepare(write(unix(tmp_path / "sock")))
    after = desk.prepare(write(unix(tmp_path / "sock", tmp_path / "new")), before)
    assert list(after.listeners) == [f"unix:{tmp_path}/{name}" for name in ("sock", "new")]
    assert after.listeners[f"unix:{tmp_path}/sock"] is before.listeners[f"unix:{tmp_path}/sock"]
    after.let_go(before)
    desk.refused(write(unix(tmp_path / "sock", tmp_path / "missing" / "new")), before)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["policy.toml", "sock"]


# The service manager's


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, socket.socket]]]:
    """What the service manager hands over: a test fills it before it prepares anything."""
    with ExitStack() as stack:
        found: list[tuple[str, socket.socket]] = []
        monkeypatch.setattr(prepare_module, "inherited", lambda: found)
        prepare_module._handed_over.cache_clear()  # noqa: SLF001 - as in a process of its own
        yield found
        for _, sock in found:
            stack.enter_context(sock)
    prepare_module._handed_over.cache_clear()  # noqa: SLF001 - nothing of it is left for others


def server(address: str = "127.0.0.1") -> socket.socket:
    """A socket that listens."""
    return socket.create_server((address, 0))


def inodes(sockets: tuple[socket.socket, ...]) -> list[int]:
    """Which sockets they are, by whatever number."""
    return [os.fstat(sock.fileno()).st_ino for sock in sockets]


@pytest.mark.parametrize(("place", "taken"), [("systemd", [0, 1, 2]), ("systemd:web", [0, 2]), ("systemd:other", [1])])
def test_what_the_service_manager_made_is_taken_over_by_its_name(
    place: str, taken: list[int], desk: Desk, write: Callable[[str], str], handed_over: list[tuple[str, socket.socket]]
) -> None:
    """And one socket serves all workers: there are no more of it."""
    handed_over += [("web", server()), ("other", server()), ("web", server())]
    charge = desk.prepare(write(text(f'http = ["{place}"]')))
    assert list(charge.listeners) == [f"{place} {index}" for index in taken]
    assert [inodes(sockets) for sockets in charge.listeners.values()] == [inodes((handed_over[i][1],)) for i in taken]


def test_nothing_handed_over_is_69_with_the_way_out(
    desk: Desk, write: Callable[[str], str], handed_over: list[tuple[str, socket.socket]]
) -> None:
    handed_over.append(("web", server()))
    why = "listen.http[0]: systemd:api: the service manager has handed over no such socket; see systemd.socket(5)"
    assert desk.refused(write(text('http = ["systemd:api"]'))) == ((why,), 69)


def test_r1_a_socket_of_the_service_managers_is_held_to_the_same_rules(
    desk: Desk, write: Callable[[str], str], handed_over: list[tuple[str, socket.socket]]
) -> None:
    """At the start, and where a reload would let more clients in than the listener may have."""
    handed_over.append(("", server("0.0.0.0")))
    problems, status = desk.refused(write(text('http = ["systemd"]')))
    assert status == 78
    assert all(problem.startswith("systemd: 0.0.0.0:") for problem in problems)
    public = 'http = ["systemd"]\ndangerously_public_listener = true'
    policy = text(public).replace("127.0.0.0/8", "10.0.0.0/8")
    before = desk.prepare(write(policy))
    again, status = desk.refused(write(text('http = ["systemd"]').replace("127.0.0.0/8", "10.0.0.0/8")), before)
    assert (status, "is open to more than a private network" in again[0]) == (78, True)


def test_a_unix_socket_of_the_service_managers_has_no_address_to_be_judged(
    desk: Desk, write: Callable[[str], str], handed_over: list[tuple[str, socket.socket]], tmp_path: Path
) -> None:
    """Who can reach it, its file's mode says, and that is the service manager's."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "sock"))
    sock.listen()
    handed_over.append(("", sock))
    charge = desk.prepare(write(text('http = ["systemd"]', LOCAL)))
    assert charge.described == ("systemd 0",)
    charge.let_go()
    assert (tmp_path / "sock").is_socket(), "it is not ours to remove"


def test_what_was_handed_over_is_there_for_every_reload_under_any_name(
    desk: Desk, write: Callable[[str], str], handed_over: list[tuple[str, socket.socket]]
) -> None:
    """Once, a reload that failed closed it for ever, and one that called it otherwise closed what it served on."""
    handed_over.append(("web", server()))
    before = desk.prepare(write(text('http = ["systemd"]')))
    after = desk.prepare(write(text('http = ["systemd:web"]')), before)
    before.let_go(after)
    ((sock,),) = after.listeners.values()
    with socket.create_connection(handed_over[0][1].getsockname()):
        sock.accept()[0].close()
    desk.refused(write(text('http = ["systemd", "10.255.255.254:1"]').replace("127.0.0.0/8", "10.0.0.0/8")), after)
    again = desk.prepare(write(text('http = ["systemd"]')), after)
    assert inodes(again.listeners["systemd 0"]) == inodes((sock,))
    kept = desk.prepare(write(text('http = ["systemd"]')), again)
    assert kept.listeners["systemd 0"] is again.listeners["systemd 0"]


# TLS


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder with a certificate and its key."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    certificates(folder, ["proxy.test"], ["127.0.0.1"])
    (folder / "origin.key").chmod(0o640)
    return folder


def over_tls(folder: Path, key: str = "origin.key", more: str = "") -> str:
    """A policy whose clients speak TLS."""
    files = f'certificate = "{folder}/origin.pem"\nprivate_key = "{folder}/{key}"'
    return text(f'https = ["127.0.0.1:0"]\n{files}\n{more}')


def test_a_listener_for_tls_is_another_than_a_plain_one(desk: Desk, write: Callable[[str], str], secrets: Path) -> None:
    """A reload that moves an address from one to the other must not take the plain one over as it is."""
    before = desk.prepare(write(over_tls(secrets)))
    assert list(before.listeners) == ["tls 127.0.0.1:0"]
    after = desk.prepare(write(text()), before)
    assert list(after.listeners) == ["127.0.0.1:0"]
    assert inodes(after.listeners["127.0.0.1:0"]) != inodes(before.listeners["tls 127.0.0.1:0"])
    again = desk.prepare(write(over_tls(secrets)), before)
    assert again.listeners["tls 127.0.0.1:0"] is before.listeners["tls 127.0.0.1:0"]


def test_r7_a_key_that_others_may_read_is_78(desk: Desk, write: Callable[[str], str], secrets: Path) -> None:
    """Whoever has it is the proxy to its clients."""
    (secrets / "origin.key").chmod(0o644)
    why = f"listen.private_key: {secrets}/origin.key: others may read or write it; chmod 0640 (it is 0o0644)"
    assert desk.refused(write(over_tls(secrets))) == ((why,), 78)


@pytest.mark.parametrize(
    ("key", "said"), [("missing", "No such file or directory"), ("origin.pem", ""), ("ca.key", "")]
)
def test_r12_a_key_that_will_not_do_is_78(
    key: str, said: str, desk: Desk, write: Callable[[str], str], secrets: Path
) -> None:
    """It is not there, no key at all, or another certificate's."""
    for each in secrets.iterdir():
        each.chmod(0o600)
    files = open_files()
    (why,), status = desk.refused(write(over_tls(secrets, key)))
    assert (status, why.startswith(f"listen.private_key: {secrets}/{key}: {said}")) == (78, True)
    assert not why.endswith(": ")
    assert open_files() == files
