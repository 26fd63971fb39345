"""Whether this host lets accounts out by rule: nftables and iptables are asked. Nothing here changes a rule.

What counts is a chain of the output hook that refuses packets for whose they are, or all but an account's. The rules
are read, and not tried on packets: one for single destinations or ports counts for nothing, and what others let through
before it is not looked at. Rules of service managers (BPF) and of other network namespaces are not seen.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NFT: Final = ("nft", "--json", "list", "ruleset")
_SAVED: Final = (("iptables-save", "ip"), ("ip6tables-save", "ip6"))
_FOLDERS: Final = "/usr/sbin:/sbin:/usr/bin:/bin"  # not the caller's PATH: this may be root's
_SECONDS: Final = 10.0
_IPV6_ROUTES: Final = Path("/proc/net/ipv6_route")  # destination, its length, …, device
_VERSIONS: Final = {"ip": {4}, "ip6": {6}, "inet": {4, 6}}

# As nft(8) calls them under META and SOCKET EXPRESSION, and iptables-extensions(8) under owner and cgroup.
_ACCOUNT: Final = re.compile(r'"key": "(?:skuid|skgid|cgroup|cgroupv2)"')
_DESTINATION: Final = re.compile(r'"field": "(?:daddr|dport)"')
_ACCOUNT_SAVED: Final = {"--uid-owner", "--gid-owner", "--cgroup", "--path"}
_NARROW_SAVED: Final = re.compile(r"(?<!! )(?:-d|--dports?) |--(?:ct)?state INVALID ")
_VERDICTS: Final = {"DROP": "drop", "REJECT": "drop", "ACCEPT": "accept", "RETURN": "accept"}

_Place = tuple[str, str, str]
"""A chain: its family, table and name."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What matters of a rule: what it does ("drop", "accept", or a chain's name), and to which packets.

    asks: only to those of some account. narrow: only to those for some destination, or of no connection.
    """

    does: tuple[str | _Place, ...]
    asks: bool
    narrow: bool


@dataclass(slots=True)
class _Chain:
    """A chain: whether packets that leave begin there, and are dropped where no rule says otherwise."""

    begins: bool = False
    drops: bool = False
    rules: list[_Rule] = field(default_factory=list)


def lets_out_by_account() -> bool | None:
    """Whether it depends on the account what leaves this host, over IPv4, and over IPv6 if there is a way out by it.

    None where nobody could say, mostly as only root may ask.
    """
    rulesets = [_nft_chains(said)] if (said := _said(*_NFT)) is not None else []
    rulesets += [_saved_chains(said, family) for name, family in _SAVED if (said := _said(name)) is not None]
    held = {version for chains in rulesets for version in _versions_held(chains)}
    return held >= ({4, 6} if _has_ipv6() else {4}) if rulesets else None


def _versions_held(chains: Mapping[_Place, _Chain]) -> Iterator[int]:
    for (family, *_), chain in chains.items():
        if chain.begins and _holds(chains, chain, asked=False) is None:
            yield from _VERSIONS.get(family, ())


def _holds(chains: Mapping[_Place, _Chain], chain: _Chain, *, asked: bool) -> bool | None:
    """None if it refuses by account; else whether what gets past it was asked whose it is (the kernel allows no loops).

    asked: whether those who come here were. Behind a rule that lets an account through, all have been.
    """
    for rule in chain.rules:
        asks = asked or rule.asks
        for each in rule.does:
            after = asks and each != "drop" if isinstance(each, str) else _holds(chains, chains[each], asked=asks)
            if not rule.narrow and (after is None or (asks and each == "drop")):
                return None
            asked = asked or bool(after)
    return None if chain.drops and asked else asked


def _nft_chains(said: str) -> dict[_Place, _Chain]:
    """What libnftables-json(5) says."""
    chains: dict[_Place, _Chain] = {}
    for kind, each in (item for entry in json.loads(said)["nftables"] for item in entry.items()):
        if kind == "chain":
            place = (each["family"], each["table"], each["name"])
            chains[place] = _Chain(each.get("hook") == "output", each.get("policy") == "drop")
        elif kind == "rule":
            where = (each["family"], each["table"])
            chains[*where, each["chain"]].rules.append(_nft_rule(each["expr"], where))
    return chains


def _nft_rule(statements: list[dict[str, Any]], where: tuple[str, str]) -> _Rule:
    matches = [each["match"] for each in statements if "match" in each]
    maps = [each["vmap"] for each in statements if "vmap" in each]
    verdicts = [*statements, *(verdict for each in maps for verdict in _in_map(each["data"]))]
    asked = [*(each["left"] for each in matches), *(each["key"] for each in maps)]
    return _Rule(
        tuple(does for each in verdicts for does in _nft_verdict(each, where)),
        any(_ACCOUNT.search(json.dumps(each)) for each in asked),
        any(map(_is_narrow, matches)),
    )


def _in_map(data: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - JSON
    """The verdicts of a map; of one that is written elsewhere nothing is known."""
    return [verdict for _, verdict in data["set"]] if isinstance(data, dict) else []


def _nft_verdict(statement: dict[str, Any], where: tuple[str, str]) -> Iterator[str | _Place]:
    for name, what in statement.items():
        if name in ("drop", "reject"):
            yield "drop"
        elif name in ("accept", "return"):
            yield "accept"
        elif name in ("jump", "goto"):
            yield (*where, what["target"])


def _is_narrow(match: dict[str, Any]) -> bool:
    to_some = _DESTINATION.search(json.dumps(match["left"])) is not None
    return match["op"] != "!=" and (to_some or match["right"] == "invalid")


def _saved_chains(said: str, family: str) -> dict[_Place, _Chain]:
    """What iptables-save(8) says."""
    chains: dict[_Place, _Chain] = {}
    table = ""
    for line in said.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            chains[family, table, name] = _Chain(name == "OUTPUT", policy == "DROP")
        elif line.startswith("-A "):
            _, name, *words = shlex.split(line)
            chains[family, table, name].rules.append(_saved_rule(words, (family, table), chains))
    return chains


def _saved_rule(words: list[str], where: tuple[str, str], chains: Mapping[_Place, _Chain]) -> _Rule:
    """One line; every chain has been named before the first of them."""
    target = next((each for option, each in pairwise(words) if option in ("-j", "-g")), "")
    jumped = (*where, target)
    does: tuple[str | _Place, ...] = (jumped,) if jumped in chains else tuple(filter(None, [_VERDICTS.get(target)]))
    return _Rule(does, not _ACCOUNT_SAVED.isdisjoint(words), bool(_NARROW_SAVED.search(" ".join(words))))


def _has_ipv6() -> bool:
    """Whether there is a default route of IPv6; one of the loopback's own refuses."""
    try:
        routes = [line.split() for line in _IPV6_ROUTES.read_text().splitlines()]
    except OSError:
        return False
    return any((int(route[0], 16), route[1]) == (0, "00") and route[-1] != "lo" for route in routes)


def _said(name: str, *words: str) -> str | None:
    program = shutil.which(name, path=_FOLDERS)
    if program is None:
        return None
    try:
        answer = subprocess.run(  # noqa: S603 - a program of the system's own, with words of ours
            [program, *words], capture_output=True, text=True, check=False, timeout=_SECONDS, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
