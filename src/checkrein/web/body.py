"""Reading a request's body: bounded in size and time."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Receive

from checkrein.connectors.patience import within
from checkrein.model import BadRequest

#: seconds a caller may take to send a body; a slower one is cut off
READ_TIMEOUT = 30.0


class TooLarge(BadRequest):
    """The body is over the limit. HTTP 413."""


class TooSlowly(BadRequest):
    """The body did not come in time."""


class Gone(ConnectionError):
    """The caller left before the body was complete."""


async def read(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The whole body; raises `TooLarge`, `TooSlowly`, or `Gone` when the caller left."""
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    try:
        return await within(READ_TIMEOUT, _all(receive, limit))
    except TimeoutError as error:
        raise TooSlowly("the body took too long to arrive", hint="send it at once") from error


async def _all(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limit} bytes",
        hint="send less, or raise `server.max_body_bytes` in checkrein.toml",
    )
