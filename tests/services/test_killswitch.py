"""The kill switch: from the next request on in every process, what runs is cut, and both are recorded."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from checkrein.compose import System, SystemClock, open_system
from checkrein.ledger import Record
from checkrein.model import (
    Action,
    ApprovalRequired,
    BadRequest,
    Decision,
    Denied,
    Killed,
    NotFound,
    Outcome,
    Request,
    Resource,
    StoreConflict,
    StoreUnavailable,
    Subject,
)
from checkrein.model.target import Target, What, targets
from checkrein.pending import Pending
from checkrein.ports import RecordQuery, Unit
from checkrein.services import killswitch as module
from checkrein.services.killswitch import KillSwitch
from checkrein.storage.memory import MemoryStore

ALICE = Subject("user", "alice")
READ = Request(
    ALICE, Action("read_file", {"input": {"path": "q"}}), Resource("tool", "files"), {"agent": {"id": "bot"}}
)
PROMPT = Request(
    ALICE,
    Action("prompt", {"input": {"messages": [{"role": "user", "content": "hi"}]}}),
    Resource("model", "gpt-4o"),
    {"agent": {"id": "bot"}},
)
EVERYTHING = Target(What.EVERYTHING)


@pytest.fixture
def switches() -> KillSwitch:
    return KillSwitch(MemoryStore(SystemClock()), SystemClock())


def kill(system: System, what: str, name: str = "") -> None:
    system.killswitch.kill(Target.parse(what, name), reason="for a test", by="tests")


def denied(system: System, request: Request) -> Decision:
    with pytest.raises(Denied) as refused, system.gateway.action_sync(request, caller="key_1"):
        pytest.fail("it ran")
    return refused.value.decision


@pytest.mark.parametrize(
    ("what", "name", "request_"),
    [
        ("everything", "", READ),
        ("agent", "bot", READ),
        ("agent", "BOT ", READ),
        ("agent", "b*", PROMPT),
        ("key", "key_*", READ),
        ("subject", "alice", READ),
        ("tool", "read_file", READ),
        ("model", "gpt-4*", PROMPT),
        ("model", "GPT-4O", PROMPT),
    ],
)
def test_what_is_killed_is_denied_by_the_switch_that_is_named_and_recorded(
    system: System, what: str, name: str, request_: Request
):
    kill(system, what, name)
    made = denied(system, request_)
    switch = f"kill:{Target.parse(what, name)}"
    assert (made.outcome, made.code, made.policies) == (Outcome.DENY, "killed", (switch,))
    assert "for a test" in made.reasons[0]
    (record,) = system.store.records(RecordQuery(trace_id=made.trace_id))
    assert (record.body["decision"]["code"], record.body["decision"]["policies"]) == ("killed", [switch])
    assert made.to_json()["context"]["code"] == "killed"  # type: ignore[index]


@pytest.mark.parametrize(
    ("what", "name"), [("agent", "other"), ("tool", "read"), ("model", "gpt-4o"), ("subject", "bob"), ("key", "key_2")]
)
def test_what_is_not_meant_goes_on(system: System, what: str, name: str):
    if what == "key":
        name = system.keys.create("another", by="tests")[0].id
    kill(system, what, name)
    with system.gateway.action_sync(READ, caller="key_1") as governed:
        assert governed.decision.code == ""


def test_an_agent_that_acts_for_itself_is_killed_by_its_name():
    those = targets(Request(Subject("agent", "Bot"), READ.action, READ.resource), "key_1")
    assert Target(What.AGENT, "bot") in those


def test_a_name_that_looks_like_a_pattern_is_still_killed_by_itself():
    assert Target(What.TOOL, "a[1]").fits(Target(What.TOOL, "a[1]"))


def test_an_enforcement_point_is_denied_too_and_a_revived_agent_runs_again(system: System):
    kill(system, "agent", "bot")
    assert system.gateway.evaluate_sync(READ, caller="key_1").code == "killed"
    system.killswitch.revive(Target.parse("agent", "bot"), reason="mended", by="tests")
    assert system.gateway.evaluate_sync(READ, caller="key_1").outcome.runs


def test_an_approval_survives_the_kill_and_runs_what_was_approved_once_revived(system: System):
    mail = Request(ALICE, Action("send_email", {"input": {"to": "a", "subject": "s", "body": "b"}}), READ.resource)
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(mail, caller="key_1"):
        pytest.fail("it ran")
    system.approvals.vote(waiting.value.approval_id, voter="bob", roles=("finance",), approve=True, auth="local")
    kill(system, "everything")
    denied(system, mail)
    system.killswitch.revive(EVERYTHING, reason="mended", by="tests")
    with system.gateway.action_sync(mail, caller="key_1") as governed:
        assert governed.decision.approval_id == waiting.value.approval_id


def test_what_is_killed_gets_no_answer_of_before_under_its_idempotency_key(system: System):
    def decide() -> Decision:
        once = system.gateway.idempotency.once_for("k", READ, caller="key_1", operation="decide")
        return system.gateway.evaluate_sync(READ, caller="key_1", once=once)

    first = decide()
    assert decide().evaluation_id == first.evaluation_id
    kill(system, "tool", "read_file")
    assert decide().code == "killed"


def test_killing_and_reviving_are_recorded_with_who_and_why(switches: KillSwitch):
    bot = Target.parse("agent", "bot")
    made = switches.kill(bot, reason="odd invoices", by="alice")
    assert switches.kill(bot, reason="again", by="bob") == made
    assert switches.revive(bot, reason="mended", by="carol") == made
    assert switches.killed() == ()
    killed, revived = switches._store.records(RecordQuery())
    assert (killed.kind, killed.body["actor"]["id"]) == ("admin.killed", "alice")
    assert killed.body["detail"] == {"switch": "kill:agent:bot", "what": "agent", "reason": "odd invoices"}
    assert (revived.kind, revived.body["actor"]["id"]) == ("admin.revived", "carol")
    assert revived.body["detail"]["reason"] == "mended"


def test_two_switches_on_one_thing_are_lifted_one_by_one(system: System):
    kill(system, "agent", "bot")
    kill(system, "everything")
    system.killswitch.revive(EVERYTHING, reason="over", by="tests")
    assert denied(system, READ).policies == ("kill:agent:bot",)
    with pytest.raises(NotFound) as missing:
        system.killswitch.revive(EVERYTHING, reason="over", by="tests")
    assert "agent:bot" in missing.value.hint


@pytest.mark.parametrize("reason", ["", "   ", "a\nb", "x" * 301])
def test_no_switch_is_thrown_without_a_reason(switches: KillSwitch, reason: str):
    for act in (switches.kill, switches.revive):
        with pytest.raises(BadRequest):
            act(EVERYTHING, reason=reason, by="tests")
    assert not list(switches._store.records(RecordQuery()))


@pytest.mark.parametrize(
    ("what", "name"), [("", ""), ("agnt", "bot"), ("agent", ""), ("agent", " "), ("everything", "x"), ("tool", "a\nb")]
)
def test_what_cannot_be_meant_is_refused(what: str, name: str):
    with pytest.raises(BadRequest) as refused:
        Target.parse(what, name)
    assert refused.value.hint


def test_a_misspelt_key_is_refused_because_the_meant_one_would_go_on(switches: KillSwitch):
    with pytest.raises(NotFound):
        switches.kill(Target.parse("key", "key_nobody"), reason="leaked", by="tests")


def test_of_many_who_throw_and_lift_at_once_none_is_lost(switches: KillSwitch):
    names = [f"agent-{at}" for at in range(24)]
    threads = [
        threading.Thread(target=switches.kill, args=(Target.parse("agent", name),), kwargs={"reason": "r", "by": "t"})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {switch.target.name for switch in switches.killed()} == set(names)


def test_a_row_that_keeps_changing_is_an_error_and_nothing_is_written(
    switches: KillSwitch, monkeypatch: pytest.MonkeyPatch
):
    def overtaken(unit: Unit) -> None:
        raise StoreConflict("somebody was first")

    monkeypatch.setattr(switches._store, "commit", overtaken)
    with pytest.raises(StoreConflict):
        switches.kill(EVERYTHING, reason="r", by="tests")


CHILD = """
import sys
from pathlib import Path
from checkrein.compose import SystemClock
from checkrein.model.target import Target
from checkrein.services.killswitch import KillSwitch
from checkrein.storage.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]), SystemClock())
KillSwitch(store, SystemClock()).kill(Target.parse("agent", "bot"), reason="from elsewhere", by="another process")
store.close()
"""


def test_another_process_kills_and_the_very_next_request_here_is_denied(system: System):
    with system.gateway.action_sync(READ, caller="key_1"):
        pass
    subprocess.run([sys.executable, "-c", CHILD, str(system.data.path)], check=True, timeout=60)
    assert "from elsewhere" in denied(system, READ).reasons[0]


async def test_what_runs_is_cut_and_recorded_as_killed_while_others_go_on(system: System):
    running, over = asyncio.Event(), asyncio.Event()

    async def run(request: Request) -> str:
        async with system.gateway.action(request, caller="key_1") as governed:
            running.set()
            await over.wait()
        return governed.decision.trace_id

    other = asyncio.create_task(run(PROMPT))
    await running.wait()
    running.clear()
    victim = asyncio.create_task(run(READ))
    await running.wait()
    await asyncio.to_thread(kill, system, "tool", "read_file")
    async with asyncio.timeout(20):
        with pytest.raises(Killed) as cut:
            await victim
    assert cut.value.switch == "kill:tool:read_file"
    over.set()
    await other
    ended = {record.body["action"]["name"]: record for record in system.store.records(_ENDS)}
    body = ended["read_file"].body
    assert (body["status"], body["error"], body["detail"]) == ("cancelled", "killed", {"switch": cut.value.switch})
    assert ended["prompt"].body["status"] == "ok"


_ENDS = RecordQuery(kinds=("execution.finished",))


async def test_a_denial_that_takes_long_to_record_is_still_told_as_one(system: System, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "EVERY_S", 0.001)
    kill(system, "tool", "read_file")
    commit, looked = system.store.commit, threading.Event()
    killed = system.killswitch.killed

    def slowly(unit: Unit) -> Pending[tuple[Record, ...]]:
        written: Pending[tuple[Record, ...]] = Pending()
        threading.Thread(target=lambda: (looked.wait(10), written.set_result(commit(unit).result()))).start()
        return written

    def seen() -> tuple[module.Switch, ...]:
        seen_by.append(len(seen_by))
        if len(seen_by) > 5:
            looked.set()
        return killed()

    async with system.gateway.action(PROMPT, caller="key_1"):  # somebody else runs, so it is looked again and again
        seen_by: list[int] = []
        monkeypatch.setattr(system.killswitch, "killed", seen)
        monkeypatch.setattr(system.store, "commit", slowly)
        with pytest.raises(Denied):
            async with system.gateway.action(READ, caller="key_1"):
                pytest.fail("it ran")
        monkeypatch.undo()


async def test_an_action_inside_another_is_cut_with_it_and_the_task_goes_on_afterwards(system: System):
    with pytest.raises(Killed):
        prompt, read = (system.gateway.action(request, caller="key_1") for request in (PROMPT, READ))
        async with asyncio.timeout(20), prompt, read:
            await asyncio.to_thread(kill, system, "agent", "bot")
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)
    assert [end.body["error"] for end in system.store.records(_ENDS)] == ["killed", "killed"]


async def test_a_caller_that_leaves_is_cancelled_and_not_killed(system: System):
    running = asyncio.Event()

    async def run() -> None:
        async with system.gateway.action(READ, caller="key_1"):
            running.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (end,) = system.store.records(_ENDS)
    assert (end.body["status"], end.body["error"]) == ("cancelled", "cancelled")
    assert not system.gateway._running._open


async def test_what_runs_is_cut_when_nobody_can_tell_for_long_whether_it_was_killed(
    system: System, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "BLIND_S", 0.1)

    def blind(room: str, id: str) -> None:
        raise StoreUnavailable("the store cannot be read")

    with pytest.raises(Killed) as cut:
        async with asyncio.timeout(20), system.gateway.action(READ, caller="key_1"):
            monkeypatch.setattr(system.store, "row", blind)
            await asyncio.Event().wait()
    assert "cannot be read" in str(cut.value)


def test_a_store_that_cannot_be_read_lets_nothing_run(system: System, monkeypatch: pytest.MonkeyPatch):
    def blind(room: str, id: str) -> None:
        raise StoreUnavailable("the store cannot be read")

    monkeypatch.setattr(system.store, "row", blind)
    with pytest.raises(StoreUnavailable), system.gateway.action_sync(READ, caller="key_1"):
        pytest.fail("it ran")


def test_what_is_killed_stays_killed_over_a_restart(folder: Path):
    with contextlib.closing(open_system(folder)) as system:
        kill(system, "everything")
    with contextlib.closing(open_system(folder)) as system:
        assert denied(system, READ).code == "killed"
        assert system.warnings() == ("killed: everything (for a test)",)
