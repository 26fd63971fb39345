"""What can happen to the place where the audit log is so that no record can be written there, and how it passes."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.faults.small_disk import SmallDisk

    Fault = Callable[[SmallDisk, Path], AbstractContextManager[None]]


@contextmanager
def full(disk: SmallDisk, _log: Path) -> Iterator[None]:
    """There is no room for it."""
    disk.fill()
    yield
    disk.free()


@contextmanager
def without_its_folder(_disk: SmallDisk, log: Path) -> Iterator[None]:
    """It is gone, and so is where it was; then somebody makes the folder again."""
    shutil.rmtree(log.parent)
    yield
    log.parent.mkdir()


@contextmanager
def read_only(disk: SmallDisk, _log: Path) -> Iterator[None]:
    """By its name there is a file system that cannot be written to."""
    with disk.hidden():
        yield


def replaced(make: Callable[[Path], None], remove: Callable[[Path], None] = os.unlink) -> Fault:
    """It was renamed, and something is in its place that cannot be written to."""

    @contextmanager
    def fault(_disk: SmallDisk, log: Path) -> Iterator[None]:
        log.rename(renamed(log))
        make(log)
        yield
        remove(log)

    return fault


def renamed(log: Path, number: int = 1) -> Path:
    """What it is called after so many rotations."""
    return log.with_name(f"{log.name}.{number}")


UNWRITABLE: Final[dict[str, Fault]] = {
    "a full disk": full,
    "no folder": without_its_folder,
    "a read-only file system": read_only,
    "a directory in its place": replaced(os.mkdir, os.rmdir),
    "a FIFO that nobody reads": replaced(os.mkfifo),
    "a link to nowhere": replaced(lambda log: log.symlink_to(log.parent / "nowhere" / "log")),
    "a link to itself": replaced(lambda log: log.symlink_to(log)),
}
