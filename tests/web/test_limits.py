"""Limits as the callers of `/v1/chat/completions` meet them, and what is settled from the answers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import openai
import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.model.target import Target
from checkrein.ports import RecordQuery
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

CHAT = "/v1/chat/completions"
BOT = Target.parse("agent", "bot")
LIMITS = """
[limits."agent:bot"]
requests_per_minute = 3
tokens_per_minute = 6000
spend_per_day = 10.0
"""


@pytest.fixture
def system(folder: Path, model_url: str) -> Iterator[System]:
    (folder / "checkrein.toml").write_text((folder / "checkrein.toml").read_text() + LIMITS)
    upstream = UpstreamConfig(base_url=f"{model_url}/v1", price_in=1.0, price_out=2.0, output_tokens=100)
    opened = open_system(folder, upstreams={"fake": upstream})
    yield opened
    opened.close()


@pytest.fixture
async def http(server: str, key: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as session:
        yield session


def body(text: str = "hi", **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def usage(system: System) -> dict[str, object]:
    *_, end = system.store.records(RecordQuery(kinds=("execution.finished",)))
    found = end.body["detail"]["usage"]
    assert isinstance(found, dict)
    return found


async def test_the_official_client_meets_a_rate_limit(system: System, server: str, key: str, model: FakeModel):
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=key, max_retries=0) as client:
        for _ in range(3):
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    error = limited.value
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "requests")
    assert 0 < int(error.response.headers["retry-after"]) <= 65
    assert "3 requests a minute" in error.message
    assert model.calls == 3
    assert system.limits.used(BOT).requests_minute == 3


async def test_of_64_calls_at_once_exactly_as_many_reach_the_model_as_the_limit_says(
    http: aiohttp.ClientSession, model: FakeModel
):
    async def call() -> int:
        async with http.post(CHAT, json=body()) as reply:
            return reply.status

    answers = Counter(await asyncio.gather(*(call() for _ in range(64))))
    assert answers == {200: 3, 429: 61}
    assert model.calls == 3


async def test_more_than_fits_at_once_is_not_to_be_sent_again(http: aiohttp.ClientSession):
    async with http.post(CHAT, json=body("x" * 20_000)) as reply:
        error = (await reply.json())["error"]
    assert (reply.status, error["code"], error["type"]) == (429, "token_limit_exceeded", "tokens")
    assert (reply.headers.get("retry-after"), reply.headers["x-should-retry"]) == (None, "false")


async def test_a_budget_is_settled_by_the_usage_of_the_answer(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    model.answer = json.dumps({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 500}}).encode()
    async with http.post(CHAT, json=body()) as reply:
        assert reply.status == 200
    said = {"tokens_in": 1000, "tokens_out": 500, "cost_nano": 2_000_000_000, "estimated": False}
    assert usage(system) == said
    used = system.limits.used(BOT)
    assert (used.spend_today, used.tokens_today, used.tokens_minute, used.running) == (2_000_000_000, 1500, 1500, 0)
    model.answer = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 4600}}).encode()
    async with http.post(CHAT, json=body(max_tokens=3000)) as reply:
        assert reply.status == 200
    async with http.post(CHAT, json=body()) as reply:
        error = (await reply.json())["error"]
    assert (reply.status, error["code"]) == (429, "token_limit_exceeded")


async def test_a_spent_budget_is_429_until_the_next_day(system: System, http: aiohttp.ClientSession, model: FakeModel):
    model.answer = json.dumps({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 5000}}).encode()
    async with http.post(CHAT, json=body()) as reply:
        assert reply.status == 200
    model.answer = b"{}"
    async with http.post(CHAT, json=body(max_tokens=1)) as reply:
        error = (await reply.json())["error"]
    assert (reply.status, error["code"], error["type"]) == (429, "budget_exceeded", "insufficient_quota")
    assert 0 < int(reply.headers["retry-after"]) <= 86_400
    assert "a budget of 10.00 a day" in error["message"]
    decision = next(iter(system.store.records(RecordQuery(kinds=("decision",), newest_first=True))))
    assert decision.body["decision"]["outcome"] == "deny"


async def test_a_stream_is_settled_by_its_last_chunk(system: System, http: aiohttp.ClientSession, model: FakeModel):
    last = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
    model.stream = [b'data: {"choices":[]}\n\n', last[:20], last[20:], b"data: [DONE]\n\n"]
    async with http.post(CHAT, json=body(stream=True)) as reply:
        await reply.read()
    assert usage(system) == {"tokens_in": 7, "tokens_out": 3, "cost_nano": 13_000_000, "estimated": False}


async def test_an_answer_that_does_not_say_is_estimated_and_the_record_says_so(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    async with http.post(CHAT, json=body()) as reply:
        size = len(await reply.read())
    assert (usage(system)["tokens_out"], usage(system)["estimated"]) == (-(-size // 3), True)


async def test_an_upstream_that_was_never_reached_costs_nothing(folder: Path, system: System, model_url: str):
    system.close()
    upstream = UpstreamConfig(base_url="http://127.0.0.1:9/v1", price_in=1.0, price_out=2.0)
    opened = open_system(folder, upstreams={"fake": upstream})
    try:
        _, secret = opened.keys.create("alice", agent="bot", by="tests")
        with BackgroundServer(opened.app()) as running:
            headers = {"authorization": f"Bearer {secret}"}
            async with (
                aiohttp.ClientSession(running.url, headers=headers) as http,
                http.post(CHAT, json=body()) as reply,
            ):
                assert reply.status == 502
        used = opened.limits.used(BOT)
        assert (used.requests_minute, used.spend_today, used.tokens_minute, used.running) == (1, 0, 0, 0)
    finally:
        opened.close()


async def test_who_used_how_much_is_told_to_who_may_audit_or_operate(
    system: System, server: str, http: aiohttp.ClientSession, model: FakeModel
):
    async with http.post(CHAT, json=body()) as reply:
        assert reply.status == 200
    async with http.get("/api/v1/limits", params={"what": "agent", "name": "b*"}) as reply:
        (line,) = (await reply.json())["limits"]
    assert (line["what"], line["name"], line["used"]["requests_today"]) == ("agent", "bot", 1)
    assert line["limits"] == {"requests_per_minute": 3, "tokens_per_minute": 6000, "spend_per_day": "10.00"}
    for query in ("?what=agnt", "?agent=bot"):
        async with http.get("/api/v1/limits" + query) as reply:
            assert reply.status == 400
    _, plain = system.keys.create("plain", by="tests")
    async with http.get("/api/v1/limits", headers={"authorization": f"Bearer {plain}"}) as reply:
        assert reply.status == 403
