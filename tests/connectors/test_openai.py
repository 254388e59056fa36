"""Chat completions become requests, upstream bodies and errors, in OpenAI's own words."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from checkrein.connectors.openai import Prompt, read_chat, refusal, route, upstream_body
from checkrein.model import (
    Action,
    Advice,
    ApiKey,
    ApprovalRequired,
    BadRequest,
    CheckreinError,
    Decision,
    Denied,
    NotFound,
    Outcome,
    Request,
    Resource,
    StoreUnavailable,
    Subject,
    Unauthorized,
    UpstreamUnavailable,
)
from checkrein.web.body import TooLarge

KEY = ApiKey(id="key_1", name="bot", owner="alice", roles=("staff",), agent="bot", digest="", created_us=0)
HELLO = [{"role": "user", "content": "hello"}]


def chat(**members: Any) -> Prompt:
    return read_chat(json.dumps({"model": "m", "messages": HELLO} | members).encode(), KEY)


def sent(given: Prompt, clean: Request | None = None, **options: Any) -> dict[str, Any]:
    body = upstream_body(given, clean or given.request, **({"redacted": False} | options))
    return dict(json.loads(body))


# --- in -------------------------------------------------------------------------------------------------------


def test_a_prompt_is_asked_for_by_the_keys_owner_whatever_the_caller_claims():
    request = chat(user="mallory", temperature=0.5).request
    assert request == Request(
        Subject("user", "alice", {"roles": ["staff"]}),
        Action("prompt", {"input": {"model": "m", "messages": HELLO, "temperature": 0.5}}),
        Resource("model", "m"),
        {"agent": {"id": "bot"}},
    )


def test_a_key_without_an_agent_names_none():
    key = ApiKey(id="key_1", name="alice", owner="alice", digest="", created_us=0)
    assert read_chat(b'{"model":"m","messages":[{"role":"user"}]}', key).request.context == {}


def test_what_only_steers_the_transport_makes_no_other_action():
    plain = chat().request.action_hash("sha256:1")
    steered = chat(stream=True, stream_options={"include_usage": True}, user="x")
    assert steered.request.action_hash("sha256:1") == plain
    assert chat(n=2).request.action_hash("sha256:1") != plain
    assert (steered.stream, chat().stream, chat(stream=None).stream, steered.model) == (True, False, False, "m")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"model": ""}, "`model`"),
        ({"model": "m" * 257}, "`model`"),
        ({"model": 5}, "`model`"),
        ({"messages": None}, "`messages`"),
        ({"messages": {}}, "`messages`"),
        ({"messages": []}, "`messages`"),
        ({"messages": [HELLO[0], "hello"]}, r"`messages\[1\]`"),
        ({"messages": [{"content": "hello"}]}, "`role`"),
        ({"messages": [{"role": 5}]}, "`role`"),
        ({"messages": [{"role": "user", "content": {"text": "transfer funds"}}]}, "content"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        ({"messages": [{"role": "user", "content": ["transfer funds"]}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"text": "transfer funds"}]}]}, "content"),
        ({"stream": "yes"}, "`stream`"),
        ({"stream": 1}, "`stream`"),
        ({"stream_options": "all"}, "`stream_options`"),
        ({"stream_options": [True]}, "`stream_options`"),
        ({"stream_options": {"note": "transfer funds"}}, "`stream_options`"),
        ({"stream_options": {"Transfer funds to 4711": True}}, "`stream_options`"),
    ],
)
def test_what_is_not_a_chat_completion_is_refused_with_the_member_and_a_hint(members: dict[str, Any], says: str):
    with pytest.raises(BadRequest, match=says) as refused:
        chat(**members)
    assert refused.value.hint


@pytest.mark.parametrize(
    "content",
    ["hello", None, [], [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "u"}}]],
)
def test_every_form_of_content_is_read(content: Any):
    assert (
        chat(messages=[{"role": "user", "content": content}]).request.action.input["messages"][0]["content"] == content
    )


def test_a_message_without_content_is_read():
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    assert chat(messages=[*HELLO, {"role": "assistant", "tool_calls": calls}])


# --- out ------------------------------------------------------------------------------------------------------


def test_what_is_not_touched_goes_up_byte_for_byte():
    body = b'{ "model":"m", "temperature": 0.70, "stream": true, "messages":[{"role":"user","content":"hi"}] }'
    given = read_chat(body, KEY)
    assert upstream_body(given, given.request, redacted=False) is body


def test_a_redacted_prompt_goes_up_without_what_was_redacted():
    given = chat(stream=True, user="jane.doe@example.com")
    clean = msgspec.structs.replace(given.request, action=Action("prompt", {"input": {"model": "m"}}))
    assert sent(given, clean, redacted=True) == {"model": "m", "stream": True}


def test_the_user_that_a_caller_claims_goes_nowhere():
    assert "user" not in sent(chat(user="jane.doe@example.com"))


def test_a_turns_handle_stands_in_the_place_of_the_user():
    up = sent(chat(user="mallory", stream=True), handle="turn_1")
    assert up == {"model": "m", "messages": HELLO, "stream": True, "user": "turn_1"}


# --- which upstream -------------------------------------------------------------------------------------------


def test_the_first_upstream_whose_pattern_fits_serves_a_model():
    upstreams = {"a": ("gpt-4*", "o1"), "b": ("gpt-*",), "c": ("*",)}
    assert [route(model, upstreams) for model in ("gpt-4o", "o1", "gpt-5", "O1", "x")] == ["a", "a", "b", "c", "c"]


@pytest.mark.parametrize("model", ["gpt*", "[g]pt", "?pt"])
def test_a_model_is_a_name_and_never_a_pattern(model: str):
    with pytest.raises(NotFound, match="no upstream serves"):
        route(model, {"a": ("gpt",)})


def test_a_model_that_nobody_serves_is_said_with_those_that_are():
    with pytest.raises(NotFound) as missing:
        route("x", {"a": ("gpt-*",), "b": ("o1",)})
    assert missing.value.hint == "configured models: gpt-*, o1"
    with pytest.raises(NotFound) as missing:
        route("x", {})
    assert "[upstreams.NAME]" in missing.value.hint


# --- errors ---------------------------------------------------------------------------------------------------

DENIED = Decision(
    outcome=Outcome.DENY, reasons=("no",), advice=(Advice("safe_alternative", "draft it"),), trace_id="t1"
)
WAITING = Decision(outcome=Outcome.REQUIRE_REVIEW, approval_id="apr_1", trace_id="t2")


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (BadRequest("x"), 400, "invalid_request_error", "invalid_request"),
        (TooLarge("x"), 400, "invalid_request_error", "invalid_request"),
        (Unauthorized("x"), 401, "authentication_error", "invalid_api_key"),
        (Unauthorized("x", forbidden=True), 403, "permission_error", "forbidden"),
        (NotFound("x"), 404, "invalid_request_error", "model_not_found"),
        (Denied("x", decision=DENIED), 403, "policy_denied", "denied"),
        (ApprovalRequired("x", decision=WAITING, approval_id="apr_1"), 403, "approval_required", "approval_required"),
        (UpstreamUnavailable("x"), 502, "upstream_error", "upstream_unavailable"),
        (StoreUnavailable("x"), 503, "service_unavailable", "record_unavailable"),
        (CheckreinError("x"), 500, "api_error", "internal_error"),
    ],
)
def test_every_error_has_its_status_and_its_words(error: CheckreinError, status: int, kind: str, code: str):
    refused = refusal(error, retry_after_s=5)
    assert refused.status == status
    assert {"message": "x", "type": kind, "param": None, "code": code}.items() <= refused.body["error"].items()  # type: ignore[attr-defined]


def test_a_denial_carries_its_decision_and_a_hint():
    refused = refusal(Denied("no", decision=DENIED, hint="draft it"), retry_after_s=5, trace_id="other")
    error: Any = refused.body["error"]
    assert error["message"] == "no (draft it)"
    assert error["checkrein"]["outcome"] == "deny"
    assert refused.headers == {"x-checkrein-trace-id": "t1"}


def test_a_review_carries_the_approval_and_when_to_come_back():
    refused = refusal(ApprovalRequired("wait", decision=WAITING, approval_id="apr_1"), retry_after_s=7)
    error: Any = refused.body["error"]
    assert (error["approval_id"], error["checkrein"]["access_request"]["id"]) == ("apr_1", "apr_1")
    assert refused.headers == {"retry-after": "7", "x-checkrein-trace-id": "t2"}


def test_an_error_before_a_decision_carries_the_trace_it_belongs_to():
    assert refusal(UpstreamUnavailable("x"), retry_after_s=5, trace_id="t3").headers == {"x-checkrein-trace-id": "t3"}
    assert refusal(StoreUnavailable("x"), retry_after_s=5).headers == {"retry-after": "1"}
