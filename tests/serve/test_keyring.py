"""Whether a client knows what it must know: one hash for many requests, and nothing of a password kept (R2, R7)."""

from __future__ import annotations

import gc
import threading
from functools import partialmethod
from typing import TYPE_CHECKING, Final

import pytest
import trio
from netaddr import IPAddress

from proxyd.http.credential import Shown
from proxyd.policy.client import Credential
from proxyd.policy.password import PasswordHash, new_hash
from proxyd.policy.snapshot import Peer
from proxyd.serve import keyring as keyring_module
from proxyd.serve.keyring import MOST, Keyring

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE: Final = 60.0
SALT: Final = b"0123456789abcdef"
HERE: Final = Peer(IPAddress("127.0.0.1"))
RIGHT: Final = Shown("agent", "hunter2")


class Hashes:
    """Counts the hashes in the place of scrypt. slow: each waits until `go`. most: at once, so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.running = 0
        self.most = 0
        self.slow = False
        self.go = threading.Semaphore(0)
        self.begun = threading.Event()
        self.ended = threading.Semaphore(0)
        monkeypatch.setattr(PasswordHash, "fits", partialmethod(_fits, self))

    def fit(self, known: PasswordHash, password: str) -> bool:
        """What a password in the clear in the place of the digest says."""
        self.count += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        if self.slow:
            assert self.go.acquire(timeout=PATIENCE)
        self.running -= 1
        self.ended.release()
        return known.digest == password.encode()


def _fits(known: PasswordHash, hashes: Hashes, password: str) -> bool:
    return hashes.fit(known, password)


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> Hashes:
    """Of them, none costs anything."""
    return Hashes(monkeypatch)


def credential(user: str = "agent", password: str = "hunter2") -> Credential:  # noqa: S107 - a test's
    """One whose hash is its password."""
    return Credential(user=user, password=PasswordHash(14, 8, 5, SALT, password.encode()))


async def test_a_real_hash_says_who_knows_it() -> None:
    """The smoke test: scrypt, with the costs of `proxyd password`."""
    keyring, wanted = Keyring(), Credential(user="agent", password=new_hash("hunter2", SALT))
    assert await keyring.proves(RIGHT, wanted, HERE)
    assert not await keyring.proves(Shown("agent", "hunter3"), wanted, HERE)


@pytest.mark.parametrize(
    ("shown", "proves"),
    [
        (RIGHT, True),
        (Shown("agent", "hunter3"), False),
        (Shown("agent", ""), False),
        (Shown("Agent", "hunter2"), False),
        (Shown("agent ", "hunter2"), False),
        (Shown("", "hunter2"), False),
        (Shown("agenté", "hunter2"), False),
    ],
)
async def test_one_question_is_one_hash_however_often_it_is_asked(
    hashes: Hashes, shown: Shown, *, proves: bool
) -> None:
    """R2: also for a wrong user name, which must take as long as a wrong password, or names could be found out."""
    keyring = Keyring()
    for _ in range(5):
        assert await keyring.proves(shown, credential(), HERE) is proves
    assert hashes.count == 1


async def test_what_was_answered_is_answered_without_waiting(hashes: Hashes) -> None:
    """Each request asks: it must not cost a turn of everybody."""
    keyring = Keyring()
    await keyring.proves(RIGHT, credential(), HERE)
    with trio.testing.assert_no_checkpoints():
        assert await keyring.proves(RIGHT, credential(), HERE)
    assert hashes.count == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(credential("agent", "hunter3"), id="password"),
        pytest.param(credential("other"), id="user"),
        pytest.param(Credential(user="agent", password=PasswordHash(14, 8, 5, b"f" * 16, b"hunter2")), id="salt"),
    ],
)
async def test_another_credential_is_another_question(hashes: Hashes, other: Credential) -> None:
    """ATTACKS 7.4: a password that was changed is asked for anew, in the same moment."""
    keyring = Keyring()
    assert await keyring.proves(RIGHT, credential(), HERE)
    await keyring.proves(RIGHT, other, HERE)
    assert hashes.count == 2


async def test_no_two_questions_look_alike(hashes: Hashes) -> None:
    """Where one part ends and the next begins is part of the question."""
    keyring, wanted = Keyring(), credential("a", "1:b")
    for user, password in (("a", "1:b"), ("a1:", "b"), ("", "a1:b"), ("a1", ":b"), ("a1:b", "")):
        assert await keyring.proves(Shown(user, password), wanted, HERE) is (user == "a")
    assert hashes.count == 5


async def test_a_client_without_a_hash_is_proven_by_nothing(hashes: Hashes) -> None:
    """R12: the loader sees to it that there is none; were there one, it would be no empty password."""
    assert not await Keyring().proves(Shown("agent", ""), Credential(user="agent"), HERE)
    assert hashes.count == 0


async def test_a_burst_of_the_same_question_is_one_hash(hashes: Hashes) -> None:
    """A client opens thirty connections at once and gives up after 5 s: thirty hashes would be six."""
    keyring, said = Keyring(), list[bool]()

    async def ask(shown: Shown) -> None:
        said.append(await keyring.proves(shown, credential(), HERE))

    hashes.slow = True
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(ask, RIGHT)
            await trio.testing.wait_all_tasks_blocked()
            hashes.go.release()
    assert (said, hashes.count) == ([True] * 30, 1)


async def test_attack_8_who_guesses_gets_one_core(hashes: Hashes) -> None:
    """Different questions at once are hashed one after the other, and meanwhile everybody else is served."""
    keyring = Keyring()
    assert await keyring.proves(RIGHT, credential(), HERE)
    hashes.slow = True
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(keyring.proves, Shown("agent", str(number)), credential(), HERE)
            await trio.testing.wait_all_tasks_blocked()
            assert await keyring.proves(RIGHT, credential(), HERE)
            for _ in range(10):
                hashes.go.release()
    assert (hashes.count, hashes.most) == (11, 1)


async def test_who_leaves_while_it_is_hashed_leaves_the_others_their_turn(hashes: Hashes) -> None:
    """Nobody is kept waiting for a thread; nor do two hash at once, for it is at work still."""
    keyring = Keyring()
    hashes.slow = True
    said: list[bool] = []

    async def ask() -> None:
        said.append(await keyring.proves(RIGHT, credential(), HERE))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as leaving:
                nursery.start_soon(_cancelled_once, hashes.begun, leaving)
                await keyring.proves(Shown("agent", "guess"), credential(), HERE)
            assert leaving.cancelled_caught
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert keyring._threads.statistics().tasks_waiting == 1, "who left has his turn"  # noqa: SLF001
            hashes.go.release(2)
    assert (said, hashes.count, hashes.most) == ([True], 2, 1)


async def _cancelled_once(begun: threading.Event, scope: trio.CancelScope) -> None:
    await trio.to_thread.run_sync(begun.wait, PATIENCE)
    scope.cancel()


async def test_who_leaves_while_another_is_asked_costs_no_hash(hashes: Hashes) -> None:
    """Those who wait for their turn, and go, were never there."""
    keyring = Keyring()
    hashes.slow = True
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keyring.proves, RIGHT, credential(), HERE)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as leaving:
                for number in range(5):
                    leaving.start_soon(keyring.proves, Shown("agent", str(number)), credential(), HERE)
                await trio.testing.wait_all_tasks_blocked()
                leaving.cancel_scope.cancel()
            hashes.go.release()
    assert hashes.count == 1
    hashes.slow = False
    assert await keyring.proves(RIGHT, credential(), HERE)
    assert hashes.count == 1


async def test_attack_8_a_flood_of_guesses_fills_no_memory(hashes: Hashes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forgotten is asked again; the answers stay right."""
    monkeypatch.setattr(keyring_module, "MOST", 8)
    keyring = Keyring()
    for number in range(50):
        assert not await keyring.proves(Shown("agent", f"guess {number}"), credential(), HERE)
        assert len(keyring._known[False]) <= 8  # noqa: SLF001 - how much is remembered shows nowhere else
    assert await keyring.proves(RIGHT, credential(), HERE)
    assert (MOST, hashes.count) == (1024, 51)


async def test_r10_who_guesses_is_waited_for_by_those_from_the_same_place_only(hashes: Hashes) -> None:
    """Sixty connections with wrong passwords once kept the right one waiting until it gave up."""
    keyring, order = Keyring(), list[str]()

    async def ask(shown: Shown, peer: Peer) -> None:
        await keyring.proves(shown, credential(), peer)
        order.append(shown.password)

    hashes.slow = True
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(ask, Shown("agent", f"guess {number}"), HERE)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, RIGHT, Peer(IPAddress("10.0.0.7")))
            await trio.testing.wait_all_tasks_blocked()
            hashes.go.release(61)
    assert RIGHT.password in order[:3]


async def test_r10_guesses_make_it_forget_nothing_that_was_right(
    hashes: Hashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring_module, "MOST", 8)
    keyring = Keyring()
    assert await keyring.proves(RIGHT, credential(), HERE)
    for number in range(20):
        await keyring.proves(Shown("agent", f"guess {number}"), credential(), HERE)
    before = hashes.count
    assert await keyring.proves(RIGHT, credential(), HERE)
    assert hashes.count == before


def _held_by(thing: object, seen: set[int]) -> Iterator[object]:
    """Everything that can be reached from it, without modules and classes."""
    todo = [thing]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, (type, type(gc), type(_held_by))):
            continue
        seen.add(id(each))
        yield each
        todo.extend(gc.get_referents(each))


async def test_r7_nothing_of_a_password_is_kept() -> None:
    """Neither in the keyring, nor anywhere in this process once the request is gone; and its key is nobody else's."""
    secret = "".join(("swordfish", "-", str(id(object()))))  # no constant of this file
    keyring, wanted = Keyring(), Credential(user="agent", password=new_hash("other", SALT))
    assert not await keyring.proves(Shown("agent", secret), wanted, HERE)
    kept = [each for each in _held_by(keyring, set()) if isinstance(each, str | bytes)]
    assert any(len(each) == 32 for each in kept), "its key and the marks are seen"
    for each in kept:
        assert secret not in each if isinstance(each, str) else secret.encode() not in each
    gc.collect()
    holders = [holder for holder in gc.get_referrers(secret) if not hasattr(holder, "f_code")]
    assert holders == [], "a thread's last task, say"
    assert Keyring()._key != keyring._key  # noqa: SLF001 - two daemons' marks are not alike
