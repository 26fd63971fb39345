"""Connections to judged addresses. A dialer takes an `Allow` and nothing else: no name comes this far (R3, R4).

Happy Eyeballs (RFC 8305) over the addresses of the Allow, and a last look at whom we are connected to.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

import trio
from netaddr import IPAddress

from proxyd.net.host import SHORTAGES, tune
from proxyd.net.stream import TcpStream
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxyd.policy.client import Egress
    from proxyd.policy.verdict import Allow

STAGGER_SECONDS: Final = 0.25  # RFC 8305 §5, "Connection Attempt Delay"
MOST_ATTEMPTS: Final = 8  # an answer with dozens of addresses would make a scanner of us

_SO_MARK: Final = 36  # asm-generic/socket.h; Python knows only the other two, and not everywhere
_SO_BINDTODEVICE: Final = 25
_IP_BIND_ADDRESS_NO_PORT: Final = 24  # linux/in.h


class NoEgress(OSError):  # noqa: N818 - what is missing
    """The client's connections must leave in a way that cannot be had here; no other way will do."""


class DialError(Exception):
    """No address could be connected to; `reason` says what the most telling attempt met."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection, and the judged address at its other end. early: what came from there already."""

    stream: TcpStream
    address: IPAddress
    early: bytes = b""


async def dial(allow: Allow) -> Dialled:
    """Connect to one of the addresses of `allow`. Raises DialError; the caller sets the deadline."""
    if len(allow.addresses) > 1:
        return await _race(interleaved(allow.addresses)[:MOST_ATTEMPTS], allow.destination.port, allow.egress)
    (address,) = allow.addresses
    try:
        return Dialled(await connect(address, allow.destination.port, allow.egress), address)
    except OSError as error:
        raise DialError(_most_telling([error])) from None


async def _race(addresses: Iterable[IPAddress], port: int, egress: Egress) -> Dialled:
    """The first of several to answer. Raises DialError."""
    failures: list[OSError] = []
    winners: list[Dialled] = []

    async def attempt(address: IPAddress, over: trio.Event) -> None:
        try:
            stream = await connect(address, port, egress)
        except OSError as error:
            failures.append(error)
            over.set()
        else:
            winners.append(Dialled(stream, address))
            race.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as race:
            for address in addresses:
                over = trio.Event()
                race.start_soon(attempt, address, over)
                with trio.move_on_after(STAGGER_SECONDS):
                    await over.wait()
    except BaseException:
        _close(winners)
        raise
    _close(winners[1:])
    if not winners:
        raise DialError(_most_telling(failures))
    return winners[0]


def _prove(sock: socket.socket, address: IPAddress, port: int) -> None:
    """Whatever happened on the way, the other end is the address that was judged, or this is a bug. Raises OSError."""
    peer, peer_port, *_ = sock.getpeername()
    if peer_port != port or (peer != str(address) and IPAddress(peer) != address):
        raise RuntimeError("connected to an address that was not judged")
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself: nobody listens there")


def _close(dialled: list[Dialled]) -> None:
    """Let go of connections that nobody will use: second in the race, or too late for a caller that gave up."""
    for each in dialled:
        each.stream.socket.close()


def interleaved(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """The families in turn, IPv6 first (RFC 8305 §4): a family that is broken here costs one stagger, not all."""
    addresses = tuple(dict.fromkeys(addresses))
    families = ([each for each in addresses if each.version == version] for version in (6, 4))
    return tuple(each for each in chain.from_iterable(zip_longest(*families)) if each is not None)


async def connect(address: IPAddress, port: int, egress: Egress) -> TcpStream:
    """One connection to one address, and proof that it is that one. Raises OSError."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET  # noqa: PLR2004 - IP versions
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if egress.given:
            leave_by(sock, egress)
        await _until_connected(sock, (str(address), port))
        _prove(sock, address, port)
        tune(sock)
        return TcpStream(sock)
    except BaseException:
        sock.close()
        raise


def leave_by(sock: socket.socket, egress: Egress) -> None:
    """Let the connection leave as `egress` says, and in no other way. Raises NoEgress."""
    try:
        if egress.mark:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, egress.mark)
        if egress.interface:
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, egress.interface.encode())
        if egress.addresses:
            version = 6 if sock.family == socket.AF_INET6 else 4
            (source,) = (each for each in egress.addresses if each.version == version)
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)  # or ports would run out (ip(7))
            sock.bind((str(source), 0))
    except ValueError:
        raise NoEgress(errno.EAFNOSUPPORT, "no source address of this family") from None
    except OSError as error:
        raise NoEgress(error.errno, error.strerror) from None


async def _until_connected(sock: socket.socket, where: tuple[str, int]) -> None:
    """connect(2), without holding up anybody else. Raises OSError."""
    failure = sock.connect_ex(where)
    if failure == errno.EINPROGRESS:
        await trio.lowlevel.wait_writable(sock)
        failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failure:
        raise OSError(failure, os.strerror(failure))


def _most_telling(failures: list[OSError]) -> Reason:
    """Our own shortage before a refusal before the rest: what most helps the reader of the log."""
    met = {failure.errno for failure in failures if not isinstance(failure, NoEgress)}
    if not met:
        return Reason.EGRESS_UNAVAILABLE
    if met & SHORTAGES:
        return Reason.OUT_OF_RESOURCES
    if met & {errno.ENOTCONN, errno.ECONNRESET}:
        return Reason.ORIGIN_CLOSED  # it stood, and was reset before we could look whom it led to
    if errno.ECONNREFUSED in met:
        return Reason.CONNECT_REFUSED
    if met == {errno.ETIMEDOUT}:
        return Reason.CONNECT_TIMEOUT
    return Reason.CONNECT_UNREACHABLE
