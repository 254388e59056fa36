"""Access requests by the OpenID AuthZEN profile: a denial that people may lift, submitted by who enforces it.

A decision that needs people opens its approval itself, so a submission adds none: it names the evaluation, proves that
it is about the very same action, and is handed the task, which is the approval. The profile calls this shared state:
nothing that the submitter carries is believed beyond what the ledger holds.
"""

from __future__ import annotations

import msgspec

from checkrein.flow.approval import Approval, State
from checkrein.model import BadRequest, CheckreinError, Request
from checkrein.model.stamp import moment, stamp
from checkrein.ports import Clock, RecordQuery, Store
from checkrein.services.approvals import Approvals
from checkrein.services.idempotency import Idempotency, Once
from checkrein.services.pdp import Pdp


class AccessRefused(CheckreinError):
    """A submission that was not taken; `kind` is the profile's name of the error."""

    def __init__(self, kind: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class Denial(msgspec.Struct, frozen=True):
    """What the denied decision said, echoed by the submitter; other members say nothing that is not known here."""

    expires_at: str
    evaluation_id: str = ""
    binding_token: str = ""


class Task(msgspec.Struct, frozen=True):
    """An approval as the profile sees it: `pending` is left exactly once, for good."""

    id: str
    status: str
    expires_at: str
    approved_at: str = ""


#: what an approval is once it was approved, whatever became of it then
_APPROVED = (State.APPROVED, State.EXECUTING, State.USED, State.UNKNOWN)


def task(approval: Approval, now_us: int) -> Task:
    """The task of an approval; one that was approved and then not used in time stays approved, and has run out."""
    state = approval.status(now_us)
    lapsed = state in (State.EXPIRED, State.CANCELLED) and not approval.missing()
    status = State.APPROVED if state in _APPROVED or lapsed else state
    agreed = status is State.APPROVED and approval.votes
    return Task(
        id=approval.id,
        status=status.value,
        expires_at=stamp(approval.deadline_us),
        approved_at=stamp(approval.votes[-1].at_us) if agreed else "",
    )


class AccessRequests:
    def __init__(self, store: Store, pdp: Pdp, approvals: Approvals, keys: Idempotency, clock: Clock) -> None:
        self._store = store
        self._pdp = pdp
        self._approvals = approvals
        self._keys = keys
        self._clock = clock

    def submit(self, request: Request, denial: Denial, once: Once | None) -> Approval:
        """The approval that this evaluation asked for; the same however often it is submitted.

        Raises `AccessRefused` for what is not bound to it, or too late; `IdempotencyConflict` for a key that was sent
        with something else.
        """
        if denial.binding_token:
            raise _unbound("this decision point signs no binding tokens, so this one is not of it")
        if not denial.evaluation_id:
            raise _unbound("the submission names no evaluation")
        now_us = self._clock.now_us()
        try:
            expires_us = moment(denial.expires_at, now_us)
        except BadRequest as error:
            raise _unbound("`denial.expires_at` is no time") from error
        approval = self._find(request, denial.evaluation_id)
        if approval is None:
            raise _unbound("no evaluation of this subject, action and resource under the current policy has this id")
        if expires_us != approval.deadline_us:
            raise _unbound("`denial.expires_at` is not what the decision said")
        if approval.due(now_us):
            raise AccessRefused("expired_denial", "the time for this request is over", hint="ask for a decision again")
        if once:
            self._keys.note(once, evaluation_id=denial.evaluation_id, trace_id=approval.trace_id)
        return approval

    def _find(self, request: Request, evaluation_id: str) -> Approval | None:
        asked = self._pdp.resolve(request).request
        for bundle in self._pdp.digests:
            for approval in self._approvals.of_action(asked.action_hash(bundle)):
                if self._asked_by(approval, evaluation_id):
                    return approval
        return None

    def _asked_by(self, approval: Approval, evaluation_id: str) -> bool:
        """Whether this evaluation opened the approval, or joined it."""
        decisions = self._store.records(RecordQuery(approval=approval.id, kinds=("decision",)))
        return any(_decided(record.body).get("evaluation_id") == evaluation_id for record in decisions)


def _decided(body: dict[str, object]) -> dict[str, object]:
    found = body.get("decision")
    return found if isinstance(found, dict) else {}


def _unbound(message: str) -> AccessRefused:
    hint = "submit subject, action, resource and context as they were decided on, with its `evaluation_id`"
    return AccessRefused("invalid_denial_binding", message, hint=hint)
