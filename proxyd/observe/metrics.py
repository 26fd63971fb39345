"""What was counted, and what the supervisor knows, as Prometheus reads it. The names are an interface: dashboards and
alert rules in `deploy/` use them.

Labels are few and bounded: clients, verdicts and reasons, workers. Never a host, an address or a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from proxyd import __version__
from proxyd.observe.tally import BOUNDS
from proxyd.policy.verdict import STEP_OF, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxyd.observe.tally import Timed, Totals

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_DENIED: Final = STEP_OF.keys() - {Reason.MALFORMED_TARGET} | {Reason.TLS_NAME, Reason.REVOKED}
_EXPECTED: Final = (
    ("allow", ""),
    ("allow", Reason.NOT_ALLOWLISTED.value),
    *(("deny" if reason in _DENIED else "error", reason.value) for reason in Reason),
)
"""What is said of every client even while it is zero, so that the first one is seen as a rise."""

_TIMED: Final = {
    "dns": ("proxyd_lookup_seconds", "How long a name took to be looked up"),
    "connect": ("proxyd_connect_seconds", "How long connecting to an origin took"),
    "first_byte": (
        "proxyd_first_byte_seconds",
        "From the end of a request's head to the origin's answer, or to the 200 of a tunnel",
    ),
    "audit": ("proxyd_audit_write_seconds", "How long the system took to take one audit record"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What the supervisor knows. loaded_at: when the policy was taken into use, in seconds of the epoch.

    reloads: by outcome, "done" or "refused". reloaded: whether the last one was done. processes: name -> pid.
    serving: workers that let clients in. deaths: workers that were replaced.
    """

    policy: str
    digest: str
    mode: str
    loaded_at: float
    reloads: Mapping[str, int]
    reloaded: bool
    workers: int
    serving: int
    deaths: int
    processes: Mapping[str, int]


def exposition(totals: Totals, news: News) -> bytes:
    """All of it, in the text format."""
    registry = CollectorRegistry()
    registry.register(_Collected([*_counted(totals), *_known(news), *_processes(news.processes)]))
    return generate_latest(registry)


class _Collected:
    """What a registry asks for its families."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _counted(totals: Totals) -> Iterator[Metric]:
    yield _by_kind("proxyd_decisions", "Decisions on record", {n: a.decided for n, a in totals.accounts.items()})
    yield _by_kind("proxyd_requests", "Requests that have ended", {n: a.ended for n, a in totals.accounts.items()})
    octets = CounterMetricFamily(
        "proxyd_bytes", "Payload of requests that have ended, in octets", labels=["client", "direction"]
    )
    under_way = GaugeMetricFamily("proxyd_open", "What was decided and has not ended", labels=["client", "kind"])
    for name, account in totals.accounts.items():
        octets.add_metric([name, "up"], account.bytes_up)
        octets.add_metric([name, "down"], account.bytes_down)
        under_way.add_metric([name, "tunnel"], account.tunnels)
        under_way.add_metric([name, "request"], account.requests)
    yield from (octets, under_way)
    yield from (_histogram(*_TIMED[what], timed) for what, timed in totals.timed.items())
    yield GaugeMetricFamily(
        "proxyd_tasks", "Tasks (trio) that live in the workers: what leaks would rise", totals.tasks
    )
    yield CounterMetricFamily("proxyd_connections", "Client connections that came in", totals.connections)
    yield CounterMetricFamily(
        "proxyd_connections_dropped", "Client connections closed without a word, as there were too many", totals.dropped
    )
    yield CounterMetricFamily(
        "proxyd_audit_failures", "Attempts to write an audit record that failed", totals.unwritten
    )


def _by_kind(name: str, what: str, counts: Mapping[str, Mapping[tuple[str, str], int]]) -> Metric:
    family = CounterMetricFamily(name, f"{what}, by client, verdict and reason", labels=["client", "verdict", "reason"])
    for client, found in counts.items():
        for kind in dict.fromkeys((*_EXPECTED, *found)):
            family.add_metric([client, *kind], found.get(kind, 0))
    return family


def _histogram(name: str, what: str, timed: Timed) -> Metric:
    bounds = (*map(str, BOUNDS), "+Inf")
    family = HistogramMetricFamily(name, what)
    family.add_metric([], list(zip(bounds, accumulate(timed.counts), strict=True)), timed.seconds)
    return family


def _known(news: News) -> Iterator[Metric]:
    yield InfoMetricFamily("proxyd_build", "This program", {"version": __version__})
    in_force = {"policy": news.policy, "digest": news.digest, "mode": news.mode}
    yield InfoMetricFamily("proxyd_policy", "The policy in force", in_force)
    yield GaugeMetricFamily("proxyd_policy_loaded_timestamp_seconds", "When it was taken into use", news.loaded_at)
    reloads = CounterMetricFamily("proxyd_reloads", "Reloads, by what came of them", labels=["outcome"])
    for outcome in ("done", "refused"):
        reloads.add_metric([outcome], news.reloads.get(outcome, 0))
    yield reloads
    yield GaugeMetricFamily("proxyd_reload_successful", "Whether the last reload was done", int(news.reloaded))
    yield GaugeMetricFamily("proxyd_workers", "Workers that there should be", news.workers)
    yield GaugeMetricFamily("proxyd_workers_serving", "Workers that let clients in", news.serving)
    yield CounterMetricFamily("proxyd_worker_deaths", "Workers that ended unasked", news.deaths)


def _processes(pids: Mapping[str, int]) -> Iterator[Metric]:
    """What the kernel says of our processes: CPU time, memory, open files and how many of those there may be."""
    found: dict[str, Metric] = {}
    for name, pid in pids.items():
        for family in ProcessCollector("proxyd", partial(int, pid), registry=None).collect():
            merged = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merged.samples += [each._replace(labels={"process": name}) for each in family.samples]
    yield from found.values()
