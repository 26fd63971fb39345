"""What is not sound about the host that a policy runs on: whose files they are, who runs proxyd, what forces traffic.

For `proxyd audit`. It reads permission bits, tables of the kernel and the rules of the firewall, and changes nothing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Final

from proxyd.cli.files import read_policy_file
from proxyd.net.access import Access, Account, anybody_in, may_reach, on_the_way_to, room_beside
from proxyd.net.firewall import lets_out_by_account
from proxyd.net.host import RESOLV_CONF
from proxyd.net.identity import uid_of_listener
from proxyd.policy.finding import critical, remark, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from proxyd.policy.client import Client
    from proxyd.policy.finding import Finding
    from proxyd.policy.model import Policy
    from proxyd.serve.handover import Files, PolicyFile

_FULL: Final = 64 * 1024 * 1024  # octets: some 100,000 records
_NEARLY_FULL: Final = 0.05
_STREAMS: Final = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")  # another's than ours
_PROC_TCP: Final = Path("/proc/net/tcp")
_AROUND: Final = (
    "Whoever ignores the proxy settings is judged by nobody: a tool that an agent starts, or the agent itself."
)
_ROOT: Final = "root"
_DAEMON: Final = "the account that runs proxyd"


@dataclass(frozen=True, slots=True)
class _Matter:
    """Something that a file is to proxyd: what, what comes of its being changed, and who should own it."""

    what: str
    power: str
    owner: str = _ROOT


_POLICY: Final = _Matter("the policy", "Who changes it decides what is refused.")
_CREDENTIAL: Final = _Matter("a credential", "Who changes it decides who is let in.", _DAEMON)
_CERTIFICATE: Final = _Matter("the certificate", "Who changes it can keep clients away, or stand in for proxyd.")
_PRIVATE_KEY: Final = _Matter("the private key", _CERTIFICATE.power, _DAEMON)
_TOKEN: Final = _Matter("the token of the admin listener", "Who changes it decides who is let in there.", _DAEMON)
_HOSTS: Final = _Matter("the hosts file", "Who changes it decides where its names lead.")
_RESOLVERS: Final = _Matter("what says which resolvers are asked", "Who changes it decides where names lead.")
_LOG: Final = _Matter("the audit log", "Who changes it decides what is remembered.", _DAEMON)
_LOGS_FOLDER: Final = _Matter("the folder of the audit log", _LOG.power, _DAEMON)


def host_findings(policy: Policy, files: Files) -> Iterator[Finding]:
    """All that is to be said. files: those that the policy was read from."""
    yield from _of_agents(policy)
    agents = list(agents_of(policy))
    for path, matter in (_read_by(policy) | {as_named(file): _matter(file) for file in files.kept}).items():
        yield from _of_file(path, matter, agents)
    for path in secrets_of(policy, files):
        yield from _of_secret(path, agents)
    if policy.audit.to != "stdout":
        yield from _of_log(Path(policy.audit.to), agents)
    yield from _of_listeners(policy, agents)
    if agents or any(map(_may_be_here, policy.client)):
        yield from _of_way_out(agents)
    else:
        yield remark(
            "egress.elsewhere",
            "the agents are on other hosts: whether those let them go around proxyd is not seen from here",
            _AROUND,
            "there, let them reach nothing but proxyd",
        )


def read_whoever_may(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:  # noqa: ARG001
    """A policy file, though others may read it: here that is a finding, and no reason to look no further."""
    return read_policy_file(name, beside)


def as_named(file: PolicyFile) -> Path:
    """Where the policy says that a file is: a link, perhaps."""
    return Path(file.beside).parent / file.name if file.beside else Path(file.name)


def agents_of(policy: Policy) -> Iterator[Account]:
    """The accounts that clients are known by. A number need not have a name."""
    for client in policy.client:
        for user in client.users:
            try:
                yield Account.of(user)
            except KeyError:
                if isinstance(user, int):
                    yield Account(str(user), user, frozenset())


def secrets_of(policy: Policy, files: Files) -> list[Path]:
    """The files that nobody but proxyd and its operator ought to read."""
    of_policy = [as_named(file) for file in files.kept if file.secret]
    return [*of_policy, *(Path(path) for path in (policy.listen.private_key, policy.admin.token_file) if path)]


def who_writes(ways: Iterable[Access], agents: Iterable[Account]) -> tuple[Path, list[str]] | None:
    """Which of them others may write, and who, by name; None for none. Raises OSError."""
    for access in ways:
        if writers := _who_may(access.may_write, access.path, agents):
            return access.path, writers
    return None


def _who_may(have: Callable[[Account], bool], path: Path, agents: Iterable[Account]) -> list[str]:
    """Who of those that have a right to a file gets there, by name. Raises OSError."""
    everybody = anybody_in()
    if have(everybody) and may_reach(everybody, path):
        return [everybody.name]
    there = [each for each in agents if each.uid and have(each) and may_reach(each, path)]
    return list(dict.fromkeys(f"account {each.name}" for each in there))


def _of_agents(policy: Policy) -> Iterator[Finding]:
    """Whether they are known here, and can be kept from anything."""
    known = {agent.name for agent in agents_of(policy)}
    for client in policy.client:
        for user in client.users:
            if user in (0, "root"):
                yield critical(
                    "client.root",
                    f"client {client.name}: users: {user}",
                    "Whoever runs as root can end proxyd, change its policy, rewrite its log, and go around it.",
                    "let the agent run as an account of its own, and name that",
                )
            elif isinstance(user, str) and user not in known:
                yield warning(
                    "client.no_account",
                    f"client {client.name}: users: this host has no account {user}",
                    "Nobody is this client.",
                    "name the account that the agent runs as",
                )


def _matter(file: PolicyFile) -> _Matter:
    return _CREDENTIAL if file.secret else _POLICY


def _read_by(policy: Policy) -> dict[Path, _Matter]:
    """What else decides how proxyd behaves."""
    named = {
        policy.listen.certificate: _CERTIFICATE,
        policy.listen.private_key: _PRIVATE_KEY,
        policy.admin.token_file: _TOKEN,
        policy.dns.hosts_file: _HOSTS,
        "" if policy.dns.servers else str(RESOLV_CONF): _RESOLVERS,
    }
    return {Path(path): matter for path, matter in named.items() if path}


def _of_file(path: Path, matter: _Matter, agents: list[Account]) -> Iterator[Finding]:
    """Who may change it: the agent above all must not."""
    try:
        found = who_writes(on_the_way_to(path), agents)
        group = next((each for each in on_the_way_to(path) if _is_of_its_group(each)), None)
    except OSError as error:
        yield _unseen(path, error)
        return
    place = found[0] if found else group.path if group else path
    why = f"It is {matter.what}{'' if place == path else ', or leads there'}. {matter.power}"
    if found:
        yield critical(
            "file.writable",
            f"{place}: {', '.join(found[1])} may write it",
            why,
            f"let it be owned by {matter.owner}, and chmod go-w {quote(str(place))}",
        )
    elif group:
        yield warning(
            "file.group_writable",
            f"{place}: a group may write it",
            why,
            f"chmod g-w {quote(str(place))}, or see to who is in that group",
        )


def _is_of_its_group(access: Access) -> bool:
    return access.group_writes and may_reach(anybody_in(access.gid), access.path)


def _unseen(path: Path, error: OSError) -> Finding:
    if isinstance(error, PermissionError):
        return remark(
            "file.unseen", f"{path}: cannot be looked at", "Who may write it is not known.", "run this as root"
        )
    return warning(
        "file.missing",
        f"{path}: {error.strerror}",
        "proxyd does not start without it, nor take the policy into use.",
        "put it there, or name another in the policy",
    )


def _of_secret(path: Path, agents: list[Account]) -> Iterator[Finding]:
    try:
        access = Access.of(Path(os.path.realpath(path)))
        readers = _who_may(access.may_read, access.path, agents)
    except OSError:
        return  # of each it was said already that it cannot be looked at
    if readers:
        yield critical(
            "file.readable",
            f"{path}: {', '.join(readers)} may read it",
            "It is a secret, and no agent's. proxyd does not start with one that every account may read.",
            f"let it be owned by {_DAEMON}, and chmod 0600 {quote(str(path))}",
        )


def _of_log(path: Path, agents: list[Account]) -> Iterator[Finding]:
    """Who may read the audit log, or rewrite it, and how long there is room for it."""
    if str(path).startswith(_STREAMS):
        return
    real = Path(os.path.realpath(path))
    try:
        there = real.parent.is_dir()
        mode = real.stat().st_mode if real.exists() else stat.S_IFREG
        room = room_beside(real.parent) if there else (0, 0.0)
    except OSError as error:
        yield _unseen(path, error)
        return
    if not there:
        yield critical(
            "log.no_folder",
            f"{path.parent}: there is no such folder",
            "No audit, no connection.",
            f"make it, and let it be owned by {_DAEMON}",
        )
        return
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        yield from _of_written_log(path, real, agents)
    else:
        yield _of_what_is_no_log(path, mode)
    if stat.S_ISREG(mode):
        yield from _of_room(real.parent, *room)


def _of_what_is_no_log(path: Path, mode: int) -> Finding:
    if stat.S_ISCHR(mode):
        return warning(
            "log.not_kept",
            f"audit.to: {path} keeps nothing",
            "What was done through proxyd can never be told.",
            'write to = "/var/log/proxyd/audit.jsonl"',
        )
    return critical(
        "log.no_file",
        f"audit.to: {path} is no file to write to",
        "No audit, no connection.",
        'write to = "/var/log/proxyd/audit.jsonl"',
    )


def _of_written_log(path: Path, real: Path, agents: list[Account]) -> Iterator[Finding]:
    """Of one that is not there yet, who may make it first."""
    if not real.exists():
        yield from _of_file(path.parent, _LOGS_FOLDER, agents)
        return
    yield from _of_file(path, _LOG, agents)
    if _who_may(Access.of(real).may_read, real, ()):
        yield warning(
            "log.readable",
            f"{path}: every account of this host may read it",
            "It says who went where, and when.",
            f"chmod o-r {quote(str(path))}",
        )


def _of_room(folder: Path, octets: int, part: float) -> Iterator[Finding]:
    why, how = "When the audit log cannot be written, everything is refused.", "make room, and rotate the log"
    if octets < _FULL:
        yield critical("log.full", f"{folder}: has room for {octets // (1024 * 1024)} MiB", why, how)
    elif part < _NEARLY_FULL:
        yield warning("log.nearly_full", f"{folder}: {part:.0%} of the disk is free", why, how)


def _of_listeners(policy: Policy, agents: list[Account]) -> Iterator[Finding]:
    """Whose account proxyd runs as, if it runs."""
    try:
        _PROC_TCP.stat()  # or nobody would be found to listen
        owners = {uid_of_listener(endpoint) for endpoint in policy.listen.endpoints if endpoint.port}
    except OSError:
        yield remark(
            "daemon.unseen",
            f"{_PROC_TCP}: cannot be read",
            "Whose account proxyd runs as is not known.",
            "run this where /proc is there",
        )
        return
    for uid in owners - {None}:
        yield from run_as(uid, agents)


def run_as(uid: int | None, agents: Iterable[Account]) -> Iterator[Finding]:
    """What is to be said of a daemon of this account."""
    if uid == 0:
        yield warning(
            "daemon.root",
            "proxyd runs as root",
            "It needs no right that root has; a bug in it would have them all.",
            "give it an account of its own (DynamicUser= does)",
        )
        return
    for agent in agents:
        if agent.uid == uid:
            yield critical(
                "daemon.same_account",
                f"proxyd runs as account {agent.name}, as the agent does",
                "The agent could end it, change its policy, and rewrite its log.",
                "give proxyd an account of its own",
            )


def _may_be_here(client: Client) -> bool:
    """Whether it may be a program of this host."""
    return not client.networks or any(network.is_loopback() or not network.prefixlen for network in client.networks)


def _of_way_out(agents: list[Account]) -> Iterator[Finding]:
    """Whether an agent that ignores its proxy settings gets out."""
    names = " or ".join(dict.fromkeys(f"account {agent.name}" for agent in agents)) or "the agent"
    forced = lets_out_by_account()
    if forced is None:
        yield remark(
            "egress.unknown",
            "the firewall's rules cannot be read",
            _AROUND,
            f"run this as root, where there is nft or iptables; or keep {names} in a network whose only way out is "
            "proxyd",
        )
    elif not forced:
        yield warning(
            "egress.unforced",
            f"no rule of this host keeps {names} from going around proxyd",
            _AROUND,
            "let only proxyd's account leave this host, over IPv6 too, or keep "
            f"{names} in a network whose only way out is proxyd",
        )
