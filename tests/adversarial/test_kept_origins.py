"""The connection to an origin that is kept between two requests of one client carries nothing it should not.

ATTACKS 4.10, 5. No answer that was left over is ever taken for the answer to the next request, no client ever gets what
another one's connection has left, and each request is judged for itself. Where the origin ended the connection without
a word to a request on it, that is repeated once, elsewhere.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.adversarial.ambiguous_answers import POISON
from tests.adversarial.recorder import Recorder, Script, Stage
from tests.end_to_end.daemon import read_until, ticks

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
PLAIN = b"plain"
DONE = ("allow", "complete")
LEFT_OVER = {
    "an answer": POISON.encode(),
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
    "a timeout nobody waits for": b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
    "half an answer": POISON.encode()[:20],
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an empty line": b"\r\n",
    "one octet": b"H",
    "a body": b"hello",
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One daemon for all of them."""
    staged = Stage(tmp_path_factory.mktemp("kept"))
    yield staged
    staged.close()


def asks(stage: Stage, path: str, method: str = "GET", fields: str = "") -> bytes:
    """A request of a client that goes on."""
    return f"{method} http://{stage.origin.name}/{path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode()


def lasts(stage: Stage, path: str) -> bytes:
    """A request of a client that does not."""
    return asks(stage, path, fields="Connection: close\r\n")


def targets(reached: bytes) -> list[str]:
    """What was asked for on one of the origin's connections."""
    return [line.split(b" ")[1].decode() for line in reached.split(b"\r\n") if line.endswith(b" HTTP/1.1")]


@pytest.mark.parametrize("answer", [ANSWER, CHUNKS, EMPTY])
@pytest.mark.parametrize("left", LEFT_OVER)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "when the answer was delivered"])
def test_attack_5_a_connection_with_something_left_over_is_never_used_again(
    stage: Stage, answer: bytes, left: str, *, late: bool
) -> None:
    """The second request gets the answer to itself, on another connection, and nothing of what was left."""
    says = (answer, LEFT_OVER[left]) if late else (answer + LEFT_OVER[left],)
    outcome = stage.play([asks(stage, "first")], Script(says), then=[lasts(stage, "second")])
    assert [targets(reached) for reached in outcome.reached] == [["/first"], ["/second"]]
    assert outcome.records == (DONE, DONE)
    assert outcome.answer.count(b"HTTP/1.1 ") == 2
    assert outcome.answer.endswith(PLAIN)


@pytest.mark.parametrize("left", LEFT_OVER)
def test_attack_5_pipelined_requests_are_not_given_what_was_left_over(stage: Stage, left: str) -> None:
    """The second request waits at proxyd when the answer and what it leaves come."""
    outcome = stage.play([asks(stage, "first") + lasts(stage, "second")], Script((ANSWER + LEFT_OVER[left],)))
    assert [targets(reached) for reached in outcome.reached] == [["/first"], ["/second"]]
    assert outcome.answer.endswith(PLAIN)


@pytest.mark.parametrize("after", ["end", "reset"])
@pytest.mark.parametrize("sent", [ANSWER[:-1], CHUNKS[:-2], CHUNKS[:-5], EMPTY[:-2]])
def test_attack_5_after_an_answer_that_breaks_off_nothing_follows(
    stage: Stage, sent: bytes, after: Literal["end", "reset"]
) -> None:
    """It is the client's last: neither on that connection nor on another does the second request leave us."""
    check_is_last(stage, Script((sent,), after))


@pytest.mark.parametrize(
    "sent", [ANSWER.replace(b": 5", b": +5"), CHUNKS.replace(b"\r\n0", b"\n0"), ANSWER.replace(b"1.1", b"1.2")]
)
def test_attack_5_after_an_answer_of_two_readings_nothing_follows(stage: Stage, sent: bytes) -> None:
    check_is_last(stage, Script((sent,)))


def check_is_last(stage: Stage, script: Script) -> None:
    """No request follows the one that is answered so."""
    outcome = stage.play([asks(stage, "first") + lasts(stage, "second")], script)
    assert [targets(reached) for reached in outcome.reached] == [["/first"]]
    assert len(outcome.records) == 1
    assert outcome.records[0] != DONE


def test_attack_5_an_answer_that_was_there_before_its_request_is_not_left_for_the_next(stage: Stage) -> None:
    """An origin that answers twice, the first time too early, is not asked again where the second answer waits."""
    twice = Script((ANSWER, ANSWER.replace(b"hello", b"again")), early=True)
    outcome = stage.play([asks(stage, "first")], twice, then=[lasts(stage, "second")])
    assert [targets(reached) for reached in outcome.reached] == [["/first"], ["/second"]]
    assert b"again" not in outcome.answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "get", "PROPFIND"])
def test_attack_5_a_request_that_may_not_be_repeated_gets_a_connection_of_its_own(stage: Stage, method: str) -> None:
    """The kept one may be ending this very moment; it is closed first, and after such a request none is kept."""
    unsafe = asks(stage, "second", method, "Content-Length: 0\r\n")
    outcome = stage.play([asks(stage, "first") + unsafe + lasts(stage, "third")])
    assert sorted(targets(reached) for reached in outcome.reached) == [["/first"], ["/second"], ["/third"]]
    assert outcome.records == (DONE,) * 3


@pytest.mark.parametrize("fields", ["Content-Length: 0\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n"])
def test_attack_5_a_body_or_an_upgrade_keeps_no_connection(stage: Stage, fields: str) -> None:
    """Who reads a body or a WebSocket where we do not would read the next request as that."""
    outcome = stage.play([asks(stage, "first", fields=fields) + lasts(stage, "second")])
    assert [targets(reached) for reached in outcome.reached] == [["/first"], ["/second"]]


def test_attack_5_what_a_kept_connection_did_not_answer_is_asked_once_more_elsewhere(stage: Stage) -> None:
    """RFC 9112 §9.3.1. One decision, one closing record that tells of the answer that came in the end."""
    gone = Script((ANSWER,), deaf=True)
    outcome = stage.play([asks(stage, "first")], gone, then=[lasts(stage, "second")])
    assert [targets(reached) for reached in outcome.reached] == [["/first", "/second"], ["/second"]]
    assert outcome.records == (DONE, DONE)
    assert stage.closings[-1]["status"] == 200
    assert outcome.answer.endswith(PLAIN)


def test_attack_5_it_is_not_asked_a_third_time(stage: Stage) -> None:
    """The client hears of it, and may try again if it likes."""
    gone, silent = Script((ANSWER,), deaf=True), Script((), after="end")
    outcome = stage.play([asks(stage, "first")], gone, silent, then=[lasts(stage, "second")])
    assert [targets(reached) for reached in outcome.reached] == [["/first", "/second"], ["/second"]]
    assert outcome.records == (DONE, ("allow", "origin_closed"))
    assert b" 502 Bad Gateway: origin_closed\r\n" in outcome.answer


def test_attack_4_10_each_request_on_a_kept_connection_has_a_decision_of_its_own(stage: Stage) -> None:
    """Those that are denied in between reach nobody, and the connection stays what it was."""
    denied = b"GET http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\n\r\n"
    inner = asks(stage, "inner").replace(stage.origin.name.encode(), b"127.0.0.1:%d" % stage.origin.port)
    last = lasts(stage, "third")
    outcome = stage.play([asks(stage, "first") + denied + asks(stage, "second") + inner + last])
    assert [targets(reached) for reached in outcome.reached] == [["/first", "/second", "/third"]]
    assert outcome.records[::2] == (DONE,) * 3
    assert {verdict for verdict, _ in outcome.records[1::2]} == {"deny"}
    assert len({closing["id"] for closing in stage.closings}) == 5
    dialled = [(closing["address"] is not None, closing["connect_ms"] is not None) for closing in stage.closings]
    assert dialled == [(True, True), (False, False), (True, False), (False, False), (True, False)]


def test_attack_5_no_two_clients_share_a_connection(stage: Stage) -> None:
    """Four clients in turn, all on one worker, each with a connection that is kept, and then left behind."""
    with ExitStack() as clients:
        crowd = [clients.enter_context(stage.daemon.connect()) for _ in range(4)]
        for turn in range(3):
            for number, client in enumerate(crowd):
                told(client, asks(stage, f"{number}-{turn}"))
    for number in range(4, 6):
        with stage.daemon.connect() as late:  # when the connections of the others have been let go
            told(late, asks(stage, f"{number}-0"))
    expected = [[f"/{number}-{turn}" for turn in range(3)] for number in range(4)] + [["/4-0"], ["/5-0"]]
    assert [targets(reached) for reached in taken(stage.origin, len(expected))] == expected
    assert len(stage.records()[0]) == 14


def told(client: socket.socket, request: bytes) -> None:
    """Ask, and hear the plain answer."""
    client.sendall(request)
    read_until(client, PLAIN)


def taken(origin: Recorder, count: int) -> Sequence[bytes]:
    """What was read on the origin's connections, once nobody holds any."""
    reached = origin.take(count)
    assert len(reached) == count
    return reached


def test_attack_8_a_connection_is_let_go_with_its_client(stage: Stage) -> None:
    """Or clients that come and go would leave us without files."""
    stage.play([lasts(stage, "first")])
    before = descriptors(stage)
    for number in range(20):
        with stage.daemon.connect() as client:
            told(client, asks(stage, f"{number}"))
    taken(stage.origin, 20)
    assert len(stage.records()[0]) == 20
    for _ in ticks():
        if descriptors(stage) <= before:
            return
    raise AssertionError("files stay open")


def descriptors(stage: Stage) -> int:
    """How many files the worker has open."""
    [worker] = stage.daemon.workers()
    return sum(1 for _ in Path(f"/proc/{worker}/fd").iterdir())
