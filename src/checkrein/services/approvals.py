"""Approvals: listed, shown, voted on, expired. The state machine is `flow.approval`; it lives in the store.

Nothing waits in memory. A vote is one durable unit with its record; when two processes vote at once, one of them
meets a conflict and looks again. Ids follow from the action and a number, so of two that ask for the same action at
once the store lets one open the approval, and the other one joins it.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import hmac
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from checkrein.flow.approval import (
    Approval,
    Event,
    IllegalEvent,
    State,
    Vote,
    VoteRefused,
    best,
    move,
)
from checkrein.ledger import Draft, Record
from checkrein.model import Decision, NotFound, PolicyInvalid, Request, StoreConflict, StoreUnavailable
from checkrein.model.json import MAX_INTEGER, dumps, fold_bytes
from checkrein.model.people import People
from checkrein.model.requirement import Terms, combine
from checkrein.pending import Pending
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import grants, records
from checkrein.services.electorate import Electorate, Seat

ROOM = "approval"
PREFIX = "apr_"
#: how often a vote is tried again after another process changed the approval
ATTEMPTS = 32
#: so much of an action's hash tells it from any other
MIN_HASH = 12
#: edits of edits that are followed
MAX_EDITS = 64
#: what of the context an approval is bound to
_BOUND = ("environment", "scope")
#: approvals that are read at once
PAGE = 200
NOBODY = People()
#: why policy denies an action by now, or an empty string
Denies = Callable[[Approval], str]
ALLOWS: Denies = lambda approval: ""  # noqa: E731


def row(approval: Approval) -> Row:
    """The approval as a row of the store; found again by the hash of its action."""
    body = msgspec.json.encode(approval)
    return Row(ROOM, approval.id, approval.version, approval.state.value, approval.action_hash, body)


def load(stored: Row) -> Approval:
    return stored.read(Approval)


def save(approval: Approval) -> Save:
    return Save(row(approval), approval.version - 1)


def view(approval: Approval) -> dict[str, object]:
    """Everything a person is shown before they vote; `shown` in a vote is the hash of exactly this."""
    return {
        "id": approval.id,
        "requester": {"type": approval.requester.type, "id": approval.requester.id},
        "agent": approval.agent,
        "chain": list(approval.chain),
        "action": approval.action.get("action", {}),
        "resource": approval.action.get("resource", {}),
        **{name: value for name in _BOUND if (value := _context(approval).get(name)) is not None},
        "risk": {"level": approval.risk.value, "factors": list(approval.factors)},
        "policies": list(approval.policies),
        "reasons": list(approval.reasons),
        "approvers": str(approval.requirement),
        "escalation": [str(step) for step in approval.requirement.escalation],
        "may_grant": str(approval.requirement.grant or ""),
        "bundle": approval.bundle,
        "action_hash": approval.action_hash,
        "deadline_us": approval.deadline_us,
        "edits": approval.edits,
        "edited_by": list(approval.edited_by),
    }


def beside(approval: Approval) -> Iterator[tuple[str, str]]:
    """What is approved besides the arguments, by name: other properties of action and resource, and where it holds."""
    request = approval.request()
    for whose, given in (("action", request.action.properties), ("resource", request.resource.properties)):
        for name, value in given.items():
            if (whose, name) != ("action", "input"):
                yield f"{name} of the {whose}", in_words(value)
    for name in _BOUND:
        if (value := request.context.get(name)) is not None:
            yield name, in_words(value)


def in_words(value: object) -> str:
    """A value as people are shown it; what is empty is shown too."""
    return value if isinstance(value, str) and value else dumps(value).decode()


def _context(approval: Approval) -> Mapping[str, object]:
    given = approval.action.get("context", {})
    return given if isinstance(given, Mapping) else {}


def shown_hash(approval: Approval) -> str:
    """SHA-256 (hex) of the view."""
    return hashlib.sha256(fold_bytes(view(approval))).hexdigest()


def _age(approval: Approval) -> tuple[int, str]:
    return approval.created_us, approval.id


def seen(approval: Approval, given: str) -> str:
    """The whole hash of what a voter looked at; what is too short to tell actions apart is not taken for any."""
    known = not given or (len(given) >= MIN_HASH and approval.action_hash.startswith(given))
    return approval.action_hash if known else given


class Approvals:
    def __init__(
        self, store: Store, clock: Clock, key: bytes, people: People = NOBODY, denies: Denies = ALLOWS
    ) -> None:
        """`denies` says why policy denies, by now, what an approval is for; empty where it does not."""
        self._store = store
        self._clock = clock
        self._key = key
        self.people = people
        self._denies = denies
        self.electorate = Electorate(store, clock, people)

    def fresh(self, request: Request, decision: Decision, now_us: int, *, caller: str = "") -> Approval:
        """A new approval for exactly this action; not stored yet.

        An approved one that lives was not enough, or nobody would be asked. The new one is for its policies too:
        only one approval is held against a decision. `caller` is the key that asked, if it was one.
        """
        requirement = decision.requirement
        if requirement is None:
            raise PolicyInvalid(
                "a policy asks for review but names no approvers", hint="add `@approvers` to the policy"
            )
        action_hash = request.action_hash(decision.bundle)
        policies, reasons = decision.policies, decision.reasons
        if earlier := self.match(action_hash, (State.APPROVED,)):
            requirement = combine((earlier.requirement, requirement))
            policies = tuple(dict.fromkeys((*earlier.policies, *policies)))
            reasons = tuple(dict.fromkeys((*earlier.reasons, *reasons)))
        return Approval(
            id=self._next_id(action_hash, now_us),
            version=1,
            state=State.PENDING,
            action=msgspec.to_builtins(request),
            action_hash=action_hash,
            requester=request.subject,
            agent=request.agent_id,
            chain=self.electorate.chain(request, caller),
            requirement=requirement,
            policies=policies,
            reasons=reasons,
            risk=decision.risk.level,
            factors=decision.risk.factors,
            labels=decision.labels,
            bundle=decision.bundle,
            trace_id=decision.trace_id,
            created_us=now_us,
            deadline_us=now_us + requirement.expires_s * 1_000_000,
        )

    def match(self, action_hash: str, states: Iterable[State] = (State.APPROVED, State.PENDING)) -> Approval | None:
        """The newest live approval of exactly this action, an approved one before a pending one."""
        now_us = self._clock.now_us()
        for state in states:
            stored = (approval for page in self._pages(state, action_hash) for approval in page)
            live = [approval for approval in stored if not approval.due(now_us)]
            if live:
                return max(live, key=lambda approval: approval.created_us)
        return None

    def of_action(self, action_hash: str) -> list[Approval]:
        """Every approval of exactly this action, newest first."""
        found = [approval for page in self._pages(None, action_hash) for approval in page]
        return sorted(found, key=lambda approval: approval.created_us, reverse=True)

    def find(self, id: str) -> Approval | None:
        """The approval with exactly this id."""
        stored = self._store.row(ROOM, id) if id.isascii() and id.isprintable() else None
        return load(stored) if stored else None

    def edited(self, action_hash: str, bundle: str) -> Approval | None:
        """The live approval that people edited this action into, under the same policies; None if there is none."""
        ended = (each for page in self._pages(State.CANCELLED, action_hash) for each in page if each.edited_into)
        for approval in sorted(ended, key=lambda approval: approval.ended_us, reverse=True):
            latest = self.latest(approval)
            if latest.status(self._clock.now_us()) in (State.APPROVED, State.PENDING) and latest.bundle == bundle:
                return latest
        return None

    def latest(self, approval: Approval) -> Approval:
        """The approval that stands in the place of one that was edited, or the approval itself."""
        for _ in range(MAX_EDITS):
            if not approval.edited_into:
                break
            approval = self.get(approval.edited_into)
        return approval

    def get(self, id: str) -> Approval:
        """The approval, or `NotFound`. A unique beginning of the id is enough."""
        hint = "`checkrein approvals list --state all` shows the ids"
        if not (id.isascii() and id.isprintable()):
            raise NotFound("no approval has such an id", hint=hint)
        stored = self._store.row(ROOM, id)
        if stored is not None:
            return load(stored)
        near = self._store.rows(ROOM, after=id, limit=2) if len(id) > len(PREFIX) else []
        found = [row for row in near if row.id.startswith(id)]
        if len(found) == 1:
            return load(found[0])
        what = f"more than one approval begins with `{id}`" if found else f"no approval `{id[:80]}`"
        raise NotFound(what, hint=hint)

    def all(self, state: State | None = State.PENDING, limit: int = 1000) -> list[Approval]:
        """The first `limit` of `listed`."""
        return [*islice(self.listed(state), limit)]

    def listed(self, state: State | None = State.PENDING, after: tuple[int, str] = (-1, "")) -> Iterator[Approval]:
        """In this state as people should see it (`None`: in any), oldest first, after this time and id.

        What is past its deadline is `expired` here even while the store cannot be written to sweep it. Read page by
        page, as far as somebody takes them.
        """
        with contextlib.suppress(StoreUnavailable):  # who waits for what must be seen on a full disk too
            self.sweep()
        now_us = self._clock.now_us()
        stored = (
            (State.PENDING, State.APPROVED, State.EXPIRED) if state is State.EXPIRED else (state,) if state else State
        )
        each = heapq.merge(*(self._queue(one, "created_us", after) for one in stored), key=_age)
        return (approval for approval in each if state in (None, approval.status(now_us)))

    def vote(
        self,
        id: str,
        *,
        voter: str,
        roles: tuple[str, ...] | None = None,
        approve: bool,
        reason: str = "",
        auth: str,
        shown: str = "",
        simulated: bool = False,
        on_behalf_of: str = "",
        action_hash: str = "",
        grant: Terms | None = None,
    ) -> Approval:
        """Cast one vote. A vote that does not count is refused with its reason, and recorded.

        `roles` are those that the voter's key or token bears, else (`None`) those of `[people]`; on-call lists count
        beside them. A delegate's vote is their own where that helps, else that of somebody whose vote they hold;
        `on_behalf_of` says whose. `action_hash` is that of what they looked at, or its beginning. `grant` lets the
        like happen again; it opens if everybody who agrees gives one.
        """
        id = self.get(id).id
        held = self.electorate.held(voter, roles)
        for _ in range(ATTEMPTS):
            approval = self.current(id)
            now_us = self._clock.now_us()
            own = Vote(
                voter=voter,
                roles=held,
                approve=approve,
                reason=reason,
                auth=auth,
                simulated=simulated,
                grant=grant,
                action_hash=seen(approval, action_hash),
                shown=shown or shown_hash(approval),
                at_us=now_us,
            )
            try:
                if shown and shown != shown_hash(approval):
                    raise VoteRefused("stale_view", "what was shown is not what stands there now", hint="look again")
                self._still_asked(approval, now_us)
                after, cast = best(approval, self.electorate.casts(approval, own, on_behalf_of))
            except (VoteRefused, IllegalEvent) as error:
                raise self.refused(id, voter, error, auth=auth) from None
            drafts: list[Draft] = [records.vote(after, cast, key=self._key)]
            if after.state is not State.PENDING:
                drafts.append(records.approval("approval.decided", after, key=self._key))
            saves = [save(after)]
            opened = grants.given(after, self._key, now_us) if after.state is State.APPROVED else None
            if opened is not None:
                drafts.append(records.grant("approval.granted", opened, key=self._key))
                saves.append(grants.save(opened))
            try:
                self._store.commit(Unit(tuple(drafts), tuple(saves))).result()
            except StoreConflict:
                continue
            return after
        raise StoreConflict(f"approval `{id}` keeps changing", hint="look at it and vote again")

    def refused(
        self,
        id: str,
        voter: str,
        error: VoteRefused | IllegalEvent,
        *,
        auth: str,
        kind: str = "approval.vote_refused",
    ) -> VoteRefused | IllegalEvent:
        """The error, once the refusal of this vote is recorded, or of this edit (`approval.edit_refused`)."""
        code = error.code if isinstance(error, VoteRefused) else "ended"
        draft = records.vote_refused(self.get(id), voter, code=code, auth=auth, now_us=self._clock.now_us(), kind=kind)
        self._store.commit(Unit(drafts=(draft,))).result()
        return error

    def _still_asked(self, approval: Approval, now_us: int) -> None:
        """Cancel it and raise `VoteRefused` if policy has come to deny it: there is nothing to vote on."""
        why = self._denies(approval) if approval.status(now_us) is State.PENDING else ""
        if not why:
            return
        ended = move(approval, Event.WITHDRAWAL, now_us)
        draft = records.approval("approval.cancelled", ended, key=self._key)
        with contextlib.suppress(StoreConflict):  # it moved meanwhile; the vote is refused all the same
            self._store.commit(Unit((draft,), (save(ended),))).result()
        raise VoteRefused("policy_denies", f"policy denies it by now: {why}", hint="nothing is to be decided any more")

    def voters(self, approval: Approval) -> tuple[Seat, ...]:
        """Who of `[people]` may vote on it now, those first whose agreement is still needed."""
        return self.electorate.voters(approval)

    def shown(self, approval: Approval) -> Approval:
        """As people are shown it, and vote on it."""
        return self.electorate.with_owner(approval)

    def current(self, id: str) -> Approval:
        """The approval as it is now: expired, if it is past its deadline and nobody swept."""
        approval, now_us = self.get(id), self._clock.now_us()
        if approval.status(now_us) is not approval.state:
            self._expire((approval,), now_us)
            approval = self.get(id)
        return self.electorate.with_owner(approval)

    def sweep(self) -> int:
        """Expire what is past its deadline; the number of approvals that expired. Safe to run anywhere, any time.

        A sweeper that never runs lets nothing through: the deadline is checked at the vote and at the start too.
        """
        now_us = self._clock.now_us()
        expired = 0
        for state in (State.PENDING, State.APPROVED):
            due = self._queue(state, "deadline_us", until=now_us)
            while page := [*islice(due, PAGE)]:
                expired += self._expire((approval for approval in page if approval.due(now_us)), now_us)
        return expired

    def _expire(self, due: Iterable[Approval], now_us: int) -> int:
        """Submitted together, so that the store can write many in one transaction."""
        written: list[Pending[tuple[Record, ...]]] = []
        for approval in due:
            ended = move(approval, Event.DEADLINE, now_us)
            draft = records.approval("approval.expired", ended, key=self._key)
            written.append(self._store.commit(Unit((draft,), (save(ended),))))
        expired = 0
        for future in written:
            try:
                future.result()
            except StoreConflict:
                continue  # somebody voted or swept first
            expired += 1
        return expired

    def waiting(self) -> int:
        """How many are stored as pending; those past their deadline leave at the next `sweep`."""
        return sum(len(page) for page in self._rows(State.PENDING))

    def asked(self) -> Iterator[Row]:
        """Every row that is stored as pending, by id."""
        return (row for page in self._rows(State.PENDING) for row in page)

    def _queue(
        self, state: State, by: str, after: tuple[int, str] = (-1, ""), until: int = MAX_INTEGER
    ) -> Iterator[Approval]:
        """What is stored in this state, in the order of this member, read page by page."""
        while stored := self._store.queue(ROOM, state.value, by, after=after, until=until, limit=PAGE):
            for approval in map(load, stored):
                yield approval
                after = (getattr(approval, by), approval.id)

    def _pages(self, state: State | None, action_hash: str = "") -> Iterator[list[Approval]]:
        """Every approval that is stored in this state (`None`: in any), of this action if one is given, by id."""
        return (list(map(load, page)) for page in self._rows(state, action_hash))

    def _rows(self, state: State | None, action_hash: str = "") -> Iterator[list[Row]]:
        wanted, after = state.value if state else "", ""
        while stored := self._store.rows(ROOM, state=wanted, lookup=action_hash, after=after, limit=PAGE):
            after = stored[-1].id
            yield stored

    def _next_id(self, action_hash: str, now_us: int) -> str:
        """The id for the next approval of this action; of the last one, while that is pending.

        So one that somebody opened since it was looked for cannot be opened beside: saving it anew is a conflict,
        and whoever asked looks again and joins it. Approvals are never removed, so their numbers have no gaps.
        """

        def id(number: int) -> str:
            name = f"checkrein.approval.v1:{action_hash}:{number}".encode()
            return PREFIX + hmac.new(self._key, name, hashlib.sha256).hexdigest()[:16]

        def free(number: int) -> bool:
            return self._store.row(ROOM, id(number)) is None

        beyond = 1
        while not free(beyond):
            beyond *= 2
        number = bisect_left(range(beyond), True, key=free)
        last = self._store.row(ROOM, id(number - 1)) if number else None
        joined = last is not None and load(last).status(now_us) is State.PENDING
        return id(number - 1 if joined else number)
