"""A real browser, headless, spoken to through a pipe in its DevTools protocol: what a page does in it, and shows."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 60.0  # seconds until a test gives up; none is decided by time

_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-breakpad"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)

_ON_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""It reads commands from descriptor 3, and answers on 4."""


@dataclass
class Browser:
    """A running Chromium with one tab; `heard` is what it told of itself: console, log and network events."""

    profile: Path
    heard: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        theirs, ours = os.pipe(), os.pipe()
        reads, writes = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs[0], ours[1]))
        command = [sys.executable, "-c", _ON_3_AND_4, str(reads), str(writes), tool("chromium"), *_QUIET]
        self._process = subprocess.Popen(  # noqa: S603 - a program of this machine
            [*command, f"--user-data-dir={self.profile}"],
            env=os.environ | {"HOME": str(self.profile)},
            stderr=subprocess.DEVNULL,
            pass_fds=(reads, writes),
        )
        for fd in (reads, writes, theirs[0], ours[1]):
            os.close(fd)
        self._commands: IO[bytes] = os.fdopen(theirs[1], "wb")
        self._answers: IO[bytes] = os.fdopen(ours[0], "rb")
        self._session: str | None = None
        self._number = 0
        self._rest = b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._hear()).get("id") != self._number:
            self.heard.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str, *, width: int, dark: bool) -> None:
        """Show a page in a window of that width, and wait until it is there."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.heard.clear()
        self.ask("Page.navigate", url=url)
        while not any(each.get("method") == "Page.loadEventFired" for each in self.heard):
            self.heard.append(self._hear())

    def run(self, script: str) -> Any:  # noqa: ANN401 - whatever JSON can spell
        """What an expression is in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def complaints(self) -> list[dict[str, Any]]:
        """Whatever stands in its console, and whatever it refused to do."""
        of_console = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [each for each in self.heard if each.get("method") in of_console]

    def requests(self) -> list[str]:
        """The URLs that were asked for."""
        sent = (each["params"] for each in self.heard if each.get("method") == "Network.requestWillBeSent")
        return [each["request"]["url"] for each in sent]

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def close(self) -> None:
        """End it."""
        self._session = None
        self.ask("Browser.close")
        self._commands.close()
        self._process.wait()
        self._answers.close()

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE)
            piece = os.read(self._answers.fileno(), 1 << 20) if ready else b""
            assert piece, f"the browser {'ended' if ready else 'does not answer'}: {self.heard[-3:]}"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        heard: dict[str, Any] = json.loads(message)
        return heard
