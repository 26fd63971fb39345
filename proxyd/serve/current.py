"""The policy as it stands now: on this day, and on this host as it is addressed now.

A permit ends at 00:00 UTC after its last day, and an address that the host was given is ours from then on. Asked
for each request; built anew only when one of the two changed, or the policy, so that what is compiled for a snapshot
lasts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxyd.policy.snapshot import Own, Snapshot

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping

    from netaddr import IPNetwork

    from proxyd.policy.model import Policy

REFRESH_SECONDS: Final = 10.0  # between two looks at the host's addresses


@dataclass(frozen=True, slots=True)
class InForce:
    """A policy, the ports that proxyd listens on by it, and the numbers of the accounts that it names."""

    policy: Policy
    ports: frozenset[int]
    accounts: Mapping[str, int] = field(default_factory=dict)

    def at(self, day: dt.date, addresses: frozenset[IPNetwork]) -> Snapshot:
        """It on one day, on a host with these addresses."""
        return Snapshot.of(self.policy, day, Own(self.ports, addresses), self.accounts)


class CurrentPolicy:
    """Call it for the Snapshot that holds now."""

    def __init__(
        self,
        in_force: InForce,
        now: Callable[[], dt.datetime],
        own_addresses: Callable[[], frozenset[IPNetwork]],
        complain: Callable[[str], None],
    ) -> None:
        """now: the time of day, in UTC. own_addresses: raises OSError.

        Raises OSError where the host's addresses cannot be known to begin with.
        """
        self._in_force = in_force
        self._now = now
        self._own_addresses = own_addresses
        self._complain = complain
        self._looked = now()
        self._day = self._looked.date()
        self._snapshot = in_force.at(self._day, own_addresses())

    def __call__(self) -> Snapshot:
        """The policy's snapshot of this moment."""
        now = self._now()
        if now.date() != self._day or abs((now - self._looked).total_seconds()) >= REFRESH_SECONDS:
            self._look(now)
        return self._snapshot

    def install(self, in_force: InForce) -> None:
        """From now on, another policy holds."""
        self._in_force = in_force
        self._looked = self._now()
        self._day = self._looked.date()
        self._snapshot = in_force.at(self._day, self._addresses())

    def _look(self, now: dt.datetime) -> None:
        addresses = self._addresses()
        if now.date() != self._day or addresses != self._snapshot.own.addresses:
            self._snapshot = self._in_force.at(now.date(), addresses)
        self._looked, self._day = now, now.date()

    def _addresses(self) -> frozenset[IPNetwork]:
        """This host's. What cannot be read now is taken to be as it was (R12)."""
        try:
            return self._own_addresses()
        except OSError as error:
            self._complain(f"the addresses of this host cannot be read: {error.strerror}")
            return self._snapshot.own.addresses
