"""One key, one execution, one answer: over threads, processes, crashes and the days."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from checkrein import compose
from checkrein.compose import System, open_system
from checkrein.ledger.record import mac
from checkrein.model import (
    Action,
    ApprovalRequired,
    BadRequest,
    ConfigError,
    Denied,
    IdempotencyConflict,
    Outcome,
    Request,
    Resource,
    StoreUnavailable,
    Subject,
)
from checkrein.ports import RecordQuery, Unit
from checkrein.services import privacy
from checkrein.services.idempotency import MAX_KEY, ROOM, Once, Replay
from checkrein.services.spans import NOBODY
from checkrein.services.steps import wait

ALICE = Subject("user", "alice")
ANSWER = b'{"content":"the merger closes on the ninth"}'
HOUR_US = 3_600_000_000
Fresh = Callable[[], System]


def call(tool: str, /, **input: object) -> Request:
    return Request(ALICE, Action(tool, {"input": input}), Resource("tool", tool), {"agent": {"id": "bot"}})


READ = call("read_file", path="q3.csv")
MAIL = call("send_email", to="all", subject="s", body="b")
PAY = call("transfer_funds", to="ACME", amount=5)


@pytest.fixture
def fresh(folder: Path) -> Iterator[Fresh]:
    """Opens the system on the folder, again and again, as new processes would."""
    opened: list[System] = []

    def open_() -> System:
        opened.append(open_system(folder))
        return opened[-1]

    yield open_
    for system in opened:
        system.close()


@pytest.fixture
def system(fresh: Fresh) -> System:
    return fresh()


def once(system: System, key: str = "k-1", *, caller: str = "key_1", body: bytes = b"{}") -> Once:
    return system.gateway.idempotency.once(key, caller=caller, operation="/x", body=body)


def run(system: System, request: Request = READ, *, under: Once | None = None, answer: bytes = ANSWER) -> str:
    """Run it once and keep the answer; the trace id."""
    with system.gateway.action_sync(request, caller="t", once=under or once(system)) as governed:
        governed.replies(answer)
        return governed.decision.trace_id


def refused(system: System, request: Request = READ, *, under: Once | None = None) -> IdempotencyConflict:
    with pytest.raises(IdempotencyConflict) as error:
        run(system, request, under=under)
    return error.value


def starts(system: System) -> int:
    return sum(1 for _ in system.store.records(RecordQuery(kinds=("execution.started",))))


def test_the_second_use_of_a_key_gets_the_first_answer_and_runs_nothing(system: System):
    run(system)
    size = system.store.head().size
    for _ in range(3):
        with pytest.raises(Replay) as before:
            run(system, answer=b"another")
        assert before.value.answer == ANSWER
    assert system.store.head().size == size


def test_the_answer_outlives_the_process(fresh: Fresh, system: System):
    run(system)
    system.close()
    with pytest.raises(Replay) as before:
        run(fresh())
    assert before.value.answer == ANSWER


def test_a_key_with_another_body_or_at_another_place_is_refused(system: System):
    run(system)
    error = refused(system, under=once(system, body=b"[]"))
    assert (error.code, error.trace_id) == ("idempotency_key_reused", "")
    elsewhere = system.gateway.idempotency.once("k-1", caller="key_1", operation="/y", body=b"{}")
    assert refused(system, under=elsewhere).code == "idempotency_key_reused"
    assert starts(system) == 1


def test_the_keys_of_two_callers_never_meet(system: System):
    run(system)
    run(system, under=once(system, caller="key_2"), answer=b"theirs")
    assert starts(system) == 2
    with pytest.raises(Replay) as before:
        run(system)
    assert before.value.answer == ANSWER


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY + 1), "a\nb", "\x00", "ä", "\ud800"])
def test_what_is_no_key_is_refused(system: System, key: str):
    with pytest.raises(BadRequest, match="idempotency key"):
        once(system, key)
    assert once(system, "x" * MAX_KEY)


def test_while_the_first_runs_the_second_is_told_to_come_back(fresh: Fresh, system: System):
    other = fresh()  # as another process of the same store
    with system.gateway.action_sync(READ, caller="t", once=once(system)) as governed:
        for where in (system, other):
            error = refused(where)
            assert (error.code, error.retry_after_s) == ("idempotency_key_in_use", 1)
            assert error.trace_id == governed.decision.trace_id
        governed.replies(ANSWER)
    for where in (system, other):
        with pytest.raises(Replay):
            run(where)
    assert starts(system) == 1


def test_of_many_at_once_one_runs(fresh: Fresh, system: System):
    places, barrier = (system, fresh()), threading.Barrier(16)
    ended: list[str] = []

    def race(where: System) -> None:
        barrier.wait()
        try:
            run(where)
        except Replay:
            ended.append("replay")
        except IdempotencyConflict as error:
            ended.append(error.code)
        else:
            ended.append("ran")

    threads = [threading.Thread(target=race, args=(places[number % 2],)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended.count("ran") == starts(system) == 1
    assert set(ended) <= {"ran", "replay", "idempotency_key_in_use"}


# --- what did not run is not remembered -------------------------------------------------------------------------


def test_a_denial_is_answered_afresh(system: System):
    traces = set()
    for _ in range(2):
        with pytest.raises(Denied) as denied:
            run(system, PAY)
        traces.add(denied.value.decision.trace_id)
    assert len(traces) == 2
    assert system.store.rows(ROOM) == []


def test_once_approved_the_same_key_runs_and_is_answered_the_same_from_then_on(system: System):
    with pytest.raises(ApprovalRequired) as waiting:
        run(system, MAIL)
    system.approvals.vote(waiting.value.approval_id, voter="bob", roles=("finance",), approve=True, auth="local")
    run(system, MAIL)
    with pytest.raises(Replay):  # without the key people would be asked again
        run(system, MAIL)
    assert starts(system) == 1


def test_an_action_that_never_began_leaves_its_key_free(system: System):
    with (
        pytest.raises(ZeroDivisionError),
        system.gateway.action_sync(READ, caller="t", once=once(system)) as governed,
    ):
        governed.never_ran()
        raise ZeroDivisionError
    assert system.store.rows(ROOM) == []
    run(system)


async def test_a_caller_that_leaves_before_it_runs_leaves_its_key_free(system: System):
    async def act() -> None:
        async with system.gateway.action(READ, caller="t", once=once(system)):
            pytest.fail("it ran")

    task = asyncio.create_task(act())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while not list(system.store.records(RecordQuery(kinds=("execution.finished",)))):
            await asyncio.sleep(0.005)
    assert system.store.rows(ROOM) == []
    run(system)


def test_a_request_that_could_not_be_sealed_leaves_its_key_free(system: System, monkeypatch: pytest.MonkeyPatch):
    def refusing(payload: object) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(system.vault, "_transact", refusing)
        with pytest.raises(StoreUnavailable):
            run(system)
    assert system.store.rows(ROOM) == []
    run(system)


# --- what may have run never runs again -------------------------------------------------------------------------


def test_after_a_crash_the_end_is_unknown_and_it_never_runs_again(
    fresh: Fresh, system: System, monkeypatch: pytest.MonkeyPatch
):
    begun = wait(system.gateway._begin(READ, "t", NOBODY, once(system)))
    system.close()  # the process is gone; the end was never written
    reopened = fresh()
    error = refused(reopened)
    assert (error.code, error.trace_id) == ("idempotency_end_unknown", begun.decision.trace_id)
    later = reopened.clock.now_us() + 1000 * HOUR_US
    monkeypatch.setattr(compose.SystemClock, "now_us", lambda self: later)
    reopened.payloads.sweep()
    assert refused(reopened).code == "idempotency_end_unknown"
    assert starts(reopened) == 1


CHILD = """
import os, sys, time
from checkrein.compose import open_system
from checkrein.model import Action, Request, Resource, Subject

system = open_system(sys.argv[1])
request = Request(Subject("user", "alice"), Action("read_file", {"input": {"path": "q3.csv"}}),
                  Resource("tool", "read_file"), {"agent": {"id": "bot"}})
once = system.gateway.idempotency.once("k-1", caller="key_1", operation="/x", body=b"{}")
with system.gateway.action_sync(request, caller="t", once=once):
    print("runs", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_leaves_the_key_taken_for_every_other(folder: Path, system: System):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "runs\n"
        assert refused(system).code == "idempotency_key_in_use"
        child.kill()
    assert refused(system).code == "idempotency_end_unknown"
    assert starts(system) == 1


def test_an_end_that_could_not_be_recorded_is_unknown(system: System, monkeypatch: pytest.MonkeyPatch):
    def refuse(unit: object) -> None:
        raise StoreUnavailable("the disk is full")

    with (
        monkeypatch.context() as patch,
        pytest.raises(StoreUnavailable),
        system.gateway.action_sync(READ, caller="t", once=once(system)),
    ):
        patch.setattr(system.store, "commit", refuse)
    assert refused(system).code == "idempotency_end_unknown"


@pytest.mark.parametrize("answer", [b"", b"x" * (1024 * 1024 + 1)], ids=["none", "too long"])
def test_what_ran_without_an_answer_to_keep_is_not_run_again(system: System, answer: bytes):
    trace_id = run(system, answer=answer)
    error = refused(system)
    assert (error.code, error.trace_id) == ("idempotency_answer_gone", trace_id)


def test_an_action_that_failed_is_not_run_again(system: System):
    with pytest.raises(ZeroDivisionError), system.gateway.action_sync(READ, caller="t", once=once(system)):
        raise ZeroDivisionError
    assert refused(system).code == "idempotency_answer_gone"


def test_an_erased_answer_is_gone_and_the_action_is_not_run_again(system: System):
    run(system)
    system.payloads.erase(ALICE, by="operator", reason="asked for")
    assert refused(system).code == "idempotency_answer_gone"


# --- who only asks ----------------------------------------------------------------------------------------------


def test_an_enforcement_point_gets_the_same_yes_and_spends_one_approval(system: System):
    first = system.gateway.evaluate_sync(MAIL, caller="t", once=once(system))
    assert first.outcome is Outcome.REQUIRE_REVIEW
    system.approvals.vote(first.approval_id, voter="bob", roles=("finance",), approve=True, auth="local")
    allowed = system.gateway.evaluate_sync(MAIL, caller="t", once=once(system))
    assert allowed.outcome is Outcome.ALLOW
    assert system.gateway.evaluate_sync(MAIL, caller="t", once=once(system)) == allowed
    assert system.gateway.evaluate_sync(MAIL, caller="t").outcome is Outcome.REQUIRE_REVIEW


def test_a_no_is_given_afresh(system: System):
    first, second = (system.gateway.evaluate_sync(PAY, caller="t", once=once(system)) for _ in range(2))
    assert first.outcome is second.outcome is Outcome.DENY
    assert first.evaluation_id != second.evaluation_id


def test_a_yes_that_could_not_be_kept_is_not_given(system: System, monkeypatch: pytest.MonkeyPatch):
    def refusing(payload: object) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(system.vault, "_transact", refusing)
        with pytest.raises(StoreUnavailable):
            system.gateway.evaluate_sync(READ, caller="t", once=once(system))
    assert system.gateway.evaluate_sync(READ, caller="t", once=once(system)).outcome is Outcome.ALLOW


# --- what is kept, and for how long -----------------------------------------------------------------------------


def test_neither_key_nor_answer_stands_anywhere_in_the_clear(system: System):
    run(system, under=once(system, "a-telling-key"))
    system.close()
    stored = b"\n".join(path.read_bytes() for path in system.data.path.rglob("*") if path.is_file())
    assert b"a-telling-key" not in stored
    assert b"the merger" not in stored


def test_the_record_of_the_end_commits_to_the_answer(system: System):
    run(system)
    (record,) = system.store.records(RecordQuery(kinds=("execution.finished",)))
    named = record.body["answer"]
    assert isinstance(named, dict)
    assert str(named["id"]).endswith(".answer")
    assert named["hmac"] == mac(system.data.commitment_key(), ANSWER)


def test_a_key_is_forgotten_after_its_time_with_its_answer(system: System, monkeypatch: pytest.MonkeyPatch):
    run(system)
    for number in range(100):
        run(system, under=once(system, f"other-{number}"))
    now_us = system.clock.now_us()
    monkeypatch.setattr(compose.SystemClock, "now_us", lambda self: now_us + 24 * HOUR_US)
    run(system)  # taken anew
    assert starts(system) == 102
    system.payloads.sweep()
    system.store.commit(Unit()).result()  # what was queued before it is written
    assert len(system.store.rows(ROOM, limit=1000)) == 1
    connection = apsw.Connection(str(system.data.payloads))
    kept = [row[0] for row in connection.execute("SELECT id FROM payload WHERE id LIKE '%.answer'")]
    connection.close()
    assert len(kept) == 1


def test_keys_are_forgotten_as_new_ones_come(system: System, monkeypatch: pytest.MonkeyPatch):
    for number in range(40):
        run(system, under=once(system, f"old-{number}"))
    now_us = system.clock.now_us()
    monkeypatch.setattr(compose.SystemClock, "now_us", lambda self: now_us + 25 * HOUR_US)
    for number in range(40):
        run(system, under=once(system, f"new-{number}"))
    assert len(system.store.rows(ROOM, limit=1000)) < 80


def test_an_answer_that_a_key_keeps_is_no_orphan(system: System, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(privacy, "GRACE_US", -60_000_000)
    run(system)
    system.gateway.evaluate_sync(READ, caller="t", once=once(system, "k-2"))
    assert system.payloads.sweep().orphans == 0
    with pytest.raises(Replay):
        run(system)


def test_how_long_keys_live_is_configured(folder: Path, fresh: Fresh, monkeypatch: pytest.MonkeyPatch):
    config = folder / "checkrein.toml"
    text = config.read_text()
    config.write_text(f"{text}\n[retention]\nidempotency_hours = 0\n")
    with pytest.raises(ConfigError, match="idempotency_hours"):
        fresh()
    config.write_text(f"{text}\n[retention]\nidempotency_hours = 48\n")
    system = fresh()
    run(system)
    now_us = system.clock.now_us()
    monkeypatch.setattr(compose.SystemClock, "now_us", lambda self: now_us + 47 * HOUR_US)
    with contextlib.suppress(Replay):
        run(system)
    assert starts(system) == 1
