"""Edited arguments: what runs is what people agreed to, and earlier votes count for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from checkrein.compose import System, open_system
from checkrein.flow.approval import Approval, IllegalEvent, State, Vote, VoteRefused, vote
from checkrein.governor import Governor
from checkrein.ledger.record import commitment
from checkrein.model import Action, ApprovalRequired, Decision, Denied, Outcome, Request, Resource, Subject
from checkrein.ports import RecordQuery
from checkrein.services.waiting import Drain, Hold

MAIL = {"to": "all@example.com", "subject": "News", "body": "We are open."}
TO_PRESS = {**MAIL, "to": "press@example.com"}


@pytest.fixture
def system(folder: Path) -> Iterator[System]:
    policies = folder / "policies/main.cedar"
    text = policies.read_text().replace("1 of finance", "2 of finance") + (
        '\n@id("no-press") @reason("not to the press") forbid (principal, action == Action::"send_email", resource) '
        'when { context.input.to == "press@evil.example" };\n'
    )
    policies.write_text(text)
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[people.dora]\nroles = ["finance"]\n')
    opened = open_system(folder)
    yield opened
    opened.close()


def mail(**input: str) -> Request:
    return Request(Subject("user", "alice"), Action("send_email", {"input": {**MAIL, **input}}), Resource("tool", "m"))


def asked(system: System, **input: str) -> Approval:
    made = system.gateway.evaluate_sync(mail(**input), caller="t")
    assert made.outcome is Outcome.REQUIRE_REVIEW
    return system.approvals.get(made.approval_id)


def edit(system: System, id: str, arguments: object = TO_PRESS, editor: str = "bob", **more: str) -> Approval:
    return system.edits.edit(id, arguments, editor=editor, auth="local", **more)  # type: ignore[arg-type]


def agree(system: System, id: str, *voters: str) -> Approval:
    return [system.approvals.vote(id, voter=voter, approve=True, auth="local") for voter in voters][-1]


def kinds(system: System) -> list[str]:
    return [record.kind for record in system.store.records(RecordQuery())]


def test_an_edit_takes_the_place_of_what_was_asked_and_voids_the_votes(system: System):
    before = asked(system)
    agree(system, before.id, "carol")
    after = edit(system, before.id)
    assert (after.state, after.votes, after.edits, after.edited_by) == (State.PENDING, (), before.id, ("bob",))
    assert after.request().action.input == TO_PRESS
    assert after.action_hash != before.action_hash
    ended = system.approvals.get(before.id)
    assert (ended.state, ended.edited_into) == (State.CANCELLED, after.id)
    assert kinds(system)[-3:] == ["approval.edited", "approval.cancelled", "approval.requested"]
    (record,) = system.store.records(RecordQuery(kinds=("approval.edited",)))
    assert record.body["edit"]["changed"] == ["to"]
    assert record.body["edit"]["voided"] == 1
    assert b"press" not in record.data


def test_an_edit_gains_no_time(system: System):
    before = asked(system)
    after = edit(system, before.id)
    assert (after.created_us, after.deadline_us) == (before.created_us, before.deadline_us)


def test_a_vote_on_what_was_edited_is_refused_and_says_where_it_went(system: System):
    before = asked(system)
    after = edit(system, before.id)
    with pytest.raises(IllegalEvent, match="cancelled") as refused:
        agree(system, before.id, "carol")
    assert after.id in refused.value.hint


def test_what_runs_is_what_people_agreed_to_when_the_caller_sends_the_same_again(system: System):
    before = asked(system)
    after = edit(system, before.id)
    for _ in range(2):
        with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(mail(), caller="t"):
            pass
        assert waiting.value.approval_id == after.id
    agree(system, after.id, "carol", "bob")
    with system.gateway.action_sync(mail(), caller="t") as governed:
        assert governed.request.action.input == TO_PRESS
        assert governed.edited
    assert system.approvals.get(after.id).state is State.USED
    with pytest.raises(ApprovalRequired) as anew, system.gateway.action_sync(mail(), caller="t"):
        pass
    assert anew.value.approval_id not in (before.id, after.id)


def test_an_edit_of_an_edit_is_followed(system: System):
    first = edit(system, asked(system).id)
    second = edit(system, first.id, {**MAIL, "subject": "Other"}, editor="carol")
    agree(system, second.id, "bob", "dora")
    with system.gateway.action_sync(mail(), caller="t") as governed:
        assert governed.request.action.input["subject"] == "Other"


def test_who_runs_the_action_themselves_is_denied_what_they_sent_and_allowed_what_was_agreed(system: System):
    after = edit(system, asked(system).id)
    agree(system, after.id, "carol", "dora")
    refused = system.gateway.evaluate_sync(mail(), caller="pep")
    assert (refused.outcome, refused.reasons) == (Outcome.DENY, ("people agreed to other arguments",))
    assert after.id in refused.advice[0].text
    assert system.approvals.get(after.id).state is State.APPROVED
    assert system.gateway.evaluate_sync(mail(to="press@example.com"), caller="pep").outcome is Outcome.ALLOW
    assert system.approvals.get(after.id).state is State.USED


def test_what_policy_denies_when_it_is_released_does_not_run_though_people_edited_it(system: System):
    after = edit(system, asked(system).id)
    agree(system, after.id, "carol", "dora")
    system.pdp.register(lambda request, context: Decision.deny("from now on nothing"), "late")
    with pytest.raises(Denied, match="from now on nothing"), system.gateway.action_sync(mail(), caller="t"):
        pass
    assert system.approvals.get(after.id).state is State.CANCELLED


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (MAIL, "unchanged"),
        ({**MAIL, "to": 5}, "invalid_arguments"),
        ({"to": "a"}, "invalid_arguments"),
        ({**MAIL, "bcc": "a"}, "invalid_arguments"),
        ({**MAIL, "to": "press@evil.example"}, "policy_denies"),
    ],
)
def test_an_edit_that_does_not_stand_is_refused_recorded_and_changes_nothing(
    system: System, arguments: object, code: str
):
    before = asked(system)
    with pytest.raises(VoteRefused) as refused:
        edit(system, before.id, arguments)
    assert refused.value.code == code
    assert system.approvals.get(before.id) == before
    (record,) = system.store.records(RecordQuery(kinds=("approval.edit_refused",)))
    assert (record.body["vote"]["code"], record.body["actor"]["id"]) == (code, "bob")


@pytest.mark.parametrize(("editor", "code"), [("alice", "own_request"), ("mallory", "wrong_role")])
def test_only_who_may_vote_may_edit(system: System, editor: str, code: str):
    with pytest.raises(VoteRefused) as refused:
        edit(system, asked(system).id, editor=editor)
    assert refused.value.code == code


def test_a_stale_edit_is_refused(system: System):
    with pytest.raises(VoteRefused) as refused:
        edit(system, asked(system).id, action_hash="0" * 64)
    assert refused.value.code == "stale_hash"


def test_an_edit_into_what_is_asked_already_is_refused(system: System):
    other, before = asked(system, to="press@example.com"), asked(system)
    with pytest.raises(VoteRefused) as refused:
        edit(system, before.id)
    assert (refused.value.code, other.id in str(refused.value)) == ("asked_already", True)


def test_a_prompt_has_no_schema_and_is_not_edited(system: System):
    system.pdp.register(lambda request, context: Decision.review("all", approvers="1 of finance"), "all")
    prompt = Request(
        Subject("user", "alice"),
        Action("prompt", {"input": {"model": "m", "messages": [{"role": "user", "content": "hello"}]}}),
        Resource("model", "m"),
    )
    id = system.gateway.evaluate_sync(prompt, caller="t").approval_id
    with pytest.raises(VoteRefused) as refused:
        edit(system, id, {"messages": []})
    assert refused.value.code == "no_schema"


def test_who_edits_may_agree_but_not_alone(system: System):
    after = edit(system, asked(system).id)
    assert agree(system, after.id, "bob", "carol").state is State.APPROVED
    alone = asked(system, subject="x")
    single = msgspec.structs.replace(alone.requirement.factors[0], count=1)
    requirement = msgspec.structs.replace(alone.requirement, factors=(single,))
    one = msgspec.structs.replace(alone, requirement=requirement, edited_by=("bob",))
    cast = Vote(
        voter="bob",
        roles=("finance",),
        approve=True,
        auth="local",
        action_hash=one.action_hash,
        shown="",
        at_us=one.created_us,
    )
    with pytest.raises(VoteRefused) as refused:
        vote(one, cast)
    assert refused.value.code == "own_edit"
    assert vote(one, msgspec.structs.replace(cast, approve=False)).state is State.DENIED
    assert vote(one, msgspec.structs.replace(cast, voter="carol", on_behalf_of="")).state is State.APPROVED
    with pytest.raises(VoteRefused):
        vote(one, msgspec.structs.replace(cast, voter="carol", on_behalf_of="bob"))


def test_an_edit_that_needs_no_review_is_still_asked_about_as_before(system: System):
    loud = Decision.review("it is loud", approvers="1 of security")
    system.pdp.register(lambda request, _: loud if request.action.input["subject"] == "LOUD" else None, "loud")
    before = asked(system, subject="LOUD")
    after = edit(system, before.id)
    assert str(after.requirement) == str(before.requirement) == "2 of finance and 1 of security"


def test_a_governed_function_runs_with_the_edited_arguments(system: System):
    sent: list[tuple[str, str, str]] = []
    governor = Governor(system)

    @governor.governed(tool="send_email", subject=Subject("user", "alice"))
    def send_email(to: str, subject: str, body: str) -> str:
        sent.append((to, subject, body))
        return "sent"

    with pytest.raises(ApprovalRequired) as waiting:
        send_email(**MAIL)
    after = edit(system, waiting.value.approval_id)
    agree(system, after.id, "carol", "dora")
    assert send_email(**MAIL) == "sent"
    assert sent == [("press@example.com", "News", "We are open.")]


def test_the_reason_of_a_vote_and_of_an_edit_stays_out_of_the_ledger(system: System):
    before = asked(system)
    after = edit(system, before.id, reason="the press asked for it")
    system.approvals.vote(after.id, voter="carol", approve=True, reason="agreed with Bob's wife", auth="local")
    assert not any(
        b"wife" in record.data or b"asked for it" in record.data for record in system.store.records(RecordQuery())
    )
    (voted,) = system.store.records(RecordQuery(kinds=("approval.voted",)))
    key = system.data.commitment_key()
    kept = system.approvals.get(after.id).votes[0].reason
    assert voted.body["vote"]["reason_hmac"] == commitment(key, kept)


async def test_a_held_request_runs_as_it_was_edited_and_agreed_to_meanwhile(system: System):
    hold = Hold(system.waiting, 30, Drain())

    def people() -> None:
        (before,) = system.approvals.all()
        agree(system, edit(system, before.id).id, "carol", "dora")

    async def run() -> dict[str, object]:
        async with system.gateway.action(mail(), caller="t", hold=hold) as governed:
            return governed.request.action.input

    running = asyncio.ensure_future(run())
    while not system.approvals.all():
        await asyncio.sleep(0)
    await asyncio.to_thread(people)
    assert await running == TO_PRESS
