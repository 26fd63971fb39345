"""A short soak, run as the README says; and that what it would find is found (R10)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

import pytest

from tests import namespace
from tests.soak.parts import compared
from tests.soak.picture import Row, picture
from tests.soak.slope import slope
from tests.tools import give_up, tool

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parents[2]
ARGUMENTS: Final = ("--minutes", "0.1", "--clients", "8", "--tunnels", "300", "--lorises", "60", "--rounds", "1")


def test_r10_after_tunnels_crowds_and_lorises_nothing_is_lost_and_nothing_kept(
    tmp_path: Path, figures: dict[str, str]
) -> None:
    if not namespace.isolated:
        give_up("no network namespace can be had here")
    tool("cc")
    drawn = tmp_path / "soak.svg"
    command = [sys.executable, "-m", "tests.soak", *ARGUMENTS, "--picture", str(drawn)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)  # noqa: S603 - ours
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 300 tunnels that stand | 0 lost;" in done.stdout
    assert "WRONG" not in done.stdout
    texts = {each.text for each in ET.parse(drawn).iter() if each.tag.endswith("text")}  # noqa: S314 - our own
    assert {"held", "rate", "lorises", "Open files, all workers", "Tasks, all workers"} <= texts
    figures["soak"] = next(line for line in done.stdout.splitlines() if "on record" in line).strip("| ")


def test_where_nothing_can_be_measured_it_says_so() -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={"PATH": ""})  # noqa: S603 - ours
    assert done.returncode == 1
    assert done.stderr.startswith("soak: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("series", "is_noise"),
    [
        (lambda _: 5.0, True),
        (lambda x: 5.0 + 0.1 * (x % 3), True),
        (lambda x: 5.0 - x, True),
        (lambda x: 5.0 + 0.1 * x + 0.1 * (x % 3), False),
        (float, False),
    ],
    ids=["level", "noise", "falling", "rising in noise", "rising"],
)
@pytest.mark.parametrize("points", [6, 40])
def test_a_rise_is_told_from_noise(series: Callable[[int], float], is_noise: bool, points: int) -> None:  # noqa: FBT001 - a case
    assert slope([(x, series(x)) for x in range(points)]).is_noise == is_noise


def test_the_slope_is_that_of_the_line() -> None:
    found = slope([(x, 3.0 + 2.0 * x) for x in range(10)])
    assert found.rise == pytest.approx(2.0)
    assert found.noise == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="3 points"):
        slope([(0, 0), (1, 1), (2, 2)])


def test_what_a_machine_had_no_time_for_is_not_compared() -> None:
    """A turn of a short run may pass with nothing done, where the machine has others to serve."""
    some = {"done": 10, "seconds": 0.5, "p50_us": 20.0, "p99_us": 30.0}
    nothing = dict.fromkeys(some, 0) | {"seconds": 0.5}
    assert compared(some, some).startswith("rate \N{MULTIPLICATION SIGN}1.00, p50 ")
    assert compared(nothing, some).startswith("rate \N{MULTIPLICATION SIGN}0.00, p50 ")
    assert compared(some, nothing) == "too little was done to compare"


def test_a_picture_shows_what_it_was_given_and_nothing_of_it_as_markup() -> None:
    drawn = picture([Row("<b>", "&", {"p50": [(0, 1), (60, 2)], "p99": [(0, 3), (60, 4)]})], [(0, "held")])
    texts = [each.text for each in ET.fromstring(drawn).iter() if each.tag.endswith("text")]  # noqa: S314 - our own
    assert {"<b>, &", "p50", "p99", "held", "1.0 min"} <= set(texts)
