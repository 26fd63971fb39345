"""`python -m tests.e2e_openclaw [FOLDER]`: install OpenClaw in FOLDER unless it is there, then run these tests."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.e2e_openclaw.installation import FOLDER_IS_IN, Installation

HERE = Path(__file__).parent


def main() -> int:
    """Install and test: pytest's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e_openclaw",
        description="Installs OpenClaw from npm and a Node for it from PyPI, then runs it behind proxyd.",
        epilog="What follows -- goes to pytest.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="where to install, about 900 MB, and to find it again; else, for once"
    )
    parser.add_argument("pytest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        return _test(arguments.folder.resolve(), arguments.pytest)
    with tempfile.TemporaryDirectory(prefix="proxyd-openclaw-") as folder:
        return _test(Path(folder), arguments.pytest)


def _test(folder: Path, more: list[str]) -> int:
    """Here the network is still the host's; pytest enters one of its own."""
    if not (installation := Installation(folder)).is_complete():
        installation.make()
    command = [sys.executable, "-m", "pytest", str(HERE), *more]
    return subprocess.run(command, check=False, env={**os.environ, FOLDER_IS_IN: str(folder)}).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
