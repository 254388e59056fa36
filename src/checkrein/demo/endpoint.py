"""The demo's model behind an OpenAI-compatible endpoint: a FAKE, scripted, for a real agent gateway to call.

It notes what it is about to see, word for word, as the embedded gateway does.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from checkrein.demo import model
from checkrein.demo.model import Completion, text_of
from checkrein.demo.tools import Sandbox
from checkrein.model.json import dumps, load_object

MODEL = "demo-model"
#: what OpenClaw adds to each call of a model, and to the words of the person
_INTERNAL = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"
_AROUND = re.compile(r"^(?:\[[^\]\n]{1,60}\] )?(?P<said>.*?)(?:\n\nRuntime: .*)?$", re.DOTALL)
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


def create_app(sandbox: Sandbox, prefix: str) -> ASGIApp:
    """`prefix` stands before the names of the demo's tools where the gateway offers them."""

    async def chat(http: Request) -> Response:
        asked = load_object(await http.body())
        messages = asked.get("messages")
        seen = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
        await asyncio.to_thread(sandbox.note_model_input, http.headers.get("traceparent", ""), seen)
        completion = model.complete([*_plain(seen, prefix)])
        return Response(b"".join(_events(completion, prefix)), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def _plain(messages: Sequence[Mapping[str, object]], prefix: str) -> Iterator[Mapping[str, object]]:
    """The conversation without what the gateway wrote around it."""
    for message in messages:
        text = text_of(message.get("content"))
        role = message.get("role")
        if role == "user" and _INTERNAL in text:
            continue
        if role == "user":
            match = _AROUND.match(text)
            yield {"role": "user", "content": match["said"] if match else text}
        elif role == "tool":
            yield {**message, "content": _result(text)}
        elif isinstance(calls := message.get("tool_calls"), list):
            yield {**message, "tool_calls": json.loads(dumps(calls).replace(prefix.encode(), b""))}
        elif role == "assistant":
            yield message


def _result(text: str) -> str:
    """What the tool itself answered: gateways mark it as untrusted. A refusal of Checkrein is told as one."""
    if text.startswith("checkrein: "):
        return model.BLOCKED + text.removeprefix("checkrein: ")
    match = _OBJECT.search(text)
    return match.group() if match else text


def _events(completion: Completion, prefix: str) -> Iterator[bytes]:
    """The completion as a stream of OpenAI's chunks."""
    base = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": MODEL,
    }
    calls = [
        {
            "index": index,
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": {"name": prefix + proposal.name, "arguments": dumps(proposal.args).decode()},
        }
        for index, proposal in enumerate(completion.proposals)
    ]
    said: dict[str, object] = {"tool_calls": calls} if calls else {"content": completion.text}
    usage = completion.usage
    total = usage.prompt_tokens + usage.completion_tokens
    counted = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": total,
    }
    for rest in (
        {"choices": [{"index": 0, "delta": {"role": "assistant", **said}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}]},
        {"choices": [], "usage": counted},
    ):
        yield b"data: " + dumps({**base, **rest}) + b"\n\n"
    yield b"data: [DONE]\n\n"
