"""Policy files -> Policy, or every problem at once, each with its key and the way out (R8, R12).

Reading is the caller's: `read` hands over bytes, so that this floor touches no file. What a single key may be is
said in `model`; here is what must hold between them, and the policy's own tests.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from proxyd.policy.model import Policy, Rows, Snapshot, TestRow
from proxyd.policy.shape import Problems, Table
from proxyd.policy.special import locked_address, metadata_name, special_address
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, Deny, decide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from netaddr import IPAddress

    from proxyd.policy.model import Client

MAX_DEPTH = 4  # includes of includes; deeper than this nobody reviews
R = TypeVar("R", bound=Rows)
_ROW_KEYS = ("deny", "allow", "permit", "test")


class PolicyError(Exception):
    """The policy cannot be used. `problems` has one line for each thing to mend."""

    def __init__(self, problems: Problems) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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
        problems += [f"{name}: {problem}" for problem in _contradictions(policy)]
    if policy is not None and not problems:
        problems += [f"{name}: {problem}" for problem in _failed_tests(policy.at(today))]
    if policy is None or problems:
        raise PolicyError(sorted(set(problems), key=problems.index))
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
        for each in rows.include:
            if (opened := self._open(each, path, each, Rows, (*above, path))) is not None:
                included += [opened[0], *opened[1]]
        return rows, included

    def _parse(self, data: bytes, shown: str, into: type[R]) -> R | None:
        try:
            document = tomllib.loads(data.decode())
        except UnicodeDecodeError:
            self.problems.append(f"{shown}: is not UTF-8 text")
            return None
        except tomllib.TOMLDecodeError as error:
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


def _contradictions(policy: Policy) -> Iterator[str]:
    """What no single key can see."""
    yield from _repeated(policy)
    yield from _exposed(policy)
    yield from _empty_denies(policy)
    yield from _idle_allows(policy)
    yield from _vain_permits(policy)


def _repeated(policy: Policy) -> Iterator[str]:
    seen: dict[str, str] = {}
    for row in (*policy.deny, *policy.allow, *policy.permit):
        if row.name and seen.setdefault(row.name, row.where) != row.where:
            yield f'{row.where}.name: "{row.name}" is the name of {seen[row.name]} already; choose another'
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
        if any(network.prefixlen == 0 for network in networks) and not policy.listen.dangerously_public_listener:
            yield f"{at} is beyond loopback, and a client's networks are everyone's; narrow [[client]] networks"


def _is_private(address: IPAddress) -> bool:
    """Whether strangers cannot reach it: RFC 1918, RFC 4193, link-local, or carrier-grade NAT. A wildcard is public."""
    row = special_address(address)
    return row is not None and row.what.startswith(("private", "unique local", "link-local", "carrier-grade"))


def _empty_denies(policy: Policy) -> Iterator[str]:
    for row in policy.deny:
        if not row.hosts and not row.networks:
            yield f"{row.where}: refuses nothing; write hosts = [ … ] or networks = [ … ]"


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
    for permit in policy.permit:
        if metadata_name(permit.host) is not None:
            yield f'{permit.where}.host: "{permit.host}" is a metadata service, which nothing opens; remove the permit'
        for index, network in enumerate(permit.networks):
            if network.size == 1 and locked_address(network.network) is not None:
                yield f'{permit.where}.networks[{index}]: "{network}" is locked, and nothing opens it; remove it'


def _failed_tests(snapshot: Snapshot) -> Iterator[str]:
    for test in snapshot.policy.test:
        client = _tester(test, snapshot.policy)
        if client is None:
            yield f"{test.where}.client: is not the name of a client; write one of them"
            continue
        verdict = decide(test.url, client, snapshot, test.answer())
        if verdict is NEED_ADDRESSES:
            yield f"{test.where}: {test.url} needs DNS, and a test asks nobody; write addresses = [ … ]"
        elif (problem := _surprise(test, verdict)) is not None:
            yield f"{test.where}: {test.url}: {problem}"


def _tester(test: TestRow, policy: Policy) -> Client | None:
    named = [client for client in policy.client if test.client in (client.name, "")]
    return named[0] if len(named) == 1 else None


def _surprise(test: TestRow, verdict: Allow | Deny) -> str | None:
    """How a verdict differs from what the test expects."""
    if isinstance(verdict, Allow):
        return f"is allowed by {verdict.rule}, but expected to be denied" if test.expect == "deny" else None
    if test.expect == "allow":
        return f"is denied ({verdict.reason}) by {verdict.rule}, but expected to be allowed"
    if test.reason not in ("", verdict.reason):
        return f"is denied because {verdict.reason}, but expected because {test.reason}"
    return None
