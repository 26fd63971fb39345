"""What the supervisor and a worker tell each other: small messages, and file descriptors with them.

Each message comes whole or not at all (unix(7), SOCK_SEQPACKET). The end of the channel is the end of the other one.
What the messages mean is the supervisor's and the worker's.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_OCTETS: Final = 64 * 1024
MAX_FILES: Final = 250  # the kernel's SCM_MAX_FD is 253

Message = dict[str, Any]


class Channel:
    """One end of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def send(self, message: Message, files: Sequence[int] = ()) -> None:
        """Tell the other one; the files stay ours, and it has them too. Raises OSError if it is not there."""
        socket.send_fds(self.socket, [json.dumps(message).encode()], list(files))

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message, and the files that came with it; None at the end.

        Raises OSError, also after a timeout, and ValueError for what is no message; then its files are closed.
        """
        octets, files, _, _ = socket.recv_fds(self.socket, MAX_OCTETS, MAX_FILES)
        for number in files:
            os.set_inheritable(number, False)  # noqa: FBT003 - recv_fds passes no MSG_CMSG_CLOEXEC on
        if not octets:
            return None
        try:
            return _message(octets), files
        except ValueError:
            close_all(files)
            raise

    def close(self) -> None:
        """Tell the other one that this one is gone."""
        self.socket.close()


def close_all(files: Sequence[int]) -> None:
    """Let go of files that came with a message."""
    for number in files:
        os.close(number)


def _message(octets: bytes) -> Message:
    try:
        message = json.loads(octets)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("no message")  # noqa: TRY004 - of the right type, but not what was agreed
    return message
