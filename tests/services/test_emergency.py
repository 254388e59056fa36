"""Break-glass from the emergency to the signature: what runs, who hears of it, what stays open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkrein.compose import System, open_system
from checkrein.doctor import examine
from checkrein.flow.approval import IllegalEvent, State, VoteRefused
from checkrein.model import Action, Decision, Denied, NotFound, Request, Resource, Subject
from checkrein.ports import RecordQuery

GLASS = 'approvals.break_glass = "commander"\napprovals.break_glass_life = "10m"\n'
PEOPLE = """
[people.dora]
roles = ["commander"]

[people.alice]
roles = ["commander"]
"""
MAIL = Request(
    Subject("user", "alice"),
    Action("send_email", {"input": {"to": "all", "subject": "s", "body": "b"}}),
    Resource("tool", "mail"),
)


@pytest.fixture
def system(folder: Path) -> Iterator[System]:
    config = folder / "checkrein.toml"
    config.write_text(GLASS + config.read_text() + PEOPLE)
    opened = open_system(folder)
    yield opened
    opened.close()


def asked(system: System) -> str:
    return system.gateway.evaluate_sync(MAIL, caller="t").approval_id


def test_an_emergency_runs_once_is_told_to_the_owners_and_stays_open_until_somebody_else_signs(system: System):
    id = asked(system)
    after = system.emergencies.break_glass(id, by="dora", reason="plant 3", auth="local")
    assert (after.state, after.deadline_us - after.broken.at_us) == (State.APPROVED, 600_000_000)
    with system.gateway.action_sync(MAIL, caller="t"):
        pass
    assert system.approvals.get(id).state is State.USED
    (record,) = system.store.records(RecordQuery(kinds=("approval.break_glass",)))
    assert record.body["break_glass"]["owners"] == ["alice", "comms"]
    assert b"plant 3" not in record.data
    assert [review.approval for review in system.emergencies.reviews()] == [id]
    assert any(id in warning for warning in system.warnings())
    with pytest.raises(VoteRefused):
        system.emergencies.sign(id, by="dora", note="fine", auth="local")
    system.emergencies.sign(id, by="carol", note="was right", auth="local")
    assert system.emergencies.reviews() == []
    assert [review.signed_by for review in system.emergencies.reviews(every=True)] == ["carol"]
    kinds = [record.kind for record in system.store.records(RecordQuery(approval=id))]
    assert kinds == [
        "decision",
        "approval.requested",
        "approval.break_glass",
        "approval.decided",
        "decision",
        "execution.started",
        "approval.used",
        "approval.review_refused",
        "approval.reviewed",
    ]


@pytest.mark.parametrize(("by", "code"), [("bob", "wrong_role"), ("alice", "own_request"), ("mallory", "wrong_role")])
def test_who_may_not_is_refused_and_recorded(system: System, by: str, code: str):
    id = asked(system)
    with pytest.raises(VoteRefused) as refused:
        system.emergencies.break_glass(id, by=by, reason="fire", auth="local")
    assert refused.value.code == code
    assert system.approvals.get(id).state is State.PENDING
    assert system.emergencies.reviews() == []
    (record,) = system.store.records(RecordQuery(kinds=("approval.break_glass_refused",)))
    assert record.body["vote"]["code"] == code


def test_what_policy_denies_by_then_does_not_run_behind_a_broken_glass(system: System):
    id = asked(system)
    system.emergencies.break_glass(id, by="dora", reason="fire", auth="local")
    system.pdp.register(lambda request, context: Decision.deny("not now"), "late")
    with pytest.raises(Denied, match="not now"), system.gateway.action_sync(MAIL, caller="t"):
        pass
    assert system.approvals.get(id).state is State.CANCELLED
    assert [review.approval for review in system.emergencies.reviews()] == [id]  # it is looked at all the same


def test_a_glass_breaks_once(system: System):
    id = asked(system)
    system.emergencies.break_glass(id, by="dora", reason="fire", auth="local")
    with pytest.raises(IllegalEvent):
        system.emergencies.break_glass(id, by="dora", reason="fire", auth="local")


def test_there_is_nothing_to_sign_where_no_glass_was_broken(system: System):
    with pytest.raises(NotFound, match="was not broken"):
        system.emergencies.sign(asked(system), by="carol", note="fine", auth="local")


def test_the_doctor_names_what_nobody_has_reviewed(system: System, folder: Path):
    id = asked(system)
    system.emergencies.break_glass(id, by="dora", reason="fire", auth="local")
    system.close()
    found, _ = examine(folder, None)
    assert [finding.found for finding in found if finding.what == "break-glass"] == [
        f"`dora` broke the glass of `{id}`, and nobody has reviewed it"
    ]
