"""Approvals: listed, shown, voted on, expired. The state machine is `flow.approval`; it lives in the store.

Nothing waits in memory. A vote is one durable unit with its record; when two processes vote at once, one of them
meets a conflict and looks again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

import msgspec

from checkrein.flow.approval import (
    Approval,
    Event,
    IllegalEvent,
    State,
    Vote,
    VoteRefused,
    move,
    vote,
)
from checkrein.ledger import Draft
from checkrein.model import ApprovalRequired, Decision, NotFound, Request, StoreConflict
from checkrein.model.json import canonical, fold
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import records

ROOM = "approval"
#: how often a vote is tried again after another process changed the approval
ATTEMPTS = 8


def row(approval: Approval) -> Row:
    """The approval as a row of the store; found again by the hash of its action."""
    body = msgspec.json.encode(approval)
    return Row(ROOM, approval.id, approval.version, approval.state.value, approval.action_hash, body)


def load(stored: Row) -> Approval:
    return msgspec.json.decode(stored.body, type=Approval)


def save(approval: Approval) -> Save:
    return Save(row(approval), approval.version - 1)


def view(approval: Approval) -> dict[str, object]:
    """Everything a person is shown before they vote; `shown` in a vote is the hash of exactly this."""
    return {
        "id": approval.id,
        "requester": {"type": approval.requester.type, "id": approval.requester.id},
        "agent": approval.agent,
        "action": approval.action.get("action", {}),
        "resource": approval.action.get("resource", {}),
        "risk": {"level": approval.risk.value, "factors": list(approval.factors)},
        "policies": list(approval.policies),
        "reasons": list(approval.reasons),
        "approvers": str(approval.requirement),
        "bundle": approval.bundle,
        "action_hash": approval.action_hash,
        "deadline_us": approval.deadline_us,
    }


def shown_hash(approval: Approval) -> str:
    """SHA-256 (hex) of the view."""
    return hashlib.sha256(canonical(fold(view(approval)))).hexdigest()


class Approvals:
    def __init__(self, store: Store, clock: Clock, key: bytes) -> None:
        self._store = store
        self._clock = clock
        self._key = key

    def fresh(self, request: Request, decision: Decision, now_us: int) -> Approval:
        """A new approval for exactly this action; not stored yet."""
        requirement = decision.requirement
        if requirement is None:
            raise ApprovalRequired(
                "a policy asks for review but names no approvers",
                decision=decision,
                approval_id="",
                hint="add `@approvers` to the policy",
            )
        return Approval(
            id="apr_" + secrets.token_hex(8),
            version=1,
            state=State.PENDING,
            action=msgspec.to_builtins(request),
            action_hash=request.action_hash(decision.bundle),
            requester=request.subject,
            agent=request.agent_id,
            requirement=requirement,
            policies=decision.policies,
            reasons=decision.reasons,
            risk=decision.risk.level,
            factors=decision.risk.factors,
            labels=decision.labels,
            bundle=decision.bundle,
            trace_id=decision.trace_id,
            created_us=now_us,
            deadline_us=now_us + requirement.expires_s * 1_000_000,
        )

    def match(self, action_hash: str, states: Iterable[State] = (State.APPROVED, State.PENDING)) -> Approval | None:
        """The live approval of exactly this action, an approved one before a pending one."""
        now_us = self._clock.now_us()
        for state in states:
            for stored in self._store.rows(ROOM, state=state.value, lookup=action_hash, limit=20):
                approval = load(stored)
                if not approval.due(now_us):
                    return approval
        return None

    def get(self, id: str) -> Approval:
        """The approval, or `NotFound`. A unique beginning of the id is enough."""
        stored = self._store.row(ROOM, id)
        if stored is not None:
            return load(stored)
        near = [r for r in self._store.rows(ROOM, after=id, limit=2) if r.id.startswith(id)] if len(id) > 4 else []
        if len(near) == 1:
            return load(near[0])
        raise NotFound(f"no approval `{id}`", hint="`checkrein approvals list --state all` shows the ids")

    def all(self, state: State | None = State.PENDING, limit: int = 1000) -> list[Approval]:
        """By id; expired ones that nobody swept yet are left out of `pending` and shown as `expired`."""
        self.sweep()
        found: list[Approval] = []
        while len(found) < limit:
            after = found[-1].id if found else ""
            rows = self._store.rows(
                ROOM, state=state.value if state else "", after=after, limit=min(500, limit - len(found))
            )
            if not rows:
                break
            found.extend(load(stored) for stored in rows)
        return sorted(found, key=lambda approval: approval.created_us)

    def vote(
        self,
        id: str,
        *,
        voter: str,
        roles: tuple[str, ...],
        approve: bool,
        reason: str = "",
        auth: str,
        shown: str = "",
        simulated: bool = False,
    ) -> Approval:
        """Cast one vote. A vote that does not count is refused with its reason, and recorded."""
        for _ in range(ATTEMPTS):
            approval = self.get(id)
            now_us = self._clock.now_us()
            if approval.state is State.PENDING and approval.due(now_us):
                self.sweep()
                approval = self.get(id)
            cast = Vote(
                voter=voter,
                roles=roles,
                approve=approve,
                reason=reason,
                auth=auth,
                simulated=simulated,
                action_hash=approval.action_hash,
                shown=shown or shown_hash(approval),
                at_us=now_us,
            )
            try:
                after = vote(approval, cast)
            except (VoteRefused, IllegalEvent) as error:
                code = error.code if isinstance(error, VoteRefused) else "ended"
                draft = records.vote_refused(approval, voter, code=code, auth=auth, now_us=now_us)
                self._store.commit(Unit(drafts=(draft,))).result()
                raise
            drafts: list[Draft] = [records.vote(after, cast, key=self._key)]
            if after.state is not State.PENDING:
                drafts.append(records.approval("approval.decided", after, key=self._key))
            try:
                self._store.commit(Unit(tuple(drafts), (save(after),))).result()
            except StoreConflict:
                continue
            return after
        raise StoreConflict(f"approval `{id}` keeps changing", hint="look at it and vote again")

    def sweep(self) -> int:
        """Expire what is past its deadline; the number of approvals that expired. Safe to run anywhere, any time.

        A sweeper that never runs lets nothing through: the deadline is checked at the vote and at the start too.
        """
        expired = 0
        now_us = self._clock.now_us()
        for state in (State.PENDING, State.APPROVED):
            after = ""
            while rows := self._store.rows(ROOM, state=state.value, after=after, limit=500):
                after = rows[-1].id
                for approval in map(load, rows):
                    if approval.due(now_us):
                        expired += self._expire(approval, now_us)
        return expired

    def _expire(self, approval: Approval, now_us: int) -> int:
        ended = move(approval, Event.DEADLINE, now_us)
        draft = records.approval("approval.expired", ended, key=self._key)
        try:
            self._store.commit(Unit((draft,), (save(ended),))).result()
        except StoreConflict:
            return 0  # somebody voted or swept first
        return 1
