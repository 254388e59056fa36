"""What a grant covers, and that it is never used more often or longer than people said."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from checkrein.flow.approval import Approval, IllegalEvent, Vote, VoteRefused, vote
from checkrein.flow.approval import State as ApprovalState
from checkrein.flow.grant import TRANSITIONS, Event, Grant, State, move, opened, shape, use
from checkrein.model import (
    Action,
    Decision,
    Factor,
    Level,
    Outcome,
    Request,
    Requirement,
    Resource,
    Risk,
    Subject,
)
from checkrein.model.requirement import Terms

NOW, HOUR_S = 1_000_000, 3600
TERMS = Terms(HOUR_S, 2, ("to",))


def request(who: str = "alice", tool: str = "pay", agent: str = "bot", **input: object) -> Request:
    given = {"to": "ACME", "amount": 5, **input}
    return Request(
        Subject("user", who), Action(tool, {"input": given}), Resource("tool", tool), {"agent": {"id": agent}}
    )


def approval(people: int = 1, terms: Terms | None = TERMS, risk: Level = Level.AMBER) -> Approval:
    asked = request()
    return Approval(
        id="apr_1",
        version=1,
        state=ApprovalState.PENDING,
        action=msgspec.to_builtins(asked),
        action_hash="hash",
        requester=asked.subject,
        agent="bot",
        requirement=Requirement((Factor(people, "finance"),), HOUR_S, grant=terms),
        policies=("pay-large",),
        reasons=(),
        risk=risk,
        factors=(),
        labels=(),
        bundle="sha256:1",
        trace_id="0" * 32,
        created_us=0,
        deadline_us=10**15,
    )


def by(voter: str, terms: Terms | None = TERMS, *, approve: bool = True) -> Vote:
    return Vote(
        voter=voter,
        roles=("finance",),
        approve=approve,
        auth="local",
        action_hash="hash",
        shown="",
        at_us=NOW,
        grant=terms,
    )


def grant() -> Grant:
    made = opened("grt_1", vote(approval(), by("bob")), NOW)
    assert made is not None
    return made


def decision(level: Level = Level.AMBER, **changed: object) -> Decision:
    asked = Decision(
        outcome=Outcome.REQUIRE_REVIEW,
        risk=Risk(level, 50),
        policies=("pay-large",),
        requirement=approval().requirement,
    )
    return msgspec.structs.replace(asked, **changed)


def test_a_grant_is_for_everything_of_an_action_but_its_arguments():
    asked = request()
    deletes = msgspec.structs.replace(asked.action, properties={**asked.action.properties, "method": "DELETE"})
    assert shape(msgspec.structs.replace(asked, action=deletes)) != shape(asked)
    assert shape(request(amount=7)) == shape(asked)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(TRANSITIONS, Event)))
def test_an_event_moves_it_as_the_table_says_or_changes_nothing(state: State, event: Event):
    before = msgspec.structs.replace(grant(), state=state)
    if event in TRANSITIONS[state]:
        after = move(before, event, NOW)
        assert (after.state, after.version) == (TRANSITIONS[state][event], before.version + 1)
        assert bool(after.ended_us) is (not TRANSITIONS[after.state])
    else:
        with pytest.raises(IllegalEvent):
            move(before, event, NOW)


def test_it_is_spent_with_its_last_use():
    first = use(grant(), NOW + 1)
    assert (first.state, first.left, first.last_us) == (State.LIVE, 1, NOW + 1)
    second = use(first, NOW + 2)
    assert (second.state, second.left) == (State.SPENT, 0)
    with pytest.raises(IllegalEvent):
        use(second, NOW + 3)


def test_it_ends_with_its_time_though_nobody_writes_that():
    end = NOW + HOUR_S * 1_000_000
    assert [grant().status(at) for at in (end - 1, end)] == [State.LIVE, State.EXPIRED]
    assert grant().discharges(decision(), end - 1)
    assert not grant().discharges(decision(), end)
    with pytest.raises(IllegalEvent):
        use(grant(), end)


def test_the_named_arguments_must_be_as_they_were_approved():
    assert grant().covers(request(amount=900))
    for other in (request(to="ACME "), request(to=["ACME"]), request(to=None)):
        assert not grant().covers(other)
    number = msgspec.structs.replace(grant(), same={"amount": 1})
    assert number.covers(request(amount=1))
    assert not any(number.covers(request(amount=value)) for value in (1.0, True, "1"))


def test_it_is_for_one_subject_agent_tool_and_resource():
    known = grant().shape
    assert shape(request(amount=900, to="other")) == known
    elsewhere = msgspec.structs.replace(request(), resource=Resource("tool", "other"))
    scoped = msgspec.structs.replace(request(), context={"agent": {"id": "bot"}, "scope": "all"})
    for other in (request("bob"), request(agent="other"), request(tool="other"), elsewhere, scoped):
        assert shape(other) != known


@pytest.mark.parametrize(
    "other",
    [
        decision(Level.RED),
        decision(policies=("pay-large", "another")),
        decision(requirement=None),
        decision(requirement=Requirement((Factor(1, "finance"),), HOUR_S)),
        decision(requirement=Requirement((Factor(2, "finance"),), HOUR_S, grant=TERMS)),
        decision(requirement=Requirement((Factor(1, "finance"),), HOUR_S, grant=Terms(60, 2, ("to",)))),
        decision(requirement=Requirement((Factor(1, "finance"),), HOUR_S, grant=Terms(HOUR_S, 2, ("to", "amount")))),
    ],
    ids=["red", "another policy", "nothing", "no grant", "more people", "a shorter one", "a narrower one"],
)
def test_it_does_not_stand_for_more_than_people_were_asked_for(other: Decision):
    assert grant().discharges(decision(), NOW)
    assert not grant().discharges(other, NOW)


def test_with_several_votes_all_must_give_it_and_the_narrowest_counts():
    first = vote(approval(2), by("bob", Terms(60, 2, ("to",))))
    assert opened("grt_1", vote(first, by("carol", None)), NOW) is None
    both = opened("grt_1", vote(first, by("carol", Terms(HOUR_S, 1, ("to", "amount")))), NOW)
    assert both is not None
    assert (both.terms, both.by, both.same) == (
        Terms(60, 1, ("to", "amount")),
        ("bob", "carol"),
        {"to": "ACME", "amount": 5},
    )


@pytest.mark.parametrize(
    ("asked", "cast", "code"),
    [
        (approval(terms=None), by("bob"), "no_grant"),
        (approval(), by("bob", approve=False), "no_grant"),
        (approval(terms=Terms(HOUR_S, 2, ("memo",))), by("bob", Terms(HOUR_S, 2, ("memo",))), "no_grant"),
        (approval(), by("bob", Terms(HOUR_S + 1, 2, ("to",))), "wide_grant"),
        (approval(), by("bob", Terms(HOUR_S, 3, ("to",))), "wide_grant"),
        (approval(), by("bob", Terms(HOUR_S, 2)), "wide_grant"),
        (approval(), by("bob", Terms(HOUR_S, 2, ("to",), red=True)), "wide_grant"),
        (approval(risk=Level.RED), by("bob"), "red_grant"),
    ],
)
def test_a_grant_that_policy_does_not_allow_is_refused(asked: Approval, cast: Vote, code: str):
    with pytest.raises(VoteRefused) as refused:
        vote(asked, cast)
    assert refused.value.code == code


def test_what_is_red_is_granted_only_where_policy_says_so():
    terms = msgspec.structs.replace(TERMS, red=True)
    made = opened("grt_1", vote(approval(terms=terms, risk=Level.RED), by("bob", terms)), NOW)
    assert made is not None
    requirement = msgspec.structs.replace(decision().requirement, grant=terms)
    assert made.discharges(decision(Level.RED, requirement=requirement), NOW)
