"""A model that answers at once, one kilobyte or 20 chunks, and what it is asked: a fake, to measure what is between."""

from __future__ import annotations

import json
import sys

import uvicorn
from starlette.types import Receive, Scope, Send

PROMPT = {
    "model": "bench",
    "messages": [
        {"role": "system", "content": "You help the finance team. " * 16},
        {"role": "user", "content": "Draft a note that asks for confirmation of the Q1 cloud budget. " * 6},
    ],
}
BODIES = {"json": json.dumps(PROMPT).encode(), "sse": json.dumps({**PROMPT, "stream": True}).encode()}
CHUNKS = 20
_ABOUT = {"id": "chatcmpl-1", "created": 1, "model": "bench"}
ANSWER = json.dumps(
    {
        **_ABOUT,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Here are some words of an answer. " * 25},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 200, "completion_tokens": 200, "total_tokens": 400},
    }
).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


def _chunk(delta: dict[str, str], ended: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": ended}
    return f"data: {json.dumps({**_ABOUT, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n".encode()


STREAM = [
    _chunk({"role": "assistant", "content": ""}),
    *[_chunk({"content": "some words of an answer "})] * CHUNKS,
    _chunk({}, "stop"),
    b"data: [DONE]\n\n",
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if b'"stream": true' in body or b'"stream":true' in body:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for part in STREAM:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", lifespan="off")
