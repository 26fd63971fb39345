"""Programs that a test drives and that Python does not bring: curl, node.

On a machine without one, its tests are skipped and say what to install; in CI, which installs them, that is a failure.
"""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"CI installs {name}, and it is not there")
    if found is None:
        pytest.skip(f"install {name} to run this")
    return found
