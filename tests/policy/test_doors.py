"""Where peers come in that did not before: addresses, inherited sockets, and who may open a Unix socket (R2, R8)."""

from __future__ import annotations

from typing import Final

import pytest

from proxyd.policy.address import Endpoint, parse_address
from proxyd.policy.doors import beyond
from proxyd.policy.listen import Inherited, Listen, UnixPath, Where

SOCKET: Final = UnixPath("/run/p.sock")


def at(*places: str | Where, mode: int = 0o600, group: str = "") -> Listen:
    """Listening at these; an address as ADDRESS@PORT."""
    every = tuple(_place(each) if isinstance(each, str) else each for each in places)
    return Listen(http=every[:1], https=every[1:], unix_mode=mode, unix_group=group)


def _place(text: str) -> Endpoint:
    address, _, port = text.partition("@")
    return Endpoint(parse_address(address), int(port))


@pytest.mark.parametrize(
    ("less", "more", "said"),
    [
        (at("127.0.0.1@1"), at("127.0.0.1@1", "10.0.0.5@1"), ["10.0.0.5:1"]),
        (at("127.0.0.1@1"), at("0.0.0.0@1"), ["0.0.0.0:1"]),
        (at("10.0.0.5@1"), at("0.0.0.0@1"), ["0.0.0.0:1"]),
        (at("10.0.0.5@1"), at("10.0.0.5@2"), ["10.0.0.5:2"]),
        (at("0.0.0.0@1"), at("fd00::1@1"), ["[fd00::1]:1"]),
        (at("127.0.0.1@1"), at("10.0.0.5@1", "10.0.0.5@1"), ["10.0.0.5:1"]),
        (at("127.0.0.1@1"), at(Inherited(), Inherited("tls")), ["systemd", "systemd:tls"]),
        (at(SOCKET), at(SOCKET, mode=0o666), ["Unix sockets of mode 0666"]),
        (at("127.0.0.1@1", mode=0o666), at(SOCKET, mode=0o660), ["Unix sockets of mode 0660"]),
        (at(SOCKET, mode=0o660), at(SOCKET, mode=0o660, group="agents"), ["Unix sockets of group agents"]),
        (at(SOCKET, mode=0o660, group="a"), at(SOCKET, mode=0o660), ["Unix sockets of group of proxyd"]),
    ],
)
def test_r2_who_could_not_connect_before_is_told(less: Listen, more: Listen, said: list[str]) -> None:
    assert list(beyond(more, less)) == said


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (at("127.0.0.1@1"), at("127.0.0.1@2", "::1@3")),
        (at("0.0.0.0@1"), at("10.0.0.5@1")),
        (at("::@1"), at("fd00::1@1")),
        (at("10.0.0.5@1", SOCKET), at(SOCKET, "10.0.0.5@1")),
        (at("127.0.0.1@1"), at(SOCKET)),
        (at("127.0.0.1@1", mode=0o600), at("127.0.0.1@1", mode=0o666, group="a")),
        (at(SOCKET, mode=0o660), at(SOCKET, mode=0o600)),
        (at(SOCKET, group="a"), at(SOCKET, group="b")),
        (at(Inherited()), at(Inherited())),
    ],
)
def test_what_lets_in_nobody_else_is_nothing(less: Listen, more: Listen) -> None:
    assert list(beyond(more, less)) == []
