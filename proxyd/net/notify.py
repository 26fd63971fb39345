"""The service manager told how it goes: readiness, a line of status, signs of life (sd_notify(3)).

One datagram to the socket that it names in the environment. Where none is named nobody is told, and nothing is lost.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

_MICROSECONDS: Final = 1_000_000


class Manager:
    """Whoever started this process and wants to hear of it. What is started by it hears nothing of that."""

    def __init__(self) -> None:
        """Take what the environment says; it is ours alone from here on."""
        address, period, owner = (
            os.environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        ours = owner in ("", str(os.getpid())) and period.isdigit()
        self.patience = int(period) / _MICROSECONDS if ours else 0.0

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def tell(self, *lines: str) -> None:
        """Say `NAME=value`, one a line. A manager that cannot be reached is no reason not to serve."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(0)
                sock.sendto("\n".join(lines).encode(), self._address)
