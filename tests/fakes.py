"""Fakes at the edge of the world, and they say so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any


class FakeModel:
    """A model provider that answers what it is told to, remembers every body, and calls `witness` at each call."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.witness: Callable[[dict[str, str]], None] = lambda headers: None
        self.status = 200
        self.stream: list[bytes] = []
        #: after the first part of a stream it says no more, and notes when its caller has gone
        self.falls_silent = False
        self.left = threading.Event()
        self.content_type = "application/json"
        self.answer = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":'
        self.answer += b'{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}'

    @property
    def calls(self) -> int:
        return len(self.raw)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.raw.append(body)
        self.bodies.append(json.loads(body))
        self.headers.append(headers)
        self.witness(headers)
        kind = b"text/event-stream" if self.stream else self.content_type.encode()
        start = {"type": "http.response.start", "status": self.status, "headers": [(b"content-type", kind)]}
        await send(start)
        for chunk in self.stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if self.falls_silent:
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.left.set()
                return
        await send({"type": "http.response.body", "body": b"" if self.stream else self.answer})
