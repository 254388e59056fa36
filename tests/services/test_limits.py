"""Limits hold exactly, whoever asks at once, and what an action held is settled by its end."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from checkrein.compose import System, SystemClock, open_system, quotas
from checkrein.config import Config
from checkrein.config.sections import LimitConfig
from checkrein.flow.approval import State
from checkrein.flow.quota import Amount, Quota, Used
from checkrein.model import (
    Action,
    ApprovalRequired,
    Decision,
    Denied,
    Outcome,
    Request,
    Resource,
    StoreUnavailable,
    Subject,
)
from checkrein.model.target import Target
from checkrein.ports import RecordQuery, Row, Save, Unit
from checkrein.services.limits import ROOM, Limits, money
from checkrein.storage.sqlite import SqliteStore

ALICE = Subject("user", "alice")
READ = Request(
    ALICE, Action("read_file", {"input": {"path": "q"}}), Resource("tool", "files"), {"agent": {"id": "Bot"}}
)
MAIL = Request(ALICE, Action("send_email", {"input": {"to": "a", "subject": "s", "body": "b"}}), READ.resource)
BOT = Target.parse("agent", "bot")

Open = Callable[[str], System]


@pytest.fixture
def limited(folder: Path) -> Iterator[Open]:
    """Open the system with these limits."""
    with contextlib.ExitStack() as opened:

        def open_(limits: str) -> System:
            config = folder / "checkrein.toml"
            config.write_text(config.read_text() + limits)
            return opened.enter_context(contextlib.closing(open_system(folder)))

        yield open_


def run(system: System, request: Request = READ) -> None:
    with system.gateway.action_sync(request, caller="key_1"):
        pass


def denied(system: System, request: Request = READ) -> Denied:
    with pytest.raises(Denied) as refused, system.gateway.action_sync(request, caller="key_1"):
        pytest.fail("it ran")
    return refused.value


def test_one_more_than_the_limit_is_denied_with_its_code_and_recorded(limited: Open):
    system = limited('[limits."agent:bot"]\nrequests_per_minute = 2\n')
    run(system)
    run(system)
    error = denied(system)
    made = error.decision
    assert (made.outcome, made.code) == (Outcome.DENY, "rate_limit_exceeded")
    assert made.policies == ("limit:agent:bot:requests_per_minute",)
    assert made.reasons == ("`agent:bot` has 2 requests a minute, and this would be more",)
    assert 0 < made.retry_after_s <= 65
    assert error.hint == f"try again in {made.retry_after_s} s"
    (record,) = system.store.records(RecordQuery(trace_id=made.trace_id))
    assert record.body["decision"]["code"] == "rate_limit_exceeded"
    assert made.to_json()["context"]["retry_after_s"] == made.retry_after_s  # type: ignore[index]


def test_people_are_not_asked_more_often_than_the_limit_says(limited: Open):
    system = limited('[limits."agent:bot"]\nreviews_per_minute = 2\n')

    def mail(to: str) -> Decision:
        given = {"input": {"to": to, "subject": "s", "body": "b"}}
        asked = msgspec.structs.replace(READ, action=Action("send_email", given))
        return system.gateway.evaluate_sync(asked, caller="key_1")

    first, second = mail("a"), mail("b")
    assert mail("a").approval_id == first.approval_id, "what waits already asks nobody again"
    made = mail("c")
    assert (made.outcome, made.code) == (Outcome.DENY, "rate_limit_exceeded")
    assert made.policies == ("limit:agent:bot:reviews_per_minute",)
    assert made.reasons == ("`agent:bot` has 2 reviews a minute, and this would be more",)
    assert 0 < made.retry_after_s <= 65
    assert {waiting.id for waiting in system.approvals.all()} == {first.approval_id, second.approval_id}
    run(system)  # what needs nobody goes on


def test_what_policy_denies_counts_for_nobody(limited: Open):
    system = limited('[limits."subject:alice"]\nrequests_per_minute = 1\n')
    pay = Request(ALICE, Action("transfer_funds", {"input": {"to": "b", "amount": 1}}), READ.resource)
    assert denied(system, pay).decision.code == ""
    run(system)
    assert denied(system).decision.code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ("everything", "everything"),
        ("key:key_*", "key:key_1"),
        ("subject:ali*", "subject:alice"),
        ("tool:read_file", "tool:read_file"),
        ("agent:*", "agent:bot"),
    ],
)
def test_each_that_a_pattern_means_has_an_account_of_its_own(limited: Open, limit: str, name: str):
    system = limited(f'[limits."{limit}"]\nconcurrency = 1\n')
    with system.gateway.action_sync(READ, caller="key_1"):
        assert denied(system).decision.policies == (f"limit:{name}:concurrency",)
    run(system)
    assert [str(line.target) for line in system.limits.lines()] == [name]


def test_of_several_limits_that_fit_that_of_the_very_name_counts_else_the_longest():
    config = Config(
        limits={
            "agent:*": LimitConfig(concurrency=1),
            "agent:billing-*": LimitConfig(concurrency=2),
            "agent:Billing-1": LimitConfig(concurrency=3, spend_per_day=0.1),
        }
    )
    limits = Limits(None, None, quotas(config))  # type: ignore[arg-type]
    found = [limits.quota(Target.parse("agent", name)) for name in ("x", "billing-2", "billing-1")]
    assert found == [Quota(concurrency=1), Quota(concurrency=2), Quota(concurrency=3, spend_per_day=100_000_000)]
    assert limits.quota(Target.parse("subject", "x")) is None


def test_all_limits_that_fit_must_hold_and_one_that_refuses_leaves_the_others_as_they_were(limited: Open):
    system = limited('[limits.everything]\nrequests_per_minute = 9\n[limits."agent:bot"]\nrequests_per_minute = 1\n')
    run(system)
    denied(system)
    assert system.limits.used(Target.parse("everything")).requests_minute == 1


def test_of_64_callers_in_threads_exactly_as_many_run_as_the_limit_says(limited: Open):
    system = limited('[limits."agent:bot"]\nrequests_per_minute = 40\n')

    def call(_: int) -> bool:
        try:
            run(system)
        except Denied as error:
            assert error.decision.code == "rate_limit_exceeded"
            return False
        return True

    with ThreadPoolExecutor(64) as pool:
        assert sum(pool.map(call, range(64))) == 40
    decided = [record.body["decision"]["outcome"] for record in system.store.records(RecordQuery(kinds=("decision",)))]
    assert (decided.count("allow"), decided.count("deny")) == (40, 24)


async def test_of_64_callers_at_once_never_more_run_than_may_and_all_that_end_make_room(limited: Open):
    system = limited('[limits."agent:bot"]\nconcurrency = 5\n')
    at_once, most = 0, 0
    hold = asyncio.Event()

    async def call() -> bool:
        nonlocal at_once, most
        try:
            async with system.gateway.action(READ, caller="key_1"):
                at_once += 1
                most = max(most, at_once)
                await hold.wait()
                at_once -= 1
        except Denied:
            return False
        return True

    calls = [asyncio.create_task(call()) for _ in range(64)]
    async with asyncio.timeout(30):
        while sum(task.done() for task in calls) < 59:
            await asyncio.sleep(0.01)
    hold.set()
    assert sum(await asyncio.gather(*calls)) == most == 5
    assert system.limits.used(BOT).running == 0
    assert sum(await asyncio.gather(*(call() for _ in range(5)))) == 5


async def test_a_budget_holds_under_64_callers_and_counts_what_was_used_and_not_what_was_expected(limited: Open):
    system = limited('[limits."agent:bot"]\nspend_per_day = 1.0\n')
    hold = asyncio.Event()

    async def call() -> bool:
        try:
            async with system.gateway.action(READ, caller="key_1", wish=lambda: Amount(100, 90_000_000)) as governed:
                await hold.wait()
                governed.consumed(Amount(10, 50_000_000), {"estimated": False})
        except Denied as error:
            assert error.decision.code == "budget_exceeded"
            return False
        return True

    calls = [asyncio.create_task(call()) for _ in range(64)]
    async with asyncio.timeout(30):
        while sum(task.done() for task in calls) < 53:
            await asyncio.sleep(0.01)
    assert system.limits.used(BOT).spend_today == 11 * 90_000_000
    hold.set()
    assert sum(await asyncio.gather(*calls)) == 11
    used = system.limits.used(BOT)
    assert (used.spend_today, used.tokens_minute, used.tokens_today, used.running) == (550_000_000, 110, 110, 0)
    *_, end = system.store.records(RecordQuery(kinds=("execution.finished",)))
    assert end.body["detail"] == {"usage": {"estimated": False}}


CHILD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from checkrein.compose import SystemClock
from checkrein.flow.quota import Amount, Quota
from checkrein.ledger import Draft
from checkrein.model import Action, Request, Resource, Subject
from checkrein.model.target import Target, targets
from checkrein.ports import Unit
from checkrein.services.limits import Exceeded, Limits
from checkrein.storage.sqlite import SqliteStore

clock = SystemClock()
store = SqliteStore(Path(sys.argv[1]), clock, busy_s=60)
limits = Limits(store, clock, {Target.parse("agent", "bot"): Quota(spend_per_month=100)})
request = Request(Subject("user", "alice"), Action("read_file"), Resource("tool", "f"), {"agent": {"id": "bot"}})

def call(number):
    moves, _ = limits.reserve(targets(request, "key_1"), Amount(0, 1), clock.now_us(), runs=True)
    try:
        started = Draft("execution.started", "", {"evaluation_id": sys.argv[2] + str(number)})
        store.commit(Unit((started,), (), moves)).result()
    except Exceeded:
        return 0
    return 1

with ThreadPoolExecutor(16) as pool:
    print(sum(pool.map(call, range(40))))
store.close()
"""


def test_of_four_processes_together_exactly_as_many_run_as_the_limit_says(tmp_path: Path):
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), f"{at}."], stdout=subprocess.PIPE, text=True)
        for at in range(4)
    ]
    said = [child.communicate(timeout=100)[0] for child in children]
    assert sum(map(int, said)) == 100
    with contextlib.closing(SqliteStore(tmp_path, SystemClock())) as store:
        used = Limits(store, SystemClock(), {}).used(BOT)
        assert (used.running, used.spend_today, store.head().size) == (100, 100, 100)


def test_an_enforcement_point_is_counted_and_holds_nothing(limited: Open):
    system = limited('[limits."agent:bot"]\nrequests_per_minute = 1\nconcurrency = 1\n')
    assert system.gateway.evaluate_sync(READ, caller="key_1").outcome.runs
    made = system.gateway.evaluate_sync(READ, caller="key_1")
    assert (made.code, made.outcome) == ("rate_limit_exceeded", Outcome.DENY)
    assert system.limits.used(BOT).running == 0


def test_an_answer_that_is_given_again_under_an_idempotency_key_is_not_counted(limited: Open):
    system = limited('[limits."agent:bot"]\nrequests_per_minute = 1\n')
    once = system.gateway.idempotency.once_for("k", READ, caller="key_1", operation="decide")
    first, again = (system.gateway.evaluate_sync(READ, caller="key_1", once=once) for _ in range(2))
    assert first.evaluation_id == again.evaluation_id
    assert system.limits.used(BOT).requests_minute == 1


def test_a_limit_spends_no_approval(limited: Open):
    system = limited('[limits."subject:alice"]\nconcurrency = 1\n')
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(MAIL, caller="key_1"):
        pytest.fail("it ran")
    id = waiting.value.approval_id
    system.approvals.vote(id, voter="bob", roles=("finance",), approve=True, auth="local")
    with system.gateway.action_sync(READ, caller="key_1"):
        assert denied(system, MAIL).decision.code == "concurrency_exceeded"
    assert system.approvals.get(id).state is State.APPROVED
    run(system, MAIL)
    assert system.approvals.get(id).state is State.USED


def test_what_never_ran_or_failed_lets_go_of_what_it_held(limited: Open):
    system = limited('[limits."agent:bot"]\nconcurrency = 1\n')
    with pytest.raises(ZeroDivisionError), system.gateway.action_sync(READ, caller="key_1"):
        raise ZeroDivisionError
    with system.gateway.action_sync(READ, caller="key_1") as governed:
        governed.never_ran()
    assert system.limits.used(BOT) == Used(requests_minute=2, requests_today=2)


def test_without_a_limit_nothing_is_counted_and_nothing_more_is_written(system: System):
    run(system)
    assert list(system.limits.lines()) == []
    (start,) = system.store.records(RecordQuery(kinds=("execution.started",)))
    assert "reserved" not in start.body


def test_an_account_that_checkrein_did_not_write_lets_nothing_run(limited: Open):
    system = limited('[limits."agent:bot"]\nconcurrency = 1\n')
    system.store.commit(Unit(saves=(Save(Row(ROOM, "agent:bot", 1, "", "", b'{"none": 1}'), 0),))).result()
    with pytest.raises(Exception, match="not what checkrein wrote"), system.gateway.action_sync(READ, caller="key_1"):
        pytest.fail("it ran")


def test_a_start_that_cannot_be_written_counts_nothing(limited: Open, monkeypatch: pytest.MonkeyPatch):
    system = limited('[limits."agent:bot"]\nrequests_per_minute = 1\n')

    def refuse(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(system.store, "commit", refuse)
        with pytest.raises(StoreUnavailable):
            run(system)
    run(system)


@pytest.mark.parametrize(
    ("nano", "shown"), [(0, "0.00"), (1, "0.000000001"), (1_500_000_000, "1.50"), (12_345_000_000_000, "12345.00")]
)
def test_money_is_shown_exactly(nano: int, shown: str):
    assert money(nano) == shown
