"""The policy as it stands now: a new snapshot at midnight UTC and after a change of address, else the old one."""

from __future__ import annotations

import datetime as dt
import errno

import pytest
from netaddr import IPAddress, IPNetwork

from proxyd.policy.snapshot import Own
from proxyd.serve.current import REFRESH_SECONDS, CurrentPolicy, InForce
from tests.serve.scene import PERMIT_LOCAL, policy

PORTS = frozenset({3128})
NOON = dt.datetime(2026, 8, 1, 12, 0, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


class Host:
    """A clock and a machine; `looks` counts how often its addresses were asked for."""

    def __init__(self, now: dt.datetime = NOON) -> None:
        self.time = now
        self.addresses = frozenset({IPNetwork("192.0.2.1/32")})
        self.looks = 0
        self.error: OSError | None = None
        self.complaints: list[str] = []

    def now(self) -> dt.datetime:
        return self.time

    def own_addresses(self) -> frozenset[IPNetwork]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.addresses


def current(host: Host, expires: str = "2026-08-01") -> CurrentPolicy:
    """A policy with a permit that ends on that day."""
    made = policy(f"{PERMIT_LOCAL}expires = {expires}")
    return CurrentPolicy(InForce(made, PORTS, {"agent": 1001}), host.now, host.own_addresses, host.complaints.append)


def test_the_snapshot_is_that_of_this_day_and_this_host() -> None:
    """ATTACKS 2.17: our listeners, on every address we have."""
    host = Host()
    snapshot = current(host)()
    assert snapshot.own == Own(PORTS, host.addresses)
    assert len(snapshot.policy.permit) == 1
    assert snapshot.accounts == {"agent": 1001}


def test_the_snapshot_stays_the_same_object_as_long_as_nothing_changed() -> None:
    """What is compiled for it lasts: also over a look at the host that finds nothing new."""
    host = Host()
    policy_now = current(host)
    first = policy_now()
    for seconds in (0, 1, 9, 10, 11, 20, 3600):
        host.time = NOON + seconds * SECOND
        assert policy_now() is first


@pytest.mark.parametrize(("seconds", "looks"), [(REFRESH_SECONDS - 0.001, 1), (REFRESH_SECONDS, 2)])
def test_the_host_is_looked_at_every_10_seconds_at_most(seconds: float, looks: int) -> None:
    host = Host()
    policy_now = current(host)
    host.time = NOON + seconds * SECOND
    policy_now()
    policy_now()
    assert (host.looks, REFRESH_SECONDS) == (looks, 10.0)


def test_a_look_counts_from_the_last_one() -> None:
    host = Host()
    policy_now = current(host)
    for seconds, looks in ((15, 2), (24, 2), (25, 3)):
        host.time = NOON + seconds * SECOND
        policy_now()
        assert host.looks == looks


def test_an_address_that_the_host_was_given_is_ours_from_the_next_look_on() -> None:
    """ATTACKS 2.17: and one that it lost is not."""
    host = Host()
    policy_now = current(host)
    first = policy_now()
    host.addresses = frozenset({IPNetwork("198.51.100.0/28")})
    host.time = NOON + 9 * SECOND
    assert policy_now() is first
    host.time = NOON + 10 * SECOND
    second = policy_now()
    assert second.own == Own(PORTS, host.addresses)
    assert second.own.holds(IPAddress("198.51.100.9"), 3128)
    assert not second.own.holds(IPAddress("192.0.2.1"), 3128)
    assert policy_now() is second


def test_a_permit_ends_at_midnight_utc_after_its_last_day() -> None:
    """DESIGN, "Time and change": to the second, without waiting for the next look."""
    host = Host(dt.datetime(2026, 8, 1, 23, 59, 59, tzinfo=dt.UTC))
    policy_now = current(host)
    assert len(policy_now().policy.permit) == 1
    host.time += SECOND
    tomorrow = policy_now()
    assert tomorrow.policy.permit == ()
    assert host.looks == 2
    assert policy_now() is tomorrow


def test_a_clock_that_is_set_back_does_not_stop_the_looks() -> None:
    """Else the host would not be looked at until the clock caught up; and its day counts as it stands."""
    host = Host(dt.datetime(2026, 8, 2, 0, 0, 5, tzinfo=dt.UTC))
    policy_now = current(host)
    assert policy_now().policy.permit == ()
    host.time -= 10 * SECOND
    assert len(policy_now().policy.permit) == 1
    host.time -= 20 * SECOND
    host.addresses = frozenset()
    assert policy_now().own == Own(PORTS, frozenset())


def test_addresses_that_cannot_be_read_to_begin_with_are_the_callers_to_hear_of() -> None:
    """R12: not to know where we are is no reason to be nowhere."""
    host = Host()
    host.error = OSError(errno.EACCES, "Permission denied")
    with pytest.raises(OSError, match="Permission denied"):
        current(host)
    assert host.complaints == []


def test_addresses_that_cannot_be_read_later_stay_as_they_were_known_and_that_is_complained_about() -> None:
    """R12, ATTACKS 2.17: proxyd once forgot its own addresses when the files ran out."""
    host = Host()
    policy_now = current(host)
    first = policy_now()
    host.error = OSError(errno.EMFILE, "Too many open files")
    host.time = NOON + 10 * SECOND
    assert policy_now() is first
    assert first.own.holds(IPAddress("192.0.2.1"), 3128)
    assert host.complaints == ["the addresses of this host cannot be read: Too many open files"]
    host.time = NOON + 19 * SECOND
    policy_now()
    assert (host.looks, len(host.complaints)) == (2, 1)
    host.error = None
    host.addresses = frozenset({IPNetwork("198.51.100.0/28")})
    host.time = NOON + 20 * SECOND
    assert policy_now().own == Own(PORTS, host.addresses)


def test_a_permit_ends_at_midnight_also_while_the_addresses_cannot_be_read() -> None:
    """R12: the day does not wait for the host; nor are our addresses forgotten with the old day's snapshot."""
    host = Host(dt.datetime(2026, 8, 1, 23, 59, 59, tzinfo=dt.UTC))
    policy_now = current(host)
    host.error = OSError(errno.EMFILE, "Too many open files")
    host.time += SECOND
    assert policy_now().policy.permit == ()
    assert policy_now().own == Own(PORTS, host.addresses)


OTHER = InForce(policy(default="deny"), frozenset({8080}), {"other": 1002})


def test_another_policy_holds_from_the_moment_it_is_installed() -> None:
    """R10: with its own ports and accounts, on this day and on this host as it is now."""
    host = Host()
    policy_now = current(host)
    first = policy_now()
    host.addresses = frozenset({IPNetwork("198.51.100.0/28")})
    policy_now.install(OTHER)
    second = policy_now()
    assert second is not first
    assert (second.policy.destinations.default, second.accounts) == ("deny", {"other": 1002})
    assert second.own == Own(frozenset({8080}), host.addresses)
    assert policy_now() is second


def test_the_policy_that_was_installed_holds_on_the_next_day_too() -> None:
    """ATTACKS 7.7: midnight does not bring the old one back; nor does an address that comes or goes."""
    host = Host()
    policy_now = current(host)
    policy_now.install(OTHER)
    for days in (1, 2):
        host.time += dt.timedelta(days=days)
        host.addresses |= {IPNetwork(f"198.51.100.{days}/32")}
        assert policy_now().policy.destinations.default == "deny"
        assert policy_now().own == Own(frozenset({8080}), host.addresses)


def test_the_next_look_at_the_host_counts_from_when_a_policy_was_installed() -> None:
    host = Host()
    policy_now = current(host)
    host.time += 9 * SECOND
    policy_now.install(OTHER)
    host.time += 9 * SECOND
    policy_now()
    assert host.looks == 2
    host.time += SECOND
    policy_now()
    assert host.looks == 3


def test_an_installed_policy_does_not_forget_our_addresses_where_they_cannot_be_read() -> None:
    """R12, ATTACKS 2.17: the old ones stay ours, by the new policy's ports; and the permits that ended are gone."""
    host = Host()
    policy_now = current(host)
    host.error = OSError(errno.EMFILE, "Too many open files")
    host.time += dt.timedelta(days=1)
    policy_now.install(InForce(policy(f"{PERMIT_LOCAL}expires = 2026-08-01"), frozenset({8080})))
    assert policy_now().own == Own(frozenset({8080}), host.addresses)
    assert policy_now().policy.permit == ()
    assert host.complaints == ["the addresses of this host cannot be read: Too many open files"]
