"""What crosses to an upstream and back, and what becomes of a server that misbehaves; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from aiohttp import web

from checkrein.connectors.http import HttpUpstream, Timeouts
from checkrein.model import BadRequest, ConfigError, UpstreamUnavailable, UpstreamUnreachable
from checkrein.ports import Reply, Upstream

SECRET = "sk-very-secret-credential"
SHORT = Timeouts(connect=2, first_byte=0.2, idle=0.2, total=10)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def speaking(handler: Handler, timeouts: Timeouts | None = None) -> AsyncIterator[HttpUpstream]:
    """An upstream whose server does exactly what `handler` writes, once the request's headers are in."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = HttpUpstream("bank", f"http://127.0.0.1:{port}", credential=SECRET, timeouts=timeouts)
    async with server:
        try:
            yield upstream
        finally:
            await upstream.close()


@contextlib.asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The address of a real HTTP server whose every path is `handler`."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def everything(reply: Reply) -> bytes:
    return b"".join([chunk async for chunk in reply.body()])


async def echo(request: web.Request) -> web.Response:
    return web.json_response({"path": request.path_qs, "method": request.method, "headers": dict(request.headers)})


async def test_the_body_is_posted_and_the_answer_comes_back() -> None:
    async def shout(request: web.Request) -> web.Response:
        return web.Response(status=418, body=(await request.read()).upper(), content_type="text/plain")

    async with serving(shout) as url:
        upstream: Upstream = HttpUpstream("bank", url)
        reply = await upstream.send("/v1/chat/completions", b"hello", {})
        assert reply.status == 418
        assert reply.headers["content-type"].startswith("text/plain")
        assert await everything(reply) == b"HELLO"
        await upstream.close()


async def test_the_credential_is_injected_and_the_callers_never_crosses() -> None:
    seen: list[dict[str, str]] = []

    async def note(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response()

    theirs = {
        "Authorization": "Bearer the-callers-own",
        "Cookie": "session=1",
        "Connection": "x-secret-hop",
        "X-Secret-Hop": "1",
        "X-Forwarded-For": "10.0.0.1",
        "Host": "elsewhere.example",
        "Proxy-Authorization": "Basic xx",
        "Content-Type": "application/json; charset=utf-8",
        "Traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    }
    async with serving(note) as url:
        upstream = HttpUpstream("bank", url, credential=SECRET)
        await everything(await upstream.send("/v1/x", b"{}", theirs))
        await upstream.close()
    (got,) = seen
    assert got["authorization"] == f"Bearer {SECRET}"
    assert got["content-type"] == theirs["Content-Type"]
    assert got["traceparent"] == theirs["Traceparent"]
    assert got["host"] in url
    assert not {"cookie", "x-secret-hop", "x-forwarded-for", "proxy-authorization"} & got.keys()
    assert "the-callers-own" not in str(got)


async def test_a_credential_may_go_out_in_another_header() -> None:
    async with serving(echo) as url:
        upstream = HttpUpstream("bank", url, credential=SECRET, credential_header="X-API-Key")
        body = await everything(await upstream.send("/v1/x", b"{}", {"authorization": "Bearer mine"}))
        await upstream.close()
    assert SECRET.encode() in body
    assert b"Bearer" not in body


async def test_no_header_of_a_caller_stands_in_for_the_credential() -> None:
    async with serving(echo) as url:
        upstream = HttpUpstream("bank", url, credential=SECRET, credential_header="OpenAI-Beta")
        body = await everything(await upstream.send("/v1/x", b"{}", {"openai-beta": "theirs", "user-agent": "theirs"}))
        await upstream.close()
    assert SECRET.encode() in body
    assert b"theirs" not in body


async def test_only_listed_headers_come_back() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(
            headers={
                "Set-Cookie": "a=b",
                "X-Request-Id": "r-1",
                "X-RateLimit-Remaining": "9",
                "X-Internal": "host-7",
                "Retry-After": "3",
            }
        )

    async with serving(answer) as url:
        upstream = HttpUpstream("bank", url)
        reply = await upstream.send("/v1/x", b"", {})
        await everything(reply)
        await upstream.close()
    assert reply.headers["x-request-id"] == "r-1"
    assert reply.headers["x-ratelimit-remaining"] == "9"
    assert reply.headers["retry-after"] == "3"
    assert not {"set-cookie", "x-internal", "server", "connection", "content-length"} & reply.headers.keys()


async def test_get_reads_a_list() -> None:
    async with serving(echo) as url:
        upstream = HttpUpstream("bank", url)
        body = await everything(await upstream.get("/v1/models", {}))
        await upstream.close()
    assert b'"method": "GET"' in body
    assert b'"path": "/v1/models"' in body


@pytest.mark.parametrize(
    ("base", "path", "wanted"),
    [
        ("", "/v1/models", "/v1/models"),
        ("/", "/v1/models", "/v1/models"),
        ("/v1", "/v1/models", "/v1/models"),
        ("/v1/", "/v1/models", "/v1/models"),
        ("/team/v1", "/v1/models?limit=2", "/team/v1/models?limit=2"),
        ("/v1", "/tools/invoke", "/v1/tools/invoke"),
        ("", "/v1/models/openclaw%2Fmain", "/v1/models/openclaw%2Fmain"),
    ],
)
async def test_the_path_is_appended_and_v1_not_repeated(base: str, path: str, wanted: str) -> None:
    async with serving(echo) as url:
        upstream = HttpUpstream("bank", url + base)
        body = await everything(await upstream.send(path, b"", {}))
        await upstream.close()
    assert f'"path": "{wanted}"'.encode() in body


@pytest.mark.parametrize(
    "path",
    [
        "",
        "v1/x",
        "/../admin",
        "/v1/%2e%2E/admin",
        "/v1/.",
        "/v1/x y",
        "/v1/x\r\nHost: a",
        "/v1/\u00e9",
        "@evil",
    ],
)
async def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    upstream = HttpUpstream("bank", "http://127.0.0.1:1")
    with pytest.raises(BadRequest, match="path"):
        await upstream.send(path, b"", {})


async def test_a_header_that_is_not_plain_text_is_refused() -> None:
    upstream = HttpUpstream("bank", "http://127.0.0.1:1")
    with pytest.raises(BadRequest, match="`accept`"):
        await upstream.send("/v1/x", b"", {"Accept": "a\r\nX-Evil: 1"})


async def test_chunks_arrive_as_the_upstream_writes_them() -> None:
    go_on = asyncio.Event()

    async def two_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"data: 2\n\n")
        await writer.drain()

    async with speaking(two_parts) as upstream:
        reply = await upstream.send("/v1/x", b"{}", {})
        chunks = aiter(reply.body())
        assert await anext(chunks) == b"data: 1\n\n"
        go_on.set()
        assert await anext(chunks) == b"data: 2\n\n"
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


async def test_a_big_body_crosses_both_ways() -> None:
    async def mirror(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    big = b"0123456789abcdef" * 1024 * 640
    async with serving(mirror) as url:
        upstream = HttpUpstream("bank", url)
        assert await everything(await upstream.send("/v1/x", big, {})) == big
        await upstream.close()


async def test_connections_are_kept_and_sent_without_delay() -> None:
    ports = set()

    async def note(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.Response(text="ok")

    async with serving(note) as url:
        upstream = HttpUpstream("bank", url)
        for _ in range(3):
            await everything(await upstream.send("/v1/x", b"", {}))
        assert len(ports) == 1
        session = upstream._session
        assert session is not None
        assert session.connector is not None
        idle = [protocol for pool in session.connector._conns.values() for protocol, _ in pool]
        assert idle
        for protocol in idle:
            assert protocol.transport is not None
            raw = protocol.transport.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await upstream.close()


async def test_closing_a_reply_ends_the_upstreams_work_at_once() -> None:
    dropped = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await reader.read()
        dropped.set()

    async with speaking(endless) as upstream:
        reply = await upstream.send("/v1/x", b"", {})
        await reply.close()
        await asyncio.wait_for(dropped.wait(), 5)


async def test_cancelling_a_request_drops_the_connection() -> None:
    arrived, dropped = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        dropped.set()

    async with speaking(silent) as upstream:
        task = asyncio.create_task(upstream.send("/v1/x", b"", {}))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(dropped.wait(), 5)


async def write_and_leave(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "broke off before it answered"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "did not answer in HTTP"),
        (b"\x00\xff\xfe garbage", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "did not answer in HTTP"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
            "status 302",
        ),
    ],
    ids=["nothing", "another protocol", "bytes", "endless header", "redirect"],
)
async def test_an_answer_that_is_none_is_an_unavailable_upstream(answer: bytes, says: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write_and_leave(writer, answer)

    async with speaking(speak) as upstream:
        with pytest.raises(UpstreamUnavailable, match=says) as caught:
            await upstream.send("/v1/x", b"", {})
    assert caught.value.hint
    assert "`bank`" in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhalf",
    ],
    ids=["short", "unfinished chunks", "broken chunk", "broken compression"],
)
async def test_an_upstream_that_breaks_off_in_its_body_is_never_a_whole_answer(answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write_and_leave(writer, answer)

    async with speaking(speak) as upstream:
        # where all of it comes at once, the broken chunk is met together with the headers
        with pytest.raises(UpstreamUnavailable, match=r"broke off in its answer|did not answer in HTTP"):
            await everything(await upstream.send("/v1/x", b"", {}))


@contextlib.contextmanager
def crowded() -> Iterator[int]:
    """The port of a server before which so many wait that it takes nobody in."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as waiting:
        with contextlib.suppress(TimeoutError):
            while True:
                waiting.enter_context(socket.create_connection(listener.getsockname(), timeout=0.3))
        yield listener.getsockname()[1]


async def test_an_upstream_that_takes_no_connection_is_given_up_and_nothing_ran_there() -> None:
    with crowded() as port:
        upstream = HttpUpstream("bank", f"http://127.0.0.1:{port}", timeouts=Timeouts(connect=0.2))
        with pytest.raises(UpstreamUnreachable, match=r"accepted no connection within 0\.2 s"):
            await upstream.send("/v1/x", b"", {})
        await upstream.close()


async def test_a_silent_upstream_is_given_up_before_the_first_byte() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with speaking(silent, SHORT) as upstream:
        with pytest.raises(UpstreamUnavailable, match=r"did not begin to answer within 0\.2 s"):
            await upstream.send("/v1/x", b"", {})


async def test_a_stream_that_falls_silent_is_given_up() -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write_and_leave(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await reader.read()

    async with speaking(stall, SHORT) as upstream:
        reply = await upstream.send("/v1/x", b"", {})
        with pytest.raises(UpstreamUnavailable, match=r"sent nothing for 0\.2 s"):
            await everything(reply)


@pytest.mark.parametrize(("piece", "pause"), [(b"x", 0.01), (b"x" * 100_000, 0)], ids=["drip", "flood"])
async def test_a_stream_that_never_ends_is_given_up_in_the_end(piece: bytes, pause: float) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write_and_leave(writer, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            await write_and_leave(writer, piece)
            await asyncio.sleep(pause)

    async with speaking(endless, Timeouts(first_byte=5, idle=5, total=0.2)) as upstream:
        reply = await upstream.send("/v1/x", b"", {})
        with pytest.raises(UpstreamUnavailable, match="took too long to finish"):
            async for _ in reply.body():
                pass


async def test_nobody_listening_is_an_error_that_shows_no_secret_and_no_address() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = held.getsockname()[1]
        upstream = HttpUpstream("bank", f"http://127.0.0.1:{port}", credential=SECRET)
        with pytest.raises(UpstreamUnavailable, match="the upstream `bank` cannot be reached") as caught:
            await upstream.send("/v1/x", b"", {})
        await upstream.close()
    assert "`base_url` of `bank`" in caught.value.hint
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(upstream)
    assert SECRET not in shown
    assert str(port) not in str(caught.value)


async def test_no_failure_shows_the_credential() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write_and_leave(writer, b"\x00\x01\x02")

    async with speaking(garbage) as upstream:
        with pytest.raises(UpstreamUnavailable) as caught:
            await upstream.send("/v1/x", b"", {})
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caught.value.hint


async def test_a_proxy_named_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with serving(echo) as url:
        upstream = HttpUpstream("bank", url)
        assert (await upstream.get("/v1/models", {})).status == 200
        await upstream.close()


async def test_after_close_nothing_is_sent() -> None:
    upstream = HttpUpstream("bank", "http://127.0.0.1:1")
    await upstream.close()
    await upstream.close()
    with pytest.raises(UpstreamUnavailable, match="is closed"):
        await upstream.send("/v1/x", b"", {})


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://user:hunter2@host",
        "http://host/?key=hunter2",
        "http://host/#hunter2",
        "http://host:99999",
    ],
)
def test_a_base_url_that_cannot_be_used_is_refused_without_repeating_it(base_url: str) -> None:
    with pytest.raises(ConfigError, match="the `base_url` of the upstream `bank`") as caught:
        HttpUpstream("bank", base_url)
    assert caught.value.hint
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("credential", ["two words", "line\nbreak", "sch\u00fctz"])
def test_a_credential_that_is_no_plain_word_is_refused_without_repeating_it(credential: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpUpstream("bank", "http://host", credential=credential)
    assert credential not in str(caught.value)
