"""Playbooks: events in, commands out. No server, no clock."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.flow import action as flow
from checkrein.flow.action import (
    ActionFlow,
    Answer,
    AskPeople,
    Conflicted,
    Decide,
    Decided,
    Deny,
    Durable,
    Ended,
    Execute,
    Fail,
    IllegalEvent,
    Mode,
    Record,
    Refused,
    State,
    Submitted,
)
from checkrein.flow.approval import Approval, Vote, move, vote
from checkrein.flow.approval import Event as ApprovalEvent
from checkrein.flow.approval import State as ApprovalState
from checkrein.model import Decision, Factor, Level, Outcome, Requirement, Subject

NOW = 1_000_000
ALLOW = Decision(outcome=Outcome.ALLOW)
DENY = Decision(outcome=Outcome.DENY)
REVIEW = Decision(outcome=Outcome.REQUIRE_REVIEW)


def pending(id: str = "apr_1", **changes: object) -> Approval:
    made = Approval(
        id=id,
        version=1,
        state=ApprovalState.PENDING,
        action={},
        action_hash="h",
        requester=Subject("user", "alice"),
        agent="bot",
        requirement=Requirement((Factor(1, "finance"),), 60),
        policies=("p",),
        reasons=(),
        risk=Level.AMBER,
        factors=(),
        labels=(),
        bundle="sha256:b",
        trace_id="t",
        created_us=0,
        deadline_us=60_000_000,
    )
    return msgspec.structs.replace(made, **changes)


def approved() -> Approval:
    cast = Vote(voter="bob", roles=("finance",), approve=True, auth="local", action_hash="h", shown="", at_us=NOW)
    return vote(pending(), cast)


def decided(decision: Decision, **given: object) -> Decided:
    return Decided(decision=decision, now_us=NOW, **given)  # type: ignore[arg-type]


def play(machine: ActionFlow, *events: flow.Event) -> list[flow.Command]:
    return [machine.handle(event) for event in events]


def test_an_allowed_action_is_recorded_before_it_runs_and_after_it_ended():
    commands = play(ActionFlow(), Submitted(), decided(ALLOW), Durable(), Ended("ok", NOW), Durable())
    assert commands == [
        Decide(),
        Record(("decision", "execution.started")),
        Execute(),
        Record(("execution.finished",)),
        Answer(),
    ]


def test_a_denied_action_is_recorded_and_never_runs():
    machine = ActionFlow()
    assert play(machine, Submitted(), decided(DENY), Durable()) == [Decide(), Record(("decision",)), Deny()]
    assert machine.state is State.DENIED


def test_a_review_opens_an_approval_and_waits():
    fresh = pending()
    commands = play(ActionFlow(), Submitted(), decided(REVIEW, fresh=fresh), Durable())
    assert commands == [Decide(), Record(("decision", "approval.requested"), (fresh,)), AskPeople(fresh)]


def test_the_same_request_joins_the_pending_approval():
    waiting = pending("apr_old")
    commands = play(ActionFlow(), Submitted(), decided(REVIEW, match=waiting, fresh=pending("apr_new")), Durable())
    assert commands == [Decide(), Record(("decision",)), AskPeople(waiting)]


def test_an_approved_action_is_decided_afresh_and_takes_its_approval_with_the_start():
    machine, held = ActionFlow(), approved()
    commands = play(machine, Submitted(), decided(REVIEW, match=held, fresh=pending("x")), decided(ALLOW))
    assert commands[1] == Decide(discharged=held)
    assert isinstance(commands[2], Record)
    assert commands[2].kinds == ("decision", "execution.started")
    assert [row.state for row in commands[2].approvals] == [ApprovalState.EXECUTING]
    end = play(machine, Durable(), Ended("ok", NOW))[-1]
    assert isinstance(end, Record)
    assert end.kinds == ("execution.finished", "approval.used")
    assert [row.state for row in end.approvals] == [ApprovalState.USED]
    assert [row.version for row in end.approvals] == [held.version + 2]


def test_an_approval_dies_when_policy_now_denies():
    machine = ActionFlow()
    command = play(machine, Submitted(), decided(REVIEW, match=approved(), fresh=pending("x")), decided(DENY))[-1]
    assert isinstance(command, Record)
    assert command.kinds == ("decision", "approval.cancelled")
    assert command.approvals[0].state is ApprovalState.CANCELLED
    assert machine.handle(Durable()) == Deny()


def test_an_approval_dies_too_when_policy_denies_before_it_is_looked_for():
    held = approved()
    command = play(ActionFlow(), Submitted(), decided(DENY, match=held))[-1]
    assert command == Record(("decision", "approval.cancelled"), (move(held, ApprovalEvent.WITHDRAWAL, NOW),))
    spared = msgspec.structs.replace(decided(DENY, match=held), spares=True)
    for event in (decided(DENY, match=pending()), spared):
        assert play(ActionFlow(), Submitted(), event)[-1] == Record(("decision",))


def test_reviews_that_the_approval_does_not_discharge_are_asked_anew():
    fresh, held = pending("apr_2"), approved()
    machine = ActionFlow()
    command = play(
        machine,
        Submitted(),
        decided(REVIEW, match=held, fresh=pending("x")),
        decided(REVIEW, fresh=fresh),
    )[-1]
    assert isinstance(command, Record)
    assert command.kinds == ("decision", "approval.cancelled", "approval.requested")
    dead, opened = command.approvals
    assert (dead.id, dead.state, opened) == (held.id, ApprovalState.CANCELLED, fresh)


def test_an_approval_past_its_deadline_is_not_taken():
    late = msgspec.structs.replace(approved(), deadline_us=NOW)
    fresh = pending("apr_2")
    commands = play(ActionFlow(), Submitted(), decided(REVIEW, match=late, fresh=fresh))
    assert commands[-1] == Record(("decision", "approval.requested"), (fresh,))


@pytest.mark.parametrize(
    "decision", [decided(ALLOW), decided(DENY), decided(REVIEW, fresh=pending())], ids=["allow", "deny", "review"]
)
@pytest.mark.parametrize("mode", list(Mode))
def test_a_store_that_refuses_means_that_nothing_runs(decision: Decided, mode: Mode):
    machine = ActionFlow(mode)
    assert play(machine, Submitted(), decision, Refused())[-1] == Fail()
    assert machine.state is State.UNAVAILABLE


def test_an_end_that_cannot_be_recorded_is_no_success():
    commands = play(ActionFlow(), Submitted(), decided(ALLOW), Durable(), Ended("ok", NOW), Refused())
    assert commands[-1] == Fail()


def test_a_conflict_is_decided_anew_but_not_for_ever():
    machine = ActionFlow()
    machine.handle(Submitted())
    for _ in range(flow.MAX_ATTEMPTS - 1):
        machine.handle(decided(ALLOW))
        assert machine.handle(Conflicted()) == Decide()
    machine.handle(decided(ALLOW))
    assert machine.handle(Conflicted()) == Fail()


def test_an_enforcement_point_that_asks_spends_the_approval_with_the_answer():
    machine, held = ActionFlow(Mode.ASK), approved()
    command = play(machine, Submitted(), decided(REVIEW, match=held, fresh=pending("x")), decided(ALLOW))[-1]
    assert isinstance(command, Record)
    assert command.kinds == ("decision", "approval.used")
    assert [(row.state, row.version) for row in command.approvals] == [(ApprovalState.USED, held.version + 1)]
    assert machine.handle(Durable()) == Answer()


EVENTS = st.sampled_from(
    [
        Submitted(),
        decided(ALLOW),
        decided(DENY),
        decided(REVIEW, fresh=pending("apr_f")),
        decided(REVIEW, match=approved(), fresh=pending("apr_f")),
        Durable(),
        Refused(),
        Conflicted(),
        Ended("ok", NOW),
        Ended("failed", NOW),
    ]
)


@given(st.lists(EVENTS, max_size=30), st.sampled_from(list(Mode)))
def test_nothing_executes_without_a_durable_start(events: list[flow.Event], mode: Mode):
    machine, done = ActionFlow(mode), list[tuple[flow.Event, flow.Command]]()
    for event in events:
        before = machine.state
        try:
            done.append((event, machine.handle(event)))
        except IllegalEvent:
            assert machine.state is before
    for index, (event, command) in enumerate(done):
        if isinstance(command, Execute):
            assert event == Durable()
            written = done[index - 1][1]
            assert isinstance(written, Record)
            assert "execution.started" in written.kinds
            assert "decision" in written.kinds
    assert sum(isinstance(command, Execute) for _, command in done) <= 1
    assert mode is Mode.RUN or not any(isinstance(command, Execute) for _, command in done)


def test_every_state_is_reached_from_new_and_only_last_ones_have_no_way_out():
    reached, todo = {State.NEW}, [State.NEW]
    while todo:
        for targets in flow.TRANSITIONS[todo.pop()].values():
            todo += [target for target in targets if target not in reached]
            reached |= set(targets)
    assert reached == set(State)
    last = {state for state, steps in flow.TRANSITIONS.items() if not steps}
    assert last == {State.DENIED, State.WAITING, State.ANSWERED, State.FINISHED, State.UNAVAILABLE}
