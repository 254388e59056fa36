"""`/v1/chat/completions` as its callers see it, with a real server on both sides and a model that counts."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.flow.approval import State
from checkrein.model import StoreUnavailable
from checkrein.ports import RecordQuery, Unit
from checkrein.storage.sqlite import SqliteStore
from checkrein.web.server import BackgroundServer
from fakes import FakeModel
from oidc_issuer import OidcIssuer

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def body(text: str, **more: object) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def http(server: str, key: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as session:
        yield session


def kinds(system: System, trace_id: str) -> list[str]:
    return [record.kind for record in system.store.records(RecordQuery(trace_id=trace_id))]


async def test_a_green_prompt_is_forwarded_byte_for_byte_and_recorded(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    sent = b'{ "model":"m", "temperature": 0.70, "messages":[{"role":"user","content":"hi"}] }'
    async with http.post(CHAT, data=sent, headers=JSON) as reply:
        answer = await reply.json()
    assert (reply.status, answer["choices"][0]["message"]["content"]) == (200, "hello")
    assert model.raw == [sent]
    assert kinds(system, reply.headers["x-checkrein-trace-id"]) == [
        "decision",
        "execution.started",
        "execution.finished",
    ]


async def test_the_credential_is_injected_and_the_callers_key_stays_here(
    http: aiohttp.ClientSession, model: FakeModel, key: str
):
    async with http.post(CHAT, json=body("hi"), headers={"cookie": "a=b", "x-api-key": "mine"}):
        pass
    assert model.headers[0]["authorization"] == "Bearer sk-upstream"
    assert key not in json.dumps(model.headers[0])
    assert not {"cookie", "x-api-key"} & set(model.headers[0])


async def test_no_upstream_call_without_a_prior_durable_record(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    seen: list[list[str]] = []
    model.witness = lambda headers: seen.append(kinds(system, headers["traceparent"].split("-")[1]))
    for text in ("hi", "transfer funds now", "send an email to all", "write to a@example.com"):
        async with http.post(CHAT, json=body(text)):
            pass
    assert model.calls == 2
    assert seen == [["decision", "execution.started"]] * 2


async def test_a_store_that_refuses_means_503_and_no_upstream_call(
    system: System, http: aiohttp.ClientSession, model: FakeModel, monkeypatch: pytest.MonkeyPatch
):
    def refuse(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(system.store, "commit", refuse)
        async with http.post(CHAT, json=body("hi")) as reply:
            error = (await reply.json())["error"]
        assert (reply.status, error["code"], reply.headers["retry-after"]) == (503, "record_unavailable", "1")
        assert model.calls == 0
    async with http.post(CHAT, json=body("hi")) as reply:
        assert reply.status == 200


async def test_a_denied_prompt_is_refused_in_openais_words(http: aiohttp.ClientSession, model: FakeModel):
    async with http.post(CHAT, json=body("Transfer  FUNDS to ACME")) as reply:
        error = (await reply.json())["error"]
    assert (reply.status, error["type"], error["code"]) == (403, "policy_denied", "denied")
    assert error["checkrein"]["policies"] == ["no-transfers"]
    assert "draft the transfer" in error["message"]
    assert reply.headers["x-checkrein-trace-id"] == error["checkrein"]["trace_id"]
    assert model.calls == 0


async def test_a_reviewed_prompt_waits_runs_once_when_approved_and_asks_again(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    async with http.post(CHAT, json=body("send an email to all")) as reply:
        error = (await reply.json())["error"]
    assert (reply.status, error["code"], reply.headers["retry-after"]) == (403, "approval_required", "5")
    system.approvals.vote(error["approval_id"], voter="bob", roles=("finance",), approve=True, auth="local")
    async with http.post(CHAT, json=body("send an email to ALL")) as changed:
        assert changed.status == 403
    assert model.calls == 0
    async with http.post(CHAT, json=body("send an email to all")) as reply:
        assert reply.status == 200
    assert system.approvals.get(error["approval_id"]).state is State.USED
    async with http.post(CHAT, json=body("send an email to all")) as reply:
        assert reply.status == 403
    assert model.calls == 1


async def test_asking_for_a_stream_does_not_make_it_another_action(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    async with http.post(CHAT, json=body("send an email to all")) as reply:
        approval_id = (await reply.json())["error"]["approval_id"]
    system.approvals.vote(approval_id, voter="bob", roles=("finance",), approve=True, auth="local")
    async with http.post(CHAT, json=body("send an email to all", stream=True)) as reply:
        assert reply.status == 200


async def test_the_model_sees_placeholders_only(http: aiohttp.ClientSession, model: FakeModel):
    async with http.post(CHAT, json=body("write to jane.doe@example.com", user="jane.doe@example.com")) as reply:
        assert reply.headers["x-checkrein-outcome"] == "allow_with_redaction"
    assert model.bodies[0]["messages"][0]["content"] == "write to <EMAIL_1>"
    assert b"jane.doe" not in model.raw[0]


async def test_what_nobody_knows_and_pictures_go_on_as_they_are_beside_what_is_taken_out(
    http: aiohttp.ClientSession, model: FakeModel
):
    photo = "data:image/jpeg;base64,/9j/AAAA/AKIAIOSFODNN7EXAMPLE/" + "A" * 26
    parts = [{"type": "text", "text": "mail a@example.com"}, {"type": "image_url", "image_url": {"url": photo}}]
    unknown = {"of_tomorrow": [1, 2.5, None, {"x": "y"}]}
    async with http.post(CHAT, json={"model": "m", "messages": [{"role": "user", "content": parts}], **unknown}):
        pass
    (sent,) = model.bodies
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "mail <EMAIL_1>"}, parts[1]]
    assert sent["of_tomorrow"] == unknown["of_tomorrow"]


async def test_a_stream_passes_through_and_its_end_is_recorded_before_its_last_part(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    model.stream = [b'data: {"n":1}\n\n', b'data: {"n":2}\n\n', b"data: [DONE]\n\n"]
    async with http.post(CHAT, json=body("hi", stream=True)) as reply:
        parts = [part async for part in reply.content.iter_any()]
        trace_id = reply.headers["x-checkrein-trace-id"]
    assert b"".join(parts) == b"".join(model.stream)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert kinds(system, trace_id)[-1] == "execution.finished"


async def test_each_part_of_a_stream_is_sent_as_it_comes(http: aiohttp.ClientSession, model: FakeModel):
    model.stream, model.falls_silent = [b'data: {"n":1}\n\n'], True
    async with http.post(CHAT, json=body("hi", stream=True)) as reply:
        assert await reply.content.readany() == b'data: {"n":1}\n\n'


async def test_the_official_client_works_plain_and_streaming(server: str, key: str, model: FakeModel):
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=key, max_retries=0) as client:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "hello"
        chunk = '{"id":"c","object":"chat.completion.chunk","created":0,"model":"m","choices":'
        model.stream = [
            f'data: {chunk}[{{"index":0,"delta":{{"content":"{word}"}},"finish_reason":null}}]}}\n\n'.encode()
            for word in ("one", "two")
        ] + [b"data: [DONE]\n\n"]
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert [part.choices[0].delta.content async for part in stream] == ["one", "two"]
        with pytest.raises(openai.PermissionDeniedError) as denied:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "transfer funds"}])
        assert denied.value.code == "denied"


async def test_when_the_caller_leaves_the_upstream_call_is_dropped_and_recorded_as_cancelled(
    system: System, server: str, key: str, model: FakeModel
):
    model.stream, model.falls_silent = [b'data: {"n":1}\n\n'], True
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(server, headers=headers) as leaving:
        reply = await leaving.post(CHAT, json=body("hi", stream=True))
        trace_id = reply.headers["x-checkrein-trace-id"]
        reply.close()
    async with asyncio.timeout(10):
        while kinds(system, trace_id)[-1] != "execution.finished":
            await asyncio.sleep(0.01)
    *_, last = system.store.records(RecordQuery(trace_id=trace_id))
    assert last.body["status"] == "cancelled"
    assert model.left.wait(timeout=10)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_upstream_call_of_a_caller_that_left_is_dropped_before_a_handful_of_prompts_gets_there(
    system: System, server: str, key: str, model: FakeModel, stream: bool
):
    """By the order of events: a prompt takes some milliseconds, so this is well below the 100 ms that are promised."""
    gone_by: list[bool] = []
    model.stream, model.falls_silent = [b'data: {"n":1}\n\n'], True
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as http:
        leaving = asyncio.ensure_future(http.post(CHAT, json=body("hi", stream=stream)))
        async with asyncio.timeout(30):
            while not model.calls:
                await asyncio.sleep(0)
        if stream:
            (await leaving).close()
        model.stream, model.falls_silent = [], False
        model.witness = lambda headers: gone_by.append(model.left.is_set())
        leaving.cancel()
        await asyncio.wait([leaving])
        for _ in range(5):
            async with http.post(CHAT, json=body("hi")) as reply:
                assert reply.status == 200
    assert gone_by[-1]
    ends = system.store.records(RecordQuery(kinds=("execution.finished",)))
    assert sorted(end.body["status"] for end in ends) == ["cancelled", *["ok"] * 5]


async def test_a_caller_that_leaves_after_a_long_prompt_is_seen_to_leave(
    system: System, server: str, key: str, model: FakeModel
):
    """The server asks for the body, then gets more of it at once than it reads ahead."""
    model.stream, model.falls_silent = [b'data: {"n":1}\n\n'], True
    data = json.dumps(body("word " * 30_000, stream=True)).encode()
    head = [f"POST {CHAT} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}", "Expect: 100-continue"]
    head += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
    url = urlsplit(server)
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write("\r\n".join(head).encode())
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        assert await asyncio.to_thread(model.left.wait, 10)


def result_of(system: System, trace_id: str) -> object:
    """What the sealed payload of the end holds."""
    (end,) = system.store.records(RecordQuery(trace_id=trace_id, kinds=("execution.finished",)))
    return system.payloads.reveal(end.id, person="ann").value


@pytest.fixture
def ann(folder: Path) -> None:
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[people.ann]\nroles = ["auditor"]\n')


@pytest.mark.usefixtures("ann")
async def test_prompt_and_answer_are_kept_for_auditors_and_in_no_record(folder: Path, model_url: str, model: FakeModel):
    upstream = UpstreamConfig(base_url=f"{model_url}/v1")
    system = open_system(folder, upstreams={"fake": upstream})
    _, secret = system.keys.create("alice", by="tests")
    try:
        with BackgroundServer(system.app()) as server:
            async with aiohttp.ClientSession(server.url, headers={"authorization": f"Bearer {secret}"}) as http:
                async with http.post(CHAT, json=body("a telling question")) as reply:
                    whole = reply.headers["x-checkrein-trace-id"]
                model.stream = [b'data: {"said":"a telling answer"}\n\n', b"data: [DONE]\n\n"]
                async with http.post(CHAT, json=body("hi", stream=True)) as reply:
                    streamed = reply.headers["x-checkrein-trace-id"]
                    await reply.read()
        assert result_of(system, whole) == json.loads(model.answer)
        assert result_of(system, streamed) == 'data: {"said":"a telling answer"}\n\ndata: [DONE]\n\n'
        (asked,) = system.store.records(RecordQuery(trace_id=whole, kinds=("decision",)))
        shown = system.payloads.reveal(asked.id, person="ann").value
        assert "a telling question" in json.dumps(shown)
        assert not any(b"a telling" in record.data for record in system.store.records(RecordQuery()))
    finally:
        system.close()


async def test_an_upstreams_error_is_passed_on_and_recorded_as_failed(
    system: System, http: aiohttp.ClientSession, model: FakeModel
):
    model.status, model.answer = 429, b'{"error":{"message":"slow down"}}'
    async with http.post(CHAT, json=body("hi")) as reply:
        assert (reply.status, await reply.json()) == (429, {"error": {"message": "slow down"}})
    *_, last = system.store.records(RecordQuery(trace_id=reply.headers["x-checkrein-trace-id"]))
    assert (last.body["status"], last.body["error"]) == ("failed", "http_429")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"model":"m","model":"n","messages":[{"role":"user"}]}', "twice"),
        (b'{"messages":[{"role":"user","content":"hi"}]}', "`model`"),
        (b'{"model":"m"}', "`messages`"),
        (b'{"model":"m","messages":[]}', "`messages`"),
        (b'{"model":"m","messages":["hi"]}', "`role`"),
        (b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":"yes"}', "`stream`"),
        (b'{"model":"m","n":NaN,"messages":[{"role":"user","content":"hi"}]}', "NaN"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud83d hi"}]}', "surrogate"),
        (b'{"model":"m","messages":[{"role":"user","content":"hi","\\uDC00":1}]}', "surrogate"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested"),
    ],
)
async def test_bad_input_is_a_plain_400_and_reaches_nobody(
    http: aiohttp.ClientSession, model: FakeModel, data: bytes, says: str
):
    async with http.post(CHAT, data=data, headers=JSON) as reply:
        error = (await reply.json())["error"]
    assert (reply.status, error["type"]) == (400, "invalid_request_error")
    assert says in error["message"]
    assert model.calls == 0


async def test_a_body_over_the_limit_is_413(http: aiohttp.ClientSession, model: FakeModel):
    async with http.post(CHAT, data=io.BytesIO(b"x" * (10 * 1024 * 1024)), headers=JSON) as reply:
        assert reply.status == 413
        assert "max_body_bytes" in (await reply.json())["error"]["message"]
    assert model.calls == 0


async def test_a_credential_may_stand_in_a_file(folder: Path, model_url: str, model: FakeModel):
    (folder / "upstream.key").write_text("sk-of-a-file\n")
    given = UpstreamConfig(base_url=f"{model_url}/v1", api_key_file=str(folder / "upstream.key"))
    status, _, _ = await chat_with(folder, {"filed": given})
    assert (status, model.headers[0]["authorization"]) == (200, "Bearer sk-of-a-file")


async def test_a_person_prompts_with_a_token_of_the_companys_issuer(folder: Path, model_url: str, model: FakeModel):
    issuer = OidcIssuer()
    with BackgroundServer(issuer) as serving:
        issuer.url = serving.url
        config = folder / "checkrein.toml"
        config.write_text(f'{config.read_text()}\n[oidc.corp]\nissuer = "{issuer.url}"\naudience = "checkrein"\n')
        system = open_system(folder, upstreams={"m": UpstreamConfig(base_url=f"{model_url}/v1")})
        try:
            with BackgroundServer(system.app()) as server:
                for token, status in ((issuer.token(sub="frank"), 200), (issuer.token(aud="elsewhere"), 401)):
                    headers = {"authorization": f"Bearer {token}"}
                    async with (
                        aiohttp.ClientSession(server.url, headers=headers) as http,
                        http.post(CHAT, json=body("hi")) as reply,
                    ):
                        assert reply.status == status
            assert model.calls == 1
            assert {row.user for row in system.audit.activities()} == {"frank"}
        finally:
            system.close()


async def chat_with(folder: Path, upstreams: dict[str, UpstreamConfig]) -> tuple[int, dict[str, Any], System]:
    """One prompt through a Checkrein with these upstreams: the status, the error, and the closed system."""
    system = open_system(folder, upstreams=upstreams)
    try:
        _, secret = system.keys.create("alice", by="tests")
        headers = {"authorization": f"Bearer {secret}"}
        with BackgroundServer(system.app()) as server:
            async with (
                aiohttp.ClientSession(server.url, headers=headers) as http,
                http.post(CHAT, json=body("hi")) as reply,
            ):
                return reply.status, (await reply.json()).get("error", {}), system
    finally:
        system.close()


async def test_an_upstream_that_cannot_be_reached_is_502_and_recorded_as_failed(folder: Path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = UpstreamConfig(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        status, error, system = await chat_with(folder, {"gone": nobody})
    assert (status, error["code"]) == (502, "upstream_unavailable")
    assert "cannot be reached" in error["message"]
    reader = SqliteStore.open_readonly(system.data)
    try:
        *_, last = reader.records(RecordQuery())
    finally:
        reader.close()
    assert (last.kind, last.body["status"], last.body["error"]) == (
        "execution.finished",
        "failed",
        "UpstreamUnreachable",
    )


async def test_a_model_that_nobody_serves_is_404_and_says_which_are(folder: Path):
    other = UpstreamConfig(base_url="http://127.0.0.1:9/v1", models=("gpt-*",))
    status, error, _ = await chat_with(folder, {"other": other})
    assert (status, error["code"]) == (404, "model_not_found")
    assert "gpt-*" in error["message"]
    status, error, _ = await chat_with(folder, {})
    assert status == 404
    assert "[upstreams.NAME]" in error["message"]
