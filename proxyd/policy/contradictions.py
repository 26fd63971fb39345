"""What must hold between the keys of a policy, which no single key can see, and the policy's own tests.

A rule that does nothing is a misunderstanding to be cleared up now, not in an incident: it is an error, with the way
out. Nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Final

from netaddr import IPAddress, IPNetwork, IPSet

from proxyd.policy.address import Destination, Endpoint, bracketed, parse_authority, parse_host
from proxyd.policy.admin import doubtful as doubtful_admin
from proxyd.policy.embedded import embedded_ipv4
from proxyd.policy.listen import Inherited, Listen, UnixPath
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.special import SPECIAL_NETWORKS, is_localhost, locked_address, metadata_name, special_address
from proxyd.policy.verdict import STEP_OF, Allow, Deny, NeedAddresses, Reason, Step, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.client import Client, Destinations
    from proxyd.policy.model import Policy
    from proxyd.policy.rows import AllowRow, Expectation, PermitRow

_HOLD_IT: Final = "write networks that hold it, or remove the permit"
_MET_BY_TESTS: Final = tuple(reason for reason, step in STEP_OF.items() if step not in (Step.CLIENT, Step.FORM))
"""Reasons to deny a test's request: its client is known, and its URL could be read."""


def contradictions(policy: Policy, name: str) -> Iterator[str]:
    """What no single key can see. `name` is the policy's file; a row knows its own."""
    yield from (f"{name}: {problem}" for problem in _whole(policy))
    yield from _repeated_rows(policy)
    yield from _vain_denies(policy)
    yield from _translated_denies(policy)
    yield from _idle_allows(policy)
    if len({client.name for client in policy.client}) == len(policy.client):  # else it is not known whose a permit is
        yield from _vain_permits(policy)
    yield from _vain_tests(policy)


def _whole(policy: Policy) -> Iterator[str]:
    """Contradictions outside the rows."""
    yield from _repeated_clients(policy)
    for client in policy.client:
        yield from (f"client {client.name}: {problem}" for problem in _doubtful_client(client))
    yield from _vain_bursts(policy)
    yield from _doubtful_listeners(policy)
    yield from doubtful_admin(policy.admin, policy.listen)
    yield from _circular_parent(policy)
    yield from _idle_reports(policy)
    yield from _doubtful_translators(policy)


def _doubtful_translators(policy: Policy) -> Iterator[str]:
    """A prefix is one translator's, and public or made for translation; else an address would be read in two ways."""
    prefixes = policy.dns.nat64
    for index, prefix in enumerate(prefixes):
        if any(prefix in other or other in prefix for other in prefixes[:index]):
            yield f"dns.nat64[{index}]: {prefix} overlaps another translator; declare one of them"
        ends = (special_address(end) for end in (prefix.network, IPAddress(prefix.last, 6)))
        for row in [row for row in ends if row is not None and not row.what.startswith("NAT64")][:1]:
            yield f"dns.nat64[{index}]: {prefix} is no translator's: {row.what}; remove it"


def _translated_denies(policy: Policy) -> Iterator[str]:
    """A [[deny]] network that a translator empties: what lies behind it is judged by the IPv4 address alone."""
    for row in policy.every_deny:
        for index, network in enumerate(row.networks):
            for prefix in policy.dns.nat64:
                if network in prefix and network not in SPECIAL_NETWORKS:
                    yield (
                        f"{row.where}.networks[{index}]: {network} lies within the translator {prefix} (dns.nat64), "
                        "whose addresses are judged by the IPv4 address inside; deny that, or remove the translator"
                    )


def _repeated_rows(policy: Policy) -> Iterator[str]:
    seen: dict[str, str] = {}
    for row in (*policy.every_deny, *policy.every_allow, *policy.every_permit):
        if row.name and seen.setdefault(row.name, row.where) != row.where:
            yield f'{row.where}.name: "{row.name}" is the name of {seen[row.name]} already; choose another'


def _repeated_clients(policy: Policy) -> Iterator[str]:
    names = [client.name for client in policy.client]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'client: "{name}" is the name of two clients; choose another'


def _doubtful_listeners(policy: Policy) -> Iterator[str]:
    """R1 and R2: where nobody can come, or more than should."""
    listen = policy.listen
    places = [str(place) for _, place in listen.places()]
    if not places:
        yield 'listen: there is no place to listen at; write http = ["127.0.0.1:3128"]'
    for twice in sorted({each for each in places if places.count(each) > 1}):
        yield f"listen: {twice} is there twice; remove one"
    named = any(isinstance(place, Inherited) and place.name for _, place in listen.places())
    if named and "systemd" in places:
        yield "listen: systemd stands for all that is handed over, and some of it is named beside it; name each"
    if len({bool(each) for each in (listen.https, listen.certificate, listen.private_key)}) > 1:
        yield "listen.https: goes with certificate and private_key; write all three, or none"
    unix = [where for where, place in listen.places() if isinstance(place, UnixPath)]
    if not unix and (listen.unix_group or listen.unix_mode != Listen().unix_mode):
        yield 'listen: unix_mode and unix_group are for Unix sockets; write http = ["unix:/…"], or remove them'
    if unix and all(client.networks for client in policy.client):
        yield f"{unix[0]}: a Unix socket's peer has no address, and every client has networks; write one with users"
    for where, place in listen.places():
        if isinstance(place, Endpoint):
            yield from (f"{where}: {problem}" for problem in exposed(place, policy))


def _circular_parent(policy: Policy) -> Iterator[str]:
    """A parent that is proxyd itself: each request would come back to us, until there are no files left."""
    if policy.parent is None:
        return
    parent = policy.parent.address
    for place in (*policy.listen.endpoints, policy.admin.listen):
        if not isinstance(place, Endpoint):
            continue
        here = place.address == parent.address or (not int(place.address) and parent.address.is_loopback())
        if here and place.port == parent.port:
            yield f"parent.address: at {parent} proxyd itself listens; write the address of another proxy"


def exposed(endpoint: Endpoint, policy: Policy) -> Iterator[str]:
    """Who can reach a listener at `endpoint`, where the policy does not say that they may."""
    reach = [client for client in policy.client if not client.users]  # an account is on this host
    networks = [network for client in reach for network in client.networks]
    unproven = [network for client in reach if client.credential is None for network in client.networks]
    by_knowledge = any(client.credential and not client.networks for client in reach)
    if endpoint.address.is_loopback():
        return
    if not is_private(endpoint.address) and not policy.listen.dangerously_public_listener:
        yield (
            f"{endpoint} is open to more than a private network; write 127.0.0.1, or dangerously_public_listener = true"
        )
    if all(network.is_loopback() for network in networks) and not by_knowledge:
        yield f"{endpoint} is beyond loopback, and no client's networks are; name them in [[client]] networks"
    if _are_everyone(unproven) and not policy.listen.dangerously_public_listener:
        yield f"{endpoint} is beyond loopback, and a client's networks are everyone's; narrow [[client]] networks"


def _are_everyone(networks: list[IPNetwork]) -> bool:
    """Whether together they leave nobody out, of one family at least."""
    union = IPSet(networks)
    return any(IPSet([everyone]).issubset(union) for everyone in ("0.0.0.0/0", "::/0"))


def is_private(address: IPAddress) -> bool:
    """Whether strangers cannot reach it: RFC 1918, RFC 4193, link-local, or carrier-grade NAT. A wildcard is public."""
    row = special_address(address)
    return row is not None and row.what.startswith(("private", "unique local", "link-local", "carrier-grade"))


def _vain_denies(policy: Policy) -> Iterator[str]:
    for row in policy.every_deny:
        if not row.hosts and not row.networks:
            yield f"{row.where}: refuses nothing; write hosts = [ … ] or networks = [ … ]"
        for host in row.hosts:
            if not host.startswith("*.") and parse_host(bracketed(host))[1] is not None:
                yield f'{row.where}.hosts: "{host}" is an address, which names resolve to as well; write it in networks'


def _idle_reports(policy: Policy) -> Iterator[str]:
    """A report mode where nothing is missed. What a client has from everybody is judged where it is written."""
    each_ones = {client.name: client.destinations.over(policy.destinations) for client in policy.client}
    idle = [
        f"client {client.name}: destinations"
        for client in policy.client
        if client.destinations.mode == "report" and each_ones[client.name].default == "allow"
    ]
    if policy.destinations.mode == "report" and all(each.default == "allow" for each in each_ones.values()):
        idle.append("destinations")
    for where in idle:
        yield f'{where}.mode: "report" has no effect where all is allowed; write default = "deny", or remove it'


def _idle_allows(policy: Policy) -> Iterator[str]:
    """An [[allow]] row that does nothing looks like a restriction that is not there."""
    for row, users in _users_of_allows(policy):
        if all(each.default == "allow" for each in users):
            yield f'{row.where}: has no effect where everything is allowed; write destinations.default = "deny"'
        closed = [str(span.start) for span in row.ports if all(_closed(each, span) for each in users)]
        if closed:
            yield (
                f"{row.where}.ports: {', '.join(closed)} is closed to everyone by destinations.ports "
                "or the Fetch Standard's bad ports; open it in destinations.ports"
            )


def _users_of_allows(policy: Policy) -> Iterator[tuple[AllowRow, list[Destinations]]]:
    """Every [[allow]] row, with what holds otherwise for each client that has it."""
    common = [each.destinations.over(policy.destinations) for each in policy.client if not each.allow]
    yield from ((row, common or [policy.destinations]) for row in policy.allow)
    for client in policy.client:
        yield from ((row, [client.destinations.over(policy.destinations)]) for row in client.allow)


def _closed(destinations: Destinations, span: range) -> bool:
    """Whether none of the span may be reached."""
    return not any(destinations.port_is_open(port) for port in span)


def _doubtful_client(client: Client) -> Iterator[str]:
    """What a client lacks, or has twice."""
    if not (client.networks or client.users or client.credential):
        yield "anybody would be this client; write networks, users or [client.credential]"
    credential = client.credential
    if credential is not None and (credential.password is None) == (not credential.file):
        yield "credential: the hash is in the policy or in a file; write password or file"
    versions = [address.version for address in client.egress.addresses]
    if len(versions) > len(set(versions)):
        yield "egress.addresses: two of one family; a connection leaves from one, remove the other"


def _vain_bursts(policy: Policy) -> Iterator[str]:
    for where, limits in (
        ("limits", policy.limits),
        *((f"client {each.name}: limits", each.limits) for each in policy.client),
    ):
        if limits.burst and not (limits.requests_per_second or limits.tunnels_per_second):
            yield f"{where}.burst: of what is unlimited; write requests_per_second or tunnels_per_second, or remove it"


def _vain_permits(policy: Policy) -> Iterator[str]:
    """A permit that can open nothing is a misunderstanding to be cleared up now, not in an incident."""
    snapshot = Snapshot.of(policy, date.min, Own.of(policy))
    for permit in policy.every_permit:
        if metadata_name(permit.host) is not None:
            yield f'{permit.where}.host: "{permit.host}" is a metadata service, which nothing opens; remove the permit'
        for index, network in enumerate(permit.networks):
            if network.size == 1 and locked_address(network.network) is not None:
                yield f'{permit.where}.networks[{index}]: "{network}" is locked, and nothing opens it; remove it'
        yield from _unopened(permit, snapshot)
        if _without_dns(permit.host, permit.ports[0].start) is None:
            yield from _unopened_for_a_name(permit, snapshot)


def _unopened(permit: PermitRow, snapshot: Snapshot) -> Iterator[str]:
    """Of a host that needs no DNS it is known now whether its permit opens it, on one port at least of each span."""
    users = [client for client in snapshot.policy.client if permit in snapshot.rules(client).permit]
    for span in permit.ports:
        port = next((each for each in span if each not in snapshot.own.ports), span.start)
        destination = _without_dns(permit.host, port)
        if destination is None:
            continue
        verdicts = [decide(destination, client, snapshot) for client in users]
        if isinstance(refused := verdicts[0], Deny):
            locked = refused.reason is Reason.ADDRESS_LOCKED
            way_out = "nothing opens it, remove the permit" if locked else _HOLD_IT
            yield f"{permit.where}: {destination} stays refused ({refused.reason}, by {refused.rule}); {way_out}"
        elif all(isinstance(each, Allow) and not each.permitted for each in verdicts):
            yield f"{permit.where}: {destination} is reached without it; {_HOLD_IT}"


def _unopened_for_a_name(permit: PermitRow, snapshot: Snapshot) -> Iterator[str]:
    """Wherever in its networks a name may lead, it is refused there."""
    for index, network in enumerate(permit.networks):
        if (carried := _carried_by_all(network, snapshot.policy.dns.nat64)) is not None:
            yield (
                f'{permit.where}.networks[{index}]: all of "{network}" carries {carried}, and no permit opens what an '
                "address carries; write the IPv4 network, or remove it"
            )
    ours = all(network.is_loopback() or network in snapshot.own.addresses for network in permit.networks)
    for span in permit.ports:
        if ours and snapshot.own.ports.issuperset(span):
            yield f"{permit.where}.ports: on {span.start} proxyd itself listens there; nothing opens that; remove it"


def _carried_by_all(network: IPNetwork, translators: tuple[IPNetwork, ...]) -> IPNetwork | None:
    """The special-purpose network out of which every address of `network` carries one, if that is plain.

    What carries addresses does so in the order of its own, so that the ends say what is between them.
    """
    if any(network in prefix or prefix in network for prefix in translators):
        return None
    lowest, highest = (list(embedded_ipv4(IPAddress(end, network.version))) for end in (network.first, network.last))
    ends = zip(lowest, highest, strict=True) if len(lowest) == len(highest) else ()
    return next(
        (row for low, high in ends for row in SPECIAL_NETWORKS if low in row and high in row and int(low)), None
    )


def _without_dns(host: str, port: int) -> Destination | None:
    """The destination, if no lookup is needed to know its addresses."""
    destination = parse_authority(f"{bracketed(host)}:{port}")
    return destination if destination.address is not None or is_localhost(host) else None


def _vain_tests(policy: Policy) -> Iterator[str]:
    """A key of a test that has no effect makes the test prove something else than it says."""
    for test in policy.test:
        if test.addresses and (test.url.address is not None or is_localhost(test.url.host)):
            yield f"{test.where}.addresses: {test.url} is never looked up; remove them"
        if test.cnames and not test.addresses:
            yield f"{test.where}.cnames: a chain ends in addresses; write addresses = [ … ]"
        if test.reason and test.expect == "allow":
            yield f'{test.where}.reason: what is allowed needs none; remove it, or write expect = "deny"'
        if test.reason and test.reason not in _MET_BY_TESTS:
            yield f'{test.where}.reason: "{test.reason}" denies no test; write one of {", ".join(_MET_BY_TESTS)}'
        if test.client not in ("", *(client.name for client in policy.client)):
            yield f'{test.where}.client: "{test.client}" is no client; write the name of one, or leave it out for all'


def failed_tests(policy: Policy, today: date) -> Iterator[str]:
    """Run the policy's tests, as if it were enforced, for the client they name or else for every one.

    What a test expects to be allowed is judged by the policy as written, expired permits included: a service must
    not fail to start because a permit ended as planned. What it expects to be denied is judged as of today.
    """
    judged = enforced(policy)
    own = Own.of(policy)
    snapshots = {"allow": Snapshot.of(judged, date.min, own), "deny": Snapshot.of(judged, today, own)}
    for test in policy.test:
        for client in policy.client:
            if test.client in ("", client.name):
                verdict = decide(test.url, client, snapshots[test.expect], test.answer())
                if (problem := _surprise(test, verdict)) is not None:
                    yield f"{test.where}: {test.url} for {client.name}: {problem}"


def enforced(policy: Policy) -> Policy:
    """The policy without its report modes."""
    client = tuple(
        replace(each, destinations=replace(each.destinations, mode=each.destinations.mode and "enforce"))
        for each in policy.client
    )
    return replace(policy, destinations=replace(policy.destinations, mode="enforce"), client=client)


def _surprise(test: Expectation, verdict: Allow | Deny | NeedAddresses) -> str | None:
    """How a verdict differs from what the test expects."""
    if isinstance(verdict, NeedAddresses):
        return "needs DNS, and a test asks nobody; write addresses = [ … ]"
    if isinstance(verdict, Allow):
        return f"is allowed by {verdict.rule}, but expected to be denied" if test.expect == "deny" else None
    if test.expect == "allow":
        return f"is denied ({verdict.reason}) by {verdict.rule}, but expected to be allowed"
    if test.reason not in ("", verdict.reason):
        return f"is denied because {verdict.reason}, but expected because {test.reason}"
    return None
