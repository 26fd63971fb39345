"""The workers: started, each in its place, replaced when they die or are stuck, and told what to do.

A worker is execed, never forked from one that runs. Nothing here knows what a signal means, or when a policy changes.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import proxyd
from proxyd.observe import tally
from proxyd.serve.channel import Channel, close_all
from proxyd.serve.ears import SIGNALS
from proxyd.serve.ledger import strike_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxyd.serve.channel import Message
    from proxyd.serve.charge import Charge
    from proxyd.serve.handover import Handover

FIRST_PAUSE: Final = 0.1  # seconds before a worker that died is started again; doubled each time …
LONGEST_PAUSE: Final = 5.0
GOOD_SECONDS: Final = 10.0  # … unless it had served for as long as this
ANSWER_SECONDS: Final = 10.0  # for a worker to do as it is told
STUCK_SECONDS: Final = 20.0  # without a sign of life, which there should be every second …
CERTAIN_SECONDS: Final = 10.0  # … and none for so much longer, while we looked: it is replaced
BEGIN_SECONDS: Final = 300.0  # the same before the first sign of life: a policy of millions of rows takes its time


@dataclass(slots=True)
class _Post:
    """A place for a worker, who is in it now, and when the next one may be started.

    pause: how long it stays empty should the worker die now. suspect: the sign of life that was seen to be too old, and
    when it was.
    """

    place: int
    worker: subprocess.Popen[bytes] | None = None
    channel: Channel | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE
    due: float = 0.0
    suspect: tuple[float, float] = (0.0, 0.0)


@dataclass(slots=True)
class Crew:
    """As many workers as there are places.

    ledger, tally: the memory of the limits, and that in which records are counted. complain: a line for the operator.
    replaces: whether a worker that died is started again; if not, its death is the end of all.
    """

    places: int
    ledger: int
    tally: int
    complain: Callable[[str], None]
    replaces: bool = True
    ending: bool = False
    deaths: int = 0
    _posts: list[_Post] = field(init=False)
    _number: int = field(default=0, init=False)
    _accounts: int = field(default=0, init=False)
    _end_by: float = field(default=math.inf, init=False)

    def __post_init__(self) -> None:
        self._posts = [_Post(place) for place in range(self.places)]

    def __bool__(self) -> bool:
        """Whether there is anybody left."""
        return any(post.worker for post in self._posts)

    def fill(self, charge: Charge) -> None:
        """Start a worker in every place that is empty and due. From the beginning of the end on there are none due."""
        self._accounts = len(charge.handover.ledger)
        for post in self._posts:
            if post.worker is None and not self.ending and time.monotonic() >= post.due:
                post.started = time.monotonic()
                try:
                    with _as_file(charge.handover) as handover:
                        self._start(post)
                        self._hand_over(post, charge, handover, {"do": "serve"})
                except OSError as error:  # no process, no memory, no file to be had: that may pass
                    self._not_started(post, error)

    def _not_started(self, post: _Post, error: OSError) -> None:
        if post.worker is None:
            self._vacate(post, f"could not be started: {error.strerror}")
        else:  # it waits to be told what to serve
            self.complain(f"a worker could not be told what to serve: {error.strerror}; it is ended")
            post.worker.kill()

    def until_due(self) -> float:
        """Seconds until a worker is to be started, or to be looked after."""
        now = time.monotonic()
        due = [post.due - now for post in self._posts if post.worker is None and not self.ending]
        return max(0.0, min([CERTAIN_SECONDS, *due]))

    @property
    def processes(self) -> dict[str, int]:
        """Who there is, by place, and the process."""
        return {f"worker-{post.place}": post.worker.pid for post in self._posts if post.worker is not None}

    @property
    def serving(self) -> int:
        """How many let clients in, and show signs of life."""
        return sum(silence < STUCK_SECONDS for silence in self._silences())

    @property
    def stuck(self) -> int:
        """How many let clients in, and show no sign of life."""
        return sum(silence >= STUCK_SECONDS for silence in self._silences())

    def end(self, within: float) -> None:
        """Begin the end: who has not ended in so many seconds, and some more, is killed."""
        self.ending = True
        self._end_by = time.monotonic() + within + CERTAIN_SECONDS

    def signal(self, number: signal.Signals) -> None:
        """Let every worker hear a signal."""
        for post in self._posts:
            if post.worker is not None:
                post.worker.send_signal(number)

    def kill_the_stuck(self) -> None:
        """End those who were stuck when we looked, and are so still, so that others take their places.

        One look is not enough: where all of us were stopped for long, as a container can be, nobody is stuck.
        """
        now = time.monotonic()
        pulses = tally.read_pulses(self.tally, self.places)
        for post, pulse in zip(self._posts, pulses, strict=True):
            if post.worker is None:
                continue
            if self.ending:
                if now >= self._end_by:
                    post.worker.kill()
            elif _is_stuck(post, pulse, now) and not _waits_for_a_device(post.worker.pid):
                self.complain(f"a worker shows no sign of life since {now - post.suspect[0]:.0f} s; it is ended")
                post.worker.kill()

    def reap(self) -> None:
        """Take note of those who have ended."""
        for post in self._posts:
            if post.worker and post.channel and (status := post.worker.poll()) is not None:
                post.channel.close()
                post.worker = post.channel = None
                strike_out(self.ledger, post.place)
                tally.strike_out(self.tally, post.place, self._accounts)
                self.deaths += not self.ending
                self._vacate(post, f"ended ({_told(status)})")

    def hand_over(self, charge: Charge, do: str) -> list[Message]:
        """Give every worker another charge, and hear what each has to say to that. Raises OSError: not all have it."""
        self._number += 1
        self._accounts = max(self._accounts, len(charge.handover.ledger))  # one may die before the next `fill`
        for post in self._posts:
            with _as_file(charge.handover) as handover:  # for each its own: they would share where they read
                self._hand_over(post, charge, handover, {"do": do, "number": self._number})
        return list(self._answers())

    def tell(self, do: str) -> list[Message]:
        """Tell every worker to do something, and hear what each has to say to that."""
        self.say(do)
        return list(self._answers())

    def say(self, do: str) -> None:
        """Tell every worker to do something, and wait for nobody; an answer is no answer to what is said later."""
        self._number += 1
        for post in self._posts:
            with suppress(OSError):  # who does not hear it does not answer
                _send(post, {"do": do, "number": self._number})

    def kill_the_silent(self, said: list[Message]) -> None:
        """End those who did not answer: who takes their place begins with what the others have."""
        answered = {each["place"] for each in said if "silent" not in each}
        for post in self._posts:
            if post.worker is not None and post.place not in answered:
                post.worker.kill()

    def _silences(self) -> list[float]:
        """For each worker that lets clients in, the seconds since its last sign of life."""
        now = time.monotonic()
        return [now - pulse for pulse in tally.read_pulses(self.tally, self.places) if pulse > 0]

    def _start(self, post: _Post) -> None:
        """A worker of its own program text: nothing of ours is in its memory but what it is handed. Raises OSError."""
        ours, theirs = Channel.pair()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # it begins so: none ends it before it can hear
        try:
            post.worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "proxyd.serve"],
                stdin=theirs.socket.fileno(),
                env=os.environ | {"PYTHONPATH": _importable()},
            )
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        post.channel = ours

    def _hand_over(self, post: _Post, charge: Charge, handover: int, message: Message) -> None:
        files = [handover, self.ledger, self.tally, *charge.sockets_of(post.place)]
        _send(post, message | {"place": post.place}, files)

    def _answers(self) -> Iterator[Message]:
        """What each worker answers to the last message, or that it is silent; who is not there has nothing to say.

        Who dies instead of an answer may have died of what it was told: that is no consent.
        """
        end = time.monotonic() + ANSWER_SECONDS
        for post in self._posts:
            if post.channel is not None:
                yield {"place": post.place} | self._answer(post.channel, end)

    def _answer(self, channel: Channel, end: float) -> Message:
        with suppress(OSError, ValueError):
            while True:
                channel.socket.settimeout(max(0.01, end - time.monotonic()))
                received = channel.receive()
                if received is None:
                    return {"silent": True, "cannot": "a worker ended instead of an answer"}
                close_all(received[1])  # nobody has to send any
                if received[0].get("number") == self._number:  # else it answers, late, something asked before
                    return received[0]
        return {"silent": True}

    def _vacate(self, post: _Post, why: str) -> None:
        """Say when a worker is replaced: soon if it had served well; if they keep dying, less and less often."""
        if self.ending:
            return
        now = time.monotonic()
        if now - post.started >= GOOD_SECONDS:
            post.pause = FIRST_PAUSE
        post.due = now + post.pause
        if not self.replaces:
            self.complain(f"a worker {why}; nobody takes its place")
            signal.raise_signal(signal.SIGTERM)  # it is heard before anybody is due
            return
        self.complain(f"a worker {why}; another is started in {post.pause:g} s, connections wait")
        post.pause = min(post.pause * 2, LONGEST_PAUSE)


@contextmanager
def _as_file(handover: Handover) -> Iterator[int]:
    """It, in memory, for as long as it takes to hand it over. Raises OSError."""
    fd = handover.as_file()
    try:
        yield fd
    finally:
        os.close(fd)


def _send(post: _Post, message: Message, files: list[int] | None = None) -> None:
    """One that is dead already does not take it; SIGCHLD tells. Nor does one that is stuck. Raises OSError for us."""
    if post.channel is not None:
        with suppress(ConnectionError, TimeoutError):
            post.channel.socket.settimeout(ANSWER_SECONDS)
            post.channel.send(message, files or ())


def _is_stuck(post: _Post, pulse: float, now: float) -> bool:
    """Whether there was no sign of life for long enough, and none since we first saw that."""
    last, patience = (pulse, STUCK_SECONDS) if pulse else (post.started, BEGIN_SECONDS)
    if pulse == tally.RESTS or now - last < patience:
        return False
    suspected, since = post.suspect
    if suspected == last and now - since < CERTAIN_SECONDS:
        return False
    post.suspect = last, now
    return suspected == last


def _waits_for_a_device(pid: int) -> bool:
    """Whether a process cannot be interrupted, as by a disk that stands still (proc(5)): to kill it gains nothing."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"
    return False


def _importable() -> str:
    """PYTHONPATH by which a worker finds this very package first, wherever it was started from."""
    own = str(Path(proxyd.__file__).parents[1])
    return os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH"))))


def _told(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
