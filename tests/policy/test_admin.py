"""The admin listener in a policy: where it may be, what it takes to ask there, and what must not be one with it.

R1, R2, R12, ATTACKS 7.1. What it answers is in tests/serve/test_admin.py.
"""

from __future__ import annotations

import pytest
from netaddr import IPAddress

from proxyd.policy.address import Endpoint
from proxyd.policy.admin import Admin
from proxyd.policy.listen import UnixPath
from tests.policy.worlds import MINIMAL, loaded, problems

BY_TOKEN = 'token_file = "/etc/proxyd/token"'  # noqa: S105 - a path


def asked_at(place: str, more: str = BY_TOKEN) -> str:
    """A policy with an admin listener there."""
    return f"{MINIMAL}[admin]\nlisten = {place}\n{more}\n"


def problem_of(main: str) -> str:
    (problem,) = problems(main)
    return problem


# Where


def test_nobody_is_asked_where_nothing_is_said() -> None:
    assert loaded().admin == Admin() == Admin(listen=None, token_file="")


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("127.0.0.1:9128", Endpoint(IPAddress("127.0.0.1"), 9128)),
        ("127.9.9.9:1", Endpoint(IPAddress("127.9.9.9"), 1)),
        ("[::1]:65535", Endpoint(IPAddress("::1"), 65535)),
    ],
)
def test_r2_on_loopback_it_asks_for_a_token(said: str, place: Endpoint) -> None:
    """Every account of this host gets there."""
    assert loaded(asked_at(f'"{said}"')).admin == Admin(listen=place, token_file="/etc/proxyd/token")  # noqa: S106 - a path
    assert problem_of(asked_at(f'"{said}"', "")) == (
        f"main.toml: admin.listen: whoever is on this host reaches {said}; write token_file, or "
        'listen = "unix:/run/proxyd/admin"'
    )


def test_r2_a_unix_socket_has_a_mode_and_needs_no_token() -> None:
    """A token that nobody is asked for would look like one that is."""
    assert loaded(asked_at('"unix:/run/admin"', "")).admin == Admin(listen=UnixPath("/run/admin"))
    assert problem_of(asked_at('"unix:/run/admin"')) == (
        "main.toml: admin.token_file: is for an address on loopback; a Unix socket has its mode: remove it"
    )


def test_a_token_that_nobody_is_asked_for_is_a_misunderstanding() -> None:
    assert problem_of(f"{MINIMAL}[admin]\n{BY_TOKEN}\n") == (
        'main.toml: admin.token_file: nobody is asked for it; write listen = "127.0.0.1:9128", or remove it'
    )


@pytest.mark.parametrize(
    "place",
    ["0.0.0.0:9128", "[::]:9128", "10.0.0.1:9128", "93.184.216.34:9128", "[fd00::1]:9128", "[::ffff:127.0.0.1]:9128"],
)
def test_r1_it_is_never_beyond_loopback(place: str) -> None:
    """Nor in another form of loopback: what is bound must be what is judged."""
    assert problem_of(asked_at(f'"{place}"')) == (
        f'main.toml: admin.listen: "{place}" is not on loopback, or has no port; write "127.0.0.1:9128"'
    )


def test_attack_7_1_it_has_a_port_that_the_policy_knows() -> None:
    """One that the system chose would be none of proxyd's own ports to those who judge."""
    assert problem_of(asked_at('"127.0.0.1:0"')).endswith('has no port; write "127.0.0.1:9128"')


@pytest.mark.parametrize("place", ["systemd", "systemd:admin"])
def test_it_is_nothing_that_is_handed_over(place: str) -> None:
    """Who knows what that is bound to."""
    assert problem_of(asked_at(f'"{place}"')) == (
        f'main.toml: admin.listen: "{place}" will not do; write "127.0.0.1:9128" or "unix:/run/proxyd/admin"'
    )


@pytest.mark.parametrize(
    "place",
    ['""', '"localhost:9128"', '"127.0.0.1"', '"unix:admin"', f'"unix:/{"a" * 107}"', "9128", "true", "[]", "{}"],
)
def test_r12_no_other_place_is_one(place: str) -> None:
    assert problem_of(asked_at(place)).startswith("main.toml: admin.listen: ")


@pytest.mark.parametrize("path", ['""', '"token"', '"/a\\u0000"', "1", f'"/{"a" * 4096}"'])
def test_the_tokens_file_is_an_absolute_path(path: str) -> None:
    """R7: the token itself, written there by mistake, is a path to nowhere and is not taken for one."""
    assert problem_of(asked_at('"127.0.0.1:9128"', f"token_file = {path}")).startswith("main.toml: admin.token_file: ")


# What must not be one with it


def test_clients_are_served_elsewhere() -> None:
    """What looks like a proxy to one and like an admin listener to the other would be either by chance."""
    assert problem_of(asked_at('"127.0.0.1:3128"')) == (
        "main.toml: admin.listen: at 127.0.0.1:3128 clients are served; choose another"
    )
    unix = asked_at('"unix:/run/a"', "").replace('"127.0.0.1:3128"', '"unix:/run/a"').replace("networks = ", "users = ")
    unix = unix.replace('["127.0.0.0/8", "::1/128"]', "[0]")
    assert problem_of(unix) == "main.toml: admin.listen: at unix:/run/a clients are served; choose another"


def test_a_reload_is_asked_for_elsewhere() -> None:
    controlled = asked_at('"unix:/run/a"', "").replace("[destinations]", 'control = "{}"\n[destinations]')
    assert problem_of(controlled.format("/run/a")) == (
        "main.toml: admin.listen: at unix:/run/a is the control socket; choose another"
    )
    assert problems(controlled.format("/run/b")) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_attack_7_1_a_permit_that_names_it_opens_nothing_and_says_so(host: str) -> None:
    row = f'[[permit]]\nhost = "{host}"\nports = [9128]\nnetworks = ["127.0.0.0/8", "::1/128"]\nreason = "metrics"\n'
    problem = problem_of(asked_at('"127.0.0.1:9128"') + row)
    assert problem.startswith("main.toml: permit[0]: ")
    assert problem.endswith(
        ":9128 stays refused (address_locked, by proxyd itself); nothing opens it, remove the permit"
    )
