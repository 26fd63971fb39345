"""That a request is not served, and why: raised wherever that is found out, and told by the exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxyd.policy.verdict import Deny, Reason


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
