"""The supervisor's sockets: listeners that a reload keeps, adds and removes, the FIFO of the log, and whoever asks.

They are real, and each is closed exactly when it is due. What a reload is, `test_supervisor.py` has.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from proxyd import __version__
from proxyd.audit.sink import FileSink
from proxyd.serve import control
from proxyd.serve.charge import Charge
from proxyd.serve.control import RELOAD, STATUS, Outcome
from tests.serve.reign import DENIED, Reign, answers, hup, reign, term
from tests.serve.stage import Sockets, Stage, charge, open_files, stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxyd.serve.channel import Message

__all__ = ["stage"]


@contextmanager
def sockets(count: int) -> Iterator[list[Sockets]]:
    """As many listeners, each of two sockets."""
    with ExitStack() as stack:
        yield [(stack.enter_context(socket.socket()), stack.enter_context(socket.socket())) for _ in range(count)]


def are_open(listener: Sockets) -> bool:
    """Whether all its sockets are open; it is a defect if only some are."""
    (state,) = {sock.fileno() >= 0 for sock in listener}
    return state


def test_a_reload_closes_what_it_removed_once_all_have_changed_and_keeps_the_rest(stage: Stage) -> None:
    """R12: until then clients are let in as before; afterwards nobody is left to wait in the kernel for nobody."""
    seen: list[list[bool]] = []
    with sockets(3) as (kept, gone, new):

        def look(_: object = None) -> int:
            seen.append([are_open(each) for each in (kept, gone, new)])
            return signal.SIGCHLD

        run = Reign(stage, charge({"kept": kept, "gone": gone}, workers=2), 2)
        run.comes = [charge({"kept": kept, "new": new}, workers=2)]
        stage.answers |= answers(look)
        stage.at(1, hup, look, term, look, stage.all_end)
        run.run()
    assert seen == [[True, True, True]] * 4 + [[True, False, True], [False, False, False]]


def test_a_reload_that_fails_closes_what_it_opened_and_nothing_else(stage: Stage) -> None:
    """R12: the old policy stays, with all that belongs to it."""
    with sockets(3) as (kept, other, new):
        run = Reign(stage, charge({"kept": kept, "other": other}))
        run.comes = [charge({"kept": kept, "new": new})]
        stage.answers["prepare"] = lambda: {"cannot": "no"}
        seen: list[bool] = []

        def look() -> int:
            seen.extend(are_open(each) for each in (kept, other, new))
            return signal.SIGCHLD

        stage.at(1, hup, look, term, stage.all_end)
        run.run()
    assert seen == [True, True, False]


def test_a_fifo_of_the_audit_log_is_let_go_of_when_another_log_is_in_use(stage: Stage, tmp_path: Path) -> None:
    """Its reader sees the end of it then, and not before; one that a failed reload opened is closed at once."""
    fifos = [tmp_path / name for name in ("old", "refused", "new")]
    for fifo in fifos:
        os.mkfifo(fifo)
    reading = [os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) for fifo in fifos]
    old, refused, new = (FileSink(str(fifo)) for fifo in fifos)
    plain = charge()
    run = Reign(stage, Charge(plain.policy, plain.handover, {}, old))
    run.comes = [Charge(plain.policy, plain.handover, {}, each) for each in (refused, new)]
    ended: list[list[bool]] = []

    def look() -> int:
        ended.append([_is_at_its_end(fd) for fd in reading])
        return signal.SIGCHLD

    def cannot_once() -> Message:
        stage.started[0].answers["prepare"] = lambda: {"ready": True}
        return {"cannot": "no"}

    stage.answers["prepare"] = cannot_once
    stage.at(1, look, hup, look, hup, look, term, stage.all_end)
    run.run()
    assert ended == [[False, False, False], [False, True, False], [True, True, False]]
    run.supervisor.close()
    assert [_is_at_its_end(fd) for fd in reading] == [True, True, True]
    for fd in reading:
        os.close(fd)


def _is_at_its_end(fifo: int) -> bool:
    """Whether nobody has it open to write."""
    try:
        return os.read(fifo, 1) == b""
    except BlockingIOError:
        return False


def test_what_is_in_charge_at_the_end_is_let_go_of_and_no_file_is_left_by_reloads(stage: Stage) -> None:
    """A year of reloads, good ones and bad ones, costs no file."""
    with sockets(2) as (one, other):
        run = Reign(stage, charge({"one": one}, workers=2), 2)
        run.comes = [*(charge({"one": one}, workers=2) for _ in range(9)), charge({"other": other}, workers=2)]
        stage.at(1, hup)
        counts: list[int] = []

        def look() -> int:
            counts.append(sum(open_files().values()))
            return signal.SIGHUP

        stage.at(2, *[look] * 9)
        stage.at(3, term, stage.all_end)
        run.run()
        assert (len(set(counts[:9])), are_open(one)) == (1, False)
        run.supervisor.close()
        assert not are_open(other)


# Whoever asks at the control socket


def asker(says: bytes) -> tuple[socket.socket, socket.socket]:
    """Somebody who asks, and their connection as we have it."""
    theirs, ours = socket.socketpair()
    theirs.settimeout(20)  # until a test gives up
    theirs.sendall(says)
    return theirs, ours


def test_who_asks_for_a_reload_is_told_what_came_of_it(stage: Stage) -> None:
    """The same as the operator and the log are; and then we hang up."""
    run = reign(stage)
    run.comes = [charge(more=DENIED)]
    stage.answers["commit"] = lambda: {"revoked": 2}
    theirs, ours = asker(RELOAD)
    told: list[Outcome] = []
    answer = control.answer

    def note(sock: socket.socket, outcome: Outcome) -> None:
        assert run.outcomes() == [outcome], "on record first"
        told.append(outcome)
        answer(sock, outcome)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(control, "answer", note)
        stage.at(1, lambda: ours, term, stage.all_end)
        run.run()
    with theirs:
        said = theirs.recv(65536)
        assert theirs.recv(1) == b""
    assert told == run.outcomes() == [Outcome(changes=("deny: +corp",), revoked=2)]
    assert b'"deny: +corp"' in said
    assert ours.fileno() == -1


@pytest.mark.parametrize("more", ["", DENIED])
def test_who_asks_what_runs_is_told_what_is_in_force(stage: Stage, more: str) -> None:
    """For `proxyd audit`: and nothing changes by it."""
    given = charge(more=more, workers=2)
    run = Reign(stage, given, 2)
    theirs, ours = asker(STATUS)

    def serves() -> int:
        with stage.counting(1) as tally:
            tally.beat(stage.now, 1)
        return signal.SIGCHLD

    stage.at(1, serves, lambda: ours, term, stage.all_end)
    run.run()
    with theirs:
        said = json.loads(theirs.recv(65536))
        assert theirs.recv(1) == b""
    assert said == {
        "version": __version__,
        "pid": os.getpid(),
        "uid": os.geteuid(),
        "policy": "gateway",
        "file": "p.toml",
        "digest": given.policy.digest,
        "workers": 2,
        "serving": 1,
    }
    assert (run.told, stage.orders(), ours.fileno()) == ([], [[], []], -1)


@pytest.mark.parametrize("says", [b"relode\n", b"reload", b"GET / HTTP/1.1\r\n\r\n"])
def test_who_asks_for_something_else_is_hung_up_on(stage: Stage, says: bytes) -> None:
    """And nothing is reloaded, nor told."""
    run = reign(stage)
    theirs, ours = asker(says)
    theirs.shutdown(socket.SHUT_WR)
    stage.at(1, lambda: ours, term, stage.all_end)
    run.run()
    with theirs, suppress(ConnectionResetError):  # where they said more than was read
        assert theirs.recv(1) == b""
    assert (run.told, stage.orders(), ours.fileno()) == ([], [[]], -1)


def test_who_asks_and_leaves_has_asked(stage: Stage) -> None:
    """Nobody hears the answer; the log has it."""
    run = reign(stage)
    run.comes = [charge()]
    theirs, ours = asker(RELOAD)
    theirs.close()
    stage.at(1, lambda: ours, term, stage.all_end)
    run.run()
    assert run.outcomes() == [Outcome()]
