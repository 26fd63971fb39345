"""What a worker is given to begin with: every byte of it arrives, and what arrives is the policy that was read first.

DESIGN, "Time and change": the supervisor reads the policy's files once, and hands those bytes to the workers.
"""

from __future__ import annotations

import datetime as dt
import io
import os
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress

from proxyd.cli.files import read_policy_file
from proxyd.policy.address import Endpoint
from proxyd.policy.load import PolicyError, load
from proxyd.serve.handover import Files, Handover, PolicyFile

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
[[permit]]
host = "nas.local"
ports = [443]
networks = ["10.0.0.0/8"]
reason = "its last day is the day it was loaded on: “heute”"
expires = 2026-08-01
"""
ROWS: Final = '[[deny]]\nname = "corp"\nhosts = ["*.corp.example"]\nreason = "ours"\n'

texts = st.text(st.characters(exclude_categories=["Cs"]))
files = st.builds(
    PolicyFile,
    name=texts,
    beside=st.none() | texts,
    path=texts,
    text=st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
)
endpoints = st.builds(
    Endpoint,
    st.one_of(st.integers(0, 2**32 - 1).map(lambda n: IPAddress(n, 4)), st.ip_addresses(v=6).map(str).map(IPAddress)),
    st.integers(1, 65535),
)
handovers = st.builds(
    Handover,
    name=texts,
    day=st.dates(),
    files=st.builds(Files, st.lists(files, max_size=3)),
    servers=st.lists(endpoints, max_size=3).map(tuple),
    via=texts,
    workers=st.integers(1, 64),
)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy of two files."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "denied.toml").write_text(ROWS)
    path = tmp_path / "policy.toml"
    path.write_text(MAIN)
    return path


def handover(name: str, files: Files) -> Handover:
    """What a supervisor would hand over."""
    return Handover(name=name, day=DAY, files=files, servers=(), via="proxyd-test", workers=2)


def arrived(sent: Handover) -> Handover:
    """What comes out of the pipe."""
    pipe = io.BytesIO()
    sent.write(pipe)
    pipe.seek(0)
    return Handover.read(pipe)


@given(handovers)
def test_what_is_handed_over_arrives(sent: Handover) -> None:
    """Bytes that are no UTF-8, names that are no text, resolvers of both families."""
    assert arrived(sent) == sent


@given(handovers)
def test_it_is_one_line_and_nothing_is_read_beyond_it(sent: Handover) -> None:
    """What follows on the pipe is its end, which must not be waited for: it means that the supervisor is gone."""
    pipe = io.BytesIO()
    sent.write(pipe)
    length = pipe.tell()
    pipe.write(b"more")
    assert pipe.getvalue().index(b"\n") == length - 1
    pipe.seek(0)
    assert Handover.read(pipe) == sent
    assert pipe.read() == b"more"


def test_over_a_real_pipe_it_is_all_there_at_once() -> None:
    """Nothing waits in a buffer of ours."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as theirs, os.fdopen(writing, "wb") as ours:
        sent = handover("p.toml", Files())
        sent.write(ours)
        assert Handover.read(theirs) == sent


@pytest.mark.parametrize("octets", [0, 1, 40, -2])
def test_one_that_is_cut_off_is_none(octets: int) -> None:
    """R12: a supervisor that died while it spoke started nobody."""
    pipe = io.BytesIO()
    handover("p.toml", Files()).write(pipe)
    with pytest.raises(ValueError, match="line 1"):
        Handover.read(io.BytesIO(pipe.getvalue()[:octets]))


def test_a_pipe_that_nobody_reads_is_an_oserror() -> None:
    """The worker died; its supervisor must not."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as ours, pytest.raises(BrokenPipeError):
        handover("p.toml", Files()).write(ours)


def test_the_policy_that_arrives_is_the_one_that_was_read(policy: Path) -> None:
    """Its digest covers all bytes of all its files, and the included one is found beside the one that includes it."""
    files = Files()
    first = load(str(policy), files.remembering(read_policy_file), DAY)
    assert arrived(handover(str(policy), files)).policy() == first
    assert [row.name for row in first.deny] == ["corp"]


def test_r12_no_worker_runs_another_policy_than_its_siblings(policy: Path) -> None:
    """Whatever happens to the files meanwhile, a worker that is started again has the bytes that were read first."""
    files = Files()
    first = load(str(policy), files.remembering(read_policy_file), DAY)
    policy.write_text(MAIN.replace('default = "deny"', 'default = "allow"'))
    (policy.parent / "rows" / "denied.toml").unlink()
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
    (name, beside) = [(each.name, each.beside) for each in files.kept][1]
    assert files.read(name, beside)[1] == ROWS.encode()
    for asked in ((name, None), (name, "/elsewhere"), (str(policy) + "x", None)):
        with pytest.raises(OSError, match="it was not read"):
            files.read(*asked)
    with pytest.raises(PolicyError, match="it was not read"):
        handover(str(policy), Files()).policy()


def test_what_could_not_be_read_is_not_remembered(tmp_path: Path) -> None:
    """It is said once, by the supervisor, and nothing is started."""
    files = Files()
    with pytest.raises(FileNotFoundError):
        files.remembering(read_policy_file)(str(tmp_path / "none.toml"), None)
    assert files.kept == []
