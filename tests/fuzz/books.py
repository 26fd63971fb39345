"""The books of one client's connection, balanced: what it heard against what is on record, octet for octet.

h11 reads what the client heard, as a client. What is held here is the same in memory and of a real daemon.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import h11

from proxyd.http.client_hello import ALERT_UNRECOGNIZED_NAME
from tests.fuzz.strict import strict_head, values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TUNNELLED: Final = frozenset({"closed", "reset", "idle", "revoked", "client_gone", "tls_name"})
"""What may come of a tunnel that stood."""
ANSWERED: Final = frozenset({"complete", "refused", "answered_here"})
"""What comes of a request whose answer is whole."""


Fields = list[tuple[bytes, bytes]]


_MALFORMED: Final = frozenset({400, 405, 408, 417, 431, 501, 505})
"""Where it is not sure where the request ends, or was, nothing more is read."""
_OF_ONE_HOP: Final = frozenset({b"keep-alive", b"te", b"upgrade", b"proxy-authenticate", b"proxy-authentication-info"})


@dataclass(frozen=True)
class Heard:
    """What a client heard. whole: it never broke off, nor ended its side, nor ceased to listen. reset: by proxyd.

    lost: whether more may have been said to it.
    """

    octets: bytes
    whole: bool
    reset: bool
    lost: bool = False


@dataclass(frozen=True)
class Answer:
    """A final response, or a 101. how: whether it is whole, and how that is known.

    octets: it, with interim responses before it. body: the content of that. rest: what is behind it.
    """

    status: int | None
    how: Literal["none", "whole", "to the end", "broken off", "tunnel"]
    octets: bytes
    body: bytes
    rest: bytes = b""

    @property
    def closes(self) -> bool:
        """Whether it says that it is the last."""
        return self.status is not None and b"close" in values(self.head[1], b"connection")

    @property
    def head(self) -> tuple[bytes, Fields]:
        """Its status line, and its fields."""
        return strict_head(self.final)[:2]

    @property
    def final(self) -> bytes:
        """It without the interim responses before it, which are only held to be heads."""
        octets = self.octets
        while True:
            line, _, end = strict_head(octets)
            if not line.startswith(b"HTTP/1.1 1") or line.startswith(b"HTTP/1.1 101 "):
                return octets
            octets = octets[end:]


def next_answer(octets: bytes, method: str) -> Answer:
    """The first response in these octets, to a request of that method, and what is behind it."""
    if not octets:
        return Answer(None, "none", b"", b"")  # to h11 that were the end
    reader = h11.Connection(h11.CLIENT)
    fields = [("Host", "x"), *([("Connection", "Upgrade"), ("Upgrade", "websocket")] if method == "GET" else ())]
    reader.send(h11.Request(method=method, target="/", headers=fields))
    reader.send(h11.EndOfMessage())
    reader.receive_data(octets)
    status: int | None = None
    body = b""
    while (event := reader.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.Response | h11.InformationalResponse):
            status = event.status_code if event.status_code >= 200 or event.status_code == 101 else None
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return _behind(octets, status, "whole", body, reader.trailing_data[0])
    if event is h11.PAUSED:
        return _behind(octets, status, "tunnel", b"", reader.trailing_data[0])
    return Answer(status, "none" if status is None else _end(reader), octets, body)


def _behind(octets: bytes, status: int | None, how: Literal["whole", "tunnel"], body: bytes, rest: bytes) -> Answer:
    return Answer(status, how, octets[: len(octets) - len(rest)], body, rest)


def _end(reader: h11.Connection) -> Literal["to the end", "broken off"]:
    """Whether an end is what a response waits for."""
    reader.receive_data(b"")
    try:
        return "to the end" if isinstance(reader.next_event(), h11.EndOfMessage) else "broken off"
    except h11.RemoteProtocolError:
        return "broken off"


def balance(heard: Heard, closings: Sequence[Mapping[str, Any]], secrets: Sequence[bytes]) -> list[Answer]:
    """Hold what a client heard to the closing records of its requests, in their order: the answers.

    secrets: what no refusal may say.
    """
    answers: list[Answer] = []
    rest = heard.octets
    for number, closing in enumerate(closings):
        answer = next_answer(rest, _method(closing))
        answers.append(answer)
        rest = answer.rest
        _hold(answer, closing, heard)
        if closing["outcome"] == "refused" and answer.how == "whole":
            _hold_refusal(answer, closing, secrets)
        if answer.how != "whole" and heard.lost:
            return answers
        if answer.how != "whole" or answer.closes:
            assert number + 1 == len(closings), f"something comes behind an answer that is the last: {closings}"
            rest = rest if answer.closes else b""
    assert not rest, f"an answer to nothing on record: {rest!r}"
    return answers


def _method(closing: Mapping[str, Any]) -> str:
    """The method, or one whose answers are framed alike."""
    return "GET" if closing["method"] in (None, "other") else str(closing["method"])


def _hold(answer: Answer, closing: Mapping[str, Any], heard: Heard) -> None:
    outcome, status = closing["outcome"], closing["status"]
    told = f"{answer} where {dict(closing)}"
    if answer.status is None:
        assert not heard.whole, f"no answer: {told}"
        return
    line, fields = answer.head
    assert b" %d " % answer.status in line, told
    assert not _OF_ONE_HOP & {name for name, _ in fields} or answer.status in (101, 407), told
    assert answer.status == status, told
    if answer.how == "tunnel":
        assert outcome in TUNNELLED, told
        _hold_tunnel(answer, closing, heard)
    elif answer.how == "whole":
        assert outcome in ANSWERED or _is_crossed(closing, answer), told
    elif answer.how == "to the end":
        assert outcome == "complete" or heard.reset or not heard.whole, f"it seems whole: {told}"
    else:
        assert outcome not in ANSWERED or not heard.whole, told
    if outcome == "complete" and answer.how in ("whole", "to the end"):
        assert status != 407, f"an origin asks for our credentials: {told}"
        assert closing["bytes_down"] == len(answer.body) or not heard.whole, told


def _is_crossed(closing: Mapping[str, Any], answer: Answer) -> bool:
    """Whether an early answer was on its way in whole when the body of its request turned out to be none."""
    faulty = (closing["outcome"], closing["reason"]) == ("aborted", "malformed_request")
    return faulty and closing["bytes_down"] == len(answer.body)


def _hold_tunnel(answer: Answer, closing: Mapping[str, Any], heard: Heard) -> None:
    if closing["outcome"] == "tls_name":
        assert ALERT_UNRECOGNIZED_NAME.startswith(answer.rest), answer
    elif heard.whole:
        assert closing["bytes_down"] == len(answer.rest), f"{answer} where {dict(closing)}"


def _hold_refusal(answer: Answer, closing: Mapping[str, Any], secrets: Sequence[bytes]) -> None:
    """It says why, by the same word as the record, and nothing of what was asked."""
    line, fields = answer.head
    word = line.rpartition(b": ")[2].decode()
    uniform = closing["reason"] != word
    assert not uniform or (word == "dns_error" and closing["dns_ms"] is not None), f"{answer} where {dict(closing)}"
    assert values(fields, b"proxy-status")[0].endswith(f'; details="{word}"'.encode())
    assert answer.closes or answer.status not in _MALFORMED, f"it goes on behind {answer}"
    assert values(fields, b"content-type") == [b"application/problem+json"]
    if closing["method"] != "HEAD":
        problem = json.loads(answer.body)
        assert (problem["reason"], problem["decision"], problem["status"]) == (word, closing["id"], answer.status)
        assert uniform or problem.get("rule") == (closing["rule"] if closing["verdict"] == "deny" else None)
    for secret in secrets:
        assert secret not in answer.final, f"it is told {secret!r}"
