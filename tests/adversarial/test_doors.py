"""Every destination of the corpus through every door, with canaries on every address (R3-R6, R12; ATTACKS 1-4).

No canary at a protected address ever sees a connection, public neighbours get through, DNS hears of no name that is
denied by name, and each request has one decision record and one closing record.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from tests import namespace
from tests.adversarial.canary import Canaries, reached
from tests.adversarial.corpus import PROTECTED, Address, Destination, Verdict
from tests.adversarial.corpus_addresses import TRANSLATORS, literals, translated
from tests.adversarial.corpus_answers import Liar, answers
from tests.adversarial.corpus_names import DENIED_NAMES, PUBLIC, names, refused
from tests.adversarial.doors import DOORS, Answer, Asked, Connection, Door
from tests.end_to_end.conftest import POLICIES
from tests.end_to_end.daemon import Daemon, policy_text
from tests.end_to_end.nameserver import Says
from tests.end_to_end.patient import patient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("everywhere")

_AT_ONCE: Final = 16  # some wait until DNS has timed out
_OPENER: Final = Address.read(namespace.ORIGIN_4)
_DECISION: Final = re.compile(rb'"decision": "([0-9a-f]{16})"')
_TAG: Final = re.compile(rb"door\d")
_OURS: Final = "[[deny]] of the test's policy"
_DENY: Final = f"""
[[deny]]
name = "ours"
hosts = {list(DENIED_NAMES[_OURS])}
networks = {list(PROTECTED[_OURS])}
reason = "nobody else's"
"""
_NAT64: Final = f"nat64 = {list(TRANSLATORS)}"
_EVERY: Final = 8  # in the short form, of the many addresses that carry another

Subject = tuple[Address | str | None, int | None, str]
"""What a decision record is about: host, port, verdict."""


class Trial(NamedTuple):
    """One destination through one door, and what came of it."""

    door: Door
    destination: Destination
    answer: Answer

    @property
    def verdict(self) -> Verdict:
        """The verdict that it must have."""
        return self.destination.judged(connect=self.door.tunnels)

    @property
    def subject(self) -> Subject:
        """What its decision record must be about."""
        if self.verdict is Verdict.MALFORMED:
            return None, None, self.verdict.recorded
        return self.destination.host, self.destination.port, self.verdict.recorded

    @property
    def got_through(self) -> bool:
        """Whether it was to, and did, and was answered where it was to be."""
        return self.verdict is Verdict.ALLOWED and reached(self.answer.raw) in self.destination.reaches

    @property
    def went_wrong(self) -> bool:
        """Whether anything else happened than must."""
        if self.answer.status not in self.verdict.value:
            return True
        return not self.got_through if self.verdict is Verdict.ALLOWED else reached(self.answer.raw) is not None

    def __str__(self) -> str:
        expected = f"{self.verdict.name} and one of {', '.join(map(str, self.destination.reaches))}"
        return f"{self.destination} through {self.door.name}: expected {expected}, got {self.answer.raw!r}"


@pytest.fixture
def nameserver() -> Iterator[Liar]:
    """A nameserver that can lie."""
    server = Liar()
    yield server
    server.close()


@pytest.fixture
def canaries() -> Iterator[Canaries]:
    """Listeners on every address."""
    listeners = Canaries()
    yield listeners
    listeners.close()


@pytest.fixture
def start(nameserver: Liar, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Runs a daemon with more rows in its policy, or more under [dns]; several have one log."""
    shutil.copy(POLICIES / "denylist.toml", tmp_path)
    daemons: list[Daemon] = []

    def start(rows: str = "", dns: str = "", *, waits_long: bool = True) -> Daemon:
        policy, audit, errors = (tmp_path / name for name in ("policy.toml", "audit.jsonl", f"errors{len(daemons)}"))
        policy.write_text(policy_text(nameserver.port, 0, extra=rows).replace("[dns]", f"[dns]\n{dns}"))
        for file in (audit, errors):
            file.touch()
        daemons.append(Daemon(policy, audit, errors, patient(tmp_path / "patient") if waits_long else None))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.stop()


def test_attack_4_11_no_destination_gets_past_any_door(
    start: Callable[..., Daemon],
    nameserver: Liar,
    canaries: Canaries,
    figures: dict[str, str],
    long: bool,  # noqa: FBT001 - a fixture
) -> None:
    """R3-R6 and ATTACKS 1-4: the whole corpus, the figures of which README gives."""
    step = 1 if long else _EVERY
    corpora = ((*literals(step), *names(tag), *answers(tag, step)) for tag in _tags())
    daemon, hasty = start(rows=_DENY), start(rows=_DENY, waits_long=False)
    trials = _try(lambda each: hasty if _times_out(each) else daemon, nameserver, _spread(corpora, long))
    asked = {name.lower() for name, _ in nameserver.asked}
    denied = sorted(filter(refused, asked))
    figures["every door"] = f"{_figures(trials, canaries)}; {len(denied)} queries for names denied by name"
    _check(trials, canaries)
    assert not denied
    assert asked == _to_be_looked_up(trials)
    _check_records(daemon.records(), trials)


def test_attack_2_8_behind_a_declared_translator_the_inner_address_is_judged(
    start: Callable[..., Daemon],
    nameserver: Liar,
    canaries: Canaries,
    figures: dict[str, str],
    long: bool,  # noqa: FBT001 - a fixture
) -> None:
    """Every edge of an IPv4 row behind a NAT64 prefix of every length (RFC 6052), public neighbours among them."""
    daemon = start(rows=_DENY, dns=_NAT64)
    trials = _try(lambda _: daemon, nameserver, _spread((tuple(translated()) for _ in DOORS), long))
    figures["every door, behind a translator"] = _figures(trials, canaries)
    _check(trials, canaries)
    assert not nameserver.asked
    _check_records(daemon.records(), trials)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_attack_3_1_a_name_that_changes_its_mind_is_judged_anew(
    start: Callable[..., Daemon], nameserver: Liar, canaries: Canaries, door: Door
) -> None:
    """The first request reaches the address that was judged, the second, of the same connection or not, none."""
    rebound = Says(a=("127.0.0.1",), aaaa=("::1",), ttl=0)
    nameserver.zone["rebinding.example"] = Says(a=(str(PUBLIC),), ttl=0, then=rebound)
    asked = Asked(b"rebinding.example:80", opener=b"rebinding.example:80")
    daemon = start()
    if not door.opens:
        assert door.ask(daemon, asked).status in Verdict.ALLOWED.value
    assert door.ask(daemon, asked).status in Verdict.DENIED.value
    assert [visit.address for visit in canaries.visits] == [PUBLIC]
    assert nameserver.asked.count(("rebinding.example", "A")) == 2
    assert [record["verdict"] for record in daemon.decisions()] == ["allow", "deny"]
    ended = {record["verdict"]: record["address"] for record in daemon.closings()}
    assert ended == {"allow": str(PUBLIC), "deny": None}


@pytest.mark.parametrize(
    "authority",
    [
        b"127.0.0.1:80",
        b"10.0.0.5:80",
        b"169.254.169.254:80",
        b"[::1]:80",
        b"inner.example:80",
        b"metadata.google.internal:80",
    ],
)
def test_attack_4_10_a_kept_connection_is_no_way_to_anybody_else(
    start: Callable[..., Daemon], nameserver: Liar, canaries: Canaries, authority: bytes
) -> None:
    """Asked for in between, a denied destination is denied, and the connection goes on to where it always led."""
    nameserver.zone["inner.example"] = Says(a=("10.0.0.5",))
    opener = Asked(b"%b:80" % str(PUBLIC).encode())
    daemon = start()
    with daemon.connect() as client:
        connection = Connection(client)
        answers = [_ask(connection, asked) for asked in (opener, Asked(authority), opener)]
    assert [answer.status for answer in answers] == [200, 403, 200]
    assert [(visit.address, visit.requests) for visit in canaries.visits] == [(PUBLIC, 2)]
    assert [record["verdict"] for record in daemon.decisions()] == ["allow", "deny", "allow"]


def test_attack_3_12_a_kept_connection_is_used_only_for_an_address_that_was_judged_now(
    start: Callable[..., Daemon], nameserver: Liar, canaries: Canaries
) -> None:
    """A name that moves from one public address to another is followed, and its old one gets nothing more."""
    nameserver.zone["moving.example"] = Says(a=(str(PUBLIC),), ttl=0, then=Says(a=(namespace.ORIGIN_4,), ttl=0))
    daemon = start()
    with daemon.connect() as client:
        connection = Connection(client)
        for _ in range(2):
            assert _ask(connection, Asked(b"moving.example:80")).status == 200
    assert [(visit.address, visit.requests) for visit in canaries.visits] == [(PUBLIC, 1), (_OPENER, 1)]
    assert [record["address"] for record in daemon.closings()] == [str(PUBLIC), namespace.ORIGIN_4]


def test_attack_4_10_a_kept_connection_is_used_only_for_its_own_port(
    start: Callable[..., Daemon], canaries: Canaries
) -> None:
    with start().connect() as client:
        connection = Connection(client)
        for port in (80, 443, 80):
            assert _ask(connection, Asked(b"%b:%d" % (str(PUBLIC).encode(), port))).status == 200
    assert [(visit.address, visit.port) for visit in canaries.visits] == [(PUBLIC, 80), (PUBLIC, 443), (PUBLIC, 80)]


def _ask(connection: Connection, asked: Asked) -> Answer:
    """A request in absolute-form, on a connection that goes on."""
    (door,) = (door for door in DOORS if door.name == "absolute-form")
    return door.enter(connection, asked)


def _tags() -> list[str]:
    """A label for each door, so that no name of one is remembered when another asks."""
    return [f"door{number}" for number in range(len(DOORS))]


def _spread(corpora: Iterable[tuple[Destination, ...]], long: bool) -> Iterator[tuple[Door, Destination]]:  # noqa: FBT001
    """Each destination with its doors: all of them, or in the short form one after the other.

    corpora: the corpus once for each door. In the short form too, the first destination of each kind and verdict
    goes through every door.
    """
    kinds, spelt = set(), set()
    for number, same in enumerate(zip(*corpora, strict=True)):
        if same[0].authority in spelt:
            continue
        spelt.add(same[0].authority)
        new = (same[0].kind, same[0].verdict) not in kinds
        kinds.add((same[0].kind, same[0].verdict))
        for turn, (door, destination) in enumerate(zip(DOORS, same, strict=True)):
            if long or new or turn == number % len(DOORS):
                yield door, destination


def _times_out(destination: Destination) -> bool:
    """Whether DNS says nothing of it, or nothing that is believed, so that it is given up in the end."""
    return destination.verdict is Verdict.FAILED or destination.kind.endswith("in time")


def _try(
    daemon: Callable[[Destination], Daemon], nameserver: Liar, work: Iterable[tuple[Door, Destination]]
) -> list[Trial]:
    """Send them all, several at once and mixed, so that those that wait for DNS keep nobody waiting."""
    mixed = sorted(work, key=lambda pair: hashlib.sha256(pair[0].name.encode() + pair[1].authority).digest())
    for _, destination in mixed:
        nameserver.zone.update(destination.zone)
        if destination.twist is not None:
            nameserver.twists[str(destination.host)] = destination.twist

    def share(number: int) -> list[Trial]:
        return [_trial(daemon(destination), door, destination) for door, destination in mixed[number::_AT_ONCE]]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(chain.from_iterable(pool.map(share, range(_AT_ONCE))))


def _trial(daemon: Daemon, door: Door, destination: Destination) -> Trial:
    """Send one. What breaks off is an answer too, and a wrong one."""
    try:
        return Trial(door, destination, door.ask(daemon, Asked(destination.authority)))
    except (AssertionError, OSError) as error:
        return Trial(door, destination, Answer(0, repr(error).encode()))


def _figures(trials: list[Trial], canaries: Canaries) -> str:
    destinations = {_TAG.sub(b"door", trial.destination.authority) for trial in trials}
    return (
        f"{len(destinations)} destinations, {len(DOORS)} doors, {len(trials)} requests: "
        f"{len(canaries.hits(_expected(trials)))} canary hits; "
        f"{sum(trial.got_through for trial in trials)} public ones got through"
    )


def _check(trials: list[Trial], canaries: Canaries) -> None:
    """Each was answered as it must be, and nobody arrived where nobody may."""
    _none_of(trial for trial in trials if trial.went_wrong)
    _none_of(canaries.hits(_expected(trials)))
    assert len(trials) > sum(trial.got_through for trial in trials) > 0


def _check_records(records: list[dict[str, Any]], trials: list[Trial]) -> None:
    """One decision and one closing record for each request, openers included, each about what was asked for."""
    decisions = {record["id"]: record for record in records if record["event"] == "decision"}
    closings = {record["id"]: record for record in records if record["event"] == "close"}
    openers: list[Subject] = [(_OPENER, 80, "allow")] * sum(trial.door.opens for trial in trials)
    assert len(records) == len(decisions) + len(closings) == 2 * (len(trials) + len(openers))
    assert Counter(map(_subject, decisions.values())) == Counter([trial.subject for trial in trials] + openers)
    cited = [(said[1].decode(), trial) for trial in trials if (said := _DECISION.search(trial.answer.raw))]
    assert len(cited) == sum(trial.verdict is not Verdict.ALLOWED for trial in trials)
    _none_of(trial for id_, trial in cited if _subject(decisions[id_]) != trial.subject)
    reaching = Counter(reached(trial.answer.raw) for trial in trials if trial.got_through)
    dialled = Counter(Address.read(record["address"]) for record in closings.values() if record["address"])
    assert dialled == reaching + Counter({_OPENER: len(openers)})


def _subject(record: dict[str, Any]) -> Subject:
    host = record["host"]
    with suppress(OSError, TypeError):  # a name, or nothing that could be read
        host = Address.read(host)
    return host, record["port"], record["verdict"]


def _expected(trials: list[Trial]) -> Collection[Address]:
    """Where connections may arrive: at the opener, and wherever an allowed destination reaches."""
    allowed = (trial.destination.reaches for trial in trials if trial.verdict is Verdict.ALLOWED)
    return frozenset({_OPENER}).union(*allowed)


def _to_be_looked_up(trials: list[Trial]) -> set[str]:
    """The names that can be read and are not refused for themselves."""
    readable = (trial.destination.host for trial in trials if trial.verdict is not Verdict.MALFORMED)
    return {host for host in readable if isinstance(host, str) and not refused(host)}


def _none_of(things: Iterable[object]) -> None:
    """There is none, or else the first few are shown."""
    if every := [str(thing) for thing in things]:
        pytest.fail("\n".join([f"{len(every)} in all", *every[:20]]), pytrace=False)
