"""Where proxyd listens, and who can come there: each contradiction with the way out.

R1, R2, R12. How a place is spelt is in test_listen.
"""

from __future__ import annotations

import pytest

from tests.policy.worlds import HASH, MINIMAL, loaded, problems

NETWORKS = 'networks = ["127.0.0.0/8", "::1/128"]'
KNOWING = f'credential = {{user = "agent", password = "{HASH}"}}'


def said_of(places: str, conditions: str, more: str = "") -> list[str]:
    """What there is to say against listening there, as a client has these conditions."""
    main = MINIMAL.replace('http = ["127.0.0.1:3128"]', f"{places}\n{more}").replace(NETWORKS, conditions)
    return problems(main)


def listening(endpoint: str, *networks: str, public: bool = False) -> list[str]:
    """What there is to say against a listener and its client's networks."""
    written = str(list(networks)).replace("'", '"')
    more = "dangerously_public_listener = true" if public else ""
    return said_of(f'http = ["{endpoint}"]', f"networks = {written}", more)


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


def test_r2_two_halves_of_everyone_are_everyone() -> None:
    (problem,) = listening("10.0.0.1:3128", "0.0.0.0/1", "128.0.0.0/1")
    assert "everyone's" in problem


def test_r1_a_listener_for_tls_is_judged_as_any() -> None:
    more = 'certificate = "/etc/tls.pem"\nprivate_key = "/etc/tls.key"'
    assert said_of('https = ["127.0.0.1:3129"]', NETWORKS, more) == []
    (problem,) = said_of('https = ["127.0.0.1:3129", "0.0.0.0:3130"]', 'networks = ["10.0.0.0/8"]', more)
    assert problem.startswith("main.toml: listen.https[1]: 0.0.0.0:3130 is open to more than a private network")


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        pytest.param('users = ["openclaw"]', "no client's networks are", id="an account is on this host"),
        pytest.param('users = [0]\nnetworks = ["10.0.0.0/8"]', "no client's networks are", id="from wherever it comes"),
        pytest.param(f"{NETWORKS}\n{KNOWING}", "no client's networks are", id="a password is no way here"),
        pytest.param(KNOWING, None, id="a password from anywhere"),
        pytest.param(f'networks = ["10.0.0.0/8"]\n{KNOWING}', None, id="a password from there"),
        pytest.param(f'networks = ["0.0.0.0/0"]\n{KNOWING}', None, id="a password from anywhere, in so many words"),
        pytest.param('networks = ["0.0.0.0/0"]', "everyone's", id="everyone"),
        pytest.param(f"users = [0]\n{KNOWING}", "no client's networks are", id="an account with a password"),
    ],
)
def test_r2_beyond_loopback_a_client_is_a_network_or_knows_a_password(conditions: str, said: str | None) -> None:
    found = said_of('http = ["10.0.0.1:3128"]', conditions)
    if said is None:
        assert found == []
    else:
        (problem,) = found
        assert problem.startswith("main.toml: listen.http[0]: 10.0.0.1:3128 is beyond loopback, and ")
        assert said in problem


def test_r1_a_password_makes_no_public_listener_private() -> None:
    (problem,) = said_of('http = ["0.0.0.0:3128"]', KNOWING)
    assert "is open to more than a private network" in problem


def test_r2_one_client_that_may_come_is_enough_and_one_that_everyone_is_is_too_many() -> None:
    second = '\n[[client]]\nname = "second"\n'
    here = 'http = ["10.0.0.1:3128"]'
    assert said_of(here, f'{NETWORKS}{second}networks = ["10.0.0.0/8"]') == []
    (problem,) = said_of(here, f'networks = ["10.0.0.0/8"]\n{KNOWING}{second}networks = ["::/0"]')
    assert "everyone's" in problem


# Places


def test_r12_there_is_a_place_to_listen_at() -> None:
    assert said_of("", NETWORKS) == [
        'main.toml: listen: there is no place to listen at; write http = ["127.0.0.1:3128"]'
    ]


@pytest.mark.parametrize("places", ['http = ["systemd", "systemd:web"]', 'http = ["systemd:web", "systemd"]'])
def test_what_is_handed_over_belongs_to_one_place(places: str) -> None:
    """One socket served by two listeners would be the one or the other by chance."""
    (problem,) = said_of(places, NETWORKS)
    assert problem.endswith(
        "listen: systemd stands for all that is handed over, and some of it is named beside it; name each"
    )
    assert said_of('http = ["systemd:web", "systemd:tools"]', NETWORKS) == []


@pytest.mark.parametrize("place", ["127.0.0.1:3128", "unix:/run/a", "systemd", "systemd:a"])
def test_a_place_is_there_once(place: str) -> None:
    said = [f"main.toml: listen: {place} is there twice; remove one"]
    assert said_of(f'http = ["{place}", "{place}"]', "users = [0]") == said
    tls = 'certificate = "/etc/tls.pem"\nprivate_key = "/etc/tls.key"'
    assert said_of(f'http = ["{place}"]\nhttps = ["{place}"]', "users = [0]", tls) == said


@pytest.mark.parametrize("https", ["", 'https = ["127.0.0.1:3129"]\n'])
@pytest.mark.parametrize("certificate", ["", 'certificate = "/etc/tls.pem"\n'])
@pytest.mark.parametrize("private_key", ["", 'private_key = "/etc/tls.key"\n'])
def test_r12_tls_goes_with_its_certificate_and_its_key(https: str, certificate: str, private_key: str) -> None:
    found = said_of(f'http = ["127.0.0.1:3128"]\n{https}', NETWORKS, certificate + private_key)
    if (https and certificate and private_key) or not (https or certificate or private_key):
        assert found == []
    else:
        assert found == ["main.toml: listen.https: goes with certificate and private_key; write all three, or none"]


@pytest.mark.parametrize("more", ['unix_mode = "0660"', 'unix_group = "agents"'])
def test_what_is_said_of_unix_sockets_has_one_to_be_said_of(more: str) -> None:
    (problem,) = said_of('http = ["127.0.0.1:3128"]', NETWORKS, more)
    assert problem.startswith("main.toml: listen: unix_mode and unix_group are for Unix sockets; ")
    assert said_of('http = ["unix:/run/a"]', "users = [0]", more) == []


def test_r2_a_unix_socket_has_a_client_that_is_no_network() -> None:
    (problem,) = said_of('http = ["127.0.0.1:3128", "unix:/run/a"]', NETWORKS)
    assert problem.startswith("main.toml: listen.http[1]: a Unix socket's peer has no address")
    (problem,) = said_of('http = ["unix:/run/a"]', f"{NETWORKS}\nusers = [0]")
    assert "every client has networks" in problem
    for conditions in ("users = [0]", KNOWING):
        assert said_of('http = ["unix:/run/a"]', conditions) == []
        assert said_of('http = ["unix:/run/a"]', f'{NETWORKS}\n[[client]]\nname = "b"\n{conditions}') == []


def test_every_listener_is_told_of() -> None:
    found = said_of('http = ["0.0.0.0:1", "127.0.0.1:2", "[::]:3"]', 'networks = ["10.0.0.0/8"]')
    assert [each.split(": ")[1] for each in found] == ["listen.http[0]", "listen.http[2]"]
    assert loaded().ports == {3128}
