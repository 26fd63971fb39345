"""That a request is not served, and why: raised wherever that is found out, and told by the exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from proxyd.policy.verdict import Deny

_OF_ANSWERS: Final = frozenset(
    {Reason.ADDRESS_DENIED, Reason.ADDRESS_LOCKED, Reason.NAME_DENIED, Reason.NAME_LOCKED, Reason.NAME_RESERVED}
    | {Reason.PORT_DENIED, Reason.NOT_ALLOWLISTED, Reason.DNS_ERROR}
)
"""What may become of a name by what DNS answered."""


class Refused(Exception):  # noqa: N818 - what became of the request
    """The request is not served.

    deny: the judge's word, if it was the judge's. close: whether the connection cannot be trusted any longer.
    retry_after: seconds, where it helps to wait.
    """

    def __init__(self, reason: Reason, deny: Deny | None = None, *, close: bool = False, retry_after: int = 1) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.deny = deny
        self.close = close
        self.retry_after = retry_after

    @property
    def uniform_reason(self) -> Reason:
        """What a client is told where it must not learn, through us, what a name resolves to; the log has the truth."""
        return Reason.DNS_ERROR if self.reason in _OF_ANSWERS else self.reason
