"""Names -> addresses, asked of DNS: no search list, absolute names only, a hosts file if the policy wants one (R3).

A failure is DnsError and never "no addresses, go on" (R12). Which answers may be dialled is judged elsewhere;
every name of a CNAME chain is handed over with them so that it can be.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import trio
from netaddr import IPAddress

from proxyd.net.host import SHORTAGES
from proxyd.net.nameserver import LONGEST_CHAIN, MOST_ADDRESSES, RDTYPES, TRY_SECONDS, ask
from proxyd.net.turns import FairTurns
from proxyd.policy.address import BadTarget, Resolution, parse_host
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxyd.policy.dns import Routes, Server

    Ask = Callable[[dns.message.Message, Server], Awaitable[dns.message.Message]]

TOTAL_SECONDS: Final = 3.0  # for one lookup, waiting for its turn included; the client gives up at 5 s
GRACE_SECONDS: Final = 1.0  # for the second family, once the first has answered
ROUNDS: Final = 3  # times that every server is asked
IN_FLIGHT: Final = 64  # lookups at once …
MOST_OF_ONE: Final = 48  # … and those of one client: a zone that keeps silent must not silence the others
CACHED_NAMES: Final = 4096
LONGEST_TTL: Final = 300.0
NEGATIVE_TTL: Final = 5.0
_PAYLOAD: Final = 1232  # octets of a UDP answer that no path fragments (DNS Flag Day 2020)


class DnsError(Exception):
    """The name could not be resolved; `reason` says whether for want of time. The text never has the name."""

    def __init__(self, why: str, reason: Reason = Reason.DNS_ERROR) -> None:
        super().__init__(why)
        self.reason = reason


class _NotAsked(DnsError):  # noqa: N818 - the same
    """Nobody was asked, or not for long: that says something of the client or of this host, and nothing of the name."""


class _NoSuchName(DnsError):  # noqa: N818 - as DnsError, with one thing more to say
    """A server said that the name does not exist: that is an answer, and no reason to ask another one."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one family had to say: perhaps no address, but an answer."""

    addresses: tuple[IPAddress, ...]
    chain: tuple[str, ...]
    ttl: float


@dataclass(slots=True)
class _Lookup:
    """A lookup under way, which any number of requests may wait for."""

    done: trio.Event = field(default_factory=trio.Event)
    outcome: Resolution | DnsError = field(default_factory=lambda: DnsError("the resolver is shutting down"))


class Resolver:
    """Looks names up, each at most once at a time, and remembers answers within bounds.

    Lookups run in `nursery`: a request that is cancelled while it waits takes no other one's answer with it. Clients
    share answers, but wait for no turn of each other's.
    """

    def __init__(self, nursery: trio.Nursery, routes: Routes, ask: Ask = ask) -> None:
        self._nursery = nursery
        self._routes = routes
        self._ask = ask
        self._under_way: dict[tuple[str, str], _Lookup] = {}
        self._cache: OrderedDict[str, tuple[float, Resolution | DnsError]] = OrderedDict()
        self._turns = FairTurns(IN_FLIGHT, MOST_OF_ONE)

    def change(self, routes: Routes) -> None:
        """Ask others from now on. What those before say, or have said, is forgotten."""
        if routes != self._routes:
            self._routes = routes
            self._cache.clear()
            self._under_way.clear()

    async def resolve(self, name: str, client: str) -> Resolution:
        """Every address of `name`, a host name in normal form. client: whose share of the lookups it is from.

        Raises DnsError.
        """
        if (known := self._routes.hosts.get(name)) is not None:
            return Resolution(known)
        outcome = self._remembered(name)
        if outcome is None:
            lookup = self._under_way.get((client, name)) or self._start(name, client)
            await lookup.done.wait()
            outcome = lookup.outcome
        if isinstance(outcome, Resolution):
            return outcome
        raise DnsError(str(outcome), outcome.reason)  # a new one: an exception gathers the frames it passes through

    def _remembered(self, name: str) -> Resolution | DnsError | None:
        expires, outcome = self._cache.get(name, (0.0, None))
        if outcome is None or trio.current_time() >= expires:
            return None
        self._cache.move_to_end(name)
        return outcome

    def _start(self, name: str, client: str) -> _Lookup:
        lookup = self._under_way[client, name] = _Lookup()
        self._nursery.start_soon(self._run, name, client, lookup)
        return lookup

    async def _run(self, name: str, client: str, lookup: _Lookup) -> None:
        ttl = NEGATIVE_TTL
        worth_remembering = True
        try:
            lookup.outcome, ttl = await self._look_up(name, client)
        except DnsError as error:
            worth_remembering = not isinstance(error, _NotAsked)
            lookup.outcome = DnsError(str(error), error.reason)  # a new one, without the frames it passed through
        except Exception:  # noqa: BLE001 - it would end the daemon: whatever an answer brings about, the lookup failed
            lookup.outcome = DnsError("the lookup failed in a way that nobody foresaw")
        finally:
            current = self._under_way.get((client, name)) is lookup  # else it asked those whom nobody asks any longer
            if current:
                del self._under_way[client, name]
            lookup.done.set()
        if current and worth_remembering:
            self._remember(name, lookup.outcome, ttl)

    def _remember(self, name: str, outcome: Resolution | DnsError, ttl: float) -> None:
        self._cache[name] = (trio.current_time() + ttl, outcome)
        self._cache.move_to_end(name)
        if len(self._cache) > CACHED_NAMES:
            self._cache.popitem(last=False)

    async def _look_up(self, name: str, client: str) -> tuple[Resolution, float]:
        """A and AAAA side by side. A family whose lookup fails contributes nothing; no address at all is an error."""
        answers: list[_Answer] = []
        failures: list[DnsError] = []
        began = math.inf
        with trio.move_on_after(TOTAL_SECONDS) as total:
            async with self._turns.turn(client), trio.open_nursery() as families:
                began = trio.current_time()
                for rdtype in RDTYPES:
                    families.start_soon(self._look_up_family, name, rdtype, answers, failures, families.cancel_scope)
        addresses = tuple(address for answer in answers for address in answer.addresses)
        if addresses:
            chain = tuple(dict.fromkeys(alias for answer in answers for alias in answer.chain))
            ttl = min(answer.ttl for answer in answers if answer.addresses)
            return Resolution(addresses, chain), min(ttl, LONGEST_TTL)
        if total.cancelled_caught and trio.current_time() - began < TRY_SECONDS:
            raise _NotAsked("too many lookups are under way", Reason.DNS_TIMEOUT)
        if total.cancelled_caught or any(failure.reason is Reason.DNS_TIMEOUT for failure in failures):
            raise DnsError("no server answered in time", Reason.DNS_TIMEOUT)
        of_ours = (failure for failure in failures if isinstance(failure, _NotAsked))
        raise next(of_ours, failures[0] if failures else DnsError("the name has no address"))

    async def _look_up_family(
        self,
        name: str,
        rdtype: dns.rdatatype.RdataType,
        answers: list[_Answer],
        failures: list[DnsError],
        both: trio.CancelScope,
    ) -> None:
        try:
            answers.append(await self._ask_servers(name, rdtype))
        except DnsError as error:
            failures.append(error)
        if any(answer.addresses for answer in answers):
            both.deadline = min(both.deadline, trio.current_time() + GRACE_SECONDS)

    async def _ask_servers(self, name: str, rdtype: dns.rdatatype.RdataType) -> _Answer:
        """Ask the servers in turn. Silence is asked again; an answer that is no use is final once all gave one."""
        failure = DnsError("no server answered in time", Reason.DNS_TIMEOUT)
        for _ in range(ROUNDS):
            silent = False
            for server in self._routes.to(name):
                query = dns.message.make_query(dns.name.from_text(name + "."), rdtype, use_edns=0, payload=_PAYLOAD)
                try:
                    return _read_answer(await self._ask(query, server))
                except _NoSuchName:
                    raise
                except DnsError as error:
                    failure = error
                except dns.exception.Timeout:
                    silent = True
                except OSError as error:
                    failure = _unheard(error)
                except (dns.exception.DNSException, EOFError, trio.BrokenResourceError):
                    failure = DnsError("the answer of a server could not be read")
            if not silent:
                break
        raise failure


def _unheard(error: OSError) -> DnsError:
    """Why a server could not be asked."""
    if error.errno in SHORTAGES:
        return _NotAsked("this host has no more of what it takes to ask", Reason.OUT_OF_RESOURCES)
    return DnsError("a server could not be asked")


def _read_answer(message: dns.message.Message) -> _Answer:
    """The addresses at the end of the chain that begins with the question; nothing else in the message counts."""
    if message.rcode() == dns.rcode.NXDOMAIN:
        raise _NoSuchName("the name does not exist")
    if message.rcode() != dns.rcode.NOERROR:
        raise DnsError(f"the server answered {dns.rcode.to_text(message.rcode())}")
    if not isinstance(message, dns.message.QueryMessage):
        raise DnsError("the answer is no answer to a query")
    chaining = message.resolve_chaining()
    if len(chaining.cnames) > LONGEST_CHAIN:
        raise DnsError("the CNAME chain is too long")
    records = tuple(chaining.answer or ())
    if len(records) > MOST_ADDRESSES:
        raise DnsError("the answer has too many addresses")
    chain = tuple(_host(str(cname[0].target)) for cname in chaining.cnames)
    return _Answer(tuple(IPAddress(record.address) for record in records), chain, float(chaining.minimum_ttl))


def _host(target: str) -> str:
    try:
        return parse_host(target)[0]
    except BadTarget:
        raise DnsError("a name of the CNAME chain is no host name") from None
