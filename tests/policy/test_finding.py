"""What a finding is: an id, how bad it is, and three sentences."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict
from typing import TYPE_CHECKING

import pytest

from proxyd.policy.finding import Finding, Severity, critical, remark, warning

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(("make", "severity"), [(critical, "critical"), (warning, "warning"), (remark, "remark")])
def test_a_finding_is_made_with_its_severity(make: Callable[..., Finding], severity: str) -> None:
    """And is told to a program in these words."""
    finding = make("listen.public", "it is open", "anybody comes", "close it")
    assert asdict(finding) == {
        "id": "listen.public",
        "severity": severity,
        "what": "it is open",
        "why": "anybody comes",
        "mend": "close it",
    }


def test_on_one_line_it_says_what_is_so_and_how_to_mend_it() -> None:
    assert str(warning("listen.public", "it is open", "anybody comes", "close it")) == "it is open; close it"


def test_the_worst_severity_is_the_first() -> None:
    """Findings are sorted by that."""
    assert list(Severity) == [Severity.CRITICAL, Severity.WARNING, Severity.REMARK]


def test_a_finding_stays_as_it_was_found() -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(remark("a", "b", "c", "d"), "id", "e")  # noqa: B010 - mypy sees through the other way
