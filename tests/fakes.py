"""Fakes at the edge of the world, and they say so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from checkrein.decide.disguise import OPAQUE
from checkrein.decide.redact import Placeholders
from checkrein.model import Decision, Obligation, Outcome
from checkrein.services.speech import Speech


class FakeModel:
    """A model provider that answers what it is told to, remembers every body, and calls `witness` at each call."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.paths: list[str] = []
        #: its list of models, and how often that was asked for
        self.models = b'{"object":"list","data":[]}'
        self.lists = 0
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
        if scope["method"] == "GET":
            self.lists += 1
            start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
            await send(start)
            await send({"type": "http.response.body", "body": self.models})
            return
        self.paths.append(scope["path"])
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


def completion(*calls: tuple[str, Any], content: str | None = None) -> bytes:
    """A chat completion with these tool calls; arguments that are text are sent as they are."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [call(place, name, input) for place, (name, input) in enumerate(calls)]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return json.dumps(
        {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()


def call(place: int, name: str, input: Any) -> dict[str, Any]:
    text = input if isinstance(input, str) else json.dumps(input)
    return {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": text}}


def streamed(*calls: tuple[str, Any], content: str | None = None, piece: int = 7) -> list[bytes]:
    """The same as a stream, its arguments in pieces."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": content}]
    for place, (name, input) in enumerate(calls):
        whole = call(place, name, input)
        text = whole["function"]["arguments"]
        whole["function"]["arguments"] = ""
        deltas.append({"tool_calls": [{"index": place, **whole}]})
        for start in range(0, len(text), piece):
            function = {"arguments": text[start : start + piece]}
            deltas.append({"tool_calls": [{"index": place, "function": function}]})
    events = [chunk(delta) for delta in deltas]
    return [*events, chunk({}, "tool_calls" if calls else "stop"), b"data: [DONE]\n\n"]


def chunk(delta: dict[str, Any], ended: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": ended}
    about = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(about)}\n\n".encode()


def speech(
    *,
    redact: tuple[str, ...] = (),
    deny: tuple[str, ...] = (),
    placeholders: Placeholders | None = None,
    always: bool = False,
    values: Placeholders | None = None,
) -> Speech:
    """The words of an answer under a policy that takes some classes out, and denies answers that hold others.

    It takes them out where one of them is found, or `always`.
    """

    def consider(chars: int, found: Any) -> Decision:
        if any(cls in deny for cls in found) or (OPAQUE in found and (redact or deny)):
            return Decision.deny("not that")
        if always or any(cls in redact for cls in found):
            return Decision(outcome=Outcome.ALLOW_WITH_REDACTION, obligations=(Obligation.redact("p", redact),))
        return Decision.allow()

    return Speech(consider, Placeholders() if placeholders is None else placeholders, values)


def response(*items: dict[str, Any]) -> bytes:
    """A response with these items."""
    return json.dumps(_response(items, "completed")).encode()


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def called(name: str, input: Any, place: int = 0) -> dict[str, Any]:
    text = input if isinstance(input, str) else json.dumps(input)
    about = {"id": f"fc_{place}", "call_id": f"call_{place}", "status": "completed"}
    return {"type": "function_call", **about, "name": name, "arguments": text}


def _response(items: Any, status: str) -> dict[str, Any]:
    about = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": status}
    return {**about, "output": list(items), "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}


def response_events(*items: dict[str, Any], piece: int = 7) -> list[bytes]:
    """The same as a stream of events."""
    told: list[dict[str, Any]] = [{"type": "response.created", "response": _response((), "in_progress")}]
    for index, item in enumerate(items):
        at = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "message":
            part = item["content"][0]
            text = {**at, "content_index": 0}
            added = {**item, "status": "in_progress", "content": []}
            told.append({"type": "response.output_item.added", "output_index": index, "item": added})
            told.append({"type": "response.content_part.added", **text, "part": {**part, "text": ""}})
            told += [
                {"type": "response.output_text.delta", **text, "delta": words, "logprobs": []}
                for words in _pieces(part["text"], piece)
            ]
            told.append({"type": "response.output_text.done", **text, "text": part["text"], "logprobs": []})
            told.append({"type": "response.content_part.done", **text, "part": part})
        else:
            added = {**item, "status": "in_progress", "arguments": ""}
            told.append({"type": "response.output_item.added", "output_index": index, "item": added})
            told += [
                {"type": "response.function_call_arguments.delta", **at, "delta": words}
                for words in _pieces(item["arguments"], piece)
            ]
            done = {"arguments": item["arguments"], "name": item["name"]}
            told.append({"type": "response.function_call_arguments.done", **at, **done})
        told.append({"type": "response.output_item.done", "output_index": index, "item": item})
    told.append({"type": "response.completed", "response": _response(items, "completed")})
    return [typed({**event, "sequence_number": number}) for number, event in enumerate(told)]


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def typed(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
