"""Policy files -> Policy, or every problem at once, each with its key and the way out (R8, R12).

Reading is the caller's: `read` hands over bytes, so that this floor touches no file. What a single key may be is
said in `model`; here is what must hold between them, and the policy's own tests.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, replace
from datetime import date
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol, TypeVar

from netaddr import IPAddress, IPNetwork, IPSet

from proxyd.policy.address import Destination, bracketed, parse_authority, parse_host
from proxyd.policy.model import Expectation, Own, PermitRow, Policy, Rows, Snapshot
from proxyd.policy.shape import Problems, Table
from proxyd.policy.special import is_localhost, locked_address, metadata_name, special_address
from proxyd.policy.text import printable
from proxyd.policy.verdict import STEP_OF, Allow, Deny, NeedAddresses, Reason, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 4  # includes of includes; deeper than this nobody reviews
MAX_LINE = 8192  # octets; the time that tomllib takes for a dotted key grows with the square of its length
R = TypeVar("R", bound=Rows)
_HOLD_IT = "write networks that hold it, or remove the permit"
_ROW_KEYS = ("deny", "allow", "permit", "test")


class PolicyError(Exception):
    """The policy cannot be used. `problems` has one line for each thing to mend."""

    def __init__(self, problems: Problems) -> None:
        self.problems = [printable(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


class ReadFile(Protocol):
    """Hands over a policy file. Raises OSError."""

    def __call__(self, name: str, beside: str | None) -> tuple[str, bytes]:
        """The real path of `name`, taken relative to the folder of the file `beside`, and its bytes."""


def load(name: str, read: ReadFile, today: date) -> Policy:
    """Read, check and test a policy. Raises PolicyError with every problem found.

    today: the day (UTC) as of which the policy's own tests are run.
    """
    source = _Source(read)
    policy = source.whole(name)
    problems = source.problems
    if policy is not None and not problems:
        problems += _contradictions(policy, name)
    if policy is not None and not problems:
        problems += _failed_tests(policy, today)
    if policy is None or problems:
        raise PolicyError(list(dict.fromkeys(problems)))
    return policy


@dataclass
class _Source:
    """One reading of a policy and all that it includes."""

    read: ReadFile

    def __post_init__(self) -> None:
        self.problems: Problems = []
        self._digests: dict[str, bytes] = {}

    def whole(self, name: str) -> Policy | None:
        """The policy in file `name` with the rows of everything it includes."""
        opened = self._open(name, None, name, Policy, ())
        if opened is None:
            return None
        policy, included = opened
        rows = {key: sum((getattr(each, key) for each in included), getattr(policy, key)) for key in _ROW_KEYS}
        digest = hashlib.sha256(b"".join(self._digests.values())).hexdigest()
        return replace(policy, digest=digest, **rows)

    def _open(
        self, name: str, beside: str | None, shown: str, into: type[R], above: tuple[str, ...]
    ) -> tuple[R, list[Rows]] | None:
        """Read one file into `into`, then what it includes. A file reached twice counts once; a cycle is an error."""
        try:
            path, data = self.read(name, beside)
        except (OSError, ValueError) as error:
            self.problems.append(f"{shown}: cannot be read: {getattr(error, 'strerror', None) or 'bad file name'}")
            return None
        if path in above or len(above) > MAX_DEPTH:
            why = "includes itself" if path in above else f"is included more than {MAX_DEPTH} deep"
            self.problems.append(f"{shown}: {why}; remove an include")
            return None
        if path in self._digests:
            return None
        self._digests[path] = hashlib.sha256(data).digest()
        rows = self._parse(data, shown, into)
        if rows is None:
            return None
        included: list[Rows] = []
        for index, each in enumerate(rows.include):
            if "://" in each:
                self.problems.append(f"{shown}: include[{index}]: a URL is no file; write a path relative to this one")
                continue
            below = str(PurePosixPath(shown).parent / each)
            if (opened := self._open(each, path, below, Rows, (*above, path))) is not None:
                included += [opened[0], *opened[1]]
        return rows, included

    def _parse(self, data: bytes, shown: str, into: type[R]) -> R | None:
        if any(len(line) > MAX_LINE for line in data.splitlines()):
            self.problems.append(f"{shown}: has a line of more than {MAX_LINE} bytes; break it up")
            return None
        try:
            document = tomllib.loads(data.decode())
        except UnicodeDecodeError:
            self.problems.append(f"{shown}: is not UTF-8 text")
            return None
        except ValueError as error:  # TOMLDecodeError, and what int() says of a number with thousands of digits
            self.problems.append(f"{shown}: is not TOML: {error}")
            return None
        except RecursionError:
            self.problems.append(f"{shown}: is nested too deeply")
            return None
        found: Problems = []
        rows = Table(into).read(document, "", found)
        self.problems += [f"{shown}: {problem}" for problem in found]
        return None if rows is None else _located(rows, shown)


def _located(rows: R, shown: str) -> R:
    """The rows, each knowing the file it is written in."""
    return replace(
        rows,
        **{key: tuple(replace(row, where=f"{shown}: {row.where}") for row in getattr(rows, key)) for key in _ROW_KEYS},
    )


def _contradictions(policy: Policy, name: str) -> Iterator[str]:
    """What no single key can see. `name` is the policy's file; a row knows its own."""
    yield from (f"{name}: {problem}" for problem in _whole(policy))
    yield from _repeated_rows(policy)
    yield from _vain_denies(policy)
    yield from _idle_allows(policy)
    yield from _vain_permits(policy)
    yield from _vain_tests(policy)


def _whole(policy: Policy) -> Iterator[str]:
    """Contradictions outside the rows."""
    yield from _repeated_clients(policy)
    yield from _exposed(policy)
    yield from _idle(policy)
    yield from _doubtful_translators(policy)


def _doubtful_translators(policy: Policy) -> Iterator[str]:
    """A prefix is one translator's, and public or made for translation; else an address would be read in two ways."""
    prefixes = policy.dns.nat64
    for index, prefix in enumerate(prefixes):
        if any(prefix in other or other in prefix for other in prefixes[:index]):
            yield f"dns.nat64[{index}]: {prefix} overlaps another translator; declare one of them"
        ends = (special_address(end) for end in (prefix.network, IPAddress(prefix.last, 6)))
        for row in [row for row in ends if row is not None and not row.what.startswith("NAT64")][:1]:
            yield f"dns.nat64[{index}]: {prefix} is no translator's: {row.what}; remove it"


def _repeated_rows(policy: Policy) -> Iterator[str]:
    seen: dict[str, str] = {}
    for row in (*policy.deny, *policy.allow, *policy.permit):
        if row.name and seen.setdefault(row.name, row.where) != row.where:
            yield f'{row.where}.name: "{row.name}" is the name of {seen[row.name]} already; choose another'


def _repeated_clients(policy: Policy) -> Iterator[str]:
    names = [client.name for client in policy.client]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'client: "{name}" is the name of two clients; choose another'


def _exposed(policy: Policy) -> Iterator[str]:
    """R1 and R2: who can reach the listeners, and whether the policy says so."""
    networks = [network for client in policy.client for network in client.networks]
    for index, endpoint in enumerate(policy.listen.http):
        at = f"listen.http[{index}]: {endpoint}"
        if endpoint.address.is_loopback():
            continue
        if not _is_private(endpoint.address) and not policy.listen.dangerously_public_listener:
            yield f"{at} is open to more than a private network; write 127.0.0.1, or dangerously_public_listener = true"
        if all(network.is_loopback() for network in networks):
            yield f"{at} is beyond loopback, and no client's networks are; name them in [[client]] networks"
        if _are_everyone(networks) and not policy.listen.dangerously_public_listener:
            yield f"{at} is beyond loopback, and a client's networks are everyone's; narrow [[client]] networks"


def _are_everyone(networks: list[IPNetwork]) -> bool:
    """Whether together they leave nobody out, of one family at least."""
    union = IPSet(networks)
    return any(IPSet([everyone]).issubset(union) for everyone in ("0.0.0.0/0", "::/0"))


def _is_private(address: IPAddress) -> bool:
    """Whether strangers cannot reach it: RFC 1918, RFC 4193, link-local, or carrier-grade NAT. A wildcard is public."""
    row = special_address(address)
    return row is not None and row.what.startswith(("private", "unique local", "link-local", "carrier-grade"))


def _vain_denies(policy: Policy) -> Iterator[str]:
    for row in policy.deny:
        if not row.hosts and not row.networks:
            yield f"{row.where}: refuses nothing; write hosts = [ … ] or networks = [ … ]"
        for host in row.hosts:
            if not host.startswith("*.") and parse_host(bracketed(host))[1] is not None:
                yield f'{row.where}.hosts: "{host}" is an address, which names resolve to as well; write it in networks'


def _idle(policy: Policy) -> Iterator[str]:
    if policy.destinations.mode == "report" and policy.destinations.default == "allow":
        yield 'destinations.mode: "report" has no effect where all is allowed; write default = "deny", or remove it'


def _idle_allows(policy: Policy) -> Iterator[str]:
    """An [[allow]] row that does nothing looks like a restriction that is not there."""
    for row in policy.allow:
        if policy.destinations.default == "allow":
            yield f'{row.where}: has no effect where everything is allowed; write destinations.default = "deny"'
        closed = [str(port) for span in row.ports for port in (span.start,) if _closed(policy, span)]
        if closed:
            yield (
                f"{row.where}.ports: {', '.join(closed)} is closed to everyone by destinations.ports "
                "or the Fetch Standard's bad ports; open it in destinations.ports"
            )


def _closed(policy: Policy, span: range) -> bool:
    """Whether none of the span may be reached."""
    return not any(policy.destinations.port_is_open(port) for port in span)


def _vain_permits(policy: Policy) -> Iterator[str]:
    """A permit that can open nothing is a misunderstanding to be cleared up now, not in an incident."""
    snapshot = policy.at(date.min, _own(policy))
    for permit in policy.permit:
        if metadata_name(permit.host) is not None:
            yield f'{permit.where}.host: "{permit.host}" is a metadata service, which nothing opens; remove the permit'
        for index, network in enumerate(permit.networks):
            if network.size == 1 and locked_address(network.network) is not None:
                yield f'{permit.where}.networks[{index}]: "{network}" is locked, and nothing opens it; remove it'
        yield from _unopened(permit, snapshot)


def _unopened(permit: PermitRow, snapshot: Snapshot) -> Iterator[str]:
    """Of a host that needs no DNS it is known now whether its permit opens it, on one port at least of each span."""
    for span in permit.ports:
        port = next((each for each in span if each not in snapshot.own.ports), span.start)
        destination = _without_dns(permit.host, port)
        verdict = None if destination is None else decide(destination, snapshot.policy.client[0], snapshot)
        if isinstance(verdict, Deny):
            locked = verdict.reason is Reason.ADDRESS_LOCKED
            way_out = "nothing opens it, remove the permit" if locked else _HOLD_IT
            yield f"{permit.where}: {destination} stays refused ({verdict.reason}, by {verdict.rule}); {way_out}"
        elif isinstance(verdict, Allow) and not verdict.permitted:
            yield f"{permit.where}: {destination} is reached without it; {_HOLD_IT}"


def _without_dns(host: str, port: int) -> Destination | None:
    """The destination, if no lookup is needed to know its addresses."""
    destination = parse_authority(f"{bracketed(host)}:{port}")
    return destination if destination.address is not None or is_localhost(host) else None


def _own(policy: Policy) -> Own:
    """What the policy itself says of where proxyd will be reached; the daemon knows more."""
    return Own(policy.ports, frozenset(IPNetwork(endpoint.address) for endpoint in policy.listen.http))


def _vain_tests(policy: Policy) -> Iterator[str]:
    """A key of a test that has no effect makes the test prove something else than it says."""
    for test in policy.test:
        if test.addresses and (test.url.address is not None or is_localhost(test.url.host)):
            yield f"{test.where}.addresses: {test.url} is never looked up; remove them"
        if test.cnames and not test.addresses:
            yield f"{test.where}.cnames: a chain ends in addresses; write addresses = [ … ]"
        if test.reason and test.expect == "allow":
            yield f'{test.where}.reason: what is allowed needs none; remove it, or write expect = "deny"'
        if test.reason and test.reason not in STEP_OF:
            yield f'{test.where}.reason: "{test.reason}" is no reason to deny; write one of {", ".join(STEP_OF)}'
        if test.client not in ("", *(client.name for client in policy.client)):
            yield f'{test.where}.client: "{test.client}" is no client; write the name of one, or leave it out for all'


def _failed_tests(policy: Policy, today: date) -> Iterator[str]:
    """Run the policy's tests, as if it were enforced, for the client they name or else for every one.

    What a test expects to be allowed is judged by the policy as written, expired permits included: a service must
    not fail to start because a permit ended as planned. What it expects to be denied is judged as of today.
    """
    enforced = replace(policy, destinations=replace(policy.destinations, mode="enforce"))
    own = _own(policy)
    snapshots = {"allow": enforced.at(date.min, own), "deny": enforced.at(today, own)}
    for test in policy.test:
        for client in policy.client:
            if test.client in ("", client.name):
                verdict = decide(test.url, client, snapshots[test.expect], test.answer())
                if (problem := _surprise(test, verdict)) is not None:
                    yield f"{test.where}: {test.url} for {client.name}: {problem}"


def _surprise(test: Expectation, verdict: Allow | Deny | NeedAddresses) -> str | None:
    """How a verdict differs from what the test expects."""
    if isinstance(verdict, NeedAddresses):
        return "needs DNS, and a test asks nobody; write addresses = [ … ]"
    if isinstance(verdict, Allow):
        return f"is allowed by {verdict.rule}, but expected to be denied" if test.expect == "deny" else None
    if test.expect == "allow":
        return f"is denied ({verdict.reason}) by {verdict.rule}, but expected to be allowed"
    if test.reason not in ("", verdict.reason):
        return f"is denied because {verdict.reason}, but expected because {test.reason}"
    return None
