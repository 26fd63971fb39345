"""A disk of 4 MB with room for one folder, that a test fills up, frees, and hides under a read-only one.

It is mounted in the mount namespace of a process of its own, through whose root (proc(5)) everybody else sees it.
"""

from __future__ import annotations

import itertools
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pytest

from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_MOUNT: Final = "mount -t tmpfs -o {options} small-disk {folder}"


class SmallDisk:
    """As a context: mounted. folder: where everybody sees it."""

    def __init__(self, folder: Path) -> None:
        """folder: an empty one, to mount it on; outside it stays empty."""
        self._mounted_on = folder
        self._keeper = subprocess.Popen(  # noqa: S603 - an ordinary shell
            [tool("unshare"), "--mount", tool("sh"), "-e"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.folder = Path(f"/proc/{self._keeper.pid}/root{folder}")
        self._ballast = self.folder / "ballast"

    def __enter__(self) -> Self:
        self._do(_MOUNT.format(options="size=4m", folder=self._mounted_on))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._keeper as keeper:
            keeper.kill()

    def fill(self) -> None:
        """Let no page be free; what is left of a file's last page can still be written to."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (1 << 16, 4096):
                with pytest.raises(OSError, match="No space left"):
                    all(map(ballast.write, itertools.repeat(bytes(size))))

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Meanwhile there is an empty file system in its place, that nobody can write to."""
        self._do(_MOUNT.format(options="ro", folder=self._mounted_on))
        try:
            yield
        finally:
            self._do(f"umount {self._mounted_on}")

    def _do(self, command: str) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(f"{command}\necho done\n")
        self._keeper.stdin.flush()
        assert self._keeper.stdout.readline() == "done\n", f"this cannot be done here: {command}"
