"""Break-glass: one person with a configured role lets an action run that people were asked about, for a short time.

It is the way of an emergency, so it is loud: it needs a reason, its owners are told, and it leaves a review that stays
open until somebody else has signed it. It overrides people who have not answered yet, never policy that denies, and
never the principal chain: nobody breaks the glass for their own request.
"""

from __future__ import annotations

import enum

import msgspec

from checkrein.flow.approval import Approval, Breach, Event, IllegalEvent, State, VoteRefused, move
from checkrein.model.likeness import alike
from checkrein.model.request import LOOSEN


class ReviewState(enum.StrEnum):
    OPEN = "open"
    SIGNED = "signed"


class ReviewEvent(enum.StrEnum):
    """What can happen to a review."""

    SIGNATURE = "somebody else signs"


REVIEWS: dict[ReviewState, dict[ReviewEvent, ReviewState]] = {
    ReviewState.OPEN: {ReviewEvent.SIGNATURE: ReviewState.SIGNED},
    ReviewState.SIGNED: {},
}


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """The look afterwards at one broken glass; `approval` is its id, too."""

    approval: str
    version: int
    state: ReviewState
    broken_by: str
    at_us: int
    signed_by: str = ""
    signed_us: int = 0
    note: str = ""


def break_glass(
    approval: Approval, breach: Breach, *, role: str, roles: tuple[str, ...], life_s: int, also: tuple[str, ...] = ()
) -> tuple[Approval, Review]:
    """The approval as approved, with little time left, and the review that it needs. `also` are other names of who
    does it.

    Raises `VoteRefused` for somebody who may not, `IllegalEvent` when it is not pending any more.
    """
    now_us = breach.at_us
    if approval.status(now_us) is not State.PENDING:
        raise IllegalEvent(
            f"approval `{approval.id}` is {approval.status(now_us)}, no longer pending",
            hint="send the request again to ask anew",
        )
    hint = "set `approvals.break_glass` to a role, and give it to people"
    if approval.action.get("action", {}).get("name") == LOOSEN:
        raise VoteRefused("lasting", "what would be loosened would stay so", hint="wait for the people who are asked")
    _allowed(approval, (breach.by, *also), role, roles=roles, hint=hint)
    if not breach.reason.strip():
        raise VoteRefused("reason_required", "breaking the glass needs a reason", hint="give one with `--reason`")
    deadline_us = min(approval.deadline_us, now_us + life_s * 1_000_000)
    broken = msgspec.structs.replace(approval, broken=breach, deadline_us=deadline_us)
    review = Review(approval=approval.id, version=1, state=ReviewState.OPEN, broken_by=breach.by, at_us=now_us)
    return move(broken, Event.GLASS, now_us), review


def sign(
    review: Review,
    approval: Approval,
    signer: str,
    *,
    role: str,
    roles: tuple[str, ...],
    note: str,
    now_us: int,
    also: tuple[str, ...] = (),
) -> Review:
    """The review once somebody else has looked: with the same role, or one that the policy had asked for. `also` are
    other names of who signs."""
    if ReviewEvent.SIGNATURE not in REVIEWS[review.state]:
        raise IllegalEvent(f"the review of `{review.approval}` is {review.state}", hint="it needs nothing more")
    if alike((signer, *also), (review.broken_by,)):
        raise VoteRefused("own_review", f"`{signer}` broke the glass and cannot sign", hint="ask somebody else")
    asked = (role, *(factor.role for factor in approval.requirement.factors))
    _allowed(approval, (signer, *also), *asked, roles=roles, hint="ask somebody who holds one of them")
    if not note.strip():
        raise VoteRefused("reason_required", "a review says what was found", hint="give it with `--reason`")
    return msgspec.structs.replace(
        review,
        version=review.version + 1,
        state=REVIEWS[review.state][ReviewEvent.SIGNATURE],
        signed_by=signer,
        signed_us=now_us,
        note=note,
    )


def _allowed(approval: Approval, names: tuple[str, ...], *asked: str, roles: tuple[str, ...], hint: str) -> None:
    person = names[0]
    if approval.bars(*names):
        raise VoteRefused(
            "own_request", f"`{person}` stands on the principal chain of `{approval.id}`", hint="ask somebody else"
        )
    wanted = [role for role in asked if role]
    if not set(wanted) & set(roles):
        what = f"`{person}` holds none of: {', '.join(wanted)}" if wanted else "nobody may break the glass here"
        raise VoteRefused("wrong_role", what, hint=hint)
