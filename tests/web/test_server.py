"""uvicorn around an application: the port, the start-up, the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from checkrein.model import ConfigError, StoreUnavailable
from checkrein.web.server import BackgroundServer, serve


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
