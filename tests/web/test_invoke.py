"""`/tools/invoke` before an agent gateway, which asks again inside: here the embedded one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.demo.agent import ToolCall, Verdict
from checkrein.demo.gateway import create_app
from checkrein.demo.pdp import PdpClient
from checkrein.demo.tools import Sandbox
from checkrein.model import Permission
from checkrein.ports import RecordQuery
from checkrein.web.server import BackgroundServer

MAIL = {"to": "carol", "subject": "hello", "body": "hello"}
Post = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path / "sandbox")


@pytest.fixture
def opened(folder: Path, sandbox: Sandbox) -> Iterator[tuple[System, str]]:
    """The system before the embedded gateway, and its address."""
    late: list[PdpClient] = []

    async def decide(call: ToolCall) -> Verdict:
        return await late[0](call)

    with ExitStack() as stack:
        claw = stack.enter_context(BackgroundServer(create_app(sandbox, "token-of-the-gateway", decide)))
        given = UpstreamConfig(base_url=f"{claw.url}/v1", kind="openclaw", api_key_env="CLAW", heartbeat_timeout=5)
        variables = {"CLAW": "token-of-the-gateway"}
        system = stack.enter_context(closing(open_system(folder, upstreams={"claw": given}, variables=variables)))
        url = stack.enter_context(BackgroundServer(system.app())).url
        late.append(PdpClient(url, system.keys.create("pep", permissions=(Permission.DECIDE,), by="tests")[1]))
        system.gateways.beat("claw")
        yield system, url


@pytest.fixture
def post(opened: tuple[System, str]) -> Post:
    system, url = opened
    _, secret = system.keys.create("alice", agent="bot", by="tests")

    def call(value: object, path: str = "/tools/invoke", once: str = "") -> tuple[int, dict[str, Any]]:
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        headers |= {"idempotency-key": once} if once else {}
        request = urllib.request.Request(url + path, json.dumps(value).encode(), headers)  # noqa: S310 - our own
        try:
            with urllib.request.urlopen(request) as reply:  # noqa: S310
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    return call


@pytest.fixture
def no_mail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy takes addresses out of what `read_file` is about, and the gateway inside has nothing against it."""

    async def allowed(_: PdpClient, call: ToolCall) -> Verdict:
        return Verdict(allowed=True)

    monkeypatch.setattr(PdpClient, "__call__", allowed)
    policy = '@id("no-mail") @reason("no addresses") @outcome("redact") @redact("pii.email,pii.card")\n'
    policy += 'forbid (principal, action == Action::"read_file", resource);\n'
    (folder / "policies" / "no_mail.cedar").write_text(policy)


def test_a_result_is_told_without_what_its_decision_takes_out_the_second_time_too(
    no_mail: None, post: Post, sandbox: Sandbox
) -> None:
    (sandbox.documents / "people.csv").write_text("jane@example.com, 4111 1111 1111 1111")
    first = post({"tool": "read_file", "args": {"path": "people.csv"}}, once="k1")
    said = json.dumps(first)
    assert (first[0], "<EMAIL_1>" in said, "<CARD_1>" in said) == (200, True, True)
    assert "jane@" not in said and "4111" not in said
    assert post({"tool": "read_file", "args": {"path": "people.csv"}}, once="k1") == first
    assert sandbox.runs["read_file"] == 1


def test_a_result_that_cannot_be_redacted_is_withheld_and_the_record_says_so(
    no_mail: None, post: Post, opened: tuple[System, str], sandbox: Sandbox
) -> None:
    deep = "x"
    for _ in range(12):
        deep = json.dumps([deep])
    (sandbox.documents / "deep.json").write_text(deep)
    first = post({"tool": "read_file", "args": {"path": "deep.json"}}, once="k1")
    assert first[0] == 403
    assert "withheld" in first[1]["error"]["message"]
    assert post({"tool": "read_file", "args": {"path": "deep.json"}}, once="k1") == first
    assert sandbox.runs["read_file"] == 1
    (end,) = opened[0].store.records(RecordQuery(kinds=("execution.finished",)))
    assert "result_withheld" in json.dumps(end.body)


def test_an_allowed_tool_runs_for_the_caller(post: Post, opened: tuple[System, str], sandbox: Sandbox) -> None:
    status, answer = post({"tool": "read_file", "args": {"path": "q3.csv"}})
    assert (status, answer["ok"]) == (200, True)
    assert sandbox.runs["read_file"] == 1
    found = list(opened[0].store.records(RecordQuery(kinds=("decision", "execution.started", "execution.finished"))))
    assert [one.kind for one in found] == ["decision", "execution.started", "decision", "execution.finished"]
    assert {one.body["actor"]["id"] for one in found} == {"alice"}
    assert len({one.trace_id for one in found}) == 1


def test_a_denied_tool_is_refused_in_the_gateways_words(post: Post, sandbox: Sandbox) -> None:
    status, answer = post({"tool": "transfer_funds", "args": {"to": "x", "amount": 5}})
    assert status == 403
    assert (answer["ok"], answer["error"]["type"], answer["error"]["requiresApproval"]) == (
        False,
        "tool_call_blocked",
        False,
    )
    assert "agents move no money" in answer["error"]["message"]
    assert sandbox.runs["transfer_funds"] == 0


def test_an_approved_tool_is_not_reviewed_again_inside(
    post: Post, opened: tuple[System, str], sandbox: Sandbox
) -> None:
    status, answer = post({"tool": "send_email", "args": MAIL})
    assert (status, answer["error"]["requiresApproval"]) == (403, True)
    opened[0].approvals.vote(answer["error"]["approval_id"], voter="bob", roles=("finance",), approve=True, auth="test")
    assert post({"tool": "send_email", "args": MAIL})[0] == 200
    assert sandbox.runs["send_email"] == 1
    assert post({"tool": "send_email", "args": MAIL})[0] == 403, "an approval is for one time"


def test_an_approval_is_for_one_agent_of_one_gateway(post: Post, opened: tuple[System, str], sandbox: Sandbox) -> None:
    _, answer = post({"tool": "send_email", "args": MAIL, "agentId": "main"})
    opened[0].approvals.vote(answer["error"]["approval_id"], voter="bob", roles=("finance",), approve=True, auth="test")
    assert post({"tool": "send_email", "args": MAIL, "agentId": "root"})[0] == 403
    assert sandbox.runs["send_email"] == 0
    assert post({"tool": "send_email", "args": MAIL})[0] == 200
    asked = opened[0].approvals.get(answer["error"]["approval_id"]).request()
    assert asked.resource.properties == {"gateway": "claw", "agent": "main"}


def test_a_tool_that_is_called_twice_under_one_key_runs_once_and_is_answered_the_same(
    post: Post, sandbox: Sandbox
) -> None:
    first = post({"tool": "read_file", "args": {"path": "q3.csv"}}, once="k1")
    assert first == post({"tool": "read_file", "args": {"path": "q3.csv"}}, once="k1")
    assert (first[0], sandbox.runs["read_file"]) == (200, 1)
    assert post({"tool": "read_file", "args": {"path": "q4.csv"}}, once="k1")[0] == 409
    assert sandbox.runs["read_file"] == 1


def test_what_never_reached_the_gateway_may_be_called_again_under_its_key(
    post: Post, opened: tuple[System, str], sandbox: Sandbox
) -> None:
    gateways = opened[0].gateways
    gateways._known("claw").heard_us = 0  # its plugin fell silent
    assert post({"tool": "read_file", "args": {"path": "q3.csv"}}, once="k1")[0] == 502
    gateways.beat("claw")
    assert post({"tool": "read_file", "args": {"path": "q3.csv"}}, once="k1")[0] == 200
    assert sandbox.runs["read_file"] == 1


def test_a_session_of_the_callers_choice_goes_no_further(post: Post, sandbox: Sandbox) -> None:
    mine = {"sessionKey": "agent:main:openai-user:somebody-else", "idempotencyKey": "x", "dryRun": False}
    assert post({"tool": "read_file", "args": {"path": "q3.csv"}, **mine})[0] == 200


@pytest.mark.parametrize(
    "value", [{}, {"tool": 5}, {"tool": "read_file", "args": []}, {"tool": "read_file", "agentId": "a:b"}, []]
)
def test_what_is_no_call_is_refused(post: Post, value: object) -> None:
    assert post(value)[0] == 400


def test_a_gateway_that_is_not_heard_gets_nothing(post: Post, opened: tuple[System, str], sandbox: Sandbox) -> None:
    system, _ = opened
    system.gateways._gateways["claw"].heard_us = 0
    status, answer = post({"tool": "read_file", "args": {"path": "q3.csv"}})
    assert (status, sandbox.runs["read_file"]) == (502, 0)
    assert "was not heard" in answer["title"]
    prompt = {"model": "openclaw", "messages": [{"role": "user", "content": "hello"}]}
    status, answer = post(prompt, "/v1/chat/completions")
    assert (status, answer["error"]["code"]) == (502, "upstream_unavailable")
    system.gateways.beat("claw")
    assert post(prompt, "/v1/chat/completions")[0] == 200
