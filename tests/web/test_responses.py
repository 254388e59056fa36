"""`/v1/responses`, `/v1/embeddings` and `/v1/models` with the official client and a fake model behind them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.ports import RecordQuery
from checkrein.web.server import BackgroundServer
from fakes import FakeModel, called, response, response_events, said

READ = called("read_file", {"path": "a.txt"})
PAY = called("transfer_funds", {"to": "ACME", "amount": 9}, 1)
MAIL = called("send_email", {"to": "all", "subject": "s", "body": "b"}, 2)


@pytest.fixture
async def client(server: str, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=key, max_retries=0) as opened:
        yield opened


def answer(model: FakeModel, *items: dict[str, Any], stream: bool) -> None:
    model.answer, model.stream = response(*items), response_events(*items) if stream else []


async def ask(client: openai.AsyncOpenAI, *, stream: bool, input: Any = "hi") -> Any:
    """The response that the official client makes of the answer."""
    if not stream:
        return await client.responses.create(model="m", input=input)
    async with client.responses.stream(model="m", input=input) as events:
        heard = "".join([event.delta async for event in events if event.type == "response.output_text.delta"])
        final = await events.get_final_response()
    assert heard == final.output_text
    return final


def decided(system: System) -> list[tuple[str, str]]:
    return [
        (record.body["action"]["name"], record.body["decision"]["outcome"])
        for record in system.store.records(RecordQuery(kinds=("decision",)))
    ]


def calls(answered: Any) -> list[str]:
    return [item.name for item in answered.output if item.type == "function_call"]


both = pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])


@both
async def test_words_pass(system: System, client: openai.AsyncOpenAI, model: FakeModel, stream: bool):
    answer(model, said("hello there"), stream=stream)
    assert (await ask(client, stream=stream)).output_text == "hello there"
    assert model.paths == ["/v1/responses"]
    assert decided(system) == [("prompt", "allow")]


@both
async def test_a_call_is_decided_before_it_is_seen(
    system: System, client: openai.AsyncOpenAI, model: FakeModel, stream: bool
):
    answer(model, said("well. "), READ, PAY, stream=stream)
    answered = await ask(client, stream=stream)
    assert calls(answered) == ["read_file"]
    assert json.loads(answered.output[1].arguments) == {"path": "a.txt"}
    assert "agents move no money" in answered.output_text
    assert "draft the transfer" in answered.output_text
    assert decided(system) == [("prompt", "allow"), ("read_file", "allow"), ("transfer_funds", "deny")]
    assert "ACME" not in answered.model_dump_json()


@both
async def test_a_reviewed_call_passes_once_when_it_is_approved(
    system: System, client: openai.AsyncOpenAI, model: FakeModel, stream: bool
):
    answer(model, MAIL, stream=stream)
    answered = await ask(client, stream=stream)
    (waiting,) = system.approvals.all()
    assert calls(answered) == []
    assert waiting.id in answered.output_text
    system.approvals.vote(waiting.id, voter="bob", roles=("finance",), approve=True, auth="local")
    assert calls(await ask(client, stream=stream)) == ["send_email"]
    assert calls(await ask(client, stream=stream)) == []


@both
async def test_words_are_redacted_wherever_they_are_told(client: openai.AsyncOpenAI, model: FakeModel, stream: bool):
    answer(model, said("write to jane@example.com or bob@example.com today"), stream=stream)
    answered = await ask(client, stream=stream, input="not bob@example.com")
    assert answered.output_text == "write to <EMAIL_2> or <EMAIL_1> today"
    assert "example.com" not in answered.model_dump_json()


async def test_results_of_tools_are_untrusted_here_too(system: System, client: openai.AsyncOpenAI, model: FakeModel):
    seen: list[str] = []

    def note(request: Any, context: Any) -> None:
        seen.extend(context.get("provenance", {}).get("to", "").split())

    system.pdp.register(note)
    output = {"type": "function_call_output", "call_id": "call_0", "output": '{"path":"Vera","content":"to Eve"}'}
    for to in ("Bob", "Vera", "Eve"):
        answer(model, called("send_email", {"to": to, "subject": "s", "body": "b"}), stream=False)
        await ask(client, stream=False, input=[{"role": "user", "content": "tell Bob"}, READ, output])
    assert seen == ["prompt", "directory", "untrusted"]


async def test_instructions_and_tools_are_not_what_the_user_asks_for(
    system: System, client: openai.AsyncOpenAI, model: FakeModel
):
    answer(model, said("hi"), stream=False)
    tool: Any = {"type": "function", "name": "x", "description": "transfer funds", "parameters": {}}
    await client.responses.create(model="m", input="hi", instructions="Never transfer funds.", tools=[tool])
    with pytest.raises(openai.PermissionDeniedError):
        await client.responses.create(model="m", input="please transfer funds")


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_9"},
        {"conversation": "conv_9"},
        {"background": True},
        {"prompt": {"id": "pmpt_9"}},
        {"input": [{"type": "item_reference", "id": "msg_9"}]},
        {"input": []},
        {"messages": [{"role": "user", "content": "hi"}]},
    ],
)
async def test_what_the_upstream_keeps_cannot_be_spoken_of(
    client: openai.AsyncOpenAI, model: FakeModel, more: dict[str, Any]
):
    body: dict[str, Any] = {"model": "m", "input": "hi", **more}
    with pytest.raises(openai.BadRequestError):
        await client.post("/responses", body=body, cast_to=object)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/responses", {"input": "hi", "tools": [{"type": "web_search"}]}),
        ("/responses", {"input": "hi", "tools": [{"type": "mcp", "server_url": "http://evil.example"}]}),
        ("/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "web_search_options": {}}),
    ],
)
async def test_a_tool_that_the_upstream_would_run_is_decided_before(
    system: System, client: openai.AsyncOpenAI, model: FakeModel, path: str, more: dict[str, Any]
):
    with pytest.raises(openai.PermissionDeniedError, match="unknown tool"):
        await client.post(path, body={"model": "m", **more}, cast_to=object)
    assert model.calls == 0
    assert decided(system)[1][1] == "deny"


# --- embeddings ------------------------------------------------------------------------------------------------


async def test_what_people_approved_to_be_embedded_is_not_asked_of_a_model(
    system: System, server: str, key: str, model: FakeModel
):
    body = {"model": "m", "input": "send an email to all"}
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as http:
        async with http.post("/v1/embeddings", json=body) as reply:
            id = (await reply.json())["error"]["approval_id"]
        system.approvals.vote(id, voter="bob", roles=("finance",), approve=True, auth="test")
        async with http.post("/v1/responses", json=body) as reply:
            assert (await reply.json())["error"]["approval_id"] != id
        assert model.calls == 0
        async with http.post("/v1/embeddings", json=body) as reply:
            assert reply.status == 200
    assert model.paths == ["/v1/embeddings"]


async def test_embeddings_are_governed_as_prompts(client: openai.AsyncOpenAI, model: FakeModel):
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
    about = {"object": "list", "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    model.answer = json.dumps({**about, "data": [vector]}).encode()
    given = await client.embeddings.create(model="m", input=["one", "mail jane@example.com"], encoding_format="float")
    assert given.data[0].embedding == [0.5, 0.25]
    assert model.paths == ["/v1/embeddings"]
    assert model.bodies[0]["input"] == ["one", "mail <EMAIL_1>"]
    with pytest.raises(openai.PermissionDeniedError):
        await client.embeddings.create(model="m", input="transfer funds")
    with pytest.raises(openai.BadRequestError, match="tokens"):
        await client.embeddings.create(model="m", input=[1, 2, 3])
    assert model.calls == 1


# --- models ----------------------------------------------------------------------------------------------------


@pytest.fixture
def system(folder: Path, model_url: str, request: pytest.FixtureRequest) -> Iterator[System]:
    upstreams = getattr(request, "param", {"fake": {}})
    given = {name: UpstreamConfig(base_url=f"{model_url}/v1", **more) for name, more in upstreams.items()}
    opened = open_system(folder, upstreams=given)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "system",
    [{"named": {"models": ("gpt-own", "fast"), "aliases": {"fast": "x"}}, "wild": {"models": ("gpt-*",)}}],
    indirect=True,
)
async def test_models_are_those_that_are_named_and_what_upstreams_list_for_their_patterns(
    client: openai.AsyncOpenAI, model: FakeModel
):
    listed = [{"id": id, "object": "model", "created": 7, "owned_by": "x", "key": "s"} for id in ("gpt-1", "o1")]
    listed += [{"id": "gpt-own"}, {"id": 3}]
    model.models = json.dumps({"data": listed}).encode()
    found = [one async for one in client.models.list()]
    assert [one.id for one in found] == ["fast", "gpt-1", "gpt-own"]
    assert found[1].model_dump(exclude_unset=True) == {"id": "gpt-1", "object": "model", "created": 7, "owned_by": "x"}
    assert (await client.models.retrieve("gpt-1")).id == "gpt-1"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("o1")
    assert model.lists == 1


@pytest.mark.parametrize("said", [b"{", b"[]", b'{"data":1}'])
async def test_an_upstream_without_a_list_is_left_out(client: openai.AsyncOpenAI, model: FakeModel, said: bytes):
    model.models = said
    assert [one async for one in client.models.list()] == []


async def test_an_upstream_that_cannot_be_asked_is_left_out(folder: Path):
    gone = UpstreamConfig(base_url="http://127.0.0.1:9/v1")
    system = open_system(folder, upstreams={"gone": gone})
    _, secret = system.keys.create("alice", by="tests")
    try:
        with BackgroundServer(system.app()) as server:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=secret) as client:
                assert [one async for one in client.models.list()] == []
    finally:
        system.close()
