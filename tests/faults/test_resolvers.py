"""Resolvers that are dead, slow or lying, and the daemon that asks them (R3, R6, R10, R12; ATTACKS 3, 8).

Nobody is connected to what the true server did not say; whoever cannot be served is told so, once, and nobody else
notices.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.nameserver import MOST_ADDRESSES, TRY_SECONDS
from proxyd.net.resolver import MOST_OF_ONE, ROUNDS, TOTAL_SECONDS
from tests import namespace
from tests.adversarial.tls import certificates
from tests.end_to_end.asking import get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.origin import Listener
from tests.end_to_end.patient import patient
from tests.end_to_end.vitals import MB
from tests.faults import delivery, lies
from tests.faults.lies import FAILED, SERVED, SILENT
from tests.faults.lying import DECOY, TRUE, Asked, Liar, in_tls, tell_the_truth, truncate
from tests.faults.ordeal import ordeal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon
    from tests.faults.lying import Lie

    Outcomes = dict[str, tuple[int, str]]

own_network = pytest.mark.skipif(not namespace.isolated, reason="no network of our own: there is no such address here")
pytestmark = own_network

TIMES: Final = 10
"""That a case is brought about at most that needs nothing of ours to be slow, until it was the one that was meant."""

AGAIN: Final = 2
"""That a lie is told again where it came to what comes of a slow liar."""


@pytest.fixture
def over() -> Iterator[None]:
    """What is held back is let go of in the end."""
    delivery.OVER.clear()
    yield
    delivery.OVER.set()


@contextmanager
def decoy(scene: Scene) -> Iterator[None]:
    """Where only a lie leads to: the policy has nothing against it, and nobody may arrive."""
    listener = Listener(lambda _connection: None, (DECOY,), scene.origin.port)
    try:
        yield
        assert listener.connections == 0, "a lie was believed"
    finally:
        listener.close()


@contextmanager
def standing(liar: Liar) -> Iterator[Liar]:
    """It stands until then."""
    try:
        yield liar
    finally:
        liar.die()


def zones(scene: Scene, servers: Mapping[str, tuple[str, ...]], more: str = "") -> str:
    """Policy text: who is asked for which names; for all others, the scene's own nameserver."""
    each = "".join(
        f"[[dns.zone]]\nsuffix = {suffix!r}\nservers = {list(listed)}\n" for suffix, listed in servers.items()
    )
    return f'[dns]\nservers = ["127.0.0.1:{scene.nameserver.port}"]\n{each}{more}'


def url(scene: Scene, name: str) -> str:
    """Of an origin by that name."""
    return f"http://{name}:{scene.origin.port}/"


def ask(proxy: Daemon, target: str, source: str = "127.0.0.1") -> tuple[int, str]:
    """What one is told: the status, and the reason of a refusal."""
    with proxy.connect(source) as client:
        said = get(client, target)
        return said.status, said.reason


def tell(scene: Scene, proxy: Daemon, expected: Outcomes) -> tuple[Outcomes, Outcomes]:
    """What came of many names; and of these, those of which something else was expected.

    Where silence is expected, as many are asked for at once as one client has turns. Of the others few: the server
    is a program like this one, and who is told in time must not depend on how fast it speaks. Where it may have been
    too slow, the same lie is asked for again, under another name.
    """
    silent = [name for name in expected if expected[name] == SILENT]
    others = [name for name in expected if expected[name] != SILENT]
    told = outcomes(scene, proxy, silent, MOST_OF_ONE) | outcomes(scene, proxy, others, at_once=4)
    surprises = {name: said for name, said in told.items() if said != expected[name]}
    for number in range(AGAIN):
        for name in [name for name, said in surprises.items() if said == of_the_slow(name)]:
            word, _, zone = name.partition(".")
            again = f"{word}.again{number}.{zone}"
            told[again] = surprises[name] = ask(proxy, url(scene, again))
            if told[again] == expected[name]:
                del surprises[name]
    return told, surprises


def of_the_slow(name: str) -> tuple[int, str]:
    """What comes of a name where the liar is too slow: it is served, if all that is late is what speaks against it."""
    return SERVED if name.startswith("aaaa-late-and-private.") else SILENT


def outcomes(scene: Scene, proxy: Daemon, names: Iterable[str], at_once: int) -> Outcomes:
    """What one is told of each of these names."""
    with ThreadPoolExecutor(at_once) as pool:
        asked = {name: pool.submit(ask, proxy, url(scene, name)) for name in names}
        return {name: each.result() for name, each in asked.items()}


def on_record(proxy: Daemon, names: Iterable[str]) -> dict[str, list[tuple[int, str | None]]]:
    """What the log has of these: the status of each decision, and of each end with the address that was dialled."""
    said: dict[str, list[tuple[int, str | None]]] = {name: [] for name in names}
    for each in proxy.records():
        if each["host"] in said:
            said[each["host"]].append((each["status"], each.get("address")))
    return said


def hold_to_the_record(proxy: Daemon, outcomes: Outcomes) -> None:
    """Each was decided once and ended once, as its client was told; and dialled was the truth, or nobody."""
    for name, entries in on_record(proxy, outcomes).items():
        status, _ = outcomes[name]
        assert len(entries) == 2, name
        assert entries[1] in ([(status, TRUE)] if status == 200 else [(status, None)]), name
    assert "bug" not in proxy.complaints()


# Lies


@pytest.mark.usefixtures("over")
def test_r3_nobody_is_connected_to_what_the_true_server_did_not_say(scene: Scene, figures: dict[str, str]) -> None:
    """Whatever is said on the wire, each client gets one answer, that of a failure, a refusal or the truth."""
    over_udp, over_tcp = (
        {word: lie for word, (lie, _) in table.items()} for table in (delivery.OVER_UDP, delivery.OVER_TCP)
    )
    with standing(Liar(over_udp)) as udp, standing(Liar({}, over_tcp, otherwise=truncate)) as tcp:
        servers = {"udp": f"127.0.0.1:{udp.port}", "after-udp": f"127.0.0.1:{tcp.port}"}
        servers["tcp"] = f"tcp://127.0.0.1:{tcp.port}"
        proxy = scene.start(zones(scene, {f"{how}.test": (server,) for how, server in servers.items()}))
        tables = {"udp": delivery.OVER_UDP, "after-udp": delivery.OVER_TCP, "tcp": delivery.OVER_TCP}
        expected = {f"{word}.{how}.test": said for how, table in tables.items() for word, (_, said) in table.items()}
        with decoy(scene), ordeal(scene, proxy) as bystander:
            told, surprises = tell(scene, proxy, expected)
            assert surprises == {}
            bystander.go_on()
            delivery.OVER.set()
        hold_to_the_record(proxy, told)
        questions = udp.asked.total() + tcp.asked.total()
    figures["lies of a resolver"] = f"{len(expected)} over UDP and TCP, {questions} questions, 0 believed"


# Several servers, and TLS


@pytest.mark.usefixtures("over")
def test_r12_who_is_no_use_is_made_up_for_by_the_next_server_and_by_nothing_else(
    scene: Scene, figures: dict[str, str], tmp_path: Path
) -> None:
    """A zone is answered by the servers that the policy lists for it, in their order, or not at all."""
    with ExitStack() as stack:
        good = stack.enter_context(standing(Liar()))
        authority, servers = useless(stack, tmp_path)
        listed = {
            f"{word}{suffix}.test": (server, *([f"127.0.0.1:{good.port}"] if suffix else []))
            for word, (server, _) in servers.items()
            for suffix in ("", "-then-good")
        }
        proxy = scene.start(zones(scene, listed), env=os.environ | {"SSL_CERT_FILE": str(authority)})
        expected = {f"x.{word}.test": outcome for word, (_, outcome) in servers.items()}
        expected |= {f"x.{word}-then-good.test": SERVED for word in servers if word != "nxdomain"}
        with decoy(scene), ordeal(scene, proxy) as bystander:
            told, surprises = tell(scene, proxy, expected)
            assert surprises == {}
            name, said = answered_in_time(scene, proxy, "nxdomain-then-good.test")
            assert said == FAILED
            bystander.go_on()
            delivery.OVER.set()
        hold_to_the_record(proxy, told | {name: said})
        assert good.questions(name) == 0, "that was an answer, and final"
    figures["resolvers of no use"] = f"{len(servers)}, alone and before a good one: {len(listed)} zones"


def answered_in_time(scene: Scene, proxy: Daemon, zone: str) -> tuple[str, tuple[int, str]]:
    """A name in that zone whose first server was too late for nothing, and what one is told of it."""
    for number in range(TIMES):
        name, began = f"x{number}.{zone}", time.monotonic()
        said = ask(proxy, url(scene, name))
        if time.monotonic() - began < TRY_SECONDS:
            return name, said
    raise AssertionError("nothing is answered within the time of one try")


def useless(stack: ExitStack, folder: Path) -> tuple[Path, dict[str, tuple[str, tuple[int, str]]]]:
    """Servers that are of no use, each in its way; the authority to be trusted, and what is expected of each alone."""
    for name in ("dns", "stranger"):
        (folder / name).mkdir()
    known = certificates(folder / "dns", ["dns.test"], ["127.0.0.1"])
    stranger = certificates(folder / "stranger", ["dns.test"], ["127.0.0.1"])

    def plain(lie: Lie) -> str:
        return f"127.0.0.1:{stack.enter_context(standing(Liar(otherwise=lie))).port}"

    def tls(serve: Callable[[socket.socket], None], name: str = "dns.test") -> str:
        listener = stack.enter_context(closing(Listener(serve, ("127.0.0.1",))))
        return f"tls://127.0.0.1:{listener.port}#{name}"

    dead = Liar()
    dead.die()
    return known.authority, {
        "dead": (f"127.0.0.1:{dead.port}", FAILED),
        "dead-tcp": (f"tcp://127.0.0.1:{dead.port}", FAILED),
        "dead-tls": (f"tls://127.0.0.1:{dead.port}#dns.test", FAILED),
        "silent": (plain(lambda _: None), SILENT),
        "lying": (plain(lambda asked: asked.say(lies.wrong_id(asked))), SILENT),
        "servfail": (plain(lambda asked: asked.say(asked.answer(rcode="SERVFAIL"))), FAILED),
        "refused": (plain(lambda asked: asked.say(asked.answer(rcode="REFUSED"))), FAILED),
        "nxdomain": (plain(lambda asked: asked.say(asked.answer(rcode="NXDOMAIN"))), FAILED),
        "truncated-for-ever": (plain(truncate), FAILED),
        "other-name": (tls(in_tls(known.context, tell_the_truth), "other.test"), FAILED),
        "stranger": (tls(in_tls(stranger.context, tell_the_truth)), FAILED),
        "stalled-handshake": (tls(delivery.hold_back), SILENT),
        "closed-handshake": (tls(lambda _: None), FAILED),
        "garbage-handshake": (tls(lambda each: each.sendall(b"\xff" * 4096)), FAILED),
        "garbage-for-ever": (tls(delivery.pour), FAILED),
        "stalled-in-tls": (tls(in_tls(known.context, delivery.hold_back)), SILENT),
        "closed-in-tls": (tls(in_tls(known.context, lambda _: None)), FAILED),
        "wrong-id-in-tls": (tls(in_tls(known.context, lambda asked: asked.say(lies.wrong_id(asked)))), FAILED),
        "for-ever-in-tls": (tls(in_tls(known.context, delivery.for_ever(b"\x20\0"))), FAILED),
    }


# Death, and coming back


def test_a_server_that_died_and_came_back_is_asked_again_at_once_and_for_what_failed_after_five_seconds(
    scene: Scene, figures: dict[str, str], tmp_path: Path
) -> None:
    """Nobody restarts anything: names that were not asked for meanwhile resolve at once, the others from then on."""
    with standing(Liar()) as server:
        proxy = scene.start(zones(scene, {"mortal.test": (f"127.0.0.1:{server.port}",)}), env=patient(tmp_path / "env"))
        with ordeal(scene, proxy) as bystander:
            assert ask(proxy, url(scene, "before.mortal.test")) == SERVED
            server.die()
            failed_at = time.monotonic()
            assert ask(proxy, url(scene, "failed.mortal.test")) == FAILED
            bystander.go_on()
            server.rise()
            assert ask(proxy, url(scene, "fresh.mortal.test")) == SERVED
            told = [ask(proxy, url(scene, "failed.mortal.test"))]
            for _ in ticks():
                if told[-1] == SERVED:
                    break
                told.append(ask(proxy, url(scene, "failed.mortal.test")))
            assert time.monotonic() - failed_at >= 5
        assert set(told[:-1]) <= {FAILED}
        assert told[-1] == SERVED
        assert server.questions("failed.mortal.test") <= 2 * ROUNDS, "more than one lookup"
    figures["a resolver comes back"] = f"{len(told) - 1} refusals from memory, 1 lookup, then served"


# Floods

CLIENTS: Final = """
[[client]]
name = "tester"
networks = ["127.0.0.1/32", "127.0.0.99/32"]
[[client]]
name = "flood"
networks = ["127.0.0.2/32"]
"""
FLOODING: Final = "127.0.0.2"
DENIED: Final = (403, "address_denied")
OF_A_FLOOD: Final = {False: 32 * MB, True: 96 * MB}
"""A memory full of the longest answers, 4,096 with 128 addresses each, takes 65 MB."""


def is_looked_up(scene: Scene, proxy: Daemon, liar: Liar, name: str) -> None:
    """Whoever asks for it now is served; where the liar is slow, it was at least asked for."""
    before = liar.questions(name)
    said = ask(proxy, url(scene, name))
    assert said == SERVED or (said == SILENT and liar.questions(name) > before), said


def test_r10_a_lookup_that_never_had_its_time_says_nothing_of_the_name_to_others(scene: Scene) -> None:
    """A client that fills its turns with silence, and asks for a name at their end, makes it fail for itself alone."""
    told = threading.Event()
    shared = [f"shared{number}" for number in range(TIMES)]

    def speak(asked: Asked) -> None:
        told.wait()
        tell_the_truth(asked)

    with standing(Liar(dict.fromkeys(shared, speak), otherwise=lambda _: None)) as liar:
        proxy = scene.start(zones(scene, {"lies.test": (f"127.0.0.1:{liar.port}",)}, CLIENTS))
        with ordeal(scene, proxy):
            name = next(f"{word}.lies.test" for word in shared if never_had_its_time(scene, proxy, liar, word))
            told.set()
            is_looked_up(scene, proxy, liar, name)


def never_had_its_time(scene: Scene, proxy: Daemon, liar: Liar, word: str) -> bool:
    """Ask for it, last of a flood of names that nobody answers: whether it was asked for, and too late to be heard."""
    name = f"{word}.lies.test"
    silent = [f"s{number}.{name}" for number in range(MOST_OF_ONE)]
    began = time.monotonic()
    with ThreadPoolExecutor(MOST_OF_ONE) as pool:
        asked = [pool.submit(ask, proxy, url(scene, each), FLOODING) for each in silent]
        next(None for _ in ticks() if all(liar.questions(each) >= 2 for each in silent))
        assert ask(proxy, url(scene, name), FLOODING) == SILENT
        in_time = time.monotonic() - began < TOTAL_SECONDS + TRY_SECONDS
        assert {each.result() for each in asked} == {SILENT}
    return in_time and liar.questions(name) > 0


def test_r10_a_flood_of_names_leaves_others_their_lookups_and_the_workers_their_memory(
    scene: Scene, figures: dict[str, str], *, long: bool
) -> None:
    """Thousands of names of one client, with no address or with the most there can be: others' names are looked up."""
    count = 12_000 if long else 1_200
    wide = [lies.record(1, bytes([10, 0, 0, number])) for number in range(MOST_ADDRESSES)]
    wider = [lies.record(28, bytes([0xFD, *[0] * 14, number])) for number in range(MOST_ADDRESSES)]

    def speak(asked: Asked) -> None:
        if asked.name.startswith("n"):
            asked.say(asked.answer(rcode="NXDOMAIN"))
        else:
            asked.say(lies.raw(asked, *(wide if asked.rdtype == "A" else wider)))

    flood = [f"{'nw'[number % 2]}{number}.flood.test" for number in range(count)]
    with standing(Liar(otherwise=speak)) as liar, standing(Liar()) as fresh:
        servers = {"flood.test": (f"127.0.0.1:{liar.port}",), "fresh.test": (f"127.0.0.1:{fresh.port}",)}
        proxy = scene.start(zones(scene, servers, CLIENTS))
        with ordeal(scene, proxy, growth=OF_A_FLOOD[long]) as bystander, ThreadPoolExecutor(MOST_OF_ONE) as pool:
            parts = [pool.submit(ask_in_turn, scene, proxy, flood[at::MOST_OF_ONE]) for at in range(MOST_OF_ONE)]
            others = 0
            while not all(part.done() for part in parts):
                is_looked_up(scene, proxy, fresh, f"x{others}.fresh.test")
                others += 1
            bystander.go_on()
            told = sum((part.result() for part in parts), Counter())
        hold_to_their_kind(told, count // 2)
        assert 2 * (count - told[SILENT]) <= len(liar.asked) <= 2 * count
        assert len(fresh.asked) <= 2 * others
    figures["a flood of names"] = f"{count} of one client, meanwhile {others} of another, all of which were looked up"


def hold_to_their_kind(told: Counter[tuple[int, str]], of_each: int) -> None:
    """Half of the names have no address, and half have private ones. Some come to nothing where the liar is slow."""
    silent = told[SILENT]
    assert told.keys() <= {FAILED, DENIED, SILENT}
    assert told.total() == 2 * of_each
    assert max(told[FAILED], told[DENIED]) <= of_each
    assert silent <= of_each // 2, "hardly a flood of answers"


def ask_in_turn(scene: Scene, proxy: Daemon, names: list[str]) -> Counter[tuple[int, str]]:
    """One after the other on one connection, from where the flood is."""
    told: Counter[tuple[int, str]] = Counter()
    with proxy.connect(FLOODING) as client:
        for name in names:
            said = get(client, url(scene, name))
            told[said.status, said.reason] += 1
    return told
