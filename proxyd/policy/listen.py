"""Where proxyd listens: [listen]. Nothing here opens anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from proxyd.policy.address import Endpoint
from proxyd.policy.shape import FLAG, ListOf, Reader, Scalar, Wrong, described, endpoint, key, text

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_PATH: Final = 107  # octets of the path of a Unix socket (unix(7))
_MODE: Final = re.compile(r"0[0-7]{3}")
_INHERITED: Final = re.compile(r"systemd(?::([^\s:\x00-\x1f\x7f]{1,255}))?")
_ENDPOINT: Final = endpoint()


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A Unix socket, made by proxyd."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class Inherited:
    """Sockets made by the service manager: those of this name, or all of them (sd_listen_fds(3))."""

    name: str = ""

    def __str__(self) -> str:
        return f"systemd:{self.name}" if self.name else "systemd"


Where = Endpoint | UnixPath | Inherited


def _parse_where(value: object) -> Where:
    if isinstance(value, str) and (found := _INHERITED.fullmatch(value)):
        return Inherited(found[1] or "")
    if isinstance(value, str) and value.startswith("unix:"):
        return UnixPath(_parse_path(value.removeprefix("unix:")))
    return _ENDPOINT.parse(value)


def _parse_path(value: object) -> str:
    good = isinstance(value, str) and value.startswith("/") and value.isprintable()
    if not good or len(str(value).encode()) > _LONGEST_PATH:
        raise Wrong(f"{described(value)} will not do; write an absolute path of at most {_LONGEST_PATH} bytes")
    return str(value)


def _parse_mode(value: object) -> int:
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise Wrong(f'{described(value)} is no mode; write "0660" for the group too, or "0600"')
    return int(value, 8)


PLACE: Final = Scalar(_parse_where, {"type": "string", "minLength": 1})
"""A place to listen at."""
_PATH: Final = Scalar(_parse_path, {"type": "string", "pattern": "^/"})
FILE: Reader[Any] = text(4096, r"/[^\x00-\x1f\x7f]*", "an absolute path")
"""A file by its absolute path."""


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where proxyd listens: addresses, Unix sockets, and what the service manager hands over."""

    http: tuple[Where, ...] = key(
        ListOf(PLACE), 'places, as "127.0.0.1:3128", "unix:/run/proxyd/proxyd.sock" or "systemd"', default=()
    )
    https: tuple[Where, ...] = key(ListOf(PLACE), "places where clients speak TLS to the proxy", default=())
    certificate: str = key(FILE, "the certificate chain for https, in PEM", default="")
    private_key: str = key(FILE, "its private key, in PEM, which others cannot read", default="")
    unix_mode: int = key(
        Scalar(_parse_mode, {"type": "string", "pattern": "^0[0-7]{3}$"}), "the mode of Unix sockets", default=0o600
    )
    unix_group: str = key(text(64, r"[^\s:\x00-\x1f\x7f]+", "a group's name"), "the group of Unix sockets", default="")
    control: str = key(_PATH, "where `proxyd reload` finds this proxy: the absolute path of a socket", default="")
    dangerously_public_listener: bool = key(FLAG, "allow a listener beyond private networks", default=False)

    def places(self) -> Iterator[tuple[str, Where]]:
        """Every place, with the key that names it."""
        for name, places in (("http", self.http), ("https", self.https)):
            yield from ((f"listen.{name}[{index}]", place) for index, place in enumerate(places))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Those that are addresses."""
        return tuple(place for _, place in self.places() if isinstance(place, Endpoint))
