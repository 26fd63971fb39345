"""Scripts of whole connections, as octets that stay meaningful however they are mutated.

A script is four octets of scenery, then steps, each behind a MARK: an octet that says what is done, one that says how
much, and what is sent. Every octet means something everywhere: whatever a mutation makes of it, it can be played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

MARK: Final = b"\xfa\xce\xff"
"""Between steps: nothing that is spoken has it by chance."""

SENDS, ENDS, RESETS, IS_DEAF = "c", "e", "r", "d"
"""What a client does; origins do the same in capitals. Who is deaf reads no more, until it is deaf again."""

WAITS, TURNS, AMENDS, DRAINS = "w", "m", "p", "q"
"""What happens around them: seconds go by, the world is in another mood, another policy holds, the end is announced."""

KINDS: Final = (SENDS, ENDS, RESETS, IS_DEAF, *"CERD", WAITS, TURNS, AMENDS, DRAINS)
MOST_PIECES: Final = 24
"""That one step is sent in: a kilobyte octet by octet would be slow, and show nothing new."""

_SCENERY: Final = 4  # octets


@dataclass(frozen=True)
class Step:
    """One thing done. much: how long the pieces are, how many seconds, which mood or policy."""

    kind: str
    much: int = 0
    octets: bytes = b""

    def pieces(self) -> list[bytes]:
        """What is sent, in the pieces in which it is; the last one has the rest."""
        size, whole = self.much, self.octets
        if not size:
            return [whole] if whole else []
        at = min(size * (MOST_PIECES - 1), len(whole))
        return [piece for piece in (*(whole[n : min(n + size, at)] for n in range(0, at, size)), whole[at:]) if piece]


@dataclass(frozen=True)
class Script:
    """home: which client it is. policy, mood: which of them hold at first. ways: a bit for each that is not usual."""

    steps: tuple[Step, ...]
    home: int = 0
    policy: int = 0
    mood: int = 0
    ways: int = 0

    @classmethod
    def read(cls, data: bytes) -> Script:
        """What any octets say."""
        scenery, *steps = data.split(MARK)
        home, policy, mood, ways = scenery.ljust(_SCENERY, b"\0")[:_SCENERY]
        return cls(tuple(_step(each) for each in steps if each), home, policy, mood, ways)

    def written(self) -> bytes:
        """As octets."""
        steps = (each.kind.encode() + bytes([each.much]) + each.octets for each in self.steps)
        return MARK.join((bytes((self.home, self.policy, self.mood, self.ways)), *steps))


def _step(octets: bytes) -> Step:
    kind = chr(octets[0])
    return Step(kind if kind in KINDS else KINDS[octets[0] % len(KINDS)], sum(octets[1:2]), octets[2:])


def mutated(data: bytes, others: tuple[bytes, ...], words: tuple[bytes, ...], random: Random) -> bytes:
    """The octets with a few things done to them, as a fuzzer does that is guided by nothing."""
    for _ in range(random.choice((0, 1, 1, 2, 4, 8))):
        data = random.choice(_WAYS)(data, others, words, random)
    return data


def _overwrite(data: bytes, _: tuple[bytes, ...], words: tuple[bytes, ...], random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    with_what = random.choice((random.randbytes(1), random.choice(words)))
    return data[:at] + with_what + data[at + len(with_what) :]


def _insert(data: bytes, _: tuple[bytes, ...], words: tuple[bytes, ...], random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((random.randbytes(random.randint(1, 4)), random.choice(words))) + data[at:]


def _repeat(data: bytes, _: tuple[bytes, ...], __: tuple[bytes, ...], random: Random) -> bytes:
    """A piece of it twice."""
    begin, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[begin:end] + data[end:]


def _omit(data: bytes, _: tuple[bytes, ...], __: tuple[bytes, ...], random: Random) -> bytes:
    begin, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:begin] + data[end:]


def _splice(data: bytes, others: tuple[bytes, ...], _: tuple[bytes, ...], random: Random) -> bytes:
    """Some of its steps, and some of another's."""
    mine, theirs = data.split(MARK), random.choice(others).split(MARK)
    return MARK.join(mine[: random.randint(1, len(mine))] + theirs[random.randint(1, len(theirs)) :])


_WAYS: Final = (_overwrite, _overwrite, _insert, _insert, _repeat, _omit, _splice)
