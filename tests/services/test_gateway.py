"""The one way through, on a real store: decide, record, execute, record."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import msgspec
import pytest

from checkrein.compose import System, open_system
from checkrein.flow.approval import State
from checkrein.model import (
    Action,
    ApprovalRequired,
    BadRequest,
    Denied,
    Outcome,
    Request,
    Resource,
    StoreUnavailable,
    Subject,
)
from checkrein.ports import RecordQuery, Unit
from checkrein.services.spans import NOBODY
from checkrein.services.steps import wait

ALICE = Subject("user", "alice")


def call(tool: str, who: Subject = ALICE, /, **input: object) -> Request:
    return Request(who, Action(tool, {"input": input}), Resource("tool", tool), {"agent": {"id": "bot"}})


READ = call("read_file", path="q3.csv")
MAIL = call("send_email", to="all", subject="s", body="b")
PAY = call("transfer_funds", to="ACME", amount=5)


def kinds(system: System, trace_id: str = "") -> list[str]:
    return [record.kind for record in system.store.records(RecordQuery(trace_id=trace_id))]


def run(system: System, request: Request) -> str:
    with system.gateway.action_sync(request, caller="test") as governed:
        return governed.decision.trace_id


def test_an_allowed_action_leaves_decision_start_and_end(system: System):
    assert kinds(system, run(system, READ)) == ["decision", "execution.started", "execution.finished"]


def test_decision_and_start_are_durable_before_the_action_runs(system: System):
    with system.gateway.action_sync(READ, caller="test") as governed:
        assert kinds(system, governed.decision.trace_id) == ["decision", "execution.started"]


def test_a_denial_is_recorded_with_its_alternative_and_runs_nothing(system: System):
    with pytest.raises(Denied) as denied, system.gateway.action_sync(PAY, caller="test"):
        pytest.fail("it ran")
    assert denied.value.hint == "draft the transfer"
    assert kinds(system, denied.value.decision.trace_id) == ["decision"]


def test_an_action_that_fails_is_recorded_as_failed(system: System):
    with pytest.raises(ZeroDivisionError), system.gateway.action_sync(READ, caller="test"):
        raise ZeroDivisionError("a secret detail")
    *_, last = system.store.records(RecordQuery())
    assert (last.body["status"], last.body["error"]) == ("failed", "ZeroDivisionError")
    assert b"secret detail" not in last.data


async def test_an_action_that_is_cancelled_is_recorded_as_cancelled(system: System):
    entered = asyncio.Event()

    async def act() -> None:
        async with system.gateway.action(READ, caller="test"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(act())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    *_, last = system.store.records(RecordQuery())
    assert (last.kind, last.body["status"]) == ("execution.finished", "cancelled")


async def test_a_caller_that_leaves_while_the_start_is_written_leaves_no_start_without_an_end(system: System):
    async def act() -> None:
        async with system.gateway.action(READ, caller="test"):
            await asyncio.Event().wait()

    task = asyncio.create_task(act())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while "execution.finished" not in kinds(system):  # the start is being written: both are still to come
            await asyncio.sleep(0.005)
    assert kinds(system).count("execution.started") == 1
    assert not system.store.running()


def approve(system: System, waiting: ApprovalRequired) -> None:
    after = system.approvals.vote(waiting.approval_id, voter="bob", roles=("finance",), approve=True, auth="local")
    assert after.state is State.APPROVED


def wait_for_people(system: System, request: Request) -> ApprovalRequired:
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(request, caller="test"):
        pytest.fail("it ran")
    return waiting.value


def test_an_approved_action_runs_once_and_then_asks_again(system: System):
    first = wait_for_people(system, MAIL)
    approve(system, first)
    trace_id = run(system, MAIL)
    assert system.approvals.get(first.approval_id).state is State.USED
    assert kinds(system, trace_id)[:2] == ["decision", "execution.started"]
    again = wait_for_people(system, MAIL)
    assert again.approval_id != first.approval_id


def test_a_repeat_joins_the_pending_approval(system: System):
    assert wait_for_people(system, MAIL).approval_id == wait_for_people(system, MAIL).approval_id


@pytest.mark.parametrize(
    "other",
    [
        call("send_email", to="all", subject="s", body="B"),
        call("send_email", to="everyone", subject="s", body="b"),
        call("send_email", Subject("user", "mallory"), to="all", subject="s", body="b"),
        msgspec.structs.replace(MAIL, context={"agent": {"id": "other"}}),
        msgspec.structs.replace(MAIL, resource=Resource("tool", "other")),
    ],
    ids=["argument", "recipient", "subject", "agent", "resource"],
)
def test_an_approval_is_for_exactly_one_action(system: System, other: Request):
    first = wait_for_people(system, MAIL)
    approve(system, first)
    assert wait_for_people(system, other).approval_id != first.approval_id
    assert system.approvals.get(first.approval_id).state is State.APPROVED


def test_an_approval_does_not_outlive_a_policy_change(folder: Path, system: System):
    first = wait_for_people(system, MAIL)
    approve(system, first)
    system.close()
    policy = folder / "policies/main.cedar"
    policy.write_text(policy.read_text() + "\n// stricter soon\n")
    with_new_policy = open_system(folder)
    try:
        assert wait_for_people(with_new_policy, MAIL).approval_id != first.approval_id
    finally:
        with_new_policy.close()


def test_of_many_that_race_for_one_approval_one_runs(system: System):
    approve(system, wait_for_people(system, MAIL))
    ran, barrier = [], threading.Barrier(8)

    def race() -> None:
        barrier.wait()
        with contextlib.suppress(ApprovalRequired):
            ran.append(run(system, MAIL))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == 1
    assert kinds(system).count("execution.started") == 1


def test_an_enforcement_point_spends_the_approval_with_the_answer(system: System):
    first = system.gateway.evaluate_sync(MAIL, caller="pep")
    assert first.outcome is Outcome.REQUIRE_REVIEW
    system.approvals.vote(first.approval_id, voter="bob", roles=("finance",), approve=True, auth="local")
    assert system.gateway.evaluate_sync(MAIL, caller="pep").outcome is Outcome.ALLOW
    assert system.approvals.get(first.approval_id).state is State.USED
    assert system.gateway.evaluate_sync(MAIL, caller="pep").outcome is Outcome.REQUIRE_REVIEW


def test_a_store_that_refuses_lets_nothing_run(system: System, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(system.store, "commit", _refuse)
        for request in (READ, MAIL, PAY):
            with pytest.raises(StoreUnavailable), system.gateway.action_sync(request, caller="test"):
                pytest.fail("it ran")
            with pytest.raises(StoreUnavailable):
                system.gateway.evaluate_sync(request, caller="test")
    assert run(system, READ)


def _refuse(unit: Unit) -> None:
    raise StoreUnavailable("the disk is full")


def test_a_crash_between_start_and_end_becomes_unknown_and_never_runs_again(folder: Path, system: System):
    first = wait_for_people(system, MAIL)
    approve(system, first)
    wait(system.gateway._begin(MAIL, "test", NOBODY))
    assert system.approvals.get(first.approval_id).state is State.EXECUTING
    system.close()  # the process is gone; the end was never written
    reopened = open_system(folder)
    try:
        assert kinds(reopened)[-1] == "execution.unknown"
        assert reopened.approvals.get(first.approval_id).state is State.UNKNOWN
        assert wait_for_people(reopened, MAIL).approval_id != first.approval_id
    finally:
        reopened.close()


def test_personal_data_never_stands_in_a_record(system: System):
    body = {"messages": [{"role": "user", "content": "write to jane.doe@example.com"}], "model": "m"}
    request = Request(ALICE, Action("prompt", {"input": body}), Resource("model", "m"))
    with system.gateway.action_sync(request, caller="test") as governed:
        assert governed.decision.outcome is Outcome.ALLOW_WITH_REDACTION
        assert governed.request.action.input["messages"][0]["content"] == "write to <EMAIL_1>"
    records = list(system.store.records(RecordQuery()))
    assert not any(b"jane.doe" in record.data for record in records)
    decided = next(record for record in records if record.kind == "decision")
    assert decided.body["redactions"] == {"pii.email": 1}


KEY = "ghp_" + "aB3d" * 9


@pytest.mark.parametrize(
    "request_",
    [
        call(f"read_{KEY} {KEY}"),
        call("read_file", Subject("user", "card 4111 1111 1111 1111")),
        msgspec.structs.replace(READ, context={"agent": {"id": KEY}}),
        msgspec.structs.replace(READ, context={"session": KEY}),
    ],
    ids=["tool", "subject", "agent", "session"],
)
def test_a_name_that_may_not_be_recorded_is_refused_and_nothing_is_recorded(system: System, request_: Request):
    before = kinds(system)
    with pytest.raises(BadRequest, match="holds what may not be recorded"):
        run(system, request_)
    with pytest.raises(BadRequest):
        system.gateway.evaluate_sync(request_, caller="test")
    assert kinds(system) == before


async def test_a_tool_call_that_a_model_names_by_a_secret_is_recorded_as_denied_without_it(system: System):
    made = await system.gateway.propose(call(f"x {KEY}"), caller="test")
    assert made.outcome is Outcome.DENY
    (record,) = system.store.records(RecordQuery(trace_id=made.trace_id))
    assert KEY.encode() not in record.data
    assert record.body["action"]["name"] == "<secret.github_token>"
