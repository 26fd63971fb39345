"""What the bench found: tables for a reader, one JSON object a line for a program. Nothing is measured here."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.bench.peers import PROXYD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.bench.contenders import Contender
    from tests.bench.works import Result

RESULTS: Final = Path(__file__).parent / "results"
_WHOLE: Final = 100  # a figure below this gets a decimal
_LEAST: Final = 1.0  # nothing is said to be a multiple of less than this
_NOTHING: Final = "–"  # noqa: RUF001 - the table's dash


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("trio", "h11")},
    }


def write_raw(rounds: Sequence[Sequence[Result]], about: dict[str, Any]) -> Path:
    """Keep the raw results: the machine in the first line, then one line a result. Where they are."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H%M%SZ}.jsonl"
    lines = [about, *({"round": i, **asdict(each)} for i, results in enumerate(rounds, 1) for each in results)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def errors(results: Iterable[Result], of: Iterable[Contender]) -> list[str]:
    """The first error of each work of these contenders that had any."""
    names = {each.name for each in of}
    return [
        f"{result.contender}: {result.work}: {result.said['errors']} errors, the first: {result.said['first_error']}"
        for result in results
        if result.contender in names and result.said["errors"]
    ]


@dataclass(frozen=True)
class Report:
    """The results of all rounds, as tables. "!" marks a figure that had errors."""

    results: Sequence[Result]
    contenders: Sequence[Contender]

    def tables(self) -> str:
        """For a terminal: the medians with the ratio to proxyd below, the CPU time, and proxyd in detail."""
        names = [each.name for each in self.contenders]
        medians = [["median; ratio to proxyd below", *names]]
        for work in self._works():
            medians.append([work, *self._cells(work, self._figure)])
            if any(ratios := self._cells(work, self._ratio)):
                medians.append(["", *ratios])
        cpu = [["CPU seconds, median", *names], *([work, *self._cells(work, self._cpu)] for work in self._works())]
        cpu = [row for row in cpu if set(row[1:]) != {_NOTHING}]
        detail = [[PROXYD.name, "median", "least", "most", "CPU s", "errors"]]
        detail += [[work, *self._detail(work)] for work in self._works()]
        return "\n\n".join(_aligned(rows) for rows in (medians, cpu, detail))

    def markdown(self) -> str:
        """For the README: everybody's medians, with the ratio to proxyd."""
        rows = [["median (ratio to proxyd)", *(each.name for each in self.contenders)]]
        rows.append(["---", *("--:" for _ in self.contenders)])
        for work in self._works():
            pairs = zip(self._cells(work, self._figure), self._cells(work, self._ratio), strict=True)
            rows.append([work, *(f"{figure} ({ratio})" if ratio else figure for figure, ratio in pairs)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _works(self) -> list[str]:
        return list(dict.fromkeys(result.work for result in self.results))

    def _cells(self, work: str, cell: Callable[[str, str], str]) -> list[str]:
        return [cell(work, each.name) for each in self.contenders]

    def _of(self, work: str, contender: str) -> list[Result]:
        return [result for result in self.results if (result.work, result.contender) == (work, contender)]

    def _figures(self, work: str, contender: str) -> list[float]:
        return [result.figure for result in self._of(work, contender) if result.figure is not None]

    def _figure(self, work: str, contender: str) -> str:
        figures = self._figures(work, contender)
        mark = "!" if self._errors(work, contender) else ""
        return (_number(statistics.median(figures)) if figures else _NOTHING) + mark

    def _ratio(self, work: str, contender: str) -> str:
        figures, ours = self._figures(work, contender), self._figures(work, PROXYD.name)
        if contender == PROXYD.name or not figures or not ours or statistics.median(ours) < _LEAST:
            return ""
        ratio = statistics.median(figures) / statistics.median(ours)
        return f"×{_number(ratio)}" if ratio >= _WHOLE else f"×{ratio:.2g}"  # noqa: RUF001 - times

    def _cpu(self, work: str, contender: str) -> str:
        spent = [each.cpu_seconds for each in self._of(work, contender) if each.cpu_seconds is not None]
        return f"{statistics.median(spent):.2f}" if spent else _NOTHING

    def _errors(self, work: str, contender: str) -> int:
        return sum(result.said["errors"] for result in self._of(work, contender))

    def _detail(self, work: str) -> list[str]:
        ours = self._figures(work, PROXYD.name)
        spread = [_number(least_or_most(ours)) if ours else _NOTHING for least_or_most in (min, max)]
        errors = str(self._errors(work, PROXYD.name))
        return [self._figure(work, PROXYD.name), *spread, self._cpu(work, PROXYD.name), errors]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(row)).rstrip()
        for row in (list(zip(cells, widths, strict=True)) for cells in rows)
    )


def _number(figure: float) -> str:
    return f"{figure:,.1f}" if abs(figure) < _WHOLE else f"{figure:,.0f}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
