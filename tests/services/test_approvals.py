"""Approvals as people and processes meet them: votes, deadlines, races, and what is found again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from checkrein.compose import System, load_bundle, open_system
from checkrein.flow.approval import Approval, IllegalEvent, State, VoteRefused
from checkrein.ledger import Record
from checkrein.ledger.record import commitment
from checkrein.model import (
    Action,
    Decision,
    Level,
    NotFound,
    Outcome,
    PolicyInvalid,
    Request,
    Requirement,
    Resource,
    Risk,
    StoreConflict,
    StoreUnavailable,
    Subject,
)
from checkrein.model.people import People, Person
from checkrein.model.requirement import escalated, parse_escalation, parse_factors
from checkrein.ports import RecordQuery, Store, Unit
from checkrein.services.approvals import Approvals, save, shown_hash, view
from checkrein.storage.files import DataDir
from checkrein.storage.memory import MemoryStore
from checkrein.storage.sqlite import SqliteStore

HOUR_S = 3600


class MovingClock:
    """A fake clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        return self.us

    def forward(self, seconds: float) -> None:
        self.us += int(seconds * 1_000_000)


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: MovingClock) -> Iterator[Store]:
    made: Store = MemoryStore(clock) if request.param == "memory" else SqliteStore(DataDir(tmp_path / "data"), clock)
    yield made
    made.close()


@pytest.fixture
def approvals(store: Store, clock: MovingClock) -> Approvals:
    return Approvals(store, clock, b"k" * 32)


def request(text: str = "hello", who: str = "alice") -> Request:
    return Request(Subject("user", who), Action("say", {"input": {"text": text}}), Resource("tool", "say"))


def review(approvers: str = "1 of finance", span_s: int = HOUR_S) -> Decision:
    return Decision(
        outcome=Outcome.REQUIRE_REVIEW,
        risk=Risk(Level.AMBER, 40, ("it is loud",)),
        reasons=("somebody should look",),
        policies=("look",),
        requirement=Requirement(parse_factors(approvers), span_s),
        bundle="sha256:1",
        trace_id="0" * 32,
    )


def pending(approvals: Approvals, asked: Request | None = None, decision: Decision | None = None) -> Approval:
    """Opened as the gateway does it."""
    fresh = approvals.fresh(asked or request(), decision or review(), approvals._clock.now_us())
    approvals._store.commit(Unit(saves=(save(fresh),))).result()
    return fresh


def vote(approvals: Approvals, id: str, voter: str = "bob", *roles: str, approve: bool = True, **more: str) -> Approval:
    return approvals.vote(id, voter=voter, roles=roles or ("finance",), approve=approve, auth="local", **more)


def records(store: Store, *kinds: str) -> list[Record]:
    return list(store.records(RecordQuery(kinds=kinds)))


# --- votes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "voter"), [("alice", "alice@example.com"), ("Alice@Example.com", "alice"), ("alice@example.com", "ALICE")]
)
def test_nobody_votes_on_their_own_request_as_the_person_whose_address_they_bear(
    store: Store, clock: MovingClock, who: str, voter: str
):
    people = People(people={"alice": Person(email="alice@example.com"), "bob": Person(email="bob@example.com")})
    approvals = Approvals(store, clock, b"k" * 32, people)
    asked = pending(approvals, request(who=who))
    with pytest.raises(VoteRefused) as refused:
        vote(approvals, asked.id, voter)
    assert refused.value.code == "own_request"


def test_a_person_and_their_address_have_one_vote_and_people_who_share_an_address_one_each(
    store: Store, clock: MovingClock
):
    shared, own = Person(email="desk@example.com"), Person(email="dora@example.com")
    approvals = Approvals(store, clock, b"k" * 32, People(people={"bob": shared, "carol": shared, "dora": own}))
    asked = pending(approvals, decision=review("4 of finance"))
    for name in ("bob", "carol", "dora"):
        vote(approvals, asked.id, name)
    with pytest.raises(VoteRefused) as refused:
        vote(approvals, asked.id, "dora@example.com")
    assert refused.value.code == "voted"


def test_a_name_that_looks_like_a_persons_has_none_of_their_roles(store: Store, clock: MovingClock):
    approvals = Approvals(store, clock, b"k" * 32, People(people={"bob": Person(roles=("finance",))}))
    asked = pending(approvals)
    with pytest.raises(VoteRefused) as refused:
        approvals.vote(asked.id, voter="Bob", approve=True, auth="local")
    assert refused.value.code == "wrong_role"


def test_an_approval_by_the_right_person_is_recorded_with_its_vote(approvals: Approvals, store: Store):
    after = vote(approvals, pending(approvals).id, reason="agreed")
    assert after.state is State.APPROVED
    assert approvals.get(after.id) == after
    voted, decided = records(store)
    assert (voted.kind, voted.body["vote"]["approve"]) == ("approval.voted", True)
    assert voted.body["vote"]["reason_hmac"] == commitment(b"k" * 32, approvals.get(after.id).votes[0].reason)
    assert (decided.kind, decided.body["approval"]["state"], decided.body["approval"]["voters"]) == (
        "approval.decided",
        "approved",
        ["bob"],
    )


def test_the_first_denial_ends_it(approvals: Approvals, store: Store):
    id = pending(approvals, decision=review("2 of finance")).id
    assert vote(approvals, id, "bob").state is State.PENDING
    assert vote(approvals, id, "carol", approve=False).state is State.DENIED
    assert [record.kind for record in records(store)] == ["approval.voted", "approval.voted", "approval.decided"]


def test_a_quorum_over_two_roles_needs_different_people(approvals: Approvals):
    id = pending(approvals, decision=review("2 of finance and 1 of security")).id
    after = vote(approvals, id, "carol", "finance", "security")
    assert after.missing() == ("1 of finance", "1 of security")
    assert vote(approvals, id, "bob", "finance").missing() == ("1 of security",)
    assert vote(approvals, id, "dora", "finance").state is State.APPROVED  # carol then stands for security


@pytest.mark.parametrize(
    ("voter", "roles", "code"),
    [("alice", ("finance",), "own_request"), ("bob", ("security",), "wrong_role"), ("bob", (), "wrong_role")],
)
def test_a_vote_that_does_not_count_is_refused_and_recorded(
    approvals: Approvals, store: Store, voter: str, roles: tuple[str, ...], code: str
):
    id = pending(approvals).id
    with pytest.raises(VoteRefused) as refused:
        approvals.vote(id, voter=voter, roles=roles, approve=True, auth="local")
    assert refused.value.code == code
    assert approvals.get(id).state is State.PENDING
    (record,) = records(store)
    assert (record.kind, record.body["vote"]["code"], record.body["actor"]["id"]) == (
        "approval.vote_refused",
        code,
        voter,
    )


def test_a_second_vote_of_one_person_is_refused_and_recorded(approvals: Approvals, store: Store):
    id = pending(approvals, decision=review("2 of finance")).id
    vote(approvals, id)
    with pytest.raises(VoteRefused):
        vote(approvals, id)
    assert records(store)[-1].body["vote"]["code"] == "voted"


def test_a_vote_on_what_has_ended_is_refused_and_recorded(approvals: Approvals, store: Store):
    id = pending(approvals).id
    vote(approvals, id, approve=False)
    with pytest.raises(IllegalEvent, match="denied"):
        vote(approvals, id, "carol")
    assert records(store)[-1].body["vote"]["code"] == "ended"
    assert approvals.get(id).state is State.DENIED


def test_without_a_record_there_is_no_vote(approvals: Approvals, store: Store, monkeypatch: pytest.MonkeyPatch):
    id = pending(approvals).id

    def refuse(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", refuse)
        with pytest.raises(StoreUnavailable):
            vote(approvals, id)
        assert [approval.id for approval in approvals.all()] == [id]
    assert approvals.get(id).state is State.PENDING
    assert vote(approvals, id).state is State.APPROVED


def test_what_a_voter_was_shown_is_committed_to(approvals: Approvals, store: Store):
    first, second = pending(approvals), pending(approvals, request("other"))
    assert shown_hash(first) == shown_hash(approvals.get(first.id)) != shown_hash(second)
    assert view(first)["action"] == {"name": "say", "properties": {"input": {"text": "hello"}}}
    with pytest.raises(VoteRefused, match="what was shown"):
        vote(approvals, first.id, shown=shown_hash(second))
    vote(approvals, first.id, shown=shown_hash(first))
    vote(approvals, second.id)
    hmacs = [record.body["vote"]["shown_hmac"] for record in records(store, "approval.voted")]
    assert len(set(hmacs)) == 2


def test_a_voter_holds_the_roles_of_the_deployment_and_its_on_call_lists(store: Store, clock: MovingClock):
    people = People(people={"bob": Person(roles=("finance",)), "dora": Person()}, oncall={"oncall": ("dora",)})
    approvals = Approvals(store, clock, b"k" * 32, people)
    steps = parse_escalation("30m: oncall", HOUR_S)
    escalating = Requirement(escalated(parse_factors("2 of finance"), steps), HOUR_S, reason_required=True)
    id = pending(approvals, decision=msgspec.structs.replace(review(), requirement=escalating)).id
    assert approvals.vote(id, voter="bob", approve=True, reason="seen", auth="local").missing() == ("1 of finance",)
    with pytest.raises(VoteRefused, match="`dora` holds none of the roles"):
        approvals.vote(id, voter="dora", approve=True, reason="seen", auth="local")
    clock.forward(HOUR_S / 2)
    with pytest.raises(VoteRefused, match="asks for a reason"):
        approvals.vote(id, voter="dora", approve=True, auth="local")
    assert approvals.vote(id, voter="dora", approve=True, reason="seen", auth="key").state is State.APPROVED
    refused = [record.body["vote"]["code"] for record in records(store, "approval.vote_refused")]
    assert refused == ["wrong_role", "reason_required"]


# --- deadlines ------------------------------------------------------------------------------------------------


def test_a_deadline_ends_what_is_pending_and_what_is_approved(approvals: Approvals, store: Store, clock: MovingClock):
    waiting, agreed = pending(approvals), pending(approvals, request("other"))
    vote(approvals, agreed.id)
    clock.forward(HOUR_S - 1)
    assert approvals.sweep() == 0
    clock.forward(1)
    assert approvals.sweep() == 2
    assert approvals.sweep() == 0
    assert {approvals.get(each.id).state for each in (waiting, agreed)} == {State.EXPIRED}
    assert len(records(store, "approval.expired")) == 2


def test_a_vote_after_the_deadline_expires_it_although_nobody_swept(
    approvals: Approvals, store: Store, clock: MovingClock
):
    id = pending(approvals).id
    clock.forward(HOUR_S)
    with pytest.raises(IllegalEvent, match="expired"):
        vote(approvals, id)
    assert approvals.get(id).state is State.EXPIRED
    assert [record.kind for record in records(store)] == ["approval.expired", "approval.vote_refused"]


def test_what_is_past_its_deadline_matches_nothing_although_nobody_swept(approvals: Approvals, clock: MovingClock):
    for number in range(30):
        first = pending(approvals, decision=review(span_s=60))
        clock.forward(60 + number)
    assert approvals.match(first.action_hash) is None
    live = pending(approvals)
    assert approvals.match(first.action_hash) == live


def test_a_clock_that_jumps_back_revives_nothing(approvals: Approvals, clock: MovingClock):
    id = pending(approvals).id
    clock.forward(HOUR_S)
    approvals.sweep()
    clock.forward(-2 * HOUR_S)
    with pytest.raises(IllegalEvent):
        vote(approvals, id)
    assert approvals.get(id).state is State.EXPIRED


def test_many_expire_together(approvals: Approvals, clock: MovingClock):
    for number in range(600):
        approvals._store.commit(Unit(saves=(save(approvals.fresh(request(str(number)), review(), clock.us)),)))
    approvals._store.commit(Unit()).result()  # and with it all before
    clock.forward(HOUR_S)
    assert approvals.sweep() == 600
    assert approvals.all() == []


# --- finding --------------------------------------------------------------------------------------------------


def test_a_unique_beginning_of_the_id_finds_it_and_an_ambiguous_one_does_not(approvals: Approvals, store: Store):
    given = pending(approvals)
    for id in ("apr_00a", "apr_00ab", "apr_00ac"):
        store.commit(Unit(saves=(save(msgspec.structs.replace(given, id=id)),))).result()
    assert approvals.get("apr_00a").id == "apr_00a"  # the whole id, although others begin with it
    assert approvals.get("apr_00ab").id == "apr_00ab"
    assert approvals.get(given.id[:10]).id == given.id
    with pytest.raises(NotFound, match="more than one approval begins with `apr_00`"):
        approvals.get("apr_00")
    with pytest.raises(NotFound, match="more than one"):
        vote(approvals, "apr_00")


@pytest.mark.parametrize(
    "id", ["", "a", "apr_", "apr_zz", "apr_%", "apr_" + "0" * 5000, "apr_\x1b[2J", "\ud800", "äpr"]
)
def test_an_id_that_names_nothing_is_not_found_and_not_echoed_raw(approvals: Approvals, id: str):
    pending(approvals)
    with pytest.raises(NotFound) as missing:
        approvals.get(id)
    assert str(missing.value).isprintable()
    assert len(str(missing.value)) < 200
    assert "approvals list" in missing.value.hint


def test_a_vote_may_name_the_beginning_too(approvals: Approvals):
    given = pending(approvals)
    assert vote(approvals, given.id[:8]).id == given.id


def test_the_newest_live_approval_of_an_action_is_found_the_approved_one_first(
    approvals: Approvals, clock: MovingClock
):
    agreed = []
    for _ in range(5):
        agreed.append(vote(approvals, pending(approvals).id))
        clock.forward(1)
    hash = agreed[0].action_hash
    assert approvals.match(hash) == agreed[-1]
    waiting = pending(approvals)
    assert approvals.match(hash) == agreed[-1]
    assert approvals.match(hash, (State.PENDING,)) == waiting
    assert approvals.match(hash, (State.DENIED,)) is None
    assert approvals.match("0" * 64) is None


def test_a_thousand_pending_are_listed_oldest_first(approvals: Approvals, clock: MovingClock):
    ids = []
    for number in range(1000):
        clock.forward(0.001)
        fresh = approvals.fresh(request(str(number)), review(), clock.us)
        approvals._store.commit(Unit(saves=(save(fresh),)))
        ids.append(fresh.id)
    approvals._store.commit(Unit()).result()  # and with it all before
    assert [approval.id for approval in approvals.all()] == ids
    assert [approval.id for approval in approvals.all(limit=3)] == ids[:3]


def test_a_list_shows_each_in_the_state_that_people_should_see(
    approvals: Approvals, clock: MovingClock, store: Store, monkeypatch: pytest.MonkeyPatch
):
    old = pending(approvals, decision=review(span_s=60))
    clock.forward(61)
    agreed, denied, waiting = (pending(approvals, request(text)) for text in "abc")
    vote(approvals, agreed.id)
    vote(approvals, denied.id, approve=False)

    def full(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(store, "commit", full)  # nothing can be swept, and everything can be seen
    assert approvals.get(old.id).state is State.PENDING

    def listed(state: State | None) -> list[str]:
        return [approval.id for approval in approvals.all(state)]

    assert listed(State.PENDING) == [waiting.id]
    assert listed(State.EXPIRED) == [old.id]
    assert listed(State.APPROVED) == [agreed.id]
    assert listed(State.DENIED) == [denied.id]
    assert len(listed(None)) == 4


@pytest.mark.parametrize("text", ["\x1b[2J\x07", "\u202eevil", "\x00", "a\r\nb", "🙂" * 1000])
def test_whatever_a_request_holds_is_kept_as_it_is(approvals: Approvals, store: Store, text: str):
    approval = pending(approvals, request(text))
    assert approvals.get(approval.id).request() == request(text)
    vote(approvals, approval.id, reason=text)
    assert all(text.encode() not in record.data for record in records(store, "approval.decided"))


def test_a_review_without_approvers_opens_nothing(approvals: Approvals):
    with pytest.raises(PolicyInvalid, match="names no approvers"):
        approvals.fresh(request(), msgspec.structs.replace(review(), requirement=None), 0)


# --- one approval at a time -----------------------------------------------------------------------------------


def test_an_action_has_one_pending_approval_at_a_time_each_with_an_id_of_its_own(
    approvals: Approvals, clock: MovingClock
):
    ids = []
    for number in range(9):
        first, second = (approvals.fresh(request(), review(), clock.us) for _ in range(2))
        assert first.id == second.id
        ids.append(pending(approvals).id)
        with pytest.raises(StoreConflict):
            pending(approvals)
        if number % 3 == 0:
            vote(approvals, ids[-1])
        elif number % 3 == 1:
            vote(approvals, ids[-1], approve=False)
        else:
            clock.forward(HOUR_S)
    assert len(set(ids)) == 9
    assert approvals.fresh(request("other"), review(), clock.us).id not in ids


def test_ids_cannot_be_guessed_without_the_key(store: Store, clock: MovingClock):
    ids = {Approvals(store, clock, key).fresh(request(), review(), 0).id for key in (b"a" * 32, b"b" * 32)}
    assert len(ids) == 2


def in_threads(*work: Callable[[], None]) -> None:
    barrier = threading.Barrier(len(work))

    def run(each: Callable[[], None]) -> None:
        barrier.wait()
        each()

    threads = [threading.Thread(target=run, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("round", range(12))
def test_of_approve_deny_and_expire_at_once_exactly_one_ends_it(
    approvals: Approvals, store: Store, clock: MovingClock, round: int
):
    id = pending(approvals).id
    late = MovingClock()
    late.us = clock.us + HOUR_S * 1_000_000
    sweeper = Approvals(store, late, b"k" * 32)
    refused: list[Exception] = []

    def cast(voter: str, approve: bool) -> None:
        try:
            vote(approvals, id, voter, approve=approve)
        except IllegalEvent as error:
            refused.append(error)

    in_threads(lambda: cast("bob", True), lambda: cast("carol", False), lambda: sweeper.sweep() and None)
    end = approvals.get(id)
    assert end.state in (State.APPROVED, State.DENIED, State.EXPIRED)
    ends = [record.body["approval"]["state"] for record in records(store, "approval.decided", "approval.expired")]
    # an approval that was given in time may still expire afterwards; nothing else follows anything
    assert ends == [end.state.value] or ends == ["approved", "expired"]
    assert end.version == 1 + len(ends)


def test_of_many_votes_at_once_every_one_counts(approvals: Approvals, store: Store):
    id = pending(approvals, decision=review("12 of finance")).id
    in_threads(*(lambda n=n: vote(approvals, id, f"voter-{n}") and None for n in range(12)))
    end = approvals.get(id)
    assert (end.state, end.version) == (State.APPROVED, 13)
    assert {cast.voter for cast in end.votes} == {f"voter-{n}" for n in range(12)}
    assert len(records(store, "approval.voted")) == 12
    assert len(records(store, "approval.decided")) == 1


def test_of_many_that_ask_at_once_all_join_one_approval(folder: Path):
    system: System = open_system(folder)
    mail = Request(
        Subject("user", "alice"),
        Action("send_email", {"input": {"to": "all", "subject": "s", "body": "b"}}),
        Resource("tool", "mail"),
    )
    ids: list[str] = []
    try:
        for round in range(3):
            asked: list[str] = []
            ask = lambda asked=asked: asked.append(system.gateway.evaluate_sync(mail, caller="t").approval_id)  # noqa: E731
            in_threads(*[ask] * 8)
            assert len(asked) == 8
            assert len(set(asked)) == 1, round
            ids += asked[:1]
            vote(system.approvals, asked[0], approve=False)
        assert len(set(ids)) == 3
        assert len(records(system.store, "approval.requested")) == 3
        assert len(records(system.store, "decision")) == 24
    finally:
        system.close()


def test_when_more_is_asked_for_than_was_approved_people_are_asked_for_all_of_it_once(folder: Path):
    system = open_system(folder)
    asked_for = {"a": "1 of finance"}
    for name in "ab":
        system.pdp.register(
            lambda request, context, name=name: (
                Decision.review(name, approvers=asked_for[name]) if name in asked_for else None
            ),
            name,
        )
    read = Request(Subject("user", "alice"), Action("read_file", {"input": {"path": "a"}}), Resource("tool", "f"))
    try:
        first = system.gateway.evaluate_sync(read, caller="t")
        vote(system.approvals, first.approval_id)
        asked_for["b"] = "1 of security"  # as a policy does that depends on the hour
        second = system.gateway.evaluate_sync(read, caller="t")
        assert second.outcome is Outcome.REQUIRE_REVIEW
        approval = system.approvals.get(second.approval_id)
        assert (approval.missing(), approval.policies, approval.reasons) == (
            ("1 of finance", "1 of security"),
            ("python:a", "python:b"),
            ("a", "b"),
        )
        vote(system.approvals, approval.id, "bob", "finance")
        vote(system.approvals, approval.id, "carol", "security")
        assert system.gateway.evaluate_sync(read, caller="t").outcome is Outcome.ALLOW
        assert system.approvals.get(approval.id).state is State.USED
    finally:
        system.close()


# --- policy that changes meanwhile --------------------------------------------------------------------------------


def mail_asked(system: System) -> Approval:
    mail = Request(
        Subject("user", "alice"),
        Action("send_email", {"input": {"to": "all", "subject": "s", "body": "b"}}),
        Resource("tool", "mail"),
    )
    return system.approvals.get(system.gateway.evaluate_sync(mail, caller="t").approval_id)


def change(system: System, before: str, after: str) -> None:
    policies = system.folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace(before, after))
    system.pdp.replace(load_bundle(system.folder))


def test_what_changed_policies_deny_is_not_voted_on_any_more(folder: Path):
    with closing(open_system(folder)) as system:
        asked = mail_asked(system)
        change(system, 'contains("tool:transfer_funds")', 'contains("effect:external")')
        with pytest.raises(VoteRefused) as refused:
            vote(system.approvals, asked.id)
        assert refused.value.code == "policy_denies"
        assert system.approvals.get(asked.id).state is State.CANCELLED
        kinds = [record.kind for record in records(system.store)]
        assert kinds[-2:] == ["approval.cancelled", "approval.vote_refused"]


def test_policies_that_changed_otherwise_leave_a_vote_as_it_is(folder: Path):
    with closing(open_system(folder)) as system:
        asked = mail_asked(system)
        change(system, "agents move no money", "agents move no money at all")
        assert vote(system.approvals, asked.id).state is State.APPROVED
