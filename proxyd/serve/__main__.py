"""`python -m proxyd.serve`: one worker. The supervisor starts it; nobody else does.

Its stdin is the channel to the supervisor: what to serve comes from there, and its end means that the supervisor is
gone. Then nobody is left to restart or to end this one, and it ends as on SIGTERM.
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
from typing import TYPE_CHECKING

import trio

from proxyd.policy.load import PolicyError
from proxyd.serve.channel import Channel
from proxyd.serve.complaints import Complaints
from proxyd.serve.given import Given, open_sink
from proxyd.serve.session import described
from proxyd.serve.worker import serve

if TYPE_CHECKING:
    from proxyd.serve.channel import Message


def main() -> int:
    """Serve to the end: the exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends it to all of us; the supervisor says what it means
    complain = Complaints()
    try:
        channel = Channel(socket.socket(fileno=sys.stdin.fileno()))
        received = channel.receive()
        if received is None:
            return 1  # the supervisor is gone already
        given = _taken(*received)
        sink = given.sink or open_sink(given.policy.audit)
    except (ValueError, PolicyError, OSError) as error:
        complain(f"a worker cannot start: {error}")
        return 1
    gc.collect()
    gc.freeze()  # what is here now stays: to look through it again and again costs a tunnel in twenty
    try:
        trio.run(serve, given, sink, channel, complain)
    except Exception as bug:  # noqa: BLE001 - it ends this worker; its message may quote what was passing through
        complain(f"bug: {described(bug)}")
        return 1
    return 0


def _taken(message: Message, files: list[int]) -> Given:
    """What there is to serve. Raises ValueError, PolicyError or OSError; a policy to prepare is none to serve."""
    if message.get("do") != "serve":
        raise ValueError("what it was told first is lost")
    return Given.take(message, files)


if __name__ == "__main__":
    sys.exit(main())
