"""`/tools/invoke` before an agent gateway, which asks again inside: here the embedded one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
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
from checkrein.model import Permission, Request
from checkrein.ports import RecordQuery
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

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
        headers = {"authorization": f"Bearer {secret}"}
        headers |= {"idempotency-key": once} if once else {}
        status, told = sent(url + path, value, headers)
        return status, json.loads(told)

    return call


def sent(url: str, value: object, headers: dict[str, str]) -> tuple[int, bytes]:
    given = {"content-type": "application/json", **headers}
    request = urllib.request.Request(url, json.dumps(value).encode(), given)  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


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
    assert (end.body["status"], end.body["error"]) == ("failed", "Withheld")
    assert "opaque" in json.dumps(end.body["detail"])


JUDGING = """
@id("no-addresses") @reason("no addresses") @outcome("redact") @redact("pii.email")
forbid (principal, action == Action::"read_file", resource) when { context.labels.contains("pii.email") };

@id("no-cards") @reason("cards are told to nobody") @alternative("ask for totals")
forbid (principal, action == Action::"read_file", resource)
when { context.answer && context.labels.contains("pii.card") };

@id("keys-are-reviewed") @reason("people look at keys") @outcome("require_review") @approvers("1 of finance")
forbid (principal, action == Action::"read_file", resource) when { context.labels.contains("secret") };
"""


@pytest.fixture
def read(post: Post, sandbox: Sandbox) -> Callable[[str], tuple[int, dict[str, Any]]]:
    """Have the tool read a file that says this."""

    def call(text: str) -> tuple[int, dict[str, Any]]:
        (sandbox.documents / "file.txt").write_text(text)
        return post({"tool": "read_file", "args": {"path": "file.txt"}})

    return call


@pytest.fixture
def judging(folder: Path) -> None:
    """Policy looks at labels, which a result may have and its call has not."""
    (folder / "policies" / "judging.cedar").write_text(JUDGING)


def test_policy_is_asked_about_a_result_and_what_it_says_is_recorded(
    judging: None, opened: tuple[System, str], read: Callable[[str], tuple[int, dict[str, Any]]]
) -> None:
    status, told = read("jane@example.com, jane@example.com and bob@example.com")
    assert (status, "<EMAIL_1>, <EMAIL_1> and <EMAIL_2>" in json.dumps(told)) == (200, True)
    ((made, ended),) = judged(opened[0])
    assert (made["decision"]["outcome"], made["decision"]["policies"]) == ("allow_with_redaction", ["no-addresses"])
    assert made["decision"]["labels"] == ["effect:read", "pii", "pii.email", "tool:read_file"]
    assert made["redactions"] == {"pii.email": 3}
    assert (ended["status"], ended["detail"]["answer"]) == ("ok", "allow_with_redaction")
    assert ended["detail"]["found"] == {"pii.email": 3}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4111 1111 1111 1111 jane@example.com", "cards are told to nobody (ask for totals)"),
        ("AKIAIOSFODNN7EXAMPLE", "people look at keys; an answer cannot wait for people"),
        ("AKIAIOSFODNN7EXAMPLE".encode("utf-16-le").decode(), "an answer cannot wait for people"),
    ],
)
def test_what_policy_denies_or_wants_people_to_see_is_withheld_in_words_that_the_agent_can_read(
    judging: None,
    opened: tuple[System, str],
    read: Callable[[str], tuple[int, dict[str, Any]]],
    text: str,
    reason: str,
    sandbox: Sandbox,
) -> None:
    status, told = read(text)
    assert (status, told["ok"], told["error"]["type"]) == (403, False, "tool_call_blocked")
    assert told["error"]["requiresApproval"] is False
    assert "the tool ran, but its result was withheld" in told["error"]["message"]
    assert reason in told["error"]["message"]
    assert sandbox.runs["read_file"] == 1
    ((made, ended),) = judged(opened[0])
    assert (made["decision"]["outcome"], made["redactions"]) == ("deny", {})
    assert (ended["status"], ended["error"], ended["detail"]["answer"]) == ("failed", "Withheld", "deny")
    assert not list(opened[0].store.records(RecordQuery(kinds=("approval.requested",))))


def test_a_result_in_which_policy_minds_nothing_comes_as_it_is_and_has_no_record_of_its_own(
    judging: None, opened: tuple[System, str], read: Callable[[str], tuple[int, dict[str, Any]]]
) -> None:
    status, told = read("phone +1 415 555 2671")
    assert (status, "+1 415 555 2671" in json.dumps(told)) == (200, True)
    (end,) = opened[0].store.records(RecordQuery(kinds=("execution.finished",)))
    assert end.body["detail"]["answer"] == "allow"  # type: ignore[index, call-overload]
    assert end.body["detail"]["found"] == {"pii.phone": 1}  # type: ignore[index, call-overload]
    assert judged(opened[0]) == []


def test_members_that_the_manifest_calls_personal_are_found_in_results(
    folder: Path, request: pytest.FixtureRequest
) -> None:
    tools = folder / "tools.yaml"
    tools.write_text(
        tools.read_text().replace("    output: {path", "    personal: {content: address}\n    output: {path")
    )
    names = '@id("no-places") @reason("no places") @outcome("redact") @redact("pii.address")\n'
    names += 'forbid (principal, action, resource) when { context.labels.contains("pii.address") };'
    (folder / "policies" / "names.cedar").write_text(names)
    status, told = request.getfixturevalue("read")("Elm Street 5")
    assert (status, "Elm Street" in json.dumps(told), "<ADDRESS_1>" in json.dumps(told)) == (200, False, True)


def test_what_people_approved_for_a_call_holds_for_its_result(
    folder: Path, request: pytest.FixtureRequest, sandbox: Sandbox
) -> None:
    (folder / "policies" / "grant.cedar").write_text(JUDGING.replace('when { context.labels.contains("secret") }', ""))
    post, (system, _) = request.getfixturevalue("post"), request.getfixturevalue("opened")
    asked = {"tool": "read_file", "args": {"path": "q3.csv"}}
    _, told = post(asked)
    system.approvals.vote(told["error"]["approval_id"], voter="bob", roles=("finance",), approve=True, auth="test")
    assert post(asked)[0] == 200


def test_a_policy_that_errs_about_a_result_withholds_it(
    judging: None, opened: tuple[System, str], read: Callable[[str], tuple[int, dict[str, Any]]]
) -> None:
    def erring(asked: Request, context: Mapping[str, object]) -> None:
        if asked.comes_back:
            raise ValueError

    opened[0].pdp.register(erring)
    assert read("nothing much")[0] == 403
    ((made, _),) = judged(opened[0])
    assert made["decision"]["errors"] == [{"policy": "python:erring", "message": "raised ValueError"}]


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        (b'{"ok": false, "error": "no jane@example.com"}', 500, b'{"error":"no <EMAIL_1>","ok":false}'),
        (b"jane@example.com is away", 200, b"<EMAIL_1> is away"),
        (b"[jane@example.com] is away", 200, b"[<EMAIL_1>] is away"),
        (b'{"a": 1, "a": 2}', 403, b""),
        (b'{"date_of_birth": "3 May 1980", "share": NaN}', 403, b""),
        (b'\xef\xbb\xbf{"date_of_birth": "3 May 1980"}', 403, b""),
        (b'{"a": 1}\n{"date_of_birth": "3 May 1980"}', 403, b""),
        (b"[" * 100_000, 403, b""),
        (b'"jane@example.com"', 200, b'"<EMAIL_1>"'),
        (b'{"n":  1}', 200, b'{"n":  1}'),
        (b"", 200, b""),
        (b"caf\xe9", 403, b""),
        ('{"a": "jane@example.com"}'.encode("utf-16"), 403, b""),
    ],
)
def test_whatever_a_tool_answers_is_decided(judging: None, folder: Path, said: bytes, status: int, told: bytes) -> None:
    with ExitStack() as stack:
        tool = FakeModel()
        tool.answer, tool.status = said, status if status == 500 else 200
        claw = stack.enter_context(BackgroundServer(tool))
        given = UpstreamConfig(base_url=f"{claw.url}/v1", kind="openclaw", api_key_env="CLAW", heartbeat_timeout=0)
        opened = open_system(folder, upstreams={"claw": given}, variables={"CLAW": "token-of-the-gateway"})
        system = stack.enter_context(closing(opened))
        url = stack.enter_context(BackgroundServer(system.app())).url
        _, secret = system.keys.create("alice", by="tests")
        body = {"tool": "read_file", "args": {"path": "q3.csv"}}
        found, answer = sent(f"{url}/tools/invoke", body, {"authorization": f"Bearer {secret}"})
    assert (found, answer if status != 403 else b"") == (status, told)
    assert b"jane" not in answer


def judged(system: System) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The decisions about results, each with the end of its call."""
    made = [dict(one.body) for one in system.store.records(RecordQuery(kinds=("decision",)))]
    made = [body for body in made if "direction" in body["action"]]  # type: ignore[operator]
    ends = [dict(one.body) for one in system.store.records(RecordQuery(kinds=("execution.finished",)))]
    return list(zip(made, ends, strict=True)) if made else []


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
