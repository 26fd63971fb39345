"""The fuzzer's scripts against the real daemon: mutated clients and origins, many at once (R4, R5, R7, ATTACKS 8).

A bystander notices nothing meanwhile; nobody arrives at a protected address; each request is on record, and the log
says what each client heard; the same processes serve on, and have let go of everything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.end_to_end.vitals import MB, vitals
from tests.faults.ordeal import ordeal
from tests.fuzz.books import balance
from tests.fuzz.crowd import ZONE, Origins, talks
from tests.fuzz.town import CLIENTS, CREDENTIAL
from tests.serve.scene import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon
    from tests.fuzz.crowd import Talk

pytestmark = pytest.mark.usefixtures("everywhere")

SEED: Final = "20261121"
GROWTH: Final = 8 * MB
"""That a worker may take more at its peak, however many connections there were."""
_SECRETS: Final = (SECRET.encode(), CREDENTIAL)


@pytest.fixture
def origins(everywhere: None) -> Iterator[Origins]:  # noqa: ARG001 - they are in that network
    """An origin at every address."""
    made = Origins(SEED)
    yield made
    made.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_r7_whatever_is_said_to_it_the_daemon_stands_and_its_books_balance(
    workers: int, scene: Scene, origins: Origins, figures: dict[str, str], *, long: bool
) -> None:
    scene.nameserver.zone.update(ZONE)
    proxy = scene.start(CLIENTS, workers=workers)
    proxy.wait_for_start(workers)
    with ordeal(scene, proxy, growth=workers * GROWTH) as bystander:
        held = talks(proxy, range(10_000 if long else 150), f"{SEED}-{workers}")
        bystander.go_on()
    assert not origins.hits, "something got through"
    outcomes = hold_books(proxy, held)
    hold_secrets(proxy)
    figures[f"scripts at a daemon, {workers} worker(s)"] = (
        f"{len(held):,} connections, {origins.arrivals:,} to origins, {outcomes.total():,} requests: 0 where log and "
        f"client disagree; {', '.join(f'{word} {number:,}' for word, number in outcomes.most_common(8))}; "
        f"{vitals(proxy).memory >> 20} MB in the end, {vitals(proxy).peak >> 20} MB at the peak"
    )
    assert min(outcomes["complete"], outcomes["refused"]) > len(held) // 10
    assert outcomes["closed"] + outcomes["reset"] > len(held) // 100


def hold_books(proxy: Daemon, held: list[Talk]) -> Counter[str]:
    """Hold what each client heard to its records: how its requests ended."""
    of_client: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for closing in proxy.closings():
        of_client[closing["client_address"]].append(closing)
    for talk in held:
        closings = of_client[talk.source]
        assert bool(talk.said) == bool(closings) or not talk.heard.whole, talk
        balance(talk.heard, closings, _SECRETS)
    return Counter(closing["outcome"] for talk in held for closing in of_client[talk.source])


def hold_secrets(proxy: Daemon) -> None:
    """What was planted is nowhere."""
    for text in (proxy.audit.read_bytes(), proxy.errors.read_bytes()):
        assert not any(secret in text for secret in _SECRETS)
    assert proxy.complaints().count("bug") == 0
