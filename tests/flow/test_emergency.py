"""Who may break the glass, what that opens, and who may sign for it."""

from __future__ import annotations

import msgspec
import pytest

from checkrein.flow.approval import Approval, Breach, IllegalEvent, State, Vote, VoteRefused, vote
from checkrein.flow.emergency import Review, ReviewState, break_glass, sign
from checkrein.model import Factor, Level, Requirement, Subject

SECOND, LIFE_S, ROLE = 1_000_000, 900, "commander"


def approval(**changed: object) -> Approval:
    asked = Approval(
        id="apr_1",
        version=1,
        state=State.PENDING,
        action={},
        action_hash="hash",
        requester=Subject("user", "alice"),
        agent="bot",
        chain=("dave",),
        requirement=Requirement((Factor(2, "finance"),), 3600),
        policies=("pay",),
        reasons=(),
        risk=Level.RED,
        factors=(),
        labels=(),
        bundle="sha256:1",
        trace_id="t",
        created_us=0,
        deadline_us=3600 * SECOND,
    )
    return msgspec.structs.replace(asked, **changed)


def broken(
    asked: Approval, by: str = "bob", reason: str = "fire", at_s: int = 1, *roles: str
) -> tuple[Approval, Review]:
    breach = Breach(by=by, auth="local", reason=reason, at_us=at_s * SECOND)
    return break_glass(asked, breach, role=ROLE, roles=roles or (ROLE,), life_s=LIFE_S)


def test_it_is_approved_for_a_short_time_and_leaves_a_review():
    after, review = broken(approval())
    assert (after.state, after.deadline_us) == (State.APPROVED, (1 + LIFE_S) * SECOND)
    assert after.broken is not None
    assert after.broken.by == "bob"
    assert (review.approval, review.state, review.broken_by) == ("apr_1", ReviewState.OPEN, "bob")


def test_it_gains_no_time():
    after, _ = broken(approval(), at_s=3599)
    assert after.deadline_us == 3600 * SECOND


@pytest.mark.parametrize(
    ("by", "roles", "reason", "code"),
    [
        ("bob", ("finance",), "fire", "wrong_role"),
        ("bob", (), "fire", "wrong_role"),
        ("alice", (ROLE,), "fire", "own_request"),
        ("bot", (ROLE,), "fire", "own_request"),
        ("dave", (ROLE,), "fire", "own_request"),
        ("bob", (ROLE,), "  ", "reason_required"),
    ],
)
def test_who_may_not_or_gives_no_reason_is_refused(by: str, roles: tuple[str, ...], reason: str, code: str):
    breach = Breach(by=by, auth="local", reason=reason, at_us=SECOND)
    with pytest.raises(VoteRefused) as refused:
        break_glass(approval(), breach, role=ROLE, roles=roles, life_s=LIFE_S)
    assert refused.value.code == code


def test_nobody_breaks_the_glass_for_policies_that_would_stay_loosened():
    asked = approval(action={"action": {"name": "rollout.loosen"}})
    with pytest.raises(VoteRefused) as refused:
        broken(asked)
    assert refused.value.code == "lasting"


def test_neither_asker_nor_signer_gets_around_the_chain_by_another_spelling_of_their_name():
    for spelt in ("Alice", "\u0430lice", "DAVE"):
        with pytest.raises(VoteRefused, match="stands on the principal chain"):
            broken(approval(), spelt)
    after, review = broken(approval())
    with pytest.raises(VoteRefused, match="broke the glass and cannot sign"):
        sign(review, after, "Bob", role=ROLE, roles=(ROLE,), note="was right", now_us=5)


def test_without_a_configured_role_nobody_may():
    breach = Breach(by="bob", auth="local", reason="fire", at_us=SECOND)
    with pytest.raises(VoteRefused, match="nobody may break the glass here"):
        break_glass(approval(), breach, role="", roles=("", "finance"), life_s=LIFE_S)


@pytest.mark.parametrize("state", [state for state in State if state is not State.PENDING])
def test_only_what_is_pending_can_be_broken(state: State):
    with pytest.raises(IllegalEvent):
        broken(approval(state=state))


def test_what_is_past_its_deadline_is_not_brought_back():
    with pytest.raises(IllegalEvent, match="expired"):
        broken(approval(), at_s=3600)


def test_nobody_votes_on_it_any_more():
    after, _ = broken(approval())
    cast = Vote(
        voter="carol", roles=("finance",), approve=False, auth="local", action_hash="hash", shown="", at_us=2 * SECOND
    )
    with pytest.raises(IllegalEvent):
        vote(after, cast)


@pytest.mark.parametrize("role", [ROLE, "finance"])
def test_somebody_else_signs_once(role: str):
    after, review = broken(approval())
    signed = sign(review, after, "carol", role=ROLE, roles=(role,), note="was right", now_us=5)
    assert (signed.state, signed.signed_by, signed.note, signed.version) == (
        ReviewState.SIGNED,
        "carol",
        "was right",
        2,
    )
    with pytest.raises(IllegalEvent):
        sign(signed, after, "erin", role=ROLE, roles=(role,), note="again", now_us=6)


@pytest.mark.parametrize(
    ("signer", "roles", "note", "code"),
    [
        ("bob", (ROLE,), "fine", "own_review"),
        ("alice", (ROLE,), "fine", "own_request"),
        ("dave", (ROLE,), "fine", "own_request"),
        ("carol", ("staff",), "fine", "wrong_role"),
        ("carol", (ROLE,), " ", "reason_required"),
    ],
)
def test_who_broke_it_and_who_it_was_for_do_not_sign(signer: str, roles: tuple[str, ...], note: str, code: str):
    after, review = broken(approval())
    with pytest.raises(VoteRefused) as refused:
        sign(review, after, signer, role=ROLE, roles=roles, note=note, now_us=5)
    assert refused.value.code == code
