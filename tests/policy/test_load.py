"""Policy files -> Policy, or every problem at once: includes, contradictions, and the policy's own tests.

R1, R2, R8, R12, ATTACKS 7.5. The files are in memory: this floor never opens one.
"""

from __future__ import annotations

import tomllib
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPNetwork

from proxyd.policy.load import MAX_DEPTH, MAX_LINE, PolicyError, load
from tests.policy.worlds import MINIMAL, TODAY, files, loaded, nets, problems

OPEN = MINIMAL.replace('default = "deny"', 'default = "allow"')
INCLUDING = 'include = ["rows.toml"]\n' + MINIMAL
DENY = '[[deny]]\nname = "{0}"\nreason = "a test"\nhosts = ["{0}.example"]\n'
ALLOW = '[[allow]]\nreason = "a test"\nhosts = ["a.example"]\nports = {0}\n'
PERMIT = '[[permit]]\nreason = "a test"\nhost = "{host}"\nports = [443]\nnetworks = ["{network}"]\n{more}\n'

FULL = """\
schema = 1
name = "gateway"
include = ["rows.toml"]

[listen]
http = ["127.0.0.1:3128", "[::1]:3128"]
dangerously_public_listener = true

[destinations]
default = "deny"
mode = "report"
ports = [443, "8000-8099"]

[dns]
servers = ["9.9.9.9", "[2620:fe::fe]:53"]
nat64 = ["64:ff9b::/96"]

[audit]
to = "/var/log/proxyd.jsonl"
dangerously_prefer_availability = true

[limits]
connections = 100
idle_seconds = 60
drain_seconds = 0

[[client]]
name = "agent"
networks = ["127.0.0.0/8", "::1/128"]

[[deny]]
name = "corp"
reason = "our own"
hosts = ["*.corp.example"]
networks = ["203.0.112.0/22"]

[[allow]]
name = "models"
reason = "model providers"
hosts = ["api.example.com", "*.example.net"]
ports = [443]

[[permit]]
name = "ollama"
reason = "Ollama on this host"
host = "localhost"
ports = [11434]
networks = ["127.0.0.1/32", "::1/128"]
expires = 2027-01-31

[[test]]
name = "metadata"
url = "http://metadata.goog:443/"
client = "agent"
expect = "deny"
reason = "name_locked"

[[test]]
url = "https://api.example.com"
expect = "deny"
addresses = ["93.184.216.34"]
cnames = ["x.internal"]
"""
"""A policy that uses every key there is."""


# What is read


def test_the_smallest_policy_is_read() -> None:
    policy = loaded()
    assert (policy.name, policy.destinations.default, policy.destinations.mode) == ("gateway", "deny", "enforce")
    assert [client.name for client in policy.client] == ["agent"]
    assert (policy.deny, policy.allow, policy.permit, policy.test) == ((), (), (), ())
    assert (policy.audit.to, policy.audit.dangerously_prefer_availability) == ("stdout", False)


def test_a_policy_with_every_key_is_read() -> None:
    policy = loaded(FULL, rows=DENY.format("more"))
    assert [row.label for row in policy.deny] == ["corp", "more"]
    assert policy.deny[0].networks == nets("203.0.112.0/22")
    assert [row.ports for row in policy.allow] == [(range(443, 444),)]
    assert policy.permit[0].expires == date(2027, 1, 31)
    assert policy.destinations.ports == (range(443, 444), range(8000, 8100))
    assert [str(each) for each in policy.dns.servers] == ["9.9.9.9:53", "[2620:fe::fe]:53"]
    assert policy.limits.drain_seconds == 0


def test_a_row_without_a_name_is_called_by_its_file_and_place() -> None:
    policy = loaded(FULL, rows=ALLOW.format("[443]"))
    assert policy.allow[1].label == "rows.toml: allow[0]"
    assert policy.test[1].label == "main.toml: test[1]"


# Required keys and types, key by key

DOCUMENT = tomllib.loads(FULL)
Path = tuple[str | int, ...]


def paths(value: object, at: Path = ()) -> list[Path]:
    """The path of every key and item of a document."""
    children: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [(*at, name) for name, _ in children] + [
        each for name, child in children for each in paths(child, (*at, name))
    ]


def spelt(path: Path) -> str:
    """A path as a problem spells it."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path).removeprefix(".")


def toml(value: object) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def changed(value: Any, path: Path, change: object) -> Any:  # noqa: ANN401 - a TOML document
    """The document with another value at a path, or with none there for `...`."""
    step, *rest = path
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    kept = [
        (name, changed(each, tuple(rest), change) if name == step and rest else change if name == step else each)
        for name, each in pairs
        if name != step or rest or change is not ...
    ]
    return dict(kept) if isinstance(value, dict) else [each for _, each in kept]


def written(document: dict[str, object]) -> str:
    return "\n".join(f"{name} = {toml(each)}" for name, each in document.items())


KEYS = [path for path in paths(DOCUMENT) if isinstance(path[-1], str)]
REQUIRED = """
schema name listen listen.http destinations destinations.default client client[0].name client[0].networks deny[0].name
deny[0].reason allow[0].reason allow[0].hosts allow[0].ports
permit[0].reason permit[0].host permit[0].ports permit[0].networks
test[0].url test[0].expect test[1].url test[1].expect
""".split()  # noqa: SIM905


def test_the_document_is_the_one_that_is_read() -> None:
    assert problems(written(DOCUMENT), rows="") == problems(FULL, rows="") == []


@pytest.mark.parametrize("path", KEYS, ids=spelt)
def test_r12_a_missing_key_is_named_exactly_where_it_is_required(path: Path) -> None:
    document = changed(DOCUMENT, path, ...)
    missing = [each for each in problems(written(document), rows="") if ": is missing; " in each]
    if spelt(path) in REQUIRED:
        (problem,) = missing
        assert problem.startswith(f"main.toml: {spelt(path)}: is missing; ")
    else:
        assert missing == []


@pytest.mark.parametrize("path", paths(DOCUMENT), ids=spelt)
@pytest.mark.parametrize("wrong", [{"zzz": 1}, 1.5, [[]], ""], ids=["table", "float", "list", "empty"])
def test_r12_a_value_of_the_wrong_type_is_named(path: Path, wrong: object) -> None:
    found = problems(written(changed(DOCUMENT, path, wrong)), rows="")
    assert found
    assert all(each.startswith(f"main.toml: {spelt(path)}") for each in found)


@pytest.mark.parametrize(
    "table",
    [
        (),
        *(
            path
            for path in paths(DOCUMENT)
            if path
            in {
                ("listen",),
                ("destinations",),
                ("dns",),
                ("audit",),
                ("limits",),
                ("client", 0),
                ("deny", 0),
                ("allow", 0),
                ("permit", 0),
                ("test", 1),
            }
        ),
    ],
    ids=spelt,
)
def test_r12_an_unknown_key_is_named(table: Path) -> None:
    inner: Any = DOCUMENT
    for step in table:
        inner = inner[step]
    extended = {**inner, "zzz": 1}
    document = changed(DOCUMENT, table, extended) if table else extended
    (problem,) = problems(written(document), rows="")
    assert problem.startswith(f"main.toml: {spelt((*table, 'zzz'))}: unknown key; ")


def test_all_problems_of_all_files_are_said_at_once() -> None:
    main = 'include = ["a.toml", "gone.toml", "b.toml"]\n' + MINIMAL
    found = problems(main, a="[[deny]]", b='[[allow]]\nhosts = ["A.example"]\nreason = "x"')
    assert [each.partition(": ")[0] for each in found] == ["a.toml", "a.toml", "gone.toml", "b.toml", "b.toml"]


def test_a_problem_that_is_met_twice_is_said_once_and_where_it_was_met_first() -> None:
    main = 'include = ["gone.toml", "a.toml", "gone.toml"]\n' + MINIMAL
    assert [each.partition(": ")[0] for each in problems(main, a="[[deny]]")] == ["gone.toml", "a.toml", "a.toml"]


def test_attack_9_a_deny_row_has_a_name_as_a_refusal_tells_it_to_the_client() -> None:
    """Without one, the client would learn the path of a policy file."""
    (problem,) = problems(MINIMAL + '[[deny]]\nreason = "x"\nhosts = ["a.example"]')
    assert problem.startswith("main.toml: deny[0].name: is missing; ")


def test_a_policy_error_shows_each_problem_on_a_line() -> None:
    with pytest.raises(PolicyError) as error:
        loaded("")
    assert str(error.value).split("\n") == error.value.problems
    assert len(error.value.problems) == 5


def test_a_problem_is_one_line_whatever_is_in_the_file() -> None:
    (problem,) = problems(MINIMAL.replace('"gateway"', '"a\\nb: fine"'))
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "main.toml: is not UTF-8 text"),
        (b"schema = ", "main.toml: is not TOML: "),
        (b"a = 1\na = 2", "main.toml: is not TOML: "),
        (b"\xef\xbb\xbfschema = 1", "main.toml: is not TOML: "),
        (b"a = " + b"[\n" * 100_000, "main.toml: is nested too deeply"),
    ],
)
def test_r12_what_is_no_toml_is_a_problem(content: bytes, said: str) -> None:
    (problem,) = problems(content)
    assert problem.startswith(said)


@pytest.mark.parametrize("digits", ["1" * 5000, "0x" + "f" * 5000], ids=["decimal", "hexadecimal"])
def test_r12_a_number_of_any_length_is_a_problem_and_no_crash(digits: str) -> None:
    (problem,) = problems(MINIMAL.replace("schema = 1", f"schema = {digits}"))
    assert problem.startswith("main.toml: ")


@pytest.mark.parametrize("end", ["\n", "\r\n", ""], ids=["lf", "crlf", "end-of-file"])
def test_attack_8_a_line_of_more_than_8192_octets_is_refused_before_it_is_parsed(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that a dotted key takes grows with the square of its length; a comment stands for it here."""
    assert MAX_LINE == 8192
    longest = MINIMAL + "#".ljust(MAX_LINE, ".") + end
    assert problems(longest) == []
    monkeypatch.setattr(tomllib, "loads", lambda _: pytest.fail("it is not parsed"))
    too_long = "main.toml: has a line of more than 8192 bytes; break it up"
    assert problems(MINIMAL + "a." * (MAX_LINE // 2) + "a = 1" + end) == [too_long]
    assert problems(longest.replace("#.", "#..")) == [too_long]
    assert problems("é" * (MAX_LINE // 2 + 1) + end) == [too_long]


def test_attack_8_lines_of_included_files_are_no_longer_either() -> None:
    assert problems(INCLUDING, rows="#" * (MAX_LINE + 1)) == [
        "rows.toml: has a line of more than 8192 bytes; break it up"
    ]


@given(st.binary(max_size=64))
def test_r12_no_bytes_crash_the_loader(content: bytes) -> None:
    assert problems(content)


# Includes


def test_included_rows_add_up_and_none_removes_another() -> None:
    rows = DENY.format("a") + ALLOW.format("[443]") + PERMIT.format(host="nas.local", network="10.0.0.0/8", more="")
    policy = loaded(INCLUDING + DENY.format("b"), rows=rows + '[[test]]\nurl = "https://b.example"\nexpect = "deny"')
    assert [row.name for row in policy.deny] == ["b", "a"]
    assert (len(policy.allow), len(policy.permit), len(policy.test)) == (1, 1, 1)


@pytest.mark.parametrize(
    "key", ["schema = 1", 'name = "x"', "[listen]", "[destinations]", "[[client]]", "[dns]", "[audit]", "[limits]"]
)
def test_an_included_file_holds_rows_only(key: str) -> None:
    (problem,) = problems(INCLUDING, rows=key)
    assert problem.startswith("rows.toml: ")
    assert "unknown key" in problem


def chain(length: int) -> dict[str, Any]:
    """Files f1.toml … each including the next."""
    return {f"f{n}": f'include = ["f{n + 1}.toml"]\n' for n in range(1, length)} | {f"f{length}": DENY.format("deep")}


def test_includes_go_four_deep_and_no_deeper() -> None:
    main = 'include = ["f1.toml"]\n' + MINIMAL
    assert [row.name for row in loaded(main, **chain(MAX_DEPTH)).deny] == ["deep"]
    assert MAX_DEPTH == 4
    assert problems(main, **chain(MAX_DEPTH + 1)) == ["f5.toml: is included more than 4 deep; remove an include"]


def test_a_file_that_includes_itself_is_an_error() -> None:
    assert problems(INCLUDING, rows='include = ["rows.toml"]') == ["rows.toml: includes itself; remove an include"]
    assert problems(INCLUDING, rows='include = ["other.toml"]', other='include = ["rows.toml"]') == [
        "rows.toml: includes itself; remove an include"
    ]
    assert problems(INCLUDING, rows='include = ["main.toml"]') == ["main.toml: includes itself; remove an include"]


def test_a_file_reached_twice_counts_once() -> None:
    main = 'include = ["a.toml", "b.toml", "a.toml"]\n' + MINIMAL
    policy = loaded(main, a=DENY.format("once"), b='include = ["a.toml"]\n' + DENY.format("b"))
    assert [row.name for row in policy.deny] == ["once", "b"]


def test_r12_a_file_that_cannot_be_read_is_an_error_and_not_an_empty_one() -> None:
    assert problems(INCLUDING) == ["rows.toml: cannot be read: No such file or directory"]
    with pytest.raises(PolicyError) as error:
        load("other.toml", lambda _name, _beside: files()("main.toml", None), TODAY)
    assert error.value.problems == ["other.toml: cannot be read: No such file or directory"]


def test_r12_a_file_name_that_the_system_refuses_is_an_error() -> None:
    def read(name: str, beside: str | None) -> tuple[str, bytes]:
        raise ValueError(name, beside)

    with pytest.raises(PolicyError, match=r"^main\.toml: cannot be read: bad file name$"):
        load("main.toml", read, TODAY)


@pytest.mark.parametrize("url", ["https://agent:TOKEN@example.com/rows.toml", "file:///rows.toml"])
def test_r7_a_url_is_no_file_to_include_and_is_not_repeated(url: str) -> None:
    """It may hold a credential. What else is included is read all the same."""
    said = "main.toml: include[0]: a URL is no file; write a path relative to this one"
    assert problems(f'include = ["{url}", "rows.toml"]\n' + MINIMAL, rows="") == [said]
    assert len(problems(f'include = ["{url}", "rows.toml"]\n' + MINIMAL, rows="zzz = 1")) == 2


def test_an_include_is_read_relative_to_the_real_path_of_its_file() -> None:
    asked: list[tuple[str, str | None]] = []

    def read(name: str, beside: str | None) -> tuple[str, bytes]:
        asked.append((name, beside))
        return f"/real/{name}", {"m": INCLUDING, "rows.toml": 'include = ["x"]', "x": ""}[name].encode()

    load("m", read, TODAY)
    assert asked == [("m", None), ("rows.toml", "/real/m"), ("x", "/real/rows.toml")]


def test_the_digest_covers_every_byte_of_every_file() -> None:
    digests = [
        loaded(INCLUDING, rows="").digest,
        loaded(INCLUDING, rows="#").digest,
        loaded(INCLUDING + "#", rows="").digest,
        loaded('include = ["rows.toml", "b.toml"]\n' + MINIMAL, rows="", b="").digest,
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(each) == 64 for each in digests)
    assert loaded(INCLUDING, rows="").digest == digests[0]


# What no single key can see


def test_names_of_rows_are_unique_across_kinds_and_files() -> None:
    main = INCLUDING + DENY.format("same") + DENY.format("other")
    (problem,) = problems(main, rows=DENY.format("same"))
    assert 'rows.toml: deny[0].name: "same" is the name of main.toml: deny[0] already' in problem
    assert problems(main, rows=DENY.format("third")) == []


def test_names_of_clients_are_unique() -> None:
    (problem,) = problems(MINIMAL + '[[client]]\nname = "agent"\nnetworks = ["10.0.0.0/8"]')
    assert 'client: "agent" is the name of two clients' in problem


def listening(endpoint: str, *networks: str, public: bool = False) -> list[str]:
    """What there is to say against a listener and its client's networks."""
    main = MINIMAL.replace("127.0.0.1:3128", endpoint).replace(
        '["127.0.0.0/8", "::1/128"]', str(list(networks)).replace("'", '"')
    )
    return problems(
        main.replace("[destinations]", "dangerously_public_listener = true\n[destinations]") if public else main
    )


@pytest.mark.parametrize("endpoint", ["127.0.0.1:3128", "127.9.9.9:0", "[::1]:3128"])
@pytest.mark.parametrize("network", ["127.0.0.0/8", "::1/128", "0.0.0.0/0"])
def test_r1_a_loopback_listener_needs_no_more_words(endpoint: str, network: str) -> None:
    assert listening(endpoint, network) == []


@pytest.mark.parametrize(
    "endpoint",
    ["10.0.0.1:3128", "172.16.0.1:1", "192.168.0.1:1", "169.254.1.1:1", "100.64.0.1:1", "[fd00::1]:1", "[fe80::1]:1"],
)
def test_r2_a_private_listener_has_clients_beyond_loopback_and_not_everybody(endpoint: str) -> None:
    assert listening(endpoint, "10.0.0.0/8") == []
    (problem,) = listening(endpoint, "127.0.0.0/8", "::1/128")
    assert f"listen.http[0]: {endpoint} is beyond loopback, and no client's networks are" in problem
    for everyone in ("0.0.0.0/0", "::/0"):
        (problem,) = listening(endpoint, "10.0.0.0/8", everyone)
        assert "client's networks are everyone's" in problem


@pytest.mark.parametrize(
    "endpoint", ["0.0.0.0:3128", "[::]:3128", "93.184.216.34:1", "[2606:4700::1]:1", "224.0.0.1:1", "192.0.2.1:1"]
)
def test_r1_a_public_listener_takes_a_dangerous_word(endpoint: str) -> None:
    (problem,) = listening(endpoint, "10.0.0.0/8")
    assert f"listen.http[0]: {endpoint} is open to more than a private network" in problem
    assert listening(endpoint, "10.0.0.0/8", public=True) == []
    assert listening(endpoint, "0.0.0.0/0", public=True) == []
    assert len(listening(endpoint, "127.0.0.0/8", public=True)) == 1


def test_a_deny_row_refuses_something() -> None:
    (problem,) = problems(MINIMAL + '[[deny]]\nname = "x"\nreason = "x"')
    assert "deny[0]: refuses nothing" in problem
    assert problems(MINIMAL + '[[deny]]\nname = "x"\nreason = "x"\nnetworks = ["10.0.0.0/8"]') == []


def test_an_allow_row_has_no_place_where_everything_is_allowed() -> None:
    assert problems(MINIMAL + ALLOW.format("[443]")) == []
    (problem,) = problems(OPEN + ALLOW.format("[443]"))
    assert "allow[0]: has no effect where everything is allowed" in problem


@pytest.mark.parametrize(
    ("ports", "closed"),
    [
        ("[443]", None),
        ('["1-65535"]', None),
        ("[22]", "22"),
        ("[443, 22, 25]", "22, 25"),
        ('["21-23"]', "21"),
        ('["20-24"]', None),
    ],
)
def test_an_allow_row_for_closed_ports_is_an_error(ports: str, closed: str | None) -> None:
    found = problems(MINIMAL + ALLOW.format(ports))
    if closed is None:
        assert found == []
    else:
        assert f"allow[0].ports: {closed} is closed to everyone" in found[0]
        assert problems(MINIMAL.replace("[[client]]", 'ports = ["1-65535"]\n[[client]]') + ALLOW.format(ports)) == []


@pytest.mark.parametrize("host", ["metadata.google.internal", "metadata.goog", "metadata"])
def test_attack_2_16_a_permit_for_a_metadata_name_is_an_error(host: str) -> None:
    (problem,) = problems(MINIMAL + PERMIT.format(host=host, network="10.0.0.0/8", more=""))
    assert f'permit[0].host: "{host}" is a metadata service' in problem


@pytest.mark.parametrize("network", ["169.254.169.254/32", "168.63.129.16/32", "0.0.0.0/32", "fd00:ec2::254/128"])
def test_attack_2_16_a_permit_for_a_locked_address_is_an_error(network: str) -> None:
    (problem,) = problems(MINIMAL + PERMIT.format(host="nas.local", network=network, more=""))
    assert f'permit[0].networks[0]: "{network}" is locked' in problem
    wider = str(IPNetwork(network).supernet(IPNetwork(network).prefixlen - 1)[0])
    assert problems(MINIMAL + PERMIT.format(host="nas.local", network=wider, more="")) == []


def permitting(host: str, *networks: str, ports: str = "[443]", main: str = MINIMAL) -> list[str]:
    """What there is to say against a permit for this host."""
    row = PERMIT.replace("[443]", ports).replace('["{network}"]', toml(list(networks)))
    return problems(main + row.format(host=host, more=""))


HOLD_IT = "write networks that hold it, or remove the permit"


@pytest.mark.parametrize(
    ("host", "network", "said"),
    [
        ("10.0.0.5", "10.0.1.0/24", f"10.0.0.5:443 stays refused (address_denied, by private network); {HOLD_IT}"),
        ("::1", "fd00::/8", f"[::1]:443 stays refused (address_denied, by loopback); {HOLD_IT}"),
        ("10.0.0.5", "::ffff:0:0/96", f"10.0.0.5:443 stays refused (address_denied, by private network); {HOLD_IT}"),
        ("localhost", "10.0.0.0/8", f"localhost:443 stays refused (address_denied, by loopback); {HOLD_IT}"),
        ("a.localhost", "127.0.0.2/32", f"a.localhost:443 stays refused (address_denied, by loopback); {HOLD_IT}"),
        ("8.8.8.8", "10.0.0.0/8", f"8.8.8.8:443 stays refused (not_allowlisted, by allowlist); {HOLD_IT}"),
        # what such an address carries is never opened
        (
            "::ffff:10.0.0.5",
            "::ffff:0:0/96",
            f"[::ffff:10.0.0.5]:443 stays refused (address_denied, by private network); {HOLD_IT}",
        ),
    ],
)
def test_r9_a_permit_whose_networks_do_not_hold_its_host_is_an_error(host: str, network: str, said: str) -> None:
    """Where no DNS is needed it is known now."""
    assert permitting(host, network) == [f"main.toml: permit[0]: {said}"]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.5", "10.0.0.0/24"),
        ("::1", "::1/128"),
        ("localhost", "127.0.0.1/32"),
        ("localhost", "::1/128"),
        ("a.localhost", "127.0.0.0/8"),
        ("8.8.8.8", "8.8.8.8/32"),
        ("nas.example", "10.0.0.0/8"),
        ("localhost6", "127.0.0.2/32"),
    ],
)
def test_r9_a_permit_that_holds_its_host_or_whose_host_needs_dns_is_none(host: str, network: str) -> None:
    assert permitting(host, network) == []
    assert permitting(host, "198.18.0.0/15", network) == []


def test_r9_a_permit_for_an_address_that_is_reached_without_it_is_an_error() -> None:
    said = f"main.toml: permit[0]: 8.8.8.8:443 is reached without it; {HOLD_IT}"
    reporting = MINIMAL.replace("[[client]]", 'mode = "report"\n[[client]]')
    for main in (OPEN, reporting):
        assert permitting("8.8.8.8", "10.0.0.0/8", main=main) == [said]
        assert permitting("8.8.8.8", "8.8.8.0/24", main=main) == []


@pytest.mark.parametrize(
    ("host", "network", "rule"),
    [
        ("169.254.169.254", "169.254.0.0/16", "cloud metadata service"),
        ("192.80.8.124", "192.80.8.0/24", "cloud metadata service (Equinix), a public address"),
        ("0.0.0.0", "0.0.0.0/8", "unspecified address"),
    ],
)
def test_attack_2_16_a_permit_for_a_locked_host_is_an_error(host: str, network: str, rule: str) -> None:
    (problem,) = permitting(host, network)
    assert problem.endswith(
        f"{host}:443 stays refused (address_locked, by {rule}); nothing opens it, remove the permit"
    )


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1:3128", "localhost"),
        ("127.0.0.1:3128", "127.0.0.1"),
        ("127.0.0.1:3128", "127.9.9.9"),
        ("[::1]:3128", "::1"),
        ("10.0.0.1:3128", "localhost"),
        ("10.0.0.1:3128", "10.0.0.1"),
    ],
)
def test_attack_2_17_a_permit_for_proxyds_own_listener_is_an_error(listen: str, host: str) -> None:
    main = MINIMAL.replace("127.0.0.1:3128", listen).replace('"::1/128"]', '"::1/128", "10.0.0.0/8"]')

    def said(ports: str) -> list[str]:
        return permitting(host, "127.0.0.0/8", "::1/128", "10.0.0.0/8", ports=ports, main=main)

    shown = f"[{host}]" if ":" in host else host
    own = (
        f"main.toml: permit[0]: {shown}:3128 stays refused (address_locked, by proxyd itself); "
        "nothing opens it, remove the permit"
    )
    assert said("[3128]") == said('["3128-3128"]') == said("[443, 3128]") == [own]
    for opened in ("[3127]", "[3129]", '["3127-3128"]', '["3128-3129"]', '["1-65535"]'):
        assert said(opened) == []


def test_attack_2_17_the_policys_tests_know_where_proxyd_listens() -> None:
    """On an address of its own too, which a permit for a name would open else."""
    main = MINIMAL.replace("127.0.0.1:3128", "10.0.0.1:3128").replace('"::1/128"]', '"10.0.0.0/8"]')
    main += PERMIT.replace("[443]", "[3128, 3129]").format(host="nas.local", network="10.0.0.0/8", more="")
    answer = 'addresses = ["10.0.0.1"]\n'
    assert asked(answer + 'expect = "deny"\nreason = "address_locked"', "http://nas.local:3128", main) == ""
    assert asked(answer + 'expect = "allow"', "http://nas.local:3129", main) == ""


def test_r9_a_permit_that_expired_is_judged_as_written() -> None:
    more = f"expires = {TODAY - timedelta(days=1)}"
    assert problems(MINIMAL + PERMIT.format(host="10.0.0.5", network="10.0.0.0/24", more=more)) == []
    assert len(problems(MINIMAL + PERMIT.format(host="10.0.0.5", network="10.0.1.0/24", more=more))) == 1


def translating(*prefixes: str) -> list[str]:
    """What there is to say against these NAT64 prefixes."""
    return problems(MINIMAL + f"[dns]\nnat64 = {toml(list(prefixes))}\n")


@pytest.mark.parametrize(
    "prefixes",
    [
        ("64:ff9b::/96",),
        ("64:ff9b:1::/48",),
        ("64:ff9b:1:2::/96",),
        ("64:ff9b::/96", "64:ff9b:1::/48", "2606:4700::/32", "2606:4701::/96"),
        ("2606:4700::/96", "2606:4700::1:0:0/96"),
    ],
)
def test_attack_2_8_translators_are_public_or_made_for_translation_and_lie_side_by_side(prefixes: tuple[str]) -> None:
    assert translating(*prefixes) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2606:4700::/32", "2606:4700::/96"),
        ("2606:4700::/96", "2606:4700::/32"),
        ("2606:4700::/32", "2606:4700:ffff::/48"),
        ("64:ff9b::/96", "64:ff9b::/96"),
    ],
)
def test_attack_2_8_two_translators_that_overlap_would_read_one_address_in_two_ways(first: str, second: str) -> None:
    said = f"main.toml: dns.nat64[1]: {second} overlaps another translator; declare one of them"
    assert translating(first, second) == [said]
    assert translating(first, "2a00:1098::/96", second) == [said.replace("[1]", "[2]")]


@pytest.mark.parametrize(
    ("prefix", "what"),
    [
        ("fd00:64::/96", "unique local"),
        ("fc00::/32", "unique local"),
        ("2001:db8:64::/96", "documentation"),
        ("2002:a00:1::/48", "6to4"),
        ("2001::/32", "Teredo"),
        ("fe80::/64", "link-local"),
        ("::/96", "unspecified address"),
        ("::ffff:0.0.0.0/96", "IPv4-mapped"),
        ("4000::/32", "not global unicast"),
        ("2606:4700::5efe:0:0/96", "ISATAP"),
    ],
)
def test_attack_2_8_nobody_translates_in_a_special_purpose_range(prefix: str, what: str) -> None:
    assert translating(prefix) == [f"main.toml: dns.nat64[0]: {prefix} is no translator's: {what}; remove it"]


@pytest.mark.parametrize("prefix", ["64:ff9b::/32", "64:ff9b::/40", "64:ff9b::/64"])
def test_attack_2_8_what_is_wider_than_the_well_known_prefix_lies_in_no_nat64_range(prefix: str) -> None:
    """That prefix is a /96; around it is what is not global unicast."""
    (problem,) = translating(prefix)
    assert problem.startswith(f"main.toml: dns.nat64[0]: {prefix} ")


def test_a_problem_names_its_file_once() -> None:
    for found in (
        problems(MINIMAL + '[[deny]]\nname = "x"\nreason = "x"'),
        problems(MINIMAL + '[[test]]\nurl = "https://a.example"\nexpect = "allow"'),
    ):
        (problem,) = found
        assert problem.count("main.toml") == 1


def test_a_problem_in_an_included_file_names_that_file() -> None:
    (problem,) = problems(INCLUDING, rows='[[deny]]\nname = "x"\nreason = "x"')
    assert problem.startswith("rows.toml: deny[0]: ")


# The policy's own tests


def asked(more: str, url: str = "https://a.example", main: str = OPEN, today: date = TODAY) -> str:
    """What comes of one [[test]]: its problem, or nothing."""
    found = problems(main + f'[[test]]\nurl = "{url}"\n{more}\n', today)
    assert len(found) <= 1
    return found[0] if found else ""


ANSWER = 'addresses = ["93.184.216.34"]\n'


def test_a_test_that_comes_out_as_expected_says_nothing() -> None:
    assert asked(ANSWER + 'expect = "allow"') == ""
    assert asked(ANSWER + 'expect = "allow"\nclient = "agent"') == ""
    assert asked('expect = "deny"', "http://127.0.0.1/") == ""
    assert asked('expect = "deny"\nreason = "address_denied"', "http://127.0.0.1/") == ""
    assert asked('expect = "deny"\naddresses = ["10.0.0.1"]') == ""
    assert asked(ANSWER + 'expect = "deny"\nreason = "name_reserved"\ncnames = ["x.internal"]') == ""


def test_r12_a_test_that_comes_out_otherwise_refuses_the_policy() -> None:
    assert "is allowed by default, but expected to be denied" in asked(ANSWER + 'expect = "deny"')
    assert "is denied (address_denied) by loopback, but expected to be allowed" in asked(
        'expect = "allow"', "http://127.0.0.1/"
    )
    wrong = asked('expect = "deny"\nreason = "port_denied"', "http://127.0.0.1/")
    assert "is denied because address_denied, but expected because port_denied" in wrong


def test_a_test_that_would_need_dns_is_an_error() -> None:
    for expect in ("allow", "deny"):
        assert "a.example:443 for agent: needs DNS, and a test asks nobody; write addresses" in asked(
            f'expect = "{expect}"'
        )


def test_a_test_asks_as_a_client_there_is() -> None:
    assert 'test[0].client: "other" is no client' in asked(ANSWER + 'expect = "allow"\nclient = "other"')


def test_a_test_that_names_no_client_is_run_for_each() -> None:
    two = OPEN + '[[client]]\nname = "second"\nnetworks = ["10.0.0.0/8"]\n'
    row = f'[[test]]\nurl = "https://a.example"\n{ANSWER}expect = "deny"\n'
    found = problems(two + row)
    assert [each.partition(" for ")[2].partition(":")[0] for each in found] == ["agent", "second"]
    (problem,) = problems(two + row + 'client = "second"')
    assert "for second: " in problem


@pytest.mark.parametrize(
    ("more", "url", "said"),
    [
        (ANSWER + 'expect = "deny"', "http://127.0.0.1", "test[0].addresses: 127.0.0.1:80 is never looked up"),
        (ANSWER + 'expect = "deny"', "http://localhost", "test[0].addresses: localhost:80 is never looked up"),
        ('cnames = ["x.internal"]\nexpect = "deny"', "http://127.0.0.1", "test[0].cnames: a chain ends in addresses"),
        (ANSWER + 'expect = "allow"\nreason = "name_denied"', "http://a.example", "test[0].reason: what is allowed"),
        (
            'expect = "deny"\nreason = "dns_error"',
            "http://127.0.0.1",
            'test[0].reason: "dns_error" is no reason to deny',
        ),
    ],
)
def test_a_key_of_a_test_that_has_no_effect_is_an_error(more: str, url: str, said: str) -> None:
    assert said in asked(more, url)


def test_what_shall_be_denied_is_judged_as_of_today_and_what_shall_be_allowed_as_written() -> None:
    main = OPEN + PERMIT.format(host="nas.local", network="10.0.0.0/8", more=f"expires = {TODAY}")
    answer, later = 'addresses = ["10.0.0.1"]\n', TODAY + timedelta(days=1)
    assert asked(answer + 'expect = "allow"', "https://nas.local", main) == ""
    assert asked(answer + 'expect = "allow"', "https://nas.local", main, later) == ""
    assert "is allowed by" in asked(answer + 'expect = "deny"', "https://nas.local", main)
    assert asked(answer + 'expect = "deny"', "https://nas.local", main, later) == ""


def test_the_tests_are_run_as_if_the_policy_were_enforced() -> None:
    main = MINIMAL.replace("[[client]]", 'mode = "report"\n[[client]]')
    assert asked(ANSWER + 'expect = "deny"\nreason = "not_allowlisted"', main=main) == ""


def test_report_mode_has_no_place_where_everything_is_allowed() -> None:
    (problem,) = problems(OPEN.replace("[[client]]", 'mode = "report"\n[[client]]'))
    assert problem.startswith('main.toml: destinations.mode: "report" has no effect')


def test_the_tests_are_run_only_on_a_policy_without_contradictions() -> None:
    (problem,) = problems(
        MINIMAL + '[[deny]]\nname = "x"\nreason = "x"\n[[test]]\nurl = "https://a.example"\nexpect = "allow"'
    )
    assert "refuses nothing" in problem


def test_attack_7_5_a_policy_without_allow_rows_allows_nothing() -> None:
    assert asked(ANSWER + 'expect = "deny"\nreason = "not_allowlisted"', main=MINIMAL) == ""


def test_an_address_among_denied_hosts_is_an_error_as_names_resolve_to_it_too() -> None:
    row = '[[deny]]\nname = "x"\nhosts = ["{0}"]\nreason = "a test"\n'
    for host in ("93.184.216.34", "2606:4700::1"):
        (problem,) = problems(MINIMAL + row.format(host))
        assert f'deny[0].hosts: "{host}" is an address' in problem
        assert "write it in networks" in problem
    assert problems(MINIMAL + row.format("*.example.com")) == []


def test_r2_two_halves_of_everyone_are_everyone() -> None:
    (problem,) = listening("10.0.0.1:3128", "0.0.0.0/1", "128.0.0.0/1")
    assert "everyone's" in problem
