"""Runs one governed action: decide, record durably, execute, record the end.

`flow.action` says what comes next and this module does it against the store and the PDP. The steps are written
once, as a generator that yields the futures of durable writes; `Gateway` drives it from asyncio, `wait` from
ordinary threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter_ns
from typing import TypeVar

import msgspec

from checkrein.decide.redact import Placeholders, redact_json
from checkrein.flow import action as flow
from checkrein.flow.approval import Approval
from checkrein.flow.approval import State as ApprovalState
from checkrein.ledger import Draft, Record
from checkrein.model import (
    ApprovalRequired,
    Decision,
    Denied,
    Outcome,
    Request,
    StoreConflict,
    StoreUnavailable,
)
from checkrein.model.json import JsonObject
from checkrein.model.stamp import stamp
from checkrein.ports import Clock, Payload, Store, Unit
from checkrein.services import records
from checkrein.services.approvals import Approvals, save
from checkrein.services.payloads import MAX_RESULT_BYTES, Sealer
from checkrein.services.pdp import Asked, Part, Pdp
from checkrein.services.turns import Turn, Turns
from checkrein.services.writes import Unsealed, landed, together

T = TypeVar("T")
#: the steps of an action: yields the future of each durable write, is sent its records
Steps = Generator["Future[tuple[Record, ...]]", "tuple[Record, ...]", T]


class Governed:
    """An action that may run: what exactly to run, and how to say how it ended."""

    def __init__(self, request: Request, decision: Decision, machine: flow.ActionFlow) -> None:
        #: the action as it may leave: redacted where policy says so. Run this, not what came in.
        self.request = request
        self.decision = decision
        self.machine = machine
        #: set by `Gateway.turn`, for an upstream that asks about its own tool calls
        self.turn: Turn | None = None
        #: what the execution answered, if it is to be kept: see `answered`
        self.result = b""
        self._begun = perf_counter_ns()
        self._status = "ok"
        self._error = ""
        self._detail: dict[str, object] = {}

    @property
    def redacted(self) -> bool:
        return self.decision.outcome is Outcome.ALLOW_WITH_REDACTION

    def ended(self, status: str, *, error: str = "", detail: JsonObject | None = None) -> None:
        """Say how the execution ended: `ok`, `failed` or `cancelled`; `error` is a type, never a message."""
        self._status, self._error = status, error
        self._detail = dict(detail or {})

    def answered(self, result: bytes) -> None:
        """Keep the result, sealed beside the ledger, unless it is longer than `MAX_RESULT_BYTES`."""
        self.result = result if len(result) <= MAX_RESULT_BYTES else b""

    def lasted_us(self) -> int:
        """Microseconds since the action was let through."""
        return (perf_counter_ns() - self._begun) // 1000

    def end(self) -> tuple[str, str, dict[str, object]]:
        return self._status, self._error, self._detail


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
    ) -> None:
        self._store = store
        self._pdp = pdp
        self._approvals = approvals
        self._sealer = sealer
        self._clock = clock
        self._key = key
        self._owner = owner
        self._turns = turns
        self._tasks: set[asyncio.Future[None]] = set()

    # --- what connectors call -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def action(
        self, request: Request, *, caller: str, trace_id: str = "", part: Part | None = None
    ) -> AsyncIterator[Governed]:
        """Enter only with a durable decision that lets the action run; leave with its end recorded.

        `part` is the part that the chosen upstream takes in a rollout.

        Raises `Denied`, `ApprovalRequired` or `StoreUnavailable` instead of entering. An exception inside, or a
        cancellation, is recorded as the end and goes on.
        """
        governed = await self._entered(request, caller, trace_id, part)
        try:
            yield governed
        except asyncio.CancelledError:
            governed.ended("cancelled", error="cancelled")
            raise
        except BaseException as error:
            if governed.end()[0] == "ok":
                stopped = not isinstance(error, Exception)
                governed.ended("cancelled" if stopped else "failed", error=type(error).__name__)
            raise
        finally:
            if governed.turn is not None:
                self._turns.close(governed.turn)
            await asyncio.shield(_drive(self._end(governed)))

    def turn(self, governed: Governed) -> Turn:
        """Open a turn for an action that is running; it closes with the action."""
        if governed.turn is None:
            governed.turn = self._turns.open(governed.request, governed.decision.trace_id, governed.machine.approval)
        return governed.turn

    async def _entered(self, request: Request, caller: str, trace_id: str, part: Part | None) -> Governed:
        """Begin; a caller that goes away meanwhile does not leave a start without an end."""
        begin = asyncio.ensure_future(_drive(self._begin(request, caller, trace_id, part)))
        try:
            return await asyncio.shield(begin)
        except asyncio.CancelledError:
            begin.add_done_callback(self._abandoned)
            raise

    def _abandoned(self, begun: asyncio.Future[Governed]) -> None:
        if begun.cancelled() or begun.exception() is not None:
            return
        governed = begun.result()
        governed.ended("cancelled", error="cancelled")
        task = asyncio.ensure_future(_drive(self._end(governed)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextmanager
    def action_sync(self, request: Request, *, caller: str, trace_id: str = "") -> Iterator[Governed]:
        """`action` for code without an event loop."""
        governed = wait(self._begin(request, caller, trace_id))
        try:
            yield governed
        except BaseException as error:
            cancelled = not isinstance(error, Exception)
            governed.ended("cancelled" if cancelled else "failed", error=type(error).__name__)
            raise
        finally:
            wait(self._end(governed))

    async def evaluate(self, request: Request, *, caller: str, trace_id: str = "") -> Decision:
        """Decide and record for an enforcement point that runs the action itself."""
        return await _drive(self._ask(request, caller, trace_id))

    def evaluate_sync(self, request: Request, *, caller: str, trace_id: str = "") -> Decision:
        return wait(self._ask(request, caller, trace_id))

    # --- the steps ----------------------------------------------------------------------------------------------

    def _begin(self, request: Request, caller: str, trace_id: str, part: Part | None = None) -> Steps[Governed]:
        machine = flow.ActionFlow(flow.Mode.RUN)
        asked = msgspec.structs.replace(self._pdp.resolve(request), part=part)
        command, clean = yield from self._until_settled(machine, asked, caller, trace_id)
        decision = _decision(machine)
        match command:
            case flow.Execute():
                return Governed(clean, decision, machine)
            case flow.AskPeople(approval=approval):
                raise ApprovalRequired(
                    f"{_reason(decision)}; {approval.requirement} must approve it",
                    decision=decision,
                    approval_id=approval.id,
                    hint=f"send the same request again after `checkrein approvals approve {approval.id}`",
                )
            case flow.Deny():
                hints = [advice.text for advice in decision.advice]
                raise Denied(_reason(decision), decision=decision, hint="; ".join(hints))
        raise StoreUnavailable(
            "the action was not run because it could not be recorded",
            hint="`checkrein doctor` says what is wrong with the store",
        )

    def _ask(self, request: Request, caller: str, trace_id: str) -> Steps[Decision]:
        machine = flow.ActionFlow(flow.Mode.ASK)
        asked = self._pdp.resolve(request)
        command, _ = yield from self._until_settled(machine, asked, caller, trace_id)
        if isinstance(command, flow.Fail):
            raise StoreUnavailable(
                "no decision was given because it could not be recorded",
                hint="`checkrein doctor` says what is wrong with the store",
            )
        return _decision(machine)

    def _until_settled(
        self, machine: flow.ActionFlow, asked: Asked, caller: str, trace_id: str
    ) -> Steps[tuple[flow.Command, Request]]:
        """Decide and record until the machine says what to tell the caller."""
        begun = perf_counter_ns()
        clean, counts = asked.request, dict[str, int]()
        command = machine.handle(flow.Submitted())
        while isinstance(command, flow.Decide | flow.Record):
            if isinstance(command, flow.Decide):
                discharged = command.discharged
                event = self._decide(asked, command, trace_id)
                trace_id = event.decision.trace_id
                clean, counts = self._redact(asked.request, event.decision)
                latency_us = (perf_counter_ns() - begun) // 1000
                command = machine.handle(event)
                continue
            machine.decision = self._with_handle(machine)
            payload = self._sealer.request(asked, machine.decision, discharged, event.now_us)
            unit = self._unit(machine, command, asked.request, payload, clean, caller, latency_us, counts)
            try:
                command = machine.handle((yield from self._write(unit, payload)))
            except Unsealed:
                yield from self._call_off(machine, clean)
                return flow.Fail(), clean
        return command, clean

    def _call_off(self, machine: flow.ActionFlow, clean: Request) -> Steps[None]:
        """The record stands but its payload does not: nothing runs, and a start that is recorded gets its end."""
        if not isinstance(machine.handle(flow.Durable()), flow.Execute):
            return
        governed = Governed(clean, _decision(machine), machine)
        governed.ended("cancelled", error="payload_unavailable")
        with contextlib.suppress(StoreUnavailable):  # then recovery writes `execution.unknown`
            yield from self._end(governed)

    def _decide(self, asked: Asked, command: flow.Decide, trace_id: str) -> flow.Decided:
        now_us = self._clock.now_us()
        decision = self._pdp.decide(asked, trace_id=trace_id, discharged=command.discharged, now_us=now_us)
        if decision.outcome is not Outcome.REQUIRE_REVIEW:
            return flow.Decided(decision=decision, now_us=now_us)
        states = (ApprovalState.PENDING,) if command.discharged else (ApprovalState.APPROVED, ApprovalState.PENDING)
        match = self._approvals.match(asked.request.action_hash(decision.bundle), states)
        fresh = self._approvals.fresh(asked.request, decision, now_us)
        return flow.Decided(decision=decision, now_us=now_us, match=match, fresh=fresh)

    def _redact(self, request: Request, decision: Decision) -> tuple[Request, dict[str, int]]:
        if decision.outcome is not Outcome.ALLOW_WITH_REDACTION:
            return request, {}
        placeholders = Placeholders()
        clean = redact_json(request.action.input, decision.redact, placeholders)
        properties = {**request.action.properties, "input": clean}
        action = msgspec.structs.replace(request.action, properties=properties)
        return msgspec.structs.replace(request, action=action), dict(placeholders.counts)

    def _with_handle(self, machine: flow.ActionFlow) -> Decision:
        """The decision as answered and recorded: with the approval it opened, joined or spent."""
        decision = _decision(machine)
        if machine.approval is None:
            return decision
        return msgspec.structs.replace(
            decision,
            approval_id=machine.approval.id,
            approval_expires_at=stamp(machine.approval.deadline_us),
        )

    def _unit(
        self,
        machine: flow.ActionFlow,
        command: flow.Record,
        request: Request,
        payload: Payload,
        clean: Request,
        caller: str,
        latency_us: int,
        counts: Mapping[str, int],
    ) -> Unit:
        decision = _decision(machine)
        drafts: list[Draft] = []
        for kind in command.kinds:
            if kind == "decision":
                drafts.append(
                    records.decision(
                        request,
                        decision,
                        key=self._key,
                        caller=caller,
                        mode=machine.mode.value,
                        latency_us=latency_us,
                        redactions=counts,
                        payload=payload,
                    )
                )
            elif kind == "execution.started":
                drafts.append(records.started(clean, decision, owner=self._owner))
            else:
                drafts.append(records.approval(kind, _meant(kind, command), key=self._key))
        return Unit(tuple(drafts), tuple(save(approval) for approval in command.approvals))

    def _write(self, unit: Unit, payload: Payload | None = None) -> Steps[flow.Event]:
        """Write the unit, and with it the payload; raises `Unsealed` when only the payload was refused."""
        try:
            written = self._store.commit(unit)
            yield together(written, self._sealer.seal(payload)) if payload else written
        except Unsealed:
            raise
        except (StoreConflict, StoreUnavailable) as error:
            if payload:
                self._sealer.discard(payload)
            return flow.Conflicted() if isinstance(error, StoreConflict) else flow.Refused()
        return flow.Durable()

    def _end(self, governed: Governed) -> Steps[None]:
        status, error, detail = governed.end()
        now_us, payload = self._clock.now_us(), None
        if governed.result:
            payload = self._sealer.result(governed.request, governed.decision, governed.result, now_us)
        command = governed.machine.handle(flow.Ended(status, now_us))
        if not isinstance(command, flow.Record):
            raise flow.IllegalEvent("the end of an execution must be recorded")
        drafts = [
            records.finished(
                governed.request,
                governed.decision,
                status=status,
                error=error,
                detail=detail,
                key=self._key,
                duration_us=governed.lasted_us(),
                payload=payload,
            )
            if kind == "execution.finished"
            else records.approval(kind, _meant(kind, command), key=self._key)
            for kind in command.kinds
        ]
        unit = Unit(tuple(drafts), tuple(save(approval) for approval in command.approvals))
        try:
            command = governed.machine.handle((yield from self._write(unit, payload)))
        except Unsealed as error:
            raise StoreUnavailable("the action ran but its result could not be kept", hint=error.hint) from error
        if isinstance(command, flow.Fail):
            raise StoreUnavailable(
                "the action ran but its end could not be recorded",
                hint="it stands as started in the ledger and becomes `execution.unknown`; check what it did",
            )


#: the state of the approval that a record is about
_STATES = {
    "approval.requested": ApprovalState.PENDING,
    "approval.cancelled": ApprovalState.CANCELLED,
    "approval.used": ApprovalState.USED,
}


def _meant(kind: str, command: flow.Record) -> Approval:
    """The approval of the command that a record of this kind is about."""
    return next(approval for approval in command.approvals if approval.state is _STATES[kind])


def _decision(machine: flow.ActionFlow) -> Decision:
    if machine.decision is None:
        raise flow.IllegalEvent("no decision was made")
    return machine.decision


def _reason(decision: Decision) -> str:
    return "; ".join(decision.reasons) or "policy does not allow it"


def wait(steps: Steps[T]) -> T:
    """Run the steps, waiting for each durable write in this thread."""
    try:
        future = next(steps)
        while True:
            try:
                written = future.result()
            except Exception as error:  # noqa: BLE001 - handed to the steps, which decide what it means
                future = steps.throw(error)
            else:
                future = steps.send(written)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _drive(steps: Steps[T]) -> T:
    """Run the steps, awaiting each durable write."""
    try:
        future = next(steps)
        while True:
            try:
                written = await landed(future)
            except Exception as error:  # noqa: BLE001 - handed to the steps, which decide what it means
                future = steps.throw(error)
            else:
                future = steps.send(written)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
