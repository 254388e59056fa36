"""An approval's life: who may vote, what ends it, and that it is left exactly once."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.flow.approval import (
    TRANSITIONS,
    Approval,
    Event,
    IllegalEvent,
    State,
    Vote,
    VoteRefused,
    best,
    move,
    vote,
)
from checkrein.model import Factor, Level, Requirement, Subject
from checkrein.model.requirement import Step

DEADLINE = 1_000
SECOND = 1_000_000


def approval(*factors: Factor) -> Approval:
    return Approval(
        id="apr_1",
        version=1,
        state=State.PENDING,
        action={},
        action_hash="hash",
        requester=Subject("user", "alice"),
        agent="bot",
        requirement=Requirement(factors or (Factor(1, "finance"),), 60),
        policies=("pay-large",),
        reasons=("two finance approvers",),
        risk=Level.RED,
        factors=(),
        labels=(),
        bundle="sha256:b",
        trace_id="t",
        created_us=0,
        deadline_us=DEADLINE,
    )


def by(voter: str, *roles: str, approve: bool = True, at_us: int = 1, action_hash: str = "hash") -> Vote:
    return Vote(
        voter=voter,
        roles=roles or ("finance",),
        approve=approve,
        auth="local",
        action_hash=action_hash,
        shown="s",
        at_us=at_us,
    )


def test_one_vote_of_one_is_enough():
    after = vote(approval(), by("bob"))
    assert (after.state, after.version, after.missing()) == (State.APPROVED, 2, ())


@pytest.mark.parametrize("spelt", ["Alice", " ALICE ", "\u0430lice", "\uff41lice", "ali\u200bce", "BOT"])
def test_nobody_votes_on_their_own_request_under_another_spelling(spelt: str):
    with pytest.raises(VoteRefused) as refused:
        vote(approval(), by(spelt))
    assert refused.value.code == "own_request"


@pytest.mark.parametrize("spelt", ["Bob", "\u0412ob", "b\u043eb"])
def test_nobody_votes_twice_under_another_spelling(spelt: str):
    once = vote(approval(Factor(2, "finance")), by("bob"))
    with pytest.raises(VoteRefused) as refused:
        vote(once, by(spelt))
    assert refused.value.code == "voted"


def test_a_quorum_needs_different_people():
    first = vote(approval(Factor(2, "finance")), by("bob"))
    assert (first.state, first.missing()) == (State.PENDING, ("1 of finance",))
    with pytest.raises(VoteRefused, match="voted already"):
        vote(first, by("bob"))
    assert vote(first, by("carol")).state is State.APPROVED


def test_one_person_counts_for_one_factor():
    both = vote(approval(Factor(1, "finance"), Factor(1, "security")), by("bob", "finance", "security"))
    assert both.state is State.PENDING
    assert len(both.missing()) == 1
    assert vote(both, by("carol", "finance")).state is State.APPROVED


def test_a_person_moves_to_the_factor_that_lets_others_count():
    asked = approval(Factor(1, "finance"), Factor(1, "security"))
    first = vote(asked, by("bob", "finance", "security"))
    assert vote(first, by("carol", "security")).state is State.APPROVED


def test_the_first_denial_ends_it():
    after = vote(approval(Factor(2, "finance")), by("bob", approve=False))
    assert after.state is State.DENIED
    with pytest.raises(IllegalEvent):
        vote(after, by("carol"))


def for_bob(voter: str = "carol", *, via: tuple[str, ...] = (), approve: bool = True) -> Vote:
    """A vote of `voter` in the place of bob, with bob's roles."""
    return msgspec.structs.replace(by(voter, "finance", approve=approve), on_behalf_of="bob", via=via)


def test_a_delegate_uses_up_the_vote_of_both():
    first = vote(approval(Factor(2, "finance")), for_bob())
    assert first.state is State.PENDING
    for again in (by("bob"), by("carol"), for_bob("dave")):
        with pytest.raises(VoteRefused) as refused:
            vote(first, again)
        assert refused.value.code == "voted"
    assert vote(first, by("dave")).state is State.APPROVED


@pytest.mark.parametrize("chain", [("carol",), ("bob",), ("erin",)])
def test_nobody_on_the_principal_chain_votes_or_passes_a_vote_on(chain: tuple[str, ...]):
    asked = msgspec.structs.replace(approval(), chain=chain)
    with pytest.raises(VoteRefused) as refused:
        vote(asked, for_bob(via=("erin",)))
    assert refused.value.code == "own_request"


def test_of_a_persons_votes_the_one_that_helps_is_cast():
    asked = approval(Factor(1, "finance"), Factor(1, "security"))
    begun = vote(asked, by("dave", "finance"))
    own, given = by("carol", "finance"), msgspec.structs.replace(by("carol", "security"), on_behalf_of="bob")
    after, cast = best(begun, [own, given])
    assert (after.state, cast.on_behalf_of) == (State.APPROVED, "bob")
    assert best(asked, [own, given])[1] is own


@pytest.mark.parametrize(
    ("cast", "code"),
    [
        (by("alice"), "own_request"),
        (by("bot"), "own_request"),
        (by("bob", "marketing"), "wrong_role"),
        (by("bob", action_hash="other"), "stale_hash"),
    ],
)
def test_votes_that_do_not_count_are_refused_with_their_reason(cast: Vote, code: str):
    with pytest.raises(VoteRefused) as refused:
        vote(approval(), cast)
    assert refused.value.code == code


def escalating() -> Approval:
    """One of finance; after 30 seconds the on-call list may vote too, after 60 the ciso."""
    asked = approval(Factor(1, "finance", (Step(30, "oncall"), Step(60, "ciso"))))
    return msgspec.structs.replace(asked, deadline_us=3_600 * SECOND)


@pytest.mark.parametrize(("role", "from_s"), [("finance", 0), ("oncall", 30), ("ciso", 60)])
def test_who_may_vote_follows_from_the_age_of_the_approval(role: str, from_s: int):
    for age_s in (0, 29, 30, 59, 60, 3_599):
        cast = by("bob", role, at_us=age_s * SECOND)
        if age_s >= from_s:
            assert vote(escalating(), cast).state is State.APPROVED
        else:
            with pytest.raises(VoteRefused) as refused:
                vote(escalating(), cast)
            assert refused.value.code == "wrong_role"


def test_a_clock_before_the_request_escalates_nothing():
    with pytest.raises(VoteRefused):
        vote(escalating(), by("bob", "ciso", at_us=-(10**15)))


def test_an_escalation_lets_others_vote_and_asks_for_as_many():
    asked = approval(Factor(2, "finance", (Step(60, "ciso"),)))
    asked = msgspec.structs.replace(asked, deadline_us=3_600 * SECOND)
    first = vote(asked, by("dave", "ciso", at_us=60 * SECOND))
    assert (first.state, first.missing()) == (State.PENDING, ("1 of finance",))
    assert vote(first, by("bob", "finance", at_us=61 * SECOND)).state is State.APPROVED


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.parametrize("reason", ["", "  ", "\t\n"])
def test_where_policy_asks_for_a_reason_a_vote_without_one_is_refused(approve: bool, reason: str):
    strict = msgspec.structs.replace(approval(), requirement=Requirement((Factor(1, "finance"),), 60, True))
    cast = by("bob", approve=approve)
    with pytest.raises(VoteRefused) as refused:
        vote(strict, msgspec.structs.replace(cast, reason=reason))
    assert refused.value.code == "reason_required"
    ended = vote(strict, msgspec.structs.replace(cast, reason="seen the invoice"))
    assert ended.state is (State.APPROVED if approve else State.DENIED)


def test_the_deadline_is_checked_at_the_vote():
    with pytest.raises(IllegalEvent, match="expired"):
        vote(approval(), by("bob", at_us=DEADLINE))


def test_an_approval_past_its_deadline_shows_as_expired_before_anyone_swept():
    assert approval().status(DEADLINE) is State.EXPIRED
    assert approval().status(DEADLINE - 1) is State.PENDING


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_an_event_moves_it_as_the_table_says_or_changes_nothing(state: State, event: Event):
    before = msgspec.structs.replace(approval(), state=state)
    if event in TRANSITIONS[state]:
        after = move(before, event, 7)
        assert after.state is TRANSITIONS[state][event]
        assert after.version == before.version + 1
        assert bool(after.ended_us) is (not TRANSITIONS[after.state])
    else:
        with pytest.raises(IllegalEvent):
            move(before, event, 7)


PEOPLE = st.sampled_from(["alice", "bob", "carol", "dave"])
ROLES = st.lists(st.sampled_from(["finance", "security", "legal"]), unique=True, min_size=1)
VOTES = st.builds(lambda voter, roles, approve: by(voter, *roles, approve=approve), PEOPLE, ROLES, st.booleans())


@given(st.lists(VOTES, max_size=8))
def test_approved_means_that_every_factor_has_its_own_people(votes: list[Vote]):
    asked = approval(Factor(2, "finance"), Factor(1, "security"))
    for cast in votes:
        try:
            asked = vote(asked, cast)
        except (VoteRefused, IllegalEvent):
            continue
    people = [cast for cast in asked.votes if cast.approve]
    enough = any(
        all("finance" in person.roles for person in chosen[:2]) and "security" in chosen[2].roles
        for chosen in itertools.permutations(people, 3)
    )
    denied = any(not cast.approve for cast in asked.votes)
    assert (asked.state is State.APPROVED) is (enough and not denied)
    assert "alice" not in [cast.voter for cast in asked.votes]
