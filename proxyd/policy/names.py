"""Host patterns: `api.example.com` is that host; `*.example.com` is any depth below it, and not itself.

Matching is label by label on normal forms, so `evilexample.com` is no `*.example.com` (ATTACKS 1.10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from proxyd.policy.address import BadTarget, parse_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


class NameTable(Generic[T]):
    """Host -> the values of every pattern that matches it, the most specific pattern first."""

    def __init__(self, rows: Iterable[tuple[str, T]]) -> None:
        self._exact: dict[str, list[T]] = {}
        self._below: dict[str, list[T]] = {}
        for pattern, value in rows:
            suffix = pattern.removeprefix("*.")
            table = self._exact if suffix == pattern else self._below
            table.setdefault(suffix, []).append(value)

    def matches(self, host: str) -> Iterator[T]:
        """Values for `host`, a name in normal form or the canonical spelling of an address."""
        yield from self._exact.get(host, ())
        while "." in host:
            host = host.partition(".")[2]
            yield from self._below.get(host, ())

    def first(self, host: str) -> T | None:
        """The value of the most specific pattern that matches, or None."""
        return next(self.matches(host), None)


def normal_pattern(text: str) -> str:
    """The normal form of a host pattern; what is already normal comes back unchanged.

    Raises BadTarget for what is no host and no `*.` before a name.
    """
    stars, host = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    name, address = parse_host(f"[{host}]" if ":" in host else host)
    if stars and address is not None:
        raise BadTarget("a pattern *.suffix has a name for a suffix, not an address")
    return stars + name
