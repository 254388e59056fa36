"""Writes what happens to one governed action: what must be durable before it runs, and its end.

The steps are generators that yield the futures of durable writes; `steps` drives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from checkrein.flow import action as flow
from checkrein.flow.approval import Approval
from checkrein.flow.approval import State as ApprovalState
from checkrein.flow.quota import Amount
from checkrein.ledger import Draft
from checkrein.model import Decision, Request, StoreConflict, StoreUnavailable
from checkrein.ports import Clock, Move, Payload, Store, Unit
from checkrein.services import grants, records
from checkrein.services.approvals import save
from checkrein.services.governed import Asking, Governed, decision_of
from checkrein.services.limits import Exceeded, Limits, settled
from checkrein.services.live import Live
from checkrein.services.payloads import Sealer
from checkrein.services.pdp import Asked
from checkrein.services.steps import Steps
from checkrein.services.writes import Unsealed, together

NOTHING = Amount()
#: the state of the approval that a record is about
_STATES = {
    "approval.requested": ApprovalState.PENDING,
    "approval.cancelled": ApprovalState.CANCELLED,
    "approval.used": ApprovalState.USED,
}


class Recording:
    """`owner` marks this process in `execution.started`; `asks_usage` says whether policies ask what was used."""

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        limits: Limits,
        clock: Clock,
        *,
        key: bytes,
        owner: str,
        live: Live,
        asks_usage: Callable[[], bool],
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._limits = limits
        self._clock = clock
        self._key = key
        self._owner = owner
        self.live = live
        self._asks_usage = asks_usage

    def record(self, asking: Asking, command: flow.Record) -> Steps[flow.Event]:
        """Write what must be durable before the caller hears anything; raises `Unsealed`."""
        machine, request, now_us = asking.machine, asking.asked.request, asking.now_us
        made = decision_of(machine)
        payload = self._sealer.request(asking.asked, made, asking.discharged, now_us)
        saves = list(map(save, command.approvals))
        if command.grant:
            saves.append(grants.save(command.grant))
        answer: Payload | None = None
        if asking.claim and made.outcome.runs:
            if machine.mode is flow.Mode.ASK:  # the decision is all that is done here
                answer = self._sealer.answer(request, made, msgspec.json.encode(made), now_us)
                if not (yield from self._sealed(answer)):
                    return flow.Refused()
            saves.append(asking.claim.taken(made, payload.subject, now_us, answer=answer.id if answer else ""))
        moves: tuple[Move, ...] = ()
        every = self._asks_usage()
        if made.outcome.runs and asking.metered and (every or self._limits.quotas):
            moves, asking.reservation = self._limits.reserve(
                asking.targets, asking.wish(), now_us, runs=machine.mode is flow.Mode.RUN, every=every
            )
        if "approval.requested" in command.kinds and self._limits.quotas:
            moves = self._limits.asking(asking.targets, now_us)
        decided = records.decision(
            request,
            made,
            key=self._key,
            caller=asking.caller,
            mode=machine.mode.value,
            latency_us=asking.latency_us,
            redactions=asking.counts,
            payload=payload,
            answer=answer,
        )
        drafts: list[Draft] = []
        for kind in command.kinds:
            if kind == "decision":
                drafts.append(decided)
            elif kind == "execution.started":
                drafts.append(records.started(asking.clean, made, owner=self._owner, reserved=asking.reservation))
            elif command.grant and kind.startswith("approval.grant_"):
                drafts.append(records.grant(kind, command.grant, trace_id=made.trace_id, key=self._key))
            else:
                drafts.append(records.approval(kind, _meant(kind, command), key=self._key))
        event = yield from self.write(Unit(tuple(drafts), tuple(saves), moves), payload, asking)
        if isinstance(event, flow.Durable):
            self.live.decided(made, asking.latency_us)
            asking.span.said(made.trace_id, decided.body)
        elif answer:
            self._sealer.discard(answer)
        return event

    def _sealed(self, answer: Payload) -> Steps[bool]:
        """Whether an answer is kept. It comes before the row that names it, which others may read at once."""
        try:
            yield self._sealer.seal(answer)
        except StoreUnavailable:
            return False
        return True

    def write(self, unit: Unit, payload: Payload | None = None, asking: Asking | None = None) -> Steps[flow.Event]:
        """Write the unit, and with it the payload; raises `Unsealed` when only the payload was refused.

        A limit that refused it is noted in `asking`, which is then decided anew.
        """
        try:
            written = self._store.commit(unit)
            yield together(written, self._sealer.seal(payload)) if payload else written
        except Unsealed:
            self.live.unrecorded()
            raise
        except (StoreConflict, StoreUnavailable) as error:
            if payload:
                self._sealer.discard(payload)
            if asking and isinstance(error, Exceeded):
                asking.exceeded = error.barred
            if isinstance(error, StoreConflict):
                return flow.Conflicted()
            self.live.unrecorded()
            return flow.Refused()
        return flow.Durable()

    def note(self, request: Request, made: Decision, governed: Governed, redactions: Mapping[str, int]) -> Steps[None]:
        """Write a decision about what was answered; raises `StoreUnavailable`."""
        payload = self._sealer.request(Asked(request), made, governed.discharged, self._clock.now_us())
        draft = records.decision(
            request,
            made,
            key=self._key,
            caller=governed.caller,
            mode=flow.Mode.ASK.value,
            latency_us=0,
            redactions=redactions,
            payload=payload,
        )
        if not isinstance((yield from self.write(Unit((draft,)), payload)), flow.Durable):
            raise StoreUnavailable("the decision about the answer could not be recorded")
        self.live.decided(made, 0)

    def end(self, governed: Governed) -> Steps[None]:
        status, error, detail = governed.end()
        request, made, now_us = governed.request, governed.decision, self._clock.now_us()
        payload = answer = None
        if governed.result and self._sealer.keeps_results:
            payload = self._sealer.result(request, made, governed.result, now_us)
        if governed.reply and governed.claim:
            answer = self._sealer.answer(request, made, governed.reply, now_us)
            if not (yield from self._sealed(answer)):
                answer = None
        command = governed.machine.handle(flow.Ended(status, now_us))
        if not isinstance(command, flow.Record):
            raise flow.IllegalEvent("the end of an execution must be recorded")
        finished = records.finished(
            request,
            made,
            status=status,
            error=error,
            detail=detail,
            key=self._key,
            duration_us=governed.lasted_us(),
            payload=payload,
            answer=answer,
        )
        drafts, saves = [finished], list(map(save, command.approvals))
        if command.approvals:
            used = [kind for kind in command.kinds if kind != finished.kind]
            drafts += [records.approval(kind, _meant(kind, command), key=self._key) for kind in used]
        if governed.claim:
            ended = governed.claim.ended(answer.id if answer else "") if governed.ran else governed.claim.released()
            saves.append(ended)
        moves: tuple[Move, ...] = ()
        if held := governed.reservation:
            moves = settled(held, (governed.used or held.amount) if governed.ran else NOTHING, now_us)
        unit = Unit(tuple(drafts), tuple(saves), moves)
        try:
            event = yield from self.write(unit, payload)
            if isinstance(event, flow.Durable):
                self.live.ended(status)
                governed.span.said(made.trace_id, finished.body)
            command = governed.machine.handle(event)
        except Unsealed as error:
            governed.span.end("StoreUnavailable")
            raise StoreUnavailable("the action ran but its result could not be kept", hint=error.hint) from error
        governed.span.end("StoreUnavailable" if isinstance(command, flow.Fail) else "")
        if isinstance(command, flow.Fail):
            raise StoreUnavailable(
                "the action ran but its end could not be recorded",
                hint="it stands as started in the ledger and becomes `execution.unknown`; check what it did",
            )


def _meant(kind: str, command: flow.Record) -> Approval:
    """The approval of the command that a record of this kind is about."""
    return next(approval for approval in command.approvals if approval.state is _STATES[kind])
