"""Who waits for people is woken by the vote, whichever process cast it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from checkrein.compose import System
from checkrein.flow.approval import State
from checkrein.model import (
    Action,
    ApprovalRequired,
    Denied,
    NotFound,
    Outcome,
    Request,
    Resource,
    StoreUnavailable,
    Subject,
)
from checkrein.ports import RecordQuery
from checkrein.services.waiting import ANY, Drain, Hold, Waiting

PATIENCE_S = 30.0


def mail(to: str = "all") -> Request:
    action = Action("send_email", {"input": {"to": to, "subject": "s", "body": "b"}})
    return Request(Subject("user", "alice"), action, Resource("tool", "send_email"))


def asked(system: System, to: str = "all") -> str:
    """The id of a pending approval."""
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(mail(to), caller="test"):
        pytest.fail("it ran")
    return waiting.value.approval_id


def vote(system: System, id: str, *, approve: bool = True, reason: str = "") -> None:
    system.approvals.vote(id, voter="bob", roles=("finance",), approve=approve, reason=reason, auth="local")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "checkrein-waiting"]


@pytest.fixture
def hold(system: System) -> Hold:
    return Hold(system.waiting, PATIENCE_S, Drain())


@asynccontextmanager
async def held(system: System, hold: Hold, to: str = "all") -> AsyncIterator[tuple[asyncio.Task[str], str]]:
    """An action that is held: its task, whose result is what came of it, and its approval."""

    async def act() -> str:
        async with system.gateway.action(mail(to), caller="test", hold=hold) as governed:
            return governed.decision.outcome.wire

    task = asyncio.create_task(act())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := system.approvals.all()) or not system.waiting.listeners:
                assert not task.done(), task.result()
                await asyncio.sleep(0.002)
        yield task, found[0].id
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def starts(system: System) -> int:
    return len([*system.store.records(RecordQuery(kinds=("execution.started",)))])


async def test_a_held_action_goes_on_by_itself_once_it_is_approved_and_is_decided_afresh(system: System, hold: Hold):
    async with held(system, hold) as (task, id):
        assert starts(system) == 0
        vote(system, id)
        assert await asyncio.wait_for(task, PATIENCE_S) == "allow"
    assert system.approvals.get(id).state is State.USED
    outcomes = [record.body["decision"]["outcome"] for record in system.store.records(RecordQuery(kinds=("decision",)))]
    assert outcomes == ["require_review", "allow"]


async def test_a_held_action_that_is_denied_is_answered_with_the_reason_and_opens_nothing_new(
    system: System, hold: Hold
):
    async with held(system, hold) as (task, id):
        vote(system, id, approve=False, reason="wrong recipients")
        with pytest.raises(Denied, match="wrong recipients") as denied:
            await asyncio.wait_for(task, PATIENCE_S)
    assert denied.value.decision.outcome is Outcome.DENY
    assert [approval.state for approval in system.approvals.all(None)] == [State.DENIED]
    assert starts(system) == 0


async def test_when_the_time_is_over_the_caller_is_told_whom_it_waits_for(system: System):
    with pytest.raises(ApprovalRequired) as waiting:
        async with system.gateway.action(mail(), caller="test", hold=Hold(system.waiting, 0.01, Drain())):
            pytest.fail("it ran")
    assert system.approvals.get(waiting.value.approval_id).state is State.PENDING


async def test_a_caller_that_leaves_while_it_is_held_stops_waiting_and_nothing_runs(system: System, hold: Hold):
    async with held(system, hold) as (task, id):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not system.waiting.listeners
        vote(system, id)
    assert system.approvals.get(id).state is State.APPROVED
    assert starts(system) == 0


async def test_a_server_that_stops_lets_go_of_whom_it_holds(system: System):
    drain = Drain()
    async with held(system, Hold(system.waiting, PATIENCE_S, drain)) as (task, _):
        drain.begin()
        with pytest.raises(ApprovalRequired):
            await asyncio.wait_for(task, PATIENCE_S)
    with pytest.raises(ApprovalRequired):
        async with system.gateway.action(mail(), caller="test", hold=Hold(system.waiting, PATIENCE_S, drain)):
            pytest.fail("it ran")


async def test_of_two_that_wait_for_one_approval_one_runs_and_the_other_asks_anew(system: System, hold: Hold):
    async with held(system, hold) as (first, id), held(system, hold) as (second, _):
        vote(system, id)
        done, pending = await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
        assert [task.result() for task in done] == ["allow"]
        assert len(pending) == 1
        async with asyncio.timeout(PATIENCE_S):
            while not (anew := system.approvals.all()):
                await asyncio.sleep(0.002)
    assert anew[0].id != id
    assert starts(system) == 1


def test_a_vote_of_another_process_wakes_who_waits(system: System, folder: Path):
    id = asked(system)
    command = [sys.executable, "-m", "checkrein", "approvals", "approve", id, "--as", "bob", "--dir", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as voting:
        assert system.waiting.settled_sync(id, PATIENCE_S).state is State.APPROVED
        assert voting.wait(PATIENCE_S) == 0


async def test_a_thousand_that_wait_share_one_thread_and_each_hears_its_own(system: System):
    ids = [asked(system, f"group-{number}") for number in range(30)]
    waiters = [asyncio.ensure_future(system.waiting.settled(id, PATIENCE_S)) for id in ids for _ in range(34)]
    await asyncio.sleep(0)
    assert threads() == ["checkrein-waiting"]
    for id in ids[:-1]:
        vote(system, id)
    vote(system, ids[-1], approve=False)
    settled = await asyncio.gather(*waiters)
    assert [approval.id for approval in settled] == [id for id in ids for _ in range(34)]
    assert {approval.state for approval in settled[:-34]} == {State.APPROVED}
    assert {approval.state for approval in settled[-34:]} == {State.DENIED}


def test_nobody_who_waits_means_no_thread(system: System):
    id = asked(system)
    assert system.waiting.settled_sync(id, 0.0).state is State.PENDING
    deadline = threading.Event()
    for _ in range(3000):
        if not threads():
            break
        deadline.wait(0.01)
    assert not threads()


def test_what_was_settled_before_is_told_at_once(system: System):
    id = asked(system)
    vote(system, id)
    assert system.waiting.settled_sync(id, PATIENCE_S).state is State.APPROVED


def test_an_approval_past_its_deadline_has_expired_swept_or_not(system: System, monkeypatch: pytest.MonkeyPatch):
    id = asked(system)
    now_us = system.clock.now_us() + 2 * 3600 * 1_000_000
    monkeypatch.setattr(system.clock, "now_us", lambda: now_us)
    assert system.waiting.settled_sync(id, PATIENCE_S).state is State.EXPIRED


def test_an_approval_that_is_not_there_is_not_waited_for(system: System):
    with pytest.raises(NotFound):
        system.waiting.settled_sync("apr_nothing", PATIENCE_S)
    assert not system.waiting.listeners


def test_news_that_could_not_be_read_are_read_later(system: System, monkeypatch: pytest.MonkeyPatch):
    id, tries = asked(system), threading.Semaphore(0)
    read = system.store.records

    def fails(query: RecordQuery) -> Iterator[object]:
        tries.release()
        raise StoreUnavailable("the disk is away")

    heard = threading.Event()
    with system.waiting.listening(ANY, heard.set):
        with monkeypatch.context() as patch:
            patch.setattr(system.store, "records", fails)
            vote(system, id)
            assert tries.acquire(timeout=PATIENCE_S)
        assert read is not fails
        assert heard.wait(PATIENCE_S)


def test_closing_wakes_who_waits(system: System):
    waiting = Waiting(system.store, system.approvals, system.clock)
    found: list[State] = []
    waiter = threading.Thread(target=lambda: found.append(waiting.settled_sync(asked(system), PATIENCE_S).state))
    waiter.start()
    pause = threading.Event()
    while not waiting.listeners and waiter.is_alive():
        pause.wait(0.002)
    waiting.close()
    waiter.join(PATIENCE_S)
    assert found == [State.PENDING]
