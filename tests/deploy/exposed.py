"""What the tests of dashboards and alert rules share: promtool, and what a proxyd exposes, with its labels."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client.parser import text_string_to_metric_families

from proxyd.observe.metrics import News, exposition
from proxyd.observe.tally import Tally, new_tally, read_totals
from proxyd.policy.verdict import Reason
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Mapping

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "proxyd.rules.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "proxyd.json"

_ADDED: Final = {"job", "instance"}  # by Prometheus, to whatever it scrapes
_METRIC: Final = re.compile(r"\b(proxyd_\w+)(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r'(\w+)=~?"([^"]*)"')


def promtool(*arguments: str | Path) -> str:
    """What promtool says; it has to find everything good."""
    program = tool("promtool")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - what we ship
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@cache
def exposed() -> Mapping[str, Mapping[str, set[str]]]:
    """Family -> its samples -> their labels, as a real exposition has them."""
    fd = new_tally(1)
    try:
        Tally(os.dup(fd), 0, ("", "agent")).close()
        totals = read_totals(fd, 1, ("", "agent"))
    finally:
        os.close(fd)
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(exposition(totals, _NEWS).decode()):
        for sample in family.samples:
            found.setdefault(family.name, {}).setdefault(sample.name, set()).update(sample.labels)
    return found


_NEWS: Final = News(
    policy="gateway",
    digest="5c0c744d",
    mode="enforce",
    loaded_at=1.0,
    reloads={},
    reloaded=True,
    workers=1,
    serving=1,
    deaths=0,
    processes={"supervisor": os.getpid(), "worker-0": os.getpid()},
)


def metrics_in(text: str) -> set[str]:
    """The names of our metrics in an expression, or in a text with expressions."""
    return {name for name, _ in _METRIC.findall(text)}


def misspelt(text: str) -> list[str]:
    """What expressions ask for and no proxyd exposes: metrics, labels, reasons."""
    labels = {name: labels for samples in exposed().values() for name, labels in samples.items()}
    wrong = [name for name in metrics_in(text) if name not in labels]
    for name, matchers in _METRIC.findall(text):
        for label, value in _MATCHER.findall(matchers):
            if label not in labels.get(name, set()) | _ADDED:
                wrong.append(f"{name}{{{label}}}")
            if label == "reason":
                wrong += [word for word in value.split("|") if not any(re.fullmatch(word, each) for each in _REASONS)]
    return wrong


_REASONS: Final = ("", *(reason.value for reason in Reason))
