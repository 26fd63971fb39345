"""What the supervisor orders: in two phases, all or nothing, and nobody who is served meanwhile is held up (R12)."""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from proxyd.serve import orders as orders_module
from proxyd.serve.channel import Channel
from proxyd.serve.given import Given
from proxyd.serve.orders import Orders
from tests.serve.handed import files, handover, listener, open_files, text

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterator

    from proxyd.serve.channel import Message

PATIENCE: Final = 60.0
LOGGED: Final = '[audit]\nto = "/dev/zero"\n'
DENYING: Final = text(LOGGED, default="deny")


class Supervisor:
    """The other end of the channel. installed: what the worker took into use. gone: the worker no longer follows."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.installed: list[Given] = []
        self.followed = trio.Event()
        self._number = 0

    def order(self, do: str, policy: str | None = None) -> None:
        """Tell it to do something."""
        self._number += 1
        message: Message = {"do": do, "number": self._number, "place": 0}
        if policy is None:
            self.channel.send(message)
            return
        came = files(handover(policy, "a"), listener())
        self.channel.send(message, came)
        for number in came:
            os.close(number)

    async def answer(self) -> Message:
        """What it says, to the last order."""
        await trio.lowlevel.wait_readable(self.channel.socket)
        received = self.channel.receive()
        assert received is not None
        message, came = received
        assert (message.pop("number"), came) == (self._number, [])
        return message

    async def ask(self, do: str, policy: str | None = None) -> Message:
        """An order and its answer."""
        self.order(do, policy)
        return await self.answer()

    def install(self, given: Given) -> int:
        """In the worker's place: two connections are cut by whatever it is."""
        self.installed.append(given)
        return 2

    def leave(self) -> None:
        """Be gone."""
        self.channel.close()


@pytest.fixture(autouse=True)
def _everything_is_closed() -> Iterator[None]:
    """Whatever is ordered, no file is left open: a reload every minute would use them up within a day."""
    before = open_files()
    yield
    assert {
        number: what for number, what in open_files().items() if number not in before and "anon_inode" not in what
    } == {}


@asynccontextmanager
async def following() -> AsyncIterator[Supervisor]:
    """A worker that follows orders; in the end its supervisor is gone."""
    ours, theirs = Channel.pair()
    given = Given.take(
        {"place": 0},
        files(
            handover(text('[audit]\nto = "/dev/null"')),
        ),
    )
    supervisor = Supervisor(theirs)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def follow() -> None:
                await Orders(ours, given, supervisor.install).follow()
                supervisor.followed.set()

            nursery.start_soon(follow)
            yield supervisor
            supervisor.leave()
            await supervisor.followed.wait()
    ours.close()
    for each in (given, *supervisor.installed):
        each.let_go()


async def test_a_policy_is_made_ready_and_then_taken_into_use() -> None:
    """Nothing is in use before everybody can: and what is, is what was made ready."""
    async with following() as supervisor:
        assert await supervisor.ask("prepare", DENYING) == {"ready": True}
        assert supervisor.installed == []
        assert await supervisor.ask("commit") == {"revoked": 2}
        (given,) = supervisor.installed
        assert given.policy.destinations.default == "deny"
        assert list(given.listeners) == ["a"]
        assert await supervisor.ask("prepare", text()) == {"ready": True}
        assert await supervisor.ask("commit") == {"revoked": 2}
        assert [each.policy.destinations.default for each in supervisor.installed] == ["deny", "allow"]


@pytest.mark.parametrize("do", ["abort", "something that nobody knows"])
async def test_what_was_made_ready_is_forgotten(do: str) -> None:
    """One of the others could not: nobody changes, also not by a commit that comes later."""
    async with following() as supervisor:
        assert await supervisor.ask("prepare", DENYING) == {"ready": True}
        ready = open_files()
        assert await supervisor.ask(do) == {}
        assert len(open_files()) == len(ready) - 5, "its two memories, its listener, its log: a device is opened twice"
        assert await supervisor.ask("commit") == {}
        assert supervisor.installed == []


async def test_of_two_that_were_made_ready_the_second_counts() -> None:
    """The supervisor gave up waiting for the others, and tried again; the first one is closed."""
    async with following() as supervisor:
        assert await supervisor.ask("prepare", text(LOGGED)) == {"ready": True}
        first = len(open_files())
        assert await supervisor.ask("prepare", DENYING) == {"ready": True}
        assert len(open_files()) == first
        await supervisor.ask("commit")
        (given,) = supervisor.installed
        assert given.policy.destinations.default == "deny"


@pytest.mark.parametrize("before", [(), ("abort",), ("commit",)])
async def test_a_commit_of_nothing_changes_nothing(before: tuple[str, ...]) -> None:
    """Nor does a second one: it would install what is in use, and close it later."""
    async with following() as supervisor:
        if before:
            await supervisor.ask("prepare", DENYING)
        for do in before:
            await supervisor.ask(do)
        installed = list(supervisor.installed)
        assert await supervisor.ask("commit") == {}
        assert supervisor.installed == installed


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        pytest.param("schema = 1", "p.toml: name", id="policy"),
        pytest.param(text('[audit]\nto = "/nowhere/log"'), "No such file or directory", id="log"),
    ],
)
async def test_r12_a_policy_that_does_not_load_is_said_so_and_the_old_one_stays(policy: str, why: str) -> None:
    """And the next one is taken all the same. One that was ready before is no longer."""
    async with following() as supervisor:
        await supervisor.ask("prepare", DENYING)
        said = await supervisor.ask("prepare", policy)
        assert list(said) == ["cannot"]
        assert said["cannot"].startswith("a worker cannot use it: ")
        assert why in said["cannot"]
        assert await supervisor.ask("commit") == {}
        assert supervisor.installed == []
        assert await supervisor.ask("prepare", text()) == {"ready": True}
        await supervisor.ask("commit")
        assert len(supervisor.installed) == 1


async def test_attack_8_files_that_did_not_arrive_end_no_worker() -> None:
    """A worker with as many files open as it may gets none of them (unix(7)), and serves on."""
    async with following() as supervisor:
        supervisor.channel.send({"do": "prepare", "number": 0, "place": 0})
        said = await supervisor.answer()
        assert "not all files arrived" in said["cannot"]
        assert await supervisor.ask("prepare", DENYING) == {"ready": True}


@pytest.mark.parametrize("orders", [(), ("prepare",), ("prepare", "commit"), ("prepare", "abort")])
@pytest.mark.parametrize("hears", [True, False])
async def test_a_supervisor_that_is_gone_is_noticed_at_each_point(orders: tuple[str, ...], *, hears: bool) -> None:
    """What it had made ready is closed: a listener that nobody accepts on would let clients in, to wait.

    hears: whether it heard the answer before it died; if not, its end is a reset.
    """
    async with following() as supervisor:
        for do in orders:
            supervisor.order(do, DENYING if do == "prepare" else None)
            await trio.lowlevel.wait_readable(supervisor.channel.socket)
            await trio.testing.wait_all_tasks_blocked()  # the first answer is not the last, where none is heard
            if hears:
                await supervisor.answer()
        supervisor.leave()
        await supervisor.followed.wait()
        assert len(supervisor.installed) == orders.count("commit")


class Slow:
    """A policy that takes long to load: until `done`. begun: it is being loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = trio.Event()
        self.done = threading.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._take = Given.take
        monkeypatch.setattr(orders_module, "Given", self)

    def take(self, *what: Any) -> Given:  # noqa: ANN401 - handed through as it is
        """As Given has it."""
        self._token.run_sync_soon(self.begun.set)
        assert self.done.wait(PATIENCE)
        return self._take(*what)


async def test_what_is_served_meanwhile_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS 8: a policy with ten thousand rows takes seconds; everybody else has their turns."""
    slow = Slow(monkeypatch)
    async with following() as supervisor:
        supervisor.order("prepare", DENYING)
        await slow.begun.wait()
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert not slow.done.is_set()
        slow.done.set()
        assert await supervisor.answer() == {"ready": True}


async def test_a_supervisor_that_goes_while_a_policy_is_made_ready_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody hears that it is ready."""
    slow = Slow(monkeypatch)
    async with following() as supervisor:
        supervisor.order("prepare", DENYING)
        await slow.begun.wait()
        supervisor.leave()
        slow.done.set()
        await supervisor.followed.wait()
        assert supervisor.installed == []


async def test_a_false_alarm_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """epoll(7) may say that there is something where there is nothing: to drain for that would stop a daemon."""
    alarms = [1, 2]
    wait_readable = trio.lowlevel.wait_readable

    async with following() as supervisor:

        async def alarmed(sock: socket.socket) -> None:
            if alarms and sock is not supervisor.channel.socket:
                alarms.pop()
                await trio.lowlevel.checkpoint()
            else:
                await wait_readable(sock)

        await supervisor.ask("prepare", DENYING)
        with monkeypatch.context() as patched:
            patched.setattr(trio.lowlevel, "wait_readable", alarmed)
            assert await supervisor.ask("abort") == {}
            await trio.testing.wait_all_tasks_blocked()
            assert alarms == []
        assert await supervisor.ask("prepare", DENYING) == {"ready": True}


def test_the_descriptors_of_a_process_can_be_seen() -> None:
    """Else the tests of this file would prove nothing."""
    before = open_files()
    with Path(os.devnull).open() as opened:
        assert open_files().keys() - before.keys() == {str(opened.fileno())}
