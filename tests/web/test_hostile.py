"""Callers and upstreams that mean harm, or just break: what each gets, and what is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.ports import RecordQuery
from checkrein.web import answer, body, protocol
from checkrein.web.server import BackgroundServer
from fakes import FakeModel, chunk, streamed

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def dialled(server: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    url = urlsplit(server)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # what is still to be sent would keep it open
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def sent(server: str, data: bytes) -> bytes:
    """All that comes back until the server hangs up, or falls silent on a connection that it keeps."""
    async with dialled(server) as (reader, writer):
        writer.write(data)
        said = b""
        async with asyncio.timeout(30):
            while part := await reader.read(65536):
                said += part
                if b"\r\n\r\n" in said and b"connection: close" not in said.lower():
                    break
        return said


def head(key: str, *more: str, host: str = "localhost") -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {key}", *more]
    return "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()


def records(system: System) -> list[str]:
    return [record.kind for record in system.store.records(RecordQuery())]


def key_id(system: System) -> str:
    (key,) = system.keys.all()
    return key.id


def assert_refused(system: System, reason: str, *, key: str = "", count: int = 1) -> None:
    """Nothing was decided; it is counted, and the ledger tells of it once."""
    assert system.gateway.live.seen().refused == {reason: count}
    system.refusals.flush()
    (told,) = system.store.records(RecordQuery(kinds=("system.refused",)))
    assert (told.body["detail"]["reason"], told.body["detail"]["count"]) == (reason, count)
    assert told.body.get("caller", "") == key
    assert "decision" not in records(system)


async def ended(system: System) -> Any:
    """The end of the only prompt, once it is recorded."""
    async with asyncio.timeout(30):
        while not (found := [*system.store.records(RecordQuery(kinds=("execution.finished",)))]):
            await asyncio.sleep(0.01)
    return found[-1].body


# --- callers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        ["Content-Length: 10", "Transfer-Encoding: chunked"],
        ["Content-Length: 10", "Content-Length: 11"],
        ["Content-Length: +10"],
        ["Content-Length: 1 0"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Bad Header: x"],
        ["Content-Length : 10"],
        ["X: a\nTransfer-Encoding: chunked"],
        ["X: a\0b"],
    ],
    ids=lambda more: ", ".join(more)[:50],
)
async def test_a_request_of_which_two_readers_could_see_two_is_refused(
    server: str, key: str, system: System, model: FakeModel, more: list[str]
):
    hidden = head(key, "Content-Length: 2") + b"{}"
    said = await sent(server, head(key, *more) + hidden)
    assert said.split()[1] in (b"400", b"403")
    assert said.count(b"HTTP/1.1 ") == 1
    assert model.calls == 0
    assert_refused(system, "malformed")


@pytest.mark.parametrize("target", ["http://evil.example/healthz", "http://localhost/healthz", "*", "localhost:80"])
async def test_a_target_that_could_name_another_host_than_the_head_does_is_refused(
    server: str, key: str, system: System, target: str
):
    said = await sent(
        server, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    )
    assert said.startswith(b"HTTP/1.1 400 ")
    assert_refused(system, "malformed")


async def test_what_follows_a_body_is_no_header(server: str, key: str, system: System):
    """A key in a trailer opens nothing: a proxy before us may have taken the header of that name away."""
    lines = ["GET /healthz HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", "", "0"]
    said = await sent(server, "\r\n".join([*lines, f"Authorization: Bearer {key}", "", ""]).encode())
    assert said.startswith(b"HTTP/1.1 401 ")
    assert_refused(system, "key")


@pytest.mark.parametrize("endless", [b"X: " + b"x" * 200_000, b"X: x\r\n" * 40_000, b"1;x=" + b"x" * 200_000])
async def test_what_stands_around_the_chunks_of_a_body_is_bounded(
    server: str, key: str, system: System, endless: bytes
):
    begun = b"" if endless.startswith(b"1;") else b"0\r\n"
    async with dialled(server) as (reader, writer):
        writer.write(head(key, "Transfer-Encoding: chunked") + begun)
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(endless), 50_000):
                writer.write(endless[start : start + 50_000])
                await writer.drain()
            await reader.read()
    async with asyncio.timeout(30):
        while not system.gateway.live.seen().refused:
            await asyncio.sleep(0.01)
    assert_refused(system, "head_too_large")


async def test_a_body_in_very_small_chunks_is_a_body(server: str, key: str, model: FakeModel):
    data = json.dumps({**HELLO, "padding": "x" * 30_000}).encode()
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in data)
    said = await sent(server, head(key, "Transfer-Encoding: chunked", "Connection: close") + pieces + b"0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert model.raw == [data]


async def trickle(writer: asyncio.StreamWriter) -> None:
    """Send a byte now and then, until nobody takes it any more."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)


async def test_a_body_that_trickles_on_after_its_answer_is_cut_off(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(protocol, "LINGER_S", 0.2)
    async with dialled(server) as (reader, writer):
        writer.write(head("no-key", "Content-Length: 1000"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        trickling = asyncio.ensure_future(trickle(writer))
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        await asyncio.wait_for(trickling, 30)


@pytest.mark.parametrize("more", [["Origin: https://evil.example"], ["Origin: null"]])
async def test_a_page_of_another_origin_gets_nothing(
    server: str, key: str, system: System, model: FakeModel, more: list[str]
):
    data = json.dumps(HELLO).encode()
    said = await sent(server, head(key, *more, f"Content-Length: {len(data)}", "Connection: close") + data)
    assert said.split()[1] == b"403"
    assert model.calls == 0
    assert_refused(system, "origin")


async def test_a_host_that_is_not_ours_gets_nothing(server: str, key: str, system: System, model: FakeModel):
    data = json.dumps(HELLO).encode()
    given = head(key, f"Content-Length: {len(data)}", "Connection: close", host="evil.example")
    assert (await sent(server, given + data)).split()[1] == b"403"
    assert model.calls == 0
    assert_refused(system, "host")


async def test_a_key_that_opens_nothing_gets_nothing_and_is_in_no_record(server: str, system: System, model: FakeModel):
    data = json.dumps(HELLO).encode()
    guess = "crk_a-guess-of-somebody"
    for _ in range(3):
        said = await sent(server, head(guess, f"Content-Length: {len(data)}", "Connection: close") + data)
        assert said.split()[1] == b"401"
    assert model.calls == 0
    assert_refused(system, "key", count=3)
    assert not any(guess.encode() in record.data for record in system.store.records(RecordQuery()))


@pytest.mark.parametrize("said", [b"[]", b'{"model":"m","model":"n","messages":[]}', b"\xff", b'{"model":"nobody"}'])
async def test_a_body_that_is_no_prompt_is_told_under_the_key_it_came_with(
    server: str, key: str, system: System, model: FakeModel, said: bytes
):
    answer = await sent(server, head(key, f"Content-Length: {len(said)}", "Connection: close") + said)
    assert answer.split()[1] == b"400"
    assert model.calls == 0
    assert_refused(system, "bad_request", key=key_id(system))


async def test_a_body_that_is_said_to_be_too_long_is_not_even_read(server: str, key: str, system: System):
    said = await sent(server, head(key, "Content-Length: 104857600", "Expect: 100-continue"))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert_refused(system, "body_too_large", key=key_id(system))


async def test_a_body_without_end_is_cut_off_and_not_kept(
    server: str, key: str, system: System, model: FakeModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(protocol, "LINGER_S", 0.05)
    async with dialled(server) as (reader, writer):
        writer.write(head(key, "Transfer-Encoding: chunked"))
        answer = asyncio.ensure_future(reader.read(1000))
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)  # so that the answer is read meanwhile
        assert (await answer).split()[1] == b"413"
    assert model.calls == 0
    assert_refused(system, "body_too_large", key=key_id(system))


async def test_a_head_that_does_not_end_is_cut_off(server: str, system: System, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", 0.2)
    for begun in (b"", b"POST / HTTP/1.1\r\nHost: localhost\r\nX: "):
        assert (await sent(server, begun)).startswith(b"HTTP/1.1 408 ")
    async with dialled(server) as (reader, writer):  # also the second head on a connection
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"}")
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        async with asyncio.timeout(30):
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    seen = system.gateway.live.seen().refused
    assert (seen.pop("head_too_slow"), seen.pop("key"), seen) == (3, 1, {})
    system.refusals.flush()
    told = [record.body["detail"] for record in system.store.records(RecordQuery(kinds=("system.refused",)))]
    assert {detail["reason"]: detail["count"] for detail in told} == {"head_too_slow": 3, "key": 1}


async def test_a_head_that_is_too_long_is_cut_off(server: str, system: System):
    said = await sent(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert_refused(system, "head_too_large")


async def test_a_body_that_trickles_is_cut_off(server: str, key: str, system: System, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body, "READ_TIMEOUT", 0.2)
    said = await sent(server, head(key, "Content-Length: 1000") + b"{")
    assert said.split()[1] == b"400"
    assert b"took too long" in said
    assert_refused(system, "body_too_slow", key=key_id(system))


async def test_a_caller_that_does_not_read_is_hung_up_on_and_its_upstream_call_dropped(
    server: str, key: str, system: System, model: FakeModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answer, "PATIENCE_S", 0.3)
    model.stream = [chunk({"content": "x y " * 16_000})] * 400
    data = json.dumps({**HELLO, "stream": True}).encode()
    url = urlsplit(server)
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((url.hostname, url.port))
        lazy.sendall(head(key, f"Content-Length: {len(data)}") + data)
        end = await ended(system)
        assert (end["status"], end["error"]) == ("cancelled", "TooSlow")
        lazy.settimeout(30)
        heard = 0
        with contextlib.suppress(ConnectionError):
            while part := lazy.recv(65536):
                heard += len(part)
    assert heard < sum(map(len, model.stream))  # what was still to be sent is not waited for


# --- upstreams -----------------------------------------------------------------------------------------------------


@pytest.fixture
def faulty(folder: Path) -> Iterator[Callable[[bytes], tuple[System, str, str]]]:
    """A Checkrein before an upstream that says these very bytes and hangs up."""
    opened: list[Any] = []

    def behind(said: bytes) -> tuple[System, str, str]:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        system = open_system(folder, upstreams={"bad": UpstreamConfig(base_url=f"http://127.0.0.1:{port}/v1")})
        _, secret = system.keys.create("alice", by="tests")
        running = BackgroundServer(system.app())
        opened.extend([system.close, lambda: running.__exit__(None, None, None), listener.close])
        running.__enter__()
        return system, running.url, secret

    yield behind
    for close in reversed(opened):
        close()


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


async def test_what_a_caller_does_not_read_is_not_read_from_upstream_either(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answer, "PATIENCE_S", 0.5)
    part, parts, sent = chunked(chunk({"content": "x y " * 40_000})), 400, 0

    def serve() -> None:
        nonlocal sent
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(SSE)
            for _ in range(parts):
                connection.sendall(part)
                sent += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        serving = threading.Thread(target=serve)
        serving.start()
        system = open_system(folder, upstreams={"endless": UpstreamConfig(base_url=address)})
        _, secret = system.keys.create("alice", by="tests")
        data = json.dumps({**HELLO, "stream": True}).encode()
        with contextlib.closing(system), BackgroundServer(system.app()) as server, socket.socket() as lazy:
            url = urlsplit(server.url)
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((url.hostname, url.port))
            lazy.sendall(head(secret, f"Content-Length: {len(data)}") + data)
            assert (await ended(system))["error"] == "TooSlow"
            await asyncio.to_thread(serving.join, 30)
    assert 0 < sent < parts / 2  # what the sockets between hold is no more than some megabytes of 64


@pytest.mark.parametrize(
    "said",
    [
        SSE + chunked(chunk({"content": "so far "})),
        SSE + chunked(chunk({"content": "so far "})) + b"0\r\n\r\n",
        SSE.replace(b"Transfer-Encoding: chunked", b"Connection: close") + chunk({"content": "so far "}),
    ],
    ids=["within its chunks", "by the rules of HTTP", "of which nobody knows how long it is"],
)
async def test_an_upstream_that_goes_amid_its_stream_is_told_of_and_recorded(
    faulty: Callable[[bytes], tuple[System, str, str]], said: bytes
):
    system, url, secret = faulty(said)
    async with (
        aiohttp.ClientSession(url, headers={"authorization": f"Bearer {secret}"}) as http,
        http.post(CHAT, json={**HELLO, "stream": True}) as reply,
    ):
        said = await reply.read()
    assert b"[DONE]" not in said
    assert b"broken_stream" in said
    end = await ended(system)
    assert (end["status"], end["error"]) == ("failed", "UpstreamUnavailable")


async def test_a_call_that_broke_off_is_never_seen(faulty: Callable[[bytes], tuple[System, str, str]]):
    pieces = streamed(("read_file", {"path": "secret.txt"}))[:-2]
    system, url, secret = faulty(SSE + chunked(*pieces) + b"0\r\n\r\n")
    async with (
        aiohttp.ClientSession(url, headers={"authorization": f"Bearer {secret}"}) as http,
        http.post(CHAT, json={**HELLO, "stream": True}) as reply,
    ):
        said = await reply.read()
    assert b"read_file" not in said
    assert b"broken_stream" in said
    assert (await ended(system))["status"] == "failed"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x00\xff garbage",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        WHOLE + b'{"choices":',
        WHOLE.replace(b"500", b"11") + b"no JSON now",
        WHOLE.replace(b"500", b"0"),
    ],
    ids=lambda said: repr(said[:20]),
)
async def test_garbage_from_an_upstream_is_a_502_and_recorded_as_failed(
    faulty: Callable[[bytes], tuple[System, str, str]], said: bytes
):
    system, url, secret = faulty(said)
    async with (
        aiohttp.ClientSession(url, headers={"authorization": f"Bearer {secret}"}) as http,
        http.post(CHAT, json=HELLO) as reply,
    ):
        assert reply.status == 502
        assert (await reply.json())["error"]["code"] == "upstream_unavailable"
    assert (await ended(system))["status"] == "failed"


@pytest.mark.parametrize(
    "said",
    [
        b'data: {"choices":\n\n',
        b"data: [1]\n\n",
        b"data: \xff\xfe\n\n",
        b"data: " + b"x" * 20_000_000,
    ],
    ids=lambda said: repr(said[:20]),
)
async def test_garbage_in_a_stream_of_an_upstream_breaks_it_off_and_is_recorded_as_failed(
    faulty: Callable[[bytes], tuple[System, str, str]], said: bytes
):
    system, url, secret = faulty(SSE + chunked(chunk({"content": "so far "}), said) + b"0\r\n\r\n")
    async with (
        aiohttp.ClientSession(url, headers={"authorization": f"Bearer {secret}"}) as http,
        http.post(CHAT, json={**HELLO, "stream": True}) as reply,
    ):
        told = await reply.read()
    assert b"broken_stream" in told
    assert b"[DONE]" not in told
    assert (await ended(system))["status"] == "failed"
