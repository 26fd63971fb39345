"""Daemons that wait long for others, so that a test's own servers and clients may be slow and nothing is decided by it.

For tests of what comes of an answer, not of one that does not come: all that proxyd decides is as ever.
"""

from __future__ import annotations

import os
from pathlib import Path

import proxyd

_DRIVER = """from proxyd.net import nameserver, resolver
from proxyd.serve import exchange

nameserver.TRY_SECONDS = resolver.GRACE_SECONDS = 60.0
resolver.TOTAL_SECONDS = exchange.ANSWER_SECONDS = 120.0
exchange.LINGER_SILENCE = exchange.LINGER_SECONDS = 60.0
"""


def patient(directory: Path) -> dict[str, str]:
    """The environment of such a daemon. directory: of its own."""
    return driven(directory, _DRIVER)


def driven(directory: Path, driver: str) -> dict[str, str]:
    """The environment in which Python runs these words before anything else (site), from a file in `directory`."""
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(driver)
    path = os.pathsep.join((str(directory), str(Path(proxyd.__file__).parents[1])))
    return os.environ | {"PYTHONPATH": path}
