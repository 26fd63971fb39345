"""`proxyd report FILE…`: the text, the JSON, the page and where it is written."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.cli import main
from proxyd.observe.known import Known, embedded, known_by
from tests.observe.synthetic import records

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Report = Callable[..., tuple[int, str, str]]

DECISION: dict[str, Any] = {"event": "decision", "time": "2026-11-21T10:00:00Z", "id": "1", "client": "agent"}
DECISION |= {"host": "a.com", "port": 80, "verdict": "allow", "policy": "p", "digest": "d"}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of some hundred requests."""
    return written(tmp_path / "audit.jsonl", list(records(400)))


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Report:
    """Runs the command: its status, what it says, and what it complains of."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["report", *map(str, arguments)])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def written(path: Path, entries: list[dict[str, Any]]) -> Path:
    """A log of these records."""
    path.write_text("".join(f"{json.dumps(each)}\n" for each in entries))
    return path


def test_the_text_says_what_matters(report: Report, log: Path) -> None:
    status, out, err = report(log)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "2026-11-20 00:00:00 to 2026-11-20 23:55:02 UTC"
    assert lines[1].startswith("400 requests: ")
    titles = [line for line in lines[2:] if not line.startswith("  ")]
    assert titles == ["denied", "failed", "destinations", "clients", "how long it took"]
    words = [line.split() for line in lines]
    assert ["researcher", "address_denied,", "by", "rfc1918-private"] in [each[2:] for each in words]
    assert "  tunnel " in out
    assert "  request " not in out, "there was none"
    assert "too much to keep" not in out


def test_an_empty_log_is_told_in_a_line(report: Report, tmp_path: Path) -> None:
    said = "0 requests: 0 allowed, 0 denied (0 %), 0 failed; 0 B down, 0 B up\n"
    assert report(written(tmp_path / "log", [])) == (0, said, "")


def test_report_mode_and_reasons_without_a_rule(report: Report, tmp_path: Path) -> None:
    would = DECISION | {"would": "deny", "reason": "not_allowlisted", "rule": "default"}
    _, out, _ = report(written(tmp_path / "log", [would, DECISION | {"verdict": "error", "reason": "dns_error"}]))
    assert "2 requests: 1 allowed, 1 that enforcing would deny, 0 denied (0 %), 1 failed" in out
    assert out[out.index("would be denied") :].splitlines()[1].split(maxsplit=3)[3] == "not_allowlisted, by default"
    assert out[out.index("failed\n") :].splitlines()[1].split(maxsplit=3)[3] == "dns_error"


def test_attack_8_it_says_when_there_was_too_much_to_keep(report: Report, tmp_path: Path) -> None:
    many = [DECISION | {"host": f"h{number}"} for number in range(8193)]
    assert "small ones are left out, and figures may be too low" in report(written(tmp_path / "log", many))[1]


def test_attack_9_nothing_in_the_log_moves_the_cursor(report: Report, tmp_path: Path) -> None:
    odd = "a\x1b[2J\u202e\n"
    entry = DECISION | {"host": odd, "client": odd, "reason": odd, "rule": odd, "verdict": "deny"}
    for more in ((), ("--json",), ("--html", tmp_path / "out.html")):
        _, out, _ = report(written(tmp_path / "log", [entry]), *more)
        assert all(line.isprintable() for line in out.split("\n")), more


def test_json_for_programs(report: Report, log: Path) -> None:
    status, out, _ = report(log, "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["schema"], told["requests"], told["records"], told["unread"], told["broken"]) == (1, 400, 802, 0, [])


def test_rotated_and_compressed_logs_several_and_stdin(
    report: Report, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request each."""
    line = f"{json.dumps(DECISION)}\n".encode()
    (tmp_path / "audit.jsonl.1").write_bytes(line)
    (tmp_path / "audit.jsonl.2.gz").write_bytes(gzip.compress(line))
    other = written(tmp_path / "other", [DECISION])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))
    assert json.loads(report(log, other, "-", "--json")[1])["requests"] == 404


def test_torn_lines_are_told_and_what_cannot_be_read_is_66(report: Report, log: Path, tmp_path: Path) -> None:
    with log.open("a") as file:
        file.write('{"event":"decis')
    out = tmp_path / "out.html"
    status, said, complaints = report(log, tmp_path / "nowhere", "--html", out)
    assert (status, said.count("400 requests")) == (66, 1)
    assert f"{tmp_path}/nowhere: No such file or directory" in complaints
    assert "1 lines are no records, and were passed over" in complaints
    assert "nowhere: No such file or directory" in out.read_text(), "the page says so, too"


def test_the_page_is_written_and_the_next_one_says_what_is_new(report: Report, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    status, said, _ = report(log, "--html", out)
    assert (status, said.startswith(f"{out}: 400 requests: "), "new" in said) == (0, True, False)
    assert "first report in this file" in out.read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert report(log, "--html", out)[1].endswith("; 0 new destinations\n")
    other = written(tmp_path / "other", [DECISION])
    assert report(other, "--html", out)[1].endswith("; 1 new destinations\n")
    known = known_by(out.read_text())
    assert known is not None
    assert {"a.com:80", "api.openai.com:443"} <= known.destinations
    assert sorted(each.name for each in tmp_path.iterdir()) == ["audit.jsonl", "other", "out.html"]


def test_json_and_a_page_at_once(report: Report, log: Path, tmp_path: Path) -> None:
    _, out, _ = report(log, "--json", "--html", tmp_path / "out.html")
    assert json.loads(out)["requests"] == 400
    assert (tmp_path / "out.html").exists()


def is_file(out: Path) -> None:
    out.write_text("something dear")


def is_made_up(out: Path) -> None:
    out.write_text(embedded(Known()))


def is_folder(out: Path) -> None:
    out.mkdir()


def is_link(out: Path) -> None:
    out.with_name("dear").write_text("something dear")
    out.symlink_to(out.with_name("dear"))


def is_dangling_link(out: Path) -> None:
    out.symlink_to(out.with_name("nothing"))


def is_pipe(out: Path) -> None:
    os.mkfifo(out)


@pytest.mark.parametrize("is_there", [is_file, is_made_up, is_folder, is_link, is_dangling_link, is_pipe])
def test_what_is_no_report_of_ours_is_left_alone(
    report: Report, log: Path, tmp_path: Path, is_there: Callable[[Path], None]
) -> None:
    out = tmp_path / "out.html"
    is_there(out)
    before = sorted((each.name, each.lstat().st_ino, each.lstat().st_size) for each in tmp_path.iterdir())
    status, said, complaint = report(log, "--html", out)
    assert (status, said) == (2, "")
    assert complaint == (
        f"proxyd: --html {out}: something is there that is no report of ours; remove it, or choose another name\n"
    )
    assert sorted((each.name, each.lstat().st_ino, each.lstat().st_size) for each in tmp_path.iterdir()) == before


def test_where_it_cannot_be_written_it_says_so(report: Report, log: Path, tmp_path: Path) -> None:
    status, _, complaint = report(log, "--html", tmp_path / "no" / "out.html")
    assert (status, complaint) == (2, f"proxyd: --html {tmp_path}/no/out.html: No such file or directory\n")
    status, _, complaint = report(log, "--html", log / "out.html")
    assert (status, complaint) == (2, f"proxyd: --html {log}/out.html: Not a directory\n")


def test_a_page_that_cannot_be_finished_leaves_the_old_one(
    report: Report, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.html"
    report(log, "--html", out)
    before = out.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fchmod", full)
    status, _, complaint = report(log, "--html", out, "--json")
    assert (status, complaint) == (2, f"proxyd: --html {out}: No space left on device\n")
    assert out.read_text() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["audit.jsonl", "out.html"]
