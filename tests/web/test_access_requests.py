"""`/access/v1/requests` as an enforcement point meets it: the AuthZEN Access Request and Approval profile, draft 1."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from checkrein.compose import System
from checkrein.flow.approval import State
from checkrein.model import Permission

EVALUATION, REQUESTS = "/access/v1/evaluation", "/access/v1/requests"
URN = "urn:openid:authzen:access-request:error:"
PATIENCE_S = 30.0


def question(to: str = "all", who: str = "alice", **context: object) -> dict[str, Any]:
    return {
        "subject": {"type": "user", "id": who},
        "action": {"name": "send_email", "properties": {"input": {"to": to, "subject": "s", "body": "b"}}},
        "resource": {"type": "tool", "id": "send_email"},
        "context": context,
    }


def bearer(system: System, owner: str, *permissions: Permission) -> dict[str, str]:
    _, secret = system.keys.create("k", owner=owner, permissions=permissions, by="tests")
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
async def http(server: str, system: System) -> AsyncIterator[aiohttp.ClientSession]:
    """As an enforcement point."""
    async with aiohttp.ClientSession(server, headers=bearer(system, "pep", Permission.DECIDE)) as session:
        yield session


async def denied(http: aiohttp.ClientSession, asked: dict[str, Any]) -> dict[str, Any]:
    """The question with the denial that it met: what is submitted."""
    async with http.post(EVALUATION, json=asked) as reply:
        context = (await reply.json())["context"]
    assert context["outcome"] == "require_review"
    denial = {
        "evaluation_id": context["evaluation_id"],
        "expires_at": context["access_request"]["expires_at"],
        "reason": context["reason"],
    }
    return {**asked, "denial": denial}


async def submit(http: aiohttp.ClientSession, submission: Any, **headers: str) -> tuple[int, Any, Any]:
    async with http.post(
        REQUESTS, json=submission, headers={n.replace("_", "-"): v for n, v in headers.items()}
    ) as got:
        return got.status, await got.json(content_type=None), got.headers


async def look(http: aiohttp.ClientSession, id: str, status: int = 200, **headers: str) -> Any:
    async with http.get(f"{REQUESTS}/{id}", headers=headers) as reply:
        assert reply.status == status
        return await reply.json(content_type=None)


def vote(system: System, id: str, *, approve: bool = True) -> None:
    system.approvals.vote(id, voter="bob", roles=("finance",), approve=approve, auth="local")


async def test_a_denial_is_submitted_looked_at_approved_and_evaluated_again(
    system: System, http: aiohttp.ClientSession, server: str
):
    submission = await denied(http, question())
    status, answer, headers = await submit(http, submission)
    task = answer["task"]
    assert (status, task["status"], headers["retry-after"]) == (202, "pending", "5")
    assert headers["location"] == task["status_endpoint"] == f"{server}{REQUESTS}/{task['id']}"
    assert "result" not in answer
    vote(system, task["id"])
    done = await look(http, task["id"])
    assert (done["task"]["status"], done["result"]["mode"]) == ("approved", "reevaluate")
    approval = done["result"]["approval"]
    assert approval["approved_at"] < approval["approved_until"] == task["expires_at"]
    async with http.post(EVALUATION, json=question(approval=approval)) as reply:
        again = await reply.json()
    assert again["decision"] is True
    assert again["context"]["approval"] == {"id": task["id"], "approved_until": task["expires_at"]}


async def test_a_task_leaves_pending_once_whatever_becomes_of_the_approval(
    system: System, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    approved, refused, unanswered = [await denied(http, question(f"{number}")) for number in range(3)]
    ids = [(await submit(http, each))[1]["task"]["id"] for each in (approved, refused, unanswered)]
    vote(system, ids[0])
    vote(system, ids[1], approve=False)
    now_us = system.clock.now_us() + 2 * 3600 * 1_000_000
    for _ in ("before the sweep", "after it"):
        monkeypatch.setattr(system.clock, "now_us", lambda: now_us)
        assert [(await look(http, id))["task"]["status"] for id in ids] == ["approved", "denied", "expired"]
        system.approvals.sweep()
    assert system.approvals.get(ids[0]).state is State.EXPIRED


async def test_an_approved_task_stays_approved_when_it_is_used_and_says_so_at_once_when_submitted_again(
    system: System, http: aiohttp.ClientSession
):
    submission = await denied(http, question())
    id = (await submit(http, submission))[1]["task"]["id"]
    vote(system, id)
    async with http.post(EVALUATION, json=question()) as reply:
        assert (await reply.json())["decision"] is True
    assert system.approvals.get(id).state is State.USED
    status, answer, _ = await submit(http, submission)
    assert (status, answer["task"]["status"], answer["result"]["mode"]) == (201, "approved", "reevaluate")


async def test_a_re_evaluation_that_still_needs_people_says_what_to_do(http: aiohttp.ClientSession):
    async with http.post(EVALUATION, json=question(approval={"id": "apr_swapped"})) as reply:
        context = (await reply.json())["context"]
    assert context["next_action"] == "request"
    assert context["access_request"]["status"] == "pending"
    pay = question(approval={"id": "apr_swapped"}) | {
        "action": {"name": "transfer_funds", "properties": {"input": {"to": "ACME", "amount": 5}}}
    }
    async with http.post(EVALUATION, json=pay) as reply:
        assert (await reply.json())["context"]["next_action"] == "none"


CHANGES: list[tuple[str, Any]] = [
    ("subject", {"type": "user", "id": "eve"}),
    ("resource", {"type": "tool", "id": "other"}),
    ("action", {"name": "send_email", "properties": {"input": {"to": "ACME", "subject": "s", "body": "b"}}}),
    ("context", {"scope": "customer_data"}),
    ("denial", None),
    ("denial", {"expires_at": "2030-01-01T00:00:00Z"}),
    ("denial", {"evaluation_id": "evl_000000000000000000000000", "expires_at": "2030-01-01T00:00:00Z"}),
]


@pytest.mark.parametrize(("member", "value"), CHANGES)
async def test_what_is_not_bound_to_the_denial_is_refused(http: aiohttp.ClientSession, member: str, value: Any):
    status, problem, _ = await submit(http, {**await denied(http, question()), member: value})
    assert (status, problem["type"]) == (400, URN + "invalid_denial_binding")


@pytest.mark.parametrize(
    ("member", "value"),
    [("expires_at", "2030-01-01T00:00:00Z"), ("expires_at", "soon"), ("binding_token", "a.b.c"), ("evaluation_id", "")],
)
async def test_a_denial_that_was_changed_is_refused(http: aiohttp.ClientSession, member: str, value: str):
    submission = await denied(http, question())
    status, problem, headers = await submit(http, {**submission, "denial": {**submission["denial"], member: value}})
    assert (status, problem["type"]) == (400, URN + "invalid_denial_binding")
    assert headers["content-type"] == "application/problem+json"


async def test_the_evaluation_of_another_action_binds_nothing(http: aiohttp.ClientSession):
    one, other = await denied(http, question("one")), await denied(http, question("other"))
    status, problem, _ = await submit(http, {**one, "denial": other["denial"]})
    assert (status, problem["type"]) == (400, URN + "invalid_denial_binding")


async def test_a_submission_after_its_time_is_gone(
    system: System, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    submission = await denied(http, question())
    now_us = system.clock.now_us() + 2 * 3600 * 1_000_000
    monkeypatch.setattr(system.clock, "now_us", lambda: now_us)
    status, problem, _ = await submit(http, submission)
    assert (status, problem["type"]) == (410, URN + "expired_denial")


async def test_what_is_said_beside_the_action_changes_nothing(http: aiohttp.ClientSession):
    submission = await denied(http, question())
    added = copy.deepcopy(submission)
    added["context"]["business_justification"] = "renewal"
    added["requested_access"] = {"emergency": True}
    assert (await submit(http, added))[1]["task"]["id"] == (await submit(http, submission))[1]["task"]["id"]


async def test_an_idempotency_key_stands_for_one_submission(system: System, http: aiohttp.ClientSession):
    one, other = await denied(http, question("one")), await denied(http, question("other"))
    first = await submit(http, one, idempotency_key="k-1")
    reordered = dict(reversed(one.items()))
    again = await submit(http, reordered, idempotency_key="k-1")
    assert (first[0], first[1]) == (again[0], again[1])
    status, problem, _ = await submit(http, other, idempotency_key="k-1")
    assert (status, problem["type"]) == (409, URN + "duplicate_request")
    stranger = bearer(system, "pep2", Permission.DECIDE)
    assert (await submit(http, other, idempotency_key="k-1", **stranger))[0] == 202


async def test_a_task_is_shown_to_whoever_may_speak_for_its_subject(system: System, http: aiohttp.ClientSession):
    id = (await submit(http, await denied(http, question())))[1]["task"]["id"]
    assert (await look(http, id, **bearer(system, "alice", Permission.CALL)))["task"]["id"] == id
    for owner in ("eve", "bob"):
        problem = await look(http, id, 404, **bearer(system, owner, Permission.CALL))
        assert problem["type"] == URN + "unknown_task"
    await look(http, id[:8], 404)
    await look(http, id, 403, **bearer(system, "alice", Permission.AUDIT))


async def test_a_caller_submits_for_itself_only(system: System, http: aiohttp.ClientSession):
    submission = await denied(http, question())
    status, _, _ = await submit(http, submission, **bearer(system, "eve", Permission.CALL))
    assert status == 403


async def test_a_task_says_nothing_about_who_decides_and_why(system: System, http: aiohttp.ClientSession):
    id = (await submit(http, await denied(http, question())))[1]["task"]["id"]
    vote(system, id)
    assert set((await look(http, id))["task"]) == {"id", "status", "status_endpoint", "expires_at"}


async def test_a_look_may_wait_for_the_end(system: System, http: aiohttp.ClientSession):
    id = (await submit(http, await denied(http, question())))[1]["task"]["id"]
    waiting = asyncio.ensure_future(look(http, id, prefer="wait=60"))
    async with asyncio.timeout(PATIENCE_S):
        while not system.waiting.listeners:
            await asyncio.sleep(0.005)
        vote(system, id)
        assert (await waiting)["task"]["status"] == "approved"


async def test_many_at_once_are_submitted_one_by_one(http: aiohttp.ClientSession):
    status, problem, _ = await submit(http, {**await denied(http, question()), "items": []})
    assert status == 400
    assert "items" in problem["title"]
