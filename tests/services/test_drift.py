"""What is counted of production and of the golden set, and which cases are proposed."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from checkrein.compose import System, SystemClock, open_system
from checkrein.doctor import examine
from checkrein.flow.drift import Acted, Outcome, Seen, judge
from checkrein.flow.limits import DriftLimits
from checkrein.ledger import Draft
from checkrein.model import Action, LedgerInvalid, Request, Resource, Subject, Unauthorized
from checkrein.model import Outcome as Decided
from checkrein.ports import RecordQuery, Row, Save, Unit
from checkrein.services import drift, seen, suggestions
from checkrein.services.golden import read_golden
from checkrein.services.pdp import Asked

MAIL = {"to": "eve@example.com", "subject": "hello", "body": "my card is 4111 1111 1111 1111"}


@pytest.fixture
def folder(folder: Path) -> Path:
    """The usual folder, with an auditor: dora."""
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[people.dora]\nroles = ["auditor"]\n')
    return folder


def request(action: str = "read_file", target: str = "disk", user: str = "alice", **given: object) -> Request:
    return Request(Subject("user", user), Action(action, {"input": given}), Resource("tool", target))


def ask(system: System, *requests: Request) -> None:
    for each in requests:
        system.gateway.evaluate_sync(each, caller="test")


def counted(system: System) -> Seen:
    return seen.counted(seen.production(system.store))


def cases(*lines: dict[str, object]) -> list:
    return read_golden({"golden/a.jsonl": "\n".join(map(json.dumps, lines)).encode()})


def decide(system: System):
    return lambda asked: system.pdp.decide(Asked(asked))


# --- counting


def test_production_is_what_was_decided(system: System):
    ask(system, request(path="/a"), request(path="/b"), request("transfer_funds", "bank", to="x", amount=1))
    found = counted(system)
    assert found.actions == {"read_file": 2, "transfer_funds": 1}
    assert found.targets == {"tool/disk": 2, "tool/bank": 1}
    assert found.outcomes == {"allow": 2, "deny": 1}
    assert (found.count, found.unsized) == (3, 0)


def test_the_size_of_arguments_is_the_same_on_both_sides(system: System):
    asked = request(path="/a/long/path", n=1, x=0.5)
    ask(system, asked, request(path="/a", n=1, x=0.5))
    (case,) = cases({"request": msgspec.to_builtins(asked)})
    ((size, _),) = seen.golden([case], decide(system)).sizes.items()
    assert sorted(counted(system).sizes) == [size - len("/long/path"), size]


def test_an_action_that_waits_for_people_counts_once_as_reviewed(system: System):
    mail = request("send_email", "mail", **MAIL)
    ask(system, mail, mail)
    (approval,) = system.approvals.all()
    system.approvals.vote(approval.id, voter="bob", roles=("finance",), approve=True, auth="test")
    ask(system, mail)
    assert len(list(system.store.records(RecordQuery(kinds=("decision",))))) == 3
    assert counted(system).outcomes == {"require_review": 1}


def test_what_a_model_answers_is_no_action_of_its_own(system: System):
    answer = Request(
        Subject("user", "alice"),
        Action("prompt", {"direction": "answer", "input": {"model": "gpt", "chars": 10, "found": {}}}),
        Resource("model", "gpt"),
    )
    ask(system, answer, request(path="/a"))
    (record, _) = system.store.records(RecordQuery(kinds=("decision",)))
    assert record.body["action"]["direction"] == "answer"
    assert counted(system).actions == {"read_file": 1}
    asked = cases({"request": msgspec.to_builtins(answer)}, {"prompt": "hello"})
    assert seen.golden(asked, decide(system)).count == 1


def test_only_the_time_asked_for_is_counted(system: System):
    ask(system, request(path="/a"))
    (first,) = system.store.records(RecordQuery(kinds=("decision",)))
    ask(system, request(path="/b"))
    assert seen.counted(seen.production(system.store, since_us=first.ts_us + 1)).count == 1
    assert seen.counted(seen.production(system.store, until_us=first.ts_us + 1)).count == 1


def test_a_record_of_an_older_version_has_no_size(system: System):
    body = {"action": {"name": "old"}, "decision": {"outcome": "allow", "risk": {"level": "green"}}}
    system.store.commit(Unit((Draft("decision", "00" * 16, body),))).result()
    assert (counted(system).count, counted(system).unsized) == (1, 1)


def test_a_record_that_is_none_is_not_passed_over(system: System):
    system.store.commit(Unit((Draft("decision", "00" * 16, {"action": "text"}),))).result()
    with pytest.raises(LedgerInvalid, match="cannot be read"):
        counted(system)


def test_golden_prompts_that_name_no_model_leave_models_out(system: System):
    chat = Request(
        Subject("user", "alice"),
        Action("prompt", {"input": {"messages": [{"role": "user", "content": "hi"}]}}),
        Resource("model", "gpt"),
    )
    ask(system, chat, request(path="/a"))
    found = drift.measure(
        system.store, cases({"prompt": "hello"}), decide(system), DriftLimits(), since_us=0, until_us=0
    )
    assert found.production.targets == {"tool/disk": 1}
    named = cases({"prompt": "hello", "model": "gpt"})
    found = drift.measure(system.store, named, decide(system), DriftLimits(), since_us=0, until_us=0)
    assert found.production.targets == {"tool/disk": 1, "model/gpt": 1}


# --- texts


def test_texts_are_read_for_auditors_only_and_each_reading_is_recorded(system: System):
    ask(system, *(request(path=f"/files/number/{at}") for at in range(20)))
    golden = cases(*({"id": str(at), "prompt": "what is the weather like"} for at in range(20)))

    def measured(person: str) -> drift.Measured:
        reader = drift.Reader(system.payloads, person)
        return drift.measure(system.store, golden, decide(system), DriftLimits(), since_us=0, until_us=0, reader=reader)

    with pytest.raises(Unauthorized):
        measured("bob")
    found = measured("dora")
    text = next(finding for finding in found.report.findings if finding.name == "text")
    assert text.state == "shifted"
    assert "20 golden texts and 20 of production read" in text.told
    kinds = [(r.kind, r.body["detail"]) for r in system.store.records(RecordQuery(kinds=("admin.payload_read",)))]
    assert kinds == [("admin.payload_read", {"records": 20, "for": "drift"})]
    refused = list(system.store.records(RecordQuery(kinds=("admin.payload_read_refused",))))
    assert len(refused) == 1


def test_without_production_no_text_is_opened(system: System):
    found = drift.measure(
        system.store,
        cases({"prompt": "hello"}),
        decide(system),
        DriftLimits(),
        since_us=0,
        until_us=0,
        reader=drift.Reader(system.payloads, "dora"),
    )
    assert found.report.outcome is Outcome.NOT_ENOUGH_EVIDENCE
    assert not list(system.store.records(RecordQuery(kinds=("admin.payload_read",))))


# --- suggestions


def tallied(**counts: int) -> Seen:
    found = Seen()
    for name, count in counts.items():
        for _ in range(count):
            found.add(Acted(name, f"tool/{name}", "green", "allow", 10))
    return found


def test_what_the_golden_set_lacks_is_wanted_first():
    wanted = suggestions.wanted(tallied(read=80, mail=20), tallied(read=500, mail=450, delete=50))
    assert next(iter(wanted)) == ("delete", "allow")
    assert set(wanted) == {("delete", "allow"), ("mail", "allow")}


def test_no_more_are_wanted_than_the_limit_says():
    production = tallied(**{f"tool{at}": 10 for at in range(50)})
    assert sum(suggestions.wanted(tallied(read=100), production, limit=7).values()) == 7


def test_a_golden_set_that_looks_like_production_lacks_nothing():
    assert suggestions.wanted(tallied(read=10, mail=10), tallied(read=100, mail=100)) == {}


def test_different_targets_are_chosen_those_first_that_golden_cases_lack(system: System):
    ask(system, *(request(target=target, path="/x") for target in ("known", "a", "a", "b", "c")))
    chosen = suggestions.choose(seen.production(system.store), {("read_file", "allow"): 3}, {"tool/known": 5})
    assert {acted.target for _, acted in chosen} == {"tool/a", "tool/b", "tool/c"}


def test_a_case_names_nobody_and_holds_no_personal_data(system: System):
    mailbox = msgspec.structs.replace(request(path="/a"), resource=Resource("mailbox", "carol@example.com"))
    ask(system, request("send_email", "mail", user="alice", **MAIL), mailbox)
    found = list(seen.production(system.store))
    opened = system.payloads.opened([record for record, _ in found], person="dora", why="test")
    sources = [
        suggestions.Source(record, acted, each.with_roles) for (record, acted), each in zip(found, opened, strict=True)
    ]
    made = suggestions.cases(sources, lambda type, id: ())
    text = json.dumps([case.line for case in made])
    for secret in ("alice", "eve@", "4111", "carol@"):
        assert secret not in text
    assert made[0].line["request"]["action"]["properties"]["input"]["subject"] == "hello"
    assert made[0].expect is Decided.REQUIRE_REVIEW
    again = read_golden({"more.jsonl": "\n".join(json.dumps(case.line) for case in made).encode()})
    assert [case.request for case in again] == [case.request for case in made]
    assert {case.request.subject.id for case in again} == {"subject-1"}


def test_members_that_a_manifest_calls_personal_are_taken_out_too(folder: Path):
    tools = folder / "tools.yaml"
    tools.write_text(
        tools.read_text().replace("control: [to]", "control: [to]\n    personal: {subject: person_name}", 1)
    )
    system = open_system(folder)
    try:
        ask(system, request("send_email", "mail", to="a@b.example", subject="Maximilian Mustermann", body="hello"))
        ((record, acted),) = seen.production(system.store)
        (opened,) = system.payloads.opened([record], person="dora", why="test")
        (case,) = suggestions.cases(
            [suggestions.Source(record, acted, opened.with_roles)],
            lambda type, id: (),
            lambda asked: system.pdp.detectors(asked, decide(system)(asked)),
        )
    finally:
        system.close()
    assert "Maximilian" not in json.dumps(case.line)
    assert case.request.action.input["body"] == "hello"
    assert case.request.action.name == "send_email"


def test_without_an_auditor_a_case_has_no_arguments_but_the_roles_of_now(system: System):
    ask(system, request("send_email", "mail", user="bob", **MAIL))
    ((record, acted),) = seen.production(system.store)
    (case,) = suggestions.cases([suggestions.Source(record, acted)], lambda type, id: ("finance",))
    assert case.request.action.input == {}
    assert case.request.subject.roles == ("finance",)
    assert case.request.subject.id == "subject-1"


# --- by itself

WEEK_US = 7 * 24 * 3600 * 1_000_000


class MovingClock:
    """Begins a minute from now, after all that a test records, and goes where it is told."""

    def __init__(self) -> None:
        self.us = SystemClock().now_us() + 60_000_000

    def now_us(self) -> int:
        return self.us


def scheduled(system: System, clock: MovingClock, golden: Callable[[], list] | None = None) -> drift.Schedule:
    return drift.Schedule(
        system.store,
        clock,
        DriftLimits(notice=0.25),
        cases=golden or (lambda: reading(200)),
        decider=lambda: decide(system),
        every_us=WEEK_US,
        since_us=2 * WEEK_US,
    )


def reading(count: int) -> list:
    return cases(*({"id": str(at), "request": msgspec.to_builtins(request(path=f"/{at}"))} for at in range(count)))


def alarms(system: System) -> list[dict]:
    return [record.body["detail"] for record in system.store.records(RecordQuery(kinds=("drift.alarm",)))]


def test_the_first_report_is_made_when_production_is_a_week_old(system: System):
    clock = MovingClock()
    schedule = scheduled(system, clock)
    assert schedule.tick() is None  # there is no production
    ask(system, *(request(path=f"/{at}") for at in range(20)))
    clock.us += WEEK_US - 60_000_000
    assert schedule.tick() is None
    clock.us += 120_000_000
    made = schedule.tick()
    assert made is not None
    assert (made.cases, made.actions) == (200, 20)
    found = drift.last(system.store)
    assert (found.ran_us, found.outcome, found.told) == (clock.us, made.outcome.value, made.told)
    clock.us += WEEK_US - 1
    assert schedule.tick() is None
    clock.us += 1
    assert schedule.tick() is not None


def test_what_drifted_is_recorded_once_and_warned_of_until_it_no_longer_is(
    system: System, caplog: pytest.LogCaptureFixture
):
    clock = MovingClock()
    ask(system, *(request("transfer_funds", "bank", to="x", amount=at) for at in range(60)))
    clock.us += WEEK_US
    one, other = scheduled(system, clock), scheduled(system, clock)
    assert [made is not None for made in (one.tick(), other.tick(), one.tick())] == [True, False, False]
    (alarm,) = alarms(system)
    assert alarm["told"].startswith("production has drifted from the golden set: action")
    assert alarm["new"] == [{"action": "transfer_funds", "count": 60}]
    assert {found["name"] for found in alarm["findings"]} >= {"action", "outcome", "text"}
    assert other.warnings() == (f"drift: {alarm['told']}",)
    assert caplog.messages == [alarm["told"]]
    assert system.warnings() == other.warnings()
    agreeing = cases(
        *(
            {"id": str(at), "request": msgspec.to_builtins(request("transfer_funds", "bank", to="x", amount=at % 60))}
            for at in range(200)
        )
    )
    clock.us += WEEK_US - 1_000_000
    assert scheduled(system, clock, lambda: agreeing).tick() is None
    clock.us += 1_000_000
    assert scheduled(system, clock, lambda: agreeing).tick() is not None
    assert system.warnings() == ()
    assert len(alarms(system)) == 1


def test_a_process_that_dies_over_a_report_leaves_it_to_the_next(system: System):
    class Died(BaseException):
        pass

    def dies() -> Callable:
        raise Died

    clock = MovingClock()
    ask(system, request(path="/a"))
    clock.us += WEEK_US
    dying = scheduled(system, clock)
    dying._decider = dies
    with pytest.raises(Died):
        dying.tick()
    other = scheduled(system, clock)
    assert other.tick() is None  # it may still be at work
    clock.us += drift.LEASE_US
    assert other.tick() is not None


def test_two_processes_that_see_it_due_at_once_make_one_report(system: System):
    clock = MovingClock()
    ask(system, *(request("transfer_funds", "bank", to="x", amount=at) for at in range(60)))
    clock.us += WEEK_US
    together = threading.Barrier(4)

    def meet() -> list:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(timeout=10)
        return reading(200)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: scheduled(system, clock, meet).tick(), range(4)))
    assert sum(report is not None for report in made) == 1
    assert len(alarms(system)) == 1


def test_golden_cases_that_cannot_be_read_are_told_and_tried_again(system: System, folder: Path):
    clock = MovingClock()
    ask(system, request(path="/a"))
    clock.us += WEEK_US
    (folder / "golden").mkdir()
    (folder / "golden/a.jsonl").write_text("{")
    schedule = scheduled(system, clock, system.golden)
    assert schedule.tick() is None
    ((warning),) = schedule.warnings()
    assert "a.jsonl:1" in warning
    (folder / "golden/a.jsonl").write_text('{"prompt": "hello"}')
    clock.us += drift.LEASE_US
    assert schedule.tick() is not None
    assert schedule.warnings() == ()


def test_without_golden_cases_nothing_is_due(system: System):
    clock = MovingClock()
    ask(system, request(path="/a"))
    clock.us += WEEK_US
    assert scheduled(system, clock, system.golden).tick() is None
    assert drift.last(system.store) is None


def test_a_row_that_is_none_is_a_warning(system: System):
    system.store.commit(Unit((), (Save(Row(drift.ROOM, drift.ROW, 1, "", "", b"{"), 0),))).result()
    ((warning),) = scheduled(system, MovingClock()).warnings()
    assert "is not what checkrein wrote" in warning


def test_a_clock_that_went_back_delays_no_report(system: System):
    clock = MovingClock()
    ask(system, request(path="/a"))
    clock.us += 10 * WEEK_US
    schedule = scheduled(system, clock)
    assert schedule.tick() is not None
    clock.us -= 5 * WEEK_US
    assert schedule.tick() is not None


def test_an_alarm_fits_a_record_whatever_actions_are_called(system: System):
    golden, production = tallied(read=300), Seen()
    for at in range(3000):
        name = f"{at % 60}" + "\U0001f600" * 510
        production.add(Acted(name, f"tool/{name}", "red", "deny", 10))
    made = judge(golden, production, DriftLimits(), named="sha256:00", since_us=0, until_us=1)
    assert made.outcome is Outcome.DRIFT
    system.store.commit(Unit((drift.alarm(made),))).result()
    assert len(alarms(system)) == 1


def test_a_server_compares_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("checkrein.compose.system.DRIFT_EVERY_S", 0.01)
    (folder / "golden").mkdir()
    (folder / "golden/a.jsonl").write_text('{"prompt": "hello"}')
    system = open_system(folder, flags={"drift.every": "1s"})
    try:
        ask(system, request(path="/a"))
        with system.comparing():
            deadline = time.monotonic() + 60
            while (found := drift.last(system.store)) is None or not found.outcome:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert system.vitals().drift == found
    finally:
        system.close()
    assert (found.cases, found.outcome) == (1, "not_enough_evidence")
    findings, _ = examine(folder, None)
    (told,) = [finding for finding in findings if finding.what == "drift"]
    assert (told.verdict, told.found.startswith("not enough evidence")) == ("warn", True)


def test_a_server_that_is_not_scheduled_compares_nothing(folder: Path):
    system = open_system(folder, flags={"drift.scheduled": False})
    try:
        assert isinstance(system.comparing(), contextlib.nullcontext)
    finally:
        system.close()
