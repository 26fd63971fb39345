"""Who may use the proxy, and what is different for them: [[client]] and the tables below it.

Each field made by `key` is a key of the policy file. Only what the kernel says of a connection and what only the
client can know counts; nothing that it merely claims. Whether its conditions hold is `snapshot`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

from proxyd.policy.password import BadHash, PasswordHash, parse_hash
from proxyd.policy.rows import ADDRESS, LABEL, AllowRow, DenyRow, PermitRow
from proxyd.policy.shape import NETWORK, PORTS, ListOf, Scalar, Table, Wrong, key, number, one_of, text
from proxyd.policy.special import BAD_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netaddr import IPAddress, IPNetwork

_MOST: Final = 1_000_000
_TLS_PORT: Final = 443
_TLS_NAME: Final = {"deny": "match", "allow": "off"}
"""What `tls_name` is where it is not said, by the default."""

_HIGHEST_ID: Final = (1 << 32) - 2  # of an account; the one above means "none" (credentials(7))


def _parse_account(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _HIGHEST_ID:
        return value
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(":/ "):
        return value
    raise Wrong('it is no account; write its name in quotes, as "openclaw", or its number, as 1001')


def _parse_user(value: object) -> str:
    if isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable() and ":" not in value:  # noqa: PLR2004
        return value
    raise Wrong("it is no user name of a credential; write up to 64 characters without a colon (RFC 7617 §2)")


def _parse_password(value: object) -> PasswordHash:
    if not isinstance(value, str):
        raise Wrong("it is no hash: write it in quotes; `proxyd password` makes one")
    try:
        return parse_hash(value)
    except BadHash as bad:
        raise Wrong(f"it is no hash: {bad}; `proxyd password` makes one") from None


def _parse_field_name(value: object) -> str:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~")
    if not isinstance(value, str) or not value or not set(value.lower()) <= allowed:
        raise Wrong('it is no name of a header; write it as "X-Example" (RFC 9110 §5.1)')
    if value.lower() in _NEEDED:
        raise Wrong(f"{value} is needed by every request; remove it")
    return value


_NEEDED: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "via"})
_ACCOUNT: Final = Scalar(_parse_account, {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]})
_USER: Final = Scalar(_parse_user, {"type": "string", "maxLength": 64, "pattern": "^[^:]+$"})
_PASSWORD: Final = Scalar(_parse_password, {"type": "string", "pattern": r"^\$scrypt\$.*$"})
_FIELD_NAME: Final = Scalar(_parse_field_name, {"type": "string", "minLength": 1})


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What a client must know (RFC 7617). The password is known to the client alone; here is its hash.

    password: from the policy, or from `file`; the loader sees to it that there is one, and then there is no file.
    """

    user: str = key(_USER, "the user name that goes with the password")
    password: PasswordHash | None = key(_PASSWORD, "the hash that `proxyd password` made", default=None, repr=False)
    file: str = key(text(200), "a file with that hash and nothing else, relative to the policy", default="")


@dataclass(frozen=True, kw_only=True)
class Egress:
    """Where a client's outbound connections leave from, so that networks can tell clients apart."""

    addresses: tuple[IPAddress, ...] = key(
        ListOf(ADDRESS), "source addresses, one a family; a family without one is not used", default=()
    )
    interface: str = key(
        text(15, r"[^\s/\x00-\x1f\x7f]+", "the name of an interface"), "the interface to leave by", default=""
    )
    mark: int = key(number(1, (1 << 31) - 1), "the firewall mark of the packets", default=0)

    def in_words(self) -> Iterator[tuple[str, str]]:
        """Each key that is given, and what it says."""
        yield from (("address", str(address)) for address in self.addresses)
        if self.interface:
            yield "interface", self.interface
        if self.mark:
            yield "mark", str(self.mark)

    @property
    def given(self) -> bool:
        """Whether it is said at all."""
        return bool(self.addresses or self.interface or self.mark)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How much. What is left out is unlimited."""

    requests_per_second: int = key(number(1, _MOST), "requests, tunnels too, in the long run", default=0)
    burst: int = key(number(1, _MOST), "requests at once after a pause; a second's worth without it", default=0)
    tunnels_per_second: int = key(number(1, _MOST), "new tunnels in the long run", default=0)
    tunnels: int = key(number(1, _MOST), "tunnels at once", default=0)
    requests: int = key(number(1, _MOST), "requests under way at once, tunnels not counted", default=0)

    def in_words(self) -> Iterator[tuple[str, str]]:
        """Each key that is given, and what it says."""
        for each in fields(Rates):
            if value := getattr(self, each.name):
                yield each.name, str(value)

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to count."""
        return not (self.requests_per_second or self.tunnels_per_second or self.tunnels or self.requests)


@dataclass(frozen=True, kw_only=True)
class Destinations:
    """What holds for a destination that no row names."""

    default: str = key(one_of("allow", "deny"), 'write default = "deny", or "allow" for the public internet')
    mode: str = key(
        one_of("enforce", "report"), "report: log a miss of the allowlist, let it through", default="enforce"
    )
    ports: tuple[range, ...] = key(
        ListOf(PORTS), "the only ports; without it, all but the Fetch Standard's bad ports", default=()
    )
    tls_name: str = key(
        one_of("match", "off"),
        'on port 443, the name inside TLS must be the host asked for; "match" where the default is deny',
        default="",
    )
    identity_headers: tuple[str, ...] = key(
        ListOf(_FIELD_NAME), "more headers that must not reach a permitted destination", default=()
    )

    def port_is_open(self, port: int) -> bool:
        """Whether this port may be reached without a permit."""
        return any(port in span for span in self.ports) if self.ports else port not in BAD_PORTS

    def holds_to_tls_name(self, port: int) -> bool:
        """Whether TLS inside a tunnel to `port` is held to the host that was asked for; elsewhere may be anything."""
        return port == _TLS_PORT and (self.tls_name or _TLS_NAME[self.default]) == "match"


def _optional(name: str) -> Any:  # noqa: ANN401 - as `key` is typed
    """A key of Destinations that a client need not have."""
    (same,) = (each for each in fields(Destinations) if each.name == name)
    return key(same.metadata["reader"], same.metadata["doc"], default=None)


@dataclass(frozen=True, kw_only=True)
class OwnDestinations:
    """What is different for one client; what is left out is as for everybody."""

    default: str | None = _optional("default")
    mode: str | None = _optional("mode")
    ports: tuple[range, ...] | None = _optional("ports")
    tls_name: str | None = _optional("tls_name")
    identity_headers: tuple[str, ...] | None = _optional("identity_headers")

    def over(self, common: Destinations) -> Destinations:
        """What holds for this client. Headers add up: its own list must not let through what everybody's keeps back."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        own["identity_headers"] = (*common.identity_headers, *(self.identity_headers or ()))
        return replace(common, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Client:
    """Who may use the proxy: every condition given must hold, and one must be given.

    allow, if there is any, stands in the place of the policy's own rows; deny and permit add to them.
    """

    name: str = key(LABEL, "what the log calls this client")
    networks: tuple[IPNetwork, ...] = key(ListOf(NETWORK), "the networks it connects from", default=())
    users: tuple[str | int, ...] = key(
        ListOf(_ACCOUNT), "the local accounts that own the connecting socket", default=()
    )
    credential: Credential | None = key(Table(Credential), "what it must know", default=None)
    destinations: OwnDestinations = key(
        Table(OwnDestinations), "what is different for its destinations", default=OwnDestinations()
    )
    limits: Rates = key(Table(Rates), "how much it may do", default=Rates())
    egress: Egress = key(Table(Egress), "where its connections leave from", default=Egress())
    deny: tuple[DenyRow, ...] = key(ListOf(Table(DenyRow)), "refused to it too", default=())
    allow: tuple[AllowRow, ...] = key(ListOf(Table(AllowRow)), "its allowlist, instead of the policy's", default=())
    permit: tuple[PermitRow, ...] = key(ListOf(Table(PermitRow)), "exceptions for it", default=())
    where: str = field(default="")

    @property
    def accounts(self) -> frozenset[str]:
        """The accounts that it names by name."""
        return frozenset(user for user in self.users if isinstance(user, str))
