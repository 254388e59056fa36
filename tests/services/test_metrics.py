"""The measures: counted from the ledger, beside their targets; what was not counted is never met."""

from __future__ import annotations

import json
from typing import Any

import pytest

from checkrein.compose import System
from checkrein.flow.limits import Targets
from checkrein.ledger import Draft
from checkrein.model import Action, LedgerInvalid, Request, Resource, Subject
from checkrein.ports import Unit
from checkrein.services import metrics, records
from checkrein.services.golden import read_golden
from checkrein.services.metrics import Known, Measure, Standing
from checkrein.services.pdp import Asked
from checkrein.storage.memory import MemoryStore

CALLS = Known(has_side_effects=lambda action: action != "read_file", usual=frozenset({("read_file", "green")}))


class Clock:
    us = 1_768_471_200_000_000

    def now_us(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


def decision(number: int, outcome: str = "allow", *, action: str = "read_file", took_us: int = 200) -> Draft:
    made = {
        "evaluation_id": f"evl_{number}",
        "outcome": outcome,
        "risk": {"level": "green", "score": 5},
        "latency_us": took_us,
    }
    return Draft("decision", f"{number:032x}", {"action": {"name": action}, "decision": made})


def execution(number: int, kind: str = "started") -> Draft:
    return Draft(f"execution.{kind}", f"{number:032x}", {"evaluation_id": f"evl_{number}"})


def approval(kind: str, state: str, *, action: str = "send_email", **more: str) -> Draft:
    about = {"id": "apr_1", "state": state, **more}
    return Draft(f"approval.{kind}", "", {"action": {"name": action}, "approval": about})


def write(store: MemoryStore, *drafts: Draft) -> None:
    store.commit(Unit(drafts)).result()


def measured(store: MemoryStore, name: str, known: Known = CALLS, **targets: Any) -> Measure:
    found = metrics.measure(store, Targets(**targets), known)
    return next(each for each in found.measures if each.name == name)


def test_an_empty_ledger_has_no_data_and_meets_nothing(store: MemoryStore):
    found = metrics.measure(store, Targets(), CALLS)
    assert found.records == 0
    assert {each.standing for each in found.measures} == {Standing.NO_DATA}
    assert all(each.value is None and each.how for each in found.measures)


def test_enforced_is_what_a_recorded_decision_let_run_and_whose_end_is_known(store: MemoryStore):
    for number in range(10):
        write(store, decision(number), execution(number))
        write(store, execution(number, "finished"))
    assert measured(store, "enforcement_rate").value == 1
    write(store, decision(10), execution(10))
    write(store, execution(10, "unknown"))
    found = measured(store, "enforcement_rate")
    assert (found.value, found.standing) == (10 / 11, Standing.MISSED)
    assert found.how.startswith("10 of 11 executions ")


@pytest.mark.parametrize("before", [None, decision(5, "deny"), decision(6), decision(5, "require_review")])
def test_an_execution_that_no_decision_let_run_is_not_enforced(store: MemoryStore, before: Draft | None):
    write(store, *([before] if before else []), execution(5))
    assert measured(store, "enforcement_rate").value == 0


def test_denials_count_only_where_golden_cases_expect_the_action_to_run(store: MemoryStore):
    for number in range(999):
        write(store, decision(number))
    write(store, decision(1000, "deny", action="shell"))
    assert measured(store, "denial_rate").value == 0
    write(store, decision(1001, "deny"))
    found = measured(store, "denial_rate")
    assert (found.value, found.standing) == (0.001, Standing.MISSED)  # the target is below 0.1 %
    assert found.how.startswith("1 of 1,000 decisions ")


def test_without_golden_cases_there_is_no_denial_rate_and_it_says_why(store: MemoryStore):
    write(store, decision(1))
    found = measured(store, "denial_rate", Known(has_side_effects=lambda action: True, why_not="none were written"))
    assert (found.standing, found.how) == (Standing.NO_DATA, "none were written")


def test_an_action_that_waited_and_ran_in_the_end_is_one_action_in_the_review_load(store: MemoryStore):
    for number in range(7):
        write(store, decision(number, action="send_email"))
    write(store, decision(8, "require_review", action="send_email"), approval("requested", "pending"))
    write(store, decision(9, "require_review", action="send_email"))  # asked again while people look at it
    write(store, decision(10, action="send_email"), execution(10))
    write(store, approval("used", "used"))
    write(store, decision(11), approval("requested", "pending", action="rollout.loosen"))
    found = measured(store, "review_load", review_load=20)
    assert (found.value, found.standing) == (12.5, Standing.MET)
    assert found.how == "people were asked about 1 of 8 actions with side effects"


def test_a_review_that_ends_as_it_was_asked_for_was_a_wrongful_interruption(store: MemoryStore):
    states = ("approved", "approved", "denied", "approved")
    write(store, *(approval("decided", state) for state in states), approval("expired", "expired"))
    found = measured(store, "wrongful_interruptions")
    assert (found.value, found.standing) == (0.75, Standing.NO_TARGET)


def test_nobody_reviewed_where_the_glass_was_broken(store: MemoryStore):
    write(store, approval("decided", "approved", broken_by="bob"))
    assert measured(store, "wrongful_interruptions").standing is Standing.NO_DATA
    write(store, approval("decided", "denied"))
    assert measured(store, "wrongful_interruptions").value == 0


def test_a_review_in_which_people_edited_the_action_was_of_use_and_is_one_review(system: System):
    mail = {"to": "press@example.com", "subject": "News", "body": "We are open."}
    request = Request(Subject("user", "erin"), Action("send_email", {"input": mail}), Resource("tool", "send_email"))
    asked = system.approvals.get(system.gateway.evaluate_sync(request, caller="tests").approval_id)
    edited = system.edits.edit(asked.id, {**mail, "to": "all@example.com"}, editor="bob", auth="tests")
    system.approvals.vote(edited.id, voter="carol", approve=True, auth="tests")
    found = {each.name: each for each in system.measured().measures}
    assert found["wrongful_interruptions"].value == 0
    assert found["review_load"].how == "people were asked about 1 of 1 actions with side effects"


def test_latency_is_told_by_nearest_ranks(store: MemoryStore):
    write(store, *(decision(number, took_us=number * 1000) for number in range(1, 101)))
    write(store, *(decision(number, took_us=0) for number in range(200, 300)))  # nobody timed these
    found = [measured(store, f"decision_latency_p{percent}") for percent in (50, 95, 99)]
    assert [each.value for each in found] == [50.0, 95.0, 99.0]
    assert [each.standing for each in found] == [Standing.MISSED] * 3  # 50 ms is not below 50 ms


def test_only_a_verdict_that_promotes_passes_the_gate(store: MemoryStore):
    for verdict in ("promote", "refuse", "not_enough_evidence", "promote"):
        write(store, records.admin("gate.verdict", "alice", {"verdict": verdict}))
    assert measured(store, "gate_pass_rate").value == 0.5


def test_what_lies_before_the_window_is_not_counted(store: MemoryStore, clock: Clock):
    write(store, decision(1, "deny"))
    clock.us += 3_600_000_000
    write(store, decision(2))
    found = metrics.measure(store, Targets(), CALLS, since_us=clock.us)
    assert [(each.kind, each.outcome, each.count) for each in found.counts] == [("decision", "allow", 1)]
    assert next(each for each in found.measures if each.name == "denial_rate").value == 0


def test_of_very_many_records_some_are_looked_at_and_it_says_so(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "SAMPLE", 100)
    for number in range(1000):
        write(store, *(decision(number, took_us=1000), execution(number)) if number % 2 else (execution(number),))
    enforced, latency = measured(store, "enforcement_rate"), measured(store, "decision_latency_p99")
    assert enforced.value == pytest.approx(0.5, abs=0.05)
    assert "of them looked at, drawn evenly" in enforced.how
    assert latency.value == 1
    assert latency.how.endswith("of them looked at, drawn evenly)")


def test_a_record_that_is_no_decision_any_more_is_named(store: MemoryStore):
    write(store, Draft("decision", "", {"decision": "gone"}))
    with pytest.raises(LedgerInvalid, match="record 0 cannot be read"):
        metrics.measure(store, Targets(), CALLS)


def test_a_running_system_is_measured_by_its_own_tools_and_golden_cases(system: System):
    mail = {"to": "press@example.com", "subject": "News", "body": "We are open."}
    for action, given in (("read_file", {"path": "a"}), ("send_email", mail), ("read_file", {"path": "b"})):
        request = Request(Subject("user", "erin"), Action(action, {"input": given}), Resource("tool", action))
        with_side_effects = action == "send_email"
        assert system.gateway.evaluate_sync(request, caller="tests").outcome.runs is not with_side_effects
    found = {each.name: each for each in system.measured().measures}
    assert found["denial_rate"].how.startswith("there are no golden cases")
    (system.folder / "golden").mkdir()
    case = (
        b'{"request": {"subject": {"type": "user", "id": "x"}, "resource": {"type": "tool", "id": "read_file"}, '
        b'"action": {"name": "read_file", "properties": {"input": {"path": "q"}}}}, "expect": "ALLOW"}'
    )
    (system.folder / "golden/a.jsonl").write_bytes(case)
    found = {each.name: each for each in system.measured().measures}
    assert (found["denial_rate"].value, found["denial_rate"].standing) == (0, Standing.MET)
    assert found["denial_rate"].how.startswith("0 of 2 decisions")
    assert found["review_load"].value == 100
    assert found["decision_latency_p50"].value
    (system.folder / "golden/b.jsonl").write_bytes(b"{}")
    assert next(each for each in system.measured().measures if each.name == "denial_rate").how.startswith("b.jsonl:1:")


def test_an_action_that_golden_cases_both_expect_and_forbid_is_not_usual(system: System):
    def line(id: str, tool: str, expect: str, **given: object) -> bytes:
        request = {
            "subject": {"type": "user", "id": "x"},
            "action": {"name": tool, "properties": {"input": given}},
            "resource": {"type": "model" if tool == "prompt" else "tool", "id": tool},
        }
        return json.dumps({"id": id, "request": request, "expect": expect}).encode()

    lines = [line("a", "read_file", "ALLOW", path="a"), line("b", "read_file", "DENY", path="b")]
    lines += [line("c", "prompt", "ALLOW"), line("d", "prompt", "ALLOW_WITH_REDACTION")]
    cases = read_golden({"cases.jsonl": b"\n".join(lines)})
    found = metrics.usual(cases, lambda request: system.pdp.decide(Asked(request)))
    assert found == {("prompt", "green")}
