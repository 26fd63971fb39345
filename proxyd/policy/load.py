"""Policy files -> Policy, or every problem at once, each with its key and the way out (R8, R12).

Reading is the caller's: `read` hands over bytes, so that this floor touches no file. What a single key may be is
said in `model`, and what must hold between them in `contradictions`.
"""

from __future__ import annotations

import hashlib
import tomllib
from codecs import BOM_UTF8
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol, TypeVar

from proxyd.policy.client import Client
from proxyd.policy.contradictions import contradictions, failed_tests
from proxyd.policy.model import Parent, Policy
from proxyd.policy.password import BadHash, parse_hash
from proxyd.policy.rows import Row, Rows
from proxyd.policy.shape import Problems, Table
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

MAX_DEPTH = 4  # includes of includes; deeper than this nobody reviews
MAX_LINE = 8192  # octets; the time that tomllib takes for a dotted key grows with the square of its length
R = TypeVar("R", bound=Rows)
L = TypeVar("L", bound=Row | Client)  # what knows where it is written
_NOT_UTF_8 = "is not UTF-8 text; save it as UTF-8 without a byte order mark"
_ROW_KEYS = ("deny", "allow", "permit", "test")


class PolicyError(Exception):
    """The policy cannot be used. `problems` has one line for each thing to mend."""

    def __init__(self, problems: Problems) -> None:
        self.problems = [printable(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


class ReadFile(Protocol):
    """Hands over a file of a policy. Raises OSError."""

    def __call__(self, name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:
        """The real path of `name`, taken relative to the folder of the file `beside`, and its bytes.

        secret: what others than its owner and group may read, or others than its owner write, is refused.
        """


def load(name: str, read: ReadFile, today: date) -> Policy:
    """Read, check and test a policy. Raises PolicyError with every problem found.

    today: the day (UTC) as of which the policy's own tests are run.
    """
    source = _Source(read)
    policy = source.whole(name)
    problems = source.problems
    if policy is not None and not problems:
        problems += contradictions(policy, name)
    if policy is not None and not problems:
        problems += failed_tests(policy, today)
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
        self._paths: dict[str, str] = {}

    def whole(self, name: str) -> Policy | None:
        """The policy in file `name` with the rows of everything it includes."""
        opened = self._open(name, None, name, Policy, ())
        if opened is None:
            return None
        policy, included = opened
        rows = {key: sum((getattr(each, key) for each in included), getattr(policy, key)) for key in _ROW_KEYS}
        client = tuple(self._with_credential(each, name) for each in policy.client)
        parent = None if policy.parent is None else self._with_own_credential(policy.parent, name)
        digest = hashlib.sha256(b"".join(self._digests.values())).hexdigest()
        return replace(policy, digest=digest, client=client, parent=parent, **rows)

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
        self._paths[shown] = path
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

    def _with_credential(self, client: Client, name: str) -> Client:
        """The client, the hash of its password read from the file that the policy names."""
        credential = client.credential
        if credential is None or not credential.file or credential.password is not None:
            return client  # one with both is a contradiction
        at = f"{client.where}.credential.file"
        text = self._secret(credential.file, name, at)
        if text is None:
            return client
        self._digests[at] = hashlib.sha256(text.encode()).digest()
        try:
            return replace(client, credential=replace(credential, password=parse_hash(text), file=""))
        except BadHash as bad:
            self.problems.append(f"{at}: {bad}; `proxyd password` makes one")
            return client

    def _with_own_credential(self, parent: Parent, name: str) -> Parent:
        """The parent, with what proxyd itself has to show there.

        The digest does not cover that: it is no hash, and who has a log could try passwords by its digest.
        """
        if not parent.credential_file:
            return parent
        at = f"{name}: parent.credential_file"
        text = self._secret(parent.credential_file, name, at)
        if text is None:
            return parent
        text = text.rstrip("\r\n")
        if not text.isprintable() or ":" not in text:
            self.problems.append(f"{at}: is no credential; write user:password on one line")
        return replace(parent, credential=text)

    def _secret(self, file: str, name: str, at: str) -> str | None:
        """What is in a file that others must not read."""
        try:
            return self.read(file, self._paths[name], secret=True)[1].decode()
        except UnicodeDecodeError:
            self.problems.append(f"{at}: {_NOT_UTF_8}")
        except (OSError, ValueError) as error:
            self.problems.append(f"{at}: cannot be read: {getattr(error, 'strerror', None) or 'bad file name'}")
        return None

    def _parse(self, data: bytes, shown: str, into: type[R]) -> R | None:
        if any(len(line) > MAX_LINE for line in data.splitlines()):
            self.problems.append(f"{shown}: has a line of more than {MAX_LINE} bytes; break it up")
            return None
        if data.startswith(BOM_UTF8):
            self.problems.append(f"{shown}: begins with a byte order mark; save it as UTF-8 without one")
            return None
        try:
            document = tomllib.loads(data.decode())
        except UnicodeDecodeError:
            self.problems.append(f"{shown}: {_NOT_UTF_8}")
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
    rows = replace(rows, **{key: _in_file(getattr(rows, key), shown) for key in _ROW_KEYS})
    if isinstance(rows, Policy):
        return replace(rows, client=_in_file((_located_client(each, shown) for each in rows.client), shown))
    return rows


def _located_client(client: Client, shown: str) -> Client:
    deny, allow, permit = _in_file(client.deny, shown), _in_file(client.allow, shown), _in_file(client.permit, shown)
    return replace(client, deny=deny, allow=allow, permit=permit)


def _in_file(rows: Iterable[L], shown: str) -> tuple[L, ...]:
    return tuple(replace(row, where=f"{shown}: {row.where}") for row in rows)
