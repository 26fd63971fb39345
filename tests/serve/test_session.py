"""One connection: requests one after the other, each judged anew; a bug ends this connection only (ATTACKS 4.10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from netaddr import IPAddress
from trio.testing import memory_stream_pair

from proxyd.policy.address import Resolution
from proxyd.serve.session import KEEP_ALIVE_SECONDS, turn_away
from tests.serve.scene import (
    OK,
    PUBLIC,
    SECRET,
    VIA,
    Connection,
    Peer,
    World,
    connect,
    connected,
    exchange,
    get,
    in_virtual_time,
    policy,
    visit,
)

if TYPE_CHECKING:
    from trio.abc import HalfCloseableStream


@in_virtual_time
async def test_requests_follow_each_other_on_one_connection_each_with_its_own_records() -> None:
    """ATTACKS 4.10, R7."""
    world = World()
    async with connected(world) as client:
        for count in (1, 2, 3):
            await exchange(world, client)
            assert (await client.answer()).body == b"hi"
            assert len(world.trail()) == count
    assert [decision.verdict for decision, _ in world.trail()] == ["allow"] * 3
    assert len({decision.id for decision, _ in world.trail()}) == 3


@in_virtual_time
async def test_a_request_on_a_kept_alive_connection_is_judged_anew_also_where_the_last_one_was_allowed() -> None:
    """ATTACKS 4.10: the answer for a name changes between two requests (DNS rebinding, ATTACKS 3.1)."""
    world = World()
    async with connected(world) as client:
        await exchange(world, client)
        await client.answer()
        world.answers["example.com"] = Resolution((IPAddress("127.0.0.1"),))
        await client.send(get())
        answer = await client.answer()
    assert (answer.status, answer.reason) == (403, "address_denied")
    assert world.opened == 1


@in_virtual_time
async def test_a_request_is_judged_by_the_policy_of_its_own_moment() -> None:
    """ATTACKS 7.7: what was allowed a moment ago on this connection is not allowed for ever."""
    world = World()
    async with connected(world) as client:
        await exchange(world, client)
        await client.answer()
        world.amend(policy('[[deny]]\nname = "changed"\nreason = "a test"\nhosts = ["example.com"]'))
        await client.send(get())
        assert (await client.answer()).reason == "name_denied"
    assert world.opened == 1


@in_virtual_time
async def test_each_pipelined_request_is_judged_anew() -> None:
    """ATTACKS 4.10: three requests in one segment, the second refused; the answers come in order."""
    world = World()
    async with connected(world) as client:
        await client.send(get() + get("http://127.0.0.1/") + get("http://other.example/"))
        origin = await world.origin()
        await origin.send(OK)
        assert (await client.answer()).status == 200
        assert (await client.answer()).reason == "address_denied"
        await (await world.origin()).send(OK)
        assert (await client.answer()).status == 200
    assert [allow.destination.host for allow in world.dialled] == ["example.com", "other.example"]
    assert [decision.verdict for decision, _ in world.trail()] == ["allow", "deny", "allow"]


@in_virtual_time
async def test_a_pipelined_request_is_not_served_before_its_turn() -> None:
    """ATTACKS 4.10: neither looked up nor dialled while the first is under way."""
    world = World()
    async with connected(world) as client:
        await client.send(get() + get("http://other.example/"))
        await (await world.origin()).until(b"\r\n\r\n")
        assert world.events == ["resolve example.com", "record decision", "dial example.com:80"]


@in_virtual_time
async def test_a_request_that_comes_byte_by_byte_is_the_same_request() -> None:
    """ATTACKS 8: 1-byte writes."""
    world = World()
    async with connected(world) as client:
        await client.send(*(bytes([octet]) for octet in get()))
        origin = await world.origin()
        assert (await origin.until(b"\r\n\r\n")).startswith(b"GET / HTTP/1.1\r\nHost: example.com\r\n")


@in_virtual_time
async def test_a_connection_that_never_sends_a_byte_is_let_go_after_exactly_a_minute_without_a_record() -> None:
    """ATTACKS 8."""
    world = World()
    async with connected(world) as client:
        assert await client.rest() == b""
        assert trio.current_time() == KEEP_ALIVE_SECONDS == 60.0
    assert world.attempted == []


@in_virtual_time
async def test_a_kept_alive_connection_is_let_go_exactly_a_minute_after_its_last_answer() -> None:
    world = World()
    async with connected(world) as client:
        await trio.sleep(59.0)
        await exchange(world, client)
        await client.answer()
        assert await client.rest() == b""
        assert trio.current_time() == 59.0 + 60.0
    assert len(world.trail()) == 1


@pytest.mark.parametrize("asks", [False, True], ids=["first", "behind a request"])
@in_virtual_time
async def test_attack_8_an_empty_line_is_no_request_and_gives_no_more_time_than_silence(*, asks: bool) -> None:
    """RFC 9112 §2.2: it became a request of its own, with a 408 and a record of nothing."""
    world = World()
    async with connected(world) as client:
        if asks:
            await exchange(world, client)
            await client.answer()
        await trio.sleep(20.0)
        await client.send(b"\r\n")
        assert await client.rest() == b""
        assert trio.current_time() == KEEP_ALIVE_SECONDS
    assert len(world.trail()) == asks


@in_virtual_time
async def test_a_request_long_after_an_empty_line_is_served() -> None:
    world = World()
    async with connected(world) as client:
        await exchange(world, client)
        await client.answer()
        await client.send(b"\r\n")
        await trio.sleep(59.0)
        await exchange(world, client)
        assert (await client.answer()).status == 200
    assert [close.outcome for _, close in world.trail()] == ["complete"] * 2


@in_virtual_time
async def test_a_client_that_leaves_between_two_requests_is_no_event() -> None:
    """R7: it asked nothing; nothing is recorded and nothing complained about."""
    world = World()
    async with connected(world) as client:
        await exchange(world, client)
        await client.answer()
        await client.leave()
        await client.over.wait()
    assert len(world.trail()) == 1
    assert world.complaints == []


class Reset:
    """A stream on which every reading and writing meets a reset."""

    def __init__(self) -> None:
        self.closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError(max_bytes)

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError(len(data))

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@in_virtual_time
async def test_a_connection_that_is_reset_before_its_first_request_is_no_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ATTACKS 8."""
    world = World()
    reset = Reset()
    monkeypatch.setattr("tests.serve.scene.memory_stream_pair", lambda: (memory_stream_pair()[0], reset))
    async with connected(world) as client:
        await client.over.wait()
    assert (world.attempted, world.complaints, reset.closed) == ([], [], True)


@in_virtual_time
async def test_a_connection_ends_after_the_request_that_ends_it() -> None:
    world = World()
    async with connected(world) as client:
        await exchange(world, client, get("http://example.com/", "Connection: close"))
        assert (await client.answer()).status == 200
        await client.closed()


# Bugs


def _fail(world: World, where: str) -> None:
    bug = ValueError(f"it quotes {SECRET}")
    if where == "dial":
        world.dial_error = bug
    elif where == "resolve":
        world.answers["example.com"] = bug
    else:
        world.record_bug = bug


@pytest.mark.parametrize("where", ["resolve", "record", "dial"])
@in_virtual_time
async def test_an_unexpected_exception_ends_its_connection_only_and_is_told_without_its_message(where: str) -> None:
    """R7: the message may quote the request."""
    world = World(buggy=True)
    async with trio.open_nursery() as nursery:
        bystander = await Connection.serve(world, nursery, "127.0.0.1")
        _fail(world, where)
        async with connected(world) as client:
            await client.send(get(f"http://example.com/{SECRET}"))
            answer = await client.answer()
            await client.closed()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (500, "internal_error", "close")
        assert SECRET.encode() not in answer.body
        world.dial_error = world.record_bug = None
        world.answers.clear()
        await exchange(world, bystander)
        assert (await bystander.answer()).status == 200
        await bystander.leave()
    (complaint,) = world.complaints
    assert complaint.startswith(f"bug: ValueError in _{where}:")
    assert SECRET not in complaint
    assert world.opened == 1


@in_virtual_time
async def test_a_bug_before_the_decision_leaves_a_decision_all_the_same() -> None:
    """R7, R12: an error is no denial, and nothing was allowed."""
    world = World(buggy=True)
    world.answers["example.com"] = ValueError("a bug")
    async with connected(world) as client:
        await client.send(get())
        await client.rest()
    decision, close = world.only()
    assert (decision.verdict, decision.reason, decision.status) == ("error", "internal_error", 500)
    assert (close.outcome, close.reason, close.status) == ("aborted", "internal_error", 500)


@in_virtual_time
async def test_a_bug_behind_the_decision_is_on_record_where_the_request_ends() -> None:
    """R7: what was decided stays decided."""
    world = World(buggy=True, dial_error=ValueError("a bug"))
    async with connected(world) as client:
        await client.send(connect())
        assert (await client.answer()).reason == "internal_error"
    decision, close = world.only()
    assert (decision.verdict, decision.reason) == ("allow", None)
    assert (close.verdict, close.reason, close.status) == ("error", "internal_error", 500)


@in_virtual_time
async def test_a_bug_within_a_response_is_followed_by_no_words_of_ours() -> None:
    """A client must not read our 500 as part of the origin's body."""
    world = World(buggy=True)

    def streams() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()
        ours.receive_stream.put_data(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        turns = iter((None, LookupError(SECRET)))

        async def then_bug() -> None:
            await trio.testing.wait_all_tasks_blocked()
            if (bug := next(turns)) is not None:
                raise bug

        ours.receive_stream.receive_some_hook = then_bug
        return ours, theirs

    world.origin_streams = streams
    async with connected(world) as client:
        await client.send(get())
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await client.rest() == b"half"
    _, close = world.only()
    assert (close.outcome, close.reason, close.status) == ("aborted", "internal_error", 200)
    assert world.complaints[0].startswith("bug: LookupError in then_bug:")


@in_virtual_time
async def test_attack_4_14_a_bug_within_a_tunnel_is_followed_by_no_words_of_ours() -> None:
    """A client must not read our 500 as the origin's, inside a connection that it believes its own."""
    world = World(buggy=True)

    def streams() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()

        async def bug() -> None:
            await trio.testing.wait_all_tasks_blocked()
            raise LookupError(SECRET)

        ours.receive_stream.receive_some_hook = bug
        return ours, theirs

    world.origin_streams = streams
    async with connected(world) as client:
        await client.send(connect())
        assert await client.rest() == b"HTTP/1.1 200 Connection Established\r\n\r\n"
    _, close = world.only()
    assert (close.outcome, close.reason, close.status) == ("aborted", "internal_error", 200)
    assert world.complaints[0].startswith("bug: LookupError in bug:")


@in_virtual_time
async def test_a_bug_whose_client_has_left_is_told_to_the_operator_all_the_same() -> None:
    """The 500 reaches nobody; the complaint does."""
    world = World(buggy=True, dns_seconds=1.0, answers={"example.com": ValueError("a bug")})
    async with connected(world) as client:
        await client.send(get())
        await client.leave()
        await client.over.wait()
    (complaint,) = world.complaints
    assert complaint.startswith("bug: ValueError in _resolve:")
    assert world.only()[0].reason == "internal_error"


@in_virtual_time
async def test_a_client_is_told_of_a_bug_that_keeps_a_refusal_from_the_log() -> None:
    """The 500 is the answer to any unexpected exception before a response, and the trail's are no others."""
    world = World(buggy=True, record_bug=ValueError(SECRET))
    async with connected(world) as client:
        await client.send(get("http://127.0.0.1/"))
        assert (await client.answer()).reason == "internal_error"


@in_virtual_time
async def test_a_bug_inside_a_nursery_is_told_as_the_bug_and_not_as_its_group() -> None:
    """An exception group would tell the operator nothing."""
    world = World(buggy=True)

    def streams() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()

        async def bug() -> None:
            await trio.lowlevel.checkpoint()
            raise LookupError(SECRET)

        ours.send_stream.send_all_hook = bug
        return ours, theirs

    world.origin_streams = streams
    async with connected(world) as client:
        await client.send(get())
        await client.rest()
    (complaint,) = world.complaints
    assert complaint.startswith("bug: LookupError in bug:")
    assert world.only()[1].outcome == "aborted"


# Turned away


@in_virtual_time
async def test_attack_8_who_waits_between_two_requests_leaves_when_the_place_is_needed() -> None:
    """At once and without a word, as RFC 9112 §9.5 lets us; the connection to the origin is let go of, too."""
    world = World()
    async with connected(world) as client:
        await exchange(world, client)
        await client.answer()
        assert world.seams.crowd.make_room()
        await client.closed()
    assert len(world.trail()) == 1


@pytest.mark.parametrize("begun", [get(), get()[:-1]])
@in_virtual_time
async def test_attack_8_who_asks_in_the_moment_in_which_the_place_is_needed_is_told_so(begun: bytes) -> None:
    """Else there would be one more than `limits.connections`, who would never be asked to leave again."""
    world = World()
    async with connected(world) as client:
        await client.send_and(begun, world.seams.crowd.make_room)
        assert (await client.answer()).reason == "connection_limit"
        assert trio.current_time() == 0
        assert not world.seams.crowd.make_room()
        await client.closed()
    assert world.opened == 0
    decision, close = world.only()
    assert (decision.reason, decision.status, close.outcome) == ("connection_limit", 503, "refused")


@in_virtual_time
async def test_attack_8_who_has_asked_stays_whoever_comes() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        assert not world.seams.crowd.make_room()
        await origin.until(b"\r\n\r\n")
        await origin.send(OK)
        assert (await client.answer()).status == 200


async def turned_away(world: World, address: str | None = None) -> Peer:
    """A client that found the house full, and was seen off."""
    ours, theirs = memory_stream_pair()
    await turn_away(theirs, visit(address), world.seams)
    return Peer(ours)


@in_virtual_time
async def test_a_connection_that_is_turned_away_has_an_answer_and_both_records() -> None:
    """R7, R12, ATTACKS 8."""
    world = World()
    client = await turned_away(world, "127.0.0.7")
    answer = await client.answer()
    assert (answer.status, answer.reason, answer.fields["connection"]) == (503, "connection_limit", "close")
    assert answer.fields["retry-after"] == "1"
    await client.closed()
    decision, close = world.only()
    assert (decision.verdict, decision.reason, decision.status) == ("error", "connection_limit", 503)
    assert (decision.client, decision.client_address) == ("agent", "127.0.0.7")
    assert (close.outcome, close.bytes_up, close.bytes_down) == ("refused", 0, 0)


@in_virtual_time
async def test_who_is_turned_away_is_heard_for_exactly_a_second_so_that_no_reset_overtakes_the_answer() -> None:
    """ATTACKS 8: a reset right after the answer can crash a client."""
    await turned_away(World())
    assert trio.current_time() == 1.0


@in_virtual_time
async def test_nothing_of_what_somebody_turned_away_sends_is_read_as_a_request() -> None:
    world = World()
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn_away, theirs, visit(), world.seams)
        await Peer(ours).send(get())
    assert world.only()[0].method is None
    assert world.count("resolve") == 0


@in_virtual_time
async def test_somebody_turned_away_who_has_left_already_is_recorded_as_gone() -> None:
    world = World()
    ours, theirs = memory_stream_pair()
    await ours.aclose()
    await turn_away(theirs, visit(None), world.seams)
    decision, close = world.only()
    assert (decision.client, decision.client_address) == (None, None)
    assert close.outcome == "client_gone"


@in_virtual_time
async def test_a_bug_while_somebody_is_turned_away_ends_that_connection_only() -> None:
    """`turn_away` raises nothing: an exception would end the listeners, and with them the daemon (ATTACKS 8)."""
    world = World(record_bug=ValueError(SECRET))
    await turned_away(world, "127.0.0.1")
    (complaint,) = world.complaints
    assert complaint.startswith("bug: ValueError in ")
    assert SECRET not in complaint


@in_virtual_time
async def test_a_cancellation_while_somebody_is_turned_away_leaves_the_closing_record() -> None:
    """R7: the drain may run out during the second in which the client is heard out."""
    world = World()
    ours, theirs = memory_stream_pair()
    with trio.move_on_after(0.5):
        await turn_away(theirs, visit(), world.seams)
    assert (await Peer(ours).answer()).status == 503
    world.only()


# Cancelled (the drain's deadline)


@in_virtual_time
async def test_a_session_that_is_cancelled_leaves_a_closing_record_and_no_connection() -> None:
    """R7."""
    world = World()
    ours, theirs = memory_stream_pair()
    client = Peer(ours)
    async with trio.open_nursery() as nursery:

        async def session() -> None:
            from proxyd.serve.session import serve_connection  # noqa: PLC0415

            await serve_connection(theirs, visit(), world.seams)

        nursery.start_soon(session)
        await client.send(connect())
        origin = await world.origin()
        await client.until(b"\r\n\r\n")
        await client.send(b"early")
        nursery.cancel_scope.cancel()
    assert await origin.rest() == b"early"
    await client.closed()
    _, close = world.only()
    assert (close.outcome, close.bytes_up, close.verdict) == ("aborted", 5, "allow")


@in_virtual_time
async def test_a_bug_that_comes_up_while_a_session_is_cancelled_ends_nothing_else() -> None:
    """`serve_connection` raises nothing: the daemon ends in order, also with such a session among those it cuts off."""
    world = World(buggy=True)
    raised: list[bool] = []

    def streams() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()

        async def bug() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raised.append(True)
                raise LookupError(SECRET)

        ours.receive_stream.receive_some_hook = bug
        return ours, theirs

    world.origin_streams = streams
    async with trio.open_nursery() as nursery:
        client = await Connection.serve(world, nursery, "127.0.0.1")
        await client.send(get())
        nursery.cancel_scope.cancel()
    assert raised == [True]
    assert world.only()[1].outcome == "aborted"
    assert not any(SECRET in line for line in world.complaints)


@in_virtual_time
async def test_draining_ends_a_connection_after_its_request_and_serves_no_further_one() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get() + get("http://other.example/"))
        origin = await world.origin()
        world.seams.drain.begin()
        await origin.send(OK)
        assert (await client.answer()).status == 200
        await client.closed()
        assert trio.current_time() == 0.0
    assert len(world.trail()) == 1


@in_virtual_time
async def test_the_name_in_via_and_the_addresses_are_those_of_the_world() -> None:
    """The scene itself: a fake that answered anything would prove nothing."""
    world = World()
    async with connected(world) as client:
        assert f"Via: 1.1 {VIA}".encode() in await exchange(world, client)
    assert world.dialled[0].addresses == (PUBLIC,)
