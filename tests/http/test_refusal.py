"""What a refusal looks like: whose fault it is and what to do, for every reason, and nothing that was sent to us.

R11, ATTACKS 9, RFC 9209 (Proxy-Status) and RFC 9457 (problem details).
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Final

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.http.refusal import refusal, status_of
from proxyd.policy.verdict import STEP_OF, Reason, Step
from tests.http.raw_heads import head

DECISION: Final = "01J9Z6-7"
RULE: Final = 'corp "10/8"\r\n\x1b[0m\u202e'
"""A label with all that a field, a terminal or JSON could trip over."""

PARAMETER: Final = (
    r'; *[a-z*][a-z0-9_.*-]*(?:=(?:[A-Za-z*][!#$%&\'*+.^_`|~0-9A-Za-z:/-]*|"(?:[ !#-\[\]-~]|\\["\\])*"))?'
)
MEMBER: Final = re.compile(rf"([A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*)((?:{PARAMETER})*)")
"""A list member that is a token with parameters (RFC 8941 §3.1, §3.3.4)."""

ERRORS_OF_RFC_9209: Final = {
    "connection_limit_reached",
    "connection_read_timeout",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_write_timeout",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "destination_not_found",
    "destination_unavailable",
    "dns_error",
    "dns_timeout",
    "http_protocol_error",
    "http_request_denied",
    "http_request_error",
    "http_response_incomplete",
    "http_response_timeout",
    "proxy_configuration_error",
    "proxy_internal_error",
    "proxy_internal_response",
    "proxy_loop_detected",
}

NO_CREDENTIAL: Final = {Reason.CREDENTIAL_REQUIRED}
LATER_DENIALS: Final = {Reason.TLS_NAME, Reason.REVOKED}
"""Denials of what was allowed at first."""
DENIALS: Final = {reason for reason, step in STEP_OF.items() if step is not Step.FORM} - NO_CREDENTIAL | LATER_DENIALS
TOO_MUCH: Final = {Reason.RATE_LIMIT, Reason.CONCURRENCY_LIMIT}
TIMEOUTS: Final = {Reason.DNS_TIMEOUT, Reason.CONNECT_TIMEOUT, Reason.ORIGIN_TIMEOUT}
BAD_GATEWAY: Final = {
    Reason.DNS_ERROR,
    Reason.CONNECT_REFUSED,
    Reason.CONNECT_UNREACHABLE,
    Reason.PARENT_UNREACHABLE,
    Reason.PARENT_REFUSED,
    Reason.ORIGIN_MALFORMED,
    Reason.ORIGIN_CLOSED,
    Reason.LOOP_DETECTED,
}
OURS: Final = {
    Reason.CONNECTION_LIMIT,
    Reason.OVERLOADED,
    Reason.EGRESS_UNAVAILABLE,
    Reason.AUDIT_UNWRITABLE,
    Reason.INTERNAL_ERROR,
    Reason.OUT_OF_RESOURCES,
    Reason.ABORTED,
}
THEIRS: Final = set(Reason) - DENIALS - NO_CREDENTIAL - TOO_MUCH - TIMEOUTS - BAD_GATEWAY - OURS


def fields_of(reason: Reason, *, rule: str | None = RULE, close: bool = False) -> dict[str, str]:
    response, _ = refusal(reason, rule, DECISION, close=close)
    fields = {name.decode(): value.decode() for name, value in response.headers}
    assert len(fields) == len(response.headers)
    return fields


def problem_of(reason: Reason, rule: str | None = RULE) -> dict[str, object]:
    problem = json.loads(refusal(reason, rule, DECISION, close=False)[1])
    assert isinstance(problem, dict)
    return problem


# The status


@pytest.mark.parametrize("reason", sorted(DENIALS))
def test_r11_a_denial_is_a_403(reason: Reason) -> None:
    """And nothing else is: the client sees no more of a refused CONNECT than the status."""
    assert status_of(reason) == 403


@pytest.mark.parametrize("reason", sorted(set(Reason) - DENIALS))
def test_r11_only_a_denial_is_a_403(reason: Reason) -> None:
    assert status_of(reason) != 403


def test_r2_whom_a_credential_could_help_is_challenged_for_one() -> None:
    """RFC 9110 §15.5.8, RFC 7617 §2: with the one scheme that there is, and UTF-8. Nobody else is."""
    assert status_of(Reason.CREDENTIAL_REQUIRED) == 407
    for reason in Reason:
        challenge = 'Basic realm="proxyd", charset="UTF-8"' if reason is Reason.CREDENTIAL_REQUIRED else None
        assert fields_of(reason).get("proxy-authenticate") == challenge
        assert (status_of(reason) == 407) == (challenge is not None)


def test_a_407_says_what_is_missing_and_not_that_the_policy_refuses() -> None:
    """CLIENT.md: errors that say whose fault it is."""
    detail = str(problem_of(Reason.CREDENTIAL_REQUIRED)["detail"])
    assert "user name and a password" in detail
    assert "olicy" not in detail


@pytest.mark.parametrize("reason", sorted(TOO_MUCH))
def test_r10_too_much_of_one_client_is_a_429_that_says_so(reason: Reason) -> None:
    assert status_of(reason) == 429
    assert "Retry-After" in str(problem_of(reason)["detail"])
    assert "error=connection_limit_reached;" in fields_of(reason)["proxy-status"]


@pytest.mark.parametrize("reason", sorted(TIMEOUTS))
def test_r11_a_destination_that_is_too_slow_is_a_504(reason: Reason) -> None:
    assert status_of(reason) == 504


@pytest.mark.parametrize("reason", sorted(BAD_GATEWAY))
def test_r11_a_destination_that_cannot_be_had_is_a_502(reason: Reason) -> None:
    assert status_of(reason) == 502


@pytest.mark.parametrize("reason", sorted(OURS))
def test_r12_what_we_cannot_do_ourselves_is_a_503_or_a_bug(reason: Reason) -> None:
    assert status_of(reason) == (500 if reason is Reason.INTERNAL_ERROR else 503)


@pytest.mark.parametrize("reason", sorted(THEIRS))
def test_r11_what_the_client_did_wrong_says_what_it_was(reason: Reason) -> None:
    assert (
        status_of(reason)
        == {
            Reason.MALFORMED_TARGET: 400,
            Reason.MALFORMED_REQUEST: 400,
            Reason.METHOD_REFUSED: 405,
            Reason.HEAD_TIMEOUT: 408,
            Reason.BODY_TIMEOUT: 408,
            Reason.EXPECTATION_FAILED: 417,
            Reason.HEAD_TOO_LARGE: 431,
            Reason.CODING_UNSUPPORTED: 501,
            Reason.VERSION_UNSUPPORTED: 505,
        }[reason]
    )


# The answer


@pytest.mark.parametrize("reason", Reason)
def test_the_reason_s_word_stands_in_the_phrase_the_proxy_status_and_the_body(reason: Reason) -> None:
    """node:http shows the status line only, curl -v the fields, a language model reads the body."""
    response, _ = refusal(reason, RULE, DECISION, close=False)
    assert response.status_code == status_of(reason)
    assert re.fullmatch(rb"[A-Za-z -]+: " + reason.value.encode(), response.reason)
    assert f'details="{reason.value}"' in fields_of(reason)["proxy-status"]
    assert problem_of(reason)["reason"] == reason.value


@pytest.mark.parametrize("reason", Reason)
def test_the_proxy_status_is_one_member_of_a_structured_list_in_our_name(reason: Reason) -> None:
    member = MEMBER.fullmatch(fields_of(reason)["proxy-status"])
    assert member is not None
    assert member[1] == "proxyd"
    parameters = dict(part.strip().split("=") for part in member[2].split(";")[1:])
    assert list(parameters) == ["error", "details"]
    assert parameters["error"] in ERRORS_OF_RFC_9209


def test_a_prohibited_address_and_failures_to_reach_one_have_their_own_error() -> None:
    for reason, error in (
        (Reason.ADDRESS_DENIED, "destination_ip_prohibited"),
        (Reason.ADDRESS_LOCKED, "destination_ip_prohibited"),
        (Reason.NAME_DENIED, "http_request_denied"),
        (Reason.NOT_ALLOWLISTED, "http_request_denied"),
        (Reason.DNS_ERROR, "dns_error"),
        (Reason.DNS_TIMEOUT, "dns_timeout"),
        (Reason.CONNECT_REFUSED, "connection_refused"),
        (Reason.CONNECT_TIMEOUT, "connection_timeout"),
        (Reason.LOOP_DETECTED, "proxy_loop_detected"),
    ):
        assert f"error={error};" in fields_of(reason)["proxy-status"]


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("rule", [RULE, None], ids=["rule", "no rule"])
def test_the_body_is_a_problem_document_as_long_as_it_says(reason: Reason, rule: str | None) -> None:
    response, body = refusal(reason, rule, DECISION, close=False)
    fields = fields_of(reason, rule=rule)
    assert fields["content-type"] == "application/problem+json"
    assert fields["content-length"] == str(len(body))
    assert fields["cache-control"] == "no-store"
    problem = problem_of(reason, rule)
    assert ("rule" in problem) == (rule is not None)
    assert problem.pop("rule", None) == rule
    assert isinstance(detail := problem.pop("detail"), str)
    assert re.fullmatch(r"[A-Z][^\n]+\.", detail)
    assert isinstance(title := problem.pop("title"), str)
    assert response.reason.decode() == f"{title}: {reason.value}"
    assert problem == {"status": response.status_code, "reason": reason.value, "decision": DECISION}
    assert body.isascii()
    assert body.endswith(b"}\n")


@pytest.mark.parametrize("reason", sorted(DENIALS))
def test_a_denial_tells_a_language_model_not_to_retry_and_whom_to_ask(reason: Reason) -> None:
    detail = str(problem_of(reason)["detail"])
    assert "do not retry" in detail
    assert "operator" in detail
    assert "id" in detail


@pytest.mark.parametrize("reason", sorted(TIMEOUTS | {Reason.DNS_ERROR, Reason.CONNECT_REFUSED}))
def test_a_failure_is_not_told_as_a_denial(reason: Reason) -> None:
    assert "olicy" not in str(problem_of(reason)["detail"])
    assert "retry" not in str(problem_of(reason)["detail"])


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("seconds", [1, 3600])
def test_r10_what_waiting_helps_against_says_how_long(reason: Reason, seconds: int) -> None:
    """RFC 9110 §10.2.3, RFC 6585 §4; everything else will be as it was."""
    response, _ = refusal(reason, None, DECISION, close=False, retry_after=seconds)
    said = dict(response.headers).get(b"retry-after")
    assert said == (str(seconds).encode() if status_of(reason) in (429, 503) else None)
    assert (said is not None) == (reason in OURS - {Reason.INTERNAL_ERROR} | TOO_MUCH)
    assert fields_of(reason).get("retry-after") == (None if said is None else "1")


@pytest.mark.parametrize("reason", Reason)
def test_a_405_names_the_methods_that_are_served(reason: Reason) -> None:
    """RFC 9110 §15.5.6."""
    allow = fields_of(reason).get("allow")
    assert (allow is not None) == (status_of(reason) == 405)
    if allow is not None:
        methods = allow.split(", ")
        assert {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT"} <= set(methods)
        assert "TRACE" not in methods


@pytest.mark.parametrize("reason", Reason)
def test_the_end_of_the_connection_is_said_if_it_comes(reason: Reason) -> None:
    assert fields_of(reason, close=True) == {**fields_of(reason), "connection": "close"}
    assert "connection" not in fields_of(reason)


# What it does not say


def test_attack_9_a_refusal_is_made_of_nothing_that_was_sent_or_found() -> None:
    """No request, no address, no destination: what is not given cannot leak."""
    assert set(inspect.signature(refusal).parameters) == {"reason", "rule", "decision", "close", "retry_after"}


@pytest.mark.parametrize("reason", Reason)
@given(rule=st.text(max_size=20), decision=st.text(max_size=20))
def test_attack_9_rule_and_decision_stand_in_the_body_alone_and_escaped(
    reason: Reason, rule: str, decision: str
) -> None:
    plain, _ = refusal(reason, None, "", close=False)
    response, body = refusal(reason, rule, decision, close=False)
    lengths = [(b"content-length", b"%d" % len(body))]
    assert [each for each in response.headers if each not in lengths] == [
        each for each in plain.headers if each[0] != b"content-length"
    ]
    assert response.reason == plain.reason
    problem = json.loads(body)
    assert (problem["rule"], problem["decision"]) == (rule, decision)
    assert not re.search(rb"[^ -~]", body[:-1])


@pytest.mark.parametrize("reason", Reason)
def test_attack_9_it_does_not_say_how_to_open_the_policy(reason: Reason) -> None:
    """A model that can edit files reads it."""
    response, body = refusal(reason, None, DECISION, close=False)
    told = (body + b" ".join(value for _, value in response.headers)).lower()
    for word in (b"permit", b"allow]", b"[[", b".toml", b"policies/", b"/etc", b"--policy", b"edit", b"reload"):
        assert word not in told


# On the wire


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("method", ["GET", "HEAD", "CONNECT"])
@pytest.mark.parametrize("close", [False, True])
def test_h11_can_send_every_refusal_and_a_client_reads_it_back(reason: Reason, method: str, close: bool) -> None:  # noqa: FBT001
    """The body is given to a HEAD too: to leave it out is the business of whoever sends it."""
    response, body = refusal(reason, RULE, DECISION, close=close)
    server, client = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
    target = "example.com:443" if method == "CONNECT" else "http://example.com/"
    server.receive_data(head(line=f"{method} {target} HTTP/1.1"))
    server.next_event()
    server.next_event()
    events = [response, *([] if method == "HEAD" else [h11.Data(data=body)]), h11.EndOfMessage()]
    raw = b"".join(server.send(event) or b"" for event in events)
    assert (server.our_state is h11.MUST_CLOSE) == close

    client.send(h11.Request(method=method, target=target, headers=[("Host", "example.com")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    read = client.next_event()
    assert isinstance(read, h11.Response)
    assert (read.status_code, read.reason) == (response.status_code, response.reason)
    assert read.headers == response.headers
    if method != "HEAD":
        data = client.next_event()
        assert isinstance(data, h11.Data)
        assert data.data == body
    assert isinstance(client.next_event(), h11.EndOfMessage)
