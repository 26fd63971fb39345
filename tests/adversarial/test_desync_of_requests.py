"""One request in is one request out, octet for octet as proxyd frames it, or a refusal and a close (ATTACKS 5).

Each case is delivered whole, split in two, and octet by octet: the outcome is the same. A second request hides behind
each: it is never read as one, unless it truly is one, with a decision of its own. Where it is one, it goes to the
origin on the connection of the first only if that is the sort of request that may keep it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.adversarial import ambiguities as known
from tests.adversarial.clear_requests import CLEAR, Clear
from tests.adversarial.recorder import Outcome, Script, Stage, Tally, deliveries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nVia: 1.1 %b\r\n%b\r\nplain"
CLOSE = b"Connection: close\r\n"
REASONS = {
    400: ("malformed_request", "malformed_target"),
    405: ("method_refused",),
    417: ("expectation_failed",),
    431: ("head_too_large",),
    501: ("coding_unsupported",),
    505: ("version_unsupported",),
}
CODINGS = {
    # Alone, the field says how long the body is, or it is none; a length beside it makes two of them.
    "alone": "{head}{field}\r\n\r\n0\r\n\r\n",
    "before a length that hides a request": "{head}{field}\r\nContent-Length: {all}\r\n\r\n0\r\n\r\n{hidden}",
    "after a length that hides a request": "{head}Content-Length: {all}\r\n{field}\r\n\r\n0\r\n\r\n{hidden}",
    "beside a length that ends before": "{head}Content-Length: 4\r\n{field}\r\n\r\n{size:x}\r\n{hidden}\r\n0\r\n\r\n",
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One daemon for all of them."""
    staged = Stage(tmp_path_factory.mktemp("requests"))
    yield staged
    staged.close()


@pytest.fixture(scope="module")
def tally(figures: dict[str, str]) -> Iterator[Tally]:
    """What was tried, told in the end."""
    counted = Tally()
    yield counted
    figures["desync, requests"] = str(counted)


@pytest.fixture
def hold(stage: Stage, tally: Tally, *, long: bool) -> Callable[..., None]:
    """Deliver a case in all ways, a request hidden behind it, and hold each outcome against what must be."""

    def held(sent: str, right: Callable[[Outcome], bool], *scripts: Script, ends: bool = False) -> None:
        case = _octets(sent, stage)
        behind = b"" if ends else _octets(known.SMUGGLED, stage)
        tally.cases += 1
        for pieces in deliveries(case, behind, long=long):
            outcome = stage.play(pieces, *scripts, ends=ends)
            tally.deliveries += 1
            tally.disagreements += not right(outcome)
            assert right(outcome), f"{pieces}\n{outcome}"

    return held


def _octets(text: str, stage: Stage) -> bytes:
    return text.replace("ORIGIN", stage.origin.name).encode("latin-1")


def _is_refused(status: int) -> Callable[[Outcome], bool]:
    """Refused with this status, once, and closed; nobody was contacted."""

    def right(outcome: Outcome) -> bool:
        return _ends_in_refusal(outcome, status, "error") and outcome.reached == ()

    return right


def _ends_in_refusal(outcome: Outcome, status: int, verdict: str) -> bool:
    """One answer, a whole one, that says close; one record."""
    head, _, body = outcome.answer.partition(b"\r\n\r\n")
    return (
        head.startswith(b"HTTP/1.1 %d " % status)
        and b"\r\nConnection: close" in head
        and b"\r\nContent-Length: %d\r\n" % len(body) in head
        and outcome.records in [((verdict, reason),) for reason in REASONS[status]]
    )


def _framed(clear: Clear, stage: Stage) -> bytes:
    """The one request that must leave us."""
    version = b"1.0" if " HTTP/1.0\r\n" in clear.sent else b"1.1"
    head = _octets(f"{clear.line}\r\nHost: ORIGIN\r\n{clear.fields}", stage)
    connection = b"Connection: Upgrade\r\nUpgrade: websocket\r\n" if clear.upgrade else b"" if _keeps(clear) else CLOSE
    return head + b"Via: %b %b\r\n%b\r\n" % (version, stage.via, connection) + clear.body.encode("latin-1")


def _keeps(clear: Clear) -> bool:
    """Whether the connection to the origin may carry more: a safe request, without a body or an upgrade, came first."""
    safe = clear.line.split(" ")[0] in ("GET", "HEAD", "OPTIONS")
    body = any(field in f"\r\n{clear.fields}" for field in ("\r\nContent-Length:", "\r\nTransfer-Encoding:"))
    return safe and not (body or clear.last or "\r\nUpgrade: " in clear.sent)


def _is_broken_off(stage: Stage, head: str, payload: str) -> Callable[[Outcome], bool]:
    """Refused in the body: the origin has a part of the one message, which no reader can take for the whole."""
    framed = _framed(Clear(head, fields=head.removeprefix(known.HEAD)), stage)
    parts = [payload[:length].encode("latin-1") for length in range(1, len(payload) + 1)]
    bodies = [b"", *(b"%x\r\n%b\r\n" % (len(part), part) if "chunked" in head else part for part in parts)]

    def right(outcome: Outcome) -> bool:
        refused = any(_ends_in_refusal(outcome, status, "allow") for status in (400, 431, 501))
        return refused and outcome.reached in [(b"",), *((framed + body,) for body in bodies)]

    return right


def _is_carried(stage: Stage, clear: Clear) -> Callable[[Outcome], bool]:
    """Passed on as we frame it, octet for octet; what is behind it is another request, with a decision of its own."""
    first = _framed(clear, stage)
    second = _framed(Clear("", "GET /smuggled HTTP/1.1", last=True), stage)
    reached = (first + second,) if _keeps(clear) else (first, second)
    answers = [PLAIN % (stage.via, b""), PLAIN % (stage.via, CLOSE)]
    done = ("allow", "complete")
    if clear.last:
        return lambda outcome: outcome == Outcome(answers[1], reset=False, reached=(first,), records=(done,))
    return lambda outcome: outcome == Outcome(b"".join(answers), reset=False, reached=reached, records=(done, done))


@pytest.mark.parametrize("shape", CODINGS)
@pytest.mark.parametrize("field", [*known.UNKNOWN_CODINGS, *known.BROKEN_CODINGS])
def test_attack_5_a_coding_is_chunked_once_or_refused(hold: Callable[..., None], field: str, shape: str) -> None:
    inside = known.INSIDE
    case = CODINGS[shape].format(head=known.HEAD, field=field, all=5 + len(inside), hidden=inside, size=len(inside))
    hold(case, _is_refused(501 if field in known.UNKNOWN_CODINGS and shape == "alone" else 400))


@pytest.mark.parametrize("field", known.LENGTHS)
def test_attack_5_a_length_is_one_plain_number_or_refused(hold: Callable[..., None], field: str) -> None:
    hold(f"{known.HEAD}{field}\r\n\r\nhello", _is_refused(400))


@pytest.mark.parametrize("line", known.LINES)
def test_attack_5_a_line_is_a_field_or_refused(hold: Callable[..., None], line: str) -> None:
    hold(f"{known.HEAD}{line}\r\nContent-Length: 5\r\n\r\nhello", _is_refused(400))


@pytest.mark.parametrize("line", known.REQUEST_LINES)
def test_attack_5_a_request_line_has_one_form(hold: Callable[..., None], line: str) -> None:
    hold(f"{line}\r\nHost: ORIGIN\r\n\r\n", _is_refused(known.REQUEST_LINES[line]))


@pytest.mark.parametrize("case", known.HEADS)
def test_attack_5_a_head_means_one_thing_or_is_refused(hold: Callable[..., None], case: str) -> None:
    head, status = known.HEADS[case]
    hold(head, _is_refused(status))


@pytest.mark.parametrize("case", known.CHUNKS)
def test_attack_5_a_chunk_is_plain_or_its_message_never_ends(
    hold: Callable[..., None], stage: Stage, case: str
) -> None:
    body, payload = known.CHUNKS[case]
    head = known.CHUNKED.removesuffix("\r\n")
    hold(known.CHUNKED + body, _is_broken_off(stage, head, payload))


@pytest.mark.parametrize("case", known.UNFINISHED)
def test_attack_5_what_the_client_breaks_off_is_never_whole(hold: Callable[..., None], stage: Stage, case: str) -> None:
    sent, payload = known.UNFINISHED[case]
    head = sent.partition("\r\n\r\n")[0] + "\r\n"
    hold(sent, _is_refused(400) if payload is None else _is_broken_off(stage, head, payload), ends=True)


@pytest.mark.parametrize("case", CLEAR)
def test_attack_5_what_has_one_reading_is_framed_anew(hold: Callable[..., None], stage: Stage, case: str) -> None:
    clear = CLEAR[case]
    hold(clear.sent, _is_carried(stage, clear))


@pytest.mark.parametrize("target", ["10.0.0.5:80", "ORIGIN:1"])
def test_attack_5_behind_a_refused_connect_nothing_is_a_request(hold: Callable[..., None], target: str) -> None:
    """It may be meant for the tunnel, by a client that did not wait: RFC 9931 has the proxy close."""
    status, record = (403, ("deny", "address_denied")) if target[0] == "1" else (400, ("error", "malformed_target"))

    def right(outcome: Outcome) -> bool:
        refused = outcome.answer.startswith(b"HTTP/1.1 %d " % status) and outcome.answer.count(b"HTTP/1.1 ") == 1
        return refused and outcome.reached == () and outcome.records == (record,)

    hold(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n", right)


def test_attack_5_behind_a_connect_everything_is_the_tunnels(hold: Callable[..., None], stage: Stage) -> None:
    """Octets that come early are carried, as they are, to where the tunnel leads; none of them is a request here."""
    answer = b"HTTP/1.1 200 Connection Established\r\n\r\nhello"
    right = Outcome(answer, reset=False, reached=(_octets(known.SMUGGLED, stage),), records=(("allow", "closed"),))
    script = Script((b"hello",), after="end", early=True)
    hold("CONNECT ORIGIN HTTP/1.1\r\nHost: x\r\n\r\n", lambda outcome: outcome == right, script)
