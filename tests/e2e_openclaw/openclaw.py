"""OpenClaw as an operator sets it up, with a home of its own; and one of its processes that does as it is told."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.e2e_openclaw.installation import Installation

PATIENCE: Final = 120.0  # seconds until a test gives up on OpenClaw; none is decided by time

_PLUGIN: Final = Path(__file__).with_name("plugin")
_ANSWER: Final = "answer "


@dataclass
class OpenClaw:
    """One configuration. proxy: what stands under "proxy" in openclaw.json; environment: what is special in it."""

    installation: Installation
    home: Path
    proxy: dict[str, Any]
    environment: dict[str, str]

    def __post_init__(self) -> None:
        plugin = self.home / "plugin"
        shutil.copytree(_PLUGIN, plugin)
        (plugin / "node_modules").symlink_to(self.installation.modules)
        plugins = {"allow": ["stacks"], "load": {"paths": [str(plugin)]}, "entries": {"stacks": {"enabled": True}}}
        config = self.home / ".openclaw" / "openclaw.json"
        config.parent.mkdir()
        config.write_text(json.dumps({"proxy": self.proxy, "plugins": plugins}))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command of OpenClaw's, and wait for its end."""
        return subprocess.run(  # noqa: S603 - what is tested
            self._command(*arguments), **self._circumstances(), capture_output=True, check=False, timeout=PATIENCE
        )

    def start(self) -> Stacks:
        """Start the process that asks as it is told."""
        return Stacks(
            subprocess.Popen(  # noqa: S603 - what is tested
                self._command("stacks"),
                **self._circumstances(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )

    def _command(self, *arguments: str) -> list[str]:
        return [str(self.installation.node), str(self.installation.openclaw), *arguments]

    def _circumstances(self) -> dict[str, Any]:
        path = f"{self.installation.node.parent}:{os.environ['PATH']}"
        environment = {"HOME": str(self.home), "PATH": path, "LC_ALL": "C", "NO_COLOR": "1", **self.environment}
        return {"env": environment, "cwd": self.home, "text": True}


@dataclass
class Stacks:
    """OpenClaw's process in which plugin/ runs, between its start and its end."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    _answers: queue.Queue[str] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def ask(self, **order: object) -> dict[str, Any]:
        """Have it do something: what came of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        try:
            answer: dict[str, Any] = json.loads(self._answers.get(timeout=PATIENCE))
        except queue.Empty:
            raise AssertionError(f"no answer to {order}: {''.join(self.said)}") from None
        return answer

    def stop(self) -> int:
        """End it: the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._ear.join()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                if line.startswith(_ANSWER):
                    self._answers.put(line.removeprefix(_ANSWER))
                else:
                    self.said.append(line)
