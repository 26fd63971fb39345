"""The admin listener: [admin], where metrics and health are asked for. There is none unless the policy says so.

It is no place for clients: a Unix socket of proxyd's own account, or loopback for who knows a token. Its port is one of
proxyd's own, which nobody reaches through the proxy (`snapshot.Own`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxyd.policy.address import Endpoint
from proxyd.policy.listen import FILE, PLACE, Inherited, UnixPath
from proxyd.policy.shape import Scalar, Wrong, described, key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.listen import Listen


def _parse_place(value: object) -> Endpoint | UnixPath:
    place = PLACE.parse(value)
    if isinstance(place, Inherited):
        raise Wrong(f'{described(value)} will not do; write "127.0.0.1:9128" or "unix:/run/proxyd/admin"')
    if isinstance(place, Endpoint) and not (place.address.is_loopback() and place.port):
        raise Wrong(f'{described(value)} is not on loopback, or has no port; write "127.0.0.1:9128"')
    return place


_PLACE: Final = Scalar(_parse_place, {"type": "string", "minLength": 1})


@dataclass(frozen=True, kw_only=True)
class Admin:
    """Where the operator's programs ask how it goes. listen: None where nobody does."""

    listen: Endpoint | UnixPath | None = key(
        _PLACE,
        'where metrics and health are asked for, as "unix:/run/proxyd/admin" or "127.0.0.1:9128"',
        default=None,
    )
    token_file: str = key(
        FILE, "a file with the token that is asked for on loopback, which others cannot read", default=""
    )


def doubtful(admin: Admin, listen: Listen) -> Iterator[str]:
    """What does not fit together."""
    where = admin.listen
    if isinstance(where, Endpoint) and not admin.token_file:
        yield (
            f"admin.listen: whoever is on this host reaches {where}; write token_file, or "
            'listen = "unix:/run/proxyd/admin"'
        )
    if where is None and admin.token_file:
        yield 'admin.token_file: nobody is asked for it; write listen = "127.0.0.1:9128", or remove it'
    if isinstance(where, UnixPath) and admin.token_file:
        yield "admin.token_file: is for an address on loopback; a Unix socket has its mode: remove it"
    if where is not None and any(str(place) == str(where) for _, place in listen.places()):
        yield f"admin.listen: at {where} clients are served; choose another"
    if isinstance(where, UnixPath) and where.path == listen.control:
        yield f"admin.listen: at {where} is the control socket; choose another"
