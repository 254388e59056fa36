"""A grant: a standing, bounded permission that people gave with their votes, where policy lets them.

It is for one subject, agent, tool and resource, and for the named arguments as they were approved; it ends by time, by
its uses, by revocation, or when changed policies deny what it covers. A use is a step of this machine, counted by
compare-and-set in the unit that records the decision: it can never be used more often than people allowed.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Any

import msgspec

from checkrein.flow.approval import Approval, IllegalEvent
from checkrein.model import Decision, Level, Request, Requirement, Subject
from checkrein.model.json import fold_bytes
from checkrein.model.requirement import Terms


class State(enum.StrEnum):
    LIVE = "live"
    SPENT = "spent"
    REVOKED = "revoked"
    DEAD = "dead"
    #: never stored: what a person should see of a live one whose time is over
    EXPIRED = "expired"


class Event(enum.StrEnum):
    """What can happen to a grant."""

    USED = "used"
    LAST_USE = "used for the last time"
    REVOKED = "revoked"
    DENIED = "changed policies deny it"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.LIVE: {
        Event.USED: State.LIVE,
        Event.LAST_USE: State.SPENT,
        Event.REVOKED: State.REVOKED,
        Event.DENIED: State.DEAD,
    },
    State.SPENT: {},
    State.REVOKED: {},
    State.DEAD: {},
}


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """`shape` is the hash of whom and what it is for, `same` the arguments that must be as they were approved.

    It discharges the review `policies` while these ask for no more than `requirement`. `by` are those who gave it.
    """

    id: str
    version: int
    state: State
    shape: str
    subject: Subject
    agent: str
    action: str
    resource: str
    same: dict[str, Any]
    terms: Terms
    policies: tuple[str, ...]
    requirement: Requirement
    bundle: str
    approval: str
    by: tuple[str, ...]
    trace_id: str
    created_us: int
    until_us: int
    used: int = 0
    last_us: int = 0
    ended_us: int = 0

    def status(self, now_us: int) -> State:
        """The state a person should see."""
        return State.EXPIRED if self.state is State.LIVE and now_us >= self.until_us else self.state

    @property
    def left(self) -> int:
        return self.terms.uses - self.used

    def covers(self, request: Request) -> bool:
        """Whether the request has the arguments that must stay the same; its shape was compared already."""
        given = request.action.input
        return all(name in given and _text(given[name]) == _text(value) for name, value in self.same.items())

    def discharges(self, decision: Decision, now_us: int) -> bool:
        """Whether it stands for the people this decision asks for: time, risk, policies and what these grant by now."""
        asked = decision.requirement
        if asked is None or asked.grant is None or self.status(now_us) is not State.LIVE:
            return False
        if decision.risk.level is Level.RED and not self.terms.red:
            return False
        return set(decision.policies) <= set(self.policies) and self.requirement.as_strict_as(asked)


#: what lets an action run that policy wants people to see
Discharge = Approval | Grant


def shape(request: Request) -> str:
    """SHA-256 (hex) of what a grant is for, `checkrein.grant.v2`: everything of an action but its arguments."""
    fields = {
        "v": "checkrein.grant.v2",
        "subject": [request.subject.type, request.subject.id],
        "on_behalf_of": list(request.on_behalf_of),
        "agent": request.agent_id,
        "action": [request.action.name, {**request.action.properties, "input": {}}],
        "resource": [request.resource.type, request.resource.id, request.resource.properties],
        "scope": request.context.get("scope"),
        "environment": request.context.get("environment"),
    }
    return hashlib.sha256(fold_bytes(fields)).hexdigest()


def opened(id: str, approval: Approval, now_us: int) -> Grant | None:
    """The grant that the votes of an approval open: None unless everybody who agreed gave it, then the narrowest."""
    agreed = [cast for cast in approval.votes if cast.approve]
    terms = [cast.grant for cast in agreed if cast.grant is not None]
    if not terms or len(terms) < len(agreed):
        return None
    narrowest = terms[0]
    for other in terms[1:]:
        narrowest = narrowest.narrowed(other)
    request = approval.request()
    return Grant(
        id=id,
        version=1,
        state=State.LIVE,
        shape=shape(request),
        subject=Subject(request.subject.type, request.subject.id),
        agent=request.agent_id,
        action=request.action.name,
        resource=request.resource.id,
        same={name: request.action.input[name] for name in narrowest.same},
        terms=narrowest,
        policies=approval.policies,
        requirement=approval.requirement,
        bundle=approval.bundle,
        approval=approval.id,
        by=tuple(cast.voter for cast in agreed),
        trace_id=approval.trace_id,
        created_us=now_us,
        until_us=now_us + narrowest.max_s * 1_000_000,
    )


def move(grant: Grant, event: Event, now_us: int) -> Grant:
    """The grant after `event`; raises `IllegalEvent` and changes nothing where the table has no such step."""
    try:
        state = TRANSITIONS[grant.state][event]
    except KeyError:
        raise IllegalEvent(
            f"grant `{grant.id}` is {grant.state}; it cannot take `{event}`",
            hint="`checkrein approvals grants` lists those that live",
        ) from None
    ended_us = 0 if TRANSITIONS[state] else now_us
    return msgspec.structs.replace(grant, state=state, version=grant.version + 1, ended_us=ended_us)


def use(grant: Grant, now_us: int) -> Grant:
    """One use less."""
    if grant.status(now_us) is not State.LIVE or grant.left < 1:
        raise IllegalEvent(f"grant `{grant.id}` is {grant.status(now_us)}", hint="ask people again")
    after = move(grant, Event.USED if grant.left > 1 else Event.LAST_USE, now_us)
    return msgspec.structs.replace(after, used=grant.used + 1, last_us=now_us)


def _text(value: object) -> bytes:
    return fold_bytes({"value": value})
