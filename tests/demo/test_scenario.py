"""The demo's whole table, through HTTP, on the folder that `init` writes: what is shown is what happened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from checkrein.compose import System, open_system, verify_ledger
from checkrein.demo.scenario import (
    CASES,
    SIMULATED,
    Approver,
    Case,
    Row,
    at_terminal,
    prepare,
    simulated,
    stage,
    who_may,
)
from checkrein.flow.approval import Approval, State
from checkrein.model import ConfigError, PolicyInvalid
from checkrein.ports import RecordQuery

SUMMARY, DRAFT, PAYROLL, TRANSFER, SHELL, REFUND, REPORT, WEATHER, CUSTOMERS = CASES


class Played(msgspec.Struct, frozen=True):
    """What is left when the demo is over."""

    folder: Path
    rows: list[Row]
    runs: dict[str, int]

    @property
    def sandbox(self) -> Path:
        return self.folder / ".checkrein/sandbox"

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.sandbox / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def records(self, query: RecordQuery) -> list[Any]:
        system = open_system(self.folder)
        try:
            return list(system.store.records(query))
        finally:
            system.close()


def play(folder: Path, *cases: Case, approver: Approver | None = None) -> Played:
    with stage(folder, None) as running:
        answer = approver or simulated(running.system)
        rows = [running.send(case, answer) for case in cases]
        return Played(folder, rows, running.sandbox.runs)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One run of everything, on the default folder."""
    folder = tmp_path_factory.mktemp("demo") / "governance"
    assert prepare(folder)
    return play(folder, *CASES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path / "governance")
    return tmp_path / "governance"


INSTEAD_OF_HARM = "prepare a draft and let the person responsible carry it out"
INSTEAD_OF_EGRESS = "name the documents you need: reading them is allowed"
PRIVATELY = "the agent answered; the model saw placeholders only"


@pytest.mark.parametrize(
    ("case", "risk", "outcome", "approved_by", "happened"),
    [
        (SUMMARY, "green", "ALLOW", "", "executed: read_file ran once"),
        (DRAFT, "green", "ALLOW", "", "executed: the agent answered"),
        (PAYROLL, "amber", "REQUIRE_REVIEW", SIMULATED, "executed: send_email ran once"),
        (TRANSFER, "red", "DENY", "", f"nothing ran; instead: {INSTEAD_OF_HARM}"),
        (SHELL, "red", "DENY", "", f"nothing ran; instead: {INSTEAD_OF_EGRESS}; instead: {INSTEAD_OF_HARM}"),
        (REFUND, "amber", "ALLOW_WITH_REDACTION", "", f"executed: {PRIVATELY}"),
        (REPORT, "green", "ALLOW", "", "executed: read_file ran once"),
        (WEATHER, "green", "ALLOW", "", "executed: the agent answered"),
        (
            CUSTOMERS,
            "amber",
            "REQUIRE_REVIEW",
            "waits for people",
            "nothing ran; instead: ask for figures that name nobody",
        ),
    ],
    ids=lambda value: value.prompt[:30] if isinstance(value, Case) else "",
)
def test_the_table(played: Played, case: Case, risk: str, outcome: str, approved_by: str, happened: str):
    row = played.rows[CASES.index(case)]
    assert (row.request, row.risk, row.outcome, row.approved_by, row.happened) == (
        case.prompt,
        risk,
        outcome,
        approved_by,
        happened,
    )
    assert bool(row.waiting) is (case is CUSTOMERS)


def test_what_ran_is_what_the_sandbox_counted_and_wrote(played: Played):
    assert played.runs == {"send_email": 1, "transfer_funds": 0, "shell": 0, "read_file": 2}
    assert played.lines("outbox.jsonl") == [
        {
            "to": "all employees",
            "subject": "Payroll will be delayed by 2 days",
            "body": "payroll will be delayed by 2 days.",
        }
    ]
    assert not (played.sandbox / "transfers.jsonl").exists()
    assert not list(played.sandbox.glob("shell-*"))


def test_the_model_was_never_asked_what_was_denied_or_waits_and_saw_placeholders_only(played: Played):
    seen = (played.sandbox / "model-input.jsonl").read_text()
    for case in (TRANSFER, SHELL, CUSTOMERS):
        assert case.prompt not in seen
    assert "jane.doe" not in seen
    assert "4111" not in seen
    assert "Write to <EMAIL_1>, card <CARD_1>, that her refund" in seen


def test_every_trace_leads_to_its_records(played: Played):
    traces = [row.trace_id for row in played.rows]
    assert len(set(traces)) == len(CASES)
    for row in played.rows:
        kinds = [record.kind for record in played.records(RecordQuery(trace_id=row.trace_id))]
        assert kinds[0] == "decision"
        ran = row.happened.startswith("executed")
        assert kinds.count("execution.started") == kinds.count("execution.finished") == int(ran)


def test_the_simulated_approver_is_recorded_as_simulated(played: Played):
    (vote,) = played.records(RecordQuery(kinds=("approval.voted",)))
    assert vote.body["vote"]["simulated"] is True
    assert vote.body["vote"]["auth"] == "simulated"
    (decided,) = played.records(RecordQuery(kinds=("approval.decided",)))
    assert decided.body["approval"]["simulated"] is True
    assert decided.body["approval"]["voters"] == [SIMULATED]


def test_the_approved_mail_was_executed_exactly_once_and_its_approval_is_used_up(played: Played):
    row = played.rows[CASES.index(PAYROLL)]
    (used,) = played.records(RecordQuery(kinds=("approval.used",)))
    id = used.body["approval"]["id"]
    under = [record for record in played.records(RecordQuery(approval=id)) if record.kind == "execution.started"]
    assert [record.trace_id for record in under] == [row.trace_id]
    tool = [record.body for record in played.records(RecordQuery(trace_id=row.trace_id, kinds=("decision",)))][1]
    assert (tool["action"]["name"], tool["actor"]["id"], tool["approval"]["id"]) == ("send_email", "demo-user", id)


def test_the_ledger_verifies_and_the_keys_are_gone(played: Played):
    assert verify_ledger(played.folder).problems == ()
    system = open_system(played.folder)
    keys = system.keys.all()
    system.close()
    assert len(keys) == 2
    assert all(key.revoked_us for key in keys)


def test_personal_data_stands_nowhere_in_the_ledger(played: Played):
    records = played.records(RecordQuery())
    assert not any(b"jane.doe" in record.data or b"4111 1111" in record.data for record in records)


# --- the outcomes come from the folder ------------------------------------------------------------------------


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_edited_policy_changes_the_outcome(folder: Path):
    edit(folder, "policies/access.cedar", '@outcome("require_review")\n@approvers("1 of communications")\n', "")
    edit(folder, "policies/access.cedar", '@expires("4h")\n', "")
    (row,) = play(folder, PAYROLL).rows
    assert (row.risk, row.outcome, row.approved_by) == ("amber", "DENY", "")
    assert row.happened == "nothing ran; instead: write a draft and let a person send it"


def test_an_edited_manifest_changes_risk_and_outcome(folder: Path):
    edit(folder, "tools.yaml", "      - wire transfer\n", "      - wire transfer\n      - the weather\n")
    (row,) = play(folder, WEATHER).rows
    assert (row.risk, row.outcome) == ("red", "DENY")


def test_a_policy_on_the_tool_stops_the_call_and_the_table_says_so(folder: Path):
    policy = (
        '@id("no-files") @owner("s") @reason("{}") {}\nforbid (principal, action == Action::"read_file", resource);'
    )
    (folder / "policies/files.cedar").write_text(policy.format("no files", ""))
    played = play(folder, REPORT)
    assert played.rows[0].happened == "executed: read_file was denied"
    assert played.runs["read_file"] == 0
    review = policy.format("files are watched", '@outcome("require_review") @approvers("1 of security")')
    (folder / "policies/files.cedar").write_text(review)
    played = play(folder, REPORT)
    assert (played.rows[0].happened, played.rows[0].approved_by) == (
        "executed: read_file waits for people",
        "waits for people",
    )
    assert played.rows[0].waiting
    assert played.runs["read_file"] == 0


def test_without_policies_for_it_personal_data_reaches_the_model_and_the_table_says_so(folder: Path):
    edit(folder, "policies/data.cedar", '@redact("pii")', '@redact("pii.card")')
    (row,) = play(folder, REFUND).rows
    assert row.happened == "executed: the agent answered; the model saw jane.doe@example.com"


# --- the next run ---------------------------------------------------------------------------------------------


def test_a_second_run_joins_what_waits_and_once_a_person_approved_it_the_next_run_executes_it(folder: Path):
    waiting = play(folder, CUSTOMERS).rows[0].waiting
    assert play(folder, CUSTOMERS).rows[0].waiting == waiting
    system = open_system(folder)
    who = who_may(system, system.approvals.get(waiting))
    assert who == "privacy-officer"
    roles = system.config.people[who].roles
    after = system.approvals.vote(waiting, voter=who, roles=roles, approve=True, auth="local")
    system.close()
    assert after.state is State.APPROVED
    (row,) = play(folder, CUSTOMERS).rows
    assert (row.outcome, row.approved_by, row.waiting) == ("ALLOW", "privacy-officer", "")
    assert row.happened == "executed: the agent answered"
    assert play(folder, CUSTOMERS).rows[0].waiting not in ("", waiting)


def test_the_folder_is_written_once_and_never_over(folder: Path):
    (folder / "policies/access.cedar").write_text("// mine")
    assert not prepare(folder)
    assert (folder / "policies/access.cedar").read_text() == "// mine"


# --- people ---------------------------------------------------------------------------------------------------


def asked(folder: Path, verdict: bool | None) -> tuple[Played, list[Approval]]:
    """The payroll mail with somebody at the terminal who says yes, no or nothing; and what they were shown."""
    shown: list[Approval] = []

    def ask(approval: Approval) -> bool | None:
        shown.append(approval)
        return verdict

    with stage(folder, None) as running:
        rows = [running.send(case, at_terminal(running.system, ask, "olga")) for case in (PAYROLL, CUSTOMERS)]
        return Played(folder, rows, running.sandbox.runs), shown


def test_a_yes_at_the_terminal_runs_it_and_is_no_simulation(folder: Path):
    played, shown = asked(folder, True)
    assert (played.rows[0].approved_by, played.rows[0].happened) == ("olga", "executed: send_email ran once")
    assert [approval.request().action.input["messages"][0]["content"] for approval in shown] == [PAYROLL.prompt]
    (vote,) = played.records(RecordQuery(kinds=("approval.voted",)))
    assert (vote.body["vote"]["simulated"], vote.body["vote"]["auth"]) == (False, "terminal")


def test_a_no_at_the_terminal_ends_it_and_asks_nobody_again(folder: Path):
    played, shown = asked(folder, False)
    assert (played.rows[0].approved_by, played.rows[0].waiting) == ("denied by olga", "")
    assert played.rows[0].happened.startswith("nothing ran")
    assert played.runs["send_email"] == 0
    assert len(shown) == 1
    assert len(played.records(RecordQuery(kinds=("approval.requested",)))) == 2  # the other is left for later


def test_no_answer_at_the_terminal_leaves_it_open(folder: Path):
    played, _ = asked(folder, None)
    assert (played.rows[0].approved_by, bool(played.rows[0].waiting)) == ("waits for people", True)
    assert played.runs["send_email"] == 0


def test_one_person_is_not_two_and_is_not_asked_twice(folder: Path):
    edit(folder, "policies/access.cedar", "1 of communications", "2 of communications")
    for questions in (1, 0):
        played, shown = asked(folder, True)
        assert (played.rows[0].approved_by, len(shown)) == ("waits for people", questions)
        assert played.runs["send_email"] == 0
    (row,) = play(folder, PAYROLL).rows  # somebody else, although simulated, makes it two
    assert (row.approved_by, row.happened) == (f"olga, {SIMULATED}-2", "executed: send_email ran once")


def test_nobody_is_named_as_approver_whose_vote_would_not_count(folder: Path):
    edit(folder, "checkrein.toml", "[people.privacy-officer]", "[people.demo-user]")
    waiting = play(folder, CUSTOMERS).rows[0].waiting
    system = open_system(folder)
    assert who_may(system, system.approvals.get(waiting)) == ""
    system.close()


def test_the_simulated_approver_is_as_many_as_are_asked_for(folder: Path):
    edit(folder, "policies/access.cedar", "1 of communications", "1 of communications and 2 of security")
    (row,) = play(folder, PAYROLL).rows
    assert row.approved_by == f"{SIMULATED}, {SIMULATED}-2, {SIMULATED}-3"
    assert row.happened == "executed: send_email ran once"


def test_the_store_of_the_demo_is_for_its_owner_only(played: Played):
    assert (played.folder / ".checkrein").stat().st_mode & 0o777 == 0o700


# --- when it breaks -------------------------------------------------------------------------------------------


@pytest.fixture
def broken(folder: Path) -> Iterator[Path]:
    with pytest.raises(ZeroDivisionError), stage(folder, None):
        raise ZeroDivisionError
    yield folder


def test_the_keys_are_revoked_although_it_broke_midway(broken: Path):
    system: System = open_system(broken)
    keys = system.keys.all()
    system.close()
    assert len(keys) == 2
    assert all(key.revoked_us for key in keys)


def test_after_a_break_it_runs_again(broken: Path):
    assert play(broken, SUMMARY).rows[0].happened == "executed: read_file ran once"


def test_the_keys_are_revoked_although_checkrein_did_not_start(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(system: System) -> None:
        raise ConfigError("no")

    with monkeypatch.context() as patch:
        patch.setattr(System, "app", fail)
        with pytest.raises(ConfigError), stage(folder, None):
            pytest.fail("it started")
    system = open_system(folder)
    assert [bool(key.revoked_us) for key in system.keys.all()] == [True, True]
    system.close()


def test_a_folder_that_does_not_load_says_so_and_leaves_no_server(folder: Path):
    (folder / "policies/access.cedar").write_text("permit (principal")
    with pytest.raises(PolicyInvalid), stage(folder, None):
        pytest.fail("it started")
