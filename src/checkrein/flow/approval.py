"""One approval: a durable request to people, bound to one exact action.

Pure: the caller hands in who votes, with which roles, and the time. `TRANSITIONS` is the whole life; every state
but the last ones is left exactly once, which the store's compare-and-set on `version` enforces between processes.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import msgspec

from checkrein.model import CheckreinError, Level, Request, Requirement, Subject
from checkrein.model.likeness import alike, likeness
from checkrein.model.requirement import Terms, combine


class State(enum.StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    EXECUTING = "executing"
    USED = "used"
    UNKNOWN = "unknown"


class Event(enum.StrEnum):
    """What can happen to an approval."""

    QUORUM = "quorum met"
    REFUSAL = "a voter denies"
    DEADLINE = "deadline passes"
    WITHDRAWAL = "withdrawn, or policy now denies"
    EDIT = "its arguments are edited"
    GLASS = "somebody breaks the glass"
    TAKEN = "the action starts"
    DONE = "the action ended"
    LOST = "the end was never recorded"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.PENDING: {
        Event.QUORUM: State.APPROVED,
        Event.REFUSAL: State.DENIED,
        Event.DEADLINE: State.EXPIRED,
        Event.WITHDRAWAL: State.CANCELLED,
        Event.EDIT: State.CANCELLED,
        Event.GLASS: State.APPROVED,
    },
    State.APPROVED: {
        Event.TAKEN: State.EXECUTING,
        Event.DEADLINE: State.EXPIRED,
        Event.WITHDRAWAL: State.CANCELLED,
    },
    State.EXECUTING: {Event.DONE: State.USED, Event.LOST: State.UNKNOWN},
    State.DENIED: {},
    State.EXPIRED: {},
    State.CANCELLED: {},
    State.USED: {},
    State.UNKNOWN: {},
}


class IllegalEvent(CheckreinError):
    """The approval is in a state in which this cannot happen. Nothing changed."""


class VoteRefused(CheckreinError):
    """This person may not cast this vote. Nothing changed; `code` names the rule."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """One person's answer. `auth` says how they proved who they are; `shown` is the hash of what they saw.

    A delegate votes `on_behalf_of` somebody, with that person's `roles`; `via` are those who passed it on in between.
    `also` are other names that the voter is known by. `grant` is what the voter would let happen again (`flow.grant`).
    """

    voter: str
    also: tuple[str, ...] = ()
    on_behalf_of: str = ""
    via: tuple[str, ...] = ()
    grant: Terms | None = None
    roles: tuple[str, ...]
    approve: bool
    reason: str = ""
    auth: str
    simulated: bool = False
    action_hash: str
    shown: str
    at_us: int

    @property
    def seats(self) -> frozenset[str]:
        """Whose votes this one uses up."""
        return frozenset({self.voter, self.on_behalf_of, *self.also} - {""})


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody broke the glass (`flow.emergency`): who, how they proved who they are, why, when."""

    by: str
    auth: str
    reason: str
    at_us: int


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A request to people. `action` is the exact action in AuthZEN form: what runs is this, once."""

    id: str
    version: int
    state: State
    action: dict[str, Any]
    action_hash: str
    requester: Subject
    agent: str
    #: who else this is done for or belongs to: the agent's owner, and everybody on whose behalf it runs
    chain: tuple[str, ...] = ()
    requirement: Requirement
    policies: tuple[str, ...]
    reasons: tuple[str, ...]
    risk: Level
    factors: tuple[str, ...]
    labels: tuple[str, ...]
    bundle: str
    trace_id: str
    created_us: int
    deadline_us: int
    votes: tuple[Vote, ...] = ()
    ended_us: int = 0
    #: the approval whose arguments were edited into this one's, and who did that
    edits: str = ""
    edited_by: tuple[str, ...] = ()
    #: the approval that this one's arguments were edited into
    edited_into: str = ""
    broken: Breach | None = None

    @property
    def principals(self) -> frozenset[str]:
        """The principal chain: none of these votes on it, by themselves or through others, however their name is
        spelt (`bars`)."""
        return frozenset({self.requester.id, self.agent, *self.chain} - {""})

    def bars(self, *names: str) -> bool:
        """Whether one of these, all names of one person, stands on the principal chain or looks as if it did."""
        return bool(alike(names, self.principals))

    def due(self, now_us: int) -> bool:
        """Whether the deadline has passed."""
        return now_us >= self.deadline_us

    def status(self, now_us: int) -> State:
        """The state a person should see: an approval past its deadline is expired, swept or not."""
        live = self.state in (State.PENDING, State.APPROVED)
        return State.EXPIRED if live and self.due(now_us) else self.state

    def age_s(self, at_us: int) -> int:
        """How long people had been asked by then, in whole seconds: what an escalation goes by."""
        return max(0, at_us - self.created_us) // 1_000_000

    def missing(self) -> tuple[str, ...]:
        """What is still needed, such as `("1 of finance",)`."""
        counts = _assigned(self)
        return tuple(
            f"{factor.count - have} of {factor.role}"
            for factor, have in zip(self.requirement.factors, counts, strict=True)
            if have < factor.count
        )

    def needed(self) -> int:
        """How many people must still agree."""
        return self.requirement.people - sum(_assigned(self))

    def request(self) -> Request:
        return Request.from_json(self.action)


def move(approval: Approval, event: Event, now_us: int) -> Approval:
    """The approval after `event`; raises `IllegalEvent` and changes nothing where the table has no such step."""
    try:
        state = TRANSITIONS[approval.state][event]
    except KeyError:
        raise IllegalEvent(
            f"approval `{approval.id}` is {approval.state}; it cannot take `{event}`",
            hint=f"see it with `checkrein approvals show {approval.id}`",
        ) from None
    ended = 0 if TRANSITIONS[state] else now_us
    return msgspec.structs.replace(approval, state=state, version=approval.version + 1, ended_us=ended)


def edited(before: Approval, after: Approval, by: Vote) -> tuple[Approval, Approval]:
    """The approval that ends and the one that takes its place, after an edit by somebody who may vote now.

    Votes were for other arguments: none is carried over. Time goes on: the new one has its age and its deadline, and
    asks for all that the old one asked for. Raises as `vote` does.
    """
    vote(msgspec.structs.replace(before, votes=()), msgspec.structs.replace(by, approve=False))
    if after.action_hash == before.action_hash:
        raise VoteRefused("unchanged", "the edit changes nothing", hint="approve it as it is")
    requirements = (before.requirement, after.requirement)
    after = msgspec.structs.replace(
        after,
        requirement=combine(requirements),
        policies=tuple(dict.fromkeys((*before.policies, *after.policies))),
        reasons=tuple(dict.fromkeys((*before.reasons, *after.reasons))),
        chain=tuple(dict.fromkeys((*before.chain, *after.chain))),
        created_us=before.created_us,
        deadline_us=min(before.deadline_us, after.deadline_us),
        edits=before.id,
        edited_by=tuple(sorted({by.voter, by.on_behalf_of} - {""})),
    )
    ended = msgspec.structs.replace(before, edited_into=after.id)
    return move(ended, Event.EDIT, by.at_us), after


def eligible(approval: Approval, cast: Vote) -> None:
    """Raise `VoteRefused` unless this person may vote now: not on the principal chain, with a role that is asked for.

    Who is asked follows from the age of the approval alone, so that no timer has to fire for an escalation.
    """
    voter = cast.voter
    for name in (voter, cast.on_behalf_of, *cast.via, *cast.also):
        if approval.bars(name):
            own = likeness(name) == likeness(approval.requester.id)
            role = "asked for this action" if own else "stands on its principal chain"
            raise VoteRefused("own_request", f"`{name}` {role} and cannot vote on it", hint="ask somebody else")
    roles, now_us = cast.roles, cast.at_us
    asked = approval.requirement.open_to(approval.age_s(now_us))
    if not set(asked) & set(roles):
        raise VoteRefused(
            "wrong_role",
            f"`{voter}` holds none of the roles that are asked for: {', '.join(asked)}",
            hint=f"give the role under `[people.{voter}]` in checkrein.toml, or ask somebody who holds it",
        )


def vote(approval: Approval, cast: Vote) -> Approval:
    """The approval after one vote. The first denial ends it; it is approved once every factor is met.

    Raises `VoteRefused` for a vote that does not count, `IllegalEvent` when the approval has ended.
    """
    now_us = cast.at_us
    if approval.status(now_us) is not State.PENDING:
        raise IllegalEvent(
            f"approval `{approval.id}` is {approval.status(now_us)}, no longer pending",
            hint=f"it was edited into `{approval.edited_into}`"
            if approval.edited_into
            else "send the request again to ask anew",
        )
    if cast.action_hash != approval.action_hash:
        raise VoteRefused("stale_hash", "the vote is for another version of this action", hint="look at it again")
    eligible(approval, cast)
    for name in alike(sorted(cast.seats), [seat for earlier in approval.votes for seat in earlier.seats]):
        raise VoteRefused("voted", f"`{name}` has voted already", hint="one person, one vote")
    if cast.approve and approval.requirement.people < 2 and alike(cast.seats, approval.edited_by):
        raise VoteRefused("own_edit", "who edited it cannot be the only one to agree", hint="ask somebody else")
    if approval.requirement.reason_required and not cast.reason.strip():
        raise VoteRefused("reason_required", "policy asks for a reason", hint="give one with `--reason`")
    if cast.grant is not None:
        _grantable(approval, cast, cast.grant)
    voted = msgspec.structs.replace(approval, votes=(*approval.votes, cast))
    if not cast.approve:
        return move(voted, Event.REFUSAL, now_us)
    if not voted.missing():
        return move(voted, Event.QUORUM, now_us)
    return msgspec.structs.replace(voted, version=approval.version + 1)


def _grantable(approval: Approval, cast: Vote, terms: Terms) -> None:
    """Raise `VoteRefused` unless policy lets people grant this."""
    allowed = approval.requirement.grant
    if allowed is None or not cast.approve:
        raise VoteRefused("no_grant", "policy lets nobody grant this", hint="approve this one action, without a grant")
    if not terms.within(allowed):
        raise VoteRefused("wide_grant", f"policy lets people grant no more than `{allowed}`", hint="ask for less")
    if approval.risk is Level.RED and not terms.red:
        raise VoteRefused("red_grant", "what is red is not granted", hint="approve this one action, without a grant")
    given = approval.request().action.input
    if absent := [name for name in terms.same if name not in given]:
        raise VoteRefused(
            "no_grant", f"the grant is bound to `{absent[0]}`, which this action does not have", hint="approve it alone"
        )


def best(approval: Approval, casts: Sequence[Vote]) -> tuple[Approval, Vote]:
    """The first of these votes that brings the approval nearer to its end, else the first that counts at all.

    They are one person's: for themselves, and in the place of others. Raises what the first of them met if none counts.
    """
    counts: tuple[Approval, Vote] | None = None
    refused: VoteRefused | None = None
    for cast in casts:
        try:
            after = vote(approval, cast)
        except VoteRefused as error:
            refused = refused or error
            continue
        if after.state is not approval.state or after.needed() < approval.needed():
            return after, cast
        counts = counts or (after, cast)
    if counts is None:
        raise refused or VoteRefused("wrong_role", "nobody votes", hint="name who does")
    return counts


def _assigned(approval: Approval) -> list[int]:
    """How many approving people each factor has, each person counted for one factor only (bipartite matching)."""
    factors = approval.requirement.factors
    slots = [index for index, factor in enumerate(factors) for _ in range(factor.count)]
    people = [cast for cast in approval.votes if cast.approve]
    fits = [
        [not set(factor.open_to(approval.age_s(cast.at_us))).isdisjoint(cast.roles) for factor in factors]
        for cast in people
    ]
    holder: dict[int, int] = {}

    def place(person: int, seen: set[int]) -> bool:
        for slot, index in enumerate(slots):
            if fits[person][index] and slot not in seen:
                seen.add(slot)
                if slot not in holder or place(holder[slot], seen):
                    holder[slot] = person
                    return True
        return False

    for person in range(len(people)):
        place(person, set())
    counts = [0] * len(factors)
    for slot in holder:
        counts[slots[slot]] += 1
    return counts
