"""Connections through a parent proxy: it is asked for the judged address, never for a name, and there is no other way.

Plain requests leave through a tunnel as well, so that the parent cannot resolve anything itself (DESIGN, "Through a
parent proxy"). What the parent refuses is told apart from what is refused here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from proxyd.http.framing import Malformed
from proxyd.net.dialer import MOST_ATTEMPTS, DialError, Dialled, NoEgress, connect, interleaved
from proxyd.net.wire import Wire
from proxyd.policy.address import Endpoint
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from netaddr import IPAddress

    from proxyd.net.stream import TcpStream
    from proxyd.policy.model import Parent
    from proxyd.policy.verdict import Allow

_ELSEWHERE: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY.value, HTTPStatus.SERVICE_UNAVAILABLE.value, HTTPStatus.GATEWAY_TIMEOUT.value}
)
"""What a parent says of an address that it cannot reach; another one of the same name may do."""


class _Refused(Exception):  # noqa: N818 - what became of it
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class ParentDialer:
    """Dials through `parent`. complain: a line for the operator."""

    parent: Parent
    complain: Callable[[str], None]

    async def dial(self, allow: Allow) -> Dialled:
        """A connection to one of the addresses of `allow`. Raises DialError; the caller sets the deadline."""
        refused = DialError(Reason.PARENT_REFUSED)
        for address in interleaved(allow.addresses)[:MOST_ATTEMPTS]:
            try:
                return await self._through(address, allow)
            except _Refused as answer:
                self.complain(f"parent {self.parent.address}: answers {answer.status} to CONNECT")
                if answer.status not in _ELSEWHERE:
                    break
        raise refused

    async def _through(self, address: IPAddress, allow: Allow) -> Dialled:
        where = self.parent.address
        try:
            stream = await connect(where.address, where.port, allow.egress)
        except NoEgress:
            raise DialError(Reason.EGRESS_UNAVAILABLE) from None
        except OSError as error:
            self.complain(f"parent {where}: {error.strerror}")
            raise DialError(Reason.PARENT_UNREACHABLE) from None
        try:
            return Dialled(stream, address, await self._ask(stream, Endpoint(address, allow.destination.port)))
        except (Malformed, trio.BrokenResourceError):
            stream.socket.close()
            self.complain(f"parent {where}: its answer to CONNECT is none")
            raise DialError(Reason.PARENT_REFUSED) from None
        except BaseException:
            stream.socket.close()
            raise

    async def _ask(self, stream: TcpStream, target: Endpoint) -> bytes:
        """Ask for a tunnel: what came through it already. Raises _Refused, Malformed or trio.BrokenResourceError."""
        wire = Wire(stream, h11.CLIENT)
        fields = [("Host", str(target))]
        if self.parent.credential:
            fields.append(
                ("Proxy-Authorization", f"Basic {base64.b64encode(self.parent.credential.encode()).decode()}")
            )
        await wire.send(h11.Request(method="CONNECT", target=str(target), headers=fields))
        head = await wire.receive_head()
        while isinstance(head, h11.InformationalResponse):
            head = await wire.receive_head()
        if not isinstance(head, h11.Response) or not HTTPStatus.OK <= head.status_code < HTTPStatus.MULTIPLE_CHOICES:
            raise _Refused(head.status_code if isinstance(head, h11.Response) else 0)
        return wire.leave_http()
