"""The page that links in messages open: looked at and voted on as a browser does, over real HTTP."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from checkrein.compose import System
from checkrein.flow.approval import State
from checkrein.model import Action, ApprovalRequired, Permission, Request, Resource, Subject
from checkrein.ports import RecordQuery
from checkrein.web.pages import TICKET_S


def asked(system: System, to: str = "all", who: str = "alice", agent: str = "bot") -> str:
    """The id of a pending approval."""
    action = Action("send_email", {"input": {"to": to, "subject": "s", "body": "b"}})
    request = Request(Subject("user", who), action, Resource("tool", "send_email"), {"agent": {"id": agent}})
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(request, caller="test"):
        pytest.fail("it ran")
    return waiting.value.approval_id


@pytest.fixture
async def http(server: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server) as session:
        yield session


def secret_of(system: System, owner: str, *permissions: Permission) -> str:
    return system.keys.create("k", owner=owner, permissions=permissions or (Permission.APPROVE,), by="tests")[1]


@pytest.fixture
def bob(system: System) -> str:
    return secret_of(system, "bob")


async def send(http: aiohttp.ClientSession, id: str, **fields: str) -> tuple[int, str]:
    async with http.post(f"/approvals/{id}", data=fields) as reply:
        return reply.status, await reply.text()


def ticket_in(page: str) -> str:
    (found,) = re.findall(r'name=ticket value="([^"]+)"', page)
    return html.unescape(found)


async def test_opening_the_link_shows_nothing_and_decides_nothing(system: System, http: aiohttp.ClientSession):
    id = asked(system)
    async with http.get(f"/approvals/{id}") as reply:
        page = await reply.text()
        assert reply.status == 200
    async with http.get(f"/approvals/{id}?decision=approve&ticket=x") as reply:
        assert await reply.text() == page
    async with http.get("/approvals/apr_0000000000000000") as reply:
        assert await reply.text() == page
    assert "send_email" not in page
    assert system.approvals.get(id).state is State.PENDING


async def test_who_may_vote_sees_everything_and_approves_it(system: System, http: aiohttp.ClientSession, bob: str):
    id = asked(system)
    status, page = await send(http, id, key=bob)
    assert status == 200
    for shown in ("send_email on tool send_email", "alice, through bot", "mail needs a second look", "1 of finance"):
        assert shown in page
    assert "<dt>Argument to (steers it)</dt><dd>all</dd>" in page
    assert bob not in page
    assert system.approvals.get(id).state is State.PENDING
    status, page = await send(http, id, ticket=ticket_in(page), decision="approve", reason="agreed")
    assert status == 200
    assert "Your answer is recorded: approve." in page
    assert system.approvals.get(id).state is State.APPROVED
    (record,) = system.store.records(RecordQuery(kinds=("approval.voted",)))
    assert (record.body["actor"]["id"], record.body["vote"]["auth"]) == ("bob", system.keys.all()[0].id)


async def test_all_that_is_approved_is_shown_and_nothing_of_it_looks_like_what_checkrein_says(
    system: System, http: aiohttp.ClientSession, bob: str
):
    properties = {"input": {"to": "all", "subject": "", "body": "b"}, "method": "DELETE", "Risk": "green"}
    resource = Resource("tool", "send_email", {"ring": "0"})
    context = {"scope": "every customer", "environment": "production"}
    asked = Request(Subject("user", "alice"), Action("send_email", properties), resource, context)
    id = system.gateway.evaluate_sync(asked, caller="test").approval_id
    _, page = await send(http, id, key=bob)
    for name, value in (
        ("Argument subject", '""'),
        ("Also: method of the action", "DELETE"),
        ("Also: Risk of the action", "green"),
        ("Also: ring of the resource", "0"),
        ("Also: scope", "every customer"),
        ("Also: environment", "production"),
    ):
        assert f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" in page
    assert page.count("<dt>Risk</dt>") == 1


async def test_a_denial_with_its_reason(system: System, http: aiohttp.ClientSession, bob: str):
    id = asked(system)
    _, page = await send(http, id, key=bob)
    await send(http, id, ticket=ticket_in(page), decision="deny", reason="wrong <people>")
    after = system.approvals.get(id)
    assert (after.state, after.votes[0].reason) == (State.DENIED, "wrong <people>")
    _, page = await send(http, id, key=bob)
    assert "wrong &lt;people&gt;" in page
    assert "name=ticket" not in page  # it has ended


async def test_nothing_runs_or_loads_on_the_page_and_nobody_frames_it(http: aiohttp.ClientSession):
    async with http.get("/approvals/apr_1") as reply:
        page, policy = await reply.text(), reply.headers["content-security-policy"]
        assert (reply.headers["cache-control"], reply.headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "<script" not in page
    assert "set-cookie" not in {name.lower() for name in reply.headers}


async def test_what_others_wrote_is_text(system: System, http: aiohttp.ClientSession, bob: str):
    id = asked(system, to="<script>alert(1)</script>\u202e\"'", who="<b>eve", agent="</dd><form>")
    _, page = await send(http, id, key=bob)
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("<form") == 1
    assert "\\u202e" in page


@pytest.mark.parametrize("key", ["", "crk_wrong", "a.b.c", "é"])
async def test_without_a_key_that_holds_nothing_is_shown(system: System, http: aiohttp.ClientSession, key: str):
    id = asked(system)
    status, page = await send(http, id, key=key)
    assert status == 401
    assert "send_email" not in page


async def test_who_may_not_see_it_is_told_that_there_is_none(system: System, http: aiohttp.ClientSession):
    id = asked(system)
    status, page = await send(http, id, key=secret_of(system, "eve", Permission.CALL))
    missing = await send(http, "apr_0000000000000000", key=secret_of(system, "eve", Permission.CALL))
    assert (status, page) == missing
    assert status == 404


async def test_who_asked_may_look_and_not_vote(system: System, http: aiohttp.ClientSession):
    id = asked(system)
    status, page = await send(http, id, key=secret_of(system, "alice", Permission.CALL))
    assert status == 200
    assert "name=ticket" not in page
    _, page = await send(http, id, key=secret_of(system, "alice"))
    status, page = await send(http, id, ticket=ticket_in(page), decision="approve")
    assert status == 403
    assert "asked for this action" in page
    (refused,) = system.store.records(RecordQuery(kinds=("approval.vote_refused",)))
    assert refused.body["vote"]["code"] == "own_request"


async def test_a_ticket_is_for_one_approval_as_it_was_shown_for_a_while(
    system: System, http: aiohttp.ClientSession, bob: str, monkeypatch: pytest.MonkeyPatch
):
    one, other = asked(system, "one"), asked(system, "other")
    ticket = ticket_in((await send(http, one, key=bob))[1])
    data, _, signature = ticket.partition(".")
    forged = (ticket[:-1] + ("0" if ticket[-1] != "0" else "1"), f"{data[:-4]}AAAA.{signature}", data, "", ".", "é.é")
    for bad in forged:
        assert (await send(http, one, ticket=bad, decision="approve"))[0] == 401
    assert (await send(http, other, ticket=ticket, decision="approve"))[0] == 401
    assert (await send(http, one, ticket=ticket, decision="maybe"))[0] == 400
    now_us = system.clock.now_us() + TICKET_S * 1_000_000
    with monkeypatch.context() as later:
        later.setattr(system.clock, "now_us", lambda: now_us)
        assert (await send(http, one, ticket=ticket, decision="approve"))[0] == 401
    system.keys.revoke(system.keys.all()[0].id, by="tests")
    assert (await send(http, one, ticket=ticket, decision="approve"))[0] == 401
    assert {system.approvals.get(id).state for id in (one, other)} == {State.PENDING}


async def test_a_second_vote_with_the_ticket_changes_nothing(system: System, http: aiohttp.ClientSession, bob: str):
    id = asked(system)
    ticket = ticket_in((await send(http, id, key=bob))[1])
    await send(http, id, ticket=ticket, decision="approve")
    assert (await send(http, id, ticket=ticket, decision="deny"))[0] == 409
    assert system.approvals.get(id).state is State.APPROVED


async def test_a_page_of_another_origin_cannot_vote(system: System, http: aiohttp.ClientSession, bob: str):
    id = asked(system)
    ticket = ticket_in((await send(http, id, key=bob))[1])
    for origin in ("https://evil.example", "null"):
        fields = {"ticket": ticket, "decision": "approve"}
        async with http.post(f"/approvals/{id}", data=fields, headers={"origin": origin}) as reply:
            assert reply.status == 403
    assert system.approvals.get(id).state is State.PENDING


@pytest.mark.parametrize("data", [b"x", b"key=a&key=b", b"\xff", b"&".join([b"a=b"] * 50)])
async def test_what_is_no_form_is_refused(http: aiohttp.ClientSession, data: bytes):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with http.post("/approvals/apr_1", data=data, headers=headers) as reply:
        assert reply.status == 400
    async with http.post("/approvals/apr_1", json={"key": "a"}) as reply:
        assert reply.status == 400


async def test_other_ways_are_not_served(http: aiohttp.ClientSession):
    async with http.put("/approvals/apr_1") as reply:
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, POST")
    async with http.get("/approvals/") as reply:
        assert reply.status == 404
