"""`proxyd --policy`: what came of a reload is told to the operator, to the log, and to whoever asked.

The supervisor is real, and so is what it reads; there are no workers.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from proxyd.cli import main, run
from proxyd.serve import control
from proxyd.serve.complaints import Complaints
from proxyd.serve.control import Outcome
from tests.cli.policies import text, write
from tests.cli.start import Start, hup, start, term

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from proxyd.serve.charge import Charge

__all__ = ["start", "write"]


def records(log: Path) -> list[dict[str, Any]]:
    """What is on record."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_reload_is_told_on_stderr_and_on_record(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """R10, R7: what changed, in the words of the file; and the workers that start from now on have it."""
    audit = f'[audit]\nto = "{tmp_path}/log"'
    deny = '[[deny]]\nname = "corp"\nhosts = ["corp.example"]\nreason = "ours"'
    name = write(text(more=audit))
    start.script = [(lambda: write(text(more=f"{deny}\n{audit}")), hup)]
    assert main(["--policy", name]) == 0
    first, second = start.served
    digest = second.policy.digest
    assert (second.handover.policy(), first.policy.digest != digest) == (second.policy, True)
    _, _, said, warning = capfd.readouterr().err.splitlines()
    assert said == f"proxyd: reloaded: policy gateway, digest {digest}; deny: +corp; 0 connections cut"
    assert warning.startswith("proxyd: warning: ")
    ((record),) = records(tmp_path / "log")
    del record["time"]
    assert record == {
        "schema": 1,
        "event": "reload",
        "pid": os.getpid(),
        "outcome": "done",
        "problems": [],
        "changes": ["deny: +corp"],
        "revoked": 0,
        "policy": "gateway",
        "digest": digest[:16],
        "truncated": False,
    }


def test_r12_a_reload_that_was_refused_is_told_and_the_old_policy_stays(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Every problem; then the file is mended, and nothing had changed."""
    policy = text(more=f'[audit]\nto = "{tmp_path}/log"')
    bad = policy.replace('"allow"', '"\\u001b[2J"').replace("name", "nmae", 1)
    name = write(policy)
    start.script = [(lambda: write(bad), hup), (lambda: write(policy), hup)]
    assert main(["--policy", name]) == 0
    old, kept, again = start.served
    assert kept is old
    assert again.policy == old.policy
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("proxyd: reload")]
    refused = "proxyd: reload refused, policy gateway stays as it was: "
    assert [line.startswith(refused) for line in said] == [True] * (len(said) - 1) + [False]
    assert said[-1].endswith(
        f"reloaded: policy gateway, digest {old.policy.digest}; nothing changed; 0 connections cut"
    )
    assert "\x1b" not in "".join(said)
    first, second = records(tmp_path / "log")
    assert (first["outcome"], second["outcome"]) == ("refused", "done")
    assert [f"{refused}{problem}" for problem in first["problems"]] == said[:-1]
    assert (first["digest"], first["changes"]) == (old.policy.digest[:16], [])


def test_what_came_of_a_reload_goes_to_the_log_that_is_in_use_by_then(
    start: Start, write: Callable[[str], str], tmp_path: Path
) -> None:
    """The new policy's, if it took effect; it is found again if logrotate has moved it."""
    name = write(text(more=f'[audit]\nto = "{tmp_path}/old"'))
    start.script = [
        (lambda: write(text(more=f'[audit]\nto = "{tmp_path}/new"')), hup),
        (lambda: (tmp_path / "new").rename(tmp_path / "new.1"), hup),
    ]
    assert main(["--policy", name]) == 0
    assert (tmp_path / "old").read_text() == ""
    assert [len(records(tmp_path / each)) for each in ("new.1", "new")] == [1, 1]


def test_a_reload_of_a_log_to_stdout_is_a_line_there(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    start.script = [(hup,)]
    assert main(["--policy", write(text())]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "reload"


def test_a_reload_whose_record_cannot_be_written_is_a_reload_and_that_is_told(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Requests are refused while that is so (R12); the operator must learn of both."""
    folder = tmp_path / "logs"
    folder.mkdir()
    name = write(text(more=f'[audit]\nto = "{folder}/log"'))
    start.script = [((folder / "log").unlink, folder.rmdir, hup)]
    assert main(["--policy", name]) == 0
    err = capfd.readouterr().err
    assert "proxyd: reloaded: " in err
    assert "proxyd: audit log: a reload record could not be written: No such file or directory\n" in err
    assert len(start.served) == 2


def test_a_log_that_is_full_is_told_too(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    start.script = [(hup,)]
    assert main(["--policy", write(text(more='[audit]\nto = "/dev/full"'))]) == 0
    assert "a reload record could not be written: No space left on device\n" in capfd.readouterr().err


def test_a_reload_can_be_asked_for_at_the_control_socket(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """R2: for our account alone; its file is gone in the end."""
    path = tmp_path / "control"
    visitor = socket.socket(socket.AF_UNIX)

    def visit() -> None:
        visitor.connect(str(path))
        visitor.sendall(control.RELOAD)

    start.script = [(visit,)]
    with visitor:
        assert main(["--policy", write(text(f'http = ["127.0.0.1:0"]\ncontrol = "{path}"'))]) == 0
        assert json.loads(visitor.recv(65536)) == {"problems": [], "changes": [], "revoked": 0}
    assert "proxyd: reloaded: policy gateway" in capfd.readouterr().err
    assert not path.exists()


def test_a_control_socket_whose_file_is_gone_already_ends_well(
    start: Start, write: Callable[[str], str], tmp_path: Path
) -> None:
    """Somebody tidied up."""
    path = tmp_path / "control"
    start.script = [(path.unlink, term)]
    assert main(["--policy", write(text(f'http = ["127.0.0.1:0"]\ncontrol = "{path}"'))]) == 0


def test_attack_9_nothing_that_is_told_of_a_reload_moves_a_cursor(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever said it: a worker's words are an operating system's, with file names in them."""
    told: list[Outcome] = [Outcome(problems=("\x1b[2J\u202e",)), Outcome(changes=("\x1b]0;x\x07",))]
    say = Complaints()

    def tell() -> None:
        for each in told:
            run._tell(each, start.served[0], say)  # noqa: SLF001 - as the supervisor does

    start.script = [(tell, term)]
    assert main(["--policy", write(text())]) == 0
    err = capfd.readouterr().err
    assert "\\x1b[2J\\u202e" in err
    assert "\\x1b]0;x\\x07" in err
    assert err.replace("\n", "").isprintable()


def test_files_ran_out_for_the_record_is_told(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the system's words."""

    def fail(_: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    start.script = [(lambda: monkeypatch.setattr(run, "FileSink", fail), hup)]
    assert main(["--policy", write(text(more='[audit]\nto = "/dev/null"'))]) == 0
    assert "a reload record could not be written: Too many open files\n" in capfd.readouterr().err


def test_r12_a_reload_with_a_name_that_the_locale_cannot_spell_is_refused_and_the_old_policy_stays(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unspelt(*_: object) -> Charge:
        raise UnicodeEncodeError("ascii", "J\u00f6", 1, 2, "so")

    start.script = [(lambda: monkeypatch.setattr(run, "prepare", unspelt), hup)]
    assert main(["--policy", write(text())]) == 0
    said = capfd.readouterr().err
    assert "reload refused, policy gateway stays as it was: J\u00f6: the locale of this process spells" in said
