"""uvicorn around an ASGI application: in the foreground (`serve`), or in a thread (`BackgroundServer`).

Both bind the port themselves, so that a port in use is a plain error before anything starts, and both give
back the very error that the application's start-up (its lifespan) met, instead of logging a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from checkrein.model import CheckreinError, ConfigError
from checkrein.web.protocol import Http

_START_S = 30
#: thresholds of the collector's generations while serving
_COLLECT = (20_000, 20, 20)


def serve(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = 8787,
    *,
    grace_s: int = 10,
    on_listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGINT or SIGTERM, then give open answers `grace_s` seconds and return.

    `on_listening` is called with the address once requests are taken. Raises `ConfigError` when the port
    cannot be had, and whatever error the application's start-up raised.
    """
    # what is loaded by now stays: the collector need not look at it again and again, nor after every 700 new objects
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    with _bind(host, port) as listener:
        _Server(app, grace_s, lambda: on_listening(_url(listener))).run_on(listener)


class BackgroundServer:
    """The same server in a thread of its own, with its own event loop, for the demo and the tests.

    A context manager: inside, `url` takes requests; outside, the thread has ended and the port is free.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", port: int = 0, *, grace_s: int = 1) -> None:
        self._host, self._port, self._grace_s = host, port, grace_s
        self._settled = threading.Event()
        self._failure: BaseException | None = None
        self._server = _Server(app, grace_s, self._settled.set)
        self._thread = threading.Thread(target=self._run, name="checkrein-server", daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._listener = _bind(self._host, self._port)
        self.url = _url(self._listener)
        self._thread.start()
        if not self._settled.wait(_START_S):
            self._failure = ConfigError("the server did not start in time", hint="look at what its start-up waits for")
        if self._failure is not None:
            self._stop()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._failure is not None and error is None:
            raise self._failure

    def _stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(self._grace_s + _START_S)
        if self._thread.is_alive():
            raise CheckreinError("the server did not stop", hint="look for a handler that blocks the event loop")

    def _run(self) -> None:
        try:
            with self._listener:
                self._server.run_on(self._listener)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked, which raises it
            self._failure = error
        finally:
            self._settled.set()


@runtime_checkable
class Attentive(Protocol):
    """An application that wants to know what its server does."""

    def stopping(self) -> None:
        """The server begins to stop; open answers get their grace from now on."""

    def refused(self, reason: str) -> None:
        """What came over a connection never became a request."""


class _Server(uvicorn.Server):
    def __init__(self, app: ASGIApp, grace_s: int, on_listening: Callable[[], None]) -> None:
        given: object = app
        self._told = given if isinstance(given, Attentive) else None
        self._app = _StartupWitness(app)
        self._on_listening = on_listening
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            lifespan="on",
            ws="none",
            http=partial(Http, refused=self._refused),  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            # Who calls is known from a key, never from a header that anyone can write.
            proxy_headers=False,
            # Without it a stream that never ends would keep the process alive for ever.
            timeout_graceful_shutdown=grace_s,
        )
        super().__init__(config)

    def run_on(self, listener: socket.socket) -> None:
        try:
            self.run(sockets=[listener])
        except SystemExit:  # how uvicorn says that start-up failed
            raise self._app.failure or ConfigError("the server did not start", hint="see its log") from None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._told is not None:
            self._told.stopping()
        await super().shutdown(sockets)

    def _refused(self, reason: str) -> None:
        if self._told is not None:
            self._told.refused(reason)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but the signal is not raised again: the caller still has files to close."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _StartupWitness:
    """Keeps what the application's start-up raised, and tells uvicorn only that it failed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.failure: Exception | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        return self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def witness(message: Message) -> None:
            nonlocal answered
            answered = True
            if message["type"] == "lifespan.startup.failed":
                self.failure = ConfigError("the application's start-up failed", hint="see its log")
                message = {"type": "lifespan.startup.failed", "message": ""}
            await send(message)

        try:
            await self._app(scope, receive, witness)
        except Exception as error:
            if answered and self.failure is None:  # it was running: a failing shutdown is uvicorn's to report
                raise
            self.failure = error
            if not answered:
                await send({"type": "lifespan.startup.failed", "message": ""})


def _bind(host: str, port: int) -> socket.socket:
    """A listening address of our own; raises `ConfigError` that says why it cannot be had."""
    place = f"`{host}:{port}`"
    if not 0 <= port <= 65535:
        raise ConfigError(f"{place} names no port", hint="choose one from 0 (any free port) to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"`{host}` is no address of a machine", hint="write `127.0.0.1` for this machine only"
        ) from error
    family, kind, protocol, _, address = found[0]
    # the protocol is named, so that asyncio sets TCP_NODELAY on what it accepts
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # uvicorn listens when the application has started; until then a second bind must already fail
        listener.listen(2048)
    except OSError as error:
        listener.close()
        what, hint = {
            errno.EADDRINUSE: ("is in use", "stop the program that holds it, or choose another port"),
            errno.EACCES: ("may not be used", "choose a port from 1024, or run with the right to use it"),
            errno.EADDRNOTAVAIL: (
                "is not on this machine",
                "write `127.0.0.1`, or an address of this machine",
            ),
        }.get(error.errno or 0, ("cannot be used", error.strerror or "choose another address"))
        raise ConfigError(f"{place} {what}", hint=hint) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
