"""`proxyd --policy FILE`: load, bind, open the audit log, say what is listening, serve. It judges nothing."""

from __future__ import annotations

import errno
import resource
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from proxyd import __version__
from proxyd.audit.sink import FileSink, Sink
from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE, complain, load_or_complain
from proxyd.net.host import own_addresses, raise_file_limit, system_servers
from proxyd.serve.daemon import serve
from proxyd.serve.listener import bind, bound_to

if TYPE_CHECKING:
    import argparse
    import socket

    from proxyd.policy.model import Policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `proxyd` takes when no command is named."""
    parser.add_argument("--policy", metavar="FILE", dest="run_policy", help="the policy to run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the proxy until it is told to end; the exit status."""
    policy = load_or_complain(arguments.run_policy)
    if policy is None:
        return EX_CONFIG
    servers = policy.dns.servers or system_servers()
    if not servers:
        complain('no resolver: /etc/resolv.conf names none; write servers = ["9.9.9.9"] under [dns] in the policy')
        return EX_CONFIG
    try:
        own_addresses()
    except OSError as error:
        complain(f"/proc/net: {error.strerror}: proxyd must know this host's addresses to keep clients from itself")
        return EX_CONFIG
    _leave_no_core()
    files = raise_file_limit()
    with ExitStack() as stack:
        _outlive_early_signals(stack)
        sockets = _bind_all(policy, stack)
        if sockets is None:
            return EX_UNAVAILABLE
        sink = _open_sink(policy, stack)
        if sink is None:
            return EX_CONFIG
        _say_what_listens(arguments.run_policy, policy, sockets, files)
        trio.run(serve, policy, sockets, servers, sink)
    return 0


def _outlive_early_signals(stack: ExitStack) -> None:
    """Whoever reads that we listen may signal at once; until the daemon hears, the default would end us."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))


def _bind_all(policy: Policy, stack: ExitStack) -> list[socket.socket] | None:
    """Every listener, or None once the first that cannot be had is on stderr."""
    sockets = []
    for index, endpoint in enumerate(policy.listen.http):
        try:
            sockets.append(stack.enter_context(bind(endpoint)))
        except OSError as error:
            complain(f"listen.http[{index}]: {endpoint}: {_why_not(error)}")
            return None
    return sockets


def _why_not(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "somebody listens there already; stop them (another proxyd?) or choose another port"
    if error.errno == errno.EACCES:
        return "not permitted; choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address; `ip address` shows which it has"
    return error.strerror or "cannot listen"


def _open_sink(policy: Policy, stack: ExitStack) -> Sink | None:
    if policy.audit.to == "stdout":
        return Sink(sys.stdout.fileno())
    try:
        sink = FileSink(policy.audit.to)
    except OSError as error:
        complain(f"audit.to: {policy.audit.to}: {error.strerror}; name a file that this account may append to")
        return None
    stack.callback(sink.close)
    return sink


def _say_what_listens(name: str, policy: Policy, sockets: list[socket.socket], files: int) -> None:
    where = ", ".join(str(bound_to(sock)) for sock in sockets)
    complain(
        f"{__version__} listening on {where}; policy {policy.name} ({name}), digest {policy.digest}; "
        f"audit to {policy.audit.to}; at most {policy.limits.connections} connections, {files} open files"
    )


def _leave_no_core() -> None:
    """A core dump would hold what passes through: no file gets it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
