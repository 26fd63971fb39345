"""Who can connect to proxyd at all, as its listeners have it: what one [listen] lets in and another does not.

Who of them is which client is `peers`'. Nothing here opens anything, and no port of loopback makes a difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netaddr import IPAddress

from proxyd.policy.address import Endpoint
from proxyd.policy.listen import Inherited, UnixPath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.listen import Listen

_OWNERS: Final = 0o600  # who owns the socket may connect anyway
_GROUPS: Final = 0o070


def beyond(listen: Listen, other: Listen) -> Iterator[str]:
    """Where peers of `listen` come in that do not at `other`: addresses, inherited sockets, and Unix sockets for more.

    The sockets of a service manager are named once each: where they are is not known here.
    """
    others = {place for _, place in other.places()}
    for place in dict.fromkeys(place for _, place in listen.places()):
        if isinstance(place, Inherited) and place not in others:
            yield str(place)
        if isinstance(place, Endpoint) and not place.address.is_loopback() and not _is_covered(place, other):
            yield str(place)
    mode, other_mode = _unix_mode(listen), _unix_mode(other)
    if mode & ~other_mode:
        yield f"Unix sockets of mode {mode:04o}"
    if mode & _GROUPS and other_mode & _GROUPS and listen.unix_group != other.unix_group:
        yield f"Unix sockets of group {listen.unix_group or 'of proxyd'}"


def _is_covered(place: Endpoint, listen: Listen) -> bool:
    """Whether who connects there could, too: at that address, or at one that stands for all."""
    same = (each for each in listen.endpoints if each.port == place.port)
    return any(each.address in (place.address, IPAddress(0, place.address.version)) for each in same)


def _unix_mode(listen: Listen) -> int:
    return listen.unix_mode if any(isinstance(place, UnixPath) for _, place in listen.places()) else _OWNERS
