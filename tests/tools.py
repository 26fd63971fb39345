"""Programs that a test drives and that Python does not bring: curl, node.

On a machine without one, its tests are skipped and say what to install; in CI, which installs them, that is a failure.
"""

from __future__ import annotations

import os
import shutil
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
