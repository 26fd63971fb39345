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


def test_what_a_name_resolved_to_shows_in_no_uniform_reason() -> None:
    """`dns.uniform_errors`; how it looks on the wire is in test_exchange_on_answers."""
    of_answers = {Reason.ADDRESS_DENIED, Reason.ADDRESS_LOCKED, Reason.NAME_DENIED, Reason.DNS_ERROR}
    assert {Refused(reason).uniform_reason for reason in of_answers} == {Reason.DNS_ERROR}
    for reason in (Reason.DNS_TIMEOUT, Reason.CONNECT_REFUSED, Reason.RATE_LIMIT):
        assert Refused(reason).uniform_reason is reason
