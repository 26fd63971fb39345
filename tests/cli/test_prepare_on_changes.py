"""A policy whose files change while they are read: what is prepared was there, as a whole, at one moment (R12)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import prepare as prepare_module
from proxyd.cli.files import read_policy_file
from proxyd.cli.prepare import READINGS
from tests.cli.desk import Desk, desk
from tests.cli.policies import text, write

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["desk", "write"]

ROW = '[[deny]]\nname = "row{}"\nhosts = ["x.test"]\nreason = "x"\n'


class Meddler:
    """Reads for `prepare`, and does something after some of the readings. count: of readings so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[int], object]) -> None:
        self.count = 0
        self._meddle = meddle
        monkeypatch.setattr(prepare_module, "read_policy_file", self)

    def __call__(self, name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:
        found = read_policy_file(name, beside, secret=secret)
        self.count += 1
        self._meddle(self.count)
        return found


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of rows that the policy includes."""
    path = tmp_path / "rows.toml"
    path.write_text(ROW.format(0))
    return path


def including() -> str:
    """The policy that includes it."""
    return text(top='include = ["rows.toml"]')


def test_what_stays_as_it_is_is_read_and_looked_at_once_more(
    desk: Desk, write: Callable[[str], str], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meddler = Meddler(monkeypatch, lambda _: None)
    assert [row.name for row in desk.prepare(write(including())).policy.deny] == ["row0"]
    assert (meddler.count, rows.exists()) == (4, True)


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_set_that_changes_between_two_of_its_files_is_read_again(
    desk: Desk, write: Callable[[str], str], rows: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Both files, after the first of them was read, after the second, and while they are looked at again."""
    name = write(including())

    def change(count: int) -> None:
        if count == moment:
            rows.write_text(ROW.format(1))
            write(including().replace('"gateway"', '"another"'))

    Meddler(monkeypatch, change)
    policy = desk.prepare(name).policy
    assert (policy.name, [row.name for row in policy.deny]) == ("another", ["row1"])


@pytest.mark.parametrize("gone", [Path.unlink, lambda path: path.rename(path.with_suffix(".away"))])
def test_r12_a_file_that_goes_while_the_set_is_read_is_missing(
    desk: Desk,
    write: Callable[[str], str],
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    gone: Callable[[Path], object],
) -> None:
    name = write(including())
    Meddler(monkeypatch, lambda count: gone(rows) if count == 2 else None)
    [problem], status = desk.refused(name)
    assert ("cannot be read" in problem, status) == (True, 78)


def test_r12_what_never_stays_as_it_is_is_refused_with_the_way_out(
    desk: Desk, write: Callable[[str], str], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meddler = Meddler(monkeypatch, lambda count: rows.write_text(ROW.format(count)))
    [problem], status = desk.refused(write(including()))
    assert ("changes while it is read; write the new one beside it, rename it" in problem, status) == (True, 78)
    assert meddler.count == 4 * READINGS
