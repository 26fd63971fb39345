"""The control socket, from both ends: only the very words ask for something, and an answer is one or a ValueError.

Whoever may connect and says anything else is heard for at most 16 octets, once, and nothing is done (R2). Root asks
every account's proxyd, so that its answer is a stranger's: `proxyd reload` never says "reloaded" of what is no outcome
(R12), and what it shows of one is text (ATTACKS 9). The channel to the workers is a socket without a name: nobody else
can send there.
"""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from argparse import Namespace
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from proxyd.cli import reload
from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE
from proxyd.serve.control import RELOAD, STATUS, Outcome, ask, ask_status, asked_for, listen
from tests.fuzz.screen import screen
from tests.fuzz.target import Target
from tests.policy.worlds import MINIMAL
from tests.serve.test_control import OUTCOME, STATUS_OF

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_HEARD: Final = 16  # octets
_WORDS: Final = {RELOAD: "a reload", STATUS: "a status is asked for"}


def _attempt(data: bytes) -> str:
    """The first octet says who is spoken to: the supervisor, who asks it, or the command."""
    how, octets = data[0] % 5 if data else 0, data[1:]
    if how == 0:
        return _asked(octets)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/control"
        with _answering(path, octets):
            if how <= 2:
                came = _told_outcome(path) if how == 1 else _told_status(path)
            else:
                came = _shown(folder, as_json=how == 4)
    if came in ("a success", "reloaded"):
        assert not [*json.loads(octets)["problems"]], "a success that nobody told"
    return came


def _asked(octets: bytes) -> str:
    """What the supervisor makes of it."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        theirs.sendall(octets)
        theirs.shutdown(socket.SHUT_WR)
        word = asked_for(ours)
    assert word == octets[:MOST_HEARD]
    assert (word in _WORDS) == (octets in _WORDS), "more than the very word asks"
    return _WORDS.get(word, "nothing is asked for")


def _told_outcome(path: str) -> str:
    try:
        outcome = ask(path)
    except (OSError, ValueError):
        return "no outcome"
    assert all(isinstance(each, str) for each in (*outcome.problems, *outcome.changes))
    assert type(outcome.revoked) is int
    return "a refusal" if outcome.problems else "a success"


def _told_status(path: str) -> str:
    try:
        status = ask_status(path)
    except (OSError, ValueError):
        return "no status"
    assert {type(value) for value in asdict(status).values()} <= {str, int}
    return "a status"


def _shown(folder: str, *, as_json: bool) -> str:
    """What `proxyd reload` says to that."""
    path, policy = f"{folder}/control", Path(folder, "policy.toml")
    policy.write_text(MINIMAL.replace("[listen]\n", f'[listen]\ncontrol = "{path}"\n'))
    with screen(person=not as_json) as shown:
        status = reload.run(Namespace(policy=str(policy), json=as_json))
    if as_json:
        document = json.loads("".join(shown.lines))
        assert bool(document["problems"]) == bool(status)
    else:
        assert any(line.startswith("reloaded") for line in shown.lines[-1:]) == (status == 0)
    assert bool(shown.err) == bool(status)
    return {0: "reloaded", EX_CONFIG: "not reloaded", EX_UNAVAILABLE: "nobody answers"}[status]


@contextmanager
def _answering(path: str, octets: bytes) -> Iterator[None]:
    """Somebody at `path` who says this to the next one who asks."""

    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as visitor:
            assert visitor.recv(MOST_HEARD) in _WORDS
            visitor.sendall(octets)

    with listen(path) as listener:
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


def _says(document: object, how: int) -> bytes:
    return bytes([how]) + json.dumps(document).encode()


def _outcomes(how: int) -> dict[str, bytes]:
    """What may be answered to a reload, and what else may come."""
    said = asdict(OUTCOME)
    hostile = asdict(Outcome(changes=("a\x1b[2J\r\nreloaded: all", "\u202e\ud800\x9b")))
    return {
        "a success": _says(said, how),
        "a refusal": _says(asdict(Outcome(problems=("deny[0]: \x1b]0;x\x07", "two"))), how),
        "hostile": _says(hostile, how),
        "no objects": _says(said | {"changes": [None, {"a": [1]}, 1.5]}, how),
        "an object in the place of a list": _says(said | {"problems": {"a\nb": 1}}, how),
        "text in the place of a list": _says(said | {"problems": "no\n"}, how),
        "an infinity": bytes([how]) + b'{"problems": [], "changes": [], "revoked": Infinity}',
        "a number that is too large": bytes([how]) + b'{"problems": [], "changes": [], "revoked": 1e999}',
        "no number": bytes([how]) + b'{"problems": [], "changes": [], "revoked": NaN}',
        "a long number": bytes([how]) + b'{"problems": [], "changes": [], "revoked": "' + b"9" * 4400 + b'"}',
        "a long whole number": bytes([how]) + b'{"problems": [], "changes": [], "revoked": ' + b"9" * 4300 + b"}",
        "deep": bytes([how]) + b'{"problems": ' + b"[" * 2500 + b"]" * 2500 + b', "changes": [], "revoked": 0}',
        "nearly too deep": bytes([how])
        + b'{"changes": '
        + b"[" * 920
        + b"]" * 920
        + b', "problems": [], "revoked": 0}',
        "cut off": _says(said, how)[:-1],
        "nothing": bytes([how]),
        "HTTP": bytes([how]) + b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "UTF-16": bytes([how]) + json.dumps(said).encode("utf-16"),
    }


_STATUSES: Final = {
    "a status": _says(asdict(STATUS_OF), 2),
    "a hostile status": _says(asdict(replace(STATUS_OF, policy="\x1b[2J\ud800", file="\n")), 2),
    "a status with an infinity": _says(asdict(STATUS_OF) | {"pid": float("inf")}, 2),
    "a status without a policy": _says(
        {name: value for name, value in asdict(STATUS_OF).items() if name != "policy"}, 2
    ),
    "a status of nulls": _says(dict.fromkeys(asdict(STATUS_OF)), 2),
    "a list": _says([1], 2),
}
_SEEDS: Final = {
    "no word": b"\0",
    "reload": b"\0" + RELOAD,
    "status": b"\0" + STATUS,
    "half a word": b"\0relo",
    "a word and more": b"\0" + RELOAD + b"more",
    "both words": b"\0" + RELOAD + STATUS,
    "a word and more than is heard": b"\0" + RELOAD + bytes(MOST_HEARD),
    "something else": b"\0GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    **{f"{name}, {how}": seed for how in (1, 3, 4) for name, seed in _outcomes(how).items()},
    **_STATUSES,
}
_texts = st.text(st.characters(codec="utf-16", categories=("L", "Cc", "Cf", "Cs", "Zl")), max_size=9)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _texts),
    lambda each: st.one_of(st.lists(each, max_size=3), st.dictionaries(_texts, each, max_size=3)),
    max_leaves=6,
)
_lists = st.one_of(st.lists(_texts, max_size=3), _json)
_spelt = st.one_of(
    st.fixed_dictionaries({"problems": _lists, "changes": _lists, "revoked": st.one_of(st.integers(), _json)}),
    st.fixed_dictionaries({name: st.one_of(st.just(value), _json) for name, value in asdict(STATUS_OF).items()}),
    _json,
)

TARGET: Final = Target(
    attempt=_attempt,
    about=("proxyd.serve.control", "proxyd.cli.reload"),
    seeds=_SEEDS,
    inputs=st.one_of(
        st.builds(lambda word, more: b"\0" + word + more, st.sampled_from([RELOAD, STATUS]), st.binary(max_size=3)),
        st.builds(_says, _spelt, st.integers(1, 4)),
    ),
    outcomes=frozenset(
        {
            *("a reload", "a status is asked for", "nothing is asked for"),
            *("a success", "a refusal", "no outcome", "a status", "no status"),
            *("reloaded", "not reloaded", "nobody answers"),
        }
    ),
    longest=8192,
    words=(RELOAD, STATUS, b'"problems"', b'"changes"', b'"revoked"', b"Infinity", b"NaN", b"1e999", b"\\ud800"),
)
