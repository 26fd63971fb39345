"""The judge: one pure function, asked by the daemon, by `check`, by `explain` and by the policy's own tests.

`decide` is asked once with the destination as the client spelt it, so that a refused name is never looked up,
and once more with the addresses found. Only `decide` makes an `Allow`, and an `Allow` is all that a dialer takes:
to resolve again and connect by name, which is how DNS rebinding gets in, cannot be written by accident.
Nothing here reads a socket, a clock, a file or the environment.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final, Never, final

from proxyd.policy.address import Resolution
from proxyd.policy.embedded import embedded_ipv4, translated
from proxyd.policy.special import (
    LOCALHOST_ADDRESSES,
    is_localhost,
    locked_address,
    metadata_name,
    reserved_name,
    special_address,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netaddr import IPAddress

    from proxyd.policy.address import Destination
    from proxyd.policy.client import Client, Egress
    from proxyd.policy.rows import PermitRow
    from proxyd.policy.snapshot import Rules, Snapshot


class Reason(StrEnum):
    """Why a request was not served. The word is the same in the log, in the response and in the README."""

    # The judgement, in its order
    CLIENT_UNKNOWN = "client_unknown"
    CREDENTIAL_REQUIRED = "credential_required"
    MALFORMED_TARGET = "malformed_target"
    PORT_DENIED = "port_denied"
    NAME_LOCKED = "name_locked"
    NAME_DENIED = "name_denied"
    NAME_RESERVED = "name_reserved"
    NOT_ALLOWLISTED = "not_allowlisted"
    ADDRESS_LOCKED = "address_locked"
    ADDRESS_DENIED = "address_denied"
    # What was sent to us
    MALFORMED_REQUEST = "malformed_request"
    HEAD_TOO_LARGE = "head_too_large"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    METHOD_REFUSED = "method_refused"
    EXPECTATION_FAILED = "expectation_failed"
    VERSION_UNSUPPORTED = "version_unsupported"
    CODING_UNSUPPORTED = "coding_unsupported"
    LOOP_DETECTED = "loop_detected"
    # What became of a decision
    TLS_NAME = "tls_name"
    REVOKED = "revoked"
    # What is too much
    RATE_LIMIT = "rate_limit"
    CONCURRENCY_LIMIT = "concurrency_limit"
    OVERLOADED = "overloaded"
    CONNECTION_LIMIT = "connection_limit"
    # What we ran into
    AUDIT_UNWRITABLE = "audit_unwritable"
    ABORTED = "aborted"
    INTERNAL_ERROR = "internal_error"
    DNS_ERROR = "dns_error"
    DNS_TIMEOUT = "dns_timeout"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_UNREACHABLE = "connect_unreachable"
    CONNECT_TIMEOUT = "connect_timeout"
    EGRESS_UNAVAILABLE = "egress_unavailable"
    PARENT_UNREACHABLE = "parent_unreachable"
    PARENT_REFUSED = "parent_refused"
    OUT_OF_RESOURCES = "out_of_resources"
    ORIGIN_MALFORMED = "origin_malformed"
    ORIGIN_CLOSED = "origin_closed"
    ORIGIN_TIMEOUT = "origin_timeout"


class Step(StrEnum):
    """The steps of the judgement, in the order in which they are taken."""

    CLIENT = "client"
    FORM = "form"
    PORT = "port"
    NAME = "name"
    ALLOWLIST = "allowlist"
    ADDRESSES = "addresses"


STEP_OF: Final = {
    Reason.CLIENT_UNKNOWN: Step.CLIENT,
    Reason.CREDENTIAL_REQUIRED: Step.CLIENT,
    Reason.MALFORMED_TARGET: Step.FORM,
    Reason.PORT_DENIED: Step.PORT,
    Reason.NAME_LOCKED: Step.NAME,
    Reason.NAME_DENIED: Step.NAME,
    Reason.NAME_RESERVED: Step.NAME,
    Reason.NOT_ALLOWLISTED: Step.ALLOWLIST,
    Reason.ADDRESS_LOCKED: Step.ADDRESSES,
    Reason.ADDRESS_DENIED: Step.ADDRESSES,
}
"""Where in the judgement each denial is pronounced."""


class NeedAddresses(Enum):
    """The type of NEED_ADDRESSES."""

    NEED_ADDRESSES = "need addresses"

    def __bool__(self) -> Never:
        raise TypeError("a verdict is not a truth value; ask what it is")


NEED_ADDRESSES: Final = NeedAddresses.NEED_ADDRESSES
"""The name is not refused: resolve it and ask again with the addresses."""

_SEAL: Final = object()


@final
@dataclass(frozen=True, slots=True)
class Deny:
    """A refusal.

    rule: the row that refused, as `Row.label` or the built-in row's own words.
    name: the name that was refused, if it was one: the name asked for, or one of its CNAME chain.
    address: the address that was refused, if it was one. For the log only: a client never learns it (ATTACKS 9).
    """

    reason: Reason
    rule: str
    name: str | None = None
    address: IPAddress | None = None

    def __bool__(self) -> Never:
        raise TypeError("a verdict is not a truth value; ask what it is")


@final
@dataclass(frozen=True, slots=True)
class Allow:
    """The capability to connect: these addresses, this port, nothing else. Made by `decide` alone.

    rule: the row that allowed it, or "default".
    permitted: whether a [[permit]] opened the destination, so that identity headers must not go there.
    would: the denial that report mode let through.
    egress: where the connection leaves from.
    """

    destination: Destination
    addresses: tuple[IPAddress, ...]
    rule: str
    permitted: bool
    would: Deny | None
    egress: Egress
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL or not self.addresses:
            raise TypeError("only decide() makes an Allow")

    def __bool__(self) -> Never:
        raise TypeError("a verdict is not a truth value; ask what it is")


def decide(
    destination: Destination, client: Client | None, snapshot: Snapshot, found: Resolution | None = None
) -> Allow | Deny | NeedAddresses:
    """Judge one request. The first step that refuses wins.

    client: who asks, from `Snapshot.identify`; None is nobody, and refused.
    found: what DNS said of the name, once it was asked for. A literal and a localhost name need none, and
        what is given for them is ignored.
    """
    if client is None:
        return Deny(Reason.CLIENT_UNKNOWN, "client")
    rules = snapshot.rules(client)
    named = rules.permits(destination)
    found = _known(destination, named) or found
    permits = named if _hold(named, found) else ()
    for refusal in _refused_as_asked(destination, rules, permits, misfit=None if permits else found):
        return refusal
    miss = _missed_allowlist(destination, rules, permits)
    if miss is not None and rules.destinations.mode == "enforce":
        return miss
    if found is None:
        return NEED_ADDRESSES
    for refusal in _refused_answers(found, destination, rules, permits):
        return refusal
    rule = _rule(destination, found.addresses[0], rules, permits)
    return Allow(destination, found.addresses, rule, bool(permits), miss, client.egress, _SEAL)


def _hold(permits: tuple[PermitRow, ...], found: Resolution | None) -> bool:
    """Whether the permits hold all that is known so far. A host that resolves elsewhere is a host like any other."""
    return found is None or all(_opener(permits, address) for address in found.addresses)


def _opener(permits: tuple[PermitRow, ...], address: IPAddress) -> PermitRow | None:
    """The first permit one of whose networks holds this very address."""
    return next((permit for permit in permits if permit.opens(address)), None)


def _refused_as_asked(
    destination: Destination, rules: Rules, permits: tuple[PermitRow, ...], misfit: Resolution | None
) -> Iterator[Deny]:
    """Steps 4 and 5: what can be said of the port and the name before any lookup.

    misfit: what the host resolved to, where permits name it and do not hold that: then the address that is refused
    says more than a name that would have been permitted.
    """
    named = rules.permits(destination)
    if named and misfit is not None:
        yield from _refused_name(destination.host, rules, named)
        yield from _refused_answers(misfit, destination, rules, named)
    if not permits and not rules.destinations.port_is_open(destination.port):
        yield Deny(Reason.PORT_DENIED, f"port {destination.port}")
    yield from _refused_name(destination.host, rules, permits)


def _refused_name(host: str, rules: Rules, permits: tuple[PermitRow, ...]) -> Iterator[Deny]:
    """Step 5, for the name asked for and for every name of its CNAME chain. Metadata names have no exception."""
    row = rules.denied_name(host)
    if (metadata := metadata_name(host)) is not None:
        yield Deny(Reason.NAME_LOCKED, row.label if row else metadata.what, host)
    if permits:
        return
    if row is not None:
        yield Deny(Reason.NAME_DENIED, row.label, host)
    if (reserved := reserved_name(host)) is not None:
        yield Deny(Reason.NAME_RESERVED, reserved.what, host)


def _missed_allowlist(destination: Destination, rules: Rules, permits: tuple[PermitRow, ...]) -> Deny | None:
    if permits or rules.destinations.default == "allow" or rules.allowed(destination):
        return None
    return Deny(Reason.NOT_ALLOWLISTED, "allowlist")


def _known(destination: Destination, permits: tuple[PermitRow, ...]) -> Resolution | None:
    """What needs no DNS. Of localhost's two addresses those count that a permit opens, and both if none does."""
    if destination.address is not None:
        return Resolution((destination.address,))
    if is_localhost(destination.host):
        opened = tuple(each for each in LOCALHOST_ADDRESSES if _opener(permits, each))
        return Resolution(opened or LOCALHOST_ADDRESSES)
    return None


def _refused_answers(
    found: Resolution, destination: Destination, rules: Rules, permits: tuple[PermitRow, ...]
) -> Iterator[Deny]:
    """Step 7: one bad answer refuses all of them; what is locked is said before what is merely denied."""
    for name in found.chain:
        yield from _refused_name(name, rules, permits)
    for address in found.addresses:
        yield from _locked(address, destination.port, rules)
    for address in found.addresses:
        if destination.address is None and _is_fake(address, rules):
            continue
        yield from _denied(address, rules, opened=_opener(permits, address) is not None)


def _locked(address: IPAddress, port: int, rules: Rules) -> Iterator[Deny]:
    """What nothing opens, a declared translator neither: metadata endpoints, unspecified addresses, proxyd itself."""
    for each in (address, *_judged(address, rules)):
        if (row := locked_address(each)) is not None:
            denied = rules.denied_address(each)
            yield Deny(Reason.ADDRESS_LOCKED, denied.label if denied else row.what, address=address)
        if rules.own.holds(each, port):
            yield Deny(Reason.ADDRESS_LOCKED, "proxyd itself", address=address)
        if rules.parent is not None and (each, port) == (rules.parent.address, rules.parent.port):
            yield Deny(Reason.ADDRESS_LOCKED, "the parent proxy", address=address)


def _denied(address: IPAddress, rules: Rules, *, opened: bool) -> Iterator[Deny]:
    """Special-purpose addresses and [[deny]] rows. A permit opens the address itself, never what it carries."""
    for each in _judged(address, rules):
        if opened and each is address:
            continue
        if (row := rules.denied_address(each)) is not None:
            yield Deny(Reason.ADDRESS_DENIED, row.label, address=address)
        elif (special := special_address(each)) is not None:
            yield Deny(Reason.ADDRESS_DENIED, special.what, address=address)


def _is_fake(address: IPAddress, rules: Rules) -> bool:
    """Whether it is from a declared range in which a VPN client on this host answers for every name there is."""
    return any(address in network for network in rules.dns.dangerously_allow_fake_ip)


def _judged(address: IPAddress, rules: Rules) -> Iterator[IPAddress]:
    """The address and every IPv4 address it carries; behind a declared translator, only the one it translates to."""
    behind = translated(address, rules.dns.nat64)
    yield behind
    yield from embedded_ipv4(behind)


def _rule(destination: Destination, address: IPAddress, rules: Rules, permits: tuple[PermitRow, ...]) -> str:
    row = _opener(permits, address) or rules.allowed(destination)
    return "default" if row is None else row.label
