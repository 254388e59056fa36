"""What an OpenClaw plugin calls: heartbeat, results, the wait for an approval."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.model import Permission
from checkrein.ports import RecordQuery
from checkrein.services.reconcile import Call

MAIL = {"to": "carol", "subject": "hello", "body": "hello"}

CLEAN_ARGUMENTS = """
@id("clean-reads") @owner("privacy") @reason("no addresses in paths") @outcome("redact") @redact("pii.email")
forbid (principal, action == Action::"read_file", resource) when { context.labels.contains("pii.email") };
"""


@pytest.fixture
def system(folder: Path) -> Iterator[System]:
    (folder / "policies/clean.cedar").write_text(CLEAN_ARGUMENTS)
    claw = UpstreamConfig(base_url="http://127.0.0.1:1/v1", kind="openclaw", models=("openclaw",), witness_timeout=0)
    opened = open_system(folder, upstreams={"claw": claw})
    yield opened
    opened.close()


class Plugin:
    """Calls Checkrein as the plugin does."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    def call(self, path: str, value: object = None) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        body = None if value is None else json.dumps(value).encode()
        try:
            request = urllib.request.Request(self._url + path, body, headers)  # noqa: S310 - our own address
            with urllib.request.urlopen(request) as reply:  # noqa: S310
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ask(self, tool: str, input: dict[str, object], **openclaw: str) -> tuple[int, Any]:
        context = {
            "supported_obligations": ["custom"],
            "openclaw": {"gateway": "claw", "run": "r", "tool": tool, **openclaw},
        }
        subject = {"type": "user", "id": "alice"}
        action = {"name": tool, "properties": {"input": input}}
        resource = {"type": "tool", "id": tool}
        value = {"subject": subject, "action": action, "resource": resource, "context": context}
        return self.call("/access/v1/evaluation", value)


@pytest.fixture
def plugin(system: System, server: str) -> Plugin:
    _, secret = system.keys.create("claw", permissions=(Permission.DECIDE,), by="tests")
    return Plugin(server, secret)


def test_a_heartbeat_is_heard(plugin: Plugin, system: System) -> None:
    assert "not heard yet" in system.gateways.refusal("claw")
    assert plugin.call("/api/v1/openclaw/heartbeat", {"gateway": "claw"}) == (200, {"refused": ""})
    assert system.gateways.refusal("claw") == ""


@pytest.mark.parametrize("value", [{}, {"gateway": 5}, {"gateway": ""}, []])
def test_a_heartbeat_that_is_none_is_refused(plugin: Plugin, value: object) -> None:
    assert plugin.call("/api/v1/openclaw/heartbeat", value)[0] == 400


def test_a_gateway_that_is_not_configured_cannot_beat(plugin: Plugin) -> None:
    assert plugin.call("/api/v1/openclaw/heartbeat", {"gateway": "other"})[0] == 404


@pytest.mark.parametrize("path", ["heartbeat", "result"])
def test_only_a_key_that_may_decide_speaks_for_a_gateway(system: System, server: str, path: str) -> None:
    _, secret = system.keys.create("bot", by="tests")
    assert Plugin(server, secret).call(f"/api/v1/openclaw/{path}", {"gateway": "claw"})[0] == 403


def test_a_result_is_recorded_once_its_call_was_decided(plugin: Plugin, system: System) -> None:
    result = {"gateway": "claw", "run": "r", "call": "c", "status": "ok", "duration_ms": 3}
    assert plugin.call("/api/v1/openclaw/result", result)[0] == 404
    assert plugin.ask("read_file", {"path": "a"}, call="c")[1]["decision"] is True
    assert plugin.call("/api/v1/openclaw/result", result) == (200, {})
    (told,) = system.store.records(RecordQuery(kinds=("execution.reported",)))
    assert told.body["duration_us"] == 3000


def test_a_gateway_in_quarantine_gets_no_decisions(plugin: Plugin, system: System) -> None:
    call = Call(run="r", call="c", tool="exec")
    system.gateways.started("claw", call)
    system.gateways.ended("claw", call, ran=True)
    system.gateways.tick()
    assert plugin.ask("read_file", {"path": "a"}, call="d")[0] == 403


def test_a_caller_cannot_say_that_a_gateway_asked(system: System, server: str) -> None:
    _, secret = system.keys.create("alice", by="tests")
    assert Plugin(server, secret).ask("read_file", {"path": "a"}, call="c")[1]["decision"] is True
    call = Call(run="r", call="c", tool="read_file")
    system.gateways.started("claw", call)
    system.gateways.ended("claw", call, ran=True)
    system.gateways.tick()
    assert system.gateways.stand("claw").ungoverned == 1


def test_a_gateway_that_is_not_configured_gets_no_decision(plugin: Plugin, system: System) -> None:
    before = system.store.head().size
    assert plugin.ask("read_file", {"path": "a"}, call="c", gateway="other")[0] == 404
    assert system.store.head().size == before


def test_the_state_of_an_approval_is_told_when_it_changes(plugin: Plugin, system: System) -> None:
    asked = plugin.ask("send_email", MAIL, call="c")[1]["context"]["access_request"]["id"]
    path = f"/api/v1/openclaw/approval?id={asked}"
    assert plugin.call(path)[1]["state"] == "pending"
    system.approvals.vote(asked, voter="bob", roles=("finance",), approve=True, auth="test")
    assert plugin.call(f"{path}&wait=20")[1]["state"] == "approved"
    assert plugin.ask("send_email", MAIL, call="c")[1]["decision"] is True


def test_a_wait_ends_although_nobody_answers(plugin: Plugin) -> None:
    asked = plugin.ask("send_email", MAIL, call="c")[1]["context"]["access_request"]["id"]
    assert plugin.call(f"/api/v1/openclaw/approval?id={asked}&wait=1")[1]["state"] == "pending"


@pytest.mark.parametrize(("query", "status"), [("id=apr_none", 404), ("id=apr_x&wait=-1", 400), ("wait=x", 400)])
def test_a_question_about_no_approval_is_refused(plugin: Plugin, query: str, status: int) -> None:
    assert plugin.call(f"/api/v1/openclaw/approval?{query}")[0] == status


def test_how_the_gateways_stand_is_for_auditors(system: System, server: str, plugin: Plugin) -> None:
    assert plugin.call("/api/v1/openclaw/gateways")[0] == 403
    _, secret = system.keys.create("auditor", permissions=(Permission.AUDIT,), by="tests")
    (row,) = Plugin(server, secret).call("/api/v1/openclaw/gateways")[1]
    assert (row["gateway"], row["observed"], row["enforcement"]) == ("claw", 0, None)


def test_with_a_redaction_come_the_arguments_as_they_may_leave(plugin: Plugin) -> None:
    answer = plugin.ask("read_file", {"path": "jane.doe@example.com/notes"}, call="c")[1]
    assert answer["context"]["outcome"] == "allow_with_redaction"
    assert answer["context"]["input"] == {"path": "<EMAIL_1>/notes"}
    assert "input" not in plugin.ask("read_file", {"path": "notes"}, call="d")[1]["context"]
