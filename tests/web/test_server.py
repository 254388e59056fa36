"""uvicorn around an application: the port, the start-up, the end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from checkrein.compose import open_system
from checkrein.config import UpstreamConfig
from checkrein.model import ConfigError, StoreUnavailable
from checkrein.ports import RecordQuery
from checkrein.web import protocol
from checkrein.web.server import BackgroundServer, serve
from fakes import chunk


async def hello(request: Request) -> Response:
    return Response("hello", media_type="text/plain")


def app_with(lifespan: object = None) -> ASGIApp:
    return Starlette(routes=[Route("/", hello)], lifespan=lifespan)  # type: ignore[arg-type]


direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
    asked = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - our own loopback address
    with direct.open(asked, timeout=5) as reply:
        return reply.read(), {name.lower(): value for name, value in reply.headers.items()}


def test_inside_the_block_it_answers_and_outside_the_port_is_free() -> None:
    with BackgroundServer(app_with()) as server:
        assert fetch(server.url)[0] == b"hello"
        port = int(server.url.rpartition(":")[2])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_an_answer_does_not_say_what_serves_it() -> None:
    with BackgroundServer(app_with()) as server:
        assert "server" not in fetch(server.url)[1]


def test_a_forwarded_address_is_not_believed() -> None:
    async def who(request: Request) -> Response:
        assert request.client is not None
        return JSONResponse({"host": request.client.host, "scheme": request.url.scheme})

    with BackgroundServer(Starlette(routes=[Route("/", who)])) as server:
        claimed = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        assert fetch(server.url, claimed)[0] == b'{"host":"127.0.0.1","scheme":"http"}'


def test_who_reads_nothing_of_a_whole_answer_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes some megabytes; the rest waits here."""
    size, gone = 16 * 1024 * 1024, threading.Event()
    monkeypatch.setattr(protocol, "UNREAD_S", 0.1)
    monkeypatch.setattr(protocol.Http, "connection_lost", told(gone, protocol.Http.connection_lost))

    async def much(request: Request) -> Response:
        return Response(b"x" * size)

    with BackgroundServer(Starlette(routes=[Route("/", much)])) as server, socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        caller.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        caller.settimeout(30)
        caller.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert gone.wait(30)
        heard = 0
        with contextlib.suppress(ConnectionError):
            while part := caller.recv(1024 * 1024):
                heard += len(part)
    assert heard < size


def told(gone: threading.Event, lost: Callable[..., None]) -> Callable[..., None]:
    def spy(self: protocol.Http, exc: Exception | None) -> None:
        lost(self, exc)
        gone.set()

    return spy


def test_two_servers_get_two_ports() -> None:
    with BackgroundServer(app_with()) as one, BackgroundServer(app_with()) as two:
        assert one.url != two.url
        assert fetch(one.url)[0] == fetch(two.url)[0]


def test_lifespan_runs_around_the_answers() -> None:
    steps = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        steps.append("up")
        yield
        steps.append("down")

    with BackgroundServer(app_with(lifespan)) as server:
        fetch(server.url)
        assert steps == ["up"]
    assert steps == ["up", "down"]


def test_a_failing_start_up_raises_its_own_error_and_logs_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise StoreUnavailable("the disk is full", hint="free some space")
        yield

    server = BackgroundServer(app_with(lifespan))
    with pytest.raises(StoreUnavailable, match="the disk is full") as caught, server:
        pytest.fail("it must not start")
    assert caught.value.hint == "free some space"
    assert "Traceback" not in caplog.text


def test_an_app_that_raises_before_it_answers_does_not_start() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise StoreUnavailable("no store")

    with pytest.raises(StoreUnavailable, match="no store"), BackgroundServer(broken):
        pytest.fail("it must not start")


def test_an_app_that_only_says_that_it_failed_does_not_start() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(ConfigError, match="start-up failed"), BackgroundServer(refusing):
        pytest.fail("it must not start")


def test_a_port_in_use_is_an_error_that_says_what_to_do() -> None:
    with BackgroundServer(app_with()) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"`127.0.0.1:{port}` is in use") as caught:
            serve(app_with(), "127.0.0.1", port)
        assert "another port" in caught.value.hint
        with pytest.raises(ConfigError, match="is in use"), BackgroundServer(app_with(), port=port):
            pytest.fail("it must not start")


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("127.0.0.1", 70_000, "names no port"),
        ("127.0.0.1", -1, "names no port"),
        ("no host", 0, "no address"),
        ("192.0.2.1", 0, "not on this machine"),
    ],
)
def test_an_address_that_cannot_be_had_is_an_error_that_says_what_to_do(host: str, port: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        serve(app_with(), host, port)
    assert caught.value.hint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_serving_and_the_caller_goes_on(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    answers = []

    def visit_then_signal(url: str) -> None:
        def visit() -> None:
            answers.append(fetch(url)[0])
            os.kill(os.getpid(), number)

        threading.Thread(target=visit).start()

    serve(app_with(), port=0, on_listening=visit_then_signal)
    assert answers == [b"hello"]
    assert signal.getsignal(number) is before


def test_after_a_signal_nobody_new_is_let_in_and_an_open_stream_goes_on_to_its_end(folder: Path) -> None:
    """SIGTERM drains: of this server's half minute of grace only as much passes as the stream takes."""
    goes_on, told = threading.Event(), list[bytes]()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": chunk({"content": "begun, "}), "more_body": True})
        while not goes_on.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": chunk({"content": "done"}) + b"data: [DONE]\n\n"})

    with BackgroundServer(slow) as model:
        system = open_system(folder, upstreams={"slow": UpstreamConfig(base_url=f"{model.url}/v1")})
        _, secret = system.keys.create("alice", by="tests")

        def call(url: str) -> None:
            host, port = url.removeprefix("http://").split(":")
            prompt = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
            with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
                connection.request("POST", "/v1/chat/completions", json.dumps(prompt), headers)
                answer = connection.getresponse()
                told.append(answer.readline())
                os.kill(os.getpid(), signal.SIGTERM)
                with contextlib.suppress(ConnectionError):
                    while True:  # until nobody listens any more
                        socket.create_connection((host, int(port)), timeout=30).close()
                goes_on.set()
                told.append(answer.read())

        caller: list[threading.Thread] = []

        def begin(url: str) -> None:
            caller.append(threading.Thread(target=call, args=(url,)))
            caller[0].start()

        serve(system.app(), port=0, grace_s=30, on_listening=begin)
        caller[0].join(30)
        (end,) = system.store.records(RecordQuery(kinds=("execution.finished",)))
        system.close()
    assert told[-1].endswith(b"data: [DONE]\n\n")
    assert end.body["status"] == "ok"


async def test_an_endless_stream_does_not_keep_the_server_alive() -> None:
    async def endless(request: Request) -> Response:
        async def beats() -> AsyncIterator[bytes]:
            while True:
                yield b"beat\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(beats())

    server = BackgroundServer(Starlette(routes=[Route("/", endless)]), grace_s=1)
    await asyncio.to_thread(server.__enter__)
    async with aiohttp.ClientSession() as session, session.get(server.url) as reply:
        assert await reply.content.readline() == b"beat\n"
        await asyncio.to_thread(server.__exit__, None, None, None)
        with pytest.raises(aiohttp.ClientError):
            await reply.read()
