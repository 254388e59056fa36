"""An approval as people are shown it before they vote, on this machine or another: what it is, and what is known of it.

All of it is plain values with one form in JSON, so that who asks a server reads the same as who holds the store.
"""

from __future__ import annotations

from typing import Any

import msgspec

from checkrein.flow.approval import Approval, State
from checkrein.ledger import Record
from checkrein.model.stamp import stamp
from checkrein.ports import Clock
from checkrein.services.approvals import Approvals
from checkrein.services.electorate import Seat
from checkrein.services.emergency import Emergencies
from checkrein.services.pdp import Pdp


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What the policies, the people and the tools of now say of an approval."""

    #: whose agreement would bring it on
    may_agree: tuple[Seat, ...]
    #: the policies that ask: where they stand and whose they are, as far as they are still there
    policies: tuple[str, ...]
    #: the tool's arguments as they are declared, those that steer its effect, and from where on they are over a limit
    declared: dict[str, str]
    steering: tuple[str, ...]
    limits: dict[str, int | float]
    #: the arguments as they were before people edited them
    before: dict[str, Any] | None
    #: what became of the review of its broken glass
    review: str
    #: whether it was decided by other policies than those that decide now
    outdated: bool


def as_seen(approval: Approval, now_us: int) -> Approval:
    """With the state that people should see: past its deadline it is expired, swept or not."""
    return msgspec.structs.replace(approval, state=approval.status(now_us))


def without_roles(approval: Approval) -> Approval:
    """Without what people's roles and other names are, which is not for everybody who may see what was decided."""
    votes = (msgspec.structs.replace(cast, roles=(), also=(), via=()) for cast in approval.votes)
    return msgspec.structs.replace(approval, votes=tuple(votes))


def stored(approval: Approval) -> dict[str, object]:
    """The JSON of an approval as it is stored, with what is missing and readable times."""
    value: dict[str, object] = msgspec.to_builtins(approval)
    return value | {
        "missing": list(approval.missing()),
        "created_at": stamp(approval.created_us),
        "deadline_at": stamp(approval.deadline_us),
    }


def event(record: Record) -> dict[str, object]:
    """The JSON of something that happened to an approval: who did it, to what."""
    about = {"seq": record.seq, "at": stamp(record.ts_us), "kind": record.kind}
    return about | {name: record.body[name] for name in ("actor", "action", "approval") if name in record.body}


class Showing:
    def __init__(self, approvals: Approvals, emergencies: Emergencies, pdp: Pdp, clock: Clock) -> None:
        self._approvals = approvals
        self._emergencies = emergencies
        self._pdp = pdp
        self._clock = clock

    def seen(self, approval: Approval) -> Approval:
        """As people are shown it now, and vote on it."""
        return as_seen(self._approvals.shown(approval), self._clock.now_us())

    def details(self, approval: Approval) -> Details:
        """What is known of it now."""
        bundle, request = self._pdp.bundle, approval.request()
        manifest = bundle.manifests.get(request.action.name)
        policies = {policy.id: policy for policy in bundle.policies.policies}

        def place(id: str) -> str:
            if id not in policies:
                return id
            owner = policies[id].annotations.get("owner", "")
            return f"{id} ({policies[id].place}{f', of {owner}' if owner else ''})"

        pending = approval.status(self._clock.now_us()) is State.PENDING
        review = self._emergencies.review(approval.id)
        return Details(
            may_agree=tuple(seat for seat in self._approvals.voters(approval) if seat.needed) if pending else (),
            policies=tuple(map(place, approval.policies)),
            declared={name: str(kind) for name, kind in manifest.input.items()} if manifest else {},
            steering=tuple(manifest.control) if manifest else (),
            limits={name: limit.review_above for name, limit in manifest.limits.items()} if manifest else {},
            before=dict(self._approvals.get(approval.edits).request().action.input) if approval.edits else None,
            review=f"{review.state} {review.signed_by}".strip() if review else "",
            outdated=approval.bundle != bundle.digest,
        )

    def unreviewed(self) -> int:
        """How many broken glasses nobody has reviewed."""
        return len(self._emergencies.reviews())
