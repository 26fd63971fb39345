"""`proxyd validate`: does the proxy work, and does it refuse? Asked from outside, as a client asks.

A denial is proven by the proxy's own words (Proxy-Status) and, on loopback, by a canary that nobody reached; a proxy
that only fails to connect proves nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import EX_USAGE
from proxyd.cli.terminal import Ink, refuse, say, say_json
from proxyd.net.probe import Answer, BadProxyUrl, Canary, Proxy
from proxyd.policy.address import BadTarget, Destination, parse_url
from proxyd.policy.special import SPECIAL_NETWORKS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

PASS, FAIL, UNPROVEN = "pass", "FAIL", "unproven"
HEARD: Final = "the canary on loopback was reached"
_INKS: Final = {PASS: Ink.GOOD, FAIL: Ink.BAD, UNPROVEN: Ink.WARNING}

_PUBLIC: Final = "https://example.com/"
_FORBIDDEN, _OK = 403, 200
_MOMENT: Final = 0.2  # seconds
_NOT_JUDGED: Final = (407, 429, 503)  # no credential, or too much of something
_LOOPBACK_6: Final = "::1"
_CARRIERS: Final = ("::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")
"""IPv6 addresses that carry 127.0.0.1: mapped, compatible, SIIT, NAT64, 6to4."""
_EPILOG: Final = """\
example, as the account of the agent:
  proxyd validate --proxy-url http://127.0.0.1:3128 --denied-url http://10.0.0.5/

--json: {"proxy", "counts": {"pass", "FAIL", "unproven"}, "results": [{"verdict", "way", "target", "said"}]}, or
{"problems"}

exit status: 0 nothing failed, 1 something did, 2 bad usage
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd validate` takes."""
    parser = commands.add_parser(
        "validate", help="ask a running proxy: does it work, and does it refuse?", epilog=_EPILOG
    )
    parser.add_argument(
        "--proxy-url", default="http://127.0.0.1:3128", metavar="URL", help="the proxy (default: %(default)s)"
    )
    parser.add_argument(
        "--allowed-url", action="append", default=[], metavar="URL", help=f"must pass (default: {_PUBLIC})"
    )
    parser.add_argument("--denied-url", action="append", default=[], metavar="URL", help="must be denied too")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask everything: 0, or 1 if anything failed."""
    try:
        proxy = Proxy.of(arguments.proxy_url)
    except BadProxyUrl as bad:
        return refuse([f"--proxy-url: {bad}; write http://127.0.0.1:3128"], EX_USAGE, as_json=arguments.json)
    try:
        allowed = [parse_url(url) for url in arguments.allowed_url or [_PUBLIC]]
        denied = [parse_url(url) for url in arguments.denied_url]
    except BadTarget as bad:
        why = f"--allowed-url or --denied-url: {bad}; write https://example.com/"
        return refuse([why], EX_USAGE, as_json=arguments.json)
    results = []
    for result in asked(proxy, allowed, denied):
        results.append(result)
        if not arguments.json:
            say(f"{result.verdict:8}", _INKS[result.verdict], f"  {result.way:7}  {result.target:40}  {result.said}")
    _sum_up(proxy, results, as_json=arguments.json)
    return 1 if any(result.verdict == FAIL for result in results) else 0


@dataclass(frozen=True, slots=True)
class Result:
    """One thing that was asked. way: "CONNECT" or "GET". said: what came back."""

    verdict: str
    way: str
    target: str
    said: str


def asked(proxy: Proxy, allowed: list[Destination], denied: list[Destination]) -> Iterator[Result]:
    """Ask for what must pass and what must be denied, loopback and the built-in table included."""
    for destination in allowed:
        yield _passes("CONNECT", str(destination), proxy.connect(str(destination)))
    yield from _canaries(proxy)
    for network in SPECIAL_NETWORKS:
        yield from _both_ways(proxy, Destination(str(network.network), 80, network.network))
    for destination in denied:
        yield from _both_ways(proxy, destination)


def _both_ways(proxy: Proxy, destination: Destination) -> Iterator[Result]:
    yield _refuses("CONNECT", str(destination), proxy.connect(str(destination)))
    yield _refuses("GET", str(destination), proxy.get(f"http://{destination}/", str(destination)))


def _canaries(proxy: Proxy) -> Iterator[Result]:
    """Loopback under every name and in every disguise, with somebody there who would notice."""
    with ExitStack() as stack:
        canary = stack.enter_context(Canary("127.0.0.1"))
        for host in ("127.0.0.1", "localhost", *(f"[{address}]" for address in _CARRIERS)):
            yield from _unheard(proxy, canary, f"{host}:{canary.port}")
        try:
            other = stack.enter_context(Canary(_LOOPBACK_6))
        except OSError:
            return  # no IPv6 here, and nothing to be reached
        yield from _unheard(proxy, other, f"[{_LOOPBACK_6}]:{other.port}")


def _unheard(proxy: Proxy, canary: Canary, target: str) -> Iterator[Result]:
    for way, ask in (("CONNECT", proxy.connect), ("GET", lambda host: proxy.get(f"http://{host}/{canary.word}", host))):
        canary.forget()
        result = _refuses(way, target, ask(target))
        late = 0.0 if result.verdict == PASS else _MOMENT  # who was connected may be heard of a little later
        yield Result(FAIL, way, target, HEARD) if canary.comes(late) else result


def _passes(way: str, target: str, answer: Answer) -> Result:
    return Result(PASS if answer.status == _OK else FAIL, way, target, _said(answer))


def _refuses(way: str, target: str, answer: Answer) -> Result:
    """A denial is 403 with our word; a failure is no denial, nor is what another proxy says without a signal.

    Where we did not get so far as to judge, nothing is said of what is asked for.
    """
    if answer.is_ours and answer.status == _FORBIDDEN:
        return Result(PASS, way, target, _said(answer))
    failed = bool(answer.failure) or answer.status >= 400  # noqa: PLR2004 - an error
    unproven = answer.status in _NOT_JUDGED if answer.is_ours else failed
    return Result(UNPROVEN if unproven else FAIL, way, target, _said(answer))


def _said(answer: Answer) -> str:
    return answer.failure or f"{answer.status} {answer.phrase}"


def _sum_up(proxy: Proxy, results: list[Result], *, as_json: bool) -> None:
    counts = {verdict: sum(result.verdict == verdict for result in results) for verdict in (PASS, FAIL, UNPROVEN)}
    if as_json:
        say_json({"proxy": str(proxy), "counts": counts, "results": [asdict(result) for result in results]})
        return
    unproven = counts[UNPROVEN]
    hint = f", {unproven} unproven: refused or failed, without saying that it was a denial" if unproven else ""
    ink = Ink.BAD if counts[FAIL] else Ink.WARNING if unproven else Ink.GOOD
    say(f"{proxy}: {counts[PASS]} as they should be, {counts[FAIL]} not", ink, hint)
