"""A scripted model behind an OpenAI-compatible endpoint: a FAKE. It does what the last message tells it, word for word.

`CALL exec {"command": "date"}` makes it call that tool; what the tool answered it repeats. Anything else it echoes.
"""

from __future__ import annotations

import json
import re
from typing import Any

#: what the gateway adds to every call, after the message of the person
_INTERNAL = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"
_CALL = re.compile(r"CALL (\w+) (\{.*\})")


class ScriptedModel:
    """An ASGI application. `requests` are the headers and bodies it got, oldest first."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked = json.loads(body)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((headers, asked))
        kind = b"text/event-stream"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": b"".join(self._events(asked["messages"]))})

    def _events(self, messages: list[dict[str, Any]]) -> list[bytes]:
        number = len(self.requests)
        people = [i for i, one in enumerate(messages) if one["role"] == "user" and _INTERNAL not in text_of(one)]
        asked = text_of(messages[people[-1]]) if people else ""
        results = [text_of(one) for one in messages[people[-1] if people else 0 :] if one["role"] == "tool"]
        call = _CALL.search(asked)
        if call and not results:
            function = {"name": call[1], "arguments": call[2]}
            calls = [{"index": 0, "id": f"call_{number}", "type": "function", "function": function}]
            deltas = [({"role": "assistant", "tool_calls": calls}, None), ({}, "tool_calls")]
        else:
            said = " | ".join(results) or asked.splitlines()[0]
            deltas = [({"role": "assistant", "content": f"RESULT: {said[:500]}"}, None), ({}, "stop")]
        base = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 1, "model": "scripted-1"}
        choices = [[{"index": 0, "delta": delta, "finish_reason": end}] for delta, end in deltas]
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        chunks = [*({**base, "choices": one} for one in choices), {**base, "choices": [], "usage": usage}]
        return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""
