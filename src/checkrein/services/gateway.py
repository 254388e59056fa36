"""Runs one governed action: decide, record durably, execute, record the end.

`flow.action` says what comes next and this module does it against the store and the PDP. The steps are written
once, as generators that yield the futures of durable writes: `deciding` decides, `recording` writes, and
`services.steps` drives them, from asyncio or from an ordinary thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from time import monotonic

import msgspec

from checkrein.decide.detect import Detectors
from checkrein.decide.names import nameable
from checkrein.decide.redact import Placeholders
from checkrein.flow import action as flow
from checkrein.flow.approval import Approval
from checkrein.flow.approval import State as ApprovalState
from checkrein.flow.quota import Amount
from checkrein.model import (
    ApprovalRequired,
    Decision,
    Denied,
    Outcome,
    Request,
    StoreUnavailable,
)
from checkrein.model.stamp import stamp
from checkrein.model.target import targets
from checkrein.ports import Clock, Store, Unit
from checkrein.services import grants
from checkrein.services.approvals import Approvals
from checkrein.services.deciding import Deciding
from checkrein.services.governed import NO_VALUES, Asking, Execution, Governed, decision_of
from checkrein.services.idempotency import Idempotency, Once, Replay
from checkrein.services.killswitch import KillSwitch, Running, barring
from checkrein.services.limits import Limits
from checkrein.services.live import Live
from checkrein.services.payloads import Sealer
from checkrein.services.pdp import ANY, Asked, Part, Pdp
from checkrein.services.recording import NOTHING, Recording
from checkrein.services.spans import NOBODY, Spans, TraceParent
from checkrein.services.steps import Driver, Steps, wait
from checkrein.services.turns import TURN, Turn, Turns
from checkrein.services.waiting import Hold
from checkrein.services.writes import Unsealed


class Gateway:
    """The one way through. `owner` marks this process in `execution.started`, for recovery after a crash.

    With `restores`, values that were taken out of a prompt are put back into its answer.
    """

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
        spans: Spans,
        restores: bool = False,
    ) -> None:
        self.spans = spans
        self._restores = restores
        self._pdp = pdp
        self._sealer = sealer
        self._turns = turns
        self.idempotency = idempotency
        self._killswitch = killswitch
        self._running = Running(killswitch)
        self.live = Live()
        self._driver = Driver()
        self._deciding = Deciding(pdp, approvals, grants.Grants(store, clock, key), limits, clock)
        self._recording = Recording(
            store,
            sealer,
            limits,
            clock,
            key=key,
            owner=owner,
            live=self.live,
            asks_usage=lambda: pdp.asks_usage,
        )

    # --- what connectors call -----------------------------------------------------------------------------------

    @property
    def keeps_results(self) -> bool:
        """Whether it is worth to hand over what an execution answered."""
        return self._sealer.keeps_results

    def action(
        self,
        request: Request,
        *,
        caller: str,
        parent: TraceParent = NOBODY,
        once: Once | None = None,
        arm: Callable[[], Part | None] = lambda: None,
        hold: Hold | None = None,
        wish: Callable[[], Amount] = lambda: NOTHING,
    ) -> AbstractAsyncContextManager[Governed]:
        """Enter only with a durable decision that lets the action run; leave with its end recorded.

        `arm` chooses an upstream and says which part it takes in a rollout, anew for each decision: a rollout may go
        back while people are asked. `wish` tells what the action is expected to use. With `hold` an action that needs
        people waits for them that long: approved, it is decided afresh and goes on by itself.

        Raises `Denied`, `ApprovalRequired` or `StoreUnavailable` instead of entering; with an idempotency key also
        `Replay` and `IdempotencyConflict`. An exception inside, or a cancellation, is recorded as the end and goes on.
        When the kill switch is thrown for it while it runs, it is cancelled and raises `Killed`.
        """
        entered = self._entered(request, caller, parent, once, arm, hold, wish)
        return Execution(entered, self._running, self._turns, lambda governed: self._driver.run(self._end(governed)))

    async def _entered(
        self,
        request: Request,
        caller: str,
        parent: TraceParent,
        once: Once | None,
        arm: Callable[[], Part | None],
        hold: Hold | None,
        wish: Callable[[], Amount],
    ) -> Governed:
        """Begin the action, again whenever people have settled what it waited for while it is held."""
        until = monotonic() + hold.seconds if hold else 0.0
        while True:
            try:
                steps = self._begin(request, caller, parent, once, arm(), wish)
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
                parent = parent if parent.trace_id else TraceParent(waiting.decision.trace_id)

    def turn(self, governed: Governed) -> Turn:
        """Open a turn for an action that is running; it closes with the action."""
        if governed.turn is None:
            made, manifests = governed.decision, self._pdp.bundle.manifests
            sent = governed.sent if len(self.taken(governed)) else None
            governed.turn = self._turns.open(
                governed.request, made.trace_id, governed.machine.approval, manifests, sent
            )
            governed.turn.context = governed.context
        return governed.turn

    def taken(self, governed: Governed) -> Placeholders:
        """The values that were taken out of a prompt and are put back into its answer.

        None for an agent gateway: its tool calls are decided when it asks, and hold what its model said.
        """
        return governed.taken if self._restores and governed.request.subject.type != TURN else NO_VALUES

    def consider(self, request: Request, governed: Governed) -> Decision:
        """Decide about what comes back of `governed`. What people approved for an action holds for that too."""
        asked = Asked(request, usage=self._deciding.usage(lambda: targets(governed.request, governed.caller)))
        return self._pdp.decide(asked, trace_id=governed.decision.trace_id, discharged=governed.discharged)

    def redacted(self, request: Request, made: Decision, placeholders: Placeholders) -> object:
        """The arguments of an action that was decided so, as they may leave; the very same ones if nothing is taken."""
        return self._pdp.redacted(request, made, placeholders)

    def detectors(self, request: Request, made: Decision) -> Detectors:
        """What finds personal data in an action and in what comes of it, by the version that decided it."""
        return self._pdp.detectors(request, made)

    async def note(
        self, request: Request, made: Decision, governed: Governed, *, redactions: Mapping[str, int]
    ) -> None:
        """Record a decision that `consider` made; raises `StoreUnavailable`."""
        await self._driver.run(self._recording.note(request, made, governed, redactions))

    def note_sync(self, request: Request, made: Decision, governed: Governed, *, redactions: Mapping[str, int]) -> None:
        """`note` for code without an event loop."""
        wait(self._recording.note(request, made, governed, redactions))

    async def propose(self, request: Request, *, caller: str) -> Decision:
        """Decide and record a tool call that is answered to a turn, unless it was asked about in that turn."""
        request = nameable(request)
        asked = self._pdp.resolve(request)
        known = asked.turn.take(asked.request) if asked.turn else None
        if known is not None:
            return known
        return await self._driver.run(self._ask(request, caller, NOBODY, None, ANY, answered=True))

    def _abandoned(self, governed: Governed) -> Steps[None]:
        """The start stands and nobody is there to run it."""
        governed.ended("cancelled", error="cancelled")
        governed.never_ran()
        yield from self._end(governed)

    @contextmanager
    def action_sync(
        self, request: Request, *, caller: str, parent: TraceParent = NOBODY, once: Once | None = None
    ) -> Iterator[Governed]:
        """`action` for code without an event loop."""
        governed = wait(self._begin(request, caller, parent, once))
        try:
            yield governed
        except BaseException as error:
            if governed.end()[0] == "ok":
                stopped = not isinstance(error, Exception)
                governed.ended("cancelled" if stopped else "failed", error=type(error).__name__)
            raise
        finally:
            wait(self._end(governed))

    async def evaluate(
        self,
        request: Request,
        *,
        caller: str,
        parent: TraceParent = NOBODY,
        once: Once | None = None,
        supported_obligations: object = ANY,
    ) -> Decision:
        """Decide and record for an enforcement point that runs the action itself.

        One that cannot carry out the obligations is denied, and no approval is spent. Under an idempotency key an
        answer that lets the action run is given again as it was; any other is made afresh.
        """
        try:
            return await self._driver.run(self._ask(request, caller, parent, once, supported_obligations))
        except Replay as before:
            return msgspec.json.decode(before.answer, type=Decision)

    def evaluate_sync(
        self,
        request: Request,
        *,
        caller: str,
        parent: TraceParent = NOBODY,
        once: Once | None = None,
        supported_obligations: object = ANY,
    ) -> Decision:
        """`evaluate` for code without an event loop."""
        try:
            return wait(self._ask(request, caller, parent, once, supported_obligations))
        except Replay as before:
            return msgspec.json.decode(before.answer, type=Decision)

    # --- the steps ----------------------------------------------------------------------------------------------

    def _begin(
        self,
        request: Request,
        caller: str,
        parent: TraceParent,
        once: Once | None = None,
        part: Part | None = None,
        wish: Callable[[], Amount] = lambda: NOTHING,
    ) -> Steps[Governed]:
        asking = self._asking(flow.Mode.RUN, request, caller, parent, once, part=part, wish=wish)
        command = yield from self._until_settled(asking)
        decision = decision_of(asking.machine)
        if not isinstance(command, flow.Execute):
            asking.span.end()
        match command:
            case flow.Execute():
                return Governed(asking)
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
        parent: TraceParent,
        once: Once | None,
        supported: object,
        *,
        answered: bool = False,
    ) -> Steps[Decision]:
        asking = self._asking(flow.Mode.ASK, request, caller, parent, once, supported)
        asking.metered = not answered  # whoever runs what is answered asks for that
        command = yield from self._until_settled(asking)
        asking.span.end()
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
        parent: TraceParent,
        once: Once | None,
        supported: object = ANY,
        part: Part | None = None,
        wish: Callable[[], Amount] = lambda: NOTHING,
    ) -> Asking:
        claim = self.idempotency.claim(once) if once else None
        asked = self._pdp.resolve(request)
        if part is not None:
            asked = msgspec.structs.replace(asked, part=part)
        span = self.spans.begin(parent)
        if asked.turn:
            span.under(asked.turn.context)
        return Asking(flow.ActionFlow(mode), asked, caller, parent.trace_id, claim, supported, wish, span)

    def _until_settled(self, asking: Asking) -> Steps[flow.Command]:
        """Decide and record until the machine says what to tell the caller."""
        machine, claim = asking.machine, asking.claim
        command = machine.handle(flow.Submitted())
        while True:
            if isinstance(command, flow.Decide):
                killed = self._killswitch.killed()
                switch = barring(killed, asking.targets) if killed else None
                asking.barred = switch.barred() if switch else asking.exceeded
                if claim and not switch:  # what is killed gets no answer of before either
                    claim.look()
                command = machine.handle(self._deciding.decide(asking, command))
            elif isinstance(command, flow.Record):
                machine.decision = self._with_handle(machine)
                try:
                    command = machine.handle((yield from self._recording.record(asking, command)))
                except Unsealed:
                    yield from self._call_off(asking)
                    return flow.Fail()
            else:
                break
        if claim and not isinstance(command, flow.Execute):
            claim.over()
        return command

    def _call_off(self, asking: Asking) -> Steps[None]:
        """The record stands but a payload does not: nothing runs, and a start that is recorded gets its end."""
        with contextlib.suppress(StoreUnavailable):  # then recovery writes `execution.unknown`, and the key stays taken
            if isinstance(asking.machine.handle(flow.Durable()), flow.Execute):
                governed = Governed(asking)
                governed.ended("cancelled", error="payload_unavailable")
                governed.never_ran()
                yield from self._end(governed)
            elif asking.claim and decision_of(asking.machine).outcome.runs:
                yield from self._recording.write(Unit(saves=(asking.claim.released(),)))
                asking.claim.over()

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

    def _end(self, governed: Governed) -> Steps[None]:
        try:
            yield from self._recording.end(governed)
        finally:
            if governed.claim:
                governed.claim.over()


#: why an approval that ended so lets nothing run
_REFUSED = {
    ApprovalState.DENIED: "denied by the people who were asked",
    ApprovalState.EXPIRED: "nobody approved it in time",
    ApprovalState.CANCELLED: "the approval was withdrawn",
}


def _refused(decision: Decision, approval: Approval) -> Denied:
    """What the caller of a held action is told when people did not let it run."""
    said = tuple(cast.reason for cast in approval.votes if not cast.approve and cast.reason)
    reasons = (_REFUSED[approval.state], *said)
    hints = [advice.text for advice in decision.advice]
    denied = msgspec.structs.replace(decision, outcome=Outcome.DENY, reasons=reasons, requirement=None)
    return Denied("; ".join(reasons), decision=denied, hint="; ".join(hints))


def _reason(decision: Decision) -> str:
    return "; ".join(decision.reasons) or "policy does not allow it"
