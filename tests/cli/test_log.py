"""`proxyd log FILE`: what a person sees of the audit log, and what is left out of it."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.cli import log as log_module
from proxyd.cli import main
from proxyd.cli.progress import Progress
from tests.cli.looking_on import look_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLOSE: dict[str, Any] = {
    "event": "close",
    "time": "2026-11-21T10:00:00.123Z",
    "client": "agent",
    "client_address": "127.0.0.1",
    "method": "GET",
    "scheme": "http",
    "host": "example.com",
    "port": 80,
    "verdict": "allow",
    "reason": None,
    "rule": "default",
    "would": None,
    "outcome": "complete",
    "bytes_up": 1,
    "bytes_down": 2,
    "duration_ms": 3.4,
}
DENIED = CLOSE | {
    "verdict": "deny",
    "reason": "address_denied",
    "rule": "rfc1918",
    "host": "10.0.0.5",
    "outcome": "refused",
}
TUNNEL = CLOSE | {"method": "CONNECT", "scheme": "connect", "port": 443}
OPENED = TUNNEL | {"event": "decision", "outcome": None}


class Show:
    """Shows some records as the user would see them."""

    def __init__(self, folder: Path, said: pytest.CaptureFixture[str]) -> None:
        self.path = folder / "audit.jsonl"
        self._said = said

    def __call__(self, entries: list[dict[str, Any]], *more: str) -> list[str]:
        """The lines."""
        self.path.write_text("".join(f"{json.dumps(each)}\n" for each in entries))
        assert main(["log", str(self.path), *more]) == 0
        return self._said.readouterr().out.splitlines()


@pytest.fixture
def show(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Show:
    """Shows logs."""
    return Show(tmp_path, capfd)


def test_a_request_is_a_line_and_a_tunnel_two_under_the_day(show: Show) -> None:
    decision = CLOSE | {"event": "decision"}
    next_day = CLOSE | {"time": "2026-11-22T00:00:01.000Z"}
    assert show([decision, CLOSE, OPENED, TUNNEL | {"outcome": "closed"}, DENIED, next_day]) == [
        "2026-11-21",
        "10:00:00  agent  allow  GET     example.com:80  complete  1 up, 2 down, 3.4 ms",
        "10:00:00  agent  allow  CONNECT example.com:443  open",
        "10:00:00  agent  allow  CONNECT example.com:443  closed  1 up, 2 down, 3.4 ms",
        "10:00:00  agent  deny   GET     10.0.0.5:80  address_denied by rfc1918  refused  1 up, 2 down, 3.4 ms",
        "2026-11-22",
        "00:00:01  agent  allow  GET     example.com:80  complete  1 up, 2 down, 3.4 ms",
    ]


def test_of_a_record_that_says_nothing_nothing_is_made_up(show: Show) -> None:
    assert show([{"event": "close"}])[0].split()[:4] == ["nobody", "-", "-", "?:?"]


def test_what_is_not_known_is_not_made_up(show: Show) -> None:
    stranger = {
        "event": "close",
        "time": "x",
        "client_address": "10.9.9.9",
        "verdict": "error",
        "reason": "head_timeout",
    }
    assert show([stranger])[1].split() == [
        "10.9.9.9",
        "error",
        "-",
        "?:?",
        "head_timeout",
        "-",
        "0",
        "up,",
        "0",
        "down,",
        "0",
        "ms",
    ]
    assert show([{"event": "close", "verdict": "error"}]) == ["  nobody  error  -       ?:?  -  0 up, 0 down, 0 ms"]
    assert len(show([stranger], "--json", "--since", "1h")) == 1, "who knows when it was"


@pytest.mark.parametrize("odd", [None, True, 7, 1.5, [], [None], {}, {"a": 1}, "\ud800"])
@pytest.mark.parametrize("event", ["decision", "close", "reload"])
def test_attack_9_a_field_may_be_of_any_type(show: Show, event: str, odd: object) -> None:
    """The log is not ours alone to write: one line must not keep the others from being seen."""
    hostile = dict.fromkeys((*CLOSE, "addresses", "listening", "problems", "pid"), odd) | {"event": event}
    assert show([hostile, CLOSE])[-1].startswith("10:00:00  agent  allow  GET     example.com:80")
    assert len(show([hostile | {"verdict": "allow", "scheme": "connect"}, CLOSE], "--json")) == 2


def test_beginnings_ends_and_reloads_are_told(show: Show) -> None:
    start = {"event": "start", "time": CLOSE["time"], "listening": ["127.0.0.1:3128"], "policy": "p", "digest": "d"}
    reload = {"event": "reload", "time": CLOSE["time"], "outcome": "refused", "problems": ["a", "b"], "policy": "p"}
    assert show([start, reload])[1:] == [
        "10:00:00  start  listening 127.0.0.1:3128  policy p  digest d",
        "10:00:00  reload  outcome refused  problems a, b  policy p",
    ]


def test_report_mode_says_what_would_be_denied(show: Show) -> None:
    assert (
        "not_allowlisted by default (would be denied)"
        in show([CLOSE | {"would": "deny", "reason": "not_allowlisted"}])[1]
    )


@pytest.mark.parametrize(
    ("asked", "hosts"),
    [
        (["--denied"], ["10.0.0.5"]),
        (["--client", "other"], ["b.example.com"]),
        (["--host", "example.com"], ["example.com"]),
        (["--host", "*.example.com"], ["b.example.com"]),
        (["--host", "Example.COM."], ["example.com"]),
        (["--host", "*.Example.Com."], ["b.example.com"]),
        (["--host", "nowhere"], []),
        (["--since", "2026-11-21T10:00:01Z"], ["late.test"]),
        (["--since", "2026-11-21T10:00:01"], ["late.test"]),
        (["--denied", "--host", "example.com"], []),
    ],
)
def test_what_is_asked_for_is_shown_and_nothing_else(show: Show, asked: list[str], hosts: list[str]) -> None:
    entries = [
        CLOSE,
        DENIED,
        CLOSE | {"client": "other", "host": "b.example.com"},
        CLOSE | {"host": "late.test", "time": "2026-11-21T10:00:01.000Z"},
    ]
    assert [json.loads(line)["host"] for line in show(entries, "--json", *asked)] == hosts


def test_since_some_time_ago(show: Show) -> None:
    now = dt.datetime.now(dt.UTC)
    times = [(now - dt.timedelta(seconds=ago)).isoformat() for ago in (7200, 1800, 10)]
    entries = [CLOSE | {"time": time, "host": str(number)} for number, time in enumerate(times)]
    for asked, hosts in (("1m", ["2"]), ("1h", ["1", "2"]), ("7201s", ["0", "1", "2"]), ("1d", ["0", "1", "2"])):
        assert [json.loads(line)["host"] for line in show(entries, "--json", "--since", asked)] == hosts, asked


@pytest.mark.parametrize("since", ["yesterday", "999999d"])
def test_a_time_that_is_none_is_bad_usage(show: Show, since: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A time before the first year is none, either."""
    with pytest.raises(SystemExit) as bad:
        main(["log", str(show.path), "--since", since])
    assert bad.value.code == 2
    assert f"'{since}' is no time; write 2027-01-31T08:00:00Z or 2h" in capfd.readouterr().err


def test_attack_9_nothing_that_stands_there_moves_the_cursor(show: Show) -> None:
    """It is not ours alone to write: another program may have put an escape into the file."""
    (_, line) = show([CLOSE | {"host": "a\x1b[2J\u202ex", "client": "\x07"}])
    assert line.isprintable()


def test_on_a_terminal_verdicts_have_colours(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    look_on(monkeypatch)
    lines = show([CLOSE, DENIED, CLOSE | {"verdict": "error"}, {"event": "stop", "time": CLOSE["time"]}])
    assert [line.partition("m")[0] for line in lines] == [f"\x1b[{colour}" for colour in (2, 32, 31, 33, 2)]
    assert all(line.endswith("\x1b[0m") for line in lines)


def test_how_far_it_is_is_drawn_but_not_over_a_pager(
    show: Show, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all is filtered out, who waits sees that it goes on; each line that is shown takes the bar's place."""
    look_on(monkeypatch)
    times = iter(range(100))
    progress = partial(Progress, clock=lambda: float(next(times)))
    monkeypatch.setattr(log_module, "Progress", progress)
    show([CLOSE])
    assert main(["log", str(show.path), "--host", "nowhere"]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"\r\x1b[K[{'#' * 30}] 100% of 0 MB\r\x1b[K")
    show.path.write_text(f"{json.dumps(CLOSE)}\n{json.dumps(DENIED)}\n")
    assert main(["log", str(show.path), "--host", "example.com"]) == 0
    assert re.sub(r"[^\r\x1bK]", "", capfd.readouterr().err) == 2 * "\r\x1bK\r\x1bK", "drawn, wiped away, and again"
    monkeypatch.setattr(log_module, "is_pipe", lambda stream: stream is sys.stdout)
    assert main(["log", str(show.path), "--host", "nowhere"]) == 0
    assert capfd.readouterr().err == ""


def test_torn_lines_are_counted_and_missing_files_are_66(show: Show, capfd: pytest.CaptureFixture[str]) -> None:
    show.path.write_text(f'{json.dumps(CLOSE)}\n{{"event":"clo')
    assert main(["log", str(show.path)]) == 0
    assert capfd.readouterr().err == "proxyd: 1 lines are no records, and were passed over\n"
    assert main(["log", f"{show.path}.nowhere"]) == 66
    assert capfd.readouterr().err == f"proxyd: {show.path}.nowhere: No such file or directory\n"


def test_rotated_logs_are_shown_before_it(show: Show, tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl.1").write_text(f"{json.dumps(CLOSE | {'host': 'older'})}\n")
    assert [json.loads(line)["host"] for line in show([CLOSE], "--json")] == ["older", "example.com"]


def test_it_goes_on_as_the_log_grows(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there comes first; what is not asked for is left out here, too."""

    def growing(path: Path) -> Iterator[dict[str, Any]]:
        assert path == show.path
        yield CLOSE | {"host": "new"}
        yield DENIED | {"host": "denied"}

    monkeypatch.setattr(log_module, "growing", growing)
    hosts = [json.loads(line)["host"] for line in show([DENIED, CLOSE], "--json", "--denied", "--follow")]
    assert hosts == ["10.0.0.5", "denied"]


def test_stdin_cannot_be_followed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "--follow", "-"]) == 2
    said = "proxyd: log: --follow: stdin cannot be followed; name the file, or leave --follow out\n"
    assert capfd.readouterr() == ("", said)


def test_a_log_that_becomes_unreadable_while_it_is_followed_is_66_and_named(
    show: Show, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And not said to be stdout's."""
    show.path.write_text("")

    def growing(path: Path) -> Iterator[dict[str, Any]]:
        yield CLOSE
        path.unlink()
        path.mkdir()
        path.open("rb")

    monkeypatch.setattr(log_module, "growing", growing)
    assert main(["log", "--follow", str(show.path)]) == 66
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 2
    assert err == f"proxyd: {show.path}: Is a directory\n"


def test_a_pipe_is_read_and_cannot_be_followed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As a shell's <(zcat audit.jsonl.gz)."""
    reading, writing = os.pipe()
    os.write(writing, f"{json.dumps(CLOSE)}\n".encode())
    os.close(writing)
    path = tmp_path / "pipe"
    path.symlink_to(f"/proc/self/fd/{reading}")
    assert main(["log", "--follow", str(path)]) == 66
    os.close(reading)
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 2
    assert err == f"proxyd: {path}: it is no file, and cannot be followed\n"
