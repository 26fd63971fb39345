"""What is not sound about the proxy that runs: asked from outside, as `validate` asks, and by its control socket.

For `proxyd audit --deep`. Root asks in the name of each account that the policy knows as a client, as who is nobody's
client is refused whatever he asks for. Nothing here changes the proxy; what it is asked counts for its limits.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxyd.cli.host_findings import agents_of, run_as
from proxyd.cli.validate import FAIL, HEARD, PASS, UNPROVEN, Result, asked
from proxyd.net.probe import Answer, Proxy
from proxyd.policy.finding import critical, remark, warning
from proxyd.policy.verdict import Reason
from proxyd.serve import control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxyd.policy.address import Endpoint
    from proxyd.policy.finding import Finding
    from proxyd.policy.model import Policy

_SHOWN: Final = 5
_LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
_CREDENTIAL_WANTED: Final = 407
_TOO_MANY: Final = 429
_NOT_JUDGED: Final = tuple(
    f": {reason.value}"
    for reason in (
        *(Reason.CREDENTIAL_REQUIRED, Reason.RATE_LIMIT, Reason.CONCURRENCY_LIMIT, Reason.OVERLOADED),
        *(Reason.CONNECTION_LIMIT, Reason.AUDIT_UNWRITABLE),
    )
)
"""How an answer ends that was given before it was looked at what is asked for."""
_TURNS: Final = 30
"""How often in all a proxy that wants less to be asked is waited for, a second each."""


def deep_findings(policy: Policy, proxy: Proxy | None) -> Iterator[Finding]:
    """All that is to be said. proxy: how it is reached; None to ask where the policy listens."""
    yield from _of_control(policy)
    proxies = [proxy] if proxy is not None else list(_proxies(policy))
    accounts = [agent.uid for agent in agents_of(policy)] if os.geteuid() == 0 else []
    if not proxies:
        places = ", ".join(str(place) for _, place in policy.listen.places())
        yield _unasked(places, "is no address to ask at", "give --proxy-url, if one leads there")
    for each in proxies:
        yield from _of_proxy(each, list(dict.fromkeys([os.geteuid(), *accounts])))


def _proxies(policy: Policy) -> Iterator[Proxy]:
    """How clients reach it."""
    for scheme, places in (("http", policy.listen.http), ("https", policy.listen.https)):
        endpoints = policy.listen.endpoints
        yield from (_at(scheme, each) for each in endpoints if each in places and each.port)


def _at(scheme: str, endpoint: Endpoint) -> Proxy:
    address = endpoint.address
    return Proxy(scheme, str(address) if int(address) else _LOOPBACK[address.version], endpoint.port)


def _unasked(whom: str, what: str, mend: str) -> Finding:
    return remark("daemon.unasked", f"{whom}: {what}", "So it is not known what it refuses.", mend)


def _of_control(policy: Policy) -> Iterator[Finding]:
    """What it says of itself."""
    path = policy.listen.control
    if not path:
        yield remark(
            "daemon.no_control",
            "listen.control: there is none",
            "Nobody can ask which policy runs, and `proxyd reload` cannot say what came of a reload.",
            'write control = "/run/proxyd/control"',
        )
        return
    try:
        status = control.ask_status(path)
    except PermissionError:
        yield _unasked(path, "is not for this account", "run this as root, or as the account that runs proxyd")
        return
    except (OSError, ValueError) as error:
        yield critical(
            "daemon.silent",
            f"{path}: {error.strerror or 'no answer'}"
            if isinstance(error, OSError)
            else f"{path}: what answers there is not proxyd",
            "proxyd does not run, or with a policy that names another control socket.",
            "start it with this policy",
        )
        return
    yield from run_as(status.uid, agents_of(policy))
    yield from _of_status(policy, status)


def _of_status(policy: Policy, status: control.Status) -> Iterator[Finding]:
    if status.digest != policy.digest:
        yield warning(
            "daemon.other_policy",
            f"what runs is {status.policy}, digest {status.digest[:16]}, and this file is {policy.digest[:16]}",
            "What was reviewed is not what is in force.",
            f"proxyd reload --policy {status.file}, if that is this file; else audit that one",
        )
    if status.serving < status.workers:
        yield warning(
            "daemon.not_ready",
            f"{status.serving} of {status.workers} workers serve",
            "Clients wait, or are fewer than they could be.",
            "look at what it says on stderr",
        )


def _of_proxy(proxy: Proxy, accounts: list[int]) -> Iterator[Finding]:
    """Whether it refuses what it must, in its own words, whoever asks."""
    first: list[Answer] = []
    for uid in accounts:
        patient = _Patient(proxy.scheme, proxy.host, proxy.port, proxy.credential, uid)
        first.append(patient.connect("127.0.0.1:1"))
        if not (first[-1].failure or _is_unknown(first[-1])):
            yield from _of_answers(proxy, asked(patient, [], []))
    if first[0].failure:
        yield _down(proxy, first[0].failure)
    elif any(answer.status == _CREDENTIAL_WANTED for answer in first):
        said = "does not take this credential" if proxy.credential else "wants a credential"
        yield _unasked(str(proxy), said, "give --proxy-url http://USER:PASSWORD@HOST:PORT")
    elif all(map(_is_unknown, first)):
        yield _unasked(str(proxy), "knows no client here", "run this as root, or as the agent does")


def _is_unknown(answer: Answer) -> bool:
    return answer.status == _CREDENTIAL_WANTED or (answer.is_ours and "client_unknown" in answer.phrase)


def _down(proxy: Proxy, failure: str) -> Finding:
    if "CERTIFICATE" in failure:
        return _unasked(
            str(proxy), failure, "give --proxy-url https://NAME:PORT, and SSL_CERT_FILE if it is your own CA's"
        )
    return critical(
        "daemon.down", f"{proxy}: {failure}", "Nobody is served there.", "start proxyd, and see who else listens there"
    )


def _of_answers(proxy: Proxy, results: Iterator[Result]) -> Iterator[Finding]:
    reached, proven, unjudged = [], False, ""
    for result in results:
        proven = proven or result.verdict == PASS or result.said == HEARD
        if result.verdict == UNPROVEN and result.said.endswith(_NOT_JUDGED):
            unjudged = result.said
            break
        if result.verdict == FAIL:
            reached.append(result.target)
    if unjudged:
        yield _unasked(str(proxy), unjudged, "ask again, when it has less to do")
    if reached and proven:
        yield critical(
            "daemon.reaches",
            f"{proxy}: does not refuse {_some_of(reached)}",
            "Special-purpose addresses are this host's and this network's own services.",
            "`proxyd validate` shows each; `proxyd explain` says which row lets it through",
        )
    elif not proven and not unjudged:
        yield warning(
            "daemon.unproven",
            f"{proxy}: answers, and never says that it refuses",
            "A failure cannot be told from a denial: this is not proxyd, or another proxy is in front of it.",
            "ask the port that proxyd itself listens on",
        )


def _some_of(targets: list[str]) -> str:
    different = list(dict.fromkeys(targets))
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return f"{', '.join(different[:_SHOWN])}{more}"


@contextmanager
def _in_the_name_of(uid: int) -> Iterator[None]:
    """Sockets that are made meanwhile belong to this account (credentials(7))."""
    own = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)


@dataclass(frozen=True)
class _Patient(Proxy):
    """A proxy that is asked by one account, and no more than it lets a client ask."""

    uid: int = field(default_factory=os.geteuid)
    turns: Iterator[int] = field(default_factory=lambda: iter(range(_TURNS)))

    def connect(self, target: str) -> Answer:
        return self._in_turn(lambda: Proxy.connect(self, target))

    def get(self, url: str, host: str) -> Answer:
        return self._in_turn(lambda: Proxy.get(self, url, host))

    def _in_turn(self, ask: Callable[[], Answer]) -> Answer:
        while True:
            with _in_the_name_of(self.uid):
                answer = ask()
            if not (answer.is_ours and answer.status == _TOO_MANY) or next(self.turns, None) is None:
                return answer
            time.sleep(1)
