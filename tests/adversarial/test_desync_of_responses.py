"""One answer belongs to one request: what could be read in two ways is 502, or visibly cut short (ATTACKS 5).

Behind each answer the origin sends another one that nobody asked for, and the client a second request. Nobody ever sees
the poison, unless it is inside the one body that says so; the second request is answered on a connection of its own.
Where the poison may come later than the answer, the second request comes later still: had that been on its way before,
the poison would be its answer, as far as anybody can know, for it comes from the origin that was asked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import pytest

from tests.adversarial import ambiguous_answers as known
from tests.adversarial.recorder import Outcome, Script, Stage, Tally, deliveries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST = "{method} http://ORIGIN/first HTTP/{version}\r\nHost: ORIGIN\r\n{fields}\r\n"
SECOND = "GET http://ORIGIN/second HTTP/1.1\r\nHost: ORIGIN\r\nConnection: close\r\n\r\n"
PLAIN = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nVia: 1.1 VIA\r\nConnection: close\r\n\r\nplain"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One daemon for all of them."""
    staged = Stage(tmp_path_factory.mktemp("responses"))
    yield staged
    staged.close()


@pytest.fixture(scope="module")
def tally(figures: dict[str, str]) -> Iterator[Tally]:
    """What was tried, told in the end."""
    counted = Tally()
    yield counted
    figures["desync, responses"] = str(counted)


@pytest.fixture
def hold(stage: Stage, tally: Tally, *, long: bool) -> Callable[..., None]:
    """Let the origin deliver an answer in all ways, poison behind it, and hold each outcome against what must be.

    whole: the answer is one after which the client may go on.
    """

    def held(
        sent: str,
        right: Callable[[Outcome], bool],
        request: str = FIRST.format(method="GET", version="1.1", fields=""),
        after: Literal["wait", "end", "reset"] = "wait",
        poison: str = known.POISON,
        *,
        whole: bool = False,
    ) -> None:
        first, second = _octets(request, stage), _octets(SECOND, stage)
        tally.cases += 1
        sent, poison = _parted(sent, poison, request)
        for pieces in deliveries(sent.encode("latin-1"), poison.encode(), long=long):
            apart = whole and not (len(pieces) == 1 and poison)
            outcome = stage.play(
                [first] if apart else [first + second], Script(pieces, after), then=(second,) if apart else ()
            )
            tally.deliveries += 1
            tally.disagreements += not right(outcome)
            assert right(outcome), f"{pieces}\n{outcome}"

    return held


def _parted(sent: str, poison: str, request: str) -> tuple[str, str]:
    """An answer that has no body ends with its head (RFC 9112 §6.3), and nobody need read what is behind it."""
    before, http, last = sent.rpartition("HTTP/")
    head, end, rest = last.partition("\r\n\r\n")
    if request.startswith("HEAD ") or head[4:7] in ("204", "304"):
        return before + http + head + end, rest + poison
    return sent, poison


def _octets(text: str, stage: Stage) -> bytes:
    return text.replace("ORIGIN", stage.origin.name).replace("VIA", stage.via.decode()).encode("latin-1")


def _is_refused(reason: str = "origin_malformed", interim: str = "") -> Callable[[Outcome], bool]:
    """502, whole, and closed: nothing of the answer, nor of the second request."""

    def right(outcome: Outcome) -> bool:
        before, phrase, after = outcome.answer.partition(b"HTTP/1.1 502 Bad Gateway: %b\r\n" % reason.encode())
        head, _, body = after.partition(b"\r\n\r\n")
        whole = b"Connection: close" in head and b"Content-Length: %d\r\n" % len(body) in head and body.endswith(b"}\n")
        alone = len(outcome.reached) == 1 and outcome.records == (("allow", reason),)
        return bool(phrase) and before == interim.encode() and whole and alone

    return right


def _is_cut(stage: Stage, sent: str, payload: str, *, modern: bool) -> Callable[[Outcome], bool]:
    """The head, a part of the body, and no end that a client could take for one; or 502, if it was seen in time."""
    length = re.search("Content-Length: .*\r\n", sent.partition("\r\n\r\n")[0] + "\r\n")
    framing = "" if length or not modern else "Transfer-Encoding: chunked\r\n"
    fields = (
        length[0] if length else "",
        f"Via: {sent[5:8]} VIA\r\n",
        framing,
        "" if modern else "Connection: close\r\n",
    )
    head = _octets(f"{known.OK}{''.join(fields)}\r\n", stage)
    parts = [payload[:size].encode("latin-1") for size in range(1, len(payload) + 1)]
    bodies = [b"", *(b"%x\r\n%b\r\n" % (len(part), part) if framing else part for part in parts)]

    def right(outcome: Outcome) -> bool:
        if _is_refused()(outcome):
            return True
        alone = len(outcome.reached) == 1 and len(outcome.records) == 1 and outcome.records[0][1] != "complete"
        if modern:
            return outcome.answer in [head + body for body in bodies] and alone and not outcome.reset
        # A reset may overtake what was sent; what was read is a part of it, and the reset is the end.
        return outcome.reset and alone and any((head + body).startswith(outcome.answer) for body in bodies)

    return right


@pytest.mark.parametrize("case", known.REFUSED)
def test_attack_5_an_answer_of_two_readings_is_502(hold: Callable[..., None], case: str) -> None:
    hold(known.REFUSED[case], _is_refused())


@pytest.mark.parametrize("case", known.REFUSED_AFTER_INTERIM)
def test_attack_5_an_answer_of_two_readings_is_502_after_interim_ones(hold: Callable[..., None], case: str) -> None:
    sent, interim = known.REFUSED_AFTER_INTERIM[case]
    hold(sent, _is_refused(interim=interim))


@pytest.mark.parametrize("after", ["end", "reset"])
@pytest.mark.parametrize("sent", known.UNFINISHED_HEADS)
def test_attack_5_half_a_head_is_no_answer(hold: Callable[..., None], sent: str, after: str) -> None:
    interim = known.HINT if sent == known.HINT else ""

    def right(outcome: Outcome) -> bool:
        return any(_is_refused(reason, interim)(outcome) for reason in ("origin_malformed", "origin_closed"))

    hold(sent, right, after=after, poison="")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("case", known.CUT)
def test_attack_5_a_body_of_two_readings_never_ends(
    hold: Callable[..., None], stage: Stage, case: str, version: str
) -> None:
    """In HTTP/1.1 the framing says that something is missing; an HTTP/1.0 client sees a reset."""
    sent, payload, after = known.CUT[case]
    request = FIRST.format(method="GET", version=version, fields="")
    poison = known.POISON if after == "wait" else ""
    hold(sent, _is_cut(stage, sent, payload, modern=version == "1.1"), request, after, poison)


@pytest.mark.parametrize("case", known.TOLD)
def test_attack_5_an_answer_is_framed_anew_and_the_next_is_its_own(
    hold: Callable[..., None], stage: Stage, case: str
) -> None:
    told = known.TOLD[case]
    body = told.body + (known.POISON if told.ends else "")
    framing = "Transfer-Encoding: chunked\r\n" if told.chunked else ""
    if told.chunked and told.method != "HEAD":
        body = (f"{len(body):x}\r\n{body}\r\n" if body else "") + f"0\r\n{told.trailers}\r\n"
    version = told.sent.rpartition("HTTP/")[2][:3]
    answer = _octets(f"{told.interim}{told.head}Via: {version} VIA\r\n{framing}\r\n{body}{PLAIN}", stage)

    def right(outcome: Outcome) -> bool:
        alone = [reached.count(b"HTTP/1.1\r\n") for reached in outcome.reached] == [1, 1]
        return outcome.answer == answer and alone and outcome.records == (("allow", "complete"),) * 2

    request = FIRST.format(method=told.method, version="1.1", fields=told.fields)
    hold(told.sent, right, request, "end" if told.ends else "wait", whole=True)


@pytest.mark.parametrize("case", known.TOLD)
def test_attack_4_10_a_connection_is_kept_after_an_answer_with_one_end_and_no_other(
    hold: Callable[..., None], stage: Stage, case: str
) -> None:
    """Without poison the next request follows on the connection, unless the answer has an end of another kind."""
    told = known.TOLD[case]
    fresh = told.ends or told.spills or bool(told.fields) or "Connection: close" in told.sent or "/1.0 200" in told.sent

    def right(outcome: Outcome) -> bool:
        requests = [reached.count(b" HTTP/1.1\r\n") for reached in outcome.reached]
        answered = outcome.answer.endswith(_octets(PLAIN, stage)) and outcome.records == (("allow", "complete"),) * 2
        return answered and requests == ([1, 1] if fresh else [2])

    request = FIRST.format(method=told.method, version="1.1", fields=told.fields)
    hold(told.sent, right, request, "end" if told.ends else "wait", "", whole=True)


@pytest.mark.parametrize("case", known.TOLD)
def test_attack_5_an_http_1_0_client_gets_one_answer_and_the_end(
    hold: Callable[..., None], stage: Stage, case: str
) -> None:
    told = known.TOLD[case]
    version = told.sent.rpartition("HTTP/")[2][:3]
    body = told.body + (known.POISON if told.ends else "")
    answer = _octets(f"{told.head}Via: {version} VIA\r\nConnection: close\r\n\r\n{body}", stage)

    def right(outcome: Outcome) -> bool:
        alone = len(outcome.reached) == 1 and outcome.records == (("allow", "complete"),)
        return outcome.answer == answer and alone and not outcome.reset

    request = FIRST.format(method=told.method, version="1.0", fields=told.fields)
    hold(told.sent, right, request, "end" if told.ends else "wait")


@pytest.mark.parametrize("case", known.OTHER_SWITCHES)
def test_attack_5_an_origin_switches_to_what_was_asked_for_or_is_502(hold: Callable[..., None], case: str) -> None:
    hold(known.OTHER_SWITCHES[case], _is_refused(), FIRST.format(method="GET", version="1.1", fields=known.WEBSOCKET))


def test_attack_5_behind_a_101_everything_is_the_tunnels(hold: Callable[..., None], stage: Stage) -> None:
    """What either side sent early is carried as it is, and none of it is a message of this proxy's."""
    switch = f"HTTP/1.1 101 X\r\n{known.WEBSOCKET}\r\n"
    head = f"GET /first HTTP/1.1\r\nHost: ORIGIN\r\nVia: 1.1 VIA\r\n{known.WEBSOCKET}\r\n"
    reached = (_octets(head + SECOND, stage),)
    right = Outcome(_octets(switch + known.POISON, stage), reset=False, reached=reached, records=(("allow", "closed"),))
    request = FIRST.format(method="GET", version="1.1", fields=known.WEBSOCKET)
    hold(switch, lambda outcome: outcome == right, request, "end")


@pytest.mark.parametrize(
    "body", [f"Content-Length: 500\r\n\r\n{SECOND}", f"Transfer-Encoding: chunked\r\n\r\n1f4\r\n{SECOND}"]
)
def test_attack_5_what_follows_an_early_answer_is_body(stage: Stage, tally: Tally, body: str) -> None:
    """It came before the request was complete: what is left of that is read by nobody as a request."""
    head = "POST http://ORIGIN/first HTTP/1.1\r\nHost: ORIGIN\r\n"
    answer = _octets(f"{known.LENGTH}Via: 1.1 VIA\r\n\r\nhello", stage)
    sent = _octets(head + body, stage)
    tally.cases += 1
    for at in range(sent.index(b"\r\n\r\n") + 4, len(sent)):
        early = Script((f"{known.LENGTH}\r\nhello{known.POISON}".encode(),), early=True)
        outcome = stage.play([sent[:at], sent[at:]], early)
        tally.deliveries += 1
        right = outcome.answer == answer and len(outcome.reached) == 1 and outcome.records == (("allow", "complete"),)
        tally.disagreements += not right
        assert right, outcome
