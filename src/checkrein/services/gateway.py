"""Runs one governed action: decide, record durably, execute, record the end.

`flow.action` says what comes next and this module does it against the store and the PDP. The steps are written
once, as a generator that yields the futures of durable writes; `services.steps` drives it, from asyncio or from an
ordinary thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from time import monotonic, perf_counter_ns

import msgspec

from checkrein.decide.names import nameable
from checkrein.decide.redact import Placeholders, redact_json
from checkrein.flow import action as flow
from checkrein.flow.approval import Approval
from checkrein.flow.approval import State as ApprovalState
from checkrein.flow.grant import Discharge
from checkrein.flow.quota import Amount
from checkrein.ledger import Draft
from checkrein.model import (
    Advice,
    ApprovalRequired,
    Decision,
    Denied,
    Outcome,
    Request,
    StoreConflict,
    StoreUnavailable,
)
from checkrein.model.decision import UNSUPPORTED
from checkrein.model.stamp import stamp
from checkrein.model.target import Target, targets
from checkrein.model.usage import Usage
from checkrein.ports import Clock, Move, Payload, Store, Unit
from checkrein.services import grants, records
from checkrein.services.approvals import Approvals, save
from checkrein.services.governed import Asking, Governed, decision_of
from checkrein.services.idempotency import Idempotency, Once, Replay
from checkrein.services.killswitch import KillSwitch, Running, barring
from checkrein.services.limits import Exceeded, Limits, settled
from checkrein.services.live import Live
from checkrein.services.payloads import Sealer
from checkrein.services.pdp import ANY, Asked, Part, Pdp
from checkrein.services.steps import Driver, Steps, wait
from checkrein.services.turns import Turn, Turns
from checkrein.services.waiting import Hold
from checkrein.services.writes import Unsealed, together

NOTHING = Amount()


class Gateway:
    """The one way through. `owner` marks this process in `execution.started`, for recovery after a crash."""

    def __init__(
        self,
        store: Store,
        pdp: Pdp,
        approvals: Approvals,
        sealer: Sealer,
        clock: Clock,
        *,
        key: bytes,
        owner: str,
        turns: Turns,
        idempotency: Idempotency,
        killswitch: KillSwitch,
        limits: Limits,
    ) -> None:
        self._store = store
        self._pdp = pdp
        self._approvals = approvals
        self._grants = grants.Grants(store, clock, key)
        self._sealer = sealer
        self._clock = clock
        self._key = key
        self._owner = owner
        self._turns = turns
        self.idempotency = idempotency
        self._killswitch = killswitch
        self._limits = limits
        self._running = Running(killswitch)
        self.live = Live()
        self._driver = Driver()

    # --- what connectors call -----------------------------------------------------------------------------------

    @property
    def keeps_results(self) -> bool:
        """Whether it is worth to hand over what an execution answered."""
        return self._sealer.keeps_results

    @asynccontextmanager
    async def action(
        self,
        request: Request,
        *,
        caller: str,
        trace_id: str = "",
        once: Once | None = None,
        part: Part | None = None,
        hold: Hold | None = None,
        wish: Amount = NOTHING,
    ) -> AsyncIterator[Governed]:
        """Enter only with a durable decision that lets the action run; leave with its end recorded.

        `part` is the part that the chosen upstream takes in a rollout, `wish` what the action is expected to use. With
        `hold` an action that needs people waits for them that long: approved, it is decided afresh and goes on by
        itself.

        Raises `Denied`, `ApprovalRequired` or `StoreUnavailable` instead of entering; with an idempotency key also
        `Replay` and `IdempotencyConflict`. An exception inside, or a cancellation, is recorded as the end and goes on.
        When the kill switch is thrown for it while it runs, it is cancelled and raises `Killed`.
        """
        governed = await self._entered(request, caller, trace_id, once, part, hold, wish)
        running = self._running.enter(governed.request, caller)
        try:
            yield governed
        except asyncio.CancelledError:
            detail = {"switch": running.by.id} if running.by else None
            governed.ended("cancelled", error="killed" if detail else "cancelled", detail=detail)
            if killed := running.caught():
                raise killed from None
            raise
        except BaseException as error:
            if governed.end()[0] == "ok":
                stopped = not isinstance(error, Exception)
                governed.ended("cancelled" if stopped else "failed", error=type(error).__name__)
            raise
        finally:
            running.leave()
            if governed.turn is not None:
                self._turns.close(governed.turn)
            await self._driver.run(self._end(governed))

    async def _entered(
        self,
        request: Request,
        caller: str,
        trace_id: str,
        once: Once | None,
        part: Part | None,
        hold: Hold | None,
        wish: Amount,
    ) -> Governed:
        """Begin the action, again whenever people have settled what it waited for while it is held."""
        until = monotonic() + hold.seconds if hold else 0.0
        while True:
            try:
                steps = self._begin(request, caller, trace_id, once, part, wish)
                return await self._driver.run(steps, self._abandoned)
            except ApprovalRequired as waiting:
                left = until - monotonic()
                if hold is None or left <= 0:
                    raise
                approval = await hold.settled(waiting.approval_id, left)
                if approval.state is ApprovalState.PENDING:
                    raise
                if approval.state in _REFUSED and not approval.edited_into:
                    raise _refused(waiting.decision, approval) from None
                trace_id = waiting.decision.trace_id

    def turn(self, governed: Governed) -> Turn:
        """Open a turn for an action that is running; it closes with the action."""
        if governed.turn is None:
            made, manifests = governed.decision, self._pdp.bundle.manifests
            governed.turn = self._turns.open(governed.request, made.trace_id, governed.machine.approval, manifests)
        return governed.turn

    def consider(self, request: Request, governed: Governed) -> Decision:
        """Decide about what `governed` answers. What people approved for the prompt holds for its answer."""
        asked = Asked(request, usage=self._usage(lambda: targets(governed.request, governed.caller)))
        return self._pdp.decide(asked, trace_id=governed.decision.trace_id, discharged=governed.machine.approval)

    async def note(
        self, request: Request, made: Decision, governed: Governed, *, redactions: Mapping[str, int]
    ) -> None:
        """Record a decision that `consider` made; raises `StoreUnavailable`."""
        await self._driver.run(self._note(request, made, governed, redactions))

    async def propose(self, request: Request, *, caller: str) -> Decision:
        """Decide and record a tool call that is answered to a turn, unless it was asked about in that turn."""
        request = nameable(request)
        asked = self._pdp.resolve(request)
        known = asked.turn.take(asked.request) if asked.turn else None
        if known is not None:
            return known
        return await self._driver.run(self._ask(request, caller, "", None, ANY, answered=True))

    def _abandoned(self, governed: Governed) -> Steps[None]:
        """The start stands and nobody is there to run it."""
        governed.ended("cancelled", error="cancelled")
        governed.never_ran()
        yield from self._end(governed)

    @contextmanager
    def action_sync(
        self, request: Request, *, caller: str, trace_id: str = "", once: Once | None = None
    ) -> Iterator[Governed]:
        """`action` for code without an event loop."""
        governed = wait(self._begin(request, caller, trace_id, once))
        try:
            yield governed
        except BaseException as error:
            cancelled = not isinstance(error, Exception)
            governed.ended("cancelled" if cancelled else "failed", error=type(error).__name__)
            raise
        finally:
            wait(self._end(governed))

    async def evaluate(
        self,
        request: Request,
        *,
        caller: str,
        trace_id: str = "",
        once: Once | None = None,
        supported_obligations: object = ANY,
    ) -> Decision:
        """Decide and record for an enforcement point that runs the action itself.

        One that cannot carry out the obligations is denied, and no approval is spent. Under an idempotency key an
        answer that lets the action run is given again as it was; any other is made afresh.
        """
        try:
            return await self._driver.run(self._ask(request, caller, trace_id, once, supported_obligations))
        except Replay as before:
            return msgspec.json.decode(before.answer, type=Decision)

    def evaluate_sync(
        self,
        request: Request,
        *,
        caller: str,
        trace_id: str = "",
        once: Once | None = None,
        supported_obligations: object = ANY,
    ) -> Decision:
        """`evaluate` for code without an event loop."""
        try:
            return wait(self._ask(request, caller, trace_id, once, supported_obligations))
        except Replay as before:
            return msgspec.json.decode(before.answer, type=Decision)

    def _note(self, request: Request, made: Decision, governed: Governed, redactions: Mapping[str, int]) -> Steps[None]:
        payload = self._sealer.request(Asked(request), made, governed.machine.approval, self._clock.now_us())
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
        if not isinstance((yield from self._write(Unit((draft,)), payload)), flow.Durable):
            raise StoreUnavailable("the decision about the answer could not be recorded")
        self.live.decided(made, 0)

    # --- the steps ----------------------------------------------------------------------------------------------

    def _begin(
        self,
        request: Request,
        caller: str,
        trace_id: str,
        once: Once | None = None,
        part: Part | None = None,
        wish: Amount = NOTHING,
    ) -> Steps[Governed]:
        asking = self._asking(flow.Mode.RUN, request, caller, trace_id, once, part=part, wish=wish)
        command = yield from self._until_settled(asking)
        decision = decision_of(asking.machine)
        match command:
            case flow.Execute():
                return asking.governed()
            case flow.AskPeople(approval=approval):
                raise ApprovalRequired(
                    f"{_reason(decision)}; {approval.requirement} must approve it",
                    decision=decision,
                    approval_id=approval.id,
                    hint=f"send the same request again after `checkrein approvals approve {approval.id}`",
                )
            case flow.Deny():
                hints = [advice.text for advice in decision.advice]
                hints += [f"try again in {decision.retry_after_s} s"] if decision.retry_after_s else []
                raise Denied(_reason(decision), decision=decision, hint="; ".join(hints))
        raise StoreUnavailable(
            "the action was not run because it could not be recorded",
            hint="`checkrein doctor` says what is wrong with the store",
        )

    def _ask(
        self,
        request: Request,
        caller: str,
        trace_id: str,
        once: Once | None,
        supported: object,
        *,
        answered: bool = False,
    ) -> Steps[Decision]:
        asking = self._asking(flow.Mode.ASK, request, caller, trace_id, once, supported)
        asking.metered = not answered  # whoever runs what is answered asks for that
        command = yield from self._until_settled(asking)
        if isinstance(command, flow.Fail):
            raise StoreUnavailable(
                "no decision was given because it could not be recorded",
                hint="`checkrein doctor` says what is wrong with the store",
            )
        made, turn = decision_of(asking.machine), asking.asked.turn
        if turn and made.outcome.runs and not answered:
            turn.decided(asking.asked.request, made)
        return made

    def _asking(
        self,
        mode: flow.Mode,
        request: Request,
        caller: str,
        trace_id: str,
        once: Once | None,
        supported: object = ANY,
        part: Part | None = None,
        wish: Amount = NOTHING,
    ) -> Asking:
        claim = self.idempotency.claim(once) if once else None
        asked = msgspec.structs.replace(self._pdp.resolve(request), part=part)
        return Asking(flow.ActionFlow(mode), asked, caller, trace_id, claim, supported, wish)

    def _until_settled(self, asking: Asking) -> Steps[flow.Command]:
        """Decide and record until the machine says what to tell the caller."""
        machine, claim = asking.machine, asking.claim
        command = machine.handle(flow.Submitted())
        while isinstance(command, flow.Decide | flow.Record):
            if isinstance(command, flow.Decide):
                killed = self._killswitch.killed()
                switch = barring(killed, asking.targets) if killed else None
                asking.barred = switch.barred() if switch else asking.exceeded
                if claim and not switch:  # what is killed gets no answer of before either
                    claim.look()
                command = machine.handle(self._decide(asking, command))
                continue
            machine.decision = self._with_handle(machine)
            try:
                command = machine.handle((yield from self._record(asking, command)))
            except Unsealed:
                yield from self._call_off(asking)
                return flow.Fail()
        if claim and not isinstance(command, flow.Execute):
            claim.over()
        return command

    def _call_off(self, asking: Asking) -> Steps[None]:
        """The record stands but a payload does not: nothing runs, and a start that is recorded gets its end."""
        with contextlib.suppress(StoreUnavailable):  # then recovery writes `execution.unknown`, and the key stays taken
            if isinstance(asking.machine.handle(flow.Durable()), flow.Execute):
                governed = asking.governed()
                governed.ended("cancelled", error="payload_unavailable")
                governed.never_ran()
                yield from self._end(governed)
            elif asking.claim and decision_of(asking.machine).outcome.runs:
                yield from self._write(Unit(saves=(asking.claim.released(),)))
                asking.claim.over()

    def _decide(self, asking: Asking, command: flow.Decide) -> flow.Decided:
        begun = perf_counter_ns()
        asked = asking.asked = _as_agreed(asking.sent, command.discharged)
        now_us = asking.now_us = self._clock.now_us()
        weighed = msgspec.structs.replace(asked, usage=self._usage(lambda: asking.targets))
        if asking.barred:
            decision = self._pdp.refuse(weighed, asking.barred, trace_id=asking.trace_id, now_us=now_us)
        else:
            decision = self._pdp.decide(
                weighed,
                trace_id=asking.trace_id,
                discharged=command.discharged,
                now_us=now_us,
                supported=asking.supported,
            )
        asking.discharged, asking.trace_id = command.discharged, decision.trace_id
        asking.placeholders = Placeholders()
        asking.clean = self._redact(asked.request, decision, asking.placeholders)
        asking.counts = dict(asking.placeholders.counts)
        asking.latency_us += (perf_counter_ns() - begun) // 1000
        spares = UNSUPPORTED in decision.reasons or bool(decision.code)
        if decision.outcome.runs or spares or (command.discharged and decision.outcome is Outcome.DENY):
            return flow.Decided(decision=decision, now_us=now_us, spares=spares)
        match = self._standing(asked.request, decision, tried=command.discharged is not None)
        if decision.outcome is Outcome.DENY:
            dead = self._grants.outdated(asked.request, decision)
            return flow.Decided(decision=decision, now_us=now_us, match=match, grant=dead)
        agreed = match if match and match.state is ApprovalState.APPROVED else None
        other = agreed and agreed.action_hash != asked.request.action_hash(decision.bundle)
        if agreed and other and asking.machine.mode is flow.Mode.ASK:
            return flow.Decided(decision=_edited(decision, agreed), now_us=now_us, spares=True)
        fresh = self._approvals.fresh(asked.request, decision, now_us, caller=asking.caller)
        grant = None if command.discharged else self._grants.find(asked.request, decision, now_us)
        return flow.Decided(decision=decision, now_us=now_us, match=match, fresh=fresh, grant=grant)

    def _usage(self, those: Callable[[], tuple[Target, ...]]) -> Usage:
        """What those who act have used; it is not looked up for policies that do not ask for it."""
        return self._limits.usage(those()) if self._pdp.asks_usage else Usage()

    def _standing(self, request: Request, decision: Decision, *, tried: bool) -> Approval | None:
        """The live approval of this action, or the one it was edited into; `tried` if an approved one did not do."""
        try:
            action_hash = request.action_hash(decision.bundle)
        except ValueError:  # a denial says so; nobody can have approved what has no hash
            if decision.outcome is Outcome.DENY:
                return None
            raise
        states = () if tried else (ApprovalState.APPROVED,)
        if decision.outcome is Outcome.REQUIRE_REVIEW:
            states = (*states, ApprovalState.PENDING)
        match = self._approvals.match(action_hash, states)
        return match if match or tried else self._approvals.edited(action_hash, decision.bundle)

    def _redact(self, request: Request, decision: Decision, placeholders: Placeholders) -> Request:
        if decision.outcome is not Outcome.ALLOW_WITH_REDACTION:
            return request
        detectors = self._pdp.detectors(request, decision)
        clean = redact_json(request.action.input, decision.redact, placeholders, detectors=detectors)
        properties = {**request.action.properties, "input": clean}
        action = msgspec.structs.replace(request.action, properties=properties)
        return msgspec.structs.replace(request, action=action)

    def _with_handle(self, machine: flow.ActionFlow) -> Decision:
        """The decision as answered and recorded: with the approval it opened, joined or spent."""
        decision = decision_of(machine)
        if machine.approval is None:
            return decision
        return msgspec.structs.replace(
            decision,
            approval_id=machine.approval.id,
            approval_expires_at=stamp(machine.approval.deadline_us),
        )

    def _record(self, asking: Asking, command: flow.Record) -> Steps[flow.Event]:
        """Write what must be durable before the caller hears anything; raises `Unsealed`."""
        machine, request, now_us = asking.machine, asking.asked.request, asking.now_us
        made = decision_of(machine)
        payload = self._sealer.request(asking.asked, made, asking.discharged, now_us)
        saves = [save(approval) for approval in command.approvals]
        saves += [grants.save(command.grant)] if command.grant else []
        answer: Payload | None = None
        if asking.claim and made.outcome.runs:
            if machine.mode is flow.Mode.ASK:  # the decision is all that is done here
                answer = self._sealer.answer(request, made, msgspec.json.encode(made), now_us)
                if not (yield from self._sealed(answer)):
                    return flow.Refused()
            saves.append(asking.claim.taken(made, payload.subject, now_us, answer=answer.id if answer else ""))
        moves: tuple[Move, ...] = ()
        every = self._pdp.asks_usage
        if made.outcome.runs and asking.metered and (every or self._limits.quotas):
            moves, asking.reservation = self._limits.reserve(
                asking.targets, asking.wish, now_us, runs=machine.mode is flow.Mode.RUN, every=every
            )
        drafts: list[Draft] = []
        for kind in command.kinds:
            if kind == "decision":
                drafts.append(
                    records.decision(
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
                )
            elif kind == "execution.started":
                drafts.append(records.started(asking.clean, made, owner=self._owner, reserved=asking.reservation))
            elif command.grant and kind.startswith("approval.grant_"):
                drafts.append(records.grant(kind, command.grant, trace_id=made.trace_id, key=self._key))
            else:
                drafts.append(records.approval(kind, _meant(kind, command), key=self._key))
        event = yield from self._write(Unit(tuple(drafts), tuple(saves), moves), payload, asking)
        if "decision" in command.kinds and isinstance(event, flow.Durable):
            self.live.decided(made, asking.latency_us)
        if answer and not isinstance(event, flow.Durable):
            self._sealer.discard(answer)
        return event

    def _sealed(self, answer: Payload) -> Steps[bool]:
        """Whether an answer is kept. It comes before the row that names it, which others may read at once."""
        try:
            yield self._sealer.seal(answer)
        except StoreUnavailable:
            return False
        return True

    def _write(self, unit: Unit, payload: Payload | None = None, asking: Asking | None = None) -> Steps[flow.Event]:
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

    def _end(self, governed: Governed) -> Steps[None]:
        try:
            yield from self._record_end(governed)
        finally:
            if governed.claim:
                governed.claim.over()

    def _record_end(self, governed: Governed) -> Steps[None]:
        status, error, detail = governed.end()
        request, made, now_us = governed.request, governed.decision, self._clock.now_us()
        payload = answer = None
        if governed.result and self.keeps_results:
            payload = self._sealer.result(request, made, governed.result, now_us)
        if governed.reply and governed.claim:
            answer = self._sealer.answer(request, made, governed.reply, now_us)
            if not (yield from self._sealed(answer)):
                answer = None
        command = governed.machine.handle(flow.Ended(status, now_us))
        if not isinstance(command, flow.Record):
            raise flow.IllegalEvent("the end of an execution must be recorded")
        drafts = [
            records.finished(
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
            if kind == "execution.finished"
            else records.approval(kind, _meant(kind, command), key=self._key)
            for kind in command.kinds
        ]
        saves = [save(approval) for approval in command.approvals]
        if governed.claim:
            ended = governed.claim.ended(answer.id if answer else "") if governed.ran else governed.claim.released()
            saves.append(ended)
        moves: tuple[Move, ...] = ()
        if held := governed.reservation:
            moves = settled(held, (governed.used or held.amount) if governed.ran else NOTHING, now_us)
        unit = Unit(tuple(drafts), tuple(saves), moves)
        try:
            event = yield from self._write(unit, payload)
            if isinstance(event, flow.Durable):
                self.live.ended(status)
            command = governed.machine.handle(event)
        except Unsealed as error:
            raise StoreUnavailable("the action ran but its result could not be kept", hint=error.hint) from error
        if isinstance(command, flow.Fail):
            raise StoreUnavailable(
                "the action ran but its end could not be recorded",
                hint="it stands as started in the ledger and becomes `execution.unknown`; check what it did",
            )


#: why an approval that ended so lets nothing run
_REFUSED = {
    ApprovalState.DENIED: "denied by the people who were asked",
    ApprovalState.EXPIRED: "nobody approved it in time",
    ApprovalState.CANCELLED: "the approval was withdrawn",
}
#: the state of the approval that a record is about
_STATES = {
    "approval.requested": ApprovalState.PENDING,
    "approval.cancelled": ApprovalState.CANCELLED,
    "approval.used": ApprovalState.USED,
}


def _meant(kind: str, command: flow.Record) -> Approval:
    """The approval of the command that a record of this kind is about."""
    return next(approval for approval in command.approvals if approval.state is _STATES[kind])


def _as_agreed(sent: Asked, discharged: Discharge | None) -> Asked:
    """What is to run: the action that came in, or the one that people edited it into and agreed to."""
    if not isinstance(discharged, Approval) or not discharged.edits:
        return sent
    return msgspec.structs.replace(
        sent, request=msgspec.structs.replace(sent.request, action=discharged.request().action)
    )


def _edited(decision: Decision, approval: Approval) -> Decision:
    """Who runs the action themselves would run it as they sent it, which is not what people agreed to."""
    return msgspec.structs.replace(
        decision,
        outcome=Outcome.DENY,
        requirement=None,
        reasons=("people agreed to other arguments",),
        advice=(Advice("edited", f"send the action as approval `{approval.id}` shows it"),),
    )


def _refused(decision: Decision, approval: Approval) -> Denied:
    """What the caller of a held action is told when people did not let it run."""
    said = tuple(cast.reason for cast in approval.votes if not cast.approve and cast.reason)
    reasons = (_REFUSED[approval.state], *said)
    hints = [advice.text for advice in decision.advice]
    denied = msgspec.structs.replace(decision, outcome=Outcome.DENY, reasons=reasons, requirement=None)
    return Denied("; ".join(reasons), decision=denied, hint="; ".join(hints))


def _reason(decision: Decision) -> str:
    return "; ".join(decision.reasons) or "policy does not allow it"
