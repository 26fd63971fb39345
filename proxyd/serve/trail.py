"""The two audit records of one request: its decision, written before anything is dialled, and its closing.

It collects what becomes known of a request and writes it down; what is allowed is decided elsewhere (R7).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import trio

from proxyd.audit.record import DIGEST_DIGITS, MAX_ADDRESSES, Record, timestamp
from proxyd.audit.sink import SinkError
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netaddr import IPAddress

    from proxyd.http.request import Asked
    from proxyd.net.relay import Flow
    from proxyd.policy.client import Client
    from proxyd.policy.snapshot import Peer, Snapshot
    from proxyd.policy.verdict import Allow, Deny
    from proxyd.serve.case import Case
    from proxyd.serve.ledger import Place
    from proxyd.serve.seams import Seams


class Trail:
    """What is known of one request, and whether its decision is on record."""

    def __init__(self, seams: Seams, snapshot: Snapshot, client: Client | None, peer: Peer) -> None:
        self.case: Case | None = None
        self._places: tuple[Place | None, ...] = ()
        self.id = secrets.token_hex(8)
        self.decided = False
        self._unwritten: Record | None = None
        self._seams = seams
        self._began = trio.current_time()
        self._facts: dict[str, Any] = {
            "id": self.id,
            "client": client.name if client else None,
            "client_address": str(peer.address) if peer.address is not None else None,
        }
        self._judged_by(snapshot, peer)

    def learn(self, **facts: Any) -> None:  # noqa: ANN401 - fields of a Record
        """Note fields of the records to come."""
        self._facts |= facts

    def took(self, what: str, seconds: float) -> None:
        """Note how long something took: "dns", "connect" or "first_byte"."""
        self.learn(**{f"{what}_ms": milliseconds(seconds)})
        self._seams.took(what, seconds)

    def answered(self) -> None:
        """The answer begins: the origin's, or the 200 of a tunnel."""
        self.took("first_byte", trio.current_time() - self._began)

    def asked(self, asked: Asked) -> None:
        """Note where the request wants to go."""
        self.learn(scheme=asked.scheme, host=asked.destination.host, port=asked.destination.port)
        if asked.destination.address is not None:
            self.resolved([asked.destination.address])

    def resolved(self, addresses: Iterable[IPAddress]) -> None:
        """Note the addresses that are judged."""
        known = [str(address) for address in addresses]
        self.learn(addresses=tuple(known[:MAX_ADDRESSES]), truncated=len(known) > MAX_ADDRESSES)

    def allowed(self, allow: Allow) -> None:
        """Write the decision to allow: no audit, no connection. Raises SinkError."""
        self.resolved(allow.addresses)
        self.learn(verdict="allow", rule=allow.rule)
        if allow.would is not None:
            self.learn(would="deny", reason=allow.would.reason.value)
        self._decide()
        self._write_decision()

    def refused(self, reason: Reason, status: int | None, deny: Deny | None) -> None:
        """Note why the request is not served, and write the decision if there is none yet.

        status: the one sent to the client, or None where no answer of ours could be sent. A refusal is given also
        where it cannot be recorded: nothing is connected to.
        """
        self.learn(verdict="error" if deny is None else "deny", reason=reason.value)
        if status is not None:
            self.learn(status=status)
        if deny is not None:
            self.learn(rule=deny.rule, refused=str(deny.address) if deny.address is not None else deny.name)
        if reason is Reason.AUDIT_UNWRITABLE:
            self._decide()  # it was to be an allow, and could not be written; the closing tries again
        elif not self.decided:
            self._decide()
            self._try("decision", self._write_decision)

    def hold(self, places: tuple[Place | None, ...]) -> None:
        """Keep these places until the tunnel has ended."""
        self._places = places

    def tunnel_ended(self, flow: Flow) -> None:
        """Write the closing record of a tunnel that outlived its session. Raises nothing: no session catches it now."""
        for place in self._places:
            if place is not None:
                place.leave()
        try:
            self.close(flow.outcome, flow)
        except Exception as bug:  # noqa: BLE001 - it is told, and must not end everybody's tunnels
            self._seams.complain(f"bug: {type(bug).__name__} at the end of a tunnel")

    def close(self, outcome: str, flow: Flow) -> None:
        """Write the closing record; a decision that could not be written in time comes before it, late but there."""
        self.learn(outcome=outcome, bytes_up=flow.up, bytes_down=flow.down)
        self.learn(duration_ms=milliseconds(trio.current_time() - self._began))
        try:
            self._try("decision", self._write_decision)
        finally:
            self._try("close", self._write_close)

    def head_received(self, snapshot: Snapshot, peer: Peer) -> None:
        """The clock of this request starts when its head is complete: before, it was the client's time.

        snapshot: what is in force by now, and judges it.
        """
        self._began = trio.current_time()
        self._judged_by(snapshot, peer)

    def _judged_by(self, snapshot: Snapshot, peer: Peer) -> None:
        policy = snapshot.policy
        self.learn(user=snapshot.account(peer), policy=policy.name, digest=policy.digest[:DIGEST_DIGITS])

    def _decide(self) -> None:
        """Hold the decision as it is made: if it has to be written late, it still says what was decided."""
        self.decided = True
        self._unwritten = self._as_record("decision")

    def _write_decision(self) -> None:
        if self._unwritten is not None:
            self._seams.record(self._unwritten)
            self._unwritten = None

    def _write_close(self) -> None:
        self._seams.record(self._as_record("close"))

    def _try(self, event: str, write: Callable[[], None]) -> None:
        try:
            write()
        except SinkError as error:
            self._seams.complain(f"audit log: a {event} record could not be written: {error}")

    def _as_record(self, event: str) -> Record:
        return Record(time=timestamp(self._seams.now()), event=event, **self._facts)


def milliseconds(seconds: float) -> float:
    """A duration as the records spell it."""
    return round(seconds * 1000, 1)
