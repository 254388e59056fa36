"""`Idempotency-Key` as callers see it, with a real server on both sides and a model that counts."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from checkrein import Client
from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.ports import RecordQuery
from checkrein.web import proxy
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

CHAT, ONE, MANY = "/v1/chat/completions", "/access/v1/evaluation", "/access/v1/evaluations"
READ = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "read_file", "properties": {"input": {"path": "a"}}},
    "resource": {"type": "tool", "id": "read_file"},
}
PAY = {**READ, "action": {"name": "transfer_funds", "properties": {"input": {"to": "ACME", "amount": 5}}}}
Given = tuple[int, bytes, dict[str, str]]
#: headers that are the answer's own
ABOUT = ("content-type", "x-checkrein-trace-id", "x-checkrein-outcome", "x-checkrein-risk")


def body(text: str, **more: object) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def http(server: str, key: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as session:
        yield session


async def post(http: aiohttp.ClientSession, asked: object, key: str = "k-1", path: str = CHAT) -> Given:
    async with http.post(path, json=asked, headers={"idempotency-key": key}) as reply:
        return reply.status, await reply.read(), {name.lower(): value for name, value in reply.headers.items()}


def same(first: Given, second: Given) -> bool:
    about = [{name: given[2].get(name) for name in ABOUT} for given in (first, second)]
    return first[:2] == second[:2] and about[0] == about[1]


async def test_the_same_key_and_body_are_answered_the_same_and_run_once(http: aiohttp.ClientSession, model: FakeModel):
    first = await post(http, body("hi"))
    model.answer = b'{"other": 1}'
    second = await post(http, body("hi"))
    assert first[0] == 200
    assert same(first, second)
    assert "idempotent-replayed" not in first[2]
    assert second[2]["idempotent-replayed"] == "true"
    assert model.calls == 1
    assert "idempotency-key" not in model.headers[0]


async def test_a_key_may_stand_in_quotes(http: aiohttp.ClientSession, model: FakeModel):
    assert same(await post(http, body("hi"), '"k-1"'), await post(http, body("hi"), "k-1"))
    assert model.calls == 1


async def test_another_key_and_no_key_run_again(http: aiohttp.ClientSession, model: FakeModel):
    await post(http, body("hi"))
    await post(http, body("hi"), "k-2")
    async with http.post(CHAT, json=body("hi")):
        pass
    assert model.calls == 3


async def test_another_body_is_409_in_openais_words(http: aiohttp.ClientSession, model: FakeModel):
    await post(http, body("hi"))
    status, text, headers = await post(http, body("ho"))
    error = json.loads(text)["error"]
    assert (status, error["type"], error["code"]) == (409, "idempotency_error", "idempotency_key_reused")
    assert headers["x-should-retry"] == "false"
    assert model.calls == 1


async def test_another_callers_key_is_another_key(system: System, server: str, key: str, model: FakeModel):
    _, other = system.keys.create("bob", by="tests")
    for secret in (key, other):
        async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {secret}"}) as http:
            assert "idempotent-replayed" not in (await post(http, body("hi")))[2]
    assert model.calls == 2


@pytest.mark.parametrize("sent", ["", " ", '""', '"a', '"a"b"', "x" * 256, "é", '"a\\"b"'])
async def test_what_is_no_key_is_a_400_and_reaches_nobody(http: aiohttp.ClientSession, model: FakeModel, sent: str):
    for path, asked in ((CHAT, body("hi")), (ONE, READ)):
        assert (await post(http, asked, sent, path))[0] == 400
    assert model.calls == 0


async def test_two_keys_are_a_400(http: aiohttp.ClientSession, model: FakeModel):
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    async with http.post(CHAT, json=body("hi"), headers=headers) as reply:
        assert reply.status == 400
    assert model.calls == 0


async def test_while_the_first_runs_the_second_is_told_when_to_come_back(http: aiohttp.ClientSession, model: FakeModel):
    model.stream, model.falls_silent = [b'data: {"n":1}\n\n'], True
    asked = body("hi", stream=True)
    async with http.post(CHAT, json=asked, headers={"idempotency-key": "k-1"}) as first:
        status, text, headers = await post(http, asked)
        assert (status, json.loads(text)["error"]["code"]) == (409, "idempotency_key_in_use")
        assert headers["retry-after"] == "1"
        assert headers["x-checkrein-trace-id"] == first.headers["x-checkrein-trace-id"]
    assert model.calls == 1


async def test_a_whole_stream_is_given_again_as_it_was(http: aiohttp.ClientSession, model: FakeModel):
    model.stream = [b'data: {"n":1}\n\n', b'data: {"n":2}\n\n', b"data: [DONE]\n\n"]
    first, second = [await post(http, body("hi", stream=True)) for _ in range(2)]
    assert first[1] == b"".join(model.stream)
    assert same(first, second)
    assert model.calls == 1


async def test_a_stream_too_long_to_keep_is_not_run_again(
    http: aiohttp.ClientSession, model: FakeModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(proxy, "MAX_KEPT_BYTES", 20)
    model.stream = [b'data: {"n":1}\n\n', b'data: {"n":2}\n\n', b"data: [DONE]\n\n"]
    first = await post(http, body("hi", stream=True))
    assert first[1] == b"".join(model.stream)
    status, text, headers = await post(http, body("hi", stream=True))
    assert (status, json.loads(text)["error"]["code"]) == (409, "idempotency_answer_gone")
    assert headers["x-checkrein-trace-id"] == first[2]["x-checkrein-trace-id"]
    assert model.calls == 1


async def test_when_the_caller_left_its_key_says_so_and_nothing_runs_again(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    model.stream, model.falls_silent = [b'data: {"n":1}\n\n'], True
    asked = body("hi", stream=True)
    first = await http.post(CHAT, json=asked, headers={"idempotency-key": "k-1"})
    first.close()
    async with asyncio.timeout(10):
        while not list(system.store.records(RecordQuery(kinds=("execution.finished",)))):
            await asyncio.sleep(0.01)
    status, text, _ = await post(http, asked)
    assert (status, json.loads(text)["error"]["code"]) == (409, "idempotency_answer_gone")
    assert model.calls == 1


async def test_an_upstreams_error_is_an_answer_too(http: aiohttp.ClientSession, model: FakeModel):
    model.status, model.answer = 429, b'{"error":{"message":"slow down"}}'
    first, second = [await post(http, body("hi")) for _ in range(2)]
    assert first[0] == 429
    assert same(first, second)
    assert model.calls == 1


async def test_an_upstream_that_was_never_reached_leaves_the_key_free(folder: Path, model: FakeModel):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = UpstreamConfig(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        system = open_system(folder, upstreams={"gone": nobody})
        _, secret = system.keys.create("alice", by="tests")
        try:
            with BackgroundServer(system.app()) as server:
                async with aiohttp.ClientSession(server.url, headers={"authorization": f"Bearer {secret}"}) as http:
                    first, second = [await post(http, body("hi")) for _ in range(2)]
        finally:
            system.close()
    assert (first[0], second[0]) == (502, 502)
    assert first[2]["x-checkrein-trace-id"] != second[2]["x-checkrein-trace-id"]


async def test_a_reviewed_prompt_runs_once_under_its_key(system: System, http: aiohttp.ClientSession, model: FakeModel):
    asked = body("send an email to all")
    error = json.loads((await post(http, asked))[1])["error"]
    system.approvals.vote(error["approval_id"], voter="bob", roles=("finance",), approve=True, auth="local")
    first, second = [await post(http, asked) for _ in range(2)]
    assert first[0] == 200
    assert same(first, second)
    assert model.calls == 1


async def test_a_denied_prompt_is_decided_afresh(http: aiohttp.ClientSession):
    first, second = [await post(http, body("transfer funds now")) for _ in range(2)]
    assert first[0] == second[0] == 403
    assert first[2]["x-checkrein-trace-id"] != second[2]["x-checkrein-trace-id"]


async def test_a_decision_is_given_again_under_its_key(system: System, http: aiohttp.ClientSession):
    first, second = [await post(http, READ, path=ONE) for _ in range(2)]
    assert json.loads(first[1])["decision"] is True
    assert same(first, second)
    assert len(list(system.store.records(RecordQuery(kinds=("decision",))))) == 1
    status, text, _ = await post(http, PAY, path=ONE)
    assert status == 409
    assert b"another request" in text


async def test_each_yes_of_a_batch_is_given_again_under_its_key(system: System, http: aiohttp.ClientSession):
    batch = {"evaluations": [READ, PAY, READ]}
    first, second = [json.loads((await post(http, batch, path=MANY))[1])["evaluations"] for _ in range(2)]
    assert [item["decision"] for item in first] == [True, False, True]
    assert (first[0], first[2]) == (second[0], second[2])
    assert first[0] != first[2]
    assert first[1]["context"]["evaluation_id"] != second[1]["context"]["evaluation_id"]
    other = json.loads((await post(http, {"evaluations": [PAY, READ]}, path=MANY))[1])["evaluations"]
    assert [item["context"].get("error", {}).get("status") for item in other] == [409, None]


async def test_the_official_client_and_ours_name_a_key(server: str, key: str, model: FakeModel):
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=key, max_retries=2) as client:
        messages: Any = [{"role": "user", "content": "hi"}]
        for _ in range(2):
            answer = await client.chat.completions.create(
                model="m", messages=messages, extra_headers={"Idempotency-Key": "k-1"}
            )
            assert answer.choices[0].message.content == "hello"
        with pytest.raises(openai.ConflictError) as conflict:
            await client.chat.completions.create(model="n", messages=messages, extra_headers={"Idempotency-Key": "k-1"})
        assert conflict.value.code == "idempotency_key_reused"
    ours = Client(server, key)
    first, second = [
        await asyncio.to_thread(ours.submit_request, {"prompt": "hi", "model": "m"}, idempotency_key="k-2")
        for _ in range(2)
    ]
    assert first == second
    assert model.calls == 2
