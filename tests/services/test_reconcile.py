"""Decisions and observations joined: what nobody decided is found, counted, recorded, and closes the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from checkrein.ledger import Record
from checkrein.model import Decision, NotFound, Outcome, Unauthorized
from checkrein.ports import RecordQuery
from checkrein.services.reconcile import Call, Gateways, Terms, release, stands
from checkrein.storage.memory import MemoryStore

ALLOW = Decision(outcome=Outcome.ALLOW, evaluation_id="evl_1", trace_id="1" * 32)
DENY = Decision(outcome=Outcome.DENY, evaluation_id="evl_2", trace_id="2" * 32)
EXEC = Call(run="run-1", call="call_1", tool="exec")


class Clock:
    def __init__(self) -> None:
        self.us = 1_000_000_000

    def now_us(self) -> int:
        return self.us

    def pass_s(self, seconds: float) -> None:
        self.us += int(seconds * 1_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[MemoryStore]:
    made = MemoryStore(clock)
    yield made
    made.close()


def gateways(store: MemoryStore, clock: Clock, **more: Any) -> Gateways:
    terms = {"heartbeat_s": 10.0, "witness_s": 5.0, "quarantine": True, **more}
    return Gateways(store, clock, {"claw": Terms(**terms)})


def recorded(store: MemoryStore, *kinds: str) -> list[Record]:
    return list(store.records(RecordQuery(kinds=kinds)))


def test_a_gateway_that_was_never_heard_is_refused(store: MemoryStore, clock: Clock) -> None:
    assert "was not heard yet" in gateways(store, clock).refusal("claw")


def test_a_gateway_is_refused_when_it_falls_silent_and_taken_when_it_is_heard_again(
    store: MemoryStore, clock: Clock
) -> None:
    found = gateways(store, clock)
    found.beat("claw")
    clock.pass_s(10)
    assert found.refusal("claw") == ""
    clock.pass_s(1)
    assert "was not heard for 11 s" in found.refusal("claw")
    found.beat("claw")
    assert found.refusal("claw") == ""


def test_what_is_no_agent_gateway_is_never_refused_and_cannot_beat(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    assert found.refusal("a-model") == ""
    with pytest.raises(NotFound, match="no gateway `a-model`"):
        found.beat("a-model")


def test_a_decided_call_that_ran_is_governed(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.started("claw", EXEC)
    found.decided("claw", EXEC, ALLOW)
    found.ended("claw", EXEC, ran=True)
    found.tick()
    assert (found.stand("claw").observed, found.stand("claw").enforcement) == (1, 1.0)
    assert recorded(store) == []


def test_a_denied_call_that_did_not_run_is_governed(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.started("claw", EXEC)
    found.decided("claw", EXEC, DENY)
    found.ended("claw", EXEC, ran=False)
    found.tick()
    assert found.stand("claw").governed == 1


@pytest.mark.parametrize(
    ("made", "why"), [(None, "the plugin did not ask about it"), (DENY, "it ran against its decision")]
)
def test_a_call_that_ran_ungoverned_is_recorded_and_closes_the_gateway(
    store: MemoryStore, clock: Clock, made: Decision | None, why: str
) -> None:
    found = gateways(store, clock)
    found.beat("claw")
    found.started("claw", EXEC)
    if made:
        found.decided("claw", EXEC, made)
    found.ended("claw", EXEC, ran=True)
    assert "quarantine" in found.refusal("claw"), "at once, before it is on disk"
    found.tick()
    first, second = recorded(store)
    assert (first.kind, second.kind) == ("system.ungoverned", "system.gateway_quarantined")
    assert first.body["detail"]["why"] == why
    assert first.trace_id == (made.trace_id if made else first.trace_id)
    assert "ran ungoverned" in found.refusal("claw")
    assert found.stand("claw").enforcement == 0.0


def test_a_call_that_stays_undecided_is_found_when_its_time_is_over(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.started("claw", EXEC)
    clock.pass_s(5)
    found.tick()
    assert recorded(store) == []
    clock.pass_s(1)
    found.tick()
    assert [one.kind for one in recorded(store, "system.ungoverned")] == ["system.ungoverned"]


def test_a_call_that_people_are_asked_about_is_decided(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.started("claw", EXEC)
    found.decided("claw", EXEC, Decision(outcome=Outcome.REQUIRE_REVIEW))
    clock.pass_s(500)
    found.tick()
    assert recorded(store) == []


def test_the_same_call_id_in_another_run_is_another_call(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.decided("claw", EXEC, ALLOW)
    other = Call(run="run-2", call="call_1", tool="exec")
    found.started("claw", other)
    found.ended("claw", other, ran=True)
    found.tick()
    assert found.stand("claw").ungoverned == 1


def test_a_decision_holds_for_one_execution(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.decided("claw", EXEC, ALLOW)
    for _ in range(2):
        found.started("claw", EXEC)
        found.ended("claw", EXEC, ran=True)
    found.tick()
    stand = found.stand("claw")
    assert (stand.governed, stand.ungoverned) == (1, 1)


def test_a_flood_of_calls_does_not_wash_an_undecided_one_away(
    store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkrein.services.reconcile.MAX_CALLS", 3)
    found = gateways(store, clock)
    for number in range(4):
        found.started("claw", Call(run="run-1", call=f"call_{number}", tool="exec"))
    found.tick()
    assert found.stand("claw").ungoverned == 1


def test_a_gateway_in_quarantine_may_not_ask_and_neither_may_one_that_nobody_knows(
    store: MemoryStore, clock: Clock
) -> None:
    found = gateways(store, clock)
    found.admit("claw")  # a silent one may: its plugin asks, so it is there
    found.started("claw", EXEC)
    found.ended("claw", EXEC, ran=True)
    with pytest.raises(Unauthorized, match="quarantine"):
        found.admit("claw")
    with pytest.raises(NotFound):
        found.admit("other")


def test_a_decision_about_another_tool_does_not_cover_a_call(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.decided("claw", Call(run="run-1", call="call_1", tool="read_file"), ALLOW)
    found.started("claw", EXEC)
    found.ended("claw", EXEC, ran=True)
    found.tick()
    assert found.stand("claw").ungoverned == 1


def test_a_tool_search_call_is_one_action(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    outer = Call(run="run-1", call="call_1", tool="tool_call")
    inner = Call(run="run-1", call="tool_search_code:call_1:exec:1", tool="exec")
    for call in (outer, inner):
        found.started("claw", call)
    found.decided("claw", EXEC, ALLOW)
    for call in (inner, outer):
        found.ended("claw", call, ran=True)
    found.tick()
    stand = found.stand("claw")
    assert (stand.observed, stand.governed) == (1, 1)


def test_without_quarantine_it_is_told_and_goes_on(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock, quarantine=False)
    found.beat("claw")
    found.started("claw", EXEC)
    found.ended("claw", EXEC, ran=True)
    found.tick()
    assert found.refusal("claw") == ""
    assert list(found.warnings()) == [
        "gateway `claw`: 1 ungoverned actions",
        "gateway `claw` is not watched",
    ]


def test_quarantine_survives_a_restart_and_ends_with_a_person(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.started("claw", EXEC)
    found.ended("claw", EXEC, ran=True)
    found.tick()
    again = gateways(store, clock)
    again.beat("claw")
    assert "quarantine" in again.refusal("claw")
    release(store, "claw", by="carol")
    assert again.refusal("claw") == ""
    assert stands(store)["claw"].ungoverned == 1
    (released,) = recorded(store, "admin.gateway_released")
    assert released.body["actor"]["id"] == "carol"
    with pytest.raises(NotFound, match="not in quarantine"):
        release(store, "claw", by="carol")


def test_a_report_joins_the_trace_of_its_decision(store: MemoryStore, clock: Clock) -> None:
    found = gateways(store, clock)
    found.decided("claw", EXEC, ALLOW)
    found.reported("claw", "run-1", "call_1", status="ok", duration_us=5).result()
    (told,) = recorded(store)
    assert (told.kind, told.trace_id, told.body["evaluation_id"]) == ("execution.reported", "1" * 32, "evl_1")
    for call in ("call_1", "call_2"):
        with pytest.raises(NotFound, match="no such tool call"):
            found.reported("claw", "run-1", call, status="ok", duration_us=5)
