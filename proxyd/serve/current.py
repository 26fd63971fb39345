"""The policy as it stands now: on this day, and on this host as it is addressed now.

A permit ends at 00:00 UTC after its last day, and an address that the host was given is ours from then on. Asked
for each request; built anew only when one of the two changed, so that what is compiled for a snapshot lasts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxyd.policy.model import Own

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from netaddr import IPNetwork

    from proxyd.policy.model import Policy, Snapshot

REFRESH_SECONDS: Final = 10.0  # between two looks at the host's addresses


class CurrentPolicy:
    """Call it for the Snapshot that holds now."""

    def __init__(
        self,
        policy: Policy,
        ports: frozenset[int],
        now: Callable[[], dt.datetime],
        own_addresses: Callable[[], frozenset[IPNetwork]],
        complain: Callable[[str], None],
    ) -> None:
        """ports: those that proxyd listens on. now: the time of day, in UTC. own_addresses: raises OSError.

        Raises OSError where the host's addresses cannot be known to begin with.
        """
        self._policy = policy
        self._ports = ports
        self._now = now
        self._own_addresses = own_addresses
        self._complain = complain
        self._looked = now()
        self._day = self._looked.date()
        self._snapshot = policy.at(self._day, Own(ports, own_addresses()))

    def __call__(self) -> Snapshot:
        """The policy's snapshot of this moment."""
        now = self._now()
        if now.date() != self._day or abs((now - self._looked).total_seconds()) >= REFRESH_SECONDS:
            self._look(now)
        return self._snapshot

    def _look(self, now: dt.datetime) -> None:
        own = self._own()
        if now.date() != self._day or own != self._snapshot.own:
            self._snapshot = self._policy.at(now.date(), own)
        self._looked, self._day = now, now.date()

    def _own(self) -> Own:
        """Where proxyd can be reached. What cannot be read now is taken to be as it was (R12)."""
        try:
            return Own(self._ports, self._own_addresses())
        except OSError as error:
            self._complain(f"the addresses of this host cannot be read: {error.strerror}")
            return self._snapshot.own
