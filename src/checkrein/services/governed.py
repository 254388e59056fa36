"""One action under way: on its way to a decision (`Asking`), then let through (`Governed`)."""

from __future__ import annotations

from functools import cached_property
from time import perf_counter_ns

from checkrein.decide.redact import Placeholders
from checkrein.flow import action as flow
from checkrein.flow.grant import Discharge
from checkrein.flow.quota import Amount, Reservation
from checkrein.model import Decision, Outcome, Request
from checkrein.model.json import JsonObject
from checkrein.model.target import Target, targets
from checkrein.services.idempotency import Claim
from checkrein.services.payloads import MAX_ANSWER_BYTES, MAX_RESULT_BYTES
from checkrein.services.pdp import Asked, Barred
from checkrein.services.spans import OpenSpan, TraceParent
from checkrein.services.turns import Turn


class Governed:
    """An action that may run: what exactly to run, and how to say how it ended."""

    def __init__(self, request: Request, decision: Decision, machine: flow.ActionFlow, span: OpenSpan) -> None:
        #: the action as it may leave: redacted where policy says so. Run this, not what came in.
        self.request = request
        self.decision = decision
        self.machine = machine
        self.span = span
        #: what people agreed to, if it rests on that: it holds for what comes back too
        self.discharged: Discharge | None = None
        #: the key or channel that asked
        self.caller = ""
        #: set by `Gateway.turn`, for an upstream that asks about its own tool calls
        self.turn: Turn | None = None
        #: the idempotency key this runs under
        self.claim: Claim | None = None
        #: what the execution answered: see `answered`
        self.result = b""
        #: what the caller is told: see `replies`
        self.reply = b""
        #: whether people edited the arguments before they agreed
        self.edited = False
        #: what it holds of its limits, and what it used: see `consumed`
        self.reservation: Reservation | None = None
        self.used: Amount | None = None
        #: False when it is certain that the action did not even begin
        self.ran = True
        #: the values that were taken out of the action, for its answer to take them out the same
        self.placeholders = Placeholders()
        #: the action as it came in, and those of the values that were taken out of it
        self.sent, self.taken = request, Placeholders()
        self._begun = perf_counter_ns()
        self._status = "ok"
        self._error = ""
        self._detail: dict[str, object] = {}
        self._usage: dict[str, object] = {}

    @property
    def redacted(self) -> bool:
        return self.decision.outcome is Outcome.ALLOW_WITH_REDACTION

    @property
    def context(self) -> TraceParent:
        """What the action asks of others stands under its span."""
        return self.span.context(self.decision.trace_id)

    @property
    def changed(self) -> bool:
        """Whether what is to run is something else than what came in."""
        return self.redacted or self.edited

    def ended(self, status: str, *, error: str = "", detail: JsonObject | None = None) -> None:
        """Say how the execution ended: `ok`, `failed` or `cancelled`; `error` is a type, never a message."""
        self._status, self._error = status, error
        self._detail = dict(detail or {})

    def answered(self, result: bytes) -> None:
        """Keep the result, sealed beside the ledger; of one longer than `MAX_RESULT_BYTES` the beginning."""
        self.result = result[:MAX_RESULT_BYTES]

    def replies(self, reply: bytes) -> None:
        """Keep what the caller is told, for the next use of its idempotency key, unless it is very long."""
        self.reply = reply if len(reply) <= MAX_ANSWER_BYTES else b""

    def consumed(self, used: Amount, detail: JsonObject) -> None:
        """Say what it used; without, it counts for what it was expected to use. `detail` is what the end records."""
        self.used, self._usage = used, {"usage": dict(detail)}

    def never_ran(self) -> None:
        """Say that nothing of the action happened, so that its idempotency key may be used again."""
        self.ran = False

    def lasted_us(self) -> int:
        """Microseconds since the action was let through."""
        return (perf_counter_ns() - self._begun) // 1000

    def end(self) -> tuple[str, str, dict[str, object]]:
        return self._status, self._error, {**self._detail, **self._usage}


class Asking:
    """One action on its way to a decision: who asks what, and what was found out last."""

    def __init__(
        self,
        machine: flow.ActionFlow,
        asked: Asked,
        caller: str,
        trace_id: str,
        claim: Claim | None,
        supported: object,
        wish: Amount,
        span: OpenSpan,
    ) -> None:
        self.machine = machine
        self.span = span
        #: as it came in, and as it is decided and run: with the arguments that people edited it into
        self.sent = self.asked = asked
        self.caller = caller
        self.trace_id = trace_id
        self.claim = claim
        self.supported = supported
        self.now_us = 0
        self.latency_us = 0
        self.discharged: Discharge | None = None
        #: what keeps it from running, whatever policy says
        self.barred: Barred | None = None
        #: whether it counts for limits
        self.metered = True
        #: what it is expected to use, what it holds of that, and the limit that refused it
        self.wish = wish
        self.reservation: Reservation | None = None
        self.exceeded: Barred | None = None
        #: the action as it may leave, and how much was redacted in it, by class
        self.clean: Request = asked.request
        self.counts: dict[str, int] = {}
        self.placeholders = Placeholders()

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """What switches and limits may be about."""
        return targets(self.sent.request, self.caller)

    def governed(self) -> Governed:
        governed = Governed(self.clean, decision_of(self.machine), self.machine, self.span)
        governed.caller = self.caller
        governed.claim, governed.placeholders = self.claim, self.placeholders
        governed.discharged = self._agreed()
        governed.sent, governed.taken = self.asked.request, self.placeholders.copy()
        governed.edited = self.asked is not self.sent
        governed.reservation = self.reservation
        return governed

    def _agreed(self) -> Discharge | None:
        """What people agreed to for this action, or for the turn that it was let through under."""
        turn, made = self.asked.turn, decision_of(self.machine)
        under = turn.approval if turn else None
        return under if under and under.id == made.approval_id else self.discharged


def decision_of(machine: flow.ActionFlow) -> Decision:
    if machine.decision is None:
        raise flow.IllegalEvent("no decision was made")
    return machine.decision
