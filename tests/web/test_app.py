"""Who may call, which hosts are ours, and answers in the protocol's own words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest

from checkrein.compose import System
from checkrein.model import Permission


@pytest.fixture
def routes(system: System) -> Mapping[str, tuple[str, ...]]:
    """The methods of every path."""
    return {re.sub("{.*}", "apr_1", path): methods for path, methods in system.app().routes.items()}


@pytest.fixture
async def http(server: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server) as session:
        yield session


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("headers", [{}, bearer("crk_wrong"), {"authorization": "Basic eA=="}, bearer("")])
async def test_every_route_needs_a_key(
    http: aiohttp.ClientSession, routes: Mapping[str, tuple[str, ...]], headers: dict[str, str]
):
    for path, methods in {**routes, "/nothing/here": ("GET",)}.items():
        if path == "/approvals/apr_1":  # a page asks for the key itself
            continue
        async with http.request(methods[0], path, headers=headers) as reply:
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
        ("GET", "/api/v1/audit/records", Permission.METRICS),
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


async def raw(server: str, key: str, *headers: str) -> int:
    """The status of `/healthz` with exactly these headers beside the key."""
    host, port = server.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = ["GET /healthz HTTP/1.1", f"Authorization: Bearer {key}", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    status = int((await reader.readline()).split()[1])
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return status


@pytest.mark.parametrize(
    "host",
    ["localhost:", "localhost:a", "localhost:99999", "localhost:80:80", "evil@localhost", "localhost/", "localhost,e",
     "[::1", "::1", "[]", "localhost.", ".localhost", "127.0.0.1 evil", "127.1", "http://localhost", "localhost\xe9"],
)  # fmt: skip
async def test_an_odd_host_is_refused(server: str, key: str, host: str):
    assert await raw(server, key, f"Host: {host}") in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8642", "10.0.0.7:1"])
async def test_a_plain_host_of_ours_is_served(server: str, key: str, host: str):
    assert await raw(server, key, f"Host: {host}") == 200


async def test_a_host_or_an_origin_that_stands_twice_is_refused(server: str, key: str):
    assert await raw(server, key, "Host: localhost", "Host: localhost") in (400, 403)
    assert await raw(server, key) in (400, 403)
    own = "Origin: http://localhost"
    assert await raw(server, key, "Host: localhost", own) == 200
    assert await raw(server, key, "Host: localhost", own, own) == 403
    assert await raw(server, key, "Host: localhost", own, "Origin: https://evil.example") == 403
    assert await raw(server, key, "Host: localhost", "Origin: null") == 403
    assert await raw(server, key, "Host: localhost", "Origin: file://localhost") == 403


async def test_a_page_of_another_origin_is_refused(http: aiohttp.ClientSession, key: str):
    async with http.get("/healthz", headers={**bearer(key), "origin": "https://evil.example"}) as reply:
        assert reply.status == 403
    own = str(http._base_url).rstrip("/")
    async with http.get("/healthz", headers={**bearer(key), "origin": own}) as reply:
        assert reply.status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/access/v1/requests"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""]
)
async def test_what_is_not_declared_as_json_is_415(http: aiohttp.ClientSession, key: str, path: str, kind: str):
    async with http.post(path, data=b"{}", headers={**bearer(key), "content-type": kind}) as reply:
        assert reply.status == 415
        assert "application/json" in await reply.text()


async def test_what_is_not_there_is_404_in_the_words_of_its_protocol(http: aiohttp.ClientSession, key: str):
    async with http.get("/nothing/here", headers=bearer(key)) as reply:
        assert (reply.status, reply.content_type) == (404, "application/problem+json")
        assert "/openapi.json" in (await reply.json())["detail"]
    for path in ("/v1/nothing", "/v1/chat/completions/", "/v1/"):
        async with http.post(path, headers=bearer(key), json={}) as reply:
            error = (await reply.json())["error"]
        assert (reply.status, error["type"], error["code"]) == (404, "invalid_request_error", "not_found")
        assert "model" not in error["message"]


async def test_a_wrong_method_is_405_and_says_which_are_right(
    http: aiohttp.ClientSession, key: str, routes: Mapping[str, tuple[str, ...]]
):
    for path, methods in routes.items():
        for wrong in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - {*methods}:
            async with http.request(wrong, path, headers=bearer(key)) as reply:
                assert (reply.status, reply.headers["allow"]) == (405, ", ".join(methods)), path


async def test_readyz_says_what_fails(system: System, http: aiohttp.ClientSession, key: str, monkeypatch):
    async with http.get("/readyz", headers=bearer(key)) as reply:
        assert (reply.status, await reply.json()) == (200, {"ready": True, "failing": [], "warnings": []})
    monkeypatch.setattr(system.store, "writable", lambda: False)
    async with http.get("/readyz", headers=bearer(key)) as reply:
        assert (reply.status, (await reply.json())["ready"]) == (503, False)


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/api/v1/audit/records", "audit.records"),
        ("/v1/chat/completions", "gateway.action"),
        ("/access/v1/evaluation", "gateway.evaluate"),
    ],
)
async def test_an_error_nobody_expected_is_a_plain_500_and_the_log_has_it_under_its_trace(
    system: System,
    http: aiohttp.ClientSession,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    where: str,
):
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a secret detail")

    noun, _, verb = where.partition(".")
    monkeypatch.setattr(getattr(system, noun), verb, broken)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {**bearer(key), "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    asked = {"subject": {"type": "user", "id": "a"}, "action": {"name": "a"}, "resource": {"type": "a", "id": "a"}}
    asked |= {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    method, given = ("GET", {}) if path.startswith("/api/") else ("POST", {"json": asked})
    async with http.request(method, path, headers=headers, **given) as reply:  # type: ignore[arg-type]
        text = await reply.text()
    assert (reply.status, reply.headers["x-checkrein-trace-id"]) == (500, trace_id)
    assert trace_id in text
    assert "secret detail" not in text
    assert "Traceback" not in text
    if path.startswith("/v1/"):
        assert json.loads(text)["error"]["code"] == "internal_error"
    assert trace_id in caplog.text
    assert "a secret detail" in caplog.text


async def test_the_audit_trail_is_readable_over_http(http: aiohttp.ClientSession, key: str):
    question = {"subject": {"type": "user", "id": "alice"}, "action": {"name": "read_file"}}
    question["resource"] = {"type": "tool", "id": "read_file"}
    async with http.post("/access/v1/evaluation", json=question, headers=bearer(key)) as reply:
        trace_id = (await reply.json())["context"]["trace_id"]
    async with http.get("/api/v1/audit/records", params={"trace_id": trace_id}, headers=bearer(key)) as reply:
        assert [record["kind"] for record in (await reply.json())["records"]] == ["decision"]
    async with http.get("/api/v1/activities", params={"user": "alice"}, headers=bearer(key)) as reply:
        assert (await reply.json())["activities"][0]["action"] == "read_file"


async def test_records_are_filtered_over_http_as_on_the_command_line(http: aiohttp.ClientSession, key: str):
    inputs: dict[str, dict[str, object]] = {"read_file": {"path": "a"}, "transfer_funds": {"to": "ACME", "amount": 5}}
    for name, given in inputs.items():
        action = {"name": name, "properties": {"input": given}}
        question = {"subject": {"type": "user", "id": "alice"}, "action": action}
        question["resource"] = {"type": "tool", "id": name}
        async with http.post("/access/v1/evaluation", json=question, headers=bearer(key)) as reply:
            assert reply.status == 200

    async def found(**filters: str) -> list[str]:
        async with http.get("/api/v1/audit/records", params=filters, headers=bearer(key)) as reply:
            assert reply.status == 200
            return [record["body"]["action"]["name"] for record in (await reply.json())["records"]]

    assert await found(kind="decision") == ["transfer_funds", "read_file"]
    assert await found(policy="no-transfers", since="1h") == ["transfer_funds"]
    assert await found(policy="use-tools", outcome="allow") == ["read_file"]
    assert await found(policy="no-transfers", until="1h") == []
    assert await found(approval="apr_none") == []


async def test_a_filter_that_is_not_understood_is_refused(http: aiohttp.ClientSession, key: str):
    records, activities = "/api/v1/audit/records", "/api/v1/activities"
    for path, filters in (
        (records, {"usr": "alice"}),
        (records, {"outcome": "perhaps"}),
        (records, {"since": "yesterday"}),
        (records, {"since": "1h", "until": "2h"}),
        (records, {"limit": "many"}),
        (records, {"order": "ascending"}),
        (activities, {"agent": "bot"}),
        (activities, {"limit": "0"}),
    ):
        async with http.get(path, params=filters, headers=bearer(key)) as reply:
            assert reply.status == 400, filters
            assert (await reply.json())["detail"]
