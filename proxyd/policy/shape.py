"""How one TOML value becomes one typed value, or a problem that names the key and the way out.

A Reader reads, and says in JSON Schema what it would accept: the loader and the published schema come from the
same object, so they cannot disagree. Readers collect problems instead of raising: a policy's author sees all
of them at once. Nothing here knows which keys a policy has.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import idna
from netaddr import AddrFormatError, IPAddress, IPNetwork

from proxyd.policy.address import MAX_PORT, BadTarget, Endpoint, bracketed, parse_endpoint
from proxyd.policy.names import normal_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Schema = dict[str, Any]
Problems = list[str]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LARGE = 1 << 64  # integers beyond are not worth printing, and Python refuses to print the longest
_SPAN = re.compile(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})")


class Reader(Protocol[T_co]):
    """Reads one value. `read` returns None exactly when it has added to `problems`."""

    def read(self, value: object, path: str, problems: Problems) -> T_co | None: ...

    def schema(self) -> Schema: ...


class Wrong(ValueError):  # noqa: N818 - raised and caught within this floor: what is wrong, and the right spelling
    """A scalar is not what its key wants; the message is the sentence the author reads."""


@dataclass(frozen=True)
class Scalar(Generic[T]):
    """A value read by one function, which raises Wrong."""

    parse: Callable[[object], T]
    accepts: Schema

    def read(self, value: object, path: str, problems: Problems) -> T | None:
        try:
            return self.parse(value)
        except Wrong as wrong:
            problems.append(f"{path}: {wrong}")
            return None

    def schema(self) -> Schema:
        return dict(self.accepts)


@dataclass(frozen=True)
class ListOf(Generic[T]):
    """A list that says something: at least one item, unless it is a table array that may be absent anyway."""

    item: Reader[T]

    def read(self, value: object, path: str, problems: Problems) -> tuple[T, ...] | None:
        if not isinstance(value, list):
            problems.append(f"{path}: {described(value)} is no list; write it as [ … ]")
            return None
        if not value:
            problems.append(f"{path}: an empty list says nothing; fill it or remove the key")
            return None
        items = [self.item.read(each, f"{path}[{index}]", problems) for index, each in enumerate(value)]
        return None if None in items else tuple(item for item in items if item is not None)

    def schema(self) -> Schema:
        return {"type": "array", "minItems": 1, "items": self.item.schema()}


@dataclass(frozen=True)
class Table(Generic[T]):
    """A TOML table read into a frozen dataclass whose fields were made by `key`."""

    into: Callable[..., T]

    def read(self, value: object, path: str, problems: Problems) -> T | None:
        if not isinstance(value, dict):
            problems.append(f"{path}: what is written there is no table")  # not repeated: [client.credential] is one
            return None
        before = len(problems)
        keys = self._keys()
        prefix = f"{path}." if path else ""
        for unknown in (name for name in value if name not in keys):
            problems.append(f"{prefix}{unknown}: {_unknown(unknown, keys)}")
        found = {
            name: each.metadata["reader"].read(value[name], prefix + name, problems)
            for name, each in keys.items()
            if name in value
        }
        for name, each in keys.items():
            if name not in value and _required(each):
                problems.append(f"{prefix}{name}: is missing; {each.metadata['doc']}")
        if len(problems) > before:
            return None
        where = {"where": path} if "where" in {each.name for each in fields(self.into)} else {}  # type: ignore[arg-type]
        return self.into(**found, **where)

    def schema(self) -> Schema:
        keys = self._keys()
        return {
            "type": "object",
            "additionalProperties": False,
            "required": sorted(name for name, each in keys.items() if _required(each)),
            "properties": {
                name: {"description": each.metadata["doc"]} | each.metadata["reader"].schema()
                for name, each in keys.items()
            },
        }

    def _keys(self) -> Mapping[str, Any]:
        return {each.name: each for each in fields(self.into) if "reader" in each.metadata}  # type: ignore[arg-type]


def key(reader: Reader[Any], doc: str, **default: Any) -> Any:  # noqa: ANN401 - as dataclasses.field is typed
    """A dataclass field that a policy file spells. Without `default=` the key is required."""
    return field(metadata={"reader": reader, "doc": doc}, **default)


def one_of(*words: str) -> Scalar[str]:
    """Exactly one of some words."""

    def parse(value: object) -> str:
        if value not in words:
            raise Wrong(f"{described(value)} is not one of them; write {_either(words)}")
        return str(value)

    return Scalar(parse, {"enum": list(words)})


def text(limit: int, pattern: str = r"(?=\S)[^\x00-\x1f\x7f-\x9f]+", hint: str = "printable text") -> Scalar[str]:
    """A string of at most `limit` characters, all of it matching `pattern`."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or len(value) > limit or not re.fullmatch(pattern, value):
            raise Wrong(f"{described(value)} will not do; write {hint} of at most {limit} characters in quotes")
        return value

    return Scalar(parse, {"type": "string", "maxLength": limit, "pattern": f"^{pattern}$"})


def number(low: int, high: int) -> Scalar[int]:
    """A whole number from `low` to `high`."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Wrong(f"{described(value)} is no whole number from {low} to {high}")
        return value

    return Scalar(parse, {"type": "integer", "minimum": low, "maximum": high})


def number_or(word: str, low: int, high: int) -> Scalar[int | str]:
    """A whole number from `low` to `high`, or a word in its place."""
    numbers = number(low, high)

    def parse(value: object) -> int | str:
        if value == word:
            return word
        try:
            return numbers.parse(value)
        except Wrong as wrong:
            raise Wrong(f'{wrong}, nor "{word}"') from None

    return Scalar(parse, {"anyOf": [{"const": word}, numbers.schema()]})


def _parse_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"{described(value)} is neither; write true or false")
    return value


def _parse_day(value: object) -> dt.date:
    if type(value) is not dt.date:
        raise Wrong(f"{described(value)} is no date; write it bare, as 2027-01-31")
    return value


def _parse_host_pattern(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f"{described(value)} is no host; write it in quotes")
    try:
        normal = normal_pattern(_a_labels(value))
    except BadTarget as bad:
        raise Wrong(f"{described(value)} is no host: {bad}") from None
    if normal != value:
        raise Wrong(f'"{value}" is not in normal form; write "{normal}"')
    return normal


def _parse_host(value: object) -> str:
    host = _parse_host_pattern(value)
    if host.startswith("*."):
        raise Wrong(f'"{host}" is a pattern; write one exact host')
    return host


def _parse_network(value: object) -> IPNetwork:
    if not isinstance(value, str):
        raise Wrong(f'{described(value)} is no network; write it in quotes, as "192.0.2.0/24"')
    try:
        network = IPNetwork(value)
    except (AddrFormatError, ValueError):
        raise Wrong(f'{described(value)} is no network; write it as "192.0.2.0/24" or "2001:db8::/32"') from None
    if value not in _spellings(network.cidr):
        raise Wrong(f'"{value}" is not in normal form (host bits, length or spelling); write "{network.cidr}"')
    return network


def _spellings(network: IPNetwork) -> set[str]:
    """The normal form (RFC 5952), and for `::ffff:0.0.0.0/96` and its like the `::ffff:0:0/96` of the registries."""
    head, _, tail = str(network.network).rpartition(":")
    if not head or "." not in tail:
        return {str(network)}
    quad = int(IPAddress(tail))
    return {str(network), f"{head}:{quad >> 16:x}:{quad & 0xFFFF:x}/{network.prefixlen}"}


def _parse_ports(value: object) -> range:
    """A port, or a "first-last" span of them; as a range, whose end is excluded."""
    first = last = value if type(value) is int else 0
    if isinstance(value, str) and (span := _SPAN.fullmatch(value)):
        first, last = int(span[1]), int(span[2])
    if not 1 <= first <= last <= MAX_PORT:
        raise Wrong(f'{described(value)} is no port or span of ports in 1-{MAX_PORT}; write 443 or "8000-8099"')
    return range(first, last + 1)


def endpoint(default_port: int | None = None) -> Scalar[Endpoint]:
    """An address and port. Without a default, port 0 stands for any free one (a listener's)."""
    example = "127.0.0.1:3128" if default_port is None else "9.9.9.9"

    def parse(value: object) -> Endpoint:
        if not isinstance(value, str):
            raise Wrong(f'{described(value)} is no endpoint; write "{example}"')
        try:
            found = parse_endpoint(value, default_port)
        except BadTarget as bad:
            raise Wrong(f'{described(value)} will not do: {bad}; write "{example}"') from None
        if value not in (str(found), bracketed(str(found.address))):
            raise Wrong(f'"{value}" is not in normal form; write "{found}"')
        return found

    return Scalar(parse, {"type": "string", "pattern": r"^(\[[0-9a-f:.]+\]|[0-9.]+)(:[0-9]{1,5})?$"})


FLAG: Reader[bool] = Scalar(_parse_flag, {"type": "boolean"})
DAY: Reader[dt.date] = Scalar(_parse_day, {"type": "string", "format": "date"})
HOST: Reader[str] = Scalar(_parse_host, {"type": "string", "pattern": r"^[a-z0-9._:-]+$"})
HOST_PATTERN: Reader[str] = Scalar(_parse_host_pattern, {"type": "string", "pattern": r"^(\*\.)?[a-z0-9._:-]+$"})
NETWORK = Scalar(_parse_network, {"type": "string", "pattern": r"^[0-9a-f.:]+/[0-9]{1,3}$"})
PORTS: Reader[range] = Scalar(
    _parse_ports,
    {
        "oneOf": [
            {"type": "integer", "minimum": 1, "maximum": MAX_PORT},
            {"type": "string", "pattern": "^[1-9][0-9]{0,4}-[1-9][0-9]{0,4}$"},
        ]
    },
)


def _a_labels(host: str) -> str:
    """An international name as DNS carries it; what cannot be one comes back as it was."""
    if host.isascii():
        return host
    star, name = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    try:
        return star + idna.encode(name, uts46=True).decode()
    except idna.IDNAError:
        return host


def _required(each: Any) -> bool:  # noqa: ANN401 - a dataclasses.Field
    return each.default is MISSING and each.default_factory is MISSING


def _unknown(name: str, keys: Mapping[str, object]) -> str:
    close = get_close_matches(name, keys, n=1)
    return f'unknown key; did you mean "{close[0]}"?' if close else f"unknown key; known here: {', '.join(keys)}"


def _either(words: Sequence[str]) -> str:
    return " or ".join(f'"{word}"' for word in words)


def described(value: object) -> str:
    """A value as a problem tells it. What looks like a URL may hold a credential, and is not repeated (R7)."""
    if isinstance(value, str):
        return "what is written there" if "@" in value or "://" in value else f'"{value}"'
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return "so large a number" if isinstance(value, int) and abs(value) > _LARGE else str(value)
