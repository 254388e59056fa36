"""What was asked is kept sealed beside the ledger: for auditors, for deciding again, and until it is erased."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from checkrein.compose import System, open_payloads, open_system
from checkrein.flow.approval import State
from checkrein.ledger import Record
from checkrein.model import (
    Action,
    ApprovalRequired,
    BadRequest,
    ConfigError,
    Denied,
    LedgerInvalid,
    Outcome,
    Request,
    Resource,
    StoreUnavailable,
    Subject,
    Unauthorized,
)
from checkrein.pending import Pending
from checkrein.ports import Held, Payload, RecordQuery, Unit
from checkrein.services import privacy
from checkrein.services.payloads import MAX_RESULT_BYTES, reference
from checkrein.services.pdp import Asked
from checkrein.services.privacy import Erasure

ALICE, BOB = Subject("user", "alice", {"roles": ["staff"]}), Subject("user", "bob")
SECRET = "the merger closes on the ninth"
ANN = """
[people.ann]
roles = ["auditor"]
"""
Fresh = Callable[[], System]


def call(tool: str, who: Subject = ALICE, /, **input: object) -> Request:
    return Request(who, Action(tool, {"input": input}), Resource("tool", tool), {"agent": {"id": "bot"}})


READ = call("read_file", path=SECRET)
MAIL = call("send_email", to="all", subject=SECRET, body="b")
PAY = call("transfer_funds", to=SECRET, amount=5)


@pytest.fixture
def fresh(folder: Path) -> Iterator[Fresh]:
    """Opens the system on the folder, again and again, as new processes would; ann is an auditor."""
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + ANN)
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


def run(system: System, request: Request, result: bytes = b"") -> str:
    with system.gateway.action_sync(request, caller="test") as governed:
        governed.answered(result)
        return governed.decision.trace_id


def ask_people(system: System, request: Request) -> str:
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(request, caller="test"):
        pytest.fail("it ran")
    return waiting.value.approval_id


def last(system: System, *kinds: str) -> Record:
    return next(iter(system.store.records(RecordQuery(kinds=kinds, newest_first=True, limit=1))))


def kinds(system: System, trace_id: str = "") -> list[str]:
    return [record.kind for record in system.store.records(RecordQuery(trace_id=trace_id))]


def files(system: System) -> bytes:
    """Every byte of every file in the data directory."""
    return b"\n".join(path.read_bytes() for path in sorted(system.data.path.rglob("*")) if path.is_file())


def refusing(payload: Payload) -> Pending[None]:
    future: Pending[None] = Pending()
    future.set_exception(StoreUnavailable("the disk is full", hint="free space"))
    return future


# --- before the action runs -------------------------------------------------------------------------------------


def test_the_request_is_durable_before_the_action_runs_and_in_no_file_in_the_clear(system: System):
    with system.gateway.action_sync(READ, caller="test"):
        record = last(system, "decision")
        assert system.payloads.reveal(record.id, person="ann").state == "present"
        assert SECRET.encode() not in files(system)
    system.close()
    assert SECRET.encode() not in files(system)


@pytest.mark.parametrize("request_", [READ, MAIL, PAY], ids=["allow", "review", "deny"])
def test_when_nothing_can_be_sealed_nothing_runs_and_no_decision_is_given(
    system: System, monkeypatch: pytest.MonkeyPatch, request_: Request
):
    monkeypatch.setattr(system.vault, "seal", refusing)
    with pytest.raises(StoreUnavailable), system.gateway.action_sync(request_, caller="test"):
        pytest.fail("it ran")
    with pytest.raises(StoreUnavailable):
        system.gateway.evaluate_sync(request_, caller="test")
    assert not system.store.running()
    monkeypatch.undo()
    with contextlib.suppress(ApprovalRequired, Denied):
        run(system, request_)


def test_a_start_whose_payload_was_refused_is_recorded_as_cancelled(system: System, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(system.vault, "seal", refusing)
    with pytest.raises(StoreUnavailable), system.gateway.action_sync(READ, caller="test"):
        pytest.fail("it ran")
    end = last(system, "execution.finished")
    assert (end.body["status"], end.body["error"]) == ("cancelled", "payload_unavailable")
    assert system.payloads.reveal(last(system, "decision").id, person="ann").state == "missing"
    assert system.audit.verify().problems == ()


def test_a_payload_whose_record_was_refused_is_discarded(system: System, monkeypatch: pytest.MonkeyPatch):
    sealed: list[str] = []
    seal = system.vault.seal

    def watched(payload: Payload) -> Pending[None]:
        sealed.append(payload.id)
        return seal(payload)

    def refuse(unit: Unit) -> Pending[tuple[Record, ...]]:
        future: Pending[tuple[Record, ...]] = Pending()
        future.set_exception(StoreUnavailable("the disk is full"))
        return future

    monkeypatch.setattr(system.vault, "seal", watched)
    monkeypatch.setattr(system.store, "commit", refuse)
    with pytest.raises(StoreUnavailable), system.gateway.action_sync(READ, caller="test"):
        pytest.fail("it ran")
    monkeypatch.undo()
    run(system, READ)  # sealed after the discard was queued
    connection = apsw.Connection(str(system.data.payloads))
    ids = [row[0] for row in connection.execute("SELECT id FROM payload")]
    connection.close()
    assert len(sealed) == 1
    assert len(ids) == 1
    assert sealed[0] not in ids


def test_without_its_master_key_a_system_does_not_open(system: System, fresh: Fresh):
    run(system, READ)
    system.close()
    (system.data.path / "payload.key").unlink()
    with pytest.raises(ConfigError, match=r"payload\.key"):
        fresh()


# --- reading ----------------------------------------------------------------------------------------------------


def test_an_auditor_sees_what_was_asked_and_that_they_looked_is_recorded_first(system: System):
    run(system, READ)
    record = last(system, "decision")
    shown = system.payloads.reveal(record.seq, person="ann")
    assert msgspec.convert(shown.value, dict[str, object])["request"] == msgspec.to_builtins(READ)
    looked = last(system)
    assert (looked.kind, looked.body["actor"]["id"]) == ("admin.payload_read", "ann")  # type: ignore[index]
    assert looked.body["detail"]["record"] == record.id  # type: ignore[index]


def test_nothing_is_shown_when_the_look_cannot_be_recorded(system: System, monkeypatch: pytest.MonkeyPatch):
    run(system, READ)
    record = last(system, "decision")
    monkeypatch.setattr(system.store, "commit", refusing)
    monkeypatch.setattr(system.vault, "read", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(StoreUnavailable):
        system.payloads.reveal(record.id, person="ann")
    with pytest.raises(StoreUnavailable):
        system.payloads.recorded(by="ann")


@pytest.mark.parametrize("person", ["bob", "nobody", "", "auditor"])
def test_nobody_but_an_auditor_sees_a_payload_and_the_attempt_is_recorded(system: System, person: str):
    run(system, READ)
    with pytest.raises(Unauthorized) as refused:
        system.payloads.reveal(last(system, "decision").id, person=person)
    assert refused.value.forbidden
    assert last(system).kind == "admin.payload_read_refused"


def test_a_record_without_a_payload_says_so(system: System):
    run(system, READ)
    with pytest.raises(BadRequest, match="no payload"):
        system.payloads.reveal(last(system, "execution.started").id, person="ann")


def test_a_payload_that_is_not_what_the_record_commits_to_is_refused(system: System):
    run(system, READ)
    record = last(system, "decision")
    named = record.body["payload"]
    ref = reference(system.data.commitment_key(), "user", "alice")
    system.vault.discard(named["id"])  # type: ignore[index]
    forged = Payload(id=named["id"], subject=ref, trace_id=record.trace_id, created_us=1, data=b"{}")  # type: ignore[index]
    system.vault.seal(forged).result()
    with pytest.raises(LedgerInvalid, match="commits to"):
        system.payloads.reveal(record.id, person="ann")


def test_a_result_that_is_kept_is_shown_with_the_end(system: System):
    run(system, READ, b'{"content":"42"}')
    assert system.payloads.reveal(last(system, "execution.finished").id, person="ann").value == {"content": "42"}


def test_no_result_is_not_kept_and_of_a_long_one_only_its_beginning(system: System):
    run(system, READ)
    assert "payload" not in last(system, "execution.finished").body
    run(system, READ, b"x" * (MAX_RESULT_BYTES + 1))
    shown = system.payloads.reveal(last(system, "execution.finished").id, person="ann").value
    assert shown == "x" * MAX_RESULT_BYTES


def test_results_are_not_kept_where_the_configuration_says_so(folder: Path, system: System, fresh: Fresh):
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + "\n[retention]\nresults = false\n")
    silent = fresh()
    run(silent, READ, b"{}")
    assert "payload" not in last(silent, "execution.finished").body
    assert "payload" in last(silent, "decision").body


def test_a_result_that_cannot_be_kept_is_not_handed_over(system: System, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(StoreUnavailable, match="result"), system.gateway.action_sync(READ, caller="test") as governed:
        governed.answered(b"{}")
        monkeypatch.setattr(system.vault, "seal", refusing)
    assert last(system).body["status"] == "ok"


# --- deciding again ---------------------------------------------------------------------------------------------


def test_a_recorded_request_is_decided_again_as_it_was(system: System):
    for request in (READ, MAIL, PAY, call("read_file", BOB, path="a")):
        system.gateway.evaluate_sync(request, caller="test")
    found = list(system.payloads.requests(by="operator"))
    assert kinds(system).count("admin.payload_read") == 1
    assert [request.subject.id for _, request in found] == ["alice", "alice", "alice", "bob"]
    for record, request in found:
        again = system.pdp.decide(Asked(request))
        assert again.outcome.wire == record.body["decision"]["outcome"]  # type: ignore[index]


def test_recorded_requests_hold_what_else_was_known(system: System):
    request = msgspec.structs.replace(READ, subject=BOB)
    run(system, request)
    (found,) = system.payloads.recorded(by="operator")
    assert found.request == request
    assert found.known is not None
    assert (found.known.roles, found.known.environment) == (("finance",), "test")
    ((_, with_roles),) = system.payloads.requests(by="operator")
    assert with_roles.subject.roles == ("finance",)


def test_an_approved_action_names_what_the_approval_discharged(system: System):
    approval = ask_people(system, MAIL)
    system.approvals.vote(approval, voter="bob", roles=("finance",), approve=True, auth="local")
    run(system, MAIL)
    *_, found = system.payloads.recorded(by="operator")
    assert found.known is not None
    assert (found.known.approval_id, found.known.discharged) == (approval, ("mail-review",))


def test_any_json_is_recorded_as_it_was(system: System):
    odd = {"text": "\ud800 \u202e \x00 ä", "big": 2**70, "small": -0.0, "number": 1e300, "none": None, "deep": [[{}]]}
    request = call("read_file", **odd)
    with contextlib.suppress(Denied):
        run(system, request)
    (found,) = system.payloads.recorded(by="operator")
    assert found.request == request
    assert json.dumps(found.request.action.input) == json.dumps(odd)


def test_only_the_time_that_is_asked_for_is_read(system: System):
    run(system, READ)
    first = last(system, "decision")
    run(system, READ)
    second = last(system, "decision")
    assert [r.id for r, _ in system.payloads.requests(until_us=second.ts_us, by="operator")] == [first.id]
    assert [r.id for r, _ in system.payloads.requests(since_us=second.ts_us, by="operator")] == [second.id]


# --- erasure ----------------------------------------------------------------------------------------------------


def erase(system: System, subject: Subject = ALICE) -> Erasure:
    return system.payloads.erase(subject, by="carol", reason="request 17")


def test_an_erased_subject_is_in_no_file_and_the_ledger_still_verifies(system: System):
    for number in range(40):
        run(system, call("read_file", path=f"{SECRET} {number}"), f'"{SECRET}"'.encode())
        with pytest.raises(Denied), system.gateway.action_sync(PAY, caller="test"):
            pytest.fail("it ran")
    run(system, call("read_file", BOB, path="keep this"))
    for number in range(20):
        mail = call("send_email", to="all", subject=f"{SECRET} {number}", body="b" * 40 * number)
        approval = ask_people(system, mail)
        system.approvals.vote(approval, voter="bob", roles=("finance",), approve=number % 2 == 0, auth="local")
        if number % 2 == 0:
            run(system, mail)
    assert SECRET.encode() in files(system)  # people must be able to read what they approve
    done = erase(system)
    assert (done.keys, done.approvals) == (1, 20)
    assert done.payloads == 40 + 40 + 40 + 20 + 10
    assert SECRET.encode() not in files(system)
    states = {found.record.body["actor"]["id"]: found.state for found in system.payloads.recorded(by="x")}  # type: ignore[index]
    assert states == {"alice": "erased", "bob": "present"}
    assert system.audit.verify().problems == ()


def test_the_erasure_is_recorded_before_and_after_and_names_the_subject_by_a_commitment(system: System):
    run(system, READ)
    done = erase(system)
    erasures = list(system.store.records(RecordQuery(kinds=("erasure",))))
    details = [record.body["detail"] for record in erasures]
    assert [detail["stage"] for detail in details] == ["ordered", "done"]  # type: ignore[index]
    assert all(detail["subject"] == done.subject for detail in details)  # type: ignore[index]
    assert all(record.body["actor"]["id"] == "carol" for record in erasures)  # type: ignore[index]
    assert not any(b"alice" in record.data for record in erasures)


def test_an_erased_subject_may_come_back(system: System):
    run(system, READ)
    erase(system)
    run(system, READ)
    assert system.payloads.reveal(last(system, "decision").id, person="ann").state == "present"
    assert erase(system).payloads == 1


def test_an_erased_approval_can_still_be_listed_and_asked_for_anew(system: System):
    approval = ask_people(system, MAIL)
    system.approvals.vote(approval, voter="bob", roles=("finance",), approve=False, auth="local")
    before = system.approvals.get(approval)
    erase(system)
    after = system.approvals.get(approval)
    assert (after.state, after.request().action.name) == (State.DENIED, "send_email")
    assert after.request().action.input == {}
    assert before.action_hash not in msgspec.json.encode(after).decode()
    assert before.votes[0].shown not in msgspec.json.encode(after).decode()
    assert system.approvals.get(ask_people(system, MAIL)).state is State.PENDING
    with pytest.raises(BadRequest):
        erase(system)


@pytest.mark.parametrize("approved", [False, True])
def test_an_open_approval_stands_in_the_way(system: System, approved: bool):
    approval = ask_people(system, MAIL)
    if approved:
        system.approvals.vote(approval, voter="bob", roles=("finance",), approve=True, auth="local")
    with pytest.raises(BadRequest, match=approval):
        erase(system)
    assert "erasure" not in kinds(system)
    assert erase(system, BOB).payloads == 0


def test_a_hold_stands_in_the_way_of_erasure_until_it_is_released(system: System):
    run(system, READ)
    system.payloads.hold(ALICE, by="carol", reason="case 12")
    with pytest.raises(Held):
        erase(system)
    system.payloads.hold(ALICE, by="carol", reason="case 12", release=True)
    assert erase(system).payloads == 1
    assert [kind for kind in kinds(system) if "hold" in kind] == ["admin.hold_set", "admin.hold_released"]


def test_an_erasure_needs_a_reason(system: System):
    with pytest.raises(BadRequest, match="reason"):
        system.payloads.erase(ALICE, by="carol", reason=" ")


@pytest.mark.parametrize("step", ["erase", "scrub"])
def test_an_erasure_that_a_crash_interrupts_is_finished_at_the_next_start(
    system: System, fresh: Fresh, monkeypatch: pytest.MonkeyPatch, step: str
):
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    run(system, READ)
    target = (system.vault, "erase") if step == "erase" else (system.payloads, "_scrub")
    monkeypatch.setattr(*target, crash)
    with pytest.raises(Crash):
        erase(system)
    system.close()
    again = fresh()
    stages = [r.body["detail"]["stage"] for r in again.store.records(RecordQuery(kinds=("erasure",)))]  # type: ignore[index]
    assert stages == ["ordered", "done"]
    assert [found.state for found in again.payloads.recorded(by="x")] == ["erased"]
    assert again.audit.verify().problems == ()


def test_a_hold_that_comes_after_the_order_stops_the_erasure(
    system: System, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
):
    run(system, READ)

    def hold_first(ref: str, now_us: int) -> tuple[int, int]:
        system.vault.hold(ref, True)
        raise Held("a legal hold")

    monkeypatch.setattr(system.vault, "erase", hold_first)
    with pytest.raises(Held):
        erase(system)
    assert last(system).body["detail"]["stage"] == "stopped"  # type: ignore[index]
    system.close()
    assert [found.state for found in fresh().payloads.recorded(by="x")] == ["present"]


def test_an_erasure_needs_no_policies_that_load(folder: Path, system: System):
    run(system, READ)
    system.close()
    (folder / "policies/main.cedar").write_text("permit (")
    with open_payloads(folder) as payloads:
        assert payloads.erase(ALICE, by="carol", reason="request 17").payloads == 1


# --- sweeping ---------------------------------------------------------------------------------------------------


def test_a_sweep_removes_orphans_and_what_is_past_its_time_and_nothing_else(
    system: System, monkeypatch: pytest.MonkeyPatch
):
    run(system, READ, b"{}")
    ref = reference(system.data.commitment_key(), "user", "alice")
    for id, trace in (("evl_x.request", "0" * 32), ("evl_y.request", last(system, "decision").trace_id)):
        orphan = Payload(id=id, subject=ref, trace_id=trace, created_us=system.clock.now_us(), data=b"{}")
        system.vault.seal(orphan).result()
    assert system.payloads.sweep().orphans == 0  # too young to tell
    monkeypatch.setattr(privacy, "GRACE_US", -60_000_000)
    swept = system.payloads.sweep()
    assert (swept.expired, swept.orphans) == (0, 2)
    assert last(system).body["detail"] == {"expired": 0, "orphans": 2}
    for kind in ("decision", "execution.finished"):
        assert system.payloads.reveal(last(system, kind).id, person="ann").state == "present"


def test_what_is_past_its_time_is_gone_and_shown_as_expired(system: System, monkeypatch: pytest.MonkeyPatch):
    run(system, READ)
    record = last(system, "decision")
    monkeypatch.setattr(system.payloads._clock, "now_us", lambda: record.ts_us + 401 * 86_400_000_000)
    assert system.payloads.sweep().expired == 1
    assert system.payloads.reveal(record.id, person="ann").state == "expired"


def test_retention_below_six_months_is_refused(folder: Path, fresh: Fresh):
    for table in ("days = 183", '[retention.classes]\n"pii.email" = 30'):
        config = (folder / "checkrein.toml").read_text()
        (folder / "checkrein.toml").write_text(f"{config}\n[retention]\n{table}\n")
        with pytest.raises(ConfigError, match="retention"):
            fresh()
        (folder / "checkrein.toml").write_text(config)


def test_a_label_gives_a_payload_its_retention_class(folder: Path, fresh: Fresh):
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[retention.classes]\n"tool:send_email" = 184\n')
    system = fresh()
    system.gateway.evaluate_sync(READ, caller="test")
    assert system.gateway.evaluate_sync(MAIL, caller="test").outcome is Outcome.REQUIRE_REVIEW
    connection = apsw.Connection(str(system.data.payloads))
    found = [row[0] for row in connection.execute("SELECT retention FROM payload ORDER BY seq")]
    connection.close()
    assert found == ["", "tool:send_email"]


# --- crashes ----------------------------------------------------------------------------------------------------

ROUNDS = 60 if os.environ.get("CHECKREIN_DEEP") == "1" else 4
CHILD = """
import os, sys, threading
from checkrein.compose import open_system
from checkrein.model import Action, Request, Resource, Subject

system = open_system(sys.argv[1])

def call(number):
    who = Subject("user", f"user-{number % 3}")
    while True:
        request = Request(who, Action("read_file", {"input": {"path": "secret"}}), Resource("tool", "read_file"))
        with system.gateway.action_sync(request, caller="test") as governed:
            os.write(1, f"{governed.decision.evaluation_id}\\n".encode())
            governed.answered(b"{}")

for number in range(16):
    threading.Thread(target=call, args=(number,), daemon=True).start()
threading.Event().wait()
"""


def test_after_kill_9_every_action_that_ran_has_its_request_and_orphans_are_swept(
    fresh: Fresh, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    chance = random.Random(7)  # noqa: S311 - when to kill
    monkeypatch.setattr(privacy, "GRACE_US", -60_000_000)
    ran: set[str] = set()
    for _ in range(ROUNDS):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child.stdout as lines:
            ran |= {lines.readline().decode().strip() for _ in range(chance.randint(1, 200))}
            child.send_signal(signal.SIGKILL)
            ran |= {line.decode().strip() for line in lines if line.endswith(b"\n")}
        child.wait()
        system = fresh()
        found = {str(each.record.body["decision"]["evaluation_id"]): each for each in system.payloads.recorded(by="x")}  # type: ignore[index]
        assert ran <= {id for id, each in found.items() if each.state == "present"}
        system.payloads.sweep()
        named = {f"{id}.{part}" for id in found for part in ("request", "result")}
        connection = apsw.Connection(str(system.data.payloads))
        assert {row[0] for row in connection.execute("SELECT id FROM payload")} <= named
        connection.close()
        assert system.audit.verify().problems == ()
        system.close()
