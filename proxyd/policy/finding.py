"""What an audit says: an id that stays, a severity, what is so, why that matters, and how to mend it.

In the manner of OpenClaw's own security audit, which our operators know. Who finds what is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is, the worst first. A remark is nothing to be mended; it ought to be known."""

    CRITICAL = "critical"
    WARNING = "warning"
    REMARK = "remark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found. id: stable, for whoever filters. mend: what to do, as an instruction."""

    id: str
    severity: Severity
    what: str
    why: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


def critical(id_: str, what: str, why: str, mend: str) -> Finding:
    """It lets in, or out, whom it should not, or somebody can make it so."""
    return Finding(id=id_, severity=Severity.CRITICAL, what=what, why=why, mend=mend)


def warning(id_: str, what: str, why: str, mend: str) -> Finding:
    """It is weaker than it could be."""
    return Finding(id=id_, severity=Severity.WARNING, what=what, why=why, mend=mend)


def remark(id_: str, what: str, why: str, mend: str) -> Finding:
    """It may well be meant."""
    return Finding(id=id_, severity=Severity.REMARK, what=what, why=why, mend=mend)
