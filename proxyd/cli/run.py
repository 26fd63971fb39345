"""`proxyd --policy FILE`: make ready, say what is listening, and let workers serve. It judges nothing."""

from __future__ import annotations

import datetime as dt
import errno
import os
import resource
import signal
import sys
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from proxyd import __version__
from proxyd.audit.record import DIGEST_DIGITS, Record, timestamp
from proxyd.audit.sink import FileSink, Sink, SinkError
from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE, complain, not_spelt, today
from proxyd.cli.prepare import prepare, why_not
from proxyd.net.host import raise_file_limit, tunnels_within
from proxyd.net.listening import bind, bind_unix
from proxyd.net.notify import Manager
from proxyd.observe.tally import new_tally
from proxyd.policy.lint import warnings
from proxyd.policy.listen import UnixPath
from proxyd.policy.text import printable
from proxyd.serve import control
from proxyd.serve.charge import CannotServe
from proxyd.serve.complaints import Complaints
from proxyd.serve.crew import Crew
from proxyd.serve.ears import SIGNALS, Ears
from proxyd.serve.ledger import new_ledger
from proxyd.serve.service import Service
from proxyd.serve.supervisor import Supervisor

if TYPE_CHECKING:
    import argparse
    import socket

    from proxyd.cli.prepare import Confined
    from proxyd.cli.ward import Ward
    from proxyd.serve.admin import Desk
    from proxyd.serve.charge import Charge
    from proxyd.serve.control import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `proxyd` takes when no command is named."""
    parser.add_argument("--policy", metavar="FILE", dest="run_policy", help="the policy to run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the proxy until it is told to end; the exit status."""
    return serve(arguments.run_policy)


def serve(name: str, ward: Ward | None = None) -> int:
    """Serve the policy in file `name` until a signal says to end; the exit status.

    ward: a confined command that is served, and nobody else; the policy's listeners are not opened then.
    """
    confined = None if ward is None else ward.confined
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # to our end: none is lost, and none of them ends us otherwise
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may have ignored it, and no death be told
    _leave_no_core()
    _occupy_stdin()
    files = raise_file_limit()
    say = Complaints()
    with ExitStack() as stack:
        ledger = new_ledger()
        stack.callback(os.close, ledger)
        try:
            charge = prepare(name, ledger, say, confined=confined)
            tally = _tally(charge, stack)
            supervisor = _supervisor(charge, ledger, tally, ward, say)
            stack.callback(supervisor.close)
            if ward is None:
                ears = Ears(_control(charge.policy.listen.control, stack), _desk(supervisor, say, stack))
            else:
                ears = Ears(None, ward)
        except CannotServe as reason:
            for problem in reason.problems:
                complain(problem)
            return reason.status
        stack.callback(ears.close)
        if ward is None:
            _say_what_listens(charge, files)
        supervisor.run(ears)
    return 0


def _tally(charge: Charge, stack: ExitStack) -> int:
    """Memory for the workers to count in. Raises CannotServe, and then the charge is let go."""
    try:
        tally = new_tally(charge.handover.workers)
    except OSError as error:
        charge.let_go()
        why = (
            f"there is no memory to count in: {error.strerror}; raise the limits of this account (ulimit -f, ulimit -n)"
        )
        raise CannotServe(why, status=EX_UNAVAILABLE) from None
    stack.callback(os.close, tally)
    return tally


def _supervisor(charge: Charge, ledger: int, tally: int, ward: Ward | None, say: Complaints) -> Supervisor:
    return Supervisor(
        charge,
        Crew(charge.handover.workers, ledger, tally, say, replaces=ward is None),
        partial(_renewed, ledger=ledger, say=say, confined=None if ward is None else ward.confined),
        partial(_tell, say=say),
        Service(ward or Manager()),
    )


def _renewed(before: Charge, ledger: int, say: Complaints, confined: Confined | None) -> Charge:
    """What the policy is by now. Raises CannotServe."""
    if confined is not None:
        raise CannotServe("exec: the policy is read once: who is confined may have written it", status=EX_CONFIG)
    try:
        return prepare(before.handover.name, ledger, say, before)
    except UnicodeEncodeError as error:
        raise CannotServe(not_spelt(error), status=EX_CONFIG) from None


def _control(path: str, stack: ExitStack) -> socket.socket | None:
    """The control socket, if the policy wants one. Raises CannotServe."""
    if not path:
        return None
    try:
        sock = stack.enter_context(control.listen(path))
    except OSError as error:
        raise CannotServe(f"listen.control: {path}: {_why_not(error)}", status=EX_UNAVAILABLE) from None
    stack.callback(_remove, path)
    return sock


def _desk(supervisor: Supervisor, say: Complaints, stack: ExitStack) -> Desk | None:
    """The admin listener, if the policy wants one. Raises CannotServe."""
    where = supervisor.charge.policy.admin.listen
    if where is None:
        return None
    from proxyd.serve.admin import Desk  # noqa: PLC0415 - who has none does without all that it needs
    from proxyd.serve.pages import pages  # noqa: PLC0415

    try:
        sock = bind_unix(where.path, 0o600) if isinstance(where, UnixPath) else bind(where, 1)[0]
    except OSError as error:
        why = _why_not(error) if isinstance(where, UnixPath) else why_not(error)
        raise CannotServe(f"admin.listen: {where}: {why}", status=EX_UNAVAILABLE) from None
    desk = Desk(sock, lambda: supervisor.charge.token, pages(supervisor), say)
    stack.callback(desk.close)
    if isinstance(where, UnixPath):
        stack.callback(_remove, where.path)  # before it is closed: then another proxyd may bind there
    return desk


def _why_not(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "somebody listens there already, or something else is there; stop them (another proxyd?) or remove it"
    return f"{error.strerror}; name a path in a folder of this account's own"


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - as it was made


def _occupy_stdin() -> None:
    """With stdin closed, the first file opened would take its number, which a worker needs for what it is told."""
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)


def _say_what_listens(charge: Charge, files: int) -> None:
    policy, handover = charge.policy, charge.handover
    where = ", ".join(charge.described)
    complain(
        f"{__version__} listening on {where}; policy {policy.name} ({handover.name}), digest {policy.digest}; "
        f"audit to {policy.audit.to}; at most {policy.limits.connections} connections; "
        f"{handover.workers} {'worker' if handover.workers == 1 else 'workers'} of {files} open files, "
        f"enough for {tunnels_within(files)} tunnels {'' if handover.workers == 1 else 'each'}".rstrip()
    )
    for warning in warnings(policy, today()):
        complain(f"warning: {warning}")


def _tell(outcome: Outcome, charge: Charge, say: Complaints) -> None:
    """Tell the operator, and the audit log, what came of a reload."""
    policy = charge.policy
    if outcome.problems:
        for problem in outcome.problems:
            say(printable(f"reload refused, policy {policy.name} stays as it was: {problem}"))
    else:
        changed = ", ".join(outcome.changes) or "nothing changed"
        cut = f"{outcome.revoked} connections cut"
        say(printable(f"reloaded: policy {policy.name}, digest {policy.digest}; {changed}; {cut}"))
        for warning in warnings(policy, today()):
            say(printable(f"warning: {warning}"))
    record = Record(
        time=timestamp(dt.datetime.now(dt.UTC)),
        event="reload",
        pid=os.getpid(),
        outcome="refused" if outcome.problems else "done",
        problems=outcome.problems,
        changes=outcome.changes,
        revoked=outcome.revoked,
        policy=policy.name,
        digest=policy.digest[:DIGEST_DIGITS],
    )
    try:
        _write(record, policy.audit.to)
    except (SinkError, OSError) as error:
        say(f"audit log: a reload record could not be written: {getattr(error, 'strerror', None) or error}")


def _write(record: Record, to: str) -> None:
    """One record of the supervisor's own; the workers write all others. Raises SinkError or OSError."""
    sink = Sink(sys.stdout.fileno()) if to == "stdout" else FileSink(to)
    try:
        sink.write(record)
    finally:
        sink.close()


def _leave_no_core() -> None:
    """A core dump would hold what passes through: no file gets it, and no program.

    Of one octet at most, none is made; of none at most, it is handed to a program all the same, if core(5) names one.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 0 if most == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
