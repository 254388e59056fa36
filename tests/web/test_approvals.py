"""`/api/v1/approvals` as approvers, requesters and their programs meet it, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from checkrein.compose import System, open_system
from checkrein.flow.approval import State
from checkrein.model import Action, ApprovalRequired, Permission, Request, Resource, Subject
from checkrein.model.target import Target, What
from checkrein.ports import RecordQuery
from checkrein.web import approvals
from checkrein.web.server import BackgroundServer
from oidc_issuer import OidcIssuer

LIST = "/api/v1/approvals"
PATIENCE_S = 30.0


def asked(system: System, to: str = "all", who: str = "alice") -> str:
    """The id of a pending approval."""
    action = Action("send_email", {"input": {"to": to, "subject": "s", "body": "b"}})
    request = Request(Subject("user", who), action, Resource("tool", "send_email"), {"agent": {"id": "bot"}})
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(request, caller="test"):
        pytest.fail("it ran")
    return waiting.value.approval_id


@pytest.fixture
async def http(server: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server) as session:
        yield session


def bearer(system: System, owner: str, *permissions: Permission, agent: str = "", roles: tuple[str, ...] = ()) -> Any:
    _, secret = system.keys.create("k", owner=owner, agent=agent, roles=roles, permissions=permissions, by="tests")
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def bob(system: System) -> Any:
    """Of finance, as `[people.bob]` says."""
    return bearer(system, "bob", Permission.APPROVE)


async def get(http: aiohttp.ClientSession, path: str, headers: Any, status: int = 200) -> Any:
    async with http.get(path, headers=headers) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json(content_type=None)


async def vote(http: aiohttp.ClientSession, id: str, headers: Any, **ballot: object) -> tuple[int, Any]:
    async with http.post(f"{LIST}/{id}/vote", headers=headers, json=ballot) as reply:
        return reply.status, await reply.json(content_type=None)


def refusals(system: System) -> list[tuple[str, str]]:
    found = system.store.records(RecordQuery(kinds=("approval.vote_refused",)))
    return [(record.body["vote"]["code"], record.body["actor"]["id"]) for record in found]


async def test_who_may_approve_sees_what_waits_and_approves_exactly_what_was_shown(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    id = asked(system)
    (found,) = (await get(http, LIST, bob))["approvals"]
    assert (found["id"], found["state"], found["missing"]) == (id, "pending", ["1 of finance"])
    assert found["view"]["action"]["properties"]["input"]["to"] == "all"
    status, after = await vote(http, id, bob, decision="approve", shown=found["shown"], reason="agreed")
    assert (status, after["state"]) == (200, "approved")
    (record,) = system.store.records(RecordQuery(kinds=("approval.voted",)))
    (key,) = system.keys.all()
    assert (record.body["actor"]["id"], record.body["vote"]["auth"]) == ("bob", key.id)


async def test_a_denial_ends_it_with_its_reason(system: System, http: aiohttp.ClientSession, bob: Any):
    id = asked(system)
    shown = (await get(http, f"{LIST}/{id}", bob))["shown"]
    status, after = await vote(http, id, bob, decision="deny", shown=shown, reason="wrong recipients")
    assert (status, after["state"], after["votes"][0]["reason"]) == (200, "denied", "wrong recipients")


async def test_a_vote_on_something_else_than_what_stands_there_is_refused_and_recorded(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    id, other = asked(system), asked(system, "some")
    shown = (await get(http, f"{LIST}/{other}", bob))["shown"]
    status, problem = await vote(http, id, bob, decision="approve", shown=shown)
    assert (status, problem["code"]) == (409, "stale_view")
    assert refusals(system) == [("stale_view", "bob")]
    assert system.approvals.get(id).state is State.PENDING


@pytest.mark.parametrize(
    ("owner", "agent", "roles", "code", "status"),
    [
        ("alice", "", ("finance",), "own_request", 403),
        ("dave", "", (), "wrong_role", 403),
        ("bob", "bobs-bot", (), "agent_key", 403),
    ],
)
async def test_who_may_not_vote_is_refused_with_the_reason_and_recorded(
    system: System, http: aiohttp.ClientSession, owner: str, agent: str, roles: tuple[str, ...], code: str, status: int
):
    id, who = asked(system), bearer(system, owner, Permission.APPROVE, agent=agent, roles=roles)
    shown = (await get(http, f"{LIST}/{id}", who))["shown"]
    given, problem = await vote(http, id, who, decision="approve", shown=shown)
    assert (given, problem["code"]) == (status, code)
    assert refusals(system) == [(code, owner)]
    assert system.approvals.get(id).state is State.PENDING


@pytest.mark.parametrize("what", [What.KEY, What.SUBJECT])
async def test_a_killed_key_does_not_vote_nor_that_of_somebody_killed(
    system: System, http: aiohttp.ClientSession, bob: Any, what: What
):
    id = asked(system)
    shown = (await get(http, f"{LIST}/{id}", bob))["shown"]
    (key,) = system.keys.all()
    system.killswitch.kill(Target(what, key.id if what is What.KEY else "bob"), reason="lost", by="tests")
    status, problem = await vote(http, id, bob, decision="approve", shown=shown)
    assert (status, problem["code"]) == (403, "killed")
    assert refusals(system) == [("killed", "bob")]
    assert system.approvals.get(id).state is State.PENDING


async def test_a_second_vote_and_a_vote_after_the_end_are_conflicts(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    id = asked(system)
    shown = (await get(http, f"{LIST}/{id}", bob))["shown"]
    assert (await vote(http, id, bob, decision="approve", shown=shown))[0] == 200
    status, problem = await vote(http, id, bob, decision="deny", shown=shown)
    assert (status, problem["title"]) == (409, f"approval `{id}` is approved, no longer pending")


@pytest.mark.parametrize(
    "ballot",
    [
        {},
        {"decision": "approve"},
        {"decision": "maybe", "shown": "x"},
        {"decision": "approve", "shown": ""},
        {"decision": True, "shown": "x"},
        {"decision": "approve", "shown": "x", "reason": "y" * 2001},
        {"decision": "approve", "shown": "x", "until": "tomorrow"},
    ],
)
async def test_what_is_no_vote_is_a_plain_400(system: System, http: aiohttp.ClientSession, bob: Any, ballot: Any):
    id = asked(system)
    status, problem = await vote(http, id, bob, **ballot)
    assert (status, problem["status"]) == (400, 400)
    assert not refusals(system)


async def test_a_key_without_the_permission_does_not_vote(system: System, http: aiohttp.ClientSession):
    id, auditor = asked(system), bearer(system, "bob", Permission.AUDIT, Permission.CALL, Permission.DECIDE)
    status, problem = await vote(http, id, auditor, decision="approve", shown="x")
    assert status == 403
    assert "--can approve" in problem["detail"]


async def test_a_get_decides_nothing(system: System, http: aiohttp.ClientSession, bob: Any):
    id = asked(system)
    async with http.get(f"{LIST}/{id}/vote?decision=approve", headers=bob) as reply:
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
    async with http.post(f"{LIST}/{id}", headers=bob, json={}) as reply:
        assert reply.status == 405
    assert system.approvals.get(id).state is State.PENDING


async def test_a_caller_sees_what_it_asked_for_and_nothing_else(system: System, http: aiohttp.ClientSession):
    own, other = asked(system), asked(system, who="eve")
    alice = bearer(system, "alice", Permission.CALL)
    assert [found["id"] for found in (await get(http, LIST, alice))["approvals"]] == [own]
    assert (await get(http, f"{LIST}/{own}", alice))["id"] == own
    hidden = await get(http, f"{LIST}/{other}", alice, 404)
    missing = await get(http, f"{LIST}/apr_0000000000000000", alice, 404)
    assert hidden["title"].replace(other, "") == missing["title"].replace("apr_0000000000000000", "")
    await get(http, f"{LIST}/{own[:8]}", alice, 404)


async def test_filters_add_up_and_pages_follow_each_other(system: System, http: aiohttp.ClientSession, bob: Any):
    ids = [asked(system, f"group-{number}") for number in range(5)]
    asked(system, who="eve")
    found, after = list[str](), ""
    while True:
        page = await get(http, f"{LIST}?requester=alice&agent=bot&limit=2{after}", bob)
        found += [each["id"] for each in page["approvals"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
        system.approvals.vote(found[-1], voter="bob", roles=("finance",), approve=True, auth="local")
    assert found == ids
    assert [each["id"] for each in (await get(http, f"{LIST}?state=approved", bob))["approvals"]] == [ids[1], ids[3]]
    assert len((await get(http, f"{LIST}?state=all&risk=amber", bob))["approvals"]) == 6
    assert not (await get(http, f"{LIST}?action=transfer_funds", bob))["approvals"]


@pytest.mark.parametrize("query", ["state=odd", "limit=0", "limit=1001", "limit=x", "after=apr_1", "votable=1"])
async def test_a_filter_that_is_not_understood_is_refused(http: aiohttp.ClientSession, bob: Any, query: str):
    await get(http, f"{LIST}?{query}", bob, 400)


async def test_a_long_poll_ends_with_the_vote_and_else_in_time(system: System, http: aiohttp.ClientSession, bob: Any):
    id = asked(system)
    assert (await get(http, f"{LIST}/{id}?wait=1", bob))["state"] == "pending"
    waiting = asyncio.ensure_future(get(http, f"{LIST}/{id}?wait=60", bob))
    async with asyncio.timeout(PATIENCE_S):
        while not system.waiting.listeners:
            await asyncio.sleep(0.005)
        system.approvals.vote(id, voter="carol", roles=("finance",), approve=True, auth="local")
        assert (await waiting)["state"] == "approved"
    await get(http, f"{LIST}/{id}?wait=61", bob, 400)


class Stream:
    """Server-sent events as they come."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply

    async def next(self) -> tuple[int, str, Any]:
        found: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self._reply.content.readline()).decode().rstrip("\n"):
                name, _, value = line.partition(": ")
                found[name] = value
        return int(found["id"]), found["event"], json.loads(found["data"])


async def test_events_come_in_order_and_go_on_after_the_last_that_was_seen(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    async with http.get(f"{LIST}/events", headers=bob) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = Stream(reply)
        start, kind, _ = await events.next()
        assert kind == "sync"
        id = asked(system)
        seen, kind, data = await events.next()
        assert (kind, data["id"], data["state"]) == ("approval.requested", id, "pending")
        assert seen > start
    system.approvals.vote(id, voter="bob", roles=("finance",), approve=False, auth="local")
    async with http.get(f"{LIST}/events", headers={**bob, "last-event-id": str(seen)}) as reply:
        events = Stream(reply)
        voted, kind, data = await events.next()
        assert (kind, data["voter"]) == ("approval.voted", "bob")
        decided, kind, data = await events.next()
        assert (kind, data["state"]) == ("approval.decided", "denied")
        assert seen < voted < decided


async def test_a_last_event_of_another_store_means_sync(system: System, http: aiohttp.ClientSession, bob: Any):
    async with http.get(f"{LIST}/events", headers={**bob, "last-event-id": "123456"}) as reply:
        assert (await Stream(reply).next())[:2] == (system.store.head().size - 1, "sync")
    async with http.get(f"{LIST}/events", headers={**bob, "last-event-id": "one"}) as reply:
        assert reply.status == 400


async def test_a_caller_hears_of_its_own_only(system: System, http: aiohttp.ClientSession):
    async with http.get(f"{LIST}/events", headers=bearer(system, "alice", Permission.CALL)) as reply:
        events = Stream(reply)
        await events.next()
        asked(system, who="eve")
        own = asked(system)
        assert (await events.next())[2]["id"] == own


async def test_when_the_reader_leaves_nobody_listens(system: System, http: aiohttp.ClientSession, bob: Any):
    async with http.get(f"{LIST}/events", headers=bob) as reply:
        await Stream(reply).next()
        assert system.waiting.listeners
    async with asyncio.timeout(PATIENCE_S):
        while system.waiting.listeners:
            await asyncio.sleep(0.005)


async def test_many_events_come_page_by_page_and_none_is_missing(
    system: System, http: aiohttp.ClientSession, bob: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(approvals, "_PAGE", 2)
    start = system.store.head().size - 1
    ids = [asked(system, f"group-{number}") for number in range(7)]
    async with http.get(f"{LIST}/events", headers={**bob, "last-event-id": str(start)}) as reply:
        events = Stream(reply)
        assert [(await events.next())[2]["id"] for _ in ids] == ids


# --- people of an OpenID Connect issuer ----------------------------------------------------------------------------


@pytest.fixture
def issuer() -> Iterator[OidcIssuer]:
    made = OidcIssuer()
    with BackgroundServer(made) as serving:
        made.url = serving.url
        yield made


@pytest.fixture
async def with_tokens(folder: Path, issuer: OidcIssuer) -> AsyncIterator[tuple[System, aiohttp.ClientSession]]:
    config = folder / "checkrein.toml"
    config.write_text(
        f"""{config.read_text()}
[oidc.corp]
issuer = "{issuer.url}"
audience = "checkrein"
roles_claim = "groups"
roles = {{"grp-finance" = "finance"}}
agent = "azp"
"""
    )
    system = open_system(folder)
    try:
        with BackgroundServer(system.app()) as server:
            async with aiohttp.ClientSession(server.url) as http:
                yield system, http
    finally:
        system.close()


def token(issuer: OidcIssuer, **claims: object) -> dict[str, str]:
    return {"authorization": f"Bearer {issuer.token(**claims)}"}


async def test_a_person_votes_with_a_token_and_the_roles_it_bears(
    with_tokens: tuple[System, aiohttp.ClientSession], issuer: OidcIssuer
):
    system, http = with_tokens
    id, frank = asked(system), token(issuer, sub="frank", groups=["grp-finance"])
    shown = (await get(http, f"{LIST}/{id}", frank))["shown"]
    assert (await vote(http, id, frank, decision="approve", shown=shown))[1]["state"] == "approved"
    (record,) = system.store.records(RecordQuery(kinds=("approval.voted",)))
    assert (record.body["actor"]["id"], record.body["vote"]["auth"]) == ("frank", "oidc:corp:frank")


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"sub": "alice", "groups": ["grp-finance"]}, "own_request"),
        ({"sub": "frank", "groups": ["finance"]}, "wrong_role"),
        ({"sub": "frank", "groups": ["grp-finance"], "azp": "franks-bot"}, "agent_key"),
    ],
)
async def test_a_token_gives_nobody_a_vote_they_do_not_have(
    with_tokens: tuple[System, aiohttp.ClientSession], issuer: OidcIssuer, claims: dict[str, Any], code: str
):
    system, http = with_tokens
    id, who = asked(system), token(issuer, **claims)
    shown = (await get(http, f"{LIST}/{id}", who))["shown"]
    status, problem = await vote(http, id, who, decision="approve", shown=shown)
    assert (status, problem["code"]) == (403, code)
    assert refusals(system) == [(code, claims["sub"])]
    assert system.approvals.get(id).state is State.PENDING


async def test_a_token_that_does_not_hold_opens_nothing(
    with_tokens: tuple[System, aiohttp.ClientSession], issuer: OidcIssuer
):
    _, http = with_tokens
    for bad in (token(issuer, aud="other"), token(issuer, exp=1), {"authorization": "Bearer a.b.c"}):
        async with http.get(LIST, headers=bad) as reply:
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    async with http.get("/api/v1/audit/records", headers=token(issuer)) as reply:
        assert reply.status == 403  # it may call and approve, as nothing else was configured


async def test_what_is_shown_names_who_owns_the_agent_now_and_can_be_voted_on(folder: Path):
    before = open_system(folder)
    id = asked(before)
    before.close()
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[people.dave]\nroles = ["finance"]\n[agents.bot]\nowner = "dave"\n')
    system = open_system(folder)
    try:
        bob, dave = (bearer(system, who, Permission.APPROVE) for who in ("bob", "dave"))
        with BackgroundServer(system.app()) as server:
            async with aiohttp.ClientSession(server.url) as http:
                found = await get(http, f"{LIST}/{id}", bob)
                assert found["view"]["chain"] == ["dave"]
                assert (await get(http, LIST, bob))["approvals"][0]["shown"] == found["shown"]
                refused = await vote(http, id, dave, decision="approve", shown=found["shown"])
                assert (refused[0], refused[1]["code"]) == (403, "own_request")
                assert (await vote(http, id, bob, decision="approve", shown=found["shown"]))[0] == 200
    finally:
        system.close()


async def test_a_delegate_votes_in_the_place_of_who_is_away(folder: Path):
    config = folder / "checkrein.toml"
    away = 'roles = ["finance"]\ndelegate = "frank"\naway = ["2020-01-01..2999-12-31"]'
    config.write_text(f"{config.read_text()}\n[people.gina]\n{away}\n[people.frank]\nroles = []\n")
    system = open_system(folder)
    try:
        id, frank = asked(system), bearer(system, "frank", Permission.APPROVE)
        with BackgroundServer(system.app()) as server:
            async with aiohttp.ClientSession(server.url) as http:
                shown = (await get(http, f"{LIST}/{id}", frank))["shown"]
                wrong = await vote(http, id, frank, decision="approve", shown=shown, on_behalf_of="bob")
                assert (wrong[0], wrong[1]["code"]) == (403, "no_delegation")
                _, after = await vote(http, id, frank, decision="approve", shown=shown, on_behalf_of="gina")
        assert (after["state"], after["votes"][0]["voter"], after["votes"][0]["on_behalf_of"]) == (
            "approved",
            "frank",
            "gina",
        )
    finally:
        system.close()
