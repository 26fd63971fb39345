"""`proxyd --policy FILE`: load, bind, say what is listening, and let workers serve. It judges nothing."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from proxyd import __version__
from proxyd.audit.sink import FileSink
from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE, complain, load_or_complain, read_policy_file, today
from proxyd.net.host import own_addresses, raise_file_limit, system_servers
from proxyd.net.listening import bind, bound_to
from proxyd.serve.complaints import Complaints
from proxyd.serve.handover import Files, Handover
from proxyd.serve.supervisor import SIGNALS, Supervisor

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
    files = Files()
    policy = load_or_complain(arguments.run_policy, files.remembering(read_policy_file))
    if policy is None:
        return EX_CONFIG
    servers = policy.dns.servers or system_servers()
    if not servers:
        complain('no resolver: /etc/resolv.conf names none; write servers = ["9.9.9.9"] under [dns] in the policy')
        return EX_CONFIG
    if not _knows_itself():
        return EX_CONFIG
    _leave_no_core()
    handover = Handover(
        name=arguments.run_policy,
        day=today(),
        files=files,
        servers=servers,
        via=f"proxyd-{secrets.token_hex(4)}",
        workers=_workers(policy),
    )
    return _supervise(policy, handover, raise_file_limit())


def _supervise(policy: Policy, handover: Handover, files: int) -> int:
    """Listen, say so, and let workers serve; the exit status. files: how many may be open."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # to our end: none is lost, and none of them ends us otherwise
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may have ignored it, and no death be told
    _occupy_stdin()
    with ExitStack() as stack:
        sockets = _bind_all(policy, handover.workers, stack)
        if sockets is None:
            return EX_UNAVAILABLE
        if not _can_be_audited(policy, stack):
            return EX_CONFIG
        _say_what_listens(policy, handover, sockets, files)
        Supervisor(sockets, handover, Complaints()).run()
    return 0


def _occupy_stdin() -> None:
    """With stdin closed, the first listener would take its number, which a worker needs for what it is told."""
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)


def _workers(policy: Policy) -> int:
    """How many processes serve: "auto" is one for each core that this account may use."""
    return policy.workers if isinstance(policy.workers, int) else len(os.sched_getaffinity(0))


def _knows_itself() -> bool:
    try:
        own_addresses()
    except OSError as error:
        complain(f"/proc/net: {error.strerror}: proxyd must know this host's addresses to keep clients from itself")
        return False
    return True


def _bind_all(policy: Policy, workers: int, stack: ExitStack) -> list[tuple[socket.socket, ...]] | None:
    """Every listener, a socket of each for each worker; or None once the first that cannot be had is on stderr."""
    sockets = []
    for index, endpoint in enumerate(policy.listen.http):
        try:
            sockets.append(tuple(map(stack.enter_context, bind(endpoint, workers))))
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


def _can_be_audited(policy: Policy, stack: ExitStack) -> bool:
    """Whether a worker will be able to open the audit log: better said now than by each of them."""
    if policy.audit.to == "stdout":
        return True
    try:
        sink = FileSink(policy.audit.to)
    except OSError as error:
        complain(f"audit.to: {policy.audit.to}: {error.strerror}; name a file that this account may append to")
        return False
    if Path(policy.audit.to).is_fifo():
        stack.callback(sink.close)  # while no worker has it open, its reader would take that for the end of all records
    else:
        sink.close()
    return True


def _say_what_listens(policy: Policy, handover: Handover, sockets: list[tuple[socket.socket, ...]], files: int) -> None:
    where = ", ".join(str(bound_to(each[0])) for each in sockets)
    complain(
        f"{__version__} listening on {where}; policy {policy.name} ({handover.name}), digest {policy.digest}; "
        f"audit to {policy.audit.to}; at most {policy.limits.connections} connections; "
        f"{handover.workers} {'worker' if handover.workers == 1 else 'workers'} of {files} open files"
    )


def _leave_no_core() -> None:
    """A core dump would hold what passes through: no file gets it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
