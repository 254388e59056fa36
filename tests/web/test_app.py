"""Who may call, which hosts are ours, and answers in the protocol's own words."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from checkrein.compose import System
from checkrein.model import Permission

ROUTES = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/access/v1/evaluation"),
    ("POST", "/access/v1/evaluations"),
    ("GET", "/api/v1/audit/records"),
    ("GET", "/api/v1/activities"),
    ("GET", "/nothing/here"),
]


@pytest.fixture
async def http(server: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server) as session:
        yield session


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("headers", [{}, bearer("crk_wrong"), {"authorization": "Basic eA=="}, bearer("")])
async def test_every_route_needs_a_key(http: aiohttp.ClientSession, headers: dict[str, str]):
    for method, path in ROUTES:
        async with http.request(method, path, headers=headers) as reply:
            text = await reply.text()
        assert reply.status == 401, path
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "crk_" in text
        assert "Traceback" not in text


async def test_a_revoked_key_opens_nothing_from_the_next_request_on(
    system: System, http: aiohttp.ClientSession, key: str
):
    async with http.get("/healthz", headers=bearer(key)) as reply:
        assert reply.status == 200
    system.keys.revoke(system.keys.all()[0].id, by="tests")
    async with http.get("/healthz", headers=bearer(key)) as reply:
        assert reply.status == 401


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("POST", "/v1/chat/completions", Permission.AUDIT),
        ("POST", "/access/v1/evaluation", Permission.AUDIT),
        ("GET", "/api/v1/audit/records", Permission.CALL),
        ("GET", "/api/v1/activities", Permission.DECIDE),
    ],
)
async def test_a_key_may_do_only_what_it_was_made_for(
    system: System, http: aiohttp.ClientSession, method: str, path: str, permission: Permission
):
    _, secret = system.keys.create("narrow", permissions=(permission,), by="tests")
    async with http.request(method, path, headers=bearer(secret), json={}) as reply:
        assert reply.status == 403
        assert "--can" in await reply.text()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", ""])
async def test_a_foreign_host_is_refused(http: aiohttp.ClientSession, key: str, host: str):
    async with http.get("/healthz", headers={**bearer(key), "host": host}) as reply:
        assert reply.status in (400, 403)


async def test_a_page_of_another_origin_is_refused(http: aiohttp.ClientSession, key: str):
    async with http.get("/healthz", headers={**bearer(key), "origin": "https://evil.example"}) as reply:
        assert reply.status == 403
    own = str(http._base_url).rstrip("/")
    async with http.get("/healthz", headers={**bearer(key), "origin": own}) as reply:
        assert reply.status == 200


async def test_what_is_not_there_is_404_and_a_wrong_method_405(http: aiohttp.ClientSession, key: str):
    async with http.get("/nothing/here", headers=bearer(key)) as reply:
        assert (reply.status, reply.content_type) == (404, "application/problem+json")
    async with http.get("/access/v1/evaluation", headers=bearer(key)) as reply:
        assert reply.status == 405


async def test_readyz_says_what_fails(system: System, http: aiohttp.ClientSession, key: str, monkeypatch):
    async with http.get("/readyz", headers=bearer(key)) as reply:
        assert (reply.status, await reply.json()) == (200, {"ready": True, "failing": [], "warnings": []})
    monkeypatch.setattr(system.store, "writable", lambda: False)
    async with http.get("/readyz", headers=bearer(key)) as reply:
        assert (reply.status, (await reply.json())["ready"]) == (503, False)


async def test_an_error_nobody_expected_has_no_traceback(
    system: System, http: aiohttp.ClientSession, key: str, monkeypatch
):
    def broken(query: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(system.audit, "records", broken)
    async with http.get("/api/v1/audit/records", headers=bearer(key)) as reply:
        text = await reply.text()
    assert reply.status == 500
    assert "secret detail" not in text
    assert "Traceback" not in text


async def test_the_audit_trail_is_readable_over_http(http: aiohttp.ClientSession, key: str):
    question = {"subject": {"type": "user", "id": "alice"}, "action": {"name": "read_file"}}
    question["resource"] = {"type": "tool", "id": "read_file"}
    async with http.post("/access/v1/evaluation", json=question, headers=bearer(key)) as reply:
        trace_id = (await reply.json())["context"]["trace_id"]
    async with http.get("/api/v1/audit/records", params={"trace_id": trace_id}, headers=bearer(key)) as reply:
        assert [record["kind"] for record in (await reply.json())["records"]] == ["decision"]
    async with http.get("/api/v1/activities", params={"user": "alice"}, headers=bearer(key)) as reply:
        assert (await reply.json())["activities"][0]["action"] == "read_file"
    async with http.get("/api/v1/audit/records", params={"limit": "many"}, headers=bearer(key)) as reply:
        assert reply.status == 400
