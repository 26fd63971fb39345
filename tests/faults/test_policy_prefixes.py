"""A policy that is cut off, at every octet: as who reads it halfway through its writing would have it (R12, R8).

Asked of the loader, and of `reach`, which says all that any client may reach by one policy and not by another. A cut
leaves out what comes last: where that is a row which denies, or a key which narrows, what is left allows more. No
policy file can say of itself that it is whole; so proxyd takes none into use that changes while it is read, and says
in every record, by the digest, which it was. What is stated here is which cuts of the shipped policies open anything.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from netaddr import IPAddress

from proxyd.policy.address import Resolution, parse_url
from proxyd.policy.compare import compare
from proxyd.policy.load import PolicyError, load
from proxyd.policy.password import SALT_OCTETS, BadHash, new_hash, parse_hash
from proxyd.policy.snapshot import Snapshot
from proxyd.policy.verdict import Allow, decide
from tests.adversarial.corpus_addresses import edges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.model import Policy

POLICIES: Final = Path(__file__).parents[2] / "policies"
DAY: Final = dt.date(2026, 11, 21)

OPENED: Final[dict[str, set[tuple[str, str]]]] = {
    "default.toml": set(),
    "allowlist.toml": set(),
    "local-models.toml": set(),
    "team.toml": {
        ("gateway", "any account"),  # without `users`
        ("research", "no credential"),  # without [client.credential]
        ("research", "ports"),  # without the `ports` of [client.destinations]
    },
}
"""What the cuts of each shipped policy open: to whom, and what."""


NAMES_DENIED: Final = b'[[deny]]\nname = "localhost"\nhosts = ["localhost"]\nreason = "as denylist.toml has it"\n'
"""All that the shipped policies' own tests need of what they include."""


def loaded(data: bytes, rows: bytes) -> Policy | None:
    """A policy of these octets, whose include has those; None if it is none."""

    def read(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:  # noqa: ARG001
        return (f"/{name}", data if beside is None else rows)

    try:
        return load("policy.toml", read, DAY)
    except PolicyError:
        return None


def without_remarks(data: bytes) -> bytes:
    """The lines that say something."""
    return b"".join(line for line in data.splitlines(keepends=True) if line.strip() and not line.startswith(b"#"))


def cuts(data: bytes, step: int = 1) -> Iterator[bytes]:
    """What is left by each cut, where it is TOML and says something else than the one before."""
    last = None
    for at in range(0, len(data), step):
        try:
            document = tomllib.loads(data[:at].decode())
        except ValueError:  # UnicodeDecodeError is one
            continue
        if document != last:
            last = document
            yield data[:at]


def opened(whole: Snapshot, part: Snapshot) -> Iterator[tuple[str, str]]:
    """To whom a cut opens something, and what: who it may be, or ports, hosts and addresses."""
    for change in compare(whole, part):
        if change.opens:
            hosts = set(change.hosts)
            yield (
                change.client,
                change.hosts[0] if change.kind == "peers" else "ports" if len(hosts) > 9 else f"{hosts}",
            )


@pytest.mark.parametrize("name", OPENED)
def test_r12_what_a_cut_of_a_shipped_policy_opens_is_known(name: str, figures: dict[str, str], *, long: bool) -> None:
    """And no cut of a policy whose default is deny has another one."""
    data = (POLICIES / name).read_bytes()
    data = data if long else without_remarks(data)
    rows = (POLICIES / "denylist.toml").read_bytes() if long else NAMES_DENIED
    whole = loaded(data, rows)
    assert whole is not None
    snapshot = Snapshot.of(whole, DAY)
    found, good, tried, last = set[tuple[str, str]](), 0, 0, None
    for left in cuts(data):
        tried += 1
        policy = loaded(left, rows)
        if policy is None:
            continue
        good += 1
        rules = replace(policy, digest="", test=())
        if rules != last:
            last = rules
            found |= set(opened(snapshot, Snapshot.of(policy, DAY)))
        assert policy.destinations.default == whole.destinations.default
        assert policy.destinations.mode == "enforce"
        assert {each.name for each in policy.client} <= {each.name for each in whole.client}
    assert found == OPENED[name]
    assert good > 3
    figures[f"cuts of {name}"] = f"{len(data)} octets, {tried} of them TOML of another meaning, {good} policies"


def test_r5_no_cut_of_the_denylist_opens_anything(figures: dict[str, str], *, long: bool) -> None:
    """Each of its rows is built in. Asked of the function that the daemon asks, too, for each row's first and last."""
    policy, rows = (without_remarks((POLICIES / name).read_bytes()) for name in ("default.toml", "denylist.toml"))
    places = [address for _, _, address in edges()]
    kept = list(cuts(rows, 1 if long else 23))
    good = 0
    whole = loaded(policy, rows)
    assert whole is not None
    snapshot = Snapshot.of(whole, DAY)
    allowed = {str(place) for place in places if is_allowed(snapshot, str(place))}
    for left in kept:
        part = loaded(policy, left)
        if part is None:
            continue
        good += 1
        cut = Snapshot.of(part, DAY)
        assert not list(opened(snapshot, cut))
        assert {str(place) for place in places if is_allowed(cut, str(place))} == allowed
    assert 0 < len(allowed) < len(places)
    figures["cuts of denylist.toml"] = f"{len(kept)} meanings, {good} policies, {len(places)} addresses, 0 opened"


def is_allowed(snapshot: Snapshot, address: str) -> bool:
    """Whether a name that has this address alone may be reached by the first client."""
    asked = parse_url("https://somewhere.example/")
    verdict = decide(asked, snapshot.policy.client[0], snapshot, Resolution((IPAddress(address),), ()))
    return isinstance(verdict, Allow)


def test_r2_no_cut_of_a_password_s_hash_is_one() -> None:
    """A file with half of it would else be known by more passwords than one."""
    whole = str(new_hash("correct horse", bytes(range(SALT_OCTETS))))
    assert parse_hash(whole).fits("correct horse")
    for at in range(len(whole)):
        with pytest.raises(BadHash):
            parse_hash(whole[:at])
