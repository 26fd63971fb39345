"""`load`: any octets are a Policy that can be used, or problems to be read; never allowed by omission (R8, R9, R12).

A problem is a line of text that begins with the name of a file, and no secret is in it (R7, ATTACKS 9). A policy is the
same when it is read again, fits the published schema, and can be judged by, linted and compared. Whatever it says,
nothing that is locked is allowed; and nothing special-purpose unless a permit for that very host holds it.

Left out of an accepted policy, a line allows nothing that was denied, as long as all that narrows is still there:
[[deny]] rows, the ports of destinations and a client's own default, mode and ports, a client's own allowlist (without
which it has everybody's), the day on which a permit ends, translators, and the parent. Of localhost's addresses those
count that are permitted, so that one permit less can be one refusal less.
"""

from __future__ import annotations

import json
import tomllib
import zlib
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from netaddr import IPAddress

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.compare import compare
from proxyd.policy.diff import changes
from proxyd.policy.lint import findings
from proxyd.policy.load import PolicyError
from proxyd.policy.rows import Rows
from proxyd.policy.schema import policy_schema
from proxyd.policy.shape import Table
from proxyd.policy.snapshot import Snapshot
from proxyd.policy.special import is_localhost
from proxyd.policy.text import printable
from proxyd.policy.verdict import Allow, decide
from tests.fuzz.target import Target
from tests.policy.worlds import FULL, HASH, MINIMAL, TODAY, loaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy
    from proxyd.policy.rows import PermitRow

SECRET: Final = "kept-by-nobody-7c1e"  # noqa: S105 - nobody's
SECRETS: Final = (HASH.rpartition("$")[2][::-1], SECRET)
"""What stands in the files beside: of the one only its hash. No input has it."""

_BESIDE: Final = {"hash": HASH.rpartition("$")[0] + "$" + SECRETS[0], "parent": f"proxyd:{SECRET}"}
_SCHEMA: Final = Draft202012Validator(policy_schema())
_ROWS_SCHEMA: Final = Draft202012Validator(Table(Rows).schema())
_ACCEPTED: Final = {"allow": "a policy that allows", "deny": "a policy that denies"}
_SHORTEST_SECRET: Final = 8
_RARELY: Final = 199  # comparing what is reached takes half a second: one policy of so many …
_SHORT: Final = 2048  # … and no longer than this
_MINIMAL: Final = loaded(MINIMAL)


def _at(
    host: str, *addresses: str, port: int = 443, chain: tuple[str, ...] = ()
) -> tuple[Destination, Resolution | None]:
    literal = IPAddress(host) if host[-1].isdigit() or ":" in host else None
    found = Resolution(tuple(map(IPAddress, addresses)), chain) if addresses else None
    return Destination(host, port, literal), found


LOCKED: Final = (
    *(_at("169.254.169.254", port=80), _at("169.254.169.254"), _at("fd00:ec2::254"), _at("168.63.129.16")),
    *(
        _at("0.0.0.0"),
        _at("::"),
        _at("metadata.google.internal", "93.184.216.34"),
        _at("metadata.goog", "93.184.216.34"),
    ),
    *(_at("nas.local", "169.254.169.254"), _at("a.example", "169.254.169.254"), _at("b.example", "::")),
    _at("api.example.com", "93.184.216.34", "::ffff:169.254.169.254"),
    _at("api.example.com", "93.184.216.34", chain=("metadata.goog",)),
)
"""What nothing opens."""

SPECIAL: Final = (
    *(_at("10.0.0.5"), _at("127.0.0.1", port=11434), _at("::1"), _at("192.168.1.1", port=80), _at("::ffff:10.0.0.5")),
    *(_at("nas.local", "10.0.0.7"), _at("api.example.com", "10.0.0.5"), _at("a.example", "fd00::7"), _at("localhost")),
    _at("localhost", port=11434),
)
"""What only a permit opens."""

PUBLIC: Final = (
    *(_at("93.184.216.34"), _at("api.example.com", "93.184.216.34"), _at("x.example.net", "2606:2800:220:1::1")),
    *(_at("db.corp.example", "203.0.113.7"), _at("models.example", "93.184.216.34", port=8443), _at("203.0.112.9")),
    *(
        _at("mail.example", "93.184.216.34", port=25),
        _at("a.example", "93.184.216.34", port=80),
        _at("2606:2800::7f00:1"),
    ),
)


def _attempt(data: bytes) -> str:
    """A policy, and behind a NUL the file rows.toml; TOML has no NUL."""
    main, behind, rows = data.partition(b"\0")
    beside: dict[str, str | bytes] = {**_BESIDE, "rows": rows} if behind else {**_BESIDE}
    try:
        policy = loaded(main, TODAY, **beside)
    except PolicyError as error:
        return _refused(error.problems, main, rows)
    assert loaded(main, TODAY, **beside) == policy
    _fits_the_schema(main, rows if policy.include and behind else None)
    told = [str(each) for each in findings(policy, TODAY)]
    told += [*changes(_MINIMAL, policy), *changes(policy, _MINIMAL), repr(policy)]
    assert list(changes(policy, policy)) == []
    assert not [text for text in told for secret in SECRETS if secret in text]
    allowed = _allowed(policy)
    _is_no_narrower_without_a_line(main, beside, policy, allowed)
    number = zlib.crc32(data)
    if number % _RARELY == 0 and len(data) < _SHORT:
        assert list(compare(Snapshot.of(policy, TODAY), Snapshot.of(policy, TODAY))) == []
    return _ACCEPTED[policy.destinations.default]


# What is told of one that is refused


def _refused(problems: list[str], main: bytes, rows: bytes) -> str:
    documents = [_parsed(each) for each in (main, rows)]
    files = {"main.toml", "rows.toml"}
    for document in filter(None, documents):
        included = document.get("include")
        names = included if isinstance(included, list) else ()
        files |= {str(PurePosixPath("main.toml").parent / each) for each in names if isinstance(each, str)}
    starts = tuple(f"{printable(name)}: " for name in files)
    assert problems
    assert len(set(problems)) == len(problems)
    for problem in problems:
        assert problem.isprintable()
        assert problem.startswith(starts), problem
    said = "\n".join(problems)
    secrets = [*SECRETS, *(each for each in _passwords(documents[0]) if main.count(each.encode()) == 1)]
    assert not [secret for secret in secrets if secret in said]
    if any("is not TOML: " in each or "is not UTF-8 text" in each for each in problems):
        return "no TOML"
    return "files that cannot be read" if all("cannot be read" in each for each in problems) else "no policy"


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return None


def _passwords(document: dict[str, Any] | None) -> Iterator[str]:
    """What stands where a hash ought to, whatever it is."""
    clients = (document or {}).get("client")
    for client in clients if isinstance(clients, list) else ():
        credential = client.get("credential") if isinstance(client, dict) else None
        password = credential.get("password") if isinstance(credential, dict) else None
        if isinstance(password, str) and len(password) >= _SHORTEST_SECRET:
            yield password


# What holds of one that is accepted


def _fits_the_schema(main: bytes, rows: bytes | None) -> None:
    for validator, data in ((_SCHEMA, main), (_ROWS_SCHEMA, rows)):
        if data is not None:
            document = json.loads(json.dumps(tomllib.loads(data.decode()), default=date.isoformat))
            assert (error := next(validator.iter_errors(document), None)) is None, str(error)


def _allowed(policy: Policy) -> set[tuple[str, str, int, str]]:
    """Who may reach what of all that is tried here."""
    snapshot = Snapshot.of(policy, TODAY)
    allowed = set()
    for client in snapshot.policy.client:
        for number, (destination, found) in enumerate((*LOCKED, *SPECIAL, *PUBLIC)):
            verdict = decide(destination, client, snapshot, found)
            if isinstance(verdict, Allow):
                assert number >= len(LOCKED), "what is locked is open"
                if number < len(LOCKED) + len(SPECIAL):
                    assert _opened(destination, verdict.addresses, client, snapshot.policy), "opened by nobody"
                assert _listed(destination, client, snapshot.policy), "allowed by nobody"
                allowed.add((client.name, destination.host, destination.port, str(found)))
    return allowed


def _opened(destination: Destination, addresses: tuple[IPAddress, ...], client: Client, policy: Policy) -> bool:
    """Whether permits of this client hold all of it; or a name leads where a VPN client answers for all of them."""
    permits = [each for each in (*policy.permit, *client.permit) if each.host == destination.host]
    networks = [network for each in permits for network in each.networks]
    networks += policy.dns.dangerously_allow_fake_ip if destination.address is None else ()
    return all(any(address in network for network in networks) for address in addresses)


def _listed(destination: Destination, client: Client, policy: Policy) -> bool:
    """Whether there is somebody who said that it may be: the default, a report mode, a row."""
    own, host = client.destinations.over(policy.destinations), destination.host
    rows = [*(client.allow or policy.allow)]
    patterns = [(pattern, row.ports) for row in rows for pattern in row.hosts]
    patterns += [(row.host, row.ports) for row in (*policy.permit, *client.permit)]
    return (
        own.default == "allow"
        or own.mode == "report"
        or any(
            (pattern == host or (pattern.startswith("*.") and host.endswith(pattern[1:])))
            and any(destination.port in span for span in ports)
            for pattern, ports in patterns
        )
    )


def _is_no_narrower_without_a_line(
    main: bytes, beside: dict[str, str | bytes], policy: Policy, allowed: set[tuple[str, str, int, str]]
) -> None:
    """One line of those that are there, another one for each input."""
    lines = main.split(b"\n")
    del lines[zlib.crc32(main) % len(lines)]
    try:
        without = loaded(b"\n".join(lines), TODAY, **beside)
    except PolicyError:
        return
    if _narrows_as(policy) <= _narrows_as(without) and _reports(without) <= _reports(policy):
        lost_permit = set(map(_permit, policy.every_permit)) - set(map(_permit, without.every_permit))
        more = {each for each in _allowed(without) - allowed if not (lost_permit and is_localhost(each[1]))}
        assert more == set(), "opened by a line that is not there"


def _narrows_as(policy: Policy) -> set[object]:
    """All that refuses what would be allowed without it."""
    said: set[object] = {policy.parent and policy.parent.address, *policy.dns.nat64, bool(policy.destinations.ports)}
    for name, rows in (("", policy.deny), *((client.name, client.deny) for client in policy.client)):
        said |= {(name, each) for row in rows for each in (*row.hosts, *row.networks)}
    for client in policy.client:
        own = client.destinations
        said |= {(client.name, bool(client.allow)), (client.name, "ports", own.ports is not None)}
        said |= {(client.name, own.default or "as all"), (client.name, own.mode or "as all")}
    said |= {(*_permit(row), row.expires) for row in policy.every_permit if row.expires is not None}
    return said


def _permit(row: PermitRow) -> tuple[object, ...]:
    return row.host, row.ports, row.networks


def _reports(policy: Policy) -> set[str]:
    """Who is in report mode: without the header of a table, its keys are another one's."""
    return {each.name for each in policy.client if each.destinations.over(policy.destinations).mode == "report"}


# What may stand there

_SHIPPED: Final = Path(__file__).parents[3] / "policies"
_ROWS: Final = b"[[deny]]".join((_SHIPPED / "denylist.toml").read_bytes().split(b"[[deny]]")[:12])
_FULL: Final = FULL.replace(f'password = "{HASH}"', 'file = "hash"')
_INCLUDING: Final = 'include = ["rows.toml"]\n' + MINIMAL
_OPEN: Final = MINIMAL.replace('"deny"', '"allow"')
_DENY: Final = '[[deny]]\nname = "corp"\nreason = "ours"\nhosts = ["*.corp.example"]\nnetworks = ["203.0.112.0/22"]\n'
_ALLOW: Final = '[[allow]]\nreason = "x"\nhosts = [\n"api.example.com",\n"*.example.net",\n]\nports = [443]\n'
_PERMIT: Final = """\
[[permit]]
reason = "x"
host = "{}"
ports = [443, "11434-11435"]
networks = [
"{}",
]
expires = 2027-01-31
"""
_OWN: Final = '[client.destinations]\ndefault = "deny"\nmode = "{}"\nports = [443]\n'
_CREDENTIAL: Final = '[client.credential]\nuser = "agent"\n{}\n'
_TEST: Final = '[[test]]\nurl = "http://169.254.169.254/"\nexpect = "deny"\n'
_TEXTS: Final = {
    "nothing": "",
    "the smallest": MINIMAL,
    "open": _OPEN,
    "every key": _FULL + "\0",
    "every key, and rows": _FULL + "\0" + _TEST,
    "rows": _INCLUDING + "\0" + _DENY + _TEST,
    "rows that are none": _INCLUDING + "\0" + "[listen]\n",
    "rows that include themselves": _INCLUDING + "\0" + 'include = ["rows.toml", "rows.toml"]\n' + _DENY,
    "rows that are not there": _INCLUDING,
    "a file of any name": 'include = ["a: b", "http://x/", "../x", "/x", "x\u202e.toml", "x/.."]\n' + MINIMAL,
    "denies": _OPEN + _DENY,
    "allows": MINIMAL + _ALLOW + _TEST,
    "a permit": _OPEN + _PERMIT.format("10.0.0.5", "10.0.0.0/8"),
    "permits of localhost": _OPEN
    + _PERMIT.format("localhost", "127.0.0.1/32")
    + _PERMIT.format("localhost", "::1/128"),
    "a permit of what is locked": _OPEN + _PERMIT.format("169.254.169.254", "169.254.0.0/16"),
    "a permit of everything": _OPEN + _PERMIT.format("nas.local", "0.0.0.0/0"),
    "ports": _OPEN.replace("[[client]]", "ports = [\n443,\n80,\n]\n[[client]]"),
    "a client's own": _OPEN + _OWN.format("enforce"),
    "a client's report": MINIMAL + "[destinations.x]\n" + _OWN.format("report"),
    "a report mode": MINIMAL.replace('"deny"', '"deny"\nmode = "report"') + _OWN.format("enforce") + _ALLOW,
    "a client's own rows": MINIMAL + _DENY.replace("[[", "[[client.") + _ALLOW.replace("[[", "[[client.") + _ALLOW,
    "a translator": _OPEN + '[dns]\nnat64 = ["2606:2800::/96"]\n',
    "fake addresses": _OPEN + '[dns]\ndangerously_allow_fake_ip = ["198.18.0.0/15"]\n',
    "a parent": _OPEN + '[parent]\naddress = "93.184.216.34:443"\ncredential_file = "parent"\n',
    "a parent's credential that is none": MINIMAL + '[parent]\naddress = "192.0.2.7:3128"\ncredential_file = "hash"\n',
    "a password": MINIMAL + _CREDENTIAL.format(f'password = "{HASH}"'),
    "a password in clear": MINIMAL + _CREDENTIAL.format('password = "correct horse battery"'),
    "a hash that is cut off": MINIMAL + _CREDENTIAL.format(f'password = "{HASH[:-9]}"'),
    "a hash that is too dear": MINIMAL + _CREDENTIAL.format(f'password = "{HASH.replace("ln=10", "ln=16")}"'),
    "a password in a file": MINIMAL + _CREDENTIAL.format('file = "hash"'),
    "a password that is no text": MINIMAL + _CREDENTIAL.format("password = [1]"),
    "a password where a table should be": MINIMAL + 'credential = "agent:correct horse"\n',
    "hosts of any kind": MINIMAL + _ALLOW.replace("*.example", "*.b\xfccher.\u2488.xn--a.\u0130"),
    "one that is no text": MINIMAL + 'name = "\\ud800"\n',
    "dates and numbers": MINIMAL.replace("= 1", "= 0x1_0") + "x = 1979-05-27T07:32:00Z\ny = nan\nz = 07:32:00\n",
    "deep": "x = " + "[" * 2000,
    "wide": "a." * 1500 + "b = 1",
    "a number of many digits": f"schema = {'9' * 4400}",
    "a control character": MINIMAL.replace("gateway", "a\\u001b[2J\\u202e\\nb"),
    "keys that are none": MINIMAL + '"\\u001b[2J" = 1\n"a\\nrows.toml: fine" = 1\n',
}
_SEEDS: Final = (
    {name: text.encode() for name, text in _TEXTS.items()}
    | {"no UTF-8": MINIMAL.encode() + b"# \xff", "Latin-1 rows": _INCLUDING.encode() + b"\0# \xe4", "NULs": bytes(9)}
    | {
        each.name: each.read_bytes().replace(b"denylist", b"rows") + b"\0" + _ROWS
        for each in _SHIPPED.glob("[!d]*.toml")
    }
    | {"default.toml": (_SHIPPED / "default.toml").read_bytes().replace(b"denylist", b"rows") + b"\0" + _DENY.encode()}
)
_pieces = st.sampled_from(
    [
        *(_DENY, _ALLOW, _TEST, _OWN.format("enforce"), _OWN.format("report"), _CREDENTIAL.format('file = "hash"')),
        *(_PERMIT.format("10.0.0.5", "10.0.0.0/8"), _PERMIT.format("nas.local", "10.0.0.0/24")),
        *(_PERMIT.format("localhost", "127.0.0.1/32"), _PERMIT.format("localhost", "::1/128")),
        *("[client.limits]\ntunnels = 1\n", '[dns]\nservers = ["9.9.9.9"]\n', '[parent]\naddress = "192.0.2.7:3128"\n'),
        *(_ALLOW.replace("[[", "[[client."), _DENY.replace("[[", "[[client.").replace("corp", "own"), "# more\n"),
        '[[client]]\nname = "other"\nusers = ["o"]\n',
    ]
)
_texts = st.builds(
    lambda start, pieces, end: (start + "".join(pieces) + end).encode(),
    st.sampled_from([MINIMAL, _OPEN, _INCLUDING, MINIMAL.replace('"deny"', '"deny"\nmode = "report"')]),
    st.lists(_pieces, max_size=5),
    st.one_of(st.just(""), st.text(max_size=9)),
)

_WORDS: Final = (
    *("[[deny]]\n", "[[allow]]\n", "[[permit]]\n", "[[test]]\n", "[[client]]\n", "[client.", "[destinations]\n", "# "),
    *('default = "', "mode = ", 'include = ["rows.toml"]\n', "expires = 2020-01-01\n", "ports = [", "networks = ["),
    *('hosts = ["\\u001b', "nat64 = [", '"""', "password = ", HASH),
)
_ODD: Final = (
    "1",
    "-1",
    "1.5",
    "nan",
    "true",
    '""',
    '"x"',
    "[]",
    "[[]]",
    "[1]",
    '["x"]',
    "{}",
    "{x = 1}",
    "[{}]",
    "07:32:00",
)


def _oddly(at: int, odd: str, text: str) -> bytes:
    """A policy with another value for one of its keys."""
    lines = text.split("\n")
    keys = [number for number, line in enumerate(lines) if " = " in line]
    number = keys[at % len(keys)]
    lines[number] = f"{lines[number].partition(' = ')[0]} = {odd}"
    return "\n".join(lines).encode()


TARGET: Final = Target(
    attempt=_attempt,
    about=(
        *("proxyd.policy.load", "proxyd.policy.shape", "proxyd.policy.model", "proxyd.policy.rows"),
        *("proxyd.policy.client", "proxyd.policy.dns", "proxyd.policy.listen", "proxyd.policy.admin"),
        *("proxyd.policy.password", "proxyd.policy.contradictions", "proxyd.policy.diff", "proxyd.policy.lint"),
    ),
    seeds=_SEEDS,
    inputs=st.builds(
        lambda text, rows: text + b"\0" + rows if rows is not None else text,
        st.one_of(
            _texts, st.builds(_oddly, st.integers(0, 200), st.sampled_from(_ODD), st.sampled_from([FULL, _FULL]))
        ),
        st.one_of(st.none(), st.lists(_pieces, max_size=3).map(lambda pieces: "".join(pieces).encode())),
    ),
    outcomes=frozenset({"no TOML", "no policy", "files that cannot be read", *_ACCEPTED.values()}),
    longest=16384,
    words=tuple(f"\n{word}".encode() for word in _WORDS),
)
