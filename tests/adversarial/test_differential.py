"""proxyd and somebody else's parser never disagree on where a message ends (ATTACKS 5, R4).

Requests: whatever a client sends, each origin sees exactly the requests that proxyd decided and forwarded, each with
exactly the body that proxyd framed. Responses: whatever an origin sends, each client sees one response a request, and
it is whole where proxyd says so, and only there. Random cases come from a seed, and a failure names it.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespace
from tests.adversarial.other_parsers import ambiguous, odd_responses
from tests.adversarial.other_parsers.answers import Answer, read_by_h11, read_by_llhttp
from tests.adversarial.other_parsers.apache import apache
from tests.adversarial.other_parsers.haproxy import haproxy
from tests.adversarial.other_parsers.messages import Message, one_message
from tests.adversarial.other_parsers.nginx import nginx
from tests.adversarial.other_parsers.node import LENIENT, STRICT, answers_to_node, node
from tests.adversarial.other_parsers.recorder import recorder
from tests.adversarial.other_parsers.stage import Closings, ask, stage
from tests.adversarial.other_parsers.tap import Tap
from tests.end_to_end.daemon import PATIENCE, read_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.adversarial.other_parsers.program import Origin
    from tests.adversarial.other_parsers.stage import Told
    from tests.adversarial.other_parsers.tap import Crossing
    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon
    from tests.end_to_end.nameserver import Nameserver

SEED = 20261121
ORIGINS: dict[str, Callable[[str, Path], AbstractContextManager[Origin]]] = {
    "nginx": nginx,
    "Apache": apache,
    "HAProxy": haproxy,
    "Node (llhttp)": node,
    "Node lenient": partial(node, options=LENIENT),
    "httptools": lambda address, _: recorder(address),
}
CLIENTS = {"Node (llhttp)": STRICT, "Node lenient": LENIENT}
ENOUGH = 5  # disagreements, and no more are told

# The methods that every llhttp knows; it turns others away, and it is what listens behind the gateways too.
KNOWN_METHODS = frozenset({"DELETE", "GET", "HEAD", "M-SEARCH", "OPTIONS", "PATCH", "POST", "PROPFIND", "PUT"})
# What else an origin may turn away, as it has nothing to do with where a message ends. Apache honours Max-Forwards for
# every method; for proxyd it is OPTIONS' alone (RFC 9110 §7.6.2). HAProxy wants a key with a WebSocket.
TURNED_AWAY = {
    "Apache": re.compile(rb"\r\nmax-forwards:", re.IGNORECASE),
    "HAProxy": re.compile(rb"\r\nupgrade: websocket(?!.*\r\nsec-websocket-key:)", re.IGNORECASE | re.DOTALL),
}


@pytest.fixture(autouse=True)
def servers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian keeps them where an ordinary account does not look."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}/usr/sbin")


@pytest.fixture(scope="module")
def requests_tally(figures: dict[str, str]) -> Iterator[Counter[str]]:
    """What was sent to the origins, and what came of it."""
    tally: Counter[str] = Counter()
    yield tally
    figures["differential"] = (
        f"{tally['requests']:,} requests to {', '.join(name for name in ORIGINS if tally[name])}: "
        f"{tally['disagreements']} disagreements on where a message ends ({tally['forwarded']:,} forwarded, "
        f"{tally['broken off']:,} broken off, {tally['refused']:,} refused, {tally['turned away']:,} turned away by an "
        "origin for another reason)"
    )


@pytest.fixture(scope="module")
def responses_tally(figures: dict[str, str]) -> Iterator[Counter[str]]:
    """What was answered to the clients, and what came of it."""
    tally: Counter[str] = Counter()
    yield tally
    figures["differential, responses"] = (
        f"{tally['responses']:,} responses to {', '.join(name for name in ('httptools', *CLIENTS) if tally[name])}: "
        f"{tally['disagreements']} disagreements on where a message ends ({tally['complete']:,} complete, "
        f"{tally['aborted']:,} broken off, {tally['refused']:,} refused)"
    )


@pytest.mark.parametrize("name", ORIGINS)
def test_every_origin_shows_what_is_left_over_behind_a_message(name: str, tmp_path: Path) -> None:
    """Were proxyd to let a second request slip through, none of them would hide it."""
    with (
        ORIGINS[name](namespace.origin_4(), tmp_path) as origin,
        closing(Tap(namespace.origin_4(), origin.address)) as tap,
        socket.create_connection((namespace.origin_4(), tap.port), PATIENCE) as careless,
    ):
        head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        careless.sendall(head + b"hello" + ambiguous.SMUGGLED.encode())
        read_until(careless, b"\r\n\r\n")
        careless.close()
        (crossing,) = tap.take(1)
        asked = [message.target for message in origin.seen()]
        assert crossing.sentinel is not None
        assert asked == ["/a", "/smuggled", crossing.sentinel.target]


@pytest.mark.parametrize("name", ORIGINS)
def test_attack_5_an_origin_ends_every_request_where_proxyd_does(
    name: str, tmp_path: Path, nameserver: Nameserver, requests_tally: Counter[str], *, long: bool
) -> None:
    wrong: list[str] = []
    tally: Counter[str] = Counter({name: 1})
    with ORIGINS[name](namespace.origin_4(), tmp_path) as origin, stage(origin, nameserver, tmp_path) as running:
        for case, octets in requests(running.url, list(ORIGINS).index(name), long=long):
            told = running.send(octets)
            wrong += [f"{case}: {what}; {told}" for what in misread_requests(name, told, tally)]
            if len(wrong) >= ENOUGH:
                break
    requests_tally.update(tally, disagreements=len(wrong))
    assert not wrong, "\n\n".join(wrong)
    assert min(tally["forwarded"], tally["refused"]) > tally["requests"] / 4


def requests(url: str, which: int, *, long: bool) -> Iterator[tuple[str, bytes]]:
    """A client's connections, with names; in the short form, a share of the table that is another for each origin."""
    for n, (case, message) in enumerate(list(ambiguous.table())[which % 3 :: 1 if long else 3]):
        yield case, ambiguous.with_followers(message, (f"{url}/m{n}-0", f"{url}/m{n}-1"))
    for n in range(2500 if long else 100):
        seed = f"{SEED}-{which}-{n}"
        yield f"seed {seed}", ambiguous.at_random(seed, tuple(f"{url}/r{n}-{k}" for k in range(1 + n % 3)))


def misread_requests(name: str, told: Told, tally: Counter[str]) -> Iterator[str]:
    """What somebody says of one connection that somebody else does not."""
    connected = [closing for closing in told.closings if closing["address"] is not None]
    tally.update(requests=len(told.closings), refused=len(told.closings) - len(connected))
    expected: list[Message] = []
    for record, crossing in zip(connected, told.crossings, strict=True):
        if crossing.stuck:
            yield f"the origin waits for more than {crossing.sent!r}"
        if turned_away(name, crossing):
            tally["turned away"] += 1
            expected += [sentinel for sentinel in [crossing.sentinel] if sentinel in told.seen]
            continue
        message = forwarded(crossing)
        if (record["outcome"] == "complete") != (message is not None):
            yield f"proxyd sent {crossing.sent!r}, and says it is {record['outcome']}"
        if message is None:
            tally["broken off"] += 1
            continue
        if record["bytes_up"] != len(message.body):
            yield f"proxyd sent {message}, and says that its body has {record['bytes_up']} octets"
        tally["forwarded"] += 1
        expected += [message] if crossing.sentinel is None else [message, crossing.sentinel]
    if told.seen != expected:
        yield f"the origin saw {told.seen}, not {expected}"
    answers = read_by_h11(told.answers, [record["method"] or "GET" for record in told.closings])
    settled = [record for record in told.closings if record["outcome"] != "aborted"]  # by the client's own fault
    yield from misread_responses(answers if settled == told.closings else answers[: len(settled)], settled)


def forwarded(crossing: Crossing) -> Message | None:
    """The one message that proxyd sent; None if it broke off."""
    try:
        return one_message(crossing.sent)
    except ValueError:
        return None


def turned_away(name: str, crossing: Crossing) -> bool:
    """Whether the origin refuses this message for a reason that has nothing to do with where it ends."""
    if crossing.status in (None, 200):
        return False
    unknown = crossing.sent.partition(b" ")[0].decode() not in KNOWN_METHODS
    return unknown or (name in TURNED_AWAY and TURNED_AWAY[name].search(crossing.sent) is not None)


def test_attack_5_a_client_ends_every_response_where_proxyd_does(
    scene: Scene, proxy: Daemon, responses_tally: Counter[str], *, long: bool
) -> None:
    wrong: list[str] = []
    tally: Counter[str] = Counter(httptools=1)
    with closing(Closings(proxy.audit)) as closings:
        for n, (case, method, octets) in enumerate(responses(long=long)):
            asked = scripted(scene, n, method, octets)
            octets_up = "".join(f"{verb} {url} HTTP/1.1\r\nHost: x\r\n\r\n" for verb, url in asked)
            sent = ask(proxy, octets_up.encode())
            records = closings.take()
            answers = [read_by_h11(sent, [method, "GET"])]
            answers += [read_by_llhttp(sent)] if method == "GET" else []
            for by in answers:
                wrong += [f"{case}: {what}; {octets!r}; {sent!r}" for what in misread_pair(by, records, n)]
            tally.update(record["outcome"] for record in records)
            tally["responses"] += len(records)
    responses_tally.update(tally, disagreements=len(wrong))
    assert not wrong, "\n\n".join(wrong[:ENOUGH])
    assert min(tally["complete"], tally["refused"]) > tally["responses"] / 4
    assert tally["aborted"] > 0  # few: what is bad is refused, unless it is behind many chunks


@pytest.mark.parametrize("name", CLIENTS)
def test_attack_5_node_ends_every_response_where_proxyd_does(
    name: str, scene: Scene, proxy: Daemon, responses_tally: Counter[str], *, long: bool
) -> None:
    cases = list(responses(long=long))
    asked = [one for n, (_, method, octets) in enumerate(cases) for one in scripted(scene, n, method, octets)]
    answers = answers_to_node(proxy.port, asked, CLIENTS[name])
    records = proxy.closings()
    wrong = [
        f"{case}: {what}; {octets!r}"
        for n, (case, _, octets) in enumerate(cases)
        for what in misread_pair(answers[2 * n : 2 * n + 2], records[2 * n : 2 * n + 2], n)
    ]
    responses_tally.update(responses=len(records), disagreements=len(wrong), **{name: 1})
    responses_tally.update(record["outcome"] for record in records)
    assert not wrong, "\n\n".join(wrong[:ENOUGH])
    assert len(answers) == len(records) == len(asked)


def responses(*, long: bool) -> Iterator[tuple[str, str, bytes]]:
    """An origin's octets, with names, and the method of the request that they answer."""
    table = list(odd_responses.table())[:: 1 if long else 5]
    for n in range(1500 if long else 100):
        seed = f"{SEED}-{n}"
        table.append((f"seed {seed}", odd_responses.at_random(seed)))
    for n, (case, octets) in enumerate(table):
        yield case, "HEAD" if n % 4 == 0 else "GET", octets


def scripted(scene: Scene, n: int, method: str, octets: bytes) -> list[tuple[str, str]]:
    """Two requests: the first is answered with these octets, the next in an ordinary way."""
    scene.origin.scripted[f"/odd{n}"] = octets
    return [(method, f"{scene.url}/odd{n}"), ("GET", f"{scene.url}/next{n}")]


def misread_pair(answers: Sequence[Answer], records: Sequence[dict[str, Any]], n: int) -> Iterator[str]:
    """What a client says of two answers that proxyd's records do not; the second is about its own request."""
    yield from misread_responses(answers, records)
    if len(answers) > 1 and answers[1].body != b"you sent GET /next%d HTTP/1.1 and 0 octets" % n:
        yield f"the next request is answered with {answers[1]}"


def misread_responses(answers: Sequence[Answer], records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What a client says of its answers that proxyd's records do not; one that breaks off may not even begin."""
    begun = [record for record in records if record["outcome"] != "aborted"]
    if not len(begun) <= len(answers) <= len(records):
        yield f"{len(records)} requests, but {answers}"
    for answer, record in zip(answers, records, strict=False):
        if answer.complete == (record["outcome"] == "aborted") or answer.status not in (None, record["status"]):
            yield f"proxyd says {record['outcome']} with {record['status']}, and the client reads {answer}"
        if record["outcome"] == "complete" and len(answer.body) != record["bytes_down"]:
            yield f"proxyd says that it passed on {record['bytes_down']} octets, and the client reads {answer}"
