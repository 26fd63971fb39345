"""The proxy beside a confined command, for `proxyd exec`: started by it, outside its network, and gone when it is.

It serves one socket that the command made, and nobody else.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from proxyd.cli.files import EX_UNAVAILABLE
from proxyd.cli.prepare import Confined
from proxyd.cli.run import serve

if TYPE_CHECKING:
    from typing import NoReturn

READY: Final = b"\0"
"""What is said to the command when it may begin; anything else is an exit status."""


@dataclass(frozen=True, slots=True)
class Ward:
    """A confined command that is served: confined says where it is, and `process` (pidfd_open(2)) that it is still.

    It is also the manager (proxyd.net.notify) that is told how the proxy does: it begins when that is ready.
    """

    confined: Confined
    process: int
    channel: socket.socket
    listens: ClassVar[bool] = True
    patience: ClassVar[float] = 0.0

    def fileno(self) -> int:
        """What is readable when the command has ended."""
        return self.process

    def work(self) -> None:
        """It has ended: so do we, and asked again and again, at once."""
        signal.raise_signal(signal.SIGTERM)

    def tell(self, *lines: str) -> None:
        """Let it begin, once the proxy is ready."""
        if "READY=1" in lines:
            with suppress(OSError):  # it has ended already
                self.channel.sendall(READY)


def start_beside(policy: str, log: int) -> socket.socket:
    """A proxyd beside this process, outside whatever it will be confined to: a channel to it. Raises OSError.

    It is nobody's child and in a session of its own: the command must neither wait for it nor share signals with it.
    """
    ours, theirs = socket.socketpair()
    process = os.pidfd_open(os.getpid())
    child = os.fork()
    if not child:
        _leave_family(policy, log, theirs, process)
    with suppress(ChildProcessError):  # who started us ignores SIGCHLD
        os.waitpid(child, 0)
    os.close(process)
    os.close(log)
    theirs.close()
    return ours


def _leave_family(policy: str, log: int, channel: socket.socket, process: int) -> NoReturn:
    """In a child: let a grandchild be the daemon. Whatever becomes of it, neither goes on as this process would."""
    try:
        os.setsid()
        if not os.fork():
            _be_daemon(policy, log, channel, process)
    finally:
        os._exit(0)


def _be_daemon(policy: str, log: int, channel: socket.socket, process: int) -> None:
    """Serve until the command has ended; if that cannot be, tell it why not."""
    status = EX_UNAVAILABLE
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        close_all_but(0, 1, 2, channel.fileno(), process)
        _, numbers, _, _ = socket.recv_fds(channel, 1, 1)
        if numbers:
            with socket.socket(fileno=numbers[0]) as listener:
                listener.set_inheritable(False)
                status = serve(policy, Ward(Confined(listener, os.geteuid()), process, channel))
    except Exception:  # noqa: BLE001 - of whatever kind: nobody above here is us
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError):
            channel.sendall(bytes([status or EX_UNAVAILABLE]))
        sys.stderr.flush()


def close_all_but(*kept: int) -> None:
    """Whatever there is; not only up to the limit of this moment, which may have been higher."""
    for each in tuple(Path("/proc/self/fd").iterdir()):
        if int(each.name) not in kept:
            with suppress(OSError):  # the one by which that was listed
                os.close(int(each.name))
