"""`python -m proxyd.serve FD …`: one worker. The supervisor starts it, with its listening sockets; nobody else does.

What to do comes on stdin, and stdin's end means that the supervisor is gone: then nobody is left to restart or to end
this one, and it ends as on SIGTERM.
"""

from __future__ import annotations

import gc
import signal
import socket
import sys

import trio

from proxyd.audit.sink import FileSink, Sink
from proxyd.policy.load import PolicyError
from proxyd.serve.complaints import Complaints
from proxyd.serve.handover import Handover
from proxyd.serve.session import described
from proxyd.serve.worker import serve


def main() -> int:
    """Serve to the end: the exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends it to all of us; the supervisor says what it means
    complain = Complaints()
    try:
        handover = Handover.read(sys.stdin.buffer)
        policy = handover.policy()
        sink = FileSink(policy.audit.to) if policy.audit.to != "stdout" else Sink(sys.stdout.fileno())
    except (ValueError, PolicyError, OSError) as error:
        complain(f"a worker cannot start: {error}")
        return 1
    sockets = [socket.socket(fileno=int(number)) for number in sys.argv[1:]]
    gc.collect()
    gc.freeze()  # what is here now stays: to look through it again and again costs a tunnel in twenty
    try:
        trio.run(serve, policy, handover, sockets, sink, complain, sys.stdin.fileno())
    except Exception as bug:  # noqa: BLE001 - it ends this worker; its message may quote what was passing through
        complain(f"bug: {described(bug)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
