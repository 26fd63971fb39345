"""How a nameserver tells truth and lies: late, for ever, forged, over UDP and TCP; and what must come of it.

The words of the tables are the first labels of the names that are asked for (ATTACKS 3, 8).
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import dns.flags

from tests.faults.lies import ANSWERS, EVIL, FAILED, NO_ANSWERS, SERVED, SILENT, decoy, failing, raw
from tests.faults.lying import DECOY, framed, tell_the_truth

if TYPE_CHECKING:
    from collections.abc import Callable

    from dns.message import Message

    from tests.faults.lying import Asked, Lie

OVER: Final = threading.Event()
"""Set when nobody waits for what is held back any longer."""

LATE: Final = 0.2
"""Seconds; a question has one, and so has the second family after the first."""


# Over UDP


def hold_back(_: object) -> None:
    """Say nothing, and do not go away."""
    OVER.wait()


def _say_late(asked: Asked) -> None:
    """Within the time of a question, also where all is slow."""
    OVER.wait(LATE)
    tell_the_truth(asked)


def _replay() -> Lie:
    """The first question has its answer, a lie, once the second one comes, and where that is waited for."""
    first: dict[str, Asked] = {}

    def speak(asked: Asked) -> None:
        if asked.nth == 0:
            first[asked.rdtype] = asked
        else:
            before = first[asked.rdtype]
            asked.say(before.wire[:2] + decoy(asked).to_wire()[2:])
            before.say(decoy(before))
            tell_the_truth(asked)

    return speak


def _forge(address: str) -> Lie:
    """From a port or an address of another's, and with the right id: as nobody can guess it."""

    def speak(asked: Asked) -> None:
        wire = decoy(asked).to_wire()
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.bind((address, 0))
            for _ in range(200):
                stranger.sendto(wire, asked.peer)

    return speak


def _guess(asked: Asked) -> None:
    """From the right port, and with ids that somebody guesses (RFC 5452 §9.3): the truth is lost among them."""
    true_id, rest = int.from_bytes(asked.wire[:2], "big"), decoy(asked).to_wire()[2:]
    for number in range(1, 200):
        asked.say((true_id ^ number).to_bytes(2, "big") + rest)


def _both(*lies: Lie) -> Lie:
    def speak(asked: Asked) -> None:
        for lie in lies:
            lie(asked)

    return speak


def _only(lie: Callable[[Asked], bytes | Message]) -> Lie:
    return lambda asked: asked.say(lie(asked))


def _by_family(four: Lie, six: Lie) -> Lie:
    return lambda asked: (four if asked.rdtype == "A" else six)(asked)


def _late_and_private(asked: Asked) -> None:
    OVER.wait(LATE)
    asked.say(asked.answer(("AAAA", "fd00::5")))


def _private_when_over(asked: Asked) -> None:
    OVER.wait()
    asked.say(asked.answer(("AAAA", "fd00::5")))


OVER_UDP: Final[dict[str, tuple[Lie, tuple[int, str]]]] = {
    **{word: (_only(lie), SILENT) for word, lie in NO_ANSWERS.items()},
    **{
        f"{word}-then-truth": (_both(_only(lie), _only(lie), tell_the_truth), SERVED)
        for word, lie in NO_ANSWERS.items()
    },
    **{word: (_only(lie), outcome) for word, (lie, outcome) in ANSWERS.items()},
    "silence": (lambda _: None, SILENT),
    "held-back": (hold_back, SILENT),
    "late": (_say_late, SERVED),
    "replayed": (_replay(), SERVED),
    "forged-port": (_forge("127.0.0.1"), SILENT),
    "forged-address": (_forge("127.0.0.98"), SILENT),
    "forged-port-then-truth": (_both(_forge("127.0.0.1"), tell_the_truth), SERVED),
    "forged-address-then-truth": (_both(_forge("127.0.0.98"), tell_the_truth), SERVED),
    "guessed-id": (_guess, SERVED),
    "no-aaaa": (_by_family(tell_the_truth, _only(failing("SERVFAIL"))), SERVED),
    "aaaa-late-and-private": (_by_family(tell_the_truth, _late_and_private), (403, "address_denied")),
    "aaaa-too-late": (_by_family(tell_the_truth, _private_when_over), SERVED),
}
"""What is said over UDP. Who has guessed too often is asked over TCP, where the truth is told."""


# Over TCP, once UDP said that there is more


def _break_off(part: Callable[[Asked], bytes]) -> Lie:
    """And then close."""
    return lambda asked: asked.send(part(asked))


def _reset(asked: Asked) -> None:
    if asked.connection is not None:
        asked.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asked.connection.close()


def _drip(asked: Asked) -> None:
    """An octet at a time: the answer would take seconds."""
    for octet in framed(asked.addresses(DECOY).to_wire()):
        asked.send(bytes([octet]))
        OVER.wait(0.2)


def for_ever(start: bytes) -> Lie:
    """Say this, and zeros without end."""

    def speak(asked: Asked) -> None:
        asked.send(start)
        if asked.connection is not None:
            pour(asked.connection)

    return speak


def pour(connection: socket.socket) -> None:
    """Send as long as anybody takes it."""
    with suppress(OSError):
        while not OVER.is_set():
            connection.sendall(bytes(65536))


def _three_messages(asked: Asked) -> None:
    """10,200 records."""
    for _ in range(3):
        asked.say(raw(asked, *[EVIL] * 3400))


def _truncated_again(asked: Asked) -> Message:
    message = decoy(asked)
    message.flags |= dns.flags.TC
    return message


OVER_TCP: Final[dict[str, tuple[Lie, tuple[int, str]]]] = {
    **{word: (_only(lie), FAILED) for word, lie in NO_ANSWERS.items()},
    **{word: (_only(lie), outcome) for word, (lie, outcome) in ANSWERS.items()},
    "truth": (tell_the_truth, SERVED),
    "reset": (_reset, FAILED),
    "closed": (lambda _: None, FAILED),
    "length-only": (_break_off(lambda _: b"\0\x40"), FAILED),
    "half-a-length": (_break_off(lambda _: b"\0"), FAILED),
    "half": (_break_off(lambda asked: framed(decoy(asked).to_wire())[:-1]), FAILED),
    "stalled": (hold_back, SILENT),
    "dripping": (_drip, SILENT),
    "for-ever": (for_ever(b"\xff\xff"), FAILED),
    "for-ever-in-bounds": (for_ever(b"\x20\0"), FAILED),
    "10000-records": (_three_messages, FAILED),
    "truncated-again": (_only(_truncated_again), FAILED),
}
"""What is said over TCP."""
