"""Somebody at a terminal, for the tests of what is shown to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def look_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, stdout and stderr are a terminal's. Not in a fixture: pytest changes the streams after those."""
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
