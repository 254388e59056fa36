"""One action under way: on its way to a decision (`Asking`), let through (`Governed`), carried out (`Execution`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property
from time import perf_counter_ns
from types import TracebackType

from checkrein.decide.redact import Placeholders
from checkrein.flow import action as flow
from checkrein.flow.grant import Discharge
from checkrein.flow.quota import Amount, Reservation
from checkrein.model import Decision, Killed, Outcome, Request
from checkrein.model.json import JsonObject
from checkrein.model.target import Target, targets
from checkrein.services.idempotency import Claim
from checkrein.services.killswitch import Running
from checkrein.services.payloads import MAX_ANSWER_BYTES, MAX_RESULT_BYTES
from checkrein.services.pdp import Asked, Barred
from checkrein.services.spans import OpenSpan, TraceParent
from checkrein.services.turns import Turn, Turns

#: of an action out of which nothing was taken
NO_VALUES = Placeholders()


class Governed:
    """An action that may run: what exactly to run, and how to say how it ended."""

    def __init__(self, asking: Asking) -> None:
        #: the action as it may leave: redacted where policy says so. Run this, not what came in.
        self.request = asking.clean
        self.decision = decision_of(asking.machine)
        self.machine = asking.machine
        self.span = asking.span
        #: what people agreed to, if it rests on that: it holds for what comes back too
        self.discharged = asking.agreed()
        #: the key or channel that asked
        self.caller = asking.caller
        #: set by `Gateway.turn`, for an upstream that asks about its own tool calls
        self.turn: Turn | None = None
        #: the idempotency key this runs under
        self.claim = asking.claim
        #: what the execution answered: see `answered`
        self.result = b""
        #: what the caller is told: see `replies`
        self.reply = b""
        #: whether people edited the arguments before they agreed
        self.edited = asking.asked is not asking.sent
        #: what it holds of its limits, and what it used: see `consumed`
        self.reservation = asking.reservation
        self.used: Amount | None = None
        #: False when it is certain that the action did not even begin
        self.ran = True
        #: the values that were taken out of the action, for its answer to take them out the same
        self.placeholders = asking.placeholders
        #: the action as it came in, and those of the values that were taken out of it
        self.sent = asking.asked.request
        self.taken = self.placeholders.copy() if len(self.placeholders) else NO_VALUES
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

    #: the values that the last decision took out
    placeholders: Placeholders

    def __init__(
        self,
        machine: flow.ActionFlow,
        asked: Asked,
        caller: str,
        trace_id: str,
        claim: Claim | None,
        supported: object,
        wish: Callable[[], Amount],
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
        #: tells what it is expected to use; what it holds of that, and the limit that refused it
        self.wish = wish
        self.reservation: Reservation | None = None
        self.exceeded: Barred | None = None
        #: the action as it may leave, and how much was redacted in it, by class
        self.clean: Request = asked.request
        self.counts: dict[str, int] = {}

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """What switches and limits may be about."""
        return targets(self.sent.request, self.caller)

    def agreed(self) -> Discharge | None:
        """What people agreed to for this action, or for the turn that it was let through under."""
        turn, made = self.asked.turn, decision_of(self.machine)
        under = turn.approval if turn else None
        return under if under and under.id == made.approval_id else self.discharged


class Execution:
    """An action in the event loop, from its decision to the record of its end; see `Gateway.action`."""

    def __init__(
        self,
        entered: Awaitable[Governed],
        running: Running,
        turns: Turns,
        end: Callable[[Governed], Awaitable[None]],
    ) -> None:
        self._entered, self._running, self._turns, self._end = entered, running, turns, end

    async def __aenter__(self) -> Governed:
        self._governed = governed = await self._entered
        self._cuttable = self._running.enter(governed.request, governed.caller)
        return governed

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        governed, cuttable = self._governed, self._cuttable
        killed: Killed | None = None
        if isinstance(error, asyncio.CancelledError):
            detail = {"switch": cuttable.by.id} if cuttable.by else None
            governed.ended("cancelled", error="killed" if detail else "cancelled", detail=detail)
            killed = cuttable.caught()
        elif error is not None and governed.end()[0] == "ok":
            stopped = not isinstance(error, Exception)
            governed.ended("cancelled" if stopped else "failed", error=type(error).__name__)
        cuttable.leave()
        if governed.turn is not None:
            self._turns.close(governed.turn)
        await self._end(governed)
        if killed is not None:
            raise killed from None


def decision_of(machine: flow.ActionFlow) -> Decision:
    if machine.decision is None:
        raise flow.IllegalEvent("no decision was made")
    return machine.decision
