"""What a refusal looks like: status, reason phrase, Proxy-Status (RFC 9209) and problem document (RFC 9457).

It tells a person or a language model whose fault it is and what to do, and nothing else: no address that a
name resolved to, no way to open the policy, no byte of the request (ATTACKS 9).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import h11

from proxyd.http.proxy_status import OUR_NAME
from proxyd.policy.verdict import Reason

_POLICY = "Refused by policy; do not retry. Ask your operator, citing this decision id."
_REQUEST = "The request cannot be understood in exactly one way; do not retry it unchanged."
_SLOW = "The request was not complete in time; it may help to send it again, faster."
_LATER = "The destination could not be reached; it may help to try again later."
_ORIGIN = "The destination answered with something that is no valid HTTP; do not retry soon."
_LOOP = "The request came back to this proxy; do not retry. Tell your operator, citing this decision id."
_CREDENTIAL = "The proxy wants a user name and a password, and these are not right; do not retry without them."
_TOO_MUCH = "This client asks for more than it may; wait as long as Retry-After says, then go on more slowly."
_BUSY = "The proxy cannot serve this now; try again in a moment."
_BROKEN = "The proxy cannot serve requests; tell your operator, citing this decision id."


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    proxy_error: str  # a Proxy Error Type of RFC 9209 §2.3
    advice: str


# Denials are 403 by design, also where RFC 9209 recommends 502: the client tells them from failures by the status.
_ANSWERS: Final = {
    Reason.CLIENT_UNKNOWN: _Answer(403, "http_request_denied", _POLICY),
    Reason.CREDENTIAL_REQUIRED: _Answer(407, "http_request_denied", _CREDENTIAL),
    Reason.MALFORMED_TARGET: _Answer(400, "http_request_error", _REQUEST),
    Reason.PORT_DENIED: _Answer(403, "http_request_denied", _POLICY),
    Reason.NAME_LOCKED: _Answer(403, "http_request_denied", _POLICY),
    Reason.NAME_DENIED: _Answer(403, "http_request_denied", _POLICY),
    Reason.NAME_RESERVED: _Answer(403, "http_request_denied", _POLICY),
    Reason.NOT_ALLOWLISTED: _Answer(403, "http_request_denied", _POLICY),
    Reason.ADDRESS_LOCKED: _Answer(403, "destination_ip_prohibited", _POLICY),
    Reason.ADDRESS_DENIED: _Answer(403, "destination_ip_prohibited", _POLICY),
    Reason.MALFORMED_REQUEST: _Answer(400, "http_request_error", _REQUEST),
    Reason.HEAD_TOO_LARGE: _Answer(431, "http_request_error", _REQUEST),
    Reason.HEAD_TIMEOUT: _Answer(408, "http_request_error", _SLOW),
    Reason.BODY_TIMEOUT: _Answer(408, "http_request_error", _SLOW),
    Reason.METHOD_REFUSED: _Answer(405, "http_request_denied", _REQUEST),
    Reason.EXPECTATION_FAILED: _Answer(417, "http_request_error", _REQUEST),
    Reason.VERSION_UNSUPPORTED: _Answer(505, "http_request_error", _REQUEST),
    Reason.CODING_UNSUPPORTED: _Answer(501, "http_request_error", _REQUEST),
    Reason.LOOP_DETECTED: _Answer(502, "proxy_loop_detected", _LOOP),
    Reason.TLS_NAME: _Answer(403, "http_request_denied", _POLICY),
    Reason.REVOKED: _Answer(403, "http_request_denied", _POLICY),
    Reason.RATE_LIMIT: _Answer(429, "connection_limit_reached", _TOO_MUCH),
    Reason.CONCURRENCY_LIMIT: _Answer(429, "connection_limit_reached", _TOO_MUCH),
    Reason.OVERLOADED: _Answer(503, "connection_limit_reached", _BUSY),
    Reason.CONNECTION_LIMIT: _Answer(503, "connection_limit_reached", _BUSY),
    Reason.AUDIT_UNWRITABLE: _Answer(503, "proxy_internal_error", _BROKEN),
    Reason.ABORTED: _Answer(503, "proxy_internal_error", _BUSY),
    Reason.INTERNAL_ERROR: _Answer(500, "proxy_internal_error", _BROKEN),
    Reason.DNS_ERROR: _Answer(502, "dns_error", _LATER),
    Reason.DNS_TIMEOUT: _Answer(504, "dns_timeout", _LATER),
    Reason.CONNECT_REFUSED: _Answer(502, "connection_refused", _LATER),
    Reason.CONNECT_UNREACHABLE: _Answer(502, "destination_ip_unroutable", _LATER),
    Reason.CONNECT_TIMEOUT: _Answer(504, "connection_timeout", _LATER),
    Reason.EGRESS_UNAVAILABLE: _Answer(503, "proxy_configuration_error", _BROKEN),
    Reason.PARENT_UNREACHABLE: _Answer(502, "connection_refused", _LATER),
    Reason.PARENT_REFUSED: _Answer(502, "destination_unavailable", _LATER),
    Reason.OUT_OF_RESOURCES: _Answer(503, "proxy_internal_error", _BUSY),
    Reason.ORIGIN_MALFORMED: _Answer(502, "http_protocol_error", _ORIGIN),
    Reason.ORIGIN_CLOSED: _Answer(502, "connection_terminated", _LATER),
    Reason.ORIGIN_TIMEOUT: _Answer(504, "connection_read_timeout", _LATER),
}


def status_of(reason: Reason) -> int:
    """The status code that goes with a reason."""
    return _ANSWERS[reason].status


def refusal(
    reason: Reason, rule: str | None, decision: str, *, close: bool, retry_after: int = 1
) -> tuple[h11.Response, bytes]:
    """The response that refuses, and its body.

    rule: the label of the row that refused, if one did. decision: the id under which the audit log has it.
    close: say that the connection ends with it. retry_after: seconds, where it helps to wait.
    """
    answer = _ANSWERS[reason]
    phrase = HTTPStatus(answer.status).phrase
    problem = {
        "title": phrase,
        "status": answer.status,
        "detail": answer.advice,
        "reason": reason.value,
        "rule": rule,
        "decision": decision,
    }
    body = json.dumps({name: value for name, value in problem.items() if value is not None}).encode() + b"\n"
    fields = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Proxy-Status", f'{OUR_NAME}; error={answer.proxy_error}; details="{reason}"'),
    ]
    if close:
        fields.append(("Connection", "close"))
    if answer.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        fields.append(("Retry-After", str(retry_after)))
    if answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        fields.append(("Proxy-Authenticate", 'Basic realm="proxyd", charset="UTF-8"'))
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        fields.append(("Allow", "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"))
    return h11.Response(status_code=answer.status, headers=fields, reason=f"{phrase}: {reason}"), body
