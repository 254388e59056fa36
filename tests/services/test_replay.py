"""Recorded decisions, tried on a candidate: what would change is listed, what cannot be tried is counted."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from checkrein.compose import System, load_bundle, open_payloads
from checkrein.model import Action, ApprovalRequired, Denied, Outcome, Request, Resource, Subject
from checkrein.ports import RecordQuery
from checkrein.services.replay import Replay, replay

ALICE = Subject("user", "alice")
TOOLS = {
    "read_file": {"path": "a"},
    "transfer_funds": {"to": "x", "amount": 1},
    "send_email": {"to": "a", "subject": "b", "body": "c"},
}


def act(system: System) -> None:
    """One read that runs, one mail that waits, one transfer that is denied."""
    for tool, input in TOOLS.items():
        request = Request(ALICE, Action(tool, {"input": input}), Resource("tool", tool), {"agent": {"id": "bot"}})
        with contextlib.suppress(Denied, ApprovalRequired), system.gateway.action_sync(request, caller="t"):
            pass


def tried(folder: Path, candidate: Path) -> Replay:
    with open_payloads(folder) as payloads:
        return replay(payloads.recorded(by="tests"), load_bundle(candidate))


def changed(folder: Path, tmp_path: Path, old: str, new: str) -> Path:
    candidate = tmp_path / "candidate"
    shutil.copytree(folder, candidate, ignore=shutil.ignore_patterns(".checkrein"))
    policies = candidate / "policies/main.cedar"
    text = policies.read_text()
    assert old in text
    policies.write_text(text.replace(old, new))
    return candidate


def test_the_same_policies_decide_the_past_alike(system: System, folder: Path):
    act(system)
    found = tried(folder, folder)
    assert (found.decided, found.changes, found.left_out) == (3, (), {})


def test_a_caller_that_could_not_redact_is_denied_again(system: System, folder: Path):
    message = {"role": "user", "content": "write to jane@example.com"}
    asked = Request(ALICE, Action("prompt", {"input": {"messages": [message]}}), Resource("model", "m"))
    assert system.gateway.evaluate_sync(asked, caller="t", supported_obligations=()).outcome is Outcome.DENY
    assert system.gateway.evaluate_sync(asked, caller="t").outcome is Outcome.ALLOW_WITH_REDACTION
    found = tried(folder, folder)
    assert (found.decided, found.changes) == (2, ())


def test_a_looser_candidate_is_named_by_person_agent_and_tool(system: System, folder: Path, tmp_path: Path):
    act(system)
    found = tried(folder, changed(folder, tmp_path, '"tool:transfer_funds"', '"tool:nothing"'))
    (change,) = found.changes
    assert (change.user, change.agent, change.action) == ("alice", "bot", "transfer_funds")
    assert (change.before, change.after, change.loosening, change.policies) == ("deny", "allow", True, ("use-tools",))
    assert found.loosening == 1


def test_a_stricter_candidate_is_no_loosening(system: System, folder: Path, tmp_path: Path):
    act(system)
    found = tried(
        folder,
        changed(
            folder,
            tmp_path,
            'permit (principal, action in Action::"tool", resource)',
            'permit (principal == User::"bob", action in Action::"tool", resource)',
        ),
    )
    assert {(change.action, change.after) for change in found.changes} == {
        ("read_file", "deny"),
        ("send_email", "deny"),
    }
    assert found.loosening == 0


def test_what_was_erased_is_counted_and_not_passed_over(system: System, folder: Path):
    act(system)
    for approval in system.approvals.all():
        system.approvals.vote(approval.id, voter="bob", roles=("finance",), approve=False, auth="local")
    with open_payloads(folder) as payloads:
        payloads.erase(ALICE, by="carol", reason="asked for it")
    found = tried(folder, folder)
    assert (found.decided, found.left_out) == (0, {"erased": 3})


def test_that_it_was_read_is_recorded(system: System, folder: Path):
    act(system)
    tried(folder, folder)
    assert [r.kind for r in system.store.records(RecordQuery())][-1] == "admin.payload_read"
