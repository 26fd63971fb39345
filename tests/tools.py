"""Programs that a test drives and that Python does not bring: curl, node; and a port for one that has to be told.

On a machine without one, its tests are skipped and say what to install; in CI, which installs them, that is a failure.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
from typing import NoReturn

import pytest


def tool(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if found is None:
        give_up(f"install {name} to run this")
    return found


def give_up(why: str) -> NoReturn:
    """Leave out a test for want of something on this machine; CI, which sees to everything, may want nothing."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI nothing may be missing: {why}")
    pytest.skip(why)


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody has there, of those that the kernel gives to nobody by itself (ip(7), ip_local_port_range)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 - any
        with socket.socket(family) as sock:
            try:
                sock.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
