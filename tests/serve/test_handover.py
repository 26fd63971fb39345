"""What a worker is given to begin with: every byte of it arrives, and what arrives is the policy that was read first.

DESIGN, "Time and change": the supervisor reads the policy's files once, and hands those bytes to the workers.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress

from proxyd.cli.files import read_policy_file
from proxyd.policy.address import Endpoint
from proxyd.policy.dns import Server
from proxyd.policy.load import PolicyError, load
from proxyd.serve.handover import AT_ONCE, Files, Handover, PolicyFile
from tests.serve.stage import open_files

if TYPE_CHECKING:
    from pathlib import Path

DAY: Final = dt.date(2026, 8, 1)
MAIN: Final = """\
schema = 1
name = "gateway"
include = ["rows/denied.toml"]
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "deny"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
[client.credential]
user = "agent"
file = "agent.hash"
[[permit]]
host = "nas.local"
ports = [443]
networks = ["10.0.0.0/8"]
reason = "its last day is the day it was loaded on: “heute”"
expires = 2026-08-01
"""
ROWS: Final = '[[deny]]\nname = "corp"\nhosts = ["*.corp.example"]\nreason = "ours"\n'
HASH: Final = f"$scrypt$ln=14,r=8,p=5${'A' * 22}${'A' * 43}\n"

texts = st.text(st.characters(exclude_categories=["Cs"]))
files = st.builds(
    PolicyFile,
    name=texts,
    beside=st.none() | texts,
    path=texts,
    text=st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
)
addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: IPAddress(n, 4)), st.ip_addresses(v=6).map(str).map(IPAddress)
)
endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
servers = st.one_of(
    st.builds(Server, endpoints, st.sampled_from(["udp", "tcp"])),
    st.builds(Server, endpoints, st.just("tls"), st.sampled_from(["", "dns.example"])),
)
handovers = st.builds(
    Handover,
    name=texts,
    day=st.dates(),
    files=st.builds(Files, st.lists(files, max_size=3)),
    servers=st.lists(servers, max_size=3).map(tuple),
    via=texts,
    workers=st.integers(1, 64),
    listeners=st.lists(texts, max_size=3).map(tuple),
    accounts=st.dictionaries(texts, st.integers(0, 2**32 - 2), max_size=3),
    ledger=st.lists(texts, max_size=3).map(tuple),
    hosts=st.dictionaries(texts, st.lists(addresses.map(str), max_size=2).map(tuple), max_size=3),
    certificate=texts,
    private_key=texts,
    peer=st.none() | st.integers(0, 2**32 - 1),
)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy of two files, and a secret."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "denied.toml").write_text(ROWS)
    secret = tmp_path / "agent.hash"
    secret.write_text(HASH)
    secret.chmod(0o600)
    path = tmp_path / "policy.toml"
    path.write_text(MAIN)
    return path


def handover(name: str, files: Files) -> Handover:
    """What a supervisor would hand over."""
    return Handover(name=name, day=DAY, files=files, servers=(), via="proxyd-test", workers=2)


def arrived(sent: Handover) -> Handover:
    """What comes out of the file in memory, whoever read it before: its position is shared with others' numbers."""
    fd = sent.as_file()
    os.lseek(fd, 3, os.SEEK_SET)
    return Handover.from_file(fd)


def contents(sent: Handover) -> bytes:
    """What is in the file."""
    fd = sent.as_file()
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read()


@given(handovers)
def test_what_is_handed_over_arrives(sent: Handover) -> None:
    """Bytes that are no UTF-8, names that are no text, resolvers of every kind: all of it, and of the same types."""
    came = arrived(sent)
    assert came == sent
    assert [type(getattr(came, each.name)) for each in fields(Handover)] == [
        type(getattr(sent, each.name)) for each in fields(Handover)
    ]
    assert hash(came.servers + came.listeners + came.ledger + tuple(came.hosts.values())) is not None


def test_every_field_is_tried() -> None:
    """One that is added later must be in the round trip above, too."""
    tried = {"name", "day", "files", "servers", "via", "workers", "listeners", "accounts", "ledger", "hosts"}
    tried |= {"certificate", "private_key", "peer"}
    assert {each.name for each in fields(Handover)} == tried


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", bytes(range(256)), "söme 日本 \ud7ff".encode(), b"\xed\xa0\x80"])
def test_bytes_that_are_no_text_come_back_as_they_were(data: bytes) -> None:
    """The digest covers all bytes; that some are no UTF-8 is the loader's to say, and the worker says the same."""
    read = Files()
    read.remembering(lambda *_, **__: ("/p", data))("p", None)
    sent = handover("p", read)
    assert arrived(sent).files.read("p", None) == ("/p", data)


def test_it_is_in_memory_of_any_size_for_no_other_program_and_closed_when_it_was_read() -> None:
    """R7: never on a disk, nor in an argument; nor in a file that a later exec inherits."""
    before = open_files()
    sent = handover("p", Files([PolicyFile("p", None, "/p", "x" * 5_000_000)]))
    fd = sent.as_file()
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:")  # noqa: PTH115 - a link that leads nowhere
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert Handover.from_file(fd) == sent
    assert open_files() == before


@pytest.mark.parametrize("octets", [0, 1, 40, -2])
def test_r12_one_that_is_cut_off_is_none(octets: int) -> None:
    """Memory ran out while it was written: nobody begins with half of it. The file is closed all the same."""
    whole = contents(handover("p.toml", Files()))
    before = open_files()
    fd = os.memfd_create("cut")
    os.write(fd, whole[:octets])
    with pytest.raises(ValueError, match="line 1"):
        Handover.from_file(fd)
    assert open_files() == before


def test_what_a_second_sigterm_means_is_told_by_another_signal() -> None:
    """A service manager's SIGTERM to all processes would else be a second one for the workers."""
    assert AT_ONCE.name == "SIGUSR2"


def test_the_policy_that_arrives_is_the_one_that_was_read(policy: Path) -> None:
    """Its digest covers all bytes of all its files, and the included one is found beside the one that includes it."""
    files = Files()
    first = load(str(policy), files.remembering(read_policy_file), DAY)
    assert arrived(handover(str(policy), files)).policy() == first
    assert [row.name for row in first.deny] == ["corp"]
    assert first.client[0].credential is not None
    assert str(first.client[0].credential.password) == HASH.strip()


def test_r12_no_worker_runs_another_policy_than_its_siblings(policy: Path) -> None:
    """Whatever happens to the files meanwhile, a worker that is started again has the bytes that were read first."""
    files = Files()
    first = load(str(policy), files.remembering(read_policy_file), DAY)
    policy.write_text(MAIN.replace('default = "deny"', 'default = "allow"'))
    (policy.parent / "rows" / "denied.toml").unlink()
    (policy.parent / "agent.hash").chmod(0o666)
    assert arrived(handover(str(policy), files)).policy() == first


def test_a_permit_that_has_expired_since_the_start_stops_no_restart(policy: Path) -> None:
    """The policy is tested as of the day on which the supervisor tested it; what holds today is asked for elsewhere."""
    files = Files()
    load(str(policy), files.remembering(read_policy_file), DAY)
    assert arrived(handover(str(policy), files)).policy().permit != ()


def test_what_was_not_read_is_not_read_now(policy: Path) -> None:
    """R12: a worker opens no policy file; neither another name nor the same one beside another file."""
    files = Files()
    load(str(policy), files.remembering(read_policy_file), DAY)
    (name, beside) = [(each.name, each.beside) for each in files.kept if each.name != "agent.hash"][1]
    assert files.read(name, beside)[1] == ROWS.encode()
    assert files.read("agent.hash", str(policy), secret=True)[1] == HASH.encode()
    for asked in ((name, None), (name, "/elsewhere"), (str(policy) + "x", None)):
        with pytest.raises(OSError, match="it was not read"):
            files.read(*asked)
    with pytest.raises(PolicyError, match="it was not read"):
        handover(str(policy), Files()).policy()


def test_a_secret_is_read_as_one(policy: Path) -> None:
    """What remembers must not forget to ask for that: others could write the hash that lets them in."""
    (policy.parent / "agent.hash").chmod(0o604)
    with pytest.raises(PolicyError, match="others may read or write it"):
        load(str(policy), Files().remembering(read_policy_file), DAY)


def test_what_could_not_be_read_is_not_remembered(tmp_path: Path) -> None:
    """It is said once, by the supervisor, and nothing is started."""
    files = Files()
    with pytest.raises(FileNotFoundError):
        files.remembering(read_policy_file)(str(tmp_path / "none.toml"), None)
    assert files.kept == []
