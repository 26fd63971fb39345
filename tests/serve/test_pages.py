"""What the admin listener has to tell: metrics, and whether proxyd is alive and ready. On the stage: nobody waits.

R10, ATTACKS 8. How it is asked is in test_admin.py, what is counted in tests/observe.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from prometheus_client.parser import text_string_to_metric_families

from proxyd import __version__
from proxyd.audit.record import Record
from proxyd.serve.crew import STUCK_SECONDS
from proxyd.serve.pages import pages
from tests.serve.reign import DENIED, hup, reign, term
from tests.serve.stage import Stage, charge, stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.serve.reign import Reign

__all__ = ["stage"]

PATHS: Final = ("/healthz", "/readyz")


class Asked:
    """A supervisor on the stage, and what it tells when it is asked."""

    def __init__(self, stage: Stage, workers: int = 2) -> None:
        self.stage = stage
        self.reign: Reign = reign(stage, workers)
        self.pages = pages(self.reign.supervisor)
        self.told: list[tuple[tuple[int, bytes], ...]] = []

    def ask(self) -> int:
        """Somebody asks for both; that ends no wait for anything."""
        found = [self.pages[path]() for path in PATHS]
        assert {page.content_type for page in found} == {"text/plain; charset=utf-8"}
        self.told.append(tuple((int(page.status), page.body) for page in found))
        return signal.SIGCHLD

    def beats(self, place: int) -> Callable[[], int]:
        """The worker in that place lets clients in, and shows it."""

        def beat() -> int:
            with self.stage.counting(place) as tally:
                tally.beat(self.stage.now + 1, 1)  # the clock of a host does not begin at 0
            return signal.SIGCHLD

        return beat

    def rests(self, place: int) -> Callable[[], int]:
        """The worker in that place lets nobody in any more."""

        def rest() -> int:
            with self.stage.counting(place) as tally:
                tally.rest()
            return signal.SIGCHLD

        return rest

    def samples(self) -> dict[str, float]:
        """The metrics as Prometheus would read them: `name{label="value"}` -> value."""
        page = self.pages["/metrics"]()
        assert (page.status, page.content_type.partition(";")[0]) == (200, "text/plain")
        found = {}
        for family in text_string_to_metric_families(page.body.decode()):
            for each in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(each.labels.items()))
                found[f"{each.name}{{{labels}}}" if labels else each.name] = each.value
        return found


GOOD: Final = (200, b"ok\n")


def test_it_is_ready_once_all_workers_serve(stage: Stage) -> None:
    """A client that comes earlier waits; it is alive from the beginning."""
    asked = Asked(stage)
    stage.at(1, asked.ask, asked.beats(0), asked.ask, asked.beats(1), asked.ask)
    stage.at(2, term, stage.all_end)
    asked.reign.run()
    assert asked.told == [
        (GOOD, (503, b"0 of 2 workers serve\n")),
        (GOOD, (503, b"1 of 2 workers serve\n")),
        (GOOD, GOOD),
    ]


def test_it_is_not_ready_while_a_worker_is_dead(stage: Stage) -> None:
    """Whatever it had shown; who takes its place has to show it, too."""
    asked = Asked(stage)
    stage.at(1, asked.beats(0), asked.beats(1), asked.ask)
    stage.at(2, stage.ends(0, -signal.SIGKILL))
    stage.at(2, asked.ask)
    stage.at(3, asked.ask, asked.beats(0), asked.ask)
    stage.at(4, term, stage.all_end)
    asked.reign.run()
    lacking = (GOOD, (503, b"1 of 2 workers serve\n"))
    assert asked.told == [(GOOD, GOOD), lacking, lacking, (GOOD, GOOD)]
    assert len(stage.started) == 3


def test_it_is_neither_alive_nor_ready_with_a_worker_that_is_stuck(stage: Stage) -> None:
    """ATTACKS 8: one that is stopped, or in an endless loop; should it wake, all is well again."""
    asked = Asked(stage)
    stage.at(1, asked.beats(0), asked.beats(1))
    stage.at(10, asked.beats(1))
    stage.at(1 + STUCK_SECONDS + 0.9, asked.ask)
    stage.at(1 + STUCK_SECONDS + 1, asked.ask, asked.beats(0), asked.ask)
    stage.at(30, term, stage.all_end)
    asked.reign.run()
    assert asked.told == [
        (GOOD, GOOD),
        ((503, b"workers that are stuck: 1\n"), (503, b"1 of 2 workers serve\n")),
        (GOOD, GOOD),
    ]


def test_from_the_end_on_it_is_not_ready_and_alive(stage: Stage) -> None:
    """A drain is no reason to be restarted; and metrics are to be had until the last tunnel has ended."""
    asked = Asked(stage)
    counted: list[float] = []

    def look() -> int:
        counted.append(asked.samples()["proxyd_workers_serving"])
        return asked.ask()

    stage.at(1, asked.beats(0), asked.beats(1), look, term, look, asked.rests(0), asked.rests(1))
    stage.at(20, look, stage.all_end)
    asked.reign.run()
    draining = (GOOD, (503, b"ending\n"))
    assert asked.told == [(GOOD, GOOD), draining, draining]
    assert counted == [2, 2, 0]


def record(event: str, **more: object) -> Record:
    """What a worker counts."""
    return Record(time="2026-08-01T00:00:00.000Z", event=event, id="1", client="agent", **more)  # type: ignore[arg-type]


def test_metrics_have_what_the_workers_counted_and_what_the_supervisor_knows(stage: Stage) -> None:
    """Of all workers together, and of those that are gone."""
    asked = Asked(stage)
    asked.reign.comes = [charge(more=DENIED, workers=2), OSError(5, "no")]
    seen: list[dict[str, float]] = []

    def look() -> int:
        seen.append(asked.samples())
        return signal.SIGCHLD

    def count() -> int:
        for place in (0, 1):
            with stage.counting(place) as tally:
                tally.accepted()
                tally.count(record("decision", verdict="allow", scheme="connect"))
        return signal.SIGCHLD

    stage.at(1, count, asked.beats(0), asked.beats(1), look)
    stage.at(2, stage.ends(0))
    stage.at(3, hup, look, hup, look)
    stage.at(4, term, stage.all_end)
    asked.reign.run()
    first, second, third = seen
    supervisor = asked.reign.supervisor
    assert first["proxyd_connections_total"] == second["proxyd_connections_total"] == 2
    decided = 'proxyd_decisions_total{client="agent",reason="",verdict="allow"}'
    assert [each[decided] for each in seen] == [2, 2, 2]
    assert [each['proxyd_open{client="agent",kind="tunnel"}'] for each in seen] == [2, 1, 1], "one died with its worker"
    assert [each["proxyd_workers"] for each in seen] == [2, 2, 2]
    assert [each["proxyd_workers_serving"] for each in seen] == [2, 1, 1]
    assert [each["proxyd_worker_deaths_total"] for each in seen] == [0, 1, 1]
    assert [each['proxyd_reloads_total{outcome="done"}'] for each in seen] == [0, 1, 1]
    assert [each['proxyd_reloads_total{outcome="refused"}'] for each in seen] == [0, 0, 1]
    assert [each["proxyd_reload_successful"] for each in seen] == [1, 1, 0]
    assert third["proxyd_policy_loaded_timestamp_seconds"] == supervisor.loaded_at
    assert first["proxyd_policy_loaded_timestamp_seconds"] < third["proxyd_policy_loaded_timestamp_seconds"]
    assert first[f'proxyd_build_info{{version="{__version__}"}}'] == 1
    digest = supervisor.charge.policy.digest
    in_force = f'proxyd_policy_info{{digest="{digest}",mode="enforce",policy="gateway"}}'
    assert [each.get(in_force) for each in seen] == [None, 1, 1]
    files = 'proxyd_process_open_fds{process="supervisor"}'
    assert first[files] > 0
    assert [name for name in first if name.startswith("proxyd_process_open_fds")] == [files], "nobody else is a process"
