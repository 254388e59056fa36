"""The AuthZEN 1.0 certification scenario, level by level, against a real server; numbers are those of its sections.

The scenario's `read` and `write` are names of effect classes here and can name no tool. So the folder of the fixture
says under `[authzen]` what they are called, as any deployment with such enforcement points does; the requests go over
the wire as the scenario prints them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
import pytest

from checkrein.compose import System, open_system
from checkrein.model import Decision, Permission, Request
from checkrein.ports import RecordQuery
from checkrein.web.server import BackgroundServer

ONE, MANY = "/access/v1/evaluation", "/access/v1/evaluations"
WHO, WHAT, HOW = (f"/access/v1/search/{sought}" for sought in ("subject", "resource", "action"))

CONFIG = """
environment = "test"

[people.alice]
roles = ["clerk"]

[people.bob]
roles = ["clerk", "admin"]

[authzen.actions]
read = "read_record"
write = "write_record"
delete = "delete_record"

[authzen.resources.record]
record-1 = {status = "active"}
record-2 = {status = "archived"}
"""
TOOLS = """
tools:
  read_record: {effects: [read]}
  write_record: {effects: [write]}
  delete_record: {effects: [irreversible]}
"""
POLICIES = """
@id("clerks-read") @owner("r") @reason("clerks read what there is")
permit (principal in Role::"clerk", action == Action::"read_record", resource) when { resource.hasTag("status") };

@id("alice-writes") @owner("r") @reason("alice writes what is active")
permit (principal == User::"alice", action == Action::"write_record", resource);

@id("archived") @owner("r") @reason("the archive is closed")
forbid (principal, action == Action::"write_record", resource)
when { resource.hasTag("status") && resource.getTag("status") == "archived" }
unless { principal in Role::"admin" || (principal.hasTag("role") && principal.getTag("role") == "admin") };

@id("admins-write") @owner("r") @reason("admins write into the archive")
permit (principal, action == Action::"write_record", resource)
when { resource.hasTag("status") && resource.getTag("status") == "archived" &&
       (principal in Role::"admin" || (principal.hasTag("role") && principal.getTag("role") == "admin")) };
"""


def soft_delete(request: Request, context: Mapping[str, object]) -> Decision | None:
    """Properties of an action other than its `input` are seen by policies in Python."""
    if request.action.name != "delete_record":
        return None
    return Decision.allow("gone softly") if request.action.properties.get("soft") is True else Decision.deny("hard")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("governance")
    (folder / "policies").mkdir()
    (folder / "policies/records.cedar").write_text(POLICIES)
    (folder / "checkrein.toml").write_text(CONFIG)
    (folder / "tools.yaml").write_text(TOOLS)
    opened = open_system(folder)
    opened.pdp.register(soft_delete)
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


def user(id: str, **properties: object) -> dict[str, Any]:
    return {"subject": {"type": "user", "id": id} | ({"properties": properties} if properties else {})}


def does(name: str, **properties: object) -> dict[str, Any]:
    return {"action": {"name": name} | ({"properties": properties} if properties else {})}


def record(id: str, **properties: object) -> dict[str, Any]:
    return {"resource": {"type": "record", "id": id} | ({"properties": properties} if properties else {})}


ALICE, BOB, ADMIN = user("alice"), user("bob"), user("bob", role="admin")
READ, WRITE = does("read"), does("write")
FIRST, SECOND, ARCHIVED = record("record-1"), record("record-2"), record("record-2", status="archived")
RULE_1 = ALICE | READ | FIRST
TIMED = {"context": {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}}


async def ask(http: aiohttp.ClientSession, path: str, body: object) -> Any:
    async with http.post(path, json=body) as reply:
        assert (reply.status, reply.content_type) == (200, "application/json"), await reply.text()
        return await reply.json()


async def status(http: aiohttp.ClientSession, path: str, **sent: Any) -> int:
    async with http.post(path, **sent) as reply:
        return reply.status


def without(body: Mapping[str, Any], member: str) -> dict[str, Any]:
    """The body without a member, or without a member of a member (`subject.id`)."""
    parent, _, name = member.rpartition(".")
    if parent:
        return {**body, parent: {key: value for key, value in body[parent].items() if key != name}}
    return {key: value for key, value in body.items() if key != name}


# --- 2 Basic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "decision"),
    [
        pytest.param(RULE_1, True, id="rule 1, 2.2.1"),
        pytest.param(ALICE | WRITE | FIRST, True, id="rule 2"),
        pytest.param(BOB | READ | FIRST, True, id="rule 3"),
        pytest.param(BOB | WRITE | FIRST, False, id="rule 4, 2.2.2"),
        pytest.param(ALICE | WRITE | ARCHIVED, False, id="rule 5, 2.2.4"),
        pytest.param(ADMIN | WRITE | ARCHIVED, True, id="rule 6, 2.2.5"),
        pytest.param(ALICE | does("delete", soft=True) | FIRST, True, id="rule 7, 2.2.6"),
        pytest.param(ALICE | does("delete", soft=False) | FIRST, False, id="rule 8, 2.2.7"),
        pytest.param(
            user("alice", department="Sales", role="manager")
            | does("read", method="GET")
            | record("record-1", status="active", owner="bob"),
            True,
            id="2.2.8",
        ),
        pytest.param(RULE_1 | {"foo": "bar", "futureField": {"nested": True}}, True, id="2.2.9"),
    ],
)
async def test_2_2_a_request_is_decided_with_and_without_context(
    http: aiohttp.ClientSession, asked: dict[str, Any], decision: bool
):
    for context in ({}, TIMED):
        for _ in range(2):  # 2.6
            answer = await ask(http, ONE, asked | context)
            assert answer["decision"] is decision
            assert isinstance(answer["context"], dict)


@pytest.mark.parametrize(
    "member",
    ["subject", "action", "resource", "subject.type", "subject.id", "action.name", "resource.type", "resource.id"],
)
async def test_2_4_a_missing_member_is_a_400(http: aiohttp.ClientSession, member: str):
    assert await status(http, ONE, json=without(RULE_1, member)) == 400


async def test_2_4_what_is_no_json_request_is_a_400(http: aiohttp.ClientSession):
    declared = {"content-type": "application/json"}
    assert await status(http, ONE, data=b"{}", headers={"content-type": "text/plain"}) == 400
    assert await status(http, ONE, data=b'{"subject": ', headers=declared) == 400
    assert await status(http, ONE, data=b"", headers=declared) == 400
    assert await status(http, ONE, json=RULE_1 | {"subject": "alice"}) == 400
    assert await status(http, ONE, json=RULE_1 | {"action": {"name": 123}}) == 400


async def test_2_5_the_request_id_is_given_back(http: aiohttp.ClientSession):
    async with http.post(ONE, json=RULE_1, headers={"x-request-id": "bfe9eb29"}) as reply:
        assert (reply.status, reply.headers["x-request-id"]) == (200, "bfe9eb29")
    assert await status(http, ONE, json=RULE_1) == 200


# --- 3 Batch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "decisions"),
    [
        pytest.param(ALICE | READ | {"evaluations": [FIRST, SECOND]}, [True, True], id="3.2.1"),
        pytest.param(BOB | FIRST | {"evaluations": [READ, WRITE]}, [True, False], id="3.2.2"),
        pytest.param(
            ALICE | WRITE | {"evaluations": [record("record-1", status="active"), ARCHIVED]}, [True, False], id="3.2.3"
        ),
        pytest.param(WRITE | ARCHIVED | {"evaluations": [ALICE, ADMIN]}, [False, True], id="3.2.4"),
        pytest.param({"evaluations": [RULE_1, BOB | WRITE | FIRST]}, [True, False], id="3.2.5"),
        pytest.param(ALICE | READ | TIMED | {"evaluations": [FIRST, SECOND | TIMED]}, [True, True], id="3.2.6"),
        pytest.param(
            ALICE | WRITE | record("record-1", status="active") | {"evaluations": [{}, ARCHIVED]},
            [True, False],
            id="3.2.7",
        ),
        pytest.param(
            ALICE | READ | {"options": {"evaluations_semantic": "execute_all"}, "evaluations": [FIRST, {}]},
            [True, False],
            id="3.4.1",
        ),
    ],
)
async def test_3_2_a_batch_is_answered_item_by_item(
    http: aiohttp.ClientSession, asked: dict[str, Any], decisions: list[bool]
):
    answer = await ask(http, MANY, asked)
    assert "decision" not in answer
    assert [item["decision"] for item in answer["evaluations"]] == decisions


@pytest.mark.parametrize("evaluations", [{}, {"evaluations": []}], ids=["3.4.2", "3.4.3"])
async def test_3_4_a_batch_of_nothing_is_a_single_evaluation(http: aiohttp.ClientSession, evaluations: dict[str, Any]):
    assert (await ask(http, MANY, RULE_1 | evaluations))["decision"] is True


# --- 4 Search ---------------------------------------------------------------------------------------------------

USERS, RECORDS = {"subject": {"type": "user"}}, {"resource": {"type": "record"}}
SEARCHES = {WHO: USERS | READ | FIRST, WHAT: ALICE | READ | RECORDS, HOW: ALICE | FIRST}


async def results(http: aiohttp.ClientSession, path: str, body: object) -> list[dict[str, str]]:
    found: list[dict[str, str]] = (await ask(http, path, body))["results"]
    return found


@pytest.mark.parametrize(
    ("path", "asked", "least"),
    [
        pytest.param(WHO, SEARCHES[WHO], ["alice", "bob"], id="S1, 4.2.1"),
        pytest.param(WHO, USERS | WRITE | ARCHIVED, ["bob"], id="S4, 4.2.4"),
        pytest.param(WHAT, SEARCHES[WHAT], ["record-1"], id="S2, 4.3.1"),
        pytest.param(WHAT, ADMIN | WRITE | RECORDS, ["record-2"], id="S5, 4.3.4"),
        pytest.param(HOW, SEARCHES[HOW], ["read", "write"], id="S3, 4.4.1"),
        pytest.param(HOW, ADMIN | ARCHIVED, ["write"], id="S6, 4.4.3"),
    ],
)
async def test_4_what_is_permitted_is_found(
    http: aiohttp.ClientSession, path: str, asked: dict[str, Any], least: list[str]
):
    found = await results(http, path, asked)
    for timed in ({}, TIMED):  # 4.2.2, 4.3.2, 4.4.2
        assert await results(http, path, asked | timed) == found
    names = [each["name"] if path == HOW else each["id"] for each in found]
    assert set(least) <= set(names)
    kind = {WHO: "user", WHAT: "record"}.get(path)
    assert kind is None or all(each["type"] == kind for each in found)


async def test_4_2_3_and_4_3_3_the_id_of_what_is_sought_is_ignored(http: aiohttp.ClientSession):
    assert await results(http, WHO, SEARCHES[WHO] | ALICE) == await results(http, WHO, SEARCHES[WHO])
    assert await results(http, WHAT, SEARCHES[WHAT] | FIRST) == await results(http, WHAT, SEARCHES[WHAT])


@pytest.mark.parametrize("path", [WHO, WHAT, HOW])
async def test_4_5_a_page_says_where_the_next_one_begins(http: aiohttp.ClientSession, path: str):
    asked = SEARCHES[path]
    first = await ask(http, path, asked | {"page": {"limit": 1}})
    assert (len(first["results"]), first["page"]["count"]) == (1, 1)
    last = await ask(http, path, asked | {"page": {"token": first["page"]["next_token"]}})
    assert last["page"]["next_token"] == ""
    assert first["results"] + last["results"] == await results(http, path, asked)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        pytest.param(WHO, USERS | READ | record("record-99"), id="subject, unknown resource"),
        pytest.param(WHO, {"subject": {"type": "spaceship"}} | READ | FIRST, id="subject, unknown type"),
        pytest.param(WHO, USERS | READ | {"resource": {"type": "planet", "id": "x"}}, id="subject, unknown input type"),
        pytest.param(WHAT, user("nonexistent-user") | READ | RECORDS, id="resource, unknown subject"),
        pytest.param(WHAT, ALICE | READ | {"resource": {"type": "planet"}}, id="resource, unknown type"),
        pytest.param(HOW, user("nonexistent-user") | FIRST, id="action, unknown subject"),
        pytest.param(HOW, {"subject": {"type": "spaceship", "id": "x"}} | FIRST, id="action, unknown type"),
    ],
)
async def test_4_6_nothing_found_is_an_empty_list(http: aiohttp.ClientSession, path: str, asked: dict[str, Any]):
    assert await results(http, path, asked) == []


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        *((WHO, member) for member in ("subject", "subject.type", "action", "action.name", "resource", "resource.id")),
        *((WHAT, member) for member in ("subject", "subject.id", "action", "resource", "resource.type")),
        *((HOW, member) for member in ("subject", "subject.id", "resource", "resource.id")),
    ],
)
async def test_4_7_a_missing_input_is_a_400(http: aiohttp.ClientSession, path: str, missing: str):
    assert await status(http, path, json=without(SEARCHES[path], missing)) == 400


# --- 6 Discovery ------------------------------------------------------------------------------------------------


async def test_6_the_metadata_names_endpoints_below_the_base_it_was_found_at(http: aiohttp.ClientSession, url: str):
    async with http.get("/.well-known/authzen-configuration") as reply:
        assert (reply.status, reply.content_type) == (200, "application/json")
        found = await reply.json()
    assert found["policy_decision_point"] == url
    assert found["access_evaluation_endpoint"] == url + ONE
    assert found["access_evaluations_endpoint"] == url + MANY
    searching = [found[f"search_{sought}_endpoint"] for sought in ("subject", "resource", "action")]
    assert searching == [url + WHO, url + WHAT, url + HOW]
    assert all(isinstance(each, str) for each in found["capabilities"])


# --- what the mapping means here --------------------------------------------------------------------------------


async def test_what_is_decided_is_recorded_under_our_name(http: aiohttp.ClientSession, system: System):
    trace_id = (await ask(http, ONE, RULE_1))["context"]["trace_id"]
    (kept,) = system.store.records(RecordQuery(trace_id=trace_id, kinds=("decision",)))
    assert kept.body["action"]["name"] == "read_record"


async def test_what_is_known_of_a_resource_counts_unless_an_enforcement_point_says_otherwise(
    http: aiohttp.ClientSession, url: str, system: System
):
    active = ALICE | WRITE | record("record-2", status="active")
    assert (await ask(http, ONE, ALICE | WRITE | SECOND))["decision"] is False
    assert (await ask(http, ONE, active))["decision"] is True
    mine = {"authorization": f"Bearer {system.keys.create('alice', by='tests')[1]}"}
    async with aiohttp.ClientSession(url, headers=mine) as agent:
        assert (await ask(agent, ONE, active))["decision"] is False
        assert (await ask(agent, ONE, ALICE | WRITE | record("record-1", status="archived")))["decision"] is True
