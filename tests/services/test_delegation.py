"""Votes given away, and the principal chain, as people and processes meet them."""

from __future__ import annotations

import msgspec
import pytest

from checkrein.compose import System, open_system
from checkrein.flow.approval import Approval, State, VoteRefused
from checkrein.model import (
    Action,
    ApiKey,
    BadRequest,
    Decision,
    Factor,
    NotFound,
    Outcome,
    Permission,
    Request,
    Requirement,
    Resource,
    Subject,
)
from checkrein.model.people import Absence, People, Person
from checkrein.ports import RecordQuery, Unit
from checkrein.services.approvals import Approvals, save
from checkrein.services.delegation import Delegations
from checkrein.services.electorate import Seat
from checkrein.storage.memory import MemoryStore

DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US


class StandingClock:
    def __init__(self) -> None:
        self.us = NOW_US

    def now_us(self) -> int:
        return self.us


PEOPLE = People(
    people={
        "alice": Person(roles=("finance",)),
        "bob": Person(roles=("finance",), delegate="carol", away=(Absence(20_001, 20_002),)),
        "carol": Person(),
        "dave": Person(roles=("security",)),
    },
    agents={"bot": "dave"},
)


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def approvals(clock: StandingClock) -> Approvals:
    return Approvals(MemoryStore(clock), clock, b"k" * 32, PEOPLE)


def pending(approvals: Approvals, *factors: Factor, agent: str = "", caller: str = "", **context: object) -> Approval:
    asked = Request(
        Subject("user", "alice"),
        Action("say"),
        Resource("tool", "say"),
        {"agent": {"id": agent}, **context} if agent else context,
    )
    decision = Decision(
        outcome=Outcome.REQUIRE_REVIEW,
        policies=("look",),
        requirement=Requirement(factors or (Factor(1, "finance"),), 30 * 86_400),
        bundle="sha256:1",
        trace_id="0" * 32,
    )
    fresh = approvals.fresh(asked, decision, approvals._clock.now_us(), caller=caller)
    approvals._store.commit(Unit(saves=(save(fresh),))).result()
    return fresh


def vote(approvals: Approvals, id: str, voter: str, *, on_behalf_of: str = "", approve: bool = True) -> Approval:
    return approvals.vote(id, voter=voter, approve=approve, auth="local", on_behalf_of=on_behalf_of)


def refused(approvals: Approvals, id: str, voter: str, **more: str) -> str:
    with pytest.raises(VoteRefused) as error:
        vote(approvals, id, voter, **more)
    return error.value.code


def voted(approvals: Approvals) -> dict[str, object]:
    (record,) = approvals._store.records(RecordQuery(kinds=("approval.voted",)))
    found = record.body["vote"]
    assert isinstance(found, dict)
    return found


def test_who_stands_in_for_somebody_away_votes_with_their_roles_and_the_record_says_so(
    approvals: Approvals, clock: StandingClock
):
    id = pending(approvals).id
    assert refused(approvals, id, "carol") == "wrong_role"
    clock.us += DAY_US
    after = vote(approvals, id, "carol")
    assert (after.state, after.votes[0].roles) == (State.APPROVED, ("finance",))
    assert (voted(approvals)["on_behalf_of"], voted(approvals)["via"]) == ("bob", [])


def test_a_vote_is_given_away_and_taken_back_with_a_record_of_each(approvals: Approvals):
    given = approvals.electorate.delegations.give("bob", "dave", from_us=NOW_US, until_us=NOW_US + DAY_US, auth="local")
    assert approvals.electorate.delegations.all() == [given]
    id = pending(approvals).id
    approvals.electorate.delegations.end("bob", auth="local")
    assert approvals.electorate.delegations.all() == []
    assert refused(approvals, id, "dave") == "wrong_role"
    with pytest.raises(NotFound, match="`bob` has given nobody"):
        approvals.electorate.delegations.end("bob", auth="local")
    kinds = [record.kind for record in approvals._store.records(RecordQuery())]
    assert kinds == ["approval.delegated", "approval.undelegated", "approval.vote_refused"]


def test_giving_anew_replaces_what_was_given(approvals: Approvals):
    for delegate in ("carol", "dave"):
        approvals.electorate.delegations.give("bob", delegate, from_us=NOW_US, until_us=NOW_US + DAY_US, auth="local")
    assert [given.delegate for given in approvals.electorate.delegations.all()] == ["dave"]
    assert refused(approvals, pending(approvals).id, "carol") == "wrong_role"


@pytest.mark.parametrize(
    ("delegator", "delegate", "days", "words"),
    [
        ("mallory", "bob", 1, "nobody here"),
        ("bob", "mallory", 1, "nobody here"),
        ("bob", "bob", 1, "themselves"),
        ("bob", "carol", 0, "over already"),
        ("bob", "carol", 367, "longer than 366 days"),
    ],
)
def test_a_delegation_that_makes_no_sense_is_refused(
    approvals: Approvals, delegator: str, delegate: str, days: int, words: str
):
    with pytest.raises(BadRequest, match=words):
        approvals.electorate.delegations.give(
            delegator, delegate, from_us=0, until_us=NOW_US + days * DAY_US, auth="local"
        )
    assert approvals.electorate.delegations.all() == []


def test_a_requester_gains_no_vote_by_giving_theirs_away_or_getting_one(approvals: Approvals):
    id = pending(approvals).id
    for pair in (("alice", "carol"), ("bob", "alice")):
        approvals.electorate.delegations.give(*pair, from_us=NOW_US, until_us=NOW_US + DAY_US, auth="local")
    assert refused(approvals, id, "carol") == "wrong_role"  # alice's roles are not lent on what she asked for
    assert refused(approvals, id, "carol", on_behalf_of="alice") == "no_delegation"
    assert refused(approvals, id, "carol", on_behalf_of="bob") == "no_delegation"  # nor bob's over alice
    assert refused(approvals, id, "alice") == "own_request"
    assert refused(approvals, id, "alice", on_behalf_of="bob") == "no_delegation"


def test_one_person_counts_once_however_many_votes_they_hold(approvals: Approvals, clock: StandingClock):
    approvals.electorate.delegations.give("dave", "carol", from_us=NOW_US, until_us=NOW_US + 9 * DAY_US, auth="local")
    clock.us += DAY_US
    id = pending(approvals, Factor(1, "finance"), Factor(1, "security")).id
    assert vote(approvals, id, "carol", on_behalf_of="dave").missing() == ("1 of finance",)
    assert refused(approvals, id, "carol", on_behalf_of="bob") == "voted"
    assert refused(approvals, id, "dave") == "voted"
    assert vote(approvals, id, "bob").state is State.APPROVED


# --- the principal chain ----------------------------------------------------------------------------------------


def test_the_owner_of_an_agent_does_not_vote_on_what_it_asks(approvals: Approvals):
    asked = pending(approvals, Factor(1, "security"), agent="bot")
    assert asked.chain == ("dave",)
    assert refused(approvals, asked.id, "dave") == "own_request"
    assert vote(approvals, pending(approvals, Factor(1, "security"), agent="other").id, "dave").state is State.APPROVED


def test_who_takes_an_agent_over_does_not_vote_on_what_it_asked_before(approvals: Approvals, clock: StandingClock):
    id = pending(approvals, agent="bot").id
    later = Approvals(approvals._store, clock, b"k" * 32, msgspec.structs.replace(PEOPLE, agents={"bot": "bob"}))
    assert refused(later, id, "bob") == "own_request"
    assert refused(later, id, "dave") == "own_request"  # and who had it then does not either


@pytest.mark.parametrize("behalf", ["bob", ["bob"], ["erin", "bob"]])
def test_nobody_on_whose_behalf_it_runs_votes(approvals: Approvals, behalf: object):
    asked = pending(approvals, on_behalf_of=behalf)
    assert "bob" in asked.chain
    assert refused(approvals, asked.id, "bob") == "own_request"


@pytest.mark.parametrize("behalf", ["", [], [""], 5, [5], {"id": "bob"}, ["a"] * 17])
def test_a_request_on_behalf_of_what_is_no_name_is_no_request(behalf: object):
    value = {
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "say"},
        "resource": {"type": "tool", "id": "say"},
        "context": {"on_behalf_of": behalf},
    }
    with pytest.raises(BadRequest, match="on_behalf_of"):
        Request.from_json(value)


def test_on_whose_behalf_it_runs_is_part_of_the_action():
    one, other = (
        Request(Subject("user", "a"), Action("say"), Resource("tool", "say"), {"on_behalf_of": name}) for name in "bc"
    )
    assert one.action_hash("sha256:1") != other.action_hash("sha256:1")


def test_the_owner_of_the_key_an_agent_comes_with_does_not_vote(folder_system: System):
    keys, approvals = folder_system.keys, folder_system.approvals
    may = (Permission.DECIDE,)
    bots: ApiKey = keys.create("pep", owner="bob", agent="courier", permissions=may, by="tests")[0]
    shared: ApiKey = keys.create("gateway", owner="bob", permissions=may, by="tests")[0]
    mail = Request(
        Subject("user", "alice"),
        Action("send_email", {"input": {"to": "a", "subject": "s", "body": "b"}}),
        Resource("tool", "mail"),
        {"agent": {"id": "courier"}},
    )
    made = folder_system.gateway.evaluate_sync(mail, caller=bots.id)
    assert refused(approvals, made.approval_id, "bob") == "own_request"
    assert [seat.person for seat in approvals.voters(approvals.get(made.approval_id))] == ["carol"]
    other = msgspec.structs.replace(mail, context={"agent": {"id": "else"}})
    made = folder_system.gateway.evaluate_sync(other, caller=shared.id)
    assert vote(approvals, made.approval_id, "bob").state is State.APPROVED


@pytest.fixture
def folder_system(folder):  # type: ignore[no-untyped-def]
    opened = open_system(folder)
    yield opened
    opened.close()


# --- who may vote -----------------------------------------------------------------------------------------------


def test_who_may_vote_is_told_with_whose_vote_and_the_needed_ones_first(approvals: Approvals, clock: StandingClock):
    asked = pending(approvals, Factor(1, "security"), Factor(1, "finance"))
    assert approvals.voters(asked) == (Seat("bob", "", True), Seat("dave", "", True))
    clock.us += DAY_US
    assert approvals.voters(asked) == (Seat("bob", "", True), Seat("carol", "bob", True), Seat("dave", "", True))
    begun = vote(approvals, asked.id, "carol")
    assert approvals.voters(begun) == (Seat("dave", "", True),)


def test_delegations_of_a_store_are_read_by_every_process(clock: StandingClock):
    store = MemoryStore(clock)
    Delegations(store, clock, PEOPLE).give("bob", "dave", from_us=NOW_US, until_us=NOW_US + 1, auth="local")
    assert [found.delegator for found in Delegations(store, clock, PEOPLE).represented("dave", (), NOW_US)] == ["bob"]
