"""What a refusal carries from where it is found out to where it is told."""

from __future__ import annotations

from proxyd.policy.verdict import Deny, Reason
from proxyd.serve.refused import Refused


def test_a_refusal_says_its_reason_and_nothing_of_the_request() -> None:
    refused = Refused(Reason.RATE_LIMIT, retry_after=7)
    assert (str(refused), refused.deny, refused.close, refused.retry_after) == ("rate_limit", None, False, 7)


def test_a_denial_carries_the_judges_word() -> None:
    deny = Deny(Reason.PORT_DENIED, "port 22")
    refused = Refused(Reason.PORT_DENIED, deny, close=True)
    assert (refused.deny, refused.close, refused.retry_after) == (deny, True, 1)
