"""Policy files read from disk: whatever stands at a path is a policy or a problem in words, never a traceback (R12)."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import stat
import threading
from typing import TYPE_CHECKING, TextIO

import pytest

from proxyd.cli import files
from proxyd.cli.files import MAX_FILE, complain, load_or_complain, not_spelt, read_policy_file, today

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "allow"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
"""


def problems(path: Path, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What is said about the policy at `path`, each line without our name."""
    assert load_or_complain(str(path)) is None
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert all(line.startswith("proxyd: ") for line in lines)
    return [line.removeprefix(f"proxyd: {path}: ") for line in lines]


def test_a_good_policy_is_loaded_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    policy = load_or_complain(str(path))
    assert policy is not None
    assert policy.name == "gateway"
    assert capfd.readouterr() == ("", "")


def test_every_problem_is_printed_not_only_the_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R8, R12: each on its line, with its key and the way out."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.replace('"allow"', '"maybe"').replace("networks", "netwroks"))
    assert problems(path, capfd) == [
        'destinations.default: "maybe" is not one of them; write "allow" or "deny"',
        'client[0].netwroks: unknown key; did you mean "networks"?',
    ]


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert problems(tmp_path / "none.toml", capfd) == ["cannot be read: No such file or directory"]


def test_a_directory_is_no_policy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert problems(tmp_path, capfd) == ["cannot be read: Is a directory"]


def test_a_file_that_may_not_be_read_is_said_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: an unreadable rule is an error and never "no rule"."""

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("proxyd.cli.files.os.open", deny)
        assert problems(tmp_path / "policy.toml", capfd) == ["cannot be read: Permission denied"]


def test_a_binary_file_is_no_policy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\x7fELF\x02\x01\x01\x00\xff\xfe")
    assert problems(path, capfd) == ["is not UTF-8 text; save it as UTF-8 without a byte order mark"]


def test_an_empty_file_is_no_policy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R12: it says nothing, and nothing is not "allow"."""
    path = tmp_path / "policy.toml"
    path.touch()
    said = [line.partition(":")[0] for line in problems(path, capfd)]
    assert said == ["schema", "name", "listen", "destinations", "client"]


@pytest.mark.parametrize("size", [MAX_FILE, MAX_FILE + 1])
def test_a_file_larger_than_1_mib_is_no_policy(size: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody reviews more (R8), and the memory of a mistake is bounded; exactly 1 MiB is still read."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.ljust(size, "\n"))
    if size > MAX_FILE:
        assert problems(path, capfd) == ["cannot be read: larger than 1048576 bytes"]
    else:
        assert load_or_complain(str(path)) is not None


def test_a_file_without_end_is_no_policy(capfd: pytest.CaptureFixture[str]) -> None:
    assert load_or_complain("/dev/zero") is None
    assert capfd.readouterr().err == "proxyd: /dev/zero: cannot be read: it is no regular file\n"


def test_a_fifo_that_nobody_writes_to_is_no_policy_and_is_not_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ATTACKS 8: the start would hang without a word; the same for one that is included."""
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    said: list[list[str]] = []
    asking = threading.Thread(target=lambda: said.append(problems(fifo, capfd)), daemon=True)
    asking.start()
    asking.join(60.0)
    assert said == [["cannot be read: it is no regular file"]]
    policy = tmp_path / "policy.toml"
    policy.write_text(f'include = ["fifo.toml"]\n{POLICY}')
    assert load_or_complain(str(policy)) is None
    assert "it is no regular file" in capfd.readouterr().err


def test_a_fifo_with_a_policy_in_it_is_no_policy_either(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R8: what was judged could not be read again by a reviewer."""
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    os.write(held, POLICY.encode())
    assert problems(fifo, capfd) == ["cannot be read: it is no regular file"]
    os.close(held)


def test_a_file_that_has_nothing_to_be_read_now_is_no_policy(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/proc/kmsg` says of itself that it is a regular file, and is not; here a pipe does."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with monkeypatch.context() as patched:
        patched.setattr(files, "_without_waiting", lambda *_: reading)
        patched.setattr(stat, "S_ISREG", lambda _: True)
        assert load_or_complain("/proc/kmsg") is None
    os.close(writing)
    assert capfd.readouterr().err == "proxyd: /proc/kmsg: cannot be read: it has nothing to be read now\n"


@pytest.mark.parametrize(
    ("mode", "good"),
    [
        *((0o400, True), (0o600, True), (0o640, True), (0o440, True), (0o700, True)),
        *((0o644, False), (0o604, False), (0o602, False), (0o601, False), (0o620, False), (0o666, False)),
    ],
)
def test_r7_a_secret_that_others_may_read_or_write_is_not_used(
    mode: int,
    good: bool,  # noqa: FBT001 - a table's column
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its group may read it, or an account of proxyd's own could not; the policy itself is no secret (R8)."""
    secret, policy = tmp_path / "agent.hash", tmp_path / "policy.toml"
    secret.write_text(f"$scrypt$ln=14,r=8,p=5${'A' * 22}${'A' * 43}\n")
    secret.chmod(mode)
    policy.write_text(POLICY + '[client.credential]\nuser = "agent"\nfile = "agent.hash"\n')
    policy.chmod(0o644)
    if good:
        loaded = load_or_complain(str(policy))
        assert loaded is not None
        assert loaded.client[0].credential is not None
        assert loaded.client[0].credential.password is not None
    else:
        (problem,) = problems(policy, capfd)
        assert problem.endswith(f"others may read or write it; chmod 0640 (it is {mode:#06o})")
        assert "AAAA" not in problem


def test_r7_a_secrets_permissions_are_those_of_the_file_behind_a_link(tmp_path: Path) -> None:
    """A link's own say nothing; and what was looked at is what is read."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("x")
    link.symlink_to(real)
    real.chmod(0o600)
    assert read_policy_file(str(link), None, secret=True) == (str(real), b"x")
    real.chmod(0o604)
    with pytest.raises(OSError, match="others may read or write it"):
        read_policy_file(str(link), None, secret=True)
    assert read_policy_file(str(link), None) == (str(real), b"x")


def test_an_include_cycle_is_said_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """DESIGN: also through a link, for a file is known by its real path."""
    path = tmp_path / "policy.toml"
    path.write_text(f'include = ["rows.toml"]\n{POLICY}')
    (tmp_path / "rows.toml").write_text('include = ["again.toml"]\n')
    (tmp_path / "again.toml").symlink_to(path)
    (problem,) = problems(path, capfd)
    assert problem == f"proxyd: {tmp_path}/again.toml: includes itself; remove an include"


def test_a_link_to_itself_is_a_problem_and_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R12: nothing the user typed yields a traceback."""
    path = tmp_path / "policy.toml"
    path.symlink_to(path)
    (problem,) = problems(path, capfd)
    assert problem.startswith("cannot be read: ")


def test_a_name_that_no_file_can_have_is_a_problem(capfd: pytest.CaptureFixture[str]) -> None:
    assert load_or_complain("a\0b") is None
    assert capfd.readouterr().err == "proxyd: a\\x00b: cannot be read: bad file name\n"


def test_an_include_is_relative_to_the_real_path_of_the_file_that_has_it(tmp_path: Path) -> None:
    """DESIGN: a link in /etc to a checkout finds what lies in the checkout."""
    checkout, etc = tmp_path / "checkout", tmp_path / "etc"
    checkout.mkdir()
    etc.mkdir()
    (checkout / "policy.toml").write_text("outer")
    (checkout / "rows.toml").write_text("inner")
    (etc / "proxyd.toml").symlink_to(checkout / "policy.toml")
    path, data = read_policy_file(str(etc / "proxyd.toml"), None)
    assert (path, data) == (str(checkout / "policy.toml"), b"outer")
    assert read_policy_file("rows.toml", path) == (str(checkout / "rows.toml"), b"inner")


def test_a_policy_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy.toml").write_text("here")
    monkeypatch.chdir(tmp_path)
    assert read_policy_file("policy.toml", None) == (str(tmp_path / "policy.toml"), b"here")


def test_control_characters_of_a_policy_do_not_reach_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ATTACKS 9: ANSI escapes, line ends and bidi marks, in values, in keys and in file names."""
    path = tmp_path / "policy\x1b[2J.toml"
    path.write_text(POLICY.replace('"allow"', '"\\u001b]0;owned\\u0007\\n\\u202e"') + '"\\u001b[31mkey\\r" = 1\n')
    assert load_or_complain(str(path)) is None
    err = capfd.readouterr().err
    assert err.isascii()
    assert err.replace("\n", "").isprintable()
    assert "policy\\x1b[2J.toml" in err
    assert "\\x1b]0;owned\\x07\\n\\u202e" in err
    assert "\\x1b[31mkey\\r" in err
    assert all(line.startswith("proxyd: ") for line in err.splitlines())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, söme of it 日本", "plain text, söme of it 日本"),
        ("\x00\t\r\n\x1b\x7f", "\\x00\\t\\r\\n\\x1b\\x7f"),
        ("\u0085\u00ad\u200b\u202e\u2066\ufeff", "\\x85\\xad\\u200b\\u202e\\u2066\\ufeff"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_not_printable_is_escaped_and_the_rest_is_left_alone(
    text: str, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """ATTACKS 9: a lone surrogate is what an undecodable file name has in it."""
    complain(text)
    assert capfd.readouterr().err == f"proxyd: {shown}\n"


def test_a_complaint_is_one_line_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    complain("bad\nworse")
    assert capfd.readouterr() == ("", "proxyd: bad\\nworse\n")


def stderr_into(fd: int, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> TextIO:
    """A stderr as the interpreter opens it, but for this descriptor."""
    stderr = open(fd, "w", encoding=encoding, errors="backslashreplace", buffering=1)  # noqa: SIM115 - a descriptor
    monkeypatch.setattr("sys.stderr", stderr)
    return stderr


def test_attack_8_a_full_stderr_is_nobodys_error_and_nothing_of_it_is_left_for_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What stayed in a buffer would fail once more at the end, and turn the exit status into 120."""
    with stderr_into(os.open("/dev/full", os.O_WRONLY), monkeypatch):
        complain("nobody hears it")


def test_attack_8_a_stderr_whose_reader_left_is_nobodys_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with stderr_into(writing, monkeypatch):
        complain("nobody hears it")


def test_r8_a_reader_that_is_slow_hears_every_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """`proxyd check … 2>&1 | less`: more problems than a pipe holds, and nobody reads before it is full."""
    lines = [f"problem {number} ".ljust(100, ".") for number in range(1000)]
    reading, writing = os.pipe()
    room = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    full = threading.Event()
    write = os.write

    def noted(fd: int, data: bytes) -> int:
        nonlocal room
        room -= len(data)
        if room < 0:
            full.set()
        return write(fd, data)

    def read() -> None:
        full.wait()
        with open(reading, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor
            heard.extend(pipe.read().splitlines())

    heard: list[str] = []
    reader = threading.Thread(target=read)
    reader.start()
    with stderr_into(writing, monkeypatch):
        monkeypatch.setattr(os, "write", noted)
        for line in lines:
            complain(line)
    reader.join()
    assert heard == [f"proxyd: {line}" for line in lines]


def test_what_others_say_in_the_same_file_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`(echo …; proxyd check …; echo …) > log 2>&1`."""
    log = tmp_path / "log"
    with log.open("wb", buffering=0) as stdout, stderr_into(os.dup(stdout.fileno()), monkeypatch):
        stdout.write(b"before\n")
        complain("bad")
        stdout.write(b"after\n")
        complain("worse")
    assert log.read_bytes() == b"before\nproxyd: bad\nafter\nproxyd: worse\n"


def test_attack_9_a_stderr_that_knows_no_such_letters_gets_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoding, shown in (("ascii", b"s\\xf6me"), ("latin-1", b"s\xf6me"), ("utf-8", "söme".encode())):
        log = tmp_path / encoding
        with stderr_into(os.open(log, os.O_WRONLY | os.O_CREAT), monkeypatch, encoding):
            complain("söme")
        assert log.read_bytes() == b"proxyd: " + shown + b"\n"


def test_a_name_that_the_locale_cannot_spell_is_told_with_the_way_out() -> None:
    said = not_spelt(UnicodeEncodeError("ascii", "J\u00f6", 1, 2, "so"))
    assert said.startswith("J\u00f6: the locale of this process spells names in ascii, ")
    assert said.endswith("; run it with PYTHONUTF8=1, or with LC_ALL=C.UTF-8")


def test_today_is_the_day_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN: permits end at 00:00 UTC, whatever the clock on the wall says."""

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Clock:
            assert tz is dt.UTC
            return cls(2026, 8, 1, 23, 59, 59, tzinfo=tz)

    monkeypatch.setattr("proxyd.cli.files.dt.datetime", Clock)
    assert today() == dt.date(2026, 8, 1)


def test_a_policy_is_judged_as_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that expects a denial is run against the permits that are alive today."""
    path = tmp_path / "policy.toml"
    path.write_text(
        POLICY
        + """
[[permit]]
reason = "for a while"
host = "127.0.0.1"
ports = [80]
networks = ["127.0.0.0/8"]
expires = 2026-08-01
[[test]]
url = "http://127.0.0.1/"
expect = "deny"
"""
    )
    monkeypatch.setattr(files, "today", lambda: dt.date(2026, 8, 1))
    assert load_or_complain(str(path)) is None
    monkeypatch.setattr(files, "today", lambda: dt.date(2026, 8, 2))
    assert load_or_complain(str(path)) is not None


def test_a_file_name_that_is_no_text_is_read_all_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """POSIX names are bytes; what they are not is shown escaped."""
    name = os.fsdecode(bytes(tmp_path / "policy") + b"\xff.toml")
    with open(name, "w", encoding="ascii") as file:  # noqa: PTH123 - the very name
        file.write(POLICY)
    assert load_or_complain(name) is not None
    os.remove(name)  # noqa: PTH107 - the very name
    assert load_or_complain(name) is None
    assert "policy\\udcff.toml: cannot be read" in capfd.readouterr().err
