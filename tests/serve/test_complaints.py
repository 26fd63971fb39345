"""Lines for the operator: told once and not in floods, and no reason to stop when nobody reads them (ATTACKS 8)."""

from __future__ import annotations

import os
import select
import sys
import threading

import pytest

from proxyd.serve.complaints import QUIET_SECONDS, Complaints


class Stderr:
    """What the operator sees, and a clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.time = 100.0

    def clock(self) -> float:
        return self.time


def complaints() -> tuple[Stderr, Complaints]:
    """Complaints, and where they end up."""
    stderr = Stderr()
    return stderr, Complaints(stderr.lines.append, stderr.clock)


def test_a_complaint_is_one_line_that_says_who_complains() -> None:
    stderr, complain = complaints()
    complain("no audit")
    assert stderr.lines == ["proxyd: no audit\n"]


def test_the_same_complaint_is_made_again_after_exactly_10_seconds() -> None:
    stderr, complain = complaints()
    for after, told in ((0.0, 1), (0.0, 1), (9.999, 1), (10.0, 2), (10.0, 2), (19.999, 2), (20.0, 3)):
        stderr.time = 100.0 + after
        complain("no audit")
        assert len(stderr.lines) == told
    assert QUIET_SECONDS == 10.0


def test_another_complaint_is_made_at_once() -> None:
    stderr, complain = complaints()
    complain("one")
    complain("two")
    assert stderr.lines == ["proxyd: one\n", "proxyd: two\n"]


def test_two_complaints_that_alternate_are_no_flood_either() -> None:
    """ATTACKS 8 (ENOSPC): a sink that fails gives two of them for each request, decision and closing in turn."""
    stderr, complain = complaints()
    for _ in range(100):
        complain("audit log: a decision record could not be written: No space left on device")
        complain("audit log: a close record could not be written: No space left on device")
    assert len(stderr.lines) == 2


def test_what_may_be_said_again_is_forgotten() -> None:
    """Lines that differ, for as long as a daemon lives, are no leak."""
    stderr, complain = complaints()
    for number in range(100):
        stderr.time += QUIET_SECONDS
        complain(f"complaint {number}")
    assert len(stderr.lines) == 100
    assert len(complain._quiet_until) == 1  # noqa: SLF001 - what is not forgotten here stays for ever


def test_complaints_go_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    Complaints()("no audit")
    assert capfd.readouterr() == ("", "proxyd: no audit\n")


def test_complaints_go_to_what_stderr_is_open_to_and_not_through_its_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, as a supervisor gives it."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as lines, os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        Complaints()("no audit")
        assert os.read(lines.fileno(), 100) == b"proxyd: no audit\n"
    monkeypatch.undo()


def test_a_stderr_that_nobody_reads_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS 8: a full pipe of the supervisor would otherwise freeze every client; the line is lost instead."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as lines, os.fdopen(writing, "w") as stderr:
        os.set_blocking(writing, False)
        while select.select([], [writing], [], 0)[1]:
            os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)  # as it is inherited
        monkeypatch.setattr(sys, "stderr", stderr)
        told = threading.Thread(target=lambda: Complaints()("no audit"), daemon=True)
        told.start()
        told.join(60.0)
        assert not told.is_alive()
        assert os.get_blocking(writing)  # what is open there is shared with others
        monkeypatch.undo()
        assert b"no audit" not in os.read(lines.fileno(), 1 << 20)


def test_a_stderr_that_is_gone_is_no_reason_to_stop() -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    complain = Complaints(gone)
    complain("no audit")
    with pytest.raises(ValueError, match="a bug"):
        Complaints(_bug)("no audit")


def _bug(_: str) -> None:
    raise ValueError("a bug")
