"""One request, first to last: received, identified, judged, recorded, dialled, answered, closed.

The order is the point (DESIGN, "How a request is judged"): no lookup before the name was judged, no dial before
the decision is on record, no 200 before the connection stands. The rules themselves are `decide`'s.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from proxyd.audit.sink import SinkError
from proxyd.http.fields import request_to_origin
from proxyd.http.framing import Malformed
from proxyd.http.refusal import refusal, status_of
from proxyd.http.request import known_method, read_request
from proxyd.net.dialer import DialError
from proxyd.net.relay import Flow, relay
from proxyd.net.resolver import DnsError
from proxyd.net.stream import TcpStream, hang_up
from proxyd.net.wire import Sent, Wire
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, Deny, Reason
from proxyd.serve.forward import Failed, Forward
from proxyd.serve.kept import Kept, Origin
from proxyd.serve.trail import Trail, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netaddr import IPAddress

    from proxyd.http.request import Asked
    from proxyd.net.dialer import Dialled
    from proxyd.policy.address import Resolution
    from proxyd.serve.seams import Seams

HEAD_SECONDS: Final = 15.0  # from a request's first byte to the end of its head
ANSWER_SECONDS: Final = 4.5  # from the end of the head to the answer of a CONNECT; the client gives up at 5 s
SAY_SECONDS: Final = 10.0  # for a client to take an answer of ours
LINGER_SILENCE: Final = 1.0  # of a client after an answer that ends the connection; one that still sends …
LINGER_SECONDS: Final = 5.0  # … is heard out for this long, so that no reset overtakes the answer

_ADOPTED: Final = "adopted"  # by the pool, which sees to the rest
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection Established\r\n\r\n"


class Refused(Exception):  # noqa: N818 - what became of the request
    """The request is not served.

    deny: the judge's word, if it was the judge's. close: whether the connection cannot be trusted any longer.
    """

    def __init__(self, reason: Reason, deny: Deny | None = None, *, close: bool = False) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.deny = deny
        self.close = close


class Exchange:
    """One request on a client's wire. `run` or `turn_away` is called, once."""

    def __init__(self, wire: Wire, address: IPAddress | None, seams: Seams, kept: Kept) -> None:
        """kept: the origin connection of the request before, and of the one behind."""
        self._wire = wire
        self._kept = kept
        self._seams = seams
        self._snapshot = seams.snapshot()
        self._client = self._snapshot.identify(address) if address is not None else None
        self._trail = Trail(seams, self._snapshot.policy, self._client, address)
        self._flow = Flow()
        self._method = b""

    async def run(self) -> bool:
        """Serve the request whose first byte has come: whether another may follow on the same connection."""
        outcome = "aborted"
        try:
            outcome = await self._served_or_refused()
        except Exception:
            with suppress(trio.BrokenResourceError):
                await self._refuse(Refused(Reason.INTERNAL_ERROR, close=True))
            raise
        finally:
            if not self._trail.decided:
                self._trail.refused(Reason.ABORTED, None, None)
            if outcome is not _ADOPTED:
                self._trail.close(outcome, self._flow)
            if self._wire.torn and self._wire.their_version == b"1.0":
                self._wire.break_off()  # in HTTP/1.1 the framing says that something is missing
        return outcome != "client_gone" and self._wire.reusable

    async def turn_away(self, reason: Reason) -> None:
        """Refuse without hearing the request."""
        outcome = "aborted"
        try:
            outcome = await self._refuse(Refused(reason, close=True))
        except trio.BrokenResourceError:
            outcome = "client_gone"
        finally:
            self._trail.close(outcome, self._flow)

    async def _served_or_refused(self) -> str:
        """Serve the request, or say why not: the outcome, in a word."""
        try:
            try:
                return await self._serve()
            except Malformed as malformed:
                return await self._refuse(Refused(malformed.reason, close=True))
            except Refused as refused:
                return await self._refuse(refused)
        except trio.BrokenResourceError:
            return "client_gone"

    async def _serve(self) -> str:
        request = await self._receive_head()
        self._trail.head_received()
        self._method = request.method
        self._trail.learn(method=known_method(request.method))
        asked = self._read(request)
        with self._in_time():
            allow = await self._judge(asked)
            if not asked.answer_here:
                origin = await self._reach(asked, allow)
        if asked.answer_here:
            return await self._answer_here()
        if asked.scheme == "connect":
            return await self._tunnel(origin.dialled)
        return await self._forward(request, asked, origin)

    async def _receive_head(self) -> h11.Request:
        with nullcontext() if self._wire.has_head else trio.move_on_after(HEAD_SECONDS):
            head = await self._wire.receive_head()
            if isinstance(head, h11.Request):
                return head
        raise Refused(Reason.HEAD_TIMEOUT, close=True)

    def _read(self, request: h11.Request) -> Asked:
        """What is asked for. Raises Malformed; for a stranger, whatever he asks for, Refused."""
        try:
            asked = read_request(request, self._seams.via)
            self._trail.asked(asked)
        except Malformed:
            if self._client is not None:
                raise
        if self._client is None:
            raise Refused(Reason.CLIENT_UNKNOWN, Deny(Reason.CLIENT_UNKNOWN, "client"), close=True)
        return asked

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """What is done meanwhile is done before the client gives up waiting for an answer. Raises Refused."""
        with trio.move_on_after(ANSWER_SECONDS) as patience:
            yield
        if patience.cancelled_caught:
            raise Refused(Reason.CONNECT_TIMEOUT if self._trail.decided else Reason.DNS_TIMEOUT)

    async def _judge(self, asked: Asked) -> Allow:
        """Ask the judge with the name, then with its addresses; put the permission on record. Raises Refused."""
        verdict = self._seams.judge(asked.destination, self._client, self._snapshot)
        if verdict is NEED_ADDRESSES:
            verdict = self._seams.judge(asked.destination, self._client, self._snapshot, await self._resolve(asked))
        if isinstance(verdict, Deny):
            raise Refused(verdict.reason, verdict)
        if not isinstance(verdict, Allow):
            raise TypeError("the judge still needs addresses")
        self._record(verdict)
        return verdict

    async def _resolve(self, asked: Asked) -> Resolution:
        began = trio.current_time()
        try:
            found = await self._seams.resolve(asked.destination.host)
        except DnsError as error:
            raise Refused(error.reason) from None
        finally:
            self._trail.learn(dns_ms=milliseconds(trio.current_time() - began))
        self._trail.resolved(found.addresses)
        return found

    def _record(self, allow: Allow) -> None:
        """No audit, no connection (R12), unless the policy prefers availability in so many words."""
        try:
            self._trail.allowed(allow)
        except SinkError as error:
            self._seams.complain(f"audit log: a decision record could not be written: {error}")
            if not self._snapshot.policy.audit.dangerously_prefer_availability:
                raise Refused(Reason.AUDIT_UNWRITABLE) from None

    async def _reach(self, asked: Asked, allow: Allow) -> Origin:
        """A connection to the origin: the one before, where that will do, or a new one. Raises Refused."""
        kept = await self._kept.take(allow) if asked.repeatable else None
        if kept is None:
            dialled = await self._dial(allow)
            return Origin(allow, dialled, Wire(dialled.stream, h11.CLIENT))
        self._trail.learn(address=str(kept.dialled.address))
        return replace(kept, allow=allow)  # if it has to be dialled again, then by what was judged now

    async def _dial(self, allow: Allow) -> Dialled:
        began = trio.current_time()
        try:
            dialled = await self._seams.dial(allow)
        except DialError as error:
            raise Refused(error.reason) from None
        self._trail.learn(connect_ms=milliseconds(trio.current_time() - began), address=str(dialled.address))
        return dialled

    async def _tunnel(self, dialled: Dialled) -> str:
        try:
            self._trail.learn(status=HTTPStatus.OK.value)
            early = self._wire.leave_http()
            await self._send(_ESTABLISHED)
            return await self._relay(dialled, (early, b""))
        finally:
            await hang_up(dialled.stream)

    async def _forward(self, request: h11.Request, asked: Asked, origin: Origin) -> str:
        permitted = origin.allow.permitted
        keep = asked.repeatable and origin.keepable and self._wire.persistent
        forward = Forward(
            client=self._wire,
            origin=origin.wire,
            request=request_to_origin(request, asked, self._seams.via, drop_identity=permitted, keep=keep),
            upgrade=asked.upgrade,
            drop_identity=permitted,
            via=self._seams.via,
            idle_seconds=self._idle_seconds,
            flow=self._flow,
        )
        try:
            if await forward.run():
                return await self._relay(origin.dialled, (self._wire.leave_http(), origin.wire.leave_http()))
        except Failed as failed:
            if failed.reason is None:
                return "client_gone"
            if failed.reason is Reason.ORIGIN_CLOSED and origin.used and forward.status is None:
                return await self._forward_again(request, asked, origin.allow)
            raise Refused(failed.reason, close=True) from None
        finally:
            if forward.status is not None:  # or it would hide what a repetition met
                self._trail.learn(status=forward.status)
            await (self._kept.keep(origin) if keep else hang_up(origin.dialled.stream))
        await self._part_unless_reusable()
        return "complete"

    async def _forward_again(self, request: h11.Request, asked: Asked, allow: Allow) -> str:
        """Repeat, on a new connection, what a kept one that the origin was closing did not hear (RFC 9112 §9.3.1)."""
        with self._in_time():
            origin = await self._reach(asked, allow)
        return await self._forward(request, asked, origin)

    async def _relay(self, dialled: Dialled, early: tuple[bytes, bytes]) -> str:
        """Join the two connections. Two sockets are left to the pool, and this session is over."""
        pool, client = self._seams.tunnels, self._wire.stream
        if pool is not None and isinstance(client, TcpStream):
            pool.adopt(
                client,
                dialled.stream,
                idle_seconds=self._idle_seconds,
                flow=self._flow,
                early=early,
                owner=self._trail,
            )
            return _ADOPTED
        await relay(self._wire.stream, dialled.stream, self._idle_seconds, self._flow, early)
        return self._flow.outcome

    async def _answer_here(self) -> str:
        """The answer of the last hop that Max-Forwards allowed (RFC 9110 §7.6.2)."""
        self._trail.learn(status=HTTPStatus.OK.value)
        fields = [("Content-Length", "0")]
        if not self._wire.between_messages:
            fields.append(("Connection", "close"))
        await self._say(h11.Response(status_code=HTTPStatus.OK, headers=fields, reason="OK"), h11.EndOfMessage())
        await self._part_unless_reusable()
        return "answered_here"

    async def _refuse(self, refused: Refused) -> str:
        """Put the refusal on record, then tell the client, unless a response has begun already."""
        speak = self._wire.can_respond
        self._trail.refused(refused.reason, status_of(refused.reason) if speak else None, refused.deny)
        if not speak:
            return "aborted"
        close = refused.close or self._method == b"CONNECT" or not self._wire.between_messages
        rule = None if refused.deny is None else refused.deny.rule
        response, body = refusal(refused.reason, rule, self._trail.id, close=close)
        content = () if self._method == b"HEAD" else (h11.Data(data=body),)
        await self._say(response, *content, h11.EndOfMessage())
        await self._part_unless_reusable()
        return "refused"

    async def _say(self, *message: Sent) -> None:
        """Send a message of our own, at once. Raises as _send does."""
        await self._send(b"".join(map(self._wire.framed, message)))

    async def _send(self, octets: bytes) -> None:
        """Send a few octets of our own. Raises trio.BrokenResourceError also for a client that does not read."""
        with trio.move_on_after(SAY_SECONDS):
            return await self._wire.stream.send_all(octets)
        raise trio.BrokenResourceError("the client does not read")

    async def _part_unless_reusable(self) -> None:
        """A client that still sends is heard out for a moment, or the answer could be lost to a reset (ATTACKS 8)."""
        if not self._wire.reusable:
            await self._wire.linger(LINGER_SILENCE, LINGER_SECONDS)

    @property
    def _idle_seconds(self) -> float:
        return self._snapshot.policy.limits.idle_seconds
