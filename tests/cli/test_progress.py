"""How far a reading has come: drawn for who waits at a terminal, wiped away in the end, and for nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxyd.cli.progress import Progress
from tests.cli.looking_on import look_on

if TYPE_CHECKING:
    from collections.abc import Callable

CLEAR = "\r\x1b[K"


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Files of a thousand octets in all, and one that is gone by now."""
    for name, octets in (("a", 400), ("b", 600)):
        (tmp_path / name).write_bytes(bytes(octets))
    return [tmp_path / "a", tmp_path / "b", tmp_path / "gone"]


@pytest.fixture
def drawn(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was drawn since it was asked last."""
    return lambda: capfd.readouterr().err


def bar(marks: int, percent: int) -> str:
    """The bar as it is drawn."""
    return f"{CLEAR}[{'#' * marks}{'.' * (30 - marks)}] {percent:3}% of 0 MB"


def test_it_is_drawn_now_and_then_and_wiped_away_in_the_end(
    drawn: Callable[[], str], clock: Clock, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    with Progress(paths, clock) as progress:
        progress(100)
        assert drawn() == "", "what is done at once needs no bar"
        clock.now += 0.25
        progress(500)
        assert drawn() == bar(15, 50)
        progress(600)
        assert drawn() == "", "a terminal is not drawn to for every line"
        clock.now += 0.25
        progress(2000)
        assert drawn() == bar(30, 100), "a log that grew is no more than all of it"
    assert drawn() == CLEAR


def test_it_makes_way_for_a_line_and_comes_back_when_none_comes(
    drawn: Callable[[], str], clock: Clock, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    with Progress(paths, clock) as progress:
        clock.now += 0.25
        progress(100)
        assert drawn() == bar(3, 10)
        progress.make_way()
        assert drawn() == CLEAR
        clock.now += 0.125
        progress.make_way()
        clock.now += 0.125
        progress(200)
        assert drawn() == "", "who sees lines sees that it goes on"
        clock.now += 0.125
        progress(300)
        assert drawn() == bar(9, 30)


def test_it_is_wiped_away_for_what_goes_wrong(
    drawn: Callable[[], str], clock: Clock, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)

    def interrupted() -> None:
        with Progress(paths, clock) as progress:
            clock.now += 0.25
            progress(1000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert drawn() == bar(30, 100) + CLEAR


@pytest.mark.parametrize("files", [[], [Path("-")]])
def test_nothing_is_drawn_of_what_has_no_known_size(
    drawn: Callable[[], str], clock: Clock, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    with Progress(files, clock) as progress:
        clock.now += 1
        progress(1)
    assert drawn() == ""


def test_nobody_else_is_shown_anything(clock: Clock, paths: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    """A stderr that is a file, as a service manager's is."""
    with Progress(paths, clock) as progress:
        clock.now += 1
        progress(500)
    assert capfd.readouterr() == ("", "")
