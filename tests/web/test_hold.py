"""A request that needs people, held open until they answered, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.flow.approval import State
from checkrein.flow.rollout import Event, Kind, Plan
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "send an email to all"}]}
PATIENCE_S = 30.0


@pytest.fixture
def system(folder: Path, model_url: str) -> Iterator[System]:
    upstreams = {"fake": UpstreamConfig(base_url=f"{model_url}/v1")}
    opened = open_system(folder, flags={"approvals.hold": 600}, upstreams=upstreams)
    yield opened
    opened.close()


@pytest.fixture
async def http(server: str, key: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as session:
        yield session


async def asking(http: aiohttp.ClientSession) -> tuple[int, Any]:
    async with http.post(CHAT, json=BODY) as reply:
        return reply.status, await reply.json()


async def pending(system: System) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := system.approvals.all()) or not system.waiting.listeners:
            await asyncio.sleep(0.005)
    return found[0].id


def vote(system: System, id: str, *, approve: bool) -> None:
    system.approvals.vote(id, voter="bob", roles=("finance",), approve=approve, reason="looked", auth="local")


async def test_an_approved_request_is_answered_as_if_nobody_had_been_asked(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    request = asyncio.ensure_future(asking(http))
    id = await pending(system)
    assert model.calls == 0
    vote(system, id, approve=True)
    status, answer = await asyncio.wait_for(request, PATIENCE_S)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "hello")
    assert model.calls == 1
    assert system.approvals.get(id).state is State.USED


async def test_a_held_request_goes_to_no_canary_that_was_rolled_back_meanwhile(
    folder: Path, model_url: str, model: FakeModel
):
    upstreams = {name: UpstreamConfig(base_url=f"{model_url}/{name}/v1") for name in ("stable", "canary")}
    with closing(open_system(folder, flags={"approvals.hold": 600}, upstreams=upstreams)) as system:
        plan = Plan(stages=(100,))
        rollouts, sides = system.rollouts, {"stable": "stable", "canary": "canary"}
        begun = rollouts.start(Kind.UPSTREAM, **sides, plan=plan, unsafe_without_gate=True, by="alice")
        system.arms.sync()
        _, key = system.keys.create("alice", by="tests")
        headers = {"authorization": f"Bearer {key}"}
        with BackgroundServer(system.app()) as server:
            async with aiohttp.ClientSession(server.url, headers=headers) as http:
                request = asyncio.ensure_future(asking(http))
                id = await pending(system)
                rollouts.act(begun.id, Event.ABORT, by="alice")
                system.arms.sync()
                vote(system, id, approve=True)
                assert (await asyncio.wait_for(request, PATIENCE_S))[0] == 200
        assert model.paths == ["/stable/v1/chat/completions"]


async def test_a_denied_request_is_answered_with_the_denial(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    request = asyncio.ensure_future(asking(http))
    vote(system, await pending(system), approve=False)
    status, answer = await asyncio.wait_for(request, PATIENCE_S)
    assert (status, answer["error"]["code"]) == (403, "denied")
    assert "looked" in answer["error"]["message"]
    assert answer["error"]["checkrein"]["outcome"] == "deny"
    assert model.calls == 0


async def test_a_caller_that_leaves_is_not_waited_for_and_nothing_runs(
    system: System, server: str, key: str, model: FakeModel
):
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as leaving:
        request = asyncio.ensure_future(asking(leaving))
        id = await pending(system)
        request.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while system.waiting.listeners:
            await asyncio.sleep(0.005)
    vote(system, id, approve=True)
    assert model.calls == 0
    assert system.approvals.get(id).state is State.APPROVED


async def test_a_caller_may_ask_not_to_be_held(http: aiohttp.ClientSession, model: FakeModel):
    async with http.post(CHAT, json=BODY, headers={"prefer": "respond-async, wait=0"}) as reply:
        assert (reply.status, reply.headers["retry-after"]) == (403, "5")
    assert model.calls == 0


async def test_a_server_that_stops_answers_whom_it_holds_at_once(system: System, key: str, model: FakeModel):
    with BackgroundServer(system.app(), grace_s=60) as server:
        async with aiohttp.ClientSession(server.url, headers={"authorization": f"Bearer {key}"}) as http:
            request = asyncio.ensure_future(asking(http))
            id = await pending(system)
            # leaving the block waits for open answers: without being let go this one would take a minute
            await asyncio.to_thread(server.__exit__, None, None, None)
            status, answer = await asyncio.wait_for(request, PATIENCE_S)
    assert (status, answer["error"]["code"], answer["error"]["approval_id"]) == (403, "approval_required", id)
    assert model.calls == 0


async def test_a_server_that_stops_ends_streams_and_long_polls_at_once(system: System, key: str):
    asked = {"subject": {"type": "user", "id": "alice"}, "resource": {"type": "tool", "id": "send_email"}}
    asked["action"] = {"name": "send_email", "properties": {"input": {"to": "all", "subject": "s", "body": "b"}}}
    with BackgroundServer(system.app(), grace_s=60) as server:
        async with aiohttp.ClientSession(server.url, headers={"authorization": f"Bearer {key}"}) as http:
            async with http.post("/access/v1/evaluation", json=asked) as reply:
                id = (await reply.json())["context"]["access_request"]["id"]
            async with http.get("/api/v1/approvals/events") as stream:
                assert b"id:" in await stream.content.readline()
                poll = asyncio.ensure_future(http.get(f"/api/v1/approvals/{id}?wait=60"))
                async with asyncio.timeout(PATIENCE_S):
                    while len(system.waiting.listeners) < 2:
                        await asyncio.sleep(0.005)
                    await asyncio.to_thread(server.__exit__, None, None, None)
                    await stream.read()  # it has ended
                    async with await poll as polled:
                        assert (await polled.json())["state"] == "pending"
