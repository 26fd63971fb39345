"""What a policy asks for, made ready to be served: resolvers and accounts found, sockets bound, the log tried.

At the start, and again for each reload; nothing is in use yet. Raises CannotServe, and then nothing is left open.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import secrets
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxyd.audit.sink import FileSink
from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE, read_policy_file, today
from proxyd.net.certificate import server_context
from proxyd.net.host import own_addresses, read_hosts, system_servers
from proxyd.net.listening import bind, bind_unix, bound_to, inherited
from proxyd.policy.contradictions import exposed
from proxyd.policy.dns import Server
from proxyd.policy.listen import Inherited, UnixPath
from proxyd.policy.load import PolicyError, load
from proxyd.serve.charge import CannotServe, Charge
from proxyd.serve.handover import Files, Handover
from proxyd.serve.ledger import EVERYBODY, make_room

if TYPE_CHECKING:
    import datetime as dt
    import socket
    from collections.abc import Callable, Mapping

    from proxyd.audit.sink import Sink
    from proxyd.policy.listen import Where
    from proxyd.policy.model import Audit, Policy


READINGS: Final = 5  # of a policy whose files change meanwhile
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{32,512}=*")  # RFC 6750 §2.1, and not to be guessed
MOST_LISTENERS: Final = 200
"""They go to a worker in one message, and the kernel takes 253 files with one (unix(7))."""


@dataclass(frozen=True, slots=True)
class Confined:
    """Where the clients of a confined command come from, in the place of what the policy says: a listening socket in
    their network, and the account that all of them are.
    """

    listener: socket.socket
    account: int


def prepare(
    name: str,
    ledger: int,
    complain: Callable[[str], None],
    before: Charge | None = None,
    confined: Confined | None = None,
) -> Charge:
    """The charge that the policy in file `name` is now. Raises CannotServe.

    ledger: the memory of the limits, which gets an account for each client. before: what is served now, if anything is;
    listeners that it has already are taken over.
    """
    day = today()
    policy, files = _loaded(name, day)
    _must_stay(policy, before)
    _know_ourselves()
    servers = policy.dns.servers or tuple(map(Server, system_servers()))
    if not servers:
        why = 'no resolver: /etc/resolv.conf names none; write servers = ["9.9.9.9"] under [dns] in the policy'
        raise CannotServe(why, status=EX_CONFIG)
    certificate, private_key = _certified(policy)
    token = _token(policy.admin.token_file)
    hosts = _hosts(policy.dns.hosts_file)
    ledger_accounts = _ledger_accounts(policy, before)
    make_room(ledger, len(ledger_accounts))
    workers = how_many_workers(policy) if before is None else before.handover.workers
    with ExitStack() as stack:
        if confined is None:
            listeners = _listeners(policy, workers, before, stack)
        else:
            listeners = {"exec": (stack.enter_context(confined.listener.dup()),)}
        pipe = _tried(policy.audit, before, stack)
        stack.pop_all()
    handover = Handover(
        name=name,
        day=day,
        files=files,
        servers=servers,
        via=f"proxyd-{secrets.token_hex(4)}" if before is None else before.handover.via,
        workers=workers,
        listeners=tuple(listeners),
        accounts=_numbers(policy, complain),
        ledger=ledger_accounts,
        hosts=hosts,
        certificate=certificate,
        private_key=private_key,
        peer=None if confined is None else confined.account,
    )
    return Charge(policy, handover, listeners, pipe, token)


def _loaded(name: str, day: dt.date) -> tuple[Policy, Files]:
    """The policy as all its files were at one moment: read until none of them had changed by then. Raises CannotServe.

    Else a reload in the middle of a change would take a mixture into use that nobody wrote.
    """
    for _ in range(READINGS):
        files = Files()
        try:
            policy = load(name, files.remembering(read_policy_file), day)
        except PolicyError as error:
            raise CannotServe(*error.problems, status=EX_CONFIG) from None
        if _are_still(files):
            return policy, files
    why = f"{name}: changes while it is read; write the new one beside it, rename it, and reload"
    raise CannotServe(why, status=EX_CONFIG)


def _are_still(files: Files) -> bool:
    """Whether each is where it was, and holds what it held, after the last of them was read."""
    again = Files()
    read = again.remembering(read_policy_file)
    with suppress(OSError):
        for file in files.kept:
            read(file.name, file.beside, secret=file.secret)
    return again.kept == files.kept


def how_many_workers(policy: Policy) -> int:
    """How many processes serve: "auto" is one for each core that this account may use."""
    return policy.workers if isinstance(policy.workers, int) else len(os.sched_getaffinity(0))


def _must_stay(policy: Policy, before: Charge | None) -> None:
    """What a reload cannot change."""
    if before is None:
        return
    unchanged = policy.workers == before.policy.workers  # "auto" stays what it was, though there may be other cores now
    if not unchanged and how_many_workers(policy) != before.handover.workers:
        raise CannotServe("workers: a reload cannot change how many there are; restart proxyd", status=EX_CONFIG)
    for name in ("control", "unix_mode", "unix_group"):
        if getattr(policy.listen, name) != getattr(before.policy.listen, name):
            raise CannotServe(f"listen.{name}: a reload cannot change it; restart proxyd", status=EX_CONFIG)
    if policy.admin.listen != before.policy.admin.listen:
        raise CannotServe("admin.listen: a reload cannot change it; restart proxyd", status=EX_CONFIG)


def _know_ourselves() -> None:
    try:
        own_addresses()
    except OSError as error:
        why = f"/proc/net: {error.strerror}: proxyd must know this host's addresses to keep clients from itself"
        raise CannotServe(why, status=EX_CONFIG) from None


def _hosts(path: str) -> dict[str, tuple[str, ...]]:
    """The names of the hosts file that the policy wants, and their addresses."""
    if not path:
        return {}
    try:
        _, data = read_policy_file(path, None)
        return {name: tuple(map(str, found)) for name, found in read_hosts(data.decode(errors="replace")).items()}
    except OSError as error:
        why = f"dns.hosts_file: {path}: {error.strerror}; name a file that this account may read, or remove the key"
        raise CannotServe(why, status=EX_CONFIG) from None


def _numbers(policy: Policy, complain: Callable[[str], None]) -> dict[str, int]:
    """The numbers of the accounts that the policy names."""
    found: dict[str, int] = {}
    for client in policy.client:
        for account in sorted(client.accounts):
            try:
                found[account] = pwd.getpwnam(account).pw_uid
            except KeyError:
                complain(f'client {client.name}: users: this host has no account "{account}": nobody is it')
    return found


def _certified(policy: Policy) -> tuple[str, str]:
    """The certificate and its key, if clients are to be served over TLS: every worker is given these very texts."""
    listen = policy.listen
    if not listen.https:
        return "", ""
    texts = []
    for name, path, secret in (("certificate", listen.certificate, False), ("private_key", listen.private_key, True)):
        try:
            texts.append(read_policy_file(path, None, secret=secret)[1].decode("ascii", "replace"))
        except OSError as error:
            raise CannotServe(f"listen.{name}: {path}: {error.strerror}", status=EX_CONFIG) from None
    certificate, private_key = texts
    try:
        server_context(certificate, private_key)
    except OSError:  # ssl.SSLError is one
        why = f"listen.private_key: {listen.private_key}: it is no key, or not the certificate's"
        raise CannotServe(why, status=EX_CONFIG) from None
    return certificate, private_key


def _token(path: str) -> str:
    """What whoever asks on loopback must know."""
    if not path:
        return ""
    try:
        token = read_policy_file(path, None, secret=True)[1].decode("ascii", "replace").strip()
    except OSError as error:
        raise CannotServe(f"admin.token_file: {path}: {error.strerror}", status=EX_CONFIG) from None
    if not _TOKEN.fullmatch(token):
        why = (
            f"admin.token_file: {path}: is no token of 32 letters and digits at least; `openssl rand -hex 32` makes one"
        )
        raise CannotServe(why, status=EX_CONFIG)
    return token


def _ledger_accounts(policy: Policy, before: Charge | None) -> tuple[str, ...]:
    """Whose account is where: those that there were stay where they are."""
    known = (EVERYBODY,) if before is None else before.handover.ledger
    return tuple(dict.fromkeys((*known, *(client.name for client in policy.client))))


def _listeners(
    policy: Policy, workers: int, before: Charge | None, stack: ExitStack
) -> dict[str, tuple[socket.socket, ...]]:
    """Every listener, a socket of each for each worker. stack: closes those that are new."""
    listeners: dict[str, tuple[socket.socket, ...]] = {}
    known = {} if before is None else before.listeners
    for where, place in policy.listen.places():
        tls = "tls " if where.startswith("listen.https") else ""
        same = {
            label: known[label] for label in known if label == f"{tls}{place}" or label.startswith(f"{tls}{place} ")
        }
        try:
            opened = same or _opened(place, tls, policy, workers, stack)
        except OSError as error:
            raise CannotServe(f"{where}: {place}: {why_not(error)}", status=EX_UNAVAILABLE) from None
        except KeyError:
            raise CannotServe("listen.unix_group: this host has no such group", status=EX_CONFIG) from None
        if isinstance(place, Inherited):
            _hold_to_the_rules(place, opened, policy)
        listeners |= opened
    if len(listeners) > MOST_LISTENERS:
        raise CannotServe(f"listen: more than {MOST_LISTENERS} listeners; remove some", status=EX_CONFIG)
    return listeners


def _hold_to_the_rules(place: Inherited, opened: Mapping[str, tuple[socket.socket, ...]], policy: Policy) -> None:
    """What the service manager bound has to meet the same rules as what we would have bound."""
    endpoints = (bound_to(sock) for sockets in opened.values() for sock in sockets)
    problems = [problem for endpoint in endpoints if endpoint is not None for problem in exposed(endpoint, policy)]
    if problems:
        raise CannotServe(*(f"{place}: {problem}" for problem in problems), status=EX_CONFIG)


def _opened(
    place: Where, tls: str, policy: Policy, workers: int, stack: ExitStack
) -> dict[str, tuple[socket.socket, ...]]:
    """The sockets of one place, each under the name by which a reload knows it again. Raises OSError or KeyError."""
    if isinstance(place, Inherited):
        return _taken_over(place, tls, stack)
    if isinstance(place, UnixPath):
        sock = stack.enter_context(bind_unix(place.path, policy.listen.unix_mode, policy.listen.unix_group))
        stack.callback(Path(place.path).unlink, missing_ok=True)
        return {f"{tls}{place}": (sock,)}
    return {f"{tls}{place}": tuple(map(stack.enter_context, bind(place, workers)))}


def _taken_over(place: Inherited, tls: str, stack: ExitStack) -> dict[str, tuple[socket.socket, ...]]:
    """What the service manager made of that name: copies, as another policy may have them under another name."""
    found: dict[str, tuple[socket.socket, ...]] = {
        f"{tls}{place} {index}": (stack.enter_context(sock.dup()),)
        for index, (name, sock) in enumerate(_handed_over())
        if place.name in ("", name)
    }
    if not found:
        raise OSError(0, "the service manager has handed over no such socket; see systemd.socket(5)")
    return found


@cache
def _handed_over() -> tuple[tuple[str, socket.socket], ...]:
    """Asked for once: afterwards nothing says that they are there."""
    return tuple(inherited())


def why_not(error: OSError) -> str:
    """Why an address cannot be listened at, and the way out."""
    if error.errno == errno.EADDRINUSE:
        return "somebody listens there already; stop them (another proxyd?) or choose another port"
    if error.errno == errno.EACCES:
        return "not permitted; choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address; `ip address` shows which it has"
    return error.strerror or "cannot listen"


def _tried(audit: Audit, before: Charge | None, stack: ExitStack) -> Sink | None:
    """Hold that the audit log can be opened, better now than by each worker: the sink, where it is a FIFO."""
    if audit.to == "stdout":
        return None
    if before is not None and before.policy.audit.to == audit.to:
        return before.pipe
    try:
        sink = FileSink(audit.to)
    except OSError as error:
        why = f"audit.to: {audit.to}: {error.strerror}; name a file that this account may append to"
        raise CannotServe(why, status=EX_CONFIG) from None
    if Path(audit.to).is_fifo():
        stack.callback(sink.close)
        return sink
    sink.close()
    return None
