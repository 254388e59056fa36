from __future__ import annotations

from typing import Any

import pytest

from checkrein.ledger import Draft, Record
from checkrein.model import NotFound
from checkrein.ports import RecordQuery, Unit
from checkrein.services.audit import Activity, Audit
from checkrein.storage.memory import MemoryStore

TRACE = "ab" * 16


class Clock:
    def now_us(self) -> int:
        return 1_768_471_200_123_456


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(Clock())


@pytest.fixture
def audit(store: MemoryStore) -> Audit:
    return Audit(store)


def write(store: MemoryStore, *drafts: Draft) -> tuple[Record, ...]:
    return store.commit(Unit(drafts)).result()


def decision(outcome: str, evaluation: str = "evl_1", *, approval: str = "", user: str = "alice") -> Draft:
    body = {
        "actor": {"type": "user", "id": user, "agent": "bot"},
        "action": {"name": "send_email"},
        "decision": {
            "evaluation_id": evaluation,
            "outcome": outcome,
            "reasons": ["first", "second"],
            "risk": {"level": "amber", "score": 40},
        },
        "approval": {"id": approval},
    }
    return Draft("decision", TRACE, body)


def execution(kind: str, evaluation: str = "evl_1", **more: object) -> Draft:
    return Draft(f"execution.{kind}", TRACE, {"evaluation_id": evaluation, **more})


def approval(kind: str, state: str, **more: object) -> Draft:
    return Draft(f"approval.{kind}", "other", {"approval": {"id": "apr_1", "state": state, **more}})


def only(audit: Audit) -> Activity:
    (row,) = audit.activities()
    return row


# --- activities -------------------------------------------------------------------------------------------------


def test_an_activity_says_who_wanted_what_when_and_what_became_of_it(store: MemoryStore, audit: Audit) -> None:
    written = write(store, decision("allow"), execution("started"), execution("finished", status="ok", error=""))
    assert only(audit) == Activity(
        id=written[0].id,
        timestamp="2026-01-15T10:00:00.123456Z",
        action="send_email",
        decision="allow",
        result="ok",
        user="alice",
        status="executed",
        trace_id=TRACE,
        risk="amber",
        agent="bot",
    )


@pytest.mark.parametrize(
    ("outcome", "followed", "status", "result"),
    [
        ("deny", [], "denied", "first; second"),
        ("allow", [], "allowed", "first; second"),
        ("allow_with_redaction", [], "redacted", "first; second"),
        ("allow", [execution("started")], "running", ""),
        ("allow", [execution("started"), execution("unknown")], "unknown", "its end was never recorded"),
        ("allow", [execution("started"), execution("finished", status="ok")], "executed", "ok"),
        ("allow_with_redaction", [execution("started"), execution("finished", status="ok")], "executed", "ok"),
        ("allow", [execution("finished", status="failed", error="upstream_error")], "failed", "upstream_error"),
        ("allow", [execution("finished", status="cancelled", error="")], "cancelled", "cancelled"),
        ("allow", [execution("finished", status="strange")], "unknown", "strange"),
        ("allow", [execution("reported", status="ok")], "executed", "ok, the gateway says"),
        ("allow", [execution("reported", status="failed")], "failed", "the gateway says"),
        ("allow", [execution("reported", status="blocked")], "cancelled", "blocked in the gateway"),
        ("allow", [execution("reported", status="strange")], "unknown", "what was reported says nothing"),
        ("allow", [execution("started", "evl_2")], "allowed", "first; second"),
        ("made up", [], "denied", "first; second"),
    ],
)
def test_the_status_of_a_decision_is_what_followed(
    store: MemoryStore, audit: Audit, outcome: str, followed: list[Draft], status: str, result: str
) -> None:
    write(store, decision(outcome), *followed)
    assert (only(audit).status, only(audit).result) == (status, result)


ASKED = approval("requested", "pending", approvers="2 of finance")
VOTED = approval("voted", "pending")


@pytest.mark.parametrize(
    ("followed", "status", "result"),
    [
        ([], "pending", ""),
        ([ASKED], "pending", "waits for 2 of finance"),
        ([ASKED, VOTED, approval("vote_refused", "pending")], "pending", "waits for 2 of finance"),
        ([ASKED, approval("decided", "approved", voters=["bob", "carol"])], "approved", "by bob, carol"),
        ([ASKED, approval("decided", "approved", voters=["x"], simulated=True)], "approved", "by x (simulated)"),
        ([ASKED, approval("decided", "approved"), approval("used", "used")], "approved", ""),
        ([ASKED, approval("decided", "denied", voters=["bob"])], "denied", "by bob"),
        ([ASKED, approval("expired", "expired")], "expired", ""),
        ([ASKED, approval("decided", "approved"), approval("cancelled", "cancelled")], "cancelled", ""),
    ],
)
def test_the_status_of_a_review_is_that_of_its_approval(
    store: MemoryStore, audit: Audit, followed: list[Draft], status: str, result: str
) -> None:
    write(store, decision("require_review", approval="apr_1"), *followed)
    assert (only(audit).status, only(audit).result) == (status, result)


def test_several_decisions_of_one_trace_keep_their_own_ends(store: MemoryStore, audit: Audit) -> None:
    write(store, decision("allow", "evl_1"), decision("allow", "evl_2"), decision("allow", "evl_3"))
    write(store, execution("finished", "evl_2", status="ok"), execution("started", "evl_3"))
    assert [row.status for row in audit.activities()] == ["running", "executed", "allowed"]


def test_activities_are_the_newest_first_of_one_user_if_one_is_named(store: MemoryStore, audit: Audit) -> None:
    for user in ("alice", "bob", "alice", "carol"):
        write(store, decision("deny", user=user))
    assert [row.user for row in audit.activities()] == ["carol", "alice", "bob", "alice"]
    assert [row.user for row in audit.activities(user="alice")] == ["alice", "alice"]
    assert [row.user for row in audit.activities(limit=2)] == ["carol", "alice"]


# --- show, verify -----------------------------------------------------------------------------------------------


def test_a_record_is_shown_by_number_or_id(store: MemoryStore, audit: Audit) -> None:
    written = write(store, decision("deny"), execution("started"))
    assert audit.show(1) == audit.show("1") == audit.show(written[1].id) == written[1]


@pytest.mark.parametrize("id", ["7", "-1", "rec_x", "", "9" * 40, "\u0661", "../x"])
def test_a_record_that_is_not_there_is_not_found(store: MemoryStore, audit: Audit, id: str) -> None:
    write(store, decision("deny"))
    with pytest.raises(NotFound):
        audit.show(id)


def test_verify_reports_and_does_not_raise(store: MemoryStore, audit: Audit) -> None:
    write(store, decision("deny"))
    assert audit.verify().problems == ()
    write(store, execution("started"))
    report = audit.verify()
    assert report.first_bad == 1
    assert report.to_json()["ok"] is False


def test_an_auditor_may_bring_their_own_key(store: MemoryStore, audit: Audit) -> None:
    report = audit.verify("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert report.problems == ("there is no checkpoint for the public key",)


def test_records_are_listed_by_query(store: MemoryStore, audit: Audit) -> None:
    write(store, decision("deny"), decision("allow"))
    found: list[Any] = list(audit.records(RecordQuery(outcome="allow")))
    assert [record.seq for record in found] == [1]
