"""What a change opens and closes once a permit has expired: told with the day from which on it is so (R8, R9)."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from proxyd.policy.compare import compare_from
from tests.policy.worlds import TODAY, allow, permit, policy

if TYPE_CHECKING:
    from proxyd.policy.model import Policy
    from proxyd.policy.rows import PermitRow

NAS: Final = permit("nas.local", "10.0.0.0/30")


def days(*permits: PermitRow, **said: Any) -> Policy:  # noqa: ANN401 - as `policy` has it
    """A policy with these permits."""
    return policy(permit=permits, **said)


def test_r9_what_a_permit_opens_beyond_its_last_day_is_told_with_the_day_after() -> None:
    ends, later = (replace(NAS, expires=day) for day in (date(2026, 8, 9), date(2026, 9, 9)))
    for old, new, since in ((ends, NAS, "2026-08-10"), (ends, later, "2026-08-10"), (later, NAS, "2026-09-10")):
        (change,) = compare_from(days(old), days(new), TODAY)
        assert (change.opens, change.kind, change.since, change.severity) == (True, "permits", since, "high")
        (change,) = compare_from(days(new), days(old), TODAY)
        assert (change.opens, change.kind, change.since) == (False, "permits", since)


def test_r9_a_day_that_is_over_or_never_comes_is_none() -> None:
    over, never = (replace(NAS, expires=day) for day in (date(2026, 7, 31), date.max))
    assert list(compare_from(days(over), days(), TODAY)) == []
    assert list(compare_from(days(never), days(NAS), TODAY)) == []


def test_r9_what_is_told_for_today_is_not_told_again() -> None:
    ends = replace(NAS, expires=date(2026, 8, 9))
    found = list(compare_from(days(default="deny"), days(ends, default="deny", allow=(allow("a.com"),)), TODAY))
    assert {(each.kind, each.since) for each in found} == {("permits", ""), ("names", "")}
    assert len(found) == len(set(found))


def test_r9_what_is_open_for_a_permit_and_stays_so_without_is_told() -> None:
    """Both have the permit: it is a row of the allowlist that is new, and that matters once the permit has ended."""
    ends = permit("8.8.8.8", "8.8.8.8/32", expires=date(2026, 8, 9))
    listed = days(ends, default="deny", allow=(allow("8.8.8.8"),))
    (change,) = compare_from(days(ends, default="deny"), listed, TODAY)
    assert (change.opens, change.kind, change.hosts, change.since) == (True, "literals", ("8.8.8.8/32",), "2026-08-10")
