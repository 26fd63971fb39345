"""The smallest change of a policy that would allow what it denies; and none where nothing may open it.

For whoever may change the policy: `explain` says it to an operator. A refusal never says it to a client, which could be
a model that edits files. Nothing here judges: what is found is put to `decide`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from netaddr import IPNetwork

from proxyd.policy.rows import AllowRow, PermitRow
from proxyd.policy.special import LOCALHOST_ADDRESSES, is_localhost
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, Reason, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netaddr import IPAddress

    from proxyd.policy.address import Destination, Resolution
    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy
    from proxyd.policy.snapshot import Snapshot
    from proxyd.policy.verdict import Deny

_WHY: Final = "say why"
H = TypeVar("H", "Client", "Policy")  # what has rows


@dataclass(frozen=True, slots=True)
class Remedy:
    """A row to be added, as TOML to paste, and the snapshot that has it.

    beneath: the client whose table it belongs below; empty for a row of the policy itself.
    """

    toml: str
    snapshot: Snapshot
    beneath: str = ""


def remedy(
    destination: Destination, client: Client, snapshot: Snapshot, found: Resolution | None, deny: Deny
) -> Remedy | None:
    """What would allow this; None where nothing does, or where more has to be known of the addresses."""
    tried = (_tried(row, destination, client, snapshot, found) for row in _rows(destination, found, deny))
    return next((each for each in tried if each is not None), None)


def _rows(destination: Destination, found: Resolution | None, deny: Deny) -> Iterator[AllowRow | PermitRow]:
    """What may do, the smaller first: to be listed is less than to be permitted."""
    ports = (range(destination.port, destination.port + 1),)
    if deny.reason is Reason.NOT_ALLOWLISTED:
        yield AllowRow(reason=_WHY, hosts=(destination.host,), ports=ports)
    if addresses := _addresses(destination, found):
        networks = tuple(IPNetwork(address) for address in dict.fromkeys(addresses))
        yield PermitRow(reason=_WHY, host=destination.host, ports=ports, networks=networks)


def _addresses(destination: Destination, found: Resolution | None) -> tuple[IPAddress, ...]:
    """What it leads to, as far as that is known."""
    if destination.address is not None:
        return (destination.address,)
    if is_localhost(destination.host):
        return LOCALHOST_ADDRESSES
    return () if found is None else found.addresses


def _tried(
    row: AllowRow | PermitRow, destination: Destination, client: Client, snapshot: Snapshot, found: Resolution | None
) -> Remedy | None:
    """The row, if it is enough."""
    beneath = client.name if _is_clients(row, client, snapshot.policy) else ""
    changed = replace(snapshot, policy=with_row(row, snapshot.policy, beneath))
    verdict = decide(destination, named(client.name, changed.policy), changed, found)
    if not isinstance(verdict, Allow) and verdict is not NEED_ADDRESSES:
        return None
    return Remedy(_as_toml(row, beneath=bool(beneath)), changed, beneath)


def _is_clients(row: AllowRow | PermitRow, client: Client, policy: Policy) -> bool:
    """Whether the row is for one client of several; an allowlist of its own is the only one that counts."""
    return bool(client.allow) if isinstance(row, AllowRow) else len(policy.client) > 1


def with_row(row: AllowRow | PermitRow, policy: Policy, beneath: str) -> Policy:
    """The policy with one row more: its own, or that of the client it is beneath."""
    if not beneath:
        return _added(row, policy)
    clients = (_added(row, each) if each.name == beneath else each for each in policy.client)
    return replace(policy, client=tuple(clients))


def _added(row: AllowRow | PermitRow, to: H) -> H:
    if isinstance(row, AllowRow):
        return replace(to, allow=(*to.allow, row))
    return replace(to, permit=(*to.permit, row))


def named(name: str, policy: Policy) -> Client:
    """The client of that name. Raises StopIteration if there is none."""
    return next(each for each in policy.client if each.name == name)


def _as_toml(row: AllowRow | PermitRow, *, beneath: bool) -> str:
    where = "client." if beneath else ""
    ports = f"ports = [{row.ports[0].start}]"
    if isinstance(row, AllowRow):
        lines = [f"[[{where}allow]]", f'hosts = ["{row.hosts[0]}"]', ports]
    else:
        networks = ", ".join(f'"{network}"' for network in row.networks)
        lines = [f"[[{where}permit]]", f'host = "{row.host}"', ports, f"networks = [{networks}]"]
    return "\n".join((*lines, f'reason = "{row.reason}"'))
