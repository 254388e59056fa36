"""Kill and revive over HTTP: who may, and what becomes of a stream that is open."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from checkrein.compose import System
from checkrein.model import Permission
from checkrein.ports import RecordQuery
from fakes import FakeModel

KILL, REVIVE, KILLED, CHAT = "/api/v1/kill", "/api/v1/revive", "/api/v1/killed", "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
FIRST = b'data: {"n":1}\n\n'
BOT = {"what": "agent", "name": "bot", "reason": "odd"}


@pytest.fixture
async def http(server: str, key: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as session:
        yield session


async def test_kill_and_revive_take_effect_on_the_next_request(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    async with http.post(KILL, json=BOT) as reply:
        killed = await reply.json()
    assert (reply.status, killed["what"], killed["name"], killed["by"]) == (200, "agent", "bot", "alice")
    async with http.post(CHAT, json=BODY) as reply:
        error = (await reply.json())["error"]
    assert (reply.status, error["code"], error["checkrein"]["policies"]) == (403, "killed", ["kill:agent:bot"])
    assert model.calls == 0
    async with http.get(KILLED) as reply:
        assert await reply.json() == {"killed": [killed]}
    async with http.get("/readyz") as reply:
        assert "killed: agent:bot (odd)" in (await reply.json())["warnings"]
    _, operator = system.keys.create("operator", permissions=(Permission.OPERATE,), by="tests")
    headers = {"authorization": f"Bearer {operator}"}
    async with http.post(REVIVE, json={**BOT, "reason": "mended"}, headers=headers) as reply:
        assert reply.status == 200
    async with http.post(CHAT, json=BODY) as reply:
        assert reply.status == 200


async def test_an_open_stream_is_cut_without_its_closing_part_and_the_upstream_is_dropped(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    model.stream, model.falls_silent = [FIRST], True
    async with http.post(CHAT, json={**BODY, "stream": True}) as stream:
        assert await stream.content.readany() == FIRST
        async with http.post(KILL, json=BOT) as reply:
            assert reply.status == 200
        rest = await stream.content.read()
    assert b'"code":"killed"' in rest
    assert b"`agent:bot` was killed while this ran: odd" in rest
    assert b"[DONE]" not in rest
    assert model.left.wait(timeout=10)
    (end,) = system.store.records(RecordQuery(kinds=("execution.finished",)))
    assert (end.body["status"], end.body["error"]) == ("cancelled", "killed")


async def test_only_a_key_that_may_operate_kills_and_one_that_is_killed_does_not_revive_itself(
    system: System, server: str, http: aiohttp.ClientSession
):
    others = tuple(set(Permission) - {Permission.OPERATE})
    _, plain = system.keys.create("plain", permissions=others, by="tests")
    mine, operator = system.keys.create("operator", permissions=(Permission.OPERATE,), by="tests")
    for secret, status in ((plain, 403), (operator, 200)):
        headers = {"authorization": f"Bearer {secret}"}
        async with http.post(KILL, json={"what": "key", "name": mine.id, "reason": "leaked"}, headers=headers) as reply:
            assert reply.status == status
    headers = {"authorization": f"Bearer {operator}"}
    async with http.post(REVIVE, json={"what": "key", "name": mine.id, "reason": "no"}, headers=headers) as reply:
        assert reply.status == 403
    assert [str(switch.target) for switch in system.killswitch.killed()] == [f"key:{mine.id}"]


@pytest.mark.parametrize(("what", "name"), [("agent", "bot"), ("agent", "B*"), ("subject", "alice")])
async def test_a_key_whose_agent_or_owner_is_killed_does_not_revive_them(
    system: System, http: aiohttp.ClientSession, what: str, name: str
):
    switch = {"what": what, "name": name, "reason": "odd"}
    async with http.post(KILL, json=switch) as reply:
        assert reply.status == 200
    async with http.post(REVIVE, json=switch) as reply:
        assert reply.status == 403
    assert [str(switch.target) for switch in system.killswitch.killed()] == [f"{what}:{name}"]


async def test_everything_that_is_killed_is_revived_over_http(system: System, http: aiohttp.ClientSession):
    for path in (KILL, REVIVE):
        async with http.post(path, json={"what": "everything", "reason": "drill"}) as reply:
            assert reply.status == 200
    assert system.killswitch.killed() == ()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"what": "agent", "name": "bot"}, 400),
        ({"what": "agent", "reason": "r"}, 400),
        ({"what": "all", "reason": "r"}, 400),
        ({"what": ["agent"], "name": "bot", "reason": "r"}, 400),
        ({**BOT, "force": True}, 400),
        ({"what": "key", "name": "key_nobody", "reason": "r"}, 404),
    ],
)
async def test_what_cannot_be_meant_kills_nothing(
    system: System, http: aiohttp.ClientSession, body: dict[str, object], status: int
):
    async with http.post(KILL, json=body) as reply:
        assert reply.status == status
    assert system.killswitch.killed() == ()
