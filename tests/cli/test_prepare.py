"""What a policy asks for, made ready: what stops the start or a reload has its way out, and leaves nothing behind."""

from __future__ import annotations

import datetime as dt
import errno
import os
import pwd
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from netaddr import IPAddress

from proxyd.cli import prepare as prepare_module
from proxyd.cli.prepare import MOST_LISTENERS, how_many_workers
from proxyd.net.listening import bind
from proxyd.policy.address import Endpoint
from tests.cli.desk import Desk, desk
from tests.cli.policies import text, write
from tests.serve.stage import open_files

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from netaddr import IPNetwork

    from proxyd.serve.charge import Charge

__all__ = ["desk", "write"]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which somebody listens."""
    (other,) = bind(Endpoint(IPAddress("127.0.0.1"), 0))
    with other:
        yield int(other.getsockname()[1])


def unbindable(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, to bind is a defect."""
    for name in ("bind", "bind_unix"):
        monkeypatch.setattr(prepare_module, name, lambda *_: pytest.fail("it must not listen"))


def ports(charge: Charge) -> list[tuple[str, int]]:
    """Where it listens, each once."""
    return [sockets[0].getsockname()[:2] for sockets in charge.listeners.values()]


# What stops it


def test_r12_a_bad_policy_is_78_with_every_problem_and_nothing_listens(
    desk: Desk, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unbindable(monkeypatch)
    problems, status = desk.refused(write(text().replace("default", "defualt").replace('name = "agent"', "name = 5")))
    assert (len(problems), status) == (3, 78)


def test_no_resolver_is_78_with_the_way_out(
    desk: Desk, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3, R12: no name could be resolved, and so none served."""
    unbindable(monkeypatch)
    monkeypatch.setattr(prepare_module, "system_servers", tuple)
    why = 'no resolver: /etc/resolv.conf names none; write servers = ["9.9.9.9"] under [dns] in the policy'
    assert desk.refused(write(text())) == ((why,), 78)


def test_own_addresses_that_cannot_be_read_are_78(
    desk: Desk, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12, ATTACKS 2.17: not to know our own addresses is not to have none."""

    def unreadable() -> frozenset[IPNetwork]:
        raise PermissionError(errno.EACCES, "Permission denied")

    unbindable(monkeypatch)
    monkeypatch.setattr(prepare_module, "own_addresses", unreadable)
    why = "/proc/net: Permission denied: proxyd must know this host's addresses to keep clients from itself"
    assert desk.refused(write(text())) == ((why,), 78)


def test_a_hosts_file_that_cannot_be_read_is_78(
    desk: Desk, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """R12: names that it was to decide would be asked for elsewhere. What it says is read once, for all workers."""
    hosts = tmp_path / "hosts"
    name = write(text(more=f'[dns]\nhosts_file = "{hosts}"'))
    hosts.write_text("10.0.0.7 nas.corp.example nas.corp.example\n10.0.0.8 nas.corp.example # and more\n")
    assert desk.prepare(name).handover.hosts == {"nas.corp.example": ("10.0.0.7", "10.0.0.8")}
    hosts.unlink()
    unbindable(monkeypatch)
    (why,), status = desk.refused(name)
    assert why == (
        f"dns.hosts_file: {hosts}: No such file or directory; name a file that this account may read, or remove the key"
    )
    assert status == 78


@pytest.mark.parametrize(
    ("path", "why"),
    [("/dev/zero", "it is no regular file"), ("/dev/null", "it is no regular file"), ("/", "Is a directory")],
)
def test_attack_8_a_hosts_file_that_is_none_is_neither_waited_for_nor_read(
    desk: Desk, write: Callable[[str], str], path: str, why: str
) -> None:
    problems, status = desk.refused(write(text(more=f'[dns]\nhosts_file = "{path}"')))
    assert problems[0].startswith(f"dns.hosts_file: {path}: {why}; ")
    assert status == 78


def test_more_listeners_than_can_be_handed_over_are_refused(desk: Desk, write: Callable[[str], str]) -> None:
    """The kernel passes so many files in one message, and a worker would wait for ever for one that never comes."""
    listen = ", ".join(f'"127.0.1.{number}:0"' for number in range(1, MOST_LISTENERS + 2))
    problems, status = desk.refused(write(text(f"http = [{listen}]")))
    assert (problems, status) == (("listen: more than 200 listeners; remove some",), 78)


def test_a_port_in_use_is_69_and_what_could_be_had_is_let_go_of(
    desk: Desk, write: Callable[[str], str], taken: int, tmp_path: Path
) -> None:
    """DESIGN, "Processes": and it makes no audit log; nothing is left behind by a start that was none."""
    listen = f'http = ["127.0.0.1:0", "127.0.0.1:{taken}"]'
    why = f"listen.http[1]: 127.0.0.1:{taken}: somebody listens there already; stop them (another proxyd?) or choose "
    assert desk.refused(write(text(listen, f'[audit]\nto = "{tmp_path}/log"'))) == ((f"{why}another port",), 69)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["policy.toml"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "x"), "not permitted; choose a port above 1023, or grant CAP_NET_BIND_SERVICE"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "this host has no such address; `ip address` shows which it has"),
        (OSError(errno.EAFNOSUPPORT, "Address family not supported"), "Address family not supported"),
        (OSError("nothing is known"), "cannot listen"),
    ],
)
def test_an_endpoint_that_cannot_be_had_is_69_with_the_way_out(
    error: OSError, said: str, desk: Desk, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A privileged port, an address of another host, a family that this one has not."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("socket.socket.bind", refuse)
    assert desk.refused(write(text('http = ["127.0.0.1:80"]'))) == ((f"listen.http[0]: 127.0.0.1:80: {said}",), 69)


def test_an_address_of_another_host_is_69(desk: Desk, write: Callable[[str], str]) -> None:
    """The same with the kernel's own words: no test of ours makes 10.255.255.254 this host's."""
    policy = text('http = ["10.255.255.254:0"]').replace("127.0.0.0/8", "10.0.0.0/8")
    (why,), status = desk.refused(write(policy))
    assert (status, "this host has no such address" in why) == (69, True)


@pytest.mark.parametrize("where", ["missing/audit.jsonl", ".", "fifo"])
def test_an_audit_log_that_cannot_be_opened_is_78_and_leaves_no_listener_behind(
    where: str, desk: Desk, write: Callable[[str], str], tmp_path: Path
) -> None:
    """R12: no audit, no proxy; nor one into a FIFO that nobody reads."""
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / where
    (why,), status = desk.refused(write(text(more=f'[audit]\nto = "{path}"')))
    assert re.fullmatch(
        re.escape(f"audit.to: {path}: ") + ".+" + re.escape("; name a file that this account may append to"), why
    )
    assert status == 78


# What is ready


def test_a_charge_has_what_the_workers_get(desk: Desk, write: Callable[[str], str]) -> None:
    """R12: the bytes that were read and tested, whatever happens to the file from now on."""
    name = write(text('http = ["127.0.0.1:0", "127.0.0.2:0"]'))
    charge = desk.prepare(name)
    write("nonsense")
    handover = charge.handover
    assert [address for address, _ in ports(charge)] == ["127.0.0.1", "127.0.0.2"]
    assert handover.listeners == tuple(charge.listeners) == ("127.0.0.1:0", "127.0.0.2:0")
    assert (handover.name, handover.workers, handover.day) == (name, 1, dt.datetime.now(dt.UTC).date())
    assert [str(server) for server in handover.servers] == ["9.9.9.9"]
    assert handover.policy() == charge.policy
    assert charge.pipe is None
    assert desk.complaints == []


def test_two_daemons_bear_two_names_in_via_and_a_reload_changes_none(desk: Desk, write: Callable[[str], str]) -> None:
    """ATTACKS 4.13: one behind the other is no loop; and the name tells nobody which host it is."""
    one, other = (desk.prepare(write(text())) for _ in range(2))
    again = desk.prepare(write(text()), one)
    names = [each.handover.via for each in (one, other, again)]
    assert all(re.fullmatch(r"proxyd-[0-9a-f]{8}", name) for name in names)
    assert names[0] == names[2] != names[1]


def test_the_policys_resolvers_come_before_the_systems(
    desk: Desk, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: and a host without any is no hindrance then."""
    monkeypatch.setattr(prepare_module, "system_servers", tuple)
    charge = desk.prepare(write(text(more='[dns]\nservers = ["10.0.0.53", "10.0.1.53:5353"]')))
    assert [str(server) for server in charge.handover.servers] == ["10.0.0.53", "10.0.1.53:5353"]


@pytest.mark.parametrize(("said", "workers"), [("", 1), ("workers = 3", 3), ('workers = "auto"', 5)])
def test_there_is_a_socket_for_each_worker(
    said: str, workers: int, desk: Desk, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And "auto" is a worker for each core that this account may use, which may be fewer than there are."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6, 8})
    charge = desk.prepare(write(text(top=said)))
    ((sockets),) = charge.listeners.values()
    assert charge.handover.workers == how_many_workers(charge.policy) == len(sockets) == workers
    assert len({sock.getsockname() for sock in sockets}) == 1


def test_the_audit_log_is_made_and_not_kept_open(desk: Desk, write: Callable[[str], str], tmp_path: Path) -> None:
    """What the supervisor kept open, logrotate could not get rid of. Not for everybody to read."""
    log = tmp_path / "log"
    desk.prepare(write(text(more=f'[audit]\nto = "{log}"')))
    assert stat.S_IMODE(log.stat().st_mode) & 0o007 == 0
    assert str(log) not in open_files()


def test_a_fifo_is_kept_open_so_that_its_reader_waits_for_the_workers(
    desk: Desk, write: Callable[[str], str], tmp_path: Path
) -> None:
    """A reader takes the end of the last writer for the end of all, and without a reader no worker could open it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    name = write(text(more=f'[audit]\nto = "{fifo}"'))
    first = desk.prepare(name)
    with pytest.raises(BlockingIOError):  # where nobody had it open to write, it would be at its end
        os.read(reader, 1)
    again = desk.prepare(name, first)
    assert again.pipe is first.pipe
    elsewhere = desk.prepare(write(text(more='[audit]\nto = "stdout"')), again)
    assert elsewhere.pipe is None
    again.let_go(elsewhere)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_accounts_are_numbered_and_those_that_do_not_exist_are_complained_about(
    desk: Desk, write: Callable[[str], str]
) -> None:
    """R2: one that this host has not is nobody, and no reason not to serve the others; a number needs no name."""
    own = pwd.getpwuid(0).pw_name
    more = (
        f'users = ["{own}", 4711]\n[[client]]\nname = "other"\nnetworks = ["127.0.0.0/8"]\nusers = ["no-such-account"]'
    )
    charge = desk.prepare(write(text(more=more)))
    assert charge.handover.accounts == {own: 0}
    assert desk.complaints == ['client other: users: this host has no account "no-such-account": nobody is it']


def test_clients_keep_their_place_in_the_ledger_over_reloads(desk: Desk, write: Callable[[str], str]) -> None:
    """R10: a count that moved would be somebody else's. Everybody's comes first, and memory is there for each."""

    def client(name: str) -> str:
        return f'[[client]]\nname = "{name}"\nnetworks = ["127.0.0.9/32"]'

    first = desk.prepare(write(text(more=client("b"))))
    size = os.fstat(desk.ledger).st_size
    second = desk.prepare(write(text(more=client("a"))), first)
    third = desk.prepare(write(text(more=client("b"))), second)
    assert [each.handover.ledger for each in (first, second, third)] == [
        ("", "agent", "b"),
        ("", "agent", "b", "a"),
        ("", "agent", "b", "a"),
    ]
    assert os.fstat(desk.ledger).st_size == size // 3 * 4


# A reload


@pytest.fixture
def before(desk: Desk, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Charge:
    """What is served: by two workers, which is one a core here."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return desk.prepare(write(text('http = ["127.0.0.1:0", "127.0.0.2:0"]', top='workers = "auto"')))


AUTO = 'workers = "auto"'


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (text(top="workers = 3"), "workers: a reload cannot change how many there are; restart proxyd"),
        (
            text('http = ["127.0.0.1:0"]\ncontrol = "/x"', top=AUTO),
            "listen.control: a reload cannot change it; restart proxyd",
        ),
    ],
)
def test_r12_what_a_reload_cannot_change_is_refused_and_not_left_out(
    policy: str, why: str, desk: Desk, before: Charge, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who is told "reloaded" must be able to believe it."""
    unbindable(monkeypatch)
    assert desk.refused(write(policy), before) == ((why,), 78)


@pytest.mark.parametrize("said", [AUTO, "workers = 2"])
def test_as_many_workers_as_there_are_is_no_change(
    said: str, desk: Desk, before: Charge, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the policy still says "auto" and the host has other cores by now: a deny must not wait for that."""
    if said == AUTO:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    after = desk.prepare(write(text('http = ["127.0.0.3:0"]', top=said)), before)
    assert after.handover.workers == 2
    assert [len(sockets) for sockets in after.listeners.values()] == [2]


def test_listeners_that_there_are_are_taken_over_and_only_new_ones_bound(
    desk: Desk, before: Charge, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the policy calls them: port 0 stays the port that the system chose."""
    bound: list[str] = []

    def note(endpoint: Endpoint, workers: int) -> tuple[socket.socket, ...]:
        bound.append(str(endpoint))
        return bind(endpoint, workers)

    monkeypatch.setattr(prepare_module, "bind", note)
    after = desk.prepare(write(text('http = ["127.0.0.3:0", "127.0.0.2:0"]', top=AUTO)), before)
    assert bound == ["127.0.0.3:0"]
    assert after.handover.listeners == ("127.0.0.3:0", "127.0.0.2:0")
    assert after.listeners["127.0.0.2:0"] is before.listeners["127.0.0.2:0"]


def test_r12_a_reload_that_cannot_listen_leaves_what_is_served_alone(
    desk: Desk, before: Charge, write: Callable[[str], str], taken: int
) -> None:
    """What it had opened is closed, what it took over is not."""
    listen = f'http = ["127.0.0.1:0", "127.0.0.3:0", "127.0.0.1:{taken}"]'
    (why,), status = desk.refused(write(text(listen, top=AUTO)), before)
    assert (status, why.startswith(f"listen.http[2]: 127.0.0.1:{taken}: somebody listens there already")) == (69, True)
    assert all(sock.fileno() >= 0 for sockets in before.listeners.values() for sock in sockets)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"#" * 8193 + b"\n")


def swell(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"#\n" * 600_000)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def make_circular(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "cannot be read: No such file or directory"),
        (halve, "is not TOML"),
        (empty, "schema: is missing"),
        (lengthen, "has a line of more than 8192 bytes"),
        (swell, "larger than 1048576 bytes"),
        (make_folder, "Is a directory"),
        (make_fifo, "it is no regular file"),
        (make_endless, "it is no regular file"),
        (make_circular, "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_r12_whatever_became_of_the_file_a_reload_reads_it_whole_or_not_at_all(
    spoil: Callable[[Path], None],
    said: str,
    desk: Desk,
    before: Charge,
    write: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ATTACKS 7.7: removed, half-written, emptied, huge, or something that would be waited for."""
    unbindable(monkeypatch)
    name = write(text(top=AUTO))
    spoil(Path(name))
    problems, status = desk.refused(name, before)
    assert (status, said in "\n".join(problems)) == (78, True), problems
