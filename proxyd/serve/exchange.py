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
from proxyd.http.client_hello import ALERT_UNRECOGNIZED_NAME
from proxyd.http.credential import shown_credential
from proxyd.http.fields import request_to_origin
from proxyd.http.framing import Malformed
from proxyd.http.refusal import refusal, status_of
from proxyd.http.request import known_method, read_request
from proxyd.net.dialer import DialError
from proxyd.net.relay import Flow, relay
from proxyd.net.resolver import DnsError
from proxyd.net.stream import TcpStream, hang_up
from proxyd.net.wire import Sent, Wire
from proxyd.policy.limits import Over
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, Deny, Reason
from proxyd.serve import opening
from proxyd.serve.case import Case
from proxyd.serve.forward import Failed, Forward
from proxyd.serve.identify import identify
from proxyd.serve.kept import Kept, Origin
from proxyd.serve.refused import Refused
from proxyd.serve.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxyd.http.credential import Shown
    from proxyd.http.request import Asked
    from proxyd.net.dialer import Dialled
    from proxyd.policy.address import Destination, Resolution
    from proxyd.policy.client import Client
    from proxyd.policy.snapshot import Rules
    from proxyd.serve.ledger import Place
    from proxyd.serve.seams import Seams
    from proxyd.serve.visit import Visit

HEAD_SECONDS: Final = 15.0  # from a request's first byte to the end of its head
ANSWER_SECONDS: Final = 4.5  # from the end of the head to the answer of a CONNECT; the client gives up at 5 s
SAY_SECONDS: Final = 10.0  # for a client to take an answer of ours
LINGER_SILENCE: Final = 1.0  # of a client after an answer that ends the connection; one that still sends …
LINGER_SECONDS: Final = 5.0  # … is heard out for this long, so that no reset overtakes the answer

_REVOKED: Final = Deny(Reason.REVOKED, "policy")  # another one by now
_ADOPTED: Final = "adopted"  # by the pool, which sees to the rest
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection Established\r\n\r\n"


class Exchange:
    """One request on a client's wire. `run` or `turn_away` is called, once."""

    def __init__(self, wire: Wire, visit: Visit, seams: Seams, kept: Kept) -> None:
        """kept: the origin connection of the request before, and of the one behind."""
        self._wire = wire
        self._visit = visit
        self._kept = kept
        self._seams = seams
        self._snapshot = seams.snapshot()
        self._client = self._snapshot.identify(visit.peer, visit.proven)
        self.trail = Trail(seams, self._snapshot, self._client, visit.peer)
        self._flow = Flow()
        self._method = b""
        self._looked_up = False
        self._place: Place | None = None
        self._revoke: Callable[[], None] = lambda: None

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
            if not self.trail.decided:
                self.trail.refused(Reason.CONNECTION_LIMIT if self._visit.displaced else Reason.ABORTED, None, None)
            if outcome is not _ADOPTED:
                self._leave_place()
                self.trail.close(outcome, self._flow)
            if self._wire.torn and self._wire.their_version == b"1.0":
                self._wire.break_off()  # in HTTP/1.1 the framing says that something is missing
        return outcome != "client_gone" and self._wire.reusable

    def revoke(self) -> None:
        """Cut it: it is not allowed any longer. A response that has not begun is a refusal instead."""
        self._revoke()

    async def turn_away(self, reason: Reason) -> None:
        """Refuse without hearing the request."""
        outcome = "aborted"
        try:
            outcome = await self._refuse(Refused(reason, close=True))
        except trio.BrokenResourceError:
            outcome = "client_gone"
        finally:
            self.trail.close(outcome, self._flow)

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
        self._snapshot = self._seams.snapshot()  # the policy may be another one than when the head began
        self.trail.head_received(self._snapshot, self._visit.peer)
        self._method = request.method
        self.trail.learn(method=known_method(request.method))
        if self._visit.displaced:  # while the head came, or in the moment in which it was whole
            raise Refused(Reason.CONNECTION_LIMIT, close=True)
        with self._in_time():
            asked = await self._read(request)
            self._admit(asked)
            allow = await self._judge(asked)
            if not asked.answer_here:
                origin = await self._reach(asked, allow)
        if asked.answer_here:
            return await self._answer_here()
        if asked.scheme == "connect":
            return await self._tunnel(asked, origin)
        return await self._forward(request, asked, origin)

    async def _receive_head(self) -> h11.Request:
        with nullcontext() if self._wire.has_head else self._while_it_comes():
            head = await self._wire.receive_head()
            if isinstance(head, h11.Request):
                return head
        raise Refused(Reason.CONNECTION_LIMIT if self._visit.displaced else Reason.HEAD_TIMEOUT, close=True)

    @contextmanager
    def _while_it_comes(self) -> Iterator[None]:
        """A head that is not whole is waited for so long, unless its place is needed before."""
        with self._seams.crowd.waiting(self._visit), trio.move_on_after(HEAD_SECONDS):
            yield

    async def _read(self, request: h11.Request) -> Asked:
        """What is asked for. Raises Malformed; for a stranger, whatever he asks for, Refused."""
        malformed: Malformed | None = None
        shown: Shown | None = None
        try:
            asked = read_request(request, self._seams.via)
            self.trail.asked(asked)
        except Malformed as error:
            malformed = error
        try:
            shown = shown_credential(request.headers)
        except Malformed as error:
            malformed = error
        await self._identify(shown)
        if malformed is not None:
            raise malformed
        return asked

    async def _identify(self, shown: Shown | None) -> None:
        """Know who asks. Raises Refused."""
        before, self._client = self._client, None
        self.trail.learn(client=None)
        self._client = await identify(shown, self._visit, self._snapshot, self._seams.keyring)
        self.trail.learn(client=self._client.name)
        if self._visit.place is None:  # they came as a stranger, and a new policy knows them
            raise Refused(Reason.CONNECTION_LIMIT, close=True)
        if self._client != before:
            await self._kept.close()  # what was dialled for one client is no other's (ATTACKS 3.12)

    def _admit(self, asked: Asked) -> None:
        """A place within the limits, whatever the verdict will be. Raises Refused."""
        limits = self._snapshot.policy.limits
        admitted = self._seams.ledger.admit(self._asker, limits, tunnel=asked.scheme == "connect" or asked.upgrade)
        if isinstance(admitted, Over):
            raise Refused(admitted.reason, retry_after=admitted.retry_after)
        self._place = admitted

    def _leave_place(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.leave()

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """What is done meanwhile is done before the client gives up waiting for an answer. Raises Refused."""
        with trio.move_on_after(ANSWER_SECONDS) as patience:
            yield
        if patience.cancelled_caught:
            late = Reason.CONNECT_TIMEOUT if self.trail.decided else Reason.DNS_TIMEOUT
            raise Refused(Reason.OVERLOADED if self._place is None else late)  # so late that it is not known who asks

    async def _judge(self, asked: Asked) -> Allow:
        """Ask the judge with the name, then with its addresses; put the permission on record. Raises Refused."""
        found: Resolution | None = None
        verdict = self._seams.judge(asked.destination, self._client, self._snapshot)
        if verdict is NEED_ADDRESSES:
            found = await self._resolve(asked)
            verdict = self._seams.judge(asked.destination, self._client, self._snapshot, found)
        self.trail.case = self._case(asked.destination, found)
        if isinstance(verdict, Deny):
            raise Refused(verdict.reason, verdict)
        if not isinstance(verdict, Allow):
            raise TypeError("the judge still needs addresses")
        self._record(verdict)
        return verdict

    def _case(self, destination: Destination, found: Resolution | None) -> Case:
        """What is decided, for the day on which another policy may decide otherwise."""
        visit, policy = self._visit, self._snapshot.policy
        return Case(visit.peer, visit.proven, destination, found, policy.parent, self._asker.egress)

    async def _resolve(self, asked: Asked) -> Resolution:
        self._looked_up = True
        began = trio.current_time()
        try:
            found = await self._seams.resolve(asked.destination.host, self._asker.name)
        except DnsError as error:
            raise Refused(error.reason) from None
        finally:
            self.trail.took("dns", trio.current_time() - began)
        self.trail.resolved(found.addresses)
        return found

    def _record(self, allow: Allow) -> None:
        """No audit, no connection (R12), unless the policy prefers availability in so many words."""
        try:
            self.trail.allowed(allow)
        except SinkError as error:
            self._seams.complain(f"audit log: a decision record could not be written: {error}")
            if not self._snapshot.policy.audit.dangerously_prefer_availability:
                raise Refused(Reason.AUDIT_UNWRITABLE) from None

    async def _reach(self, asked: Asked, allow: Allow) -> Origin:
        """A connection to the origin: the one before, where that will do, or a new one. Raises Refused."""
        parent = self._snapshot.policy.parent
        if not asked.repeatable:
            await self._kept.close()  # it would stand beside the next one: two files are counted for a connection
        kept = await self._kept.take(allow, parent)
        if kept is None:
            dialled = await self._dial(allow)
            origin = Origin(allow, dialled, Wire(dialled.stream, h11.CLIENT, dialled.early), parent)
        else:
            origin = replace(kept, allow=allow)  # if it has to be dialled again, then by what was judged now
        self.trail.learn(address=str(origin.dialled.address))
        if not self._stands():
            await hang_up(origin.dialled.stream)
            raise Refused(Reason.REVOKED, _REVOKED)
        return origin

    async def _dial(self, allow: Allow) -> Dialled:
        began = trio.current_time()
        try:
            dialled = await self._seams.dial(allow)
        except DialError as error:
            raise Refused(error.reason) from None
        self.trail.took("connect", trio.current_time() - began)
        return dialled

    def _stands(self) -> bool:
        """Whether what was decided would be decided so under the policy of this moment."""
        snapshot = self._seams.snapshot()
        case = self.trail.case
        return snapshot is self._snapshot or (case is not None and case.stands(snapshot, self._seams.judge))

    async def _tunnel(self, asked: Asked, origin: Origin) -> str:
        try:
            self.trail.learn(status=HTTPStatus.OK.value)
            self.trail.answered()
            early = self._wire.leave_http()
            await self._send(_ESTABLISHED)
            if self._rules.destinations.holds_to_tls_name(asked.destination.port):
                early, hello = await opening.hear(self._wire.stream, early)
                if not opening.names(hello, asked.destination):
                    return await self._refuse_name()
            return await self._relay(origin.dialled, (early, origin.dialled.early))
        finally:
            await hang_up(origin.dialled.stream)

    async def _refuse_name(self) -> str:
        """Nothing of it has reached the origin. A TLS client understands the alert; anybody else the end."""
        self.trail.learn(verdict="deny", reason=Reason.TLS_NAME.value, rule="tls_name")
        self._leave_place()
        await self._send(ALERT_UNRECOGNIZED_NAME)
        await self._wire.linger(LINGER_SILENCE, LINGER_SECONDS)
        return Reason.TLS_NAME.value

    @property
    def _rules(self) -> Rules:
        return self._snapshot.rules(self._asker)

    @property
    def _asker(self) -> Client:
        """Who asks, once that is known."""
        if self._client is None:
            raise TypeError("it is not known yet who asks")
        return self._client

    async def _forward(self, request: h11.Request, asked: Asked, origin: Origin) -> str:
        without = self._rules.destinations.identity_headers if origin.allow.permitted else None
        keep = asked.repeatable and origin.keepable and self._wire.persistent
        forward = Forward(
            client=self._wire,
            origin=origin.wire,
            request=request_to_origin(request, asked, self._seams.via, without_identity=without, keep=keep),
            upgrade=asked.upgrade,
            without_identity=without,
            via=self._seams.via,
            idle_seconds=self._idle_seconds,
            flow=self._flow,
            answered=self.trail.answered,
            completed=self._leave_place,  # before it can ask again
        )
        try:
            with self._revocable(forward.revoke):
                switched = await forward.run()
            if switched:
                return await self._relay(origin.dialled, (self._wire.leave_http(), origin.wire.leave_http()))
        except Failed as failed:
            if failed.reason is None:
                return "client_gone"
            if failed.reason is Reason.REVOKED:
                raise Refused(Reason.REVOKED, _REVOKED, close=True) from None
            if failed.reason is Reason.ORIGIN_CLOSED and origin.used and forward.status is None:
                await hang_up(origin.dialled.stream)  # before the next one is dialled, for the same reason
                return await self._forward_again(request, asked, origin.allow)
            raise Refused(failed.reason, close=True) from None
        finally:
            if forward.status is not None:  # or it would hide what a repetition met
                self.trail.learn(status=forward.status)
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
        if not self._stands():
            return Reason.REVOKED.value
        pool, client = self._seams.tunnels, self._wire.stream
        if pool is not None and isinstance(client, TcpStream):
            self.trail.hold((self._visit.hand_on(), self._place))  # first: the pool may end it at once
            pool.adopt(
                client,
                dialled.stream,
                idle_seconds=self._idle_seconds,
                flow=self._flow,
                early=early,
                owner=self.trail,
            )
            return _ADOPTED
        with trio.CancelScope() as scope, self._revocable(scope.cancel):
            await relay(self._wire.stream, dialled.stream, self._idle_seconds, self._flow, early)
        return Reason.REVOKED.value if scope.cancelled_caught else self._flow.outcome

    @contextmanager
    def _revocable(self, revoke: Callable[[], None]) -> Iterator[None]:
        """What a new policy refuses meanwhile ends with `revoke`."""
        self._revoke = revoke
        self._seams.live.add(self)
        try:
            yield
        finally:
            self._seams.live.discard(self)

    async def _answer_here(self) -> str:
        """The answer of the last hop that Max-Forwards allowed (RFC 9110 §7.6.2)."""
        self.trail.learn(status=HTTPStatus.OK.value)
        fields = [("Content-Length", "0")]
        if not self._wire.between_messages:
            fields.append(("Connection", "close"))
        await self._say(h11.Response(status_code=HTTPStatus.OK, headers=fields, reason="OK"), h11.EndOfMessage())
        self._leave_place()
        await self._part_unless_reusable()
        return "answered_here"

    async def _refuse(self, refused: Refused) -> str:
        """Put the refusal on record, then tell the client, unless a response has begun already."""
        speak = self._wire.can_respond
        shown = refused.reason
        if self._looked_up and self._snapshot.policy.dns.uniform_errors:
            shown = refused.uniform_reason
        self.trail.refused(refused.reason, status_of(shown) if speak else None, refused.deny)
        self._leave_place()  # before a client can be slow to take it
        if not speak:
            return Reason.REVOKED.value if refused.reason is Reason.REVOKED else "aborted"
        close = refused.close or self._method == b"CONNECT" or not self._wire.between_messages
        rule = None if refused.deny is None or shown is not refused.reason else refused.deny.rule
        response, body = refusal(shown, rule, self.trail.id, close=close, retry_after=refused.retry_after)
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
            return await self._wire.say(octets)
        raise trio.BrokenResourceError("the client does not read")

    async def _part_unless_reusable(self) -> None:
        """A client that still sends is heard out for a moment, or the answer could be lost to a reset (ATTACKS 8)."""
        if not self._wire.reusable:
            await self._wire.linger(LINGER_SILENCE, LINGER_SECONDS)

    @property
    def _idle_seconds(self) -> float:
        return self._snapshot.policy.limits.idle_seconds
