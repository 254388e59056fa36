"""The embedded gateway.

The first part is a contract: it needs only an address and a token, so that it can be pointed at any gateway
with the same surface. The second part is about what only the embedded one does.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import openai
import pytest

from checkrein.demo.agent import ToolCall, Verdict
from checkrein.demo.gateway import MAX_BODY, create_app
from checkrein.demo.tools import Sandbox
from checkrein.model import ConfigError
from checkrein.web.server import BackgroundServer

TOKEN = "a-token-of-the-embedded-gateway"
RUN_ID = re.compile(r"chatcmpl_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Gateway(NamedTuple):
    """Where a gateway is, and how to get in."""

    url: str
    token: str


class Embedded:
    """The embedded gateway of one test: its sandbox, the calls it asked about, the verdict it gets."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        self.calls: list[ToolCall] = []
        self.verdict = Verdict(allowed=True)

    async def decide(self, call: ToolCall) -> Verdict:
        self.calls.append(call)
        return self.verdict


@pytest.fixture
def embedded(tmp_path: Path) -> Embedded:
    return Embedded(tmp_path / "sandbox")


@pytest.fixture
def gateway(embedded: Embedded) -> Iterator[Gateway]:
    with BackgroundServer(create_app(embedded.sandbox, TOKEN, embedded.decide)) as server:
        yield Gateway(server.url, TOKEN)


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"authorization": f"Bearer {gateway.token}"}
    async with aiohttp.ClientSession(gateway.url, headers=headers) as session:
        yield session


def asking(text: str, **more: object) -> dict[str, object]:
    return {"model": "openclaw", "messages": [{"role": "user", "content": text}], **more}


# The contract.


@pytest.mark.parametrize("path", ["/healthz", "/health"])
async def test_health_needs_no_token(gateway: Gateway, path: str) -> None:
    async with aiohttp.ClientSession() as anyone, anyone.get(gateway.url + path) as reply:
        assert reply.status == 200
        body = await reply.json()
        assert (body["ok"], body["status"]) == (True, "live")


@pytest.mark.parametrize("path", ["/readyz", "/ready"])
async def test_readiness_says_what_fails(gateway: Gateway, path: str) -> None:
    async with aiohttp.ClientSession() as anyone, anyone.get(gateway.url + path) as reply:
        assert reply.status == 200
        body = await reply.json()
        assert (body["ready"], body["failing"]) == (True, [])
        assert isinstance(body["uptimeMs"], int)


@pytest.mark.parametrize("token", ["", "wrong", "Basic x", f"bearer{TOKEN}"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/openclaw"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/tools/invoke"),
    ],
)
async def test_without_the_token_every_other_route_is_closed(
    gateway: Gateway, method: str, path: str, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}" if token == "wrong" else token}
    async with (
        aiohttp.ClientSession() as anyone,
        anyone.request(method, gateway.url + path, headers=headers) as reply,
    ):
        assert reply.status == 401
        assert (await reply.json())["error"] == {"message": "Unauthorized", "type": "unauthorized"}


async def test_the_models_are_the_agents(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models") as reply:
        listed = {model["id"]: model["object"] for model in (await reply.json())["data"]}
    assert {"openclaw", "openclaw/default"} <= listed.keys()
    assert set(listed.values()) == {"model"}
    async with http.get("/v1/models/openclaw/default") as reply:
        assert (await reply.json())["id"] == "openclaw/default"
    async with http.get("/v1/models/gpt-9") as reply:
        assert reply.status == 404


async def test_the_openai_client_gets_an_answer(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token, max_retries=0) as client:
        answer = await client.chat.completions.create(
            model="openclaw", messages=[{"role": "user", "content": "What is the weather today?"}]
        )
    assert RUN_ID.fullmatch(answer.id)
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


async def test_the_openai_client_gets_the_same_answer_as_a_stream(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token, max_retries=0) as client:
        whole = await client.chat.completions.create(
            model="openclaw", messages=[{"role": "user", "content": "What is the weather today?"}]
        )
        stream = await client.chat.completions.create(
            model="openclaw",
            messages=[{"role": "user", "content": "What is the weather today?"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert RUN_ID.fullmatch(chunks[0].id)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0


async def test_a_stream_ends_with_done_and_has_usage_only_when_asked_for(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/chat/completions", json=asking("What is the weather?", stream=True)) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = (await reply.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert not any(chunk.get("usage") for chunk in chunks)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"messages": [',
        b'{"messages": []}',
        b'{"messages": "hello"}',
        b'{"messages": [{"role": "system", "content": "no user"}]}',
        b'{"messages": [{"role": "user", "content": ""}]}',
        b'{"model": "openclaw/nobody", "messages": [{"role": "user", "content": "hello"}]}',
        b'{"model": "gpt-4", "messages": [{"role": "user", "content": "hello"}]}',
    ],
)
async def test_a_body_that_is_no_chat_is_an_invalid_request(http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post("/v1/chat/completions", data=body) as reply:
        assert reply.status == 400
        error = (await reply.json())["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]


async def test_a_tool_that_nobody_knows_is_not_found(http: aiohttp.ClientSession) -> None:
    async with http.post("/tools/invoke", json={"tool": "no_such_tool", "args": {}}) as reply:
        assert reply.status == 404
        body = await reply.json()
        assert (body["ok"], body["error"]["type"]) == (False, "not_found")


# What only the embedded gateway does.


async def test_every_answer_says_that_it_is_embedded(http: aiohttp.ClientSession, gateway: Gateway) -> None:
    async with aiohttp.ClientSession() as anyone:
        replies = [
            await http.get("/healthz"),
            await http.get("/readyz"),
            await http.get("/v1/models"),
            await http.get("/v1/models/openclaw"),
            await http.get("/v1/models/gpt-9"),
            await http.get("/nowhere"),
            await http.get("/tools/invoke"),
            await http.post("/v1/chat/completions", json=asking("hello")),
            await http.post("/v1/chat/completions", data=b"nonsense"),
            await http.post("/tools/invoke", json={"tool": "read_file", "args": {"path": "q3.csv"}}),
            await http.post("/tools/invoke", json={"tool": "read_file", "args": {}}),
            await anyone.get(gateway.url + "/v1/models"),
        ]
        for reply in replies:
            assert reply.headers["x-backend"] == "embedded"
            assert (await reply.json())["backend"] == "embedded"
    assert [reply.status for reply in replies] == [200, 200, 200, 200, 404, 404, 405, 200, 400, 200, 500, 401]


async def test_every_event_says_that_it_is_embedded(http: aiohttp.ClientSession) -> None:
    body = asking("hello", stream=True, stream_options={"include_usage": True})
    async with http.post("/v1/chat/completions", json=body) as reply:
        assert reply.headers["x-backend"] == "embedded"
        events = [event.removeprefix("data: ") for event in (await reply.text()).split("\n\n") if event]
    assert all(json.loads(event)["backend"] == "embedded" for event in events[:-1])


async def test_a_turn_asks_before_its_tool_for_the_user_it_was_given(
    http: aiohttp.ClientSession, embedded: Embedded
) -> None:
    traceparent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    body = asking("Transfer 900 to ACME", user="handle-1")
    async with http.post("/v1/chat/completions", json=body, headers={"traceparent": traceparent}) as reply:
        answer = await reply.json()
    (call,) = embedded.calls
    assert (call.name, call.args) == ("transfer_funds", {"to": "ACME", "amount": 900})
    assert call.run_id == answer["id"]
    assert (call.user, call.session_key) == ("handle-1", "agent:main:openai-user:handle-1")
    assert call.traceparent == traceparent
    assert embedded.sandbox.runs["transfer_funds"] == 1
    assert "Done: 900 sent to ACME" in answer["choices"][0]["message"]["content"]


async def test_without_a_user_the_session_is_a_new_one(http: aiohttp.ClientSession, embedded: Embedded) -> None:
    for _ in range(2):
        headers = {"traceparent": "00-" + "0" * 32 + "-" + "cd" * 8 + "-01"}
        async with http.post("/v1/chat/completions", json=asking("Transfer 9 to A"), headers=headers) as reply:
            assert reply.status == 200
    first, second = embedded.calls
    assert first.user == ""
    assert first.session_key.startswith("agent:main:openai:")
    assert first.session_key != second.session_key
    assert first.traceparent != second.traceparent
    assert not first.traceparent.startswith("00-" + "0" * 32)


async def test_a_blocked_tool_shows_only_in_the_answers_text(http: aiohttp.ClientSession, embedded: Embedded) -> None:
    embedded.verdict = Verdict(allowed=False, message="agents move no money")
    async with http.post("/v1/chat/completions", json=asking("Transfer 900 to ACME")) as reply:
        assert reply.status == 200
        message = (await reply.json())["choices"][0]["message"]
    assert "governance: agents move no money" in message["content"]
    assert "tool_calls" not in message
    assert set(embedded.sandbox.runs.values()) == {0}


async def test_invoke_runs_an_allowed_tool(http: aiohttp.ClientSession, embedded: Embedded) -> None:
    body = {
        "tool": "transfer_funds",
        "args": {"to": "ACME", "amount": 5},
        "sessionKey": "agent:main:openai-user:handle-1",
    }
    async with http.post("/tools/invoke", json=body) as reply:
        assert reply.status == 200
        answer = await reply.json()
    assert answer["ok"] is True
    assert answer["result"]["receipt_id"] == "transfer-1"
    (call,) = embedded.calls
    assert (call.user, call.session_key) == ("handle-1", "agent:main:openai-user:handle-1")


@pytest.mark.parametrize("requires_approval", [True, False])
async def test_invoke_says_that_a_tool_was_blocked(
    http: aiohttp.ClientSession, embedded: Embedded, requires_approval: bool
) -> None:
    embedded.verdict = Verdict(allowed=False, message="ask finance", requires_approval=requires_approval)
    async with http.post("/tools/invoke", json={"tool": "transfer_funds", "args": {}}) as reply:
        assert reply.status == 403
        body = await reply.json()
    assert body["ok"] is False
    assert body["error"] == {
        "type": "tool_call_blocked",
        "message": "governance: ask finance",
        "requiresApproval": requires_approval,
    }
    assert set(embedded.sandbox.runs.values()) == {0}
    assert embedded.calls[0].user == ""
    assert embedded.calls[0].session_key == "agent:main:main"


async def test_invoke_says_that_a_tool_failed(http: aiohttp.ClientSession) -> None:
    async with http.post("/tools/invoke", json={"tool": "transfer_funds", "args": {"to": "A"}}) as reply:
        assert reply.status == 500
        error = (await reply.json())["error"]
    assert error["type"] == "tool_error"
    assert "`amount`" in error["message"]


@pytest.mark.parametrize("body", [{}, {"tool": 7}, {"tool": "shell", "args": []}])
async def test_an_invocation_that_is_none_is_an_invalid_request(
    http: aiohttp.ClientSession, body: dict[str, object]
) -> None:
    async with http.post("/tools/invoke", json=body) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"role": "root", "content": "hello"}]}',
        b'{"messages": [{"role": ["user"], "content": "hello"}]}',
        b'{"messages": [{"role": "user", "content": "hello"}], "stream": "yes"}',
        b'{"messages": [{"role": "user", "content": "hello"}], "user": 7}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [], "messages": [{"role": "user", "content": "hello"}]}',
    ],
)
async def test_what_two_readers_could_read_differently_is_refused(http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post("/v1/chat/completions", data=body) as reply:
        assert reply.status == 400


async def test_a_body_beyond_the_limit_is_refused(http: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 65536 + 1):
            yield b" " * 65536

    async with http.post("/v1/chat/completions", data=pieces()) as reply:
        assert reply.status == 413
        assert "too large" in (await reply.json())["error"]["message"]


async def test_a_sandbox_that_vanished_makes_it_unready(http: aiohttp.ClientSession, embedded: Embedded) -> None:
    embedded.sandbox.root.rename(embedded.sandbox.root.with_name("gone"))
    async with http.get("/readyz") as reply:
        assert reply.status == 503
        assert (await reply.json())["failing"] == ["sandbox"]


async def test_a_turn_that_fails_inside_says_so_without_details(
    http: aiohttp.ClientSession, embedded: Embedded
) -> None:
    embedded.sandbox.root.rename(embedded.sandbox.root.with_name("gone"))
    async with http.post("/v1/chat/completions", json=asking("hello")) as reply:
        assert reply.status == 500
        assert (await reply.json())["error"] == {"message": "internal error", "type": "api_error"}
    async with http.post("/v1/chat/completions", json=asking("hello", stream=True)) as reply:
        events = (await reply.text()).split("\n\n")
    assert json.loads(events[1].removeprefix("data: "))["error"]["type"] == "api_error"
    assert events[2] == "data: [DONE]"


@pytest.mark.parametrize("send", ["chat", "stream", "invoke"])
async def test_a_client_that_leaves_cancels_the_turn(tmp_path: Path, send: str) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()
    wake: Callable[[Callable[[], None]], object] = asyncio.get_running_loop().call_soon_threadsafe

    async def hang(call: ToolCall) -> Verdict:
        wake(asked.set)
        try:
            await asyncio.Event().wait()
        finally:
            wake(cancelled.set)
        raise AssertionError("unreachable")

    path = "/tools/invoke" if send == "invoke" else "/v1/chat/completions"
    body: dict[str, object] = (
        {"tool": "transfer_funds", "args": {"to": "ACME", "amount": 900}}
        if send == "invoke"
        else asking("Transfer 900 to ACME", stream=send == "stream")
    )
    sandbox = Sandbox(tmp_path)
    server = BackgroundServer(create_app(sandbox, TOKEN, hang))
    with server:
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(server.url, headers=headers) as session:
            visit = asyncio.create_task(session.post(path, json=body))
            await asyncio.wait_for(asked.wait(), 10)
            if send == "stream":  # its headers are here already, its answer is not
                (await visit).close()
            else:
                visit.cancel()
            await asyncio.wait_for(cancelled.wait(), 10)
    assert set(sandbox.runs.values()) == {0}


def test_a_gateway_without_a_token_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a token"):
        create_app(tmp_path, "", Embedded(tmp_path).decide)
