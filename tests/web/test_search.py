"""Searches at a real server: what is found is what an evaluation permits, page by page, and nothing runs for it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from checkrein.compose import System, open_system
from checkrein.model import Permission, StoreUnavailable
from checkrein.model.target import Target, What
from checkrein.ports import RecordQuery, Unit
from checkrein.services import search
from checkrein.web.server import BackgroundServer

WHO, WHAT, HOW = (f"/access/v1/search/{sought}" for sought in ("subject", "resource", "action"))
ONE = "/access/v1/evaluation"
CONFIG = """
environment = "test"

[people.alice]
roles = ["clerk"]

[people.bob]
roles = ["clerk", "admin"]

[people.carol]

[agents.filing-bot]
owner = "alice"

[authzen.actions]
read = "read_record"
view = "read_record"

[authzen.resources.record]
r01 = {level = "low"}
r02 = {level = "low"}
r03 = {level = "high"}
r04 = {level = "low"}
r05 = {level = "high"}
r06 = {level = "low"}
r07 = {level = "low"}

[upstreams.provider]
base_url = "https://models.example/v1"
models = ["gpt-small", "gpt-large"]
"""
TOOLS = """
tools:
  read_record: {effects: [read]}
  close_record: {effects: [write]}
  shred_record: {effects: [irreversible]}
  note: {effects: [external], input: {text: string}}
"""
POLICIES = """
@id("clerks-read") @owner("r") @reason("clerks read")
permit (principal in Role::"clerk", action == Action::"read_record", resource);

@id("not-high") @owner("r") @reason("what is high is for admins")
forbid (principal, action == Action::"read_record", resource)
when { resource.hasTag("level") && resource.getTag("level") == "high" } unless { principal in Role::"admin" };

@id("bots-close") @owner("r") @reason("bots close")
permit (principal is Agent, action == Action::"close_record", resource);

@id("shred") @owner("r") @reason("clerks shred")
permit (principal in Role::"clerk", action == Action::"shred_record", resource);

@id("two-eyes") @owner("r") @reason("after a second look") @outcome("require_review") @approvers("1 of admin")
@expires("1h")
forbid (principal, action == Action::"shred_record", resource);

@id("notes") @owner("r") @reason("clerks take notes")
permit (principal in Role::"clerk", action == Action::"note", resource);

@id("no-addresses") @owner("r") @reason("no addresses in notes") @outcome("redact") @redact("pii.email")
forbid (principal, action == Action::"note", resource) when { context.labels.contains("pii.email") };

@id("models") @owner("r") @reason("clerks ask small models")
permit (principal in Role::"clerk", action in Action::"llm", resource) when { context.input.model == "gpt-small" };
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("governance")
    (folder / "policies").mkdir()
    (folder / "policies/records.cedar").write_text(POLICIES)
    (folder / "checkrein.toml").write_text(CONFIG)
    (folder / "tools.yaml").write_text(TOOLS)
    opened = open_system(folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def url(system: System) -> Iterator[str]:
    with BackgroundServer(system.app()) as server:
        yield server.url


@pytest.fixture(scope="module")
def pep(system: System) -> str:
    return system.keys.create("pep", permissions=(Permission.DECIDE,), by="tests")[1]


@pytest.fixture
async def http(url: str, pep: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {pep}"}) as session:
        yield session


def does(name: str, **input: object) -> dict[str, Any]:
    return {"action": {"name": name} | ({"properties": {"input": input}} if input else {})}


def on(id: str, type: str = "record") -> dict[str, Any]:
    return {"resource": {"type": type, "id": id}}


def user(id: str) -> dict[str, Any]:
    return {"subject": {"type": "user", "id": id}}


USERS, RECORDS, ALICE, BOB = {"subject": {"type": "user"}}, {"resource": {"type": "record"}}, user("alice"), user("bob")


async def ask(http: aiohttp.ClientSession, path: str, body: object) -> Any:
    async with http.post(path, json=body) as reply:
        assert (reply.status, reply.content_type) == (200, "application/json"), await reply.text()
        return await reply.json()


async def names(http: aiohttp.ClientSession, path: str, body: object) -> list[str]:
    return [each.get("id") or each["name"] for each in (await ask(http, path, body))["results"]]


async def refused(http: aiohttp.ClientSession, path: str, body: object) -> tuple[int, str]:
    async with http.post(path, json=body) as reply:
        assert reply.content_type == "text/plain"
        return reply.status, await reply.text()


# --- what is found --------------------------------------------------------------------------------------------


async def test_people_and_agents_that_the_configuration_names_are_found(http: aiohttp.ClientSession):
    assert await names(http, WHO, USERS | does("read") | on("r01")) == ["alice", "bob"]
    assert await names(http, WHO, USERS | does("read") | on("r03")) == ["bob"]
    assert await names(http, WHO, {"subject": {"type": "agent"}} | does("close_record") | on("r01")) == ["filing-bot"]


async def test_resources_that_the_configuration_names_are_found_by_what_is_known_of_them(http: aiohttp.ClientSession):
    assert await names(http, WHAT, ALICE | does("read") | RECORDS) == ["r01", "r02", "r04", "r06", "r07"]
    assert len(await names(http, WHAT, BOB | does("read") | RECORDS)) == 7


async def test_a_tool_is_what_its_call_is_done_to_and_a_prompt_goes_to_models(http: aiohttp.ClientSession):
    assert await names(http, WHAT, ALICE | does("view") | {"resource": {"type": "tool"}}) == ["read_record"]
    assert await names(http, WHAT, ALICE | does("prompt") | {"resource": {"type": "model"}}) == ["gpt-small"]
    assert await names(http, HOW, ALICE | on("gpt-small", "model")) == ["prompt", "read", "view"]


async def test_actions_are_found_under_the_names_that_enforcement_points_have(http: aiohttp.ClientSession):
    assert await names(http, HOW, ALICE | on("r01")) == ["read", "view"]
    assert await names(http, HOW, {"subject": {"type": "agent", "id": "filing-bot"}} | on("r01")) == ["close_record"]


async def test_what_is_found_is_what_an_evaluation_permits(http: aiohttp.ClientSession):
    found = {
        (who, does_, what)
        for who in ("alice", "bob", "carol")
        for does_ in ("read", "view", "close_record", "shred_record", "note")
        for what in await names(http, WHAT, user(who) | does(does_) | RECORDS)
    }
    permitted = set()
    for who in ("alice", "bob", "carol"):
        for does_ in ("read", "close_record", "shred_record"):
            for what in ("r01", "r03"):
                if (await ask(http, ONE, user(who) | does(does_) | on(what)))["decision"]:
                    permitted.add((who, does_, what))
    assert permitted == {each for each in found if each[1] != "view" and each[2] in ("r01", "r03")}


async def test_what_waits_for_people_is_not_found_and_nobody_is_asked(http: aiohttp.ClientSession, system: System):
    before = len(list(system.approvals.listed()))
    assert await names(http, WHO, USERS | does("shred_record") | on("r01")) == []
    assert len(list(system.approvals.listed())) == before


async def test_what_must_be_redacted_is_found_by_who_can_redact(http: aiohttp.ClientSession):
    asked = USERS | does("note", text="to bob@example.com") | on("r01")
    assert await names(http, WHO, asked) == []
    able = {"context": {"supported_obligations": ["custom"]}}
    assert await names(http, WHO, asked | able) == ["alice", "bob"]


async def test_what_a_caller_says_of_who_is_sought_makes_nobody_found(http: aiohttp.ClientSession):
    claims = {"subject": {"type": "user", "properties": {"roles": ["admin", "clerk"]}}}
    assert await names(http, WHO, claims | does("read") | on("r03")) == ["bob"]
    low = {"resource": {"type": "record", "properties": {"level": "low"}}}
    assert "r03" not in await names(http, WHAT, ALICE | does("read") | low)


async def test_what_is_killed_is_not_found(http: aiohttp.ClientSession, system: System):
    target = Target(What.SUBJECT, "alice")
    system.killswitch.kill(target, reason="lost her laptop", by="tests")
    try:
        assert await names(http, WHO, USERS | does("read") | on("r01")) == ["bob"]
    finally:
        system.killswitch.revive(target, reason="found it", by="tests")


# --- who may search, and for what -----------------------------------------------------------------------------


async def test_only_an_enforcement_point_searches(url: str, system: System):
    own = {"authorization": f"Bearer {system.keys.create('alice', by='tests')[1]}"}
    async with aiohttp.ClientSession(url, headers=own) as agent:
        status, message = await refused(agent, HOW, ALICE | on("r01"))
    assert (status, "decide" in message) == (403, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": {"type": "turn", "id": "turn_1"}},
        {"subject": {"type": "user", "id": "4111 1111 1111 1111"}},
        {"subject": "alice"},
        {"page": []},
        {"page": {"limit": -1}},
        {"page": {"limit": True}},
        {"page": {"limit": "1"}},
        {"page": {"token": 1}},
        {"page": {"token": "not ours"}},
        {"page": {"token": "WzEsMiwzXQ=="}},
    ],
    ids=str,
)
async def test_what_is_no_search_is_a_400_and_leaves_no_record(
    http: aiohttp.ClientSession, system: System, wrong: dict[str, object]
):
    before = recorded(system)
    status, message = await refused(http, HOW, ALICE | on("r01") | wrong)
    assert (status, "4111" in message) == (400, False)
    assert recorded(system) == before


# --- pages ----------------------------------------------------------------------------------------------------


async def walked(http: aiohttp.ClientSession, path: str, asked: dict[str, Any], **page: object) -> list[list[str]]:
    """The names on every page, to the end."""
    pages, token = [], ""
    while True:
        answer = await ask(http, path, asked | {"page": page | ({"token": token} if token else {})})
        pages.append([each["id"] for each in answer["results"]])
        assert answer["page"]["count"] == len(pages[-1])
        token = answer["page"]["next_token"]
        if not token:
            return pages


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 100])
async def test_the_pages_together_are_everything_once(http: aiohttp.ClientSession, limit: int):
    asked = ALICE | does("read") | RECORDS
    pages = await walked(http, WHAT, asked, limit=limit)
    assert [name for page in pages for name in page] == await names(http, WHAT, asked)
    assert all(len(page) == limit for page in pages[:-1])
    assert pages[-1]


async def test_a_page_is_bounded_in_decisions_and_may_be_empty(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "MAX_DECIDED", 2)
    assert await walked(http, WHAT, ALICE | does("read") | RECORDS) == [["r01", "r02"], ["r04"], ["r06"], ["r07"]]
    monkeypatch.setattr(search, "MAX_DECIDED", 1)
    assert [] in await walked(http, WHAT, ALICE | does("read") | RECORDS)


async def test_a_large_request_is_decided_less_often_for_a_page(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "BUDGET_BYTES", 4000)
    small, large = ALICE | does("read") | RECORDS, BOB | does("read") | RECORDS | {"context": {"memo": "x" * 1500}}
    assert len(await walked(http, WHAT, small)) == 1
    assert [len(page) for page in await walked(http, WHAT, large)] == [2, 2, 2, 1]


async def test_a_token_belongs_to_one_search(http: aiohttp.ClientSession):
    asked = ALICE | does("read") | RECORDS
    token = (await ask(http, WHAT, asked | {"page": {"limit": 2}}))["page"]["next_token"]
    assert await names(http, WHAT, asked | {"page": {"limit": 2, "token": token}}) == ["r04", "r06"]
    for other in (BOB, does("view"), {"context": {"scope": "x"}}, {"page": {"limit": 3, "token": token}}):
        status, message = await refused(http, WHAT, asked | {"page": {"token": token}} | other)
        assert (status, "another search" in message) == (400, True)


async def test_a_token_that_was_changed_moves_at_most_the_beginning(http: aiohttp.ClientSession):
    asked = ALICE | does("read") | RECORDS
    token = (await ask(http, WHAT, asked | {"page": {"limit": 1}}))["page"]["next_token"]
    mark, _, _ = json.loads(base64.urlsafe_b64decode(token))
    forged = base64.urlsafe_b64encode(json.dumps([mark, 10**9, ""]).encode()).decode()
    assert await names(http, WHAT, asked | {"page": {"token": forged}}) == await names(http, WHAT, asked)


# --- the record -----------------------------------------------------------------------------------------------


def recorded(system: System) -> int:
    return len(list(system.store.records(RecordQuery())))


async def test_a_search_leaves_one_record_that_names_nobody_who_was_found(http: aiohttp.ClientSession, system: System):
    before, trace = recorded(system), "ab" * 16
    async with http.post(
        WHO, json=USERS | does("read") | on("r01"), headers={"traceparent": f"00-{trace}-{'cd' * 8}-01"}
    ) as reply:
        assert reply.headers["x-checkrein-trace-id"] == trace
    assert recorded(system) == before + 1
    (kept,) = system.store.records(RecordQuery(trace_id=trace))
    assert kept.kind == "search"
    assert kept.body["actor"] == {"type": "user", "id": "", "agent": ""}
    assert kept.body["action"] == {"name": "read_record", "resource": {"type": "record", "id": "r01"}}
    said = kept.body["search"]
    assert isinstance(said, dict)
    assert (said["for"], said["decided"], said["found"]) == ("subject", 3, 2)
    assert b"alice" not in kept.data


async def test_without_a_record_there_is_no_answer(
    http: aiohttp.ClientSession, system: System, monkeypatch: pytest.MonkeyPatch
):
    def broken(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(system.store, "commit", broken)
        status, _ = await refused(http, WHO, USERS | does("read") | on("r01"))
    assert status == 503
