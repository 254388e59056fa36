"""`/api/v1/grants`, `/api/v1/delegations` and edits over real HTTP: as on the command line, by the key's owner."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from checkrein.compose import System
from checkrein.flow.approval import State
from checkrein.model import Action, ApprovalRequired, Permission, Request, Resource, Subject
from checkrein.model.target import Target, What
from checkrein.ports import RecordQuery

APPROVALS, GRANTS, DELEGATIONS = "/api/v1/approvals", "/api/v1/grants", "/api/v1/delegations"
TERMS = "max 1h, 5 uses, same to, even red"


@pytest.fixture
def folder(folder: Path) -> Path:
    """Mail may be granted."""
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace('@expires("1h")', f'@expires("1h") @grant("{TERMS}")'))
    return folder


@pytest.fixture
async def http(server: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server) as session:
        yield session


def mail(to: str = "all") -> Request:
    action = Action("send_email", {"input": {"to": to, "subject": "s", "body": "b"}})
    return Request(Subject("user", "alice"), action, Resource("tool", "send_email"), {"agent": {"id": "bot"}})


def asked(system: System) -> str:
    """The id of a pending approval."""
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(mail(), caller="test"):
        pytest.fail("it ran")
    return waiting.value.approval_id


def bearer(system: System, owner: str, *permissions: Permission, agent: str = "") -> Any:
    _, secret = system.keys.create("k", owner=owner, agent=agent, roles=(), permissions=permissions, by="tests")
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def bob(system: System) -> Any:
    return bearer(system, "bob", Permission.APPROVE)


async def get(http: aiohttp.ClientSession, path: str, headers: Any, status: int = 200) -> Any:
    async with http.get(path, headers=headers) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json(content_type=None)


async def post(http: aiohttp.ClientSession, path: str, headers: Any, value: object, status: int = 200) -> Any:
    async with http.post(path, headers=headers, json=value) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json(content_type=None)


async def seen(http: aiohttp.ClientSession, id: str, headers: Any) -> str:
    """The hash of what is shown."""
    return str((await get(http, f"{APPROVALS}/{id}", headers))["shown"])


async def grant(http: aiohttp.ClientSession, system: System, headers: Any, **wish: object) -> Any:
    id = asked(system)
    ballot = {"decision": "approve", "shown": await seen(http, id, headers), "grant": wish}
    return await post(http, f"{APPROVALS}/{id}/vote", headers, ballot)


def auths(system: System, kind: str) -> list[tuple[str, str]]:
    """Who did that, and how they proved who they are."""
    found = system.store.records(RecordQuery(kinds=(kind,)))
    parts = ("vote", "edit", "grant", "detail")
    return [
        (record.body["actor"]["id"], next(record.body[part]["auth"] for part in parts if part in record.body))
        for record in found
    ]


def key_ids(system: System) -> list[str]:
    return [key.id for key in system.keys.all()]


async def test_a_vote_may_grant_what_policy_lets_people_grant_or_less(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    given = (await grant(http, system, bob, max="30m", uses=2))["grant"]
    assert given["terms"] == "max 30m, 2 uses, same to, even red"
    with system.gateway.action_sync(mail(), caller="test"):
        pass
    with system.gateway.action_sync(mail(), caller="test"):
        pass
    (found,) = (await get(http, GRANTS, bob))["grants"]
    assert (found["id"], found["state"], found["left"], found["same"]) == (given["id"], "live", 1, {"to": "all"})


async def test_a_grant_without_bounds_is_as_wide_as_policy_says(system: System, http: aiohttp.ClientSession, bob: Any):
    assert (await grant(http, system, bob))["grant"]["terms"] == TERMS


async def test_a_vote_without_a_grant_opens_none(system: System, http: aiohttp.ClientSession, bob: Any):
    id = asked(system)
    ballot = {"decision": "approve", "shown": await seen(http, id, bob)}
    assert (await post(http, f"{APPROVALS}/{id}/vote", bob, ballot))["grant"] is None
    assert not (await get(http, f"{GRANTS}?all=true", bob))["grants"]


async def test_a_grant_that_cannot_be_given_is_refused_and_nothing_is_approved(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    id = asked(system)
    shown = await seen(http, id, bob)
    cases: list[tuple[str, object, int, str | None]] = [
        ("approve", {"uses": 6}, 403, "wide_grant"),
        ("approve", {"max": "2h"}, 403, "wide_grant"),
        ("deny", {}, 403, "no_grant"),
        ("approve", {"uses": 0}, 400, None),
        ("approve", {"uses": -1}, 400, None),
        ("approve", {"max": "soon"}, 400, None),
        ("approve", {"same": []}, 400, None),
        ("approve", True, 400, None),
    ]
    for decision, wish, status, code in cases:
        ballot = {"decision": decision, "shown": shown, "grant": wish}
        assert (await post(http, f"{APPROVALS}/{id}/vote", bob, ballot, status)).get("code") == code
    assert system.approvals.get(id).state is State.PENDING


async def test_a_grant_is_revoked_by_the_owner_of_a_key_and_covers_nothing_from_then_on(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    id = (await grant(http, system, bob))["grant"]["id"]
    carol = bearer(system, "carol", Permission.APPROVE)
    ended = await post(http, f"{GRANTS}/{id[:8]}/revoke", carol, {"reason": "moved on"})
    assert (ended["id"], ended["state"]) == (id, "revoked")
    assert not (await get(http, GRANTS, bob))["grants"]
    assert [found["id"] for found in (await get(http, f"{GRANTS}?all=true", bob))["grants"]] == [id]
    with system.gateway.action_sync(mail(), caller="test"):  # by the approval itself, once
        pass
    asked(system)
    carols = next(key.id for key in system.keys.all() if key.owner == "carol")
    assert auths(system, "approval.grant_revoked") == [("carol", carols)]
    await post(http, f"{GRANTS}/{id}/revoke", bob, {}, 409)
    await post(http, f"{GRANTS}/grt_0000000000000000/revoke", bob, {}, 404)


async def test_an_edit_is_asked_about_anew_and_bound_to_what_was_shown(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    id = asked(system)
    shown, path = await seen(http, id, bob), f"{APPROVALS}/{id}/edit"
    edited = {"to": "one", "subject": "s", "body": "b"}
    assert (await post(http, path, bob, {"arguments": edited, "shown": "x"}, 409))["code"] == "stale_view"
    after = await post(http, path, bob, {"arguments": edited, "shown": shown, "reason": "one is enough"})
    assert after["view"]["action"]["properties"]["input"] == edited
    assert (after["view"]["edits"], after["view"]["edited_by"], after["state"]) == (id, ["bob"], "pending")
    assert system.approvals.get(id).state is State.CANCELLED
    assert auths(system, "approval.edited") == [("bob", key_ids(system)[0])]
    own = {"decision": "approve", "shown": after["shown"]}
    assert (await post(http, f"{APPROVALS}/{after['id']}/vote", bob, own, 403))["code"] == "own_edit"


async def test_an_edit_that_does_not_stand_is_refused_with_its_reason_and_recorded(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    id = asked(system)
    shown, alice = await seen(http, id, bob), bearer(system, "alice", Permission.APPROVE)
    fine = {"to": "one", "subject": "s", "body": "b"}
    cases: list[tuple[Any, object, str, int, str | None]] = [
        (bob, {"to": "one"}, "", 403, "invalid_arguments"),
        (bob, {**fine, "to": "all"}, "", 403, "unchanged"),
        (bob, fine, "0" * 64, 409, "stale_hash"),
        (alice, fine, "", 403, "own_request"),
        (bob, ["to"], "", 400, None),
    ]
    for who, arguments, hash, status, code in cases:
        said = {"arguments": arguments, "shown": shown, "action_hash": hash}
        assert (await post(http, f"{APPROVALS}/{id}/edit", who, said, status)).get("code") == code
    assert system.approvals.get(id).state is State.PENDING
    assert [code for code, _ in edits_refused(system)] == [case[4] for case in cases if case[4]]


async def test_who_goes_away_gives_their_vote_to_somebody_and_takes_it_back(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    until = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).date()
    given = await post(http, f"{DELEGATIONS}/give", bob, {"delegate": "carol", "until": until.isoformat()})
    assert (given["person"], given["delegate"], given["by"]) == ("bob", "carol", "bob")
    assert given["until"].startswith((until + datetime.timedelta(days=1)).isoformat())
    assert (await get(http, DELEGATIONS, bob))["delegations"] == [given]
    await post(http, f"{DELEGATIONS}/end", bob, {})
    assert not (await get(http, DELEGATIONS, bob))["delegations"]
    (key,) = key_ids(system)
    assert auths(system, "approval.delegated") == auths(system, "approval.undelegated") == [("bob", key)]
    await post(http, f"{DELEGATIONS}/end", bob, {}, 404)


@pytest.mark.parametrize(
    ("roles", "status"), [(("readers",), 403), (("finance",), 403), (("finance", "security"), 200)]
)
async def test_a_key_gives_no_roles_away_that_it_does_not_bear(
    system: System, http: aiohttp.ClientSession, roles: tuple[str, ...], status: int
):
    given = {"owner": "carol", "permissions": (Permission.APPROVE,), "roles": roles, "by": "tests"}
    headers = {"authorization": f"Bearer {system.keys.create('narrow', **given)[1]}"}
    until = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)).date().isoformat()
    await post(http, f"{DELEGATIONS}/give", headers, {"delegate": "bob", "until": until}, status)
    assert len(system.approvals.electorate.delegations.all()) == (status == 200)


async def test_a_vote_that_cannot_be_given_away_stays(system: System, http: aiohttp.ClientSession, bob: Any):
    cases: list[dict[str, str]] = [
        {"delegate": "carol"},
        {"delegate": "carol", "until": ""},
        {"delegate": "carol", "until": "tomorrow"},
        {"delegate": "carol", "until": "2020-01-01"},
        {"delegate": "carol", "until": "2999-01-01"},
        {"delegate": "nobody", "until": "2999-01-01"},
        {"delegate": "bob", "until": "2999-01-01"},
        {"delegate": "carol", "until": "2999-01-01", "person": "dora"},
    ]
    for said in cases:
        await post(http, f"{DELEGATIONS}/give", bob, said, 400)
    assert not system.approvals.electorate.delegations.all()


async def test_only_a_person_with_a_live_key_changes_anything(system: System, http: aiohttp.ClientSession, bob: Any):
    granted = (await grant(http, system, bob))["grant"]["id"]
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(mail("others"), caller="test"):
        pytest.fail("it ran")
    agent = bearer(system, "bob", Permission.APPROVE, agent="bobs-bot")
    reader = bearer(system, "bob", Permission.AUDIT, Permission.CALL, Permission.DECIDE)
    edited = {"arguments": {"to": "one", "subject": "s", "body": "b"}, "shown": "x"}
    writes: dict[str, Any] = {
        f"{APPROVALS}/{waiting.value.approval_id}/edit": edited,
        f"{GRANTS}/{granted}/revoke": {},
        f"{DELEGATIONS}/give": {"delegate": "carol", "until": "2999-01-01"},
        f"{DELEGATIONS}/end": {},
    }
    for path, said in writes.items():
        assert "agents do not vote" in (await post(http, path, agent, said, 403))["title"]
        assert "--can approve" in (await post(http, path, reader, said, 403))["detail"]
        async with http.post(path, headers=bob, data="{}") as reply:
            assert reply.status == 415
        async with http.get(path, headers=bob) as reply:
            assert (reply.status, reply.headers["allow"]) == (405, "POST")
    system.killswitch.kill(Target(What.SUBJECT, "bob"), reason="lost", by="tests")
    for path, said in writes.items():
        assert (await post(http, path, bob, said, 403))["title"] == "`subject:bob` is killed"
    assert system.grants.get(granted).state == "live"
    assert edits_refused(system) == [("agent_key", "bob"), ("killed", "bob")]


def edits_refused(system: System) -> list[tuple[str, str]]:
    found = system.store.records(RecordQuery(kinds=("approval.edit_refused",)))
    return [(record.body["vote"]["code"], record.body["actor"]["id"]) for record in found]


@pytest.mark.parametrize("path", [GRANTS, DELEGATIONS])
async def test_what_holds_is_not_for_everybody(system: System, http: aiohttp.ClientSession, path: str):
    await get(http, path, bearer(system, "alice", Permission.CALL, Permission.DECIDE), 403)
    await get(http, path, bearer(system, "dora", Permission.AUDIT))
    await get(http, f"{path}?state=live", bearer(system, "dora", Permission.AUDIT), 400)


async def test_as_it_is_stored_an_approval_comes_with_what_is_known_of_it(
    system: System, http: aiohttp.ClientSession, bob: Any
):
    id = asked(system)
    value = await get(http, f"{APPROVALS}/{id[:8]}?form=stored", bob)
    assert value["shown"] == await seen(http, id, bob)
    assert (value["state"], value["missing"], value["action_hash"]) == (
        "pending",
        ["1 of finance"],
        system.approvals.get(id).action_hash,
    )
    details = value["details"]
    assert [seat["person"] for seat in details["may_agree"]] == ["bob", "carol"]
    assert (details["steering"], details["declared"]["to"], details["outdated"]) == (["to"], "string", False)
    (found,) = (page := await get(http, f"{APPROVALS}?form=stored", bob))["approvals"]
    assert (found["id"], page["unreviewed"]) == (id, 0)
    await get(http, f"{APPROVALS}?form=odd", bob, 400)


async def test_a_caller_is_not_told_who_may_agree_nor_the_roles_of_who_did(system: System, http: aiohttp.ClientSession):
    id, alice = asked(system), bearer(system, "alice", Permission.CALL)
    assert (await get(http, f"{APPROVALS}/{id}?form=stored", alice))["details"] is None
    system.approvals.vote(id, voter="bob", approve=True, auth="local")
    (vote,) = (await get(http, f"{APPROVALS}/{id}?form=stored", alice))["votes"]
    assert (vote["voter"], vote["roles"], vote["also"]) == ("bob", [], [])
    assert "unreviewed" not in await get(http, f"{APPROVALS}?form=stored", alice)
