"""The plugin in a real OpenClaw Gateway: every tool call is decided by Checkrein, for the person, once."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.openclaw


def test_an_allowed_call_runs_and_is_reported(stage: Any) -> None:
    before = stage.size
    assert stage.run("echo hello-there") == "RESULT: hello-there"
    (decided,) = stage.tools(before)
    assert decided["decision"]["outcome"] == "allow"
    stage.until(lambda: stage.records("execution.reported", after=before), "the report")
    (told,) = stage.records("execution.reported", after=before)
    assert (told["status"], told["evaluation_id"]) == ("ok", decided["decision"]["evaluation_id"])


def test_a_denied_call_does_not_run_and_the_agent_reads_why(stage: Any) -> None:
    (stage.folder.workspace / "kept.txt").write_text("kept")
    said = stage.run("rm -f kept.txt")
    assert "nothing is removed" in said
    assert "instead: move it to the archive" in said
    assert (stage.folder.workspace / "kept.txt").exists()


def test_arguments_are_rewritten_where_policy_redacts(stage: Any) -> None:
    said = stage.run('echo "to jane.doe@example.com"')
    assert "jane.doe" not in said
    assert "EMAIL_1" in said


def test_a_reviewed_call_is_held_until_a_person_approves(stage: Any, answering: Callable[..., None]) -> None:
    before = stage.size
    answering(approve=True)
    assert stage.run("echo deploy-one") == "RESULT: deploy-one"
    outcomes = [one["decision"]["outcome"] for one in stage.tools(before)]
    assert outcomes == ["require_review", "allow"]
    assert [one["actor"]["id"] for one in stage.records("approval.used", after=before)] == ["alice"]


def test_a_reviewed_call_that_a_person_denies_does_not_run(stage: Any, answering: Callable[..., None]) -> None:
    answering(approve=False)
    said = stage.run("touch deploy-two")
    assert "is denied" in said
    assert not (stage.folder.workspace / "deploy-two").exists()


def test_a_review_that_nobody_answers_expires_and_does_not_run(stage: Any) -> None:
    said = stage.run("touch restart-one")
    assert "is expired" in said
    assert not (stage.folder.workspace / "restart-one").exists()


def test_a_call_is_decided_for_the_person_and_not_for_the_agent(stage: Any) -> None:
    before = stage.size
    assert "checkrein: " in stage.run("echo hi", key=stage.mallory)
    assert {one["actor"]["id"] for one in stage.tools(before)} == {"mallory"}
    before = stage.size
    stage.run("echo hi")
    assert {one["actor"]["id"] for one in stage.tools(before)} == {"alice"}


def test_prompt_model_traffic_and_tool_call_stand_in_one_trace(stage: Any) -> None:
    before, asked = stage.size, len(stage.model.requests)
    stage.run("echo joined")
    decisions = stage.records("decision", after=before)
    assert [one["action"]["name"] for one in decisions] == ["prompt", "prompt", "exec", "prompt"]
    assert {one["actor"]["id"] for one in decisions} == {"alice"}
    (trace,) = {one["trace_id"] for one in decisions}
    assert all(trace in headers["traceparent"] for headers, _ in stage.model.requests[asked:])


def test_a_wrapped_command_is_the_same_tool_to_policy(stage: Any) -> None:
    hidden = base64.b64encode(b"touch hidden.txt").decode()
    stage.run(f"echo {hidden} | base64 -d | sh", key=stage.mallory)
    assert not (stage.folder.workspace / "hidden.txt").exists()


def test_a_call_through_tool_search_is_decided_as_the_real_tool_and_counts_once(stage: Any) -> None:
    before = stage.size
    said = stage.say('CALL tool_call {"id": "session_status", "args": {}}')
    assert "OpenClaw" in said
    assert [one["action"]["name"] for one in stage.tools(before)] == ["session_status"]
    stage.until(lambda: stage.records("execution.reported", after=before), "the report")
    assert len(stage.records("execution.reported", after=before)) == 1


@pytest.mark.parametrize("file", ["{folder}/openclaw.json", "../gateway.token", "$OPENCLAW_CONFIG_PATH"])
def test_its_own_configuration_is_closed_to_tools(stage: Any, file: str) -> None:
    before = stage.size
    said = stage.run(f"cat {file.format(folder=stage.folder.root)}")
    assert "not for tools" in said
    stage.until(lambda: stage.records("execution.reported", after=before), "the report")
    (told,) = stage.records("execution.reported", after=before)
    assert told["status"] == "blocked"
    assert stage.folder.token() not in said


def test_a_tool_called_over_http_is_decided_too(stage: Any) -> None:
    before = stage.size
    call = {"tool": "sessions_list", "args": {}}
    status, answer = stage.direct("/tools/invoke", call)
    assert status == 403, "without a turn the agent speaks for itself, and policy allows it nothing"
    assert answer["error"]["type"] == "tool_call_blocked"
    (decided,) = stage.tools(before)
    assert (decided["actor"]["type"], decided["action"]["name"]) == ("agent", "sessions_list")


def test_without_checkrein_nothing_runs(stage: Any) -> None:
    with stage.checkrein_down():
        status, answer = stage.direct("/tools/invoke", {"tool": "sessions_list", "args": {}})
    assert status == 403
    assert "Checkrein cannot be reached" in answer["error"]["message"]
    stage.until_heard()
    assert stage.run("echo again") == "RESULT: again"


def test_a_tool_called_through_checkrein_runs_for_the_caller(stage: Any) -> None:
    before = stage.size
    status, answer = stage.post("/tools/invoke", {"tool": "sessions_list", "args": {}})
    assert (status, answer["ok"]) == (200, True)
    assert [(one["actor"]["id"], one["mode"]) for one in stage.tools(before)] == [("alice", "run"), ("alice", "ask")]


def test_a_tool_denied_in_front_never_reaches_the_gateway(stage: Any) -> None:
    before = stage.size
    status, answer = stage.post("/tools/invoke", {"tool": "sessions_list", "args": {"limit": 3}})
    assert (status, answer["error"]["type"]) == (403, "tool_call_blocked")
    assert [one["mode"] for one in stage.tools(before)] == ["run"]


@pytest.mark.parametrize(("to", "runs"), [("carol@inside.example", 1), ("eve@outside.example", 0)])
def test_a_tool_of_an_mcp_server_is_decided_by_its_name_in_policies(stage: Any, to: str, runs: int) -> None:
    before, sent = stage.size, stage.sandbox.runs["send_email"]
    mail = {"to": to, "subject": "hello", "body": "hello"}
    said = stage.say(f"CALL tool_call {json.dumps({'id': 'demo__send_email', 'args': mail})}")
    assert [one["action"]["name"] for one in stage.tools(before)] == ["send_email"], said
    assert stage.sandbox.runs["send_email"] - sent == runs, said


def test_a_turn_by_the_responses_protocol_is_governed_alike(stage: Any) -> None:
    before = stage.size
    ask = {"model": "openclaw/default", "input": 'CALL exec {"command": "echo by-responses"}'}
    status, answer = stage.post("/v1/responses", ask)
    assert status == 200, answer
    assert "by-responses" in json.dumps(answer["output"])
    assert [(one["actor"]["id"], one["action"]["name"]) for one in stage.tools(before)] == [("alice", "exec")]
    assert len({one["trace_id"] for one in stage.records("decision", after=before)}) == 1
