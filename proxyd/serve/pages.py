"""What is to be had from the admin listener: /metrics, and whether proxyd is alive and ready.

Only a proxyd whose policy asks for it loads this: what Prometheus needs is a third of a supervisor's memory.
"""

from __future__ import annotations

import os
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from proxyd.observe.metrics import CONTENT_TYPE, News, exposition
from proxyd.observe.tally import read_totals
from proxyd.serve.admin import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxyd.serve.supervisor import Supervisor


def pages(supervisor: Supervisor) -> Mapping[str, Callable[[], Page]]:
    """Path -> what is there."""
    return {
        "/metrics": partial(_metrics, supervisor),
        "/healthz": partial(_health, supervisor),
        "/readyz": partial(_readiness, supervisor),
    }


def _metrics(supervisor: Supervisor) -> Page:
    crew = supervisor.crew
    totals = read_totals(crew.tally, crew.places, supervisor.charge.handover.ledger)
    return Page(exposition(totals, _news(supervisor)), CONTENT_TYPE)


def _news(supervisor: Supervisor) -> News:
    crew, policy = supervisor.crew, supervisor.charge.policy
    return News(
        policy=policy.name,
        digest=policy.digest,
        mode=policy.destinations.mode,
        loaded_at=supervisor.loaded_at,
        reloads=supervisor.reloads,
        reloaded=supervisor.reloaded,
        workers=crew.places,
        serving=crew.serving,
        deaths=crew.deaths,
        processes={"supervisor": os.getpid()} | crew.processes,
    )


def _health(supervisor: Supervisor) -> Page:
    """That this is answered says that the supervisor lives; no worker may be stuck. It is replaced if it remains so."""
    stuck = supervisor.crew.stuck
    return _told(f"workers that are stuck: {stuck}" if stuck else "")


def _readiness(supervisor: Supervisor) -> Page:
    """Whether clients should come here: all workers let them in."""
    crew = supervisor.crew
    if crew.ending:
        return _told("ending")
    return _told("" if crew.serving == crew.places else f"{crew.serving} of {crew.places} workers serve")


def _told(trouble: str) -> Page:
    status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
    return Page(f"{trouble or 'ok'}\n".encode(), status=status)
