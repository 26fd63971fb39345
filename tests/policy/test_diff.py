"""What a reload says has changed: every key and every row, in the words of the file, and no secret.

R7, R8. What the change opens or closes is not said here.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.policy.diff import changes
from proxyd.policy.model import Policy
from proxyd.policy.password import PasswordHash
from tests.policy.worlds import BESIDE_FULL, CLIENT, FULL, HASH, MINIMAL, allow, deny, loaded, nets, permit, policy

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER_HASH = HASH.replace("AAEC", "BBEC")
UNIX = "unix:/run/proxyd/proxyd.sock"
FULLEST = loaded(FULL, **BESIDE_FULL)


def told(before: str, after: str, text: str = FULL) -> list[str]:
    """What differs where `before` in the fullest policy is `after`."""
    assert text.count(before) == 1
    beside: dict[str, Any] = {**BESIDE_FULL, "other-hash": OTHER_HASH, "other": "proxyd:another secret"}
    return list(changes(loaded(text, **beside), loaded(text.replace(before, after), **beside)))


def test_a_policy_does_not_differ_from_itself_nor_from_another_place_of_its_rows() -> None:
    assert list(changes(FULLEST, loaded(FULL, **BESIDE_FULL))) == []
    here, there = (policy(deny=(replace(deny(), where=where),)) for where in ("a.toml: deny[0]", "b.toml: deny[7]"))
    assert list(changes(here, there)) == []


# Keys


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('name = "gateway"', 'name = "g"', "name: gateway -> g"),
        ('workers = "auto"\n', "", "workers: auto -> 1"),
        ('"127.0.0.1:3128", "[::1]:0", ', "", f"listen.http: [127.0.0.1:3128, [::1]:0, {UNIX}] -> [{UNIX}]"),
        (
            '["127.0.0.1:3129", "systemd:tls"]',
            '["systemd"]',
            "listen.https: [127.0.0.1:3129, systemd:tls] -> [systemd]",
        ),
        ('unix_mode = "0660"\n', "", "listen.unix_mode: 0660 -> 0600"),
        ('unix_group = "agents"\n', "", "listen.unix_group: agents -> nothing"),
        ('"127.0.0.1:9128"', '"[::1]:9128"', "admin.listen: 127.0.0.1:9128 -> [::1]:9128"),
        ('"/etc/proxyd/token"', '"/run/token"', "admin.token_file: /etc/proxyd/token -> /run/token"),
        ('control = "/run/proxyd/control"\n', "", "listen.control: /run/proxyd/control -> nothing"),
        (
            "prefer_availability = true",
            "prefer_availability = false",
            "audit.dangerously_prefer_availability: True -> False",
        ),
        ('mode = "report"\n', "", "destinations.mode: report -> enforce"),
        ('[443, "8000-8099"]', "[443]", "destinations.ports: [443, 8000-8099] -> [443]"),
        ('ports = [443, "8000-8099"]\n', "", "destinations.ports: [443, 8000-8099] -> nothing"),
        ('identity_headers = ["X-Team"]\n', "", "destinations.identity_headers: [X-Team] -> nothing"),
        (
            'servers = ["9.9.9.9", ',
            "servers = [",
            "dns.servers: [9.9.9.9, tls://[2620:fe::fe]#dns.example] -> [tls://[2620:fe::fe]#dns.example]",
        ),
        (
            '"tcp://10.0.0.53"',
            '"10.0.0.53"',
            "dns.zone: [corp.example by [tcp://10.0.0.53]] -> [corp.example by [10.0.0.53]]",
        ),
        ('nat64 = ["64:ff9b::/96"]\n', "", "dns.nat64: [64:ff9b::/96] -> nothing"),
        ("connections = 100", "connections = 7", "limits.connections: 100 -> 7"),
        ("tunnels = 2000", "tunnels = 1", "limits.tunnels: 2000 -> 1"),
        ('"192.0.2.7:3128"', '"192.0.2.8:3128"', "parent.address: 192.0.2.7:3128 -> 192.0.2.8:3128"),
        ('credential_file = "parent"\n', "", "parent.credential_file: parent -> nothing"),
        # of a client
        ('["openclaw", 1001]', "[0]", "client agent: users: [openclaw, 1001] -> [0]"),
        (
            '"127.0.0.0/8", "::1/128", "::ffff',
            '"::ffff',
            "client agent: networks: [127.0.0.0/8, ::1/128, ::ffff:0.0.0.0/96] -> [::ffff:0.0.0.0/96]",
        ),
        ('user = "agent"', 'user = "a"', "client agent: credential.user: agent -> a"),
        ("ports = [443]\ntls_name", "tls_name", "client agent: destinations.ports: [443] -> nothing"),
        ('tls_name = "off"', 'tls_name = "match"', "client agent: destinations.tls_name: off -> match"),
        ("tunnels = 200\n", "tunnels = 7\n", "client agent: limits.tunnels: 200 -> 7"),
        ('interface = "eth0"\n', "", "client agent: egress.interface: eth0 -> nothing"),
        ('"10.0.0.7", "fd00::7"', '"10.0.0.7"', "client agent: egress.addresses: [10.0.0.7, fd00::7] -> [10.0.0.7]"),
        ('["agents.example"]', '["agent.example"]', "client agent: deny: agents-corp changed"),
        (
            'name = "agents-models"',
            'name = "agents-other"',
            ["client agent: allow: -agents-models", "client agent: allow: +agents-other"],
        ),
        ("10.0.0.0/24", "10.0.0.0/25", "client agent: permit: agents-nas changed"),
        # rows
        ("203.0.112.0/22", "203.0.112.0/23", "deny: corp changed"),
        ('"*.example.net"', '"*.example.org"', "allow: models changed"),
        ("11434, ", "", "permit: ollama changed"),
        ('name = "ollama"', 'name = "o"', ["permit: -ollama", "permit: +o"]),
        ('reason = "name_locked"\n', "", "test: metadata changed"),
    ],
)
def test_what_differs_is_told_by_its_key_and_its_values(before: str, after: str, said: str | list[str]) -> None:
    assert told(before, after) == ([said] if isinstance(said, str) else said)


def test_whole_tables_come_and_go() -> None:
    assert told('[client.egress]\naddresses = ["10.0.0.7", "fd00::7"]\ninterface = "eth0"\nmark = 7\n', "") == [
        "client agent: egress.addresses: [10.0.0.7, fd00::7] -> nothing",
        "client agent: egress.interface: eth0 -> nothing",
        "client agent: egress.mark: 7 -> 0",
    ]
    parent = '[parent]\naddress = "192.0.2.7:3128"\n'
    assert list(changes(loaded(), loaded(MINIMAL + parent))) == ["parent: nothing -> …"]
    assert list(changes(loaded(MINIMAL + parent), loaded())) == ["parent: … -> nothing"]


def test_a_row_that_came_and_one_that_went_are_told_by_their_labels() -> None:
    old = policy(deny=(deny(name="a"), deny(name="b")), allow=(allow("a.com", name="x"),))
    new = policy(deny=(deny(name="b"), deny(name="c")), permit=(permit("nas.local", name="nas"),))
    assert list(changes(old, new)) == ["deny: -a", "deny: +c", "allow: -x", "permit: +nas"]


def test_a_client_that_came_and_one_that_went_are_told_by_their_names() -> None:
    second = replace(CLIENT, name="second")
    assert list(changes(policy(), policy(client=[CLIENT, second]))) == ["client: +second"]
    assert list(changes(policy(client=[CLIENT, second]), policy(client=[second]))) == ["client: -agent"]


def test_r2_clients_in_another_order_are_a_change_as_the_first_that_fits_is_the_client() -> None:
    first, second, third = (replace(CLIENT, name=name) for name in ("a", "b", "c"))
    said = ["client: in another order"]
    assert list(changes(policy(client=[first, second, third]), policy(client=[second, first, third]))) == said
    assert list(changes(policy(client=[first, second, third]), policy(client=[first, third]))) == ["client: -b"]
    rows = (deny(name="a"), deny(name="b"))
    assert list(changes(policy(deny=rows), policy(deny=rows[::-1]))) == []


# Every kind of key


def keys(table: object, path: str = "") -> Iterator[str]:
    """Every key of a policy that has all of them, each list of rows as one."""
    for each in fields(table):  # type: ignore[arg-type] # a table
        value = getattr(table, each.name)
        if "reader" not in each.metadata:
            continue
        if is_dataclass(value) and any("reader" in inner.metadata for inner in fields(value)):
            yield from keys(value, f"{path}{each.name}.")
        else:
            yield f"{path}{each.name}"


def put(table: Any, path: str, value: object) -> Any:  # noqa: ANN401 - tables within tables
    name, _, rest = path.partition(".")
    return replace(table, **{name: put(getattr(table, name), rest, value) if rest else value})


class Unlike:
    """Unlike every value there is."""

    def __str__(self) -> str:
        return "something else"


@pytest.mark.parametrize("key", [each for each in keys(FULLEST) if each != "client"])
def test_every_key_of_a_policy_that_differs_is_told(key: str) -> None:
    value: Any = Unlike()
    if key in {"deny", "allow", "permit", "test"}:
        value = ()
    (said, *more) = changes(FULLEST, put(FULLEST, key, value))
    assert said.startswith(f"{key}: ")
    assert more == ([] if key != "test" else more)


@pytest.mark.parametrize("key", [each for each in keys(FULLEST.client[0]) if each != "name"])
def test_every_key_of_a_client_that_differs_is_told(key: str) -> None:
    agent, *others = FULLEST.client
    value = () if key in {"deny", "allow", "permit"} else Unlike()
    (said,) = changes(FULLEST, replace(FULLEST, client=(put(agent, key, value), *others)))
    assert said.startswith(f"client agent: {key}: ")


@pytest.mark.parametrize("kind", ["deny", "allow", "permit", "test"])
def test_every_key_of_a_row_that_differs_is_told(kind: str) -> None:
    row, *others = getattr(FULLEST, kind)
    for each in fields(row):
        if "reader" in each.metadata and each.name != "name":
            other = put(FULLEST, kind, (put(row, each.name, Unlike()), *others))
            assert list(changes(FULLEST, other)) == [f"{kind}: {row.label} changed"], each.name


def test_a_policys_keys_are_those_of_its_file() -> None:
    found = {each.partition(".")[0] for each in keys(FULLEST)}
    assert found == set(tomllib.loads(FULL))
    assert found < {each.name for each in fields(Policy)}


# No secret


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f'password = "{HASH}"', f'password = "{OTHER_HASH}"'),
        (f'password = "{HASH}"', 'file = "other-hash"'),
        ('{user = "other", file = "hash"}', '{user = "other", file = "other-hash"}'),
        ('{user = "other", file = "hash"}', f'{{user = "other", password = "{OTHER_HASH}"}}'),
    ],
)
def test_r7_another_hash_is_told_as_one_and_no_hash_is(before: str, after: str) -> None:
    (said,) = told(before, after)
    assert said.endswith(": credential.password: … -> …")


def test_r7_no_hash_is_told_where_a_credential_comes_or_goes() -> None:
    without = FULL.replace(f'[client.credential]\nuser = "agent"\npassword = "{HASH}"\n', "")
    both = loaded(without, **BESIDE_FULL), FULLEST
    assert list(changes(*both)) == ["client agent: credential: nothing -> …"]
    assert list(changes(*both[::-1])) == ["client agent: credential: … -> nothing"]


def test_r7_the_same_hash_from_a_file_or_not_is_the_same() -> None:
    assert told('file = "hash"', f'password = "{HASH}"') == []


def test_r7_whatever_differs_no_secret_is_told() -> None:
    """Between two policies that have nothing in common but their names."""
    files: dict[str, Any] = {**BESIDE_FULL, "hash": OTHER_HASH, "parent": "proxyd:another secret"}
    other = loaded(FULL.replace(HASH, OTHER_HASH), **files)
    said = "\n".join([*changes(FULLEST, other), *changes(loaded(), FULLEST), *changes(FULLEST, loaded())])
    assert said.count("credential") >= 2
    for secret in ("scrypt", "secret", *(each.split("$")[-1] for each in (HASH, OTHER_HASH))):
        assert secret not in said
    assert isinstance(FULLEST.client[1].credential.password, PasswordHash)  # type: ignore[union-attr]


def test_networks_are_told_as_they_are_written() -> None:
    one, two = (policy(client=[replace(CLIENT, networks=nets(each))]) for each in ("10.0.0.0/8", "10.0.0.0/9"))
    assert list(changes(one, two)) == ["client agent: networks: [10.0.0.0/8] -> [10.0.0.0/9]"]


def test_a_row_without_a_name_is_told_by_what_it_is_about_and_not_by_where_it_stands() -> None:
    """In front of it, another row may come; then it is the same still."""
    row = '[[allow]]\nhosts = ["{0}.example.com", "{0}.example.net"]\nports = [443]\nreason = "x"\n'
    nas = '[[permit]]\nhost = "nas.local"\nports = [443]\nnetworks = ["10.0.0.0/8"]\nreason = "x"\n'
    test = '[[test]]\nurl = "http://10.0.0.1/"\nexpect = "deny"\n'
    old = MINIMAL + row.format("a")
    new = MINIMAL + row.format("b") + row.format("a") + nas + test + test.replace("\n[", "") + 'client = "agent"\n'
    assert list(changes(loaded(old), loaded(new))) == [
        "allow: +b.example.com, b.example.net",
        "permit: +nas.local",
        "test: +10.0.0.1:80 deny",
        "test: +10.0.0.1:80 deny for agent",
    ]
