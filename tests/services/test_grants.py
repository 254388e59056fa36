"""Grants as people and processes meet them: opened with a vote, counted exactly, ended at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkrein.compose import System, load_bundle, open_system
from checkrein.flow.approval import IllegalEvent
from checkrein.flow.grant import Grant, State
from checkrein.model import (
    Action,
    ApprovalRequired,
    Denied,
    NotFound,
    Outcome,
    PolicyInvalid,
    Request,
    Resource,
    Subject,
)
from checkrein.model.requirement import Terms
from checkrein.ports import RecordQuery
from checkrein.services.results import Results

TERMS = Terms(3600, 3, ("to",))


@pytest.fixture
def system(folder: Path) -> Iterator[System]:
    rewrite(folder, '@expires("1h")', '@expires("1h") @grant("max 1h, 3 uses, same to")')
    opened = open_system(folder)
    yield opened
    opened.close()


def rewrite(folder: Path, before: str, after: str) -> None:
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace(before, after))


def mail(to: str = "everybody", body: str = "hello", who: str = "alice") -> Request:
    given = {"to": to, "subject": "s", "body": body}
    return Request(Subject("user", who), Action("send_email", {"input": given}), Resource("tool", "mail"))


def granted(system: System, terms: Terms = TERMS) -> Grant:
    """Bob agrees to one mail, and grants more."""
    made = system.gateway.evaluate_sync(mail(), caller="t")
    system.approvals.vote(made.approval_id, voter="bob", approve=True, auth="local", grant=terms)
    (grant,) = system.grants.all()
    return grant


def sends(system: System, request: Request) -> bool:
    """Whether it ran without anybody being asked."""
    try:
        with system.gateway.action_sync(request, caller="t"):
            return True
    except ApprovalRequired:
        return False


def test_what_was_granted_for_a_call_holds_for_its_result(system: System):
    granted(system)
    results = Results(system.gateway)
    for body in ("hello", "under the grant"):
        with system.gateway.action_sync(mail(body=body), caller="t") as governed:
            assert results.decide(governed, {"sent": True}).made.outcome is Outcome.ALLOW


def kinds(system: System, *only: str) -> list[str]:
    return [record.kind for record in system.store.records(RecordQuery(kinds=only))]


def test_what_was_granted_runs_again_without_asking_as_often_as_was_said(system: System):
    grant = granted(system)
    assert sends(system, mail())  # the approved one, under its approval
    assert system.grants.get(grant.id).used == 0
    assert [sends(system, mail(body=str(number))) for number in range(4)] == [True, True, True, False]
    spent = system.grants.get(grant.id)
    assert (spent.state, spent.used, spent.left) == (State.SPENT, 3, 0)
    assert spent.last_us
    assert system.grants.all() == []
    assert system.grants.all(live=False) == [spent]


def test_other_arguments_people_and_tools_are_asked_about(system: System):
    granted(system)
    assert not sends(system, mail(to="press"))
    assert not sends(system, mail(who="erin"))


def test_what_is_red_now_is_asked_about_although_the_like_was_granted(system: System):
    granted(system)
    assert not sends(system, mail(body="write to alice@example.com"))


def test_each_use_stands_in_the_record_with_the_decision_it_let_through(system: System):
    grant = granted(system)
    assert sends(system, mail(body="b"))
    found = list(system.store.records(RecordQuery(approval=grant.id)))
    assert [record.kind for record in found] == [
        "approval.granted",
        "decision",
        "execution.started",
        "approval.grant_used",
    ]
    assert found[0].body["grant"]["by"] == ["bob"]
    assert len({record.trace_id for record in found[1:]}) == 1
    assert (found[3].body["grant"]["used"], found[3].body["grant"]["left"]) == (1, 2)
    assert not any(b"everybody" in record.data for record in found)


def test_who_runs_the_action_themselves_uses_it_up_with_the_answer(system: System):
    grant = granted(system, Terms(3600, 1, ("to",)))
    outcomes = [system.gateway.evaluate_sync(mail(body=str(n)), caller="pep").outcome for n in range(2)]
    assert outcomes == [Outcome.ALLOW, Outcome.REQUIRE_REVIEW]
    assert system.grants.get(grant.id).state is State.SPENT


def test_a_revoked_grant_covers_nothing_from_the_next_request_on(system: System):
    grant = granted(system)
    assert sends(system, mail(body="a"))
    ended = system.grants.revoke(grant.id[:9], by="carol", auth="local", reason="moved on")
    assert (ended.state, ended.used) == (State.REVOKED, 1)
    assert not sends(system, mail(body="b"))
    with pytest.raises(IllegalEvent, match="revoked"):
        system.grants.revoke(grant.id, by="carol", auth="local")
    (record,) = system.store.records(RecordQuery(kinds=("approval.grant_revoked",)))
    assert record.body["actor"]["id"] == "carol"
    assert b"moved on" not in record.data


@pytest.mark.parametrize("id", ["", "grt_", "grt_zz", "\x1b[2J", "\ud800"])
def test_an_id_that_names_nothing_is_not_found(system: System, id: str):
    granted(system)
    with pytest.raises(NotFound):
        system.grants.revoke(id, by="carol", auth="local")


def test_policies_that_come_to_deny_it_end_it(system: System, folder: Path):
    grant = granted(system)
    rewrite(folder, 'contains("tool:transfer_funds")', 'contains("effect:external")')
    system.pdp.replace(load_bundle(folder))
    with pytest.raises(Denied), system.gateway.action_sync(mail(body="b"), caller="t"):
        pass
    assert system.grants.get(grant.id).state is State.DEAD
    assert kinds(system)[-2:] == ["decision", "approval.grant_ended"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (' @grant("max 1h, 3 uses, same to")', ""),
        ("1 of finance", "2 of finance"),
        ("max 1h, 3 uses", "max 1m, 3 uses"),
    ],
)
def test_policies_that_come_to_ask_for_more_are_asked_again(system: System, folder: Path, before: str, after: str):
    granted(system)
    rewrite(folder, before, after)
    system.pdp.replace(load_bundle(folder))
    assert not sends(system, mail(body="b"))


def test_policies_that_changed_elsewhere_leave_a_grant_alive(system: System, folder: Path):
    granted(system)
    rewrite(folder, "agents move no money", "no")
    system.pdp.replace(load_bundle(folder))
    assert sends(system, mail(body="b"))


def test_a_grant_bound_to_what_no_tool_takes_does_not_load(system: System, folder: Path):
    rewrite(folder, "same to", "same too")
    with pytest.raises(PolicyInvalid) as refused:
        load_bundle(folder)
    assert "main.cedar:8: `@grant`: no tool takes the argument `too`" in str(refused.value)


@pytest.mark.parametrize("round", range(3))
def test_however_many_use_it_at_once_it_is_used_as_often_as_was_said(system: System, round: int):
    granted(system)
    ran: list[bool] = []
    barrier = threading.Barrier(12)

    def send(number: int) -> None:
        barrier.wait()
        ran.append(sends(system, mail(body=str(number))))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == [False] * 9 + [True] * 3
    assert len(kinds(system, "approval.grant_used")) == 3


def test_erasing_a_subject_ends_their_grants_and_forgets_the_arguments(system: System):
    grant = granted(system)
    assert sends(system, mail())
    system.payloads.erase(Subject("user", "alice"), by="dpo", reason="case 7")
    bare = system.grants.get(grant.id)
    assert (bare.state, bare.same) == (State.REVOKED, {})
