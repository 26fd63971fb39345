"""What the bench found: one table for a reader, one JSON object a line for a program. Nothing is measured here."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxyd import __version__
from tests.bench.contenders import NO_PROXY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.bench.contenders import Contender
    from tests.bench.works import Result

RESULTS: Final = Path(__file__).parent / "results"
_DIGITS: Final = 100  # a figure below this gets a decimal
_NOTHING: Final = "–"  # noqa: RUF001 - the table's dash


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "proxyd": __version__,
        **{package: version(package) for package in ("trio", "h11")},
    }


def table(results: Sequence[Result], contenders: Iterable[Contender]) -> str:
    """One row a work; each contender's median and range, and its share of what is possible without a proxy."""
    peers = [each for each in contenders if each is not NO_PROXY]
    heads = [column for peer in peers for column in (peer.name, "ratio", "CPU s", "errors")]
    rows = [["work", *heads, NO_PROXY.name, "errors"]]
    for work in dict.fromkeys(result.work for result in results):
        straight = _of(results, work, NO_PROXY)
        row = [work]
        for peer in peers:
            own = _of(results, work, peer)
            row += [_spread(own), _ratio(own, straight), _cpu(own), _errors(own)]
        rows.append([*row, _spread(straight), _errors(straight)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(row))
        for row in (list(zip(cells, widths, strict=True)) for cells in rows)
    ]
    return "\n".join([lines[0], "-+-".join("-" * width for width in widths), *lines[1:]])


def first_errors(results: Iterable[Result]) -> list[str]:
    """The first error of each work that had any."""
    return [
        f"{result.contender}: {result.work}: {result.said['errors']} errors, the first: {result.said['first_error']}"
        for result in results
        if result.said["errors"]
    ]


def write_raw(rounds: Sequence[Sequence[Result]], about: dict[str, Any]) -> Path:
    """Keep the raw results: the machine in the first line, then one line a result. Where they are."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H%M%SZ}.jsonl"
    lines = [about, *({"round": i, **asdict(each)} for i, results in enumerate(rounds, 1) for each in results)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _of(results: Iterable[Result], work: str, contender: Contender) -> list[Result]:
    return [result for result in results if (result.work, result.contender) == (work, contender.name)]


def _median(results: list[Result]) -> float:
    return statistics.median(result.figure for result in results)


def _spread(results: list[Result]) -> str:
    if not results:
        return _NOTHING
    figures = [result.figure for result in results]
    return f"{_number(_median(results))} ({_number(min(figures))}–{_number(max(figures))})"  # noqa: RUF001 - a range


def _ratio(results: list[Result], straight: list[Result]) -> str:
    return f"{_median(results) / _median(straight):.3f}" if results and straight and _median(straight) else _NOTHING


def _cpu(results: list[Result]) -> str:
    spent = [result.cpu_seconds for result in results if result.cpu_seconds is not None]
    return f"{statistics.median(spent):.2f}" if spent else _NOTHING


def _errors(results: list[Result]) -> str:
    return str(sum(result.said["errors"] for result in results)) if results else _NOTHING


def _number(figure: float) -> str:
    return f"{figure:,.1f}" if abs(figure) < _DIGITS else f"{figure:,.0f}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
