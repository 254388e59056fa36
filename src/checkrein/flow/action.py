"""The life of one governed action. Events in, commands out; no clock, no disk, no network.

The machine says what to do and `services.gateway` does it: decide, record durably, and only then execute. A
command that did not succeed comes back as an event, so there is no path to `Execute` that has no durable record
before it. `TRANSITIONS` is the whole life.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import msgspec

from checkrein.flow.approval import Approval, move
from checkrein.flow.approval import Event as ApprovalEvent
from checkrein.flow.approval import State as ApprovalState
from checkrein.flow.grant import Discharge, Grant, use
from checkrein.flow.grant import Event as GrantEvent
from checkrein.flow.grant import move as move_grant
from checkrein.model import CheckreinError, Decision, Outcome

#: how often a decision is made anew because somebody else moved the same approval or grant first
MAX_ATTEMPTS = 64


class State(enum.StrEnum):
    NEW = "new"
    DECIDING = "deciding"
    RECORDING_REFUSAL = "recording the denial"
    RECORDING_REVIEW = "recording the review"
    RECORDING_ANSWER = "recording the answer"
    RECORDING_START = "recording the start"
    EXECUTING = "executing"
    RECORDING_END = "recording the end"
    DENIED = "denied"
    WAITING = "waiting for people"
    ANSWERED = "answered"
    FINISHED = "finished"
    UNAVAILABLE = "unavailable"


class Mode(enum.StrEnum):
    """Who runs the action: Checkrein itself, or an enforcement point that only asks."""

    RUN = "run"
    ASK = "ask"


# --- events ---------------------------------------------------------------------------------------------------


class Submitted(msgspec.Struct, frozen=True):
    """An action was handed in."""


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """The PDP decided. `match` is the approval of exactly this action, or of what people edited it into, if there is
    one; `fresh` would be a new one, given whenever the outcome is REQUIRE_REVIEW. A denial ends the approval that
    people have agreed to, unless `spares` says that it is about the caller and not about the action. `grant` is one
    that stands for the people a review asks for; with a denial, one that changed policies deny by now."""

    decision: Decision
    now_us: int
    spares: bool = False
    match: Approval | None = None
    fresh: Approval | None = None
    grant: Grant | None = None


class Durable(msgspec.Struct, frozen=True):
    """The last `Record` is on disk."""


class Refused(msgspec.Struct, frozen=True):
    """The store refused the last `Record`; nothing of it was written."""


class Conflicted(msgspec.Struct, frozen=True):
    """Another process moved the approval first; nothing of the last `Record` was written."""


class Ended(msgspec.Struct, frozen=True):
    """The execution came to an end: `ok`, `failed` or `cancelled`."""

    status: str
    now_us: int


Event = Submitted | Decided | Durable | Refused | Conflicted | Ended


# --- commands -------------------------------------------------------------------------------------------------


class Decide(msgspec.Struct, frozen=True):
    """Ask the PDP. `discharged` is the approval or grant whose review policies people have satisfied."""

    discharged: Discharge | None = None


class Record(msgspec.Struct, frozen=True):
    """Write records of these kinds, these approvals and this grant in one durable unit."""

    kinds: tuple[str, ...]
    approvals: tuple[Approval, ...] = ()
    grant: Grant | None = None


class Execute(msgspec.Struct, frozen=True):
    """Run the action, once."""


class Deny(msgspec.Struct, frozen=True):
    """Answer with the denial."""


class AskPeople(msgspec.Struct, frozen=True):
    """Answer with the approval's handle."""

    approval: Approval


class Answer(msgspec.Struct, frozen=True):
    """Hand over the result, or the decision."""


class Fail(msgspec.Struct, frozen=True):
    """Answer that nothing ran because it could not be recorded, or that its end could not."""


Command = Decide | Record | Execute | Deny | AskPeople | Answer | Fail

TRANSITIONS: dict[State, dict[type, tuple[State, ...]]] = {
    State.NEW: {Submitted: (State.DECIDING,)},
    State.DECIDING: {
        Decided: (
            State.DECIDING,
            State.RECORDING_REFUSAL,
            State.RECORDING_REVIEW,
            State.RECORDING_ANSWER,
            State.RECORDING_START,
        )
    },
    State.RECORDING_REFUSAL: {
        Durable: (State.DENIED,),
        Refused: (State.UNAVAILABLE,),
        Conflicted: (State.DECIDING, State.UNAVAILABLE),
    },
    State.RECORDING_REVIEW: {
        Durable: (State.WAITING,),
        Refused: (State.UNAVAILABLE,),
        Conflicted: (State.DECIDING, State.UNAVAILABLE),
    },
    State.RECORDING_ANSWER: {
        Durable: (State.ANSWERED,),
        Refused: (State.UNAVAILABLE,),
        Conflicted: (State.DECIDING, State.UNAVAILABLE),
    },
    State.RECORDING_START: {
        Durable: (State.EXECUTING,),
        Refused: (State.UNAVAILABLE,),
        Conflicted: (State.DECIDING, State.UNAVAILABLE),
    },
    State.EXECUTING: {Ended: (State.RECORDING_END,)},
    State.RECORDING_END: {
        Durable: (State.FINISHED,),
        Refused: (State.UNAVAILABLE,),
        Conflicted: (State.UNAVAILABLE,),
    },
    State.DENIED: {},
    State.WAITING: {},
    State.ANSWERED: {},
    State.FINISHED: {},
    State.UNAVAILABLE: {},
}


_AFTER_DURABLE: dict[State, tuple[State, Command]] = {
    State.RECORDING_REFUSAL: (State.DENIED, Deny()),
    State.RECORDING_ANSWER: (State.ANSWERED, Answer()),
    State.RECORDING_START: (State.EXECUTING, Execute()),
    State.RECORDING_END: (State.FINISHED, Answer()),
}


class IllegalEvent(CheckreinError):
    """An event that cannot happen in this state. The machine did not move."""


class ActionFlow:
    """One action. Feed events to `handle`; it returns the next command."""

    def __init__(self, mode: Mode = Mode.RUN) -> None:
        self.mode = mode
        self.state = State.NEW
        self.decision: Decision | None = None
        self.approval: Approval | None = None
        self._held: Approval | None = None
        self._grant: Grant | None = None
        self._attempts = 0

    def handle(self, event: Event) -> Command:
        """Take one event; raises `IllegalEvent` and changes nothing when the table has no such step."""
        allowed = TRANSITIONS[self.state].get(type(event))
        if allowed is None:
            raise IllegalEvent(f"a {type(event).__name__} cannot happen while {self.state}")
        state, command = _STEPS[type(event)](self, event)
        if state not in allowed:
            raise IllegalEvent(f"{self.state} does not lead to {state}")
        self.state = state
        return command

    def _decided(self, event: Decided) -> tuple[State, Command]:
        decision, held = event.decision, self._held
        self.decision = decision
        usable = event.match if event.match is not None and not event.match.due(event.now_us) else None
        if decision.outcome is Outcome.REQUIRE_REVIEW:
            # an approval is tried once: if reviews remain that it does not discharge, people are asked anew
            if usable is not None and usable.state is ApprovalState.APPROVED and held is None:
                self._held = usable
                return State.DECIDING, Decide(discharged=usable)
            if event.grant is not None and held is None and self._grant is None:
                self._grant = event.grant
                return State.DECIDING, Decide(discharged=event.grant)
            return self._review(event, usable)
        if decision.outcome is Outcome.DENY:
            agreed = held or (usable if usable is not None and usable.state is ApprovalState.APPROVED else None)
            if event.spares:
                return State.RECORDING_REFUSAL, Record(("decision",))
            if agreed is None and event.grant is not None:
                ended = move_grant(event.grant, GrantEvent.DENIED, event.now_us)
                return State.RECORDING_REFUSAL, Record(("decision", "approval.grant_ended"), grant=ended)
            if agreed is None:
                return State.RECORDING_REFUSAL, Record(("decision",))
            dead = move(agreed, ApprovalEvent.WITHDRAWAL, event.now_us)
            return State.RECORDING_REFUSAL, Record(("decision", "approval.cancelled"), (dead,))
        return self._allowed(event.now_us)

    def _review(self, event: Decided, usable: Approval | None) -> tuple[State, Command]:
        kinds, approvals = ["decision"], list[Approval]()
        if self._held is not None:  # it proved too little: it must not run the action beside the one that opens now
            kinds.append("approval.cancelled")
            approvals.append(move(self._held, ApprovalEvent.WITHDRAWAL, event.now_us))
        if usable is not None and usable.state is ApprovalState.PENDING:
            self.approval = usable
        elif event.fresh is None:
            raise IllegalEvent("a review needs a fresh approval to open")
        else:
            self.approval = event.fresh
            kinds.append("approval.requested")
            approvals.append(event.fresh)
        return State.RECORDING_REVIEW, Record(tuple(kinds), tuple(approvals))

    def _allowed(self, now_us: int) -> tuple[State, Command]:
        if self._grant is not None:
            return self._granted(use(self._grant, now_us))
        taken = move(self._held, ApprovalEvent.TAKEN, now_us) if self._held is not None else None
        if self.mode is Mode.RUN:
            self.approval = taken
            kinds = ("decision", "execution.started")
            return State.RECORDING_START, Record(kinds, (taken,) if taken else ())
        if taken is None:
            return State.RECORDING_ANSWER, Record(("decision",))
        # the enforcement point runs it out of our sight: the approval is spent with the answer
        self.approval = msgspec.structs.replace(move(taken, ApprovalEvent.DONE, now_us), version=taken.version)
        return State.RECORDING_ANSWER, Record(("decision", "approval.used"), (self.approval,))

    def _granted(self, grant: Grant) -> tuple[State, Command]:
        """Under a grant: no approval is opened, and the use is counted with the start or the answer."""
        if self.mode is Mode.RUN:
            return State.RECORDING_START, Record(("decision", "execution.started", "approval.grant_used"), grant=grant)
        return State.RECORDING_ANSWER, Record(("decision", "approval.grant_used"), grant=grant)

    def _durable(self, event: Durable) -> tuple[State, Command]:
        if self.state is State.RECORDING_REVIEW:
            if self.approval is None:
                raise IllegalEvent("a review without an approval")
            return State.WAITING, AskPeople(self.approval)
        return _AFTER_DURABLE[self.state]

    def _conflicted(self, event: Conflicted) -> tuple[State, Command]:
        self._attempts += 1
        if self.state is State.RECORDING_END or self._attempts >= MAX_ATTEMPTS:
            return State.UNAVAILABLE, Fail()
        self._held = self.approval = self._grant = None
        return State.DECIDING, Decide()

    def _ended(self, event: Ended) -> tuple[State, Command]:
        if self.approval is None:
            return State.RECORDING_END, Record(("execution.finished",))
        used = move(self.approval, ApprovalEvent.DONE, event.now_us)
        return State.RECORDING_END, Record(("execution.finished", "approval.used"), (used,))


_STEPS: dict[type, Callable[[ActionFlow, Any], tuple[State, Command]]] = {
    Submitted: lambda flow, event: (State.DECIDING, Decide()),
    Decided: ActionFlow._decided,
    Durable: ActionFlow._durable,
    Refused: lambda flow, event: (State.UNAVAILABLE, Fail()),
    Conflicted: ActionFlow._conflicted,
    Ended: ActionFlow._ended,
}
