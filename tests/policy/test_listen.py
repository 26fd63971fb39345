"""Where proxyd listens: how each place is spelt. Which of them go together is in test_contradictions_on_listeners.

R1, R2, R12.
"""

from __future__ import annotations

import pytest
from netaddr import IPAddress

from proxyd.policy.address import Endpoint
from proxyd.policy.listen import Inherited, Listen, UnixPath
from tests.policy.worlds import MINIMAL, loaded, problems


def listening(said: str) -> str:
    """A policy that says this of where it listens, besides an address."""
    return MINIMAL.replace("[destinations]", f"{said}\n[destinations]")


def at(place: str) -> str:
    """A policy that listens there, and nowhere else; it has a client without networks, for Unix sockets."""
    return MINIMAL.replace('"127.0.0.1:3128"', place).replace('networks = ["127.0.0.0/8", "::1/128"]', "users = [0]")


def problem_of(main: str) -> str:
    (problem,) = problems(main)
    return problem


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("127.0.0.1:3128", Endpoint(IPAddress("127.0.0.1"), 3128)),
        ("[::1]:0", Endpoint(IPAddress("::1"), 0)),
        ("unix:/run/proxyd/proxyd.sock", UnixPath("/run/proxyd/proxyd.sock")),
        ("unix:/" + "a" * 106, UnixPath("/" + "a" * 106)),
        ("systemd", Inherited()),
        ("systemd:proxyd-http.socket", Inherited("proxyd-http.socket")),
        ("systemd:" + "a" * 255, Inherited("a" * 255)),
    ],
)
def test_a_place_is_an_address_a_unix_socket_or_what_is_handed_over(said: str, place: object) -> None:
    (found,) = loaded(at(f'"{said}"')).listen.http
    assert found == place
    assert str(found) == said


@pytest.mark.parametrize(
    "place",
    [
        *('""', '"localhost:3128"', '"127.0.0.1"', '"127.1:3128"', '":3128"', '"[::1]"', "3128", "[]", '"*:3128"'),
        *('"unix:"', '"unix:run/proxyd.sock"', f'"unix:/{"a" * 107}"', '"unix:/a\\u0000"'),
        *('"unix:@abstract"', '"Unix:/run/a"', '"systemd:"', '"systemd:a:b"', '"systemd:a b"', '"systemd "'),
        *(f'"systemd:{"a" * 256}"', '"Systemd"', '"systemd\\n"', "true", "1.5"),
    ],
)
def test_r1_r12_no_other_place_is_one(place: str) -> None:
    assert problem_of(at(place)).startswith("main.toml: listen.http[0]: ")


def test_every_place_is_known_by_its_key_and_those_that_are_addresses_by_their_ports() -> None:
    here, there = Endpoint(IPAddress("127.0.0.1"), 3128), Endpoint(IPAddress("::1"), 3129)
    listen = Listen(http=(UnixPath("/a"), here), https=(there, Inherited()))
    assert list(listen.places()) == [
        ("listen.http[0]", UnixPath("/a")),
        ("listen.http[1]", here),
        ("listen.https[0]", there),
        ("listen.https[1]", Inherited()),
    ]
    assert listen.endpoints == (here, there)
    assert Listen().endpoints == ()


@pytest.mark.parametrize(("mode", "bits"), [("0600", 0o600), ("0660", 0o660), ("0777", 0o777), ("0000", 0)])
def test_r2_a_mode_is_spelt_as_chmod_has_it(mode: str, bits: int) -> None:
    assert (
        loaded(at('"unix:/run/a"').replace("[destinations]", f'unix_mode = "{mode}"\n[destinations]')).listen.unix_mode
        == bits
    )


@pytest.mark.parametrize(
    "mode", ["600", "0o600", "384", '"600"', '"0o600"', '"0800"', '"00600"', '"4755"', '"rw"', '""']
)
def test_r2_r12_no_other_mode_is_one(mode: str) -> None:
    """A number would be read as decimal: 600 is 01130."""
    problem = problem_of(listening(f"unix_mode = {mode}"))
    assert problem.startswith("main.toml: listen.unix_mode: ")
    assert problem.endswith('is no mode; write "0660" for the group too, or "0600"')


def test_r2_a_unix_socket_is_its_owners_where_nothing_is_said() -> None:
    assert (loaded().listen.unix_mode, loaded().listen.unix_group) == (0o600, "")


@pytest.mark.parametrize("group", ['""', '"a b"', '"a:b"', f'"{"a" * 65}"', "0", '"a\\u0000b"', '"a\\u007f"'])
def test_a_group_is_a_name(group: str) -> None:
    assert problem_of(listening(f"unix_group = {group}")).startswith("main.toml: listen.unix_group: ")


@pytest.mark.parametrize("key", ["certificate", "private_key"])
@pytest.mark.parametrize("path", ['""', '"tls.pem"', '"/a\\u0000"', "1", f'"/{"a" * 4096}"'])
def test_the_files_for_tls_are_absolute_paths(key: str, path: str) -> None:
    assert problem_of(listening(f"{key} = {path}")).startswith(f"main.toml: listen.{key}: ")


def controlled(path: str) -> str:
    """A policy whose control socket is there."""
    return MINIMAL.replace("[destinations]", f"control = {path}\n[destinations]")


def test_the_control_socket_is_an_absolute_path_of_as_many_octets_as_the_kernel_takes() -> None:
    for path in ("/run/proxyd/control", "/" + "a" * 106):
        assert loaded(controlled(f'"{path}"')).listen.control == path
    assert loaded().listen.control == ""


@pytest.mark.parametrize("path", ['""', '"control"', f'"/{"a" * 107}"', f'"/{"é" * 54}"', '"/a\\u0000"', "1", "[]"])
def test_no_other_path_is_a_control_socket(path: str) -> None:
    (problem,) = problems(controlled(path))
    assert problem.startswith("main.toml: listen.control: ")
    assert problem.endswith("will not do; write an absolute path of at most 107 bytes")
