"""`serve_connection`: whatever a client, its origins and the world around do, in whatever pieces, and for however long.

Each request has one decision and one closing record, in order and valid, and they say what its client heard: a whole
answer, one that is seen to be broken off, or a tunnel (R7, R12). Origins are sent whole requests, framed by us, of
those that were decided and recorded before anything was dialled, and only where nobody else would object either (R4,
R5, ATTACKS 4, 5). No secret is in a record, a complaint or a refusal. Nothing stays: no task, no connection, no place.
And what is said in other pieces comes to the same.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from functools import cache
from itertools import groupby, pairwise
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from proxyd.audit.render import json_line
from proxyd.policy.verdict import Reason
from tests.adversarial.corpus import Address, public
from tests.fuzz import framed
from tests.fuzz.books import TUNNELLED, Answer, Heard, balance, next_answer
from tests.fuzz.conversations import SEEDS, TURN_AWAY, WORDS
from tests.fuzz.playing import Playing, played
from tests.fuzz.scripts import KINDS, Script, Step
from tests.fuzz.target import Target
from tests.fuzz.town import CREDENTIAL, HOMES, MOODS, POLICIES, PRIVATE
from tests.serve.scene import SCHEMA, SECRET, VIA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxyd.policy.address import Destination
    from tests.fuzz.kernel import Line

_UNTIMELY: Final = "rdRD"
"""Steps after which it matters what was in time."""
_ENUMERATED: Final = frozenset({"schema", "event", "scheme", "verdict", "would"})
_VALID: Final[set[tuple[Any, ...]]] = set()
_SEEDS: Final = frozenset(SEEDS.values())
_SECRETS: Final = (SECRET.encode(), CREDENTIAL)
_QUIET: Final = 300.0
_PATIENCE: Final = 5.0
"""Virtual seconds after which a session has ended where nobody does anything: so many, and for each request some."""
_HELD_TO_NAMES: Final = frozenset({"listed", "watched", "named"})
_INSIDE: Final = str(PRIVATE).encode()


def _attempt(data: bytes) -> str:
    """What is dear is asked of the seeds, and of one input in eight."""
    script = Script.read(data)
    playing, closings = _played(script)
    if data in _SEEDS or zlib.crc32(data) % 8 == 0:
        playing.world.trail()
        if not any(step.kind in _UNTIMELY for step in script.steps):
            again = _played(replace(script, steps=tuple(map(_cut_otherwise, script.steps))))[1]
            assert [*map(_gist, again)] == [*map(_gist, closings)], f"cut otherwise: {closings} and {again}"
    return _came(closings)


def _cut_otherwise(step: Step) -> Step:
    """A client's step in other pieces."""
    return replace(step, much=0 if step.much else 1 + len(step.octets) // 20) if step.kind == "c" else step


def _gist(closing: Mapping[str, Any]) -> list[Any]:
    """What does not depend on the pieces that a client sent."""
    return [closing[name] for name in ("method", "host", "port", "verdict", "reason", "status", "outcome")]


def _played(script: Script) -> tuple[Playing, list[Mapping[str, Any]]]:
    """Play it once, and hold what must hold: the closing record of each request."""
    playing = played(script)
    closings = _closings(playing)
    _hold_what_is_left(playing)
    _hold_dials(playing)
    client = playing.client
    answers = balance(Heard(bytes(client.heard), playing.whole, client.abortive), closings, (*_SECRETS, _INSIDE))
    assert playing.seconds <= _QUIET + _PATIENCE * len(closings), f"it lasts {playing.seconds} s: {closings}"
    if not script.ways & TURN_AWAY:
        began = bytes(client.said).removeprefix(b"\r\n") not in (b"", b"\r")  # an empty line is nothing (RFC 9112 §2.2)
        assert began == (closings != []) or not playing.calm, "a request and no record, or the reverse"
        _hold_requests(playing, closings, answers)
    return playing, closings


def _closings(playing: Playing) -> list[Mapping[str, Any]]:
    """The closing records, each behind its decision; one request's are there before the next one's."""
    found = []
    for identity, records in groupby(playing.world.attempted, lambda record: record.id):
        *decisions, closing = records
        assert decisions, closing
        assert {each.event for each in decisions} == {"decision"}, decisions
        assert len(decisions) == 1 or playing.full, decisions
        for record in (*decisions, closing):
            line = json_line(record)
            told = json.loads(line)
            assert not any(secret in line for secret in _SECRETS), line
            if (shape := _shape(told)) not in _VALID:
                SCHEMA.validate(told)
                _VALID.add(shape)
        assert (told["event"], told["id"]) == ("close", identity), told
        found.append(told)
    assert len({each["id"] for each in found}) == len(found), "a request went on after its end"
    assert playing.full or len(playing.world.records) == len(playing.world.attempted)
    return found


def _shape(told: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the schema looks at: it is asked once of each."""
    return tuple(
        (
            name,
            value if name in _ENUMERATED else type(value),
            isinstance(value, int | float) and value < (name == "port"),
        )
        for name, value in told.items()
    )


def _hold_what_is_left(playing: Playing) -> None:
    """Nothing, and no bug has been met."""
    world = playing.world
    assert not any(line.startswith("bug: ") for line in world.complaints), world.complaints
    assert not any(token.decode() in line for token in _SECRETS for line in world.complaints), world.complaints
    assert playing.tasks[0] == playing.tasks[1], "a task is left"
    assert all(line.closed for line in (playing.client, *playing.lines)), "a connection is left"
    house = world.house
    assert (house.connections, house.requests, house.tunnels) == (0, 0, 0), "a place is taken"
    assert not world.seams.live, "an exchange is left"


def _hold_dials(playing: Playing) -> None:
    """Each was decided, put on record before, and leads where it may."""
    world = playing.world
    assert playing.wanted == [event.removeprefix("resolve ") for event in world.events if event.startswith("resolve ")]
    records, dials = iter(world.attempted), iter(world.dialled)
    last = None
    for event, after in pairwise([*world.events, ""]):
        if event.startswith("record"):
            last = next(records)
        elif event.startswith("dial"):
            assert not after.startswith("dial"), "dialled twice"
            allow = next(dials)
            destination = allow.destination
            assert last is not None
            assert (last.event, last.verdict, last.host, last.port) == (
                *("decision", "allow"),
                *(destination.host, destination.port),
            )
            assert any(last is each for each in world.records) or last.digest == _prefers_availability()
            assert any(allow is each for each in playing.minted), "dialled by no permission"
            assert all(_may_be_dialled(str(each), last.client, destination) for each in allow.addresses), allow


@cache
def _prefers_availability() -> str:
    (digest,) = (each.policy.digest[:16] for each in POLICIES if each.policy.audit.dangerously_prefer_availability)
    return digest


def _may_be_dialled(address: str, client: str | None, destination: Destination) -> bool:
    permitted = client == "permitted" and str(destination) == "ui.example:8080" and address.startswith("10.")
    return permitted or public(Address.read(address))


def _hold_requests(playing: Playing, closings: list[Mapping[str, Any]], answers: list[Answer]) -> None:
    """Each that was asked is on record, and was sent to its origin, whose answer is what the client heard."""
    requests = framed.requests_in(bytes(playing.client.said))
    for request, answer in zip(requests, answers, strict=False):
        head = answer.octets.partition(b"\r\n\r\n")[0].lower()
        old = request.version == b"1.0"
        assert not (old and (b"\r\ntransfer-encoding:" in head or head.startswith(b"http/1.1 1"))), (
            f"{request}: {answer}"
        )
    goes_on = answers and answers[-1].how == "whole" and not answers[-1].closes
    if playing.whole and playing.calm and goes_on and not any(map(framed.has_body, requests)):
        assert len(closings) >= sum(each.complete for each in requests), f"heard by nobody: {requests[len(closings) :]}"
    by_id = {each["id"]: number for number, each in enumerate(closings)}
    owners = [closings[by_id[playing.world.attempted[before - 1].id]] for before in playing.before]
    for number, (line, owner) in enumerate(zip(playing.lines, owners, strict=True)):
        sent = framed.Sent(bytes(line.heard), owner, line.listens)
        at = 0
        for carried in framed.hold(sent, requests, closings, VIA):
            if carried.closing not in owners[number + 1 :]:  # or it was sent once more
                at = _hold_said(line, at, answers[by_id[carried.closing["id"]]], carried)


def _hold_said(line: Line, at: int, answer: Answer, carried: framed.Carried) -> int:
    """Hold what an origin said, from that place on, to what the client heard of it: where there is more."""
    said, closing = bytes(line.said[at:]), carried.closing
    told = f"{said!r} became {answer}"
    if answer.how == "tunnel":
        _hold_tunnel(said, answer, carried)
    elif closing["outcome"] == "complete":
        given = next_answer(said, "GET" if closing["method"] == "other" else closing["method"])
        assert (given.status, given.body) == (answer.status, answer.body), told
        assert not carried.begin or at >= line.said_before(carried.begin), f"said before it was asked: {told}"
        return len(line.said) - len(given.rest)
    return len(line.said)


def _hold_tunnel(said: bytes, answer: Answer, carried: framed.Carried) -> None:
    """Hold what went through a tunnel to what was said at either end."""
    closing, told = carried.closing, f"{said!r} became {answer} where {carried}"
    if closing["outcome"] == "tls_name":
        assert not carried.rest, f"it has reached the origin: {told}"
        return
    assert answer.rest in said, told
    if closing["outcome"] == "closed":
        assert said.endswith(answer.rest), told
        assert carried.rest == carried.asked.rest, told
        assert closing["scheme"] == "http" or answer.rest == said, told
    if carried.rest and closing["client"] in _HELD_TO_NAMES and closing["port"] == 443:
        assert closing["host"].encode() in carried.rest.lower() or closing["host"][-1] not in ascii_lowercase, told


def _came(closings: list[Mapping[str, Any]]) -> str:
    if not closings:
        return "nothing asked"
    outcome, reason = closings[-1]["outcome"], closings[-1]["reason"]
    return str(reason if outcome == "refused" else outcome)


_pieces: Final = [step for seed in SEEDS.values() for step in Script.read(seed).steps if step.octets]
_steps: Final = st.one_of(
    st.sampled_from(_pieces),
    st.builds(Step, st.sampled_from(KINDS), st.integers(0, 255), st.sampled_from([b"", *(s.octets for s in _pieces)])),
)

TARGET: Final = Target(
    attempt=_attempt,
    about=(
        *("proxyd.serve.session", "proxyd.serve.exchange", "proxyd.serve.forward", "proxyd.serve.opening"),
        *("proxyd.serve.kept", "proxyd.serve.trail", "proxyd.net.wire", "proxyd.net.relay", "proxyd.http.fields"),
    ),
    seeds=SEEDS,
    inputs=st.builds(
        lambda *scenery, steps: Script(tuple(steps), *scenery).written(),
        st.integers(0, len(HOMES) - 1),
        st.integers(0, len(POLICIES) - 1),
        st.one_of(st.just(0), st.integers(0, len(MOODS) - 1)),
        st.sampled_from((*[0] * 9, TURN_AWAY)),
        steps=st.lists(_steps, max_size=8),
    ),
    outcomes=frozenset(
        {"nothing asked", *TUNNELLED, "aborted", "complete", "answered_here"}
        | {reason.value for reason in Reason if reason not in (Reason.ABORTED, Reason.INTERNAL_ERROR)}
    ),
    words=WORDS,
)
