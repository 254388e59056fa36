"""Checkrein inside a Python process: what an application sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from checkrein import ApprovalRequired, Denied, Governor, Outcome, Request, Subject
from checkrein.compose import verify_ledger
from checkrein.flow.approval import State
from checkrein.model import Action, BadRequest, CheckreinError, ConfigError, Decision, Resource, StoreUnavailable
from checkrein.ports import RecordQuery, Unit

READ: dict[str, Any] = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "read_file", "properties": {"input": {"path": "q3.csv"}}},
    "resource": {"type": "tool", "id": "files"},
}
MAIL = READ | {"action": {"name": "send_email", "properties": {"input": {"to": "all", "subject": "s", "body": "b"}}}}


@pytest.fixture
def governor(folder: Path) -> Iterator[Governor]:
    with Governor.open(folder) as opened:
        yield opened


def kinds(governor: Governor) -> list[str]:
    """What is in the ledger, without what opening it wrote."""
    found = [record.kind for record in governor.system.store.records(RecordQuery())]
    return [kind for kind in found if kind != "policy.changed"]


def approve(governor: Governor, id: str) -> None:
    after = governor.system.approvals.vote(id, voter="bob", roles=("finance",), approve=True, auth="local")
    assert after.state is State.APPROVED


# --- opening and closing --------------------------------------------------------------------------------------


def test_what_was_recorded_is_there_when_it_is_opened_again(folder: Path):
    with Governor.open(folder) as governor:
        governor.decide(READ)
    with Governor.open(str(folder)) as governor:
        assert kinds(governor) == ["decision"]
    assert not verify_ledger(folder).problems


def test_the_store_can_live_elsewhere(folder: Path, tmp_path: Path):
    with Governor.open(folder, data=tmp_path / "elsewhere"):
        assert (tmp_path / "elsewhere").is_dir()
    assert not (folder / ".checkrein").exists()


def test_closing_twice_is_no_error_and_a_closed_one_decides_nothing(governor: Governor):
    @governor.governed(tool="read_file", subject="alice")
    def read_file(path: str) -> None:
        pytest.fail("it ran")

    governor.close()
    governor.close()
    for ask in (lambda: governor.decide(READ), lambda: read_file("q3.csv"), governor.activities):
        with pytest.raises(StoreUnavailable):
            ask()


def test_an_error_inside_closes_it_too(folder: Path):
    with pytest.raises(ZeroDivisionError), Governor.open(folder) as governor:
        raise ZeroDivisionError
    with pytest.raises(StoreUnavailable):
        governor.decide(READ)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_policies_does_not_open(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckreinError) as refused:
        Governor.open(tmp_path / name)
    assert refused.value.hint
    assert not (tmp_path / "missing").exists()


# --- deciding -------------------------------------------------------------------------------------------------


def test_a_request_and_its_json_form_are_decided_alike(governor: Governor):
    request = Request.from_json(MAIL)
    first, second = governor.decide(MAIL), governor.decide(request)
    assert first.outcome is second.outcome is Outcome.REQUIRE_REVIEW
    assert first.approval_id == second.approval_id != ""
    assert first.evaluation_id != second.evaluation_id


def test_a_decision_is_in_the_ledger_when_it_is_given(governor: Governor):
    decision = governor.decide(READ)
    assert decision.outcome is Outcome.ALLOW
    (record,) = governor.system.store.records(RecordQuery(trace_id=decision.trace_id))
    assert record.body["decision"]["evaluation_id"] == decision.evaluation_id
    assert record.body["caller"] == "python"


def test_a_dry_run_decides_the_same_and_leaves_nothing(governor: Governor):
    for request in (READ, MAIL):
        assert governor.decide(request, dry_run=True).outcome is governor.decide(request).outcome
    before = kinds(governor)
    dry = governor.decide(MAIL, dry_run=True)
    assert (kinds(governor), dry.approval_id) == (before, "")


def test_a_dry_run_spends_no_approval(governor: Governor):
    waiting = governor.decide(MAIL)
    approve(governor, waiting.approval_id)
    governor.decide(MAIL, dry_run=True)
    assert governor.decide(MAIL).outcome is Outcome.ALLOW
    assert governor.decide(MAIL).outcome is Outcome.REQUIRE_REVIEW


def test_without_a_record_there_is_no_decision(governor: Governor, monkeypatch: pytest.MonkeyPatch):
    def refuse(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(governor.system.store, "commit", refuse)
    with pytest.raises(StoreUnavailable) as refused:
        governor.decide(READ)
    assert "doctor" in refused.value.hint


@pytest.mark.parametrize(
    "request_",
    [
        {},
        [],
        "read_file",
        READ | {"subject": "alice"},
        READ | {"subject": {"type": "user", "id": ""}},
        READ | {"action": {"name": "read_file", "properties": {"input": ["q3.csv"]}}},
        READ | {"context": {"when": object()}},
        READ | {"context": {1: "one"}},
        {name: value for name, value in READ.items() if name != "resource"},
        Request("alice", Action("read_file"), Resource("tool", "files")),  # type: ignore[arg-type]
        Request(Subject("user", ""), Action("read_file"), Resource("tool", "files")),
        Request(Subject("user", "alice"), Action("a", {"input": {"x": {1, 2}}}), Resource("tool", "files")),
        Request(Subject("user", "alice"), Action("a", {"input": {"x": float("nan")}}), Resource("tool", "files")),
    ],
)
def test_what_is_not_a_request_is_a_plain_error_and_leaves_nothing(governor: Governor, request_: Any):
    for dry_run in (True, False):
        with pytest.raises(BadRequest) as refused:
            governor.decide(request_, dry_run=dry_run)
        assert refused.value.hint
    assert kinds(governor) == []


def test_what_the_caller_changes_later_changes_no_pending_approval(governor: Governor):
    arguments = {"to": "all", "subject": "s", "body": "b"}
    request = Request(Subject("user", "alice"), Action("send_email", {"input": arguments}), Resource("tool", "mail"))
    waiting = governor.decide(request)
    arguments["to"] = "everybody"
    assert governor.system.approvals.get(waiting.approval_id).request().action.input["to"] == "all"


# --- governed functions ---------------------------------------------------------------------------------------


def test_an_allowed_call_runs_between_two_records(governor: Governor):
    @governor.governed(tool="read_file", subject="alice")
    def read_file(path: str) -> list[str]:
        return kinds(governor)

    assert read_file("q3.csv") == ["decision", "execution.started"]
    assert kinds(governor) == ["decision", "execution.started", "execution.finished"]


async def test_an_async_call_runs_between_two_records(governor: Governor):
    @governor.governed(tool="read_file", subject="alice")
    async def read_file(path: str) -> list[str]:
        await asyncio.sleep(0)
        return kinds(governor)

    assert await read_file("q3.csv") == ["decision", "execution.started"]
    assert kinds(governor)[-1] == "execution.finished"


def test_a_denied_call_raises_with_its_decision_and_its_alternative(governor: Governor):
    @governor.governed(tool="transfer_funds", subject="alice")
    def transfer(to: str, amount: int) -> None:
        pytest.fail("it ran")

    with pytest.raises(Denied, match="agents move no money") as denied:
        transfer("ACME", 5)
    assert (denied.value.decision.outcome, denied.value.hint) == (Outcome.DENY, "draft the transfer")
    assert kinds(governor) == ["decision"]


def test_an_approved_call_runs_once_and_a_changed_one_asks_anew(governor: Governor):
    sent: list[str] = []

    @governor.governed(tool="send_email", subject="alice")
    def send(to: str, subject: str, body: str) -> None:
        sent.append(body)

    with pytest.raises(ApprovalRequired, match="1 of finance") as waiting:
        send("all", "s", "b")
    assert waiting.value.approval_id in waiting.value.hint
    approve(governor, waiting.value.approval_id)
    with pytest.raises(ApprovalRequired) as other:
        send("all", "s", "changed")
    assert other.value.approval_id != waiting.value.approval_id
    send("all", subject="s", body="b")
    assert sent == ["b"]
    with pytest.raises(ApprovalRequired):
        send("all", "s", "b")
    assert sent == ["b"]


async def test_an_approved_async_call_runs_once(governor: Governor):
    @governor.governed(tool="send_email", subject="alice")
    async def send(to: str, subject: str, body: str) -> str:
        return "sent"

    with pytest.raises(ApprovalRequired) as waiting:
        await send("all", "s", "b")
    approve(governor, waiting.value.approval_id)
    again = await asyncio.gather(*(send("all", "s", "b") for _ in range(8)), return_exceptions=True)
    assert again.count("sent") == 1
    assert all(isinstance(other, ApprovalRequired) for other in again if other != "sent")


def test_waiting_ends_with_the_vote(governor: Governor):
    @governor.governed(tool="send_email", subject="alice")
    def send(to: str, subject: str, body: str) -> str:
        return "sent"

    with pytest.raises(ApprovalRequired) as waiting:
        send("all", "s", "b")
    assert governor.wait(waiting.value, timeout=0).state == "pending"
    voter = threading.Timer(0.05, approve, (governor, waiting.value.approval_id))
    voter.start()
    assert governor.wait(waiting.value.approval_id[:12]).state == "approved"
    voter.join()
    assert send("all", "s", "b") == "sent"
    assert governor.wait(waiting.value.decision).state == "used"


async def test_waiting_on_an_event_loop_lets_others_go_on(governor: Governor):
    asked = governor.decide(MAIL)
    waiting = asyncio.ensure_future(governor.wait_async(asked))
    await asyncio.sleep(0)
    await asyncio.to_thread(approve, governor, asked.approval_id)
    assert (await waiting).state == "approved"


def test_what_asked_nobody_is_not_waited_for(governor: Governor):
    with pytest.raises(BadRequest, match="nobody was asked"):
        governor.wait(governor.decide(READ))


def test_an_exception_goes_on_and_is_recorded_as_failed_without_its_message(governor: Governor):
    @governor.governed(tool="read_file", subject="alice")
    def read_file(path: str) -> None:
        raise FileNotFoundError("a secret detail")

    with pytest.raises(FileNotFoundError, match="a secret detail"):
        read_file("q3.csv")
    *_, last = governor.system.store.records(RecordQuery())
    assert (last.kind, last.body["status"], last.body["error"]) == (
        "execution.finished",
        "failed",
        "FileNotFoundError",
    )
    assert b"secret detail" not in last.data


async def test_an_async_exception_goes_on_and_is_recorded_as_failed(governor: Governor):
    @governor.governed(tool="read_file", subject="alice")
    async def read_file(path: str) -> None:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        await read_file("q3.csv")
    assert governor.activities()[0].status == "failed"


def test_who_acts_is_who_is_named_nearest(governor: Governor):
    seen: list[Subject] = []
    governor.register_policy(
        lambda request, context: None if request.comes_back else seen.append(request.subject), name="witness"
    )

    @governor.governed(tool="read_file", subject="alice", roles=("staff",))
    def read_file(path: str) -> None:
        return None

    read_file("a")
    with governor.acting_as("bob", roles=("finance",)):
        read_file("b")
        with governor.acting_as(Subject("service", "nightly")):
            read_file("c")
        read_file("d")
    read_file("e")
    assert [(subject.type, subject.id, subject.roles) for subject in seen] == [
        ("user", "alice", ("staff",)),
        ("user", "bob", ("finance",)),
        ("service", "nightly", ()),
        ("user", "bob", ("finance",)),
        ("user", "alice", ("staff",)),
    ]


def test_an_error_inside_acting_as_ends_the_acting(governor: Governor):
    @governor.governed(tool="read_file")
    def read_file(path: str) -> None:
        return None

    with contextlib.suppress(ZeroDivisionError), governor.acting_as("bob"):
        raise ZeroDivisionError
    with pytest.raises(ConfigError, match="nobody is acting"):
        read_file("a")


@pytest.mark.parametrize(
    ("subject", "roles"),
    [
        ("", ()),
        ("x" * 513, ()),
        ("alice", "staff"),
        (Subject("user", ""), ()),
        (Subject("user", "alice"), ("staff",)),
        (Subject("user", "alice", {"badge": object()}), ()),
        (5, ()),
    ],
)
def test_a_subject_that_cannot_act_is_refused_when_it_is_named(governor: Governor, subject: Any, roles: Any):
    with pytest.raises(ConfigError) as refused:
        governor.governed(tool="read_file", subject=subject, roles=roles)
    assert refused.value.hint
    with pytest.raises(ConfigError), governor.acting_as(subject, roles=roles):
        pytest.fail("it acts")


def test_many_threads_and_event_loops_at_once_each_act_for_their_own_subject(governor: Governor):
    @governor.governed(tool="read_file")
    def read_file(path: str) -> str:
        return path

    @governor.governed(tool="read_file")
    async def read_later(path: str) -> str:
        return path

    failures: list[BaseException] = []

    def work(name: str) -> None:
        async def loop() -> None:
            with governor.acting_as(name):
                assert await asyncio.gather(*(read_later(str(n)) for n in range(5))) == list("01234")

        try:
            with governor.acting_as(name):
                assert [read_file(str(n)) for n in range(5)] == list("01234")
            asyncio.run(loop())
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"user-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for n in range(6):
        rows = governor.activities(user_id=f"user-{n}")
        assert [row.status for row in rows] == ["executed"] * 10
    assert len(governor.activities(limit=1000)) == 60


async def test_tasks_of_one_loop_act_for_their_own_subject(governor: Governor):
    @governor.governed(tool="read_file")
    async def read_file(path: str) -> None:
        await asyncio.sleep(0)

    async def act(name: str) -> None:
        with governor.acting_as(name):
            await read_file("a")
            await read_file("b")

    await asyncio.gather(*(act(f"user-{n}") for n in range(5)))
    assert {row.user for row in governor.activities()} == {f"user-{n}" for n in range(5)}
    assert all(len(governor.activities(f"user-{n}")) == 2 for n in range(5))


# --- policies in Python ---------------------------------------------------------------------------------------


def outcome(governor: Governor, request: Mapping[str, Any] = READ) -> Decision:
    return governor.decide(request, dry_run=True)


def test_a_python_policy_that_abstains_changes_nothing(governor: Governor):
    governor.register_policy(lambda request, context: None, name="silent")
    assert outcome(governor).outcome is Outcome.ALLOW
    assert outcome(governor).policies == ("use-tools",)


def test_a_python_policy_can_grant_but_loosens_nothing(folder: Path):
    (folder / "policies/main.cedar").write_text(
        '@id("no-transfers") @owner("t") @reason("no money")\n'
        'forbid (principal, action == Action::"transfer_funds", resource);'
    )
    transfer = READ | {"action": {"name": "transfer_funds", "properties": {"input": {"to": "a", "amount": 1}}}}
    with Governor.open(folder) as governor:
        assert outcome(governor).outcome is Outcome.DENY
        governor.register_policy(lambda request, context: Decision.allow("all may"), name="all-may")
        assert outcome(governor).outcome is Outcome.ALLOW
        assert outcome(governor).policies == ("python:all-may",)
        assert outcome(governor, transfer).outcome is Outcome.DENY


def test_a_python_policy_denies_with_its_reason_and_sees_the_request_and_its_context(governor: Governor):
    @governor.register_policy
    def no_figures(request: Request, context: Mapping[str, object]) -> Decision | None:
        assert context["environment"] == "test"
        if str(request.action.input.get("path", "")).endswith(".csv"):
            return Decision.deny("figures stay here", alternative="ask for the summary")
        return None

    denied = outcome(governor)
    assert (denied.outcome, denied.reasons, denied.policies) == (
        Outcome.DENY,
        ("figures stay here",),
        ("python:no_figures",),
    )
    assert denied.advice[0].text == "ask for the summary"


def test_a_python_policy_asks_people_and_their_approval_counts(governor: Governor):
    @governor.register_policy
    def ask(request: Request, context: Mapping[str, object]) -> Decision | None:
        return Decision.review("somebody should look", approvers="1 of finance", expires="1h")

    waiting = governor.decide(READ)
    assert (waiting.outcome, str(waiting.requirement)) == (Outcome.REQUIRE_REVIEW, "1 of finance")
    approve(governor, waiting.approval_id)
    assert governor.decide(READ).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "answer", [True, False, "allow", Outcome.ALLOW, {"outcome": "allow"}, 0, Decision(outcome=Outcome.REQUIRE_REVIEW)]
)
def test_a_python_policy_of_the_wrong_type_denies(governor: Governor, answer: Any):
    governor.register_policy(lambda request, context: answer, name="odd")
    decision = outcome(governor)
    assert decision.outcome is Outcome.DENY
    assert [error.policy for error in decision.errors] == ["python:odd"]


def test_a_python_policy_that_fails_denies_without_telling_its_message(governor: Governor):
    def broken(request: Request, context: Mapping[str, object]) -> Decision | None:
        raise RuntimeError("a secret detail")

    governor.register_policy(broken)
    decision = governor.decide(READ)
    assert decision.outcome is Outcome.DENY
    assert [(error.policy, error.message) for error in decision.errors] == [("python:broken", "raised RuntimeError")]
    assert not any(b"secret detail" in record.data for record in governor.system.store.records(RecordQuery()))


def test_a_python_policy_cannot_change_what_runs(governor: Governor):
    @governor.register_policy
    def meddle(request: Request, context: Any) -> Decision | None:
        request.action.input["path"] = "other"
        context["labels"].append("tool:transfer_funds")
        return None

    @governor.governed(tool="read_file", subject="alice")
    def read_file(path: str) -> str:
        return path

    assert read_file("q3.csv") == "q3.csv"


def test_a_name_is_given_to_one_python_policy_only(governor: Governor):
    governor.register_policy(lambda request, context: None, name="mine")
    with pytest.raises(BadRequest, match="`mine`"):
        governor.register_policy(lambda request, context: Decision.allow(), name="mine")
    with pytest.raises(BadRequest, match="needs a name"):
        governor.register_policy(lambda request, context: Decision.allow())


def test_an_async_policy_is_refused_at_once(governor: Governor):
    async def later(request: Request, context: Mapping[str, object]) -> Decision | None:
        return None

    with pytest.raises(ConfigError, match="async"):
        governor.register_policy(later)  # type: ignore[arg-type]
    assert outcome(governor).outcome is Outcome.ALLOW


# --- what happened --------------------------------------------------------------------------------------------


def test_activities_are_rows_of_one_user_newest_first(governor: Governor):
    governor.decide(READ)
    governor.decide(MAIL)
    governor.decide(READ | {"subject": {"type": "user", "id": "bob"}})
    newest, oldest = governor.activities(user_id="alice")
    assert (newest.action, newest.decision, newest.status, newest.user) == (
        "send_email",
        "require_review",
        "pending",
        "alice",
    )
    assert (oldest.action, oldest.decision, oldest.status) == ("read_file", "allow", "allowed")
    assert newest.id.startswith("rec_")
    assert newest.timestamp >= oldest.timestamp
    assert [row.user for row in governor.activities()] == ["bob", "alice", "alice"]
    assert [row.user for row in governor.activities(limit=1)] == ["bob"]
    assert governor.activities(user_id="nobody") == []
    with pytest.raises(BadRequest):
        governor.activities(limit=0)


def test_a_decision_under_an_idempotency_key_is_made_once(governor: Governor):
    first, second = (governor.decide(READ, idempotency_key="k-1") for _ in range(2))
    assert first == second
    assert governor.decide(READ).evaluation_id != first.evaluation_id
    with pytest.raises(BadRequest):
        governor.decide(READ, idempotency_key="a\nb")
