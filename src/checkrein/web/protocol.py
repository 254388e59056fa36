"""uvicorn's HTTP/1.1 protocol, with what it leaves open to hostile callers.

A head that does not come to its end is cut off, by its size and by a clock; so is what stands between and after the
chunks of a body, and a body that goes on after its answer. The target is a path: an absolute one would name a second
host. What follows a body is no header, for whoever stands before us has not looked at it. And a caller that does not
read is hung up on: closing a connection would wait for it to read what is still to be sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from checkrein.web.refused import HEAD_TOO_LARGE, HEAD_TOO_SLOW, MALFORMED

#: what a request's head may hold, and the seconds it may take
MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT = 15.0
#: bytes that chunks may cost for each that they bring
_CHUNKED = 8
#: seconds that a body may go on once its request is answered
LINGER_S = 5.0
#: seconds in which a caller must read something of an answer that is whole
UNREAD_S = 60.0
#: under which name a request finds its `Peer`
PEER = "checkrein.peer"
#: uvicorn warns of each request it cannot read, and anybody can send any number; its errors are still told
log = logging.getLogger("checkrein.web.http")
log.setLevel(logging.ERROR)


class Peer:
    """The other end of a connection, as what serves its requests sees it."""

    def __init__(self, hang_up: Callable[[], None]) -> None:
        self.hang_up = hang_up
        #: called when the caller has gone; set while a request is served
        self.left: Callable[[], None] | None = None


class Http(HttpToolsProtocol):
    """`refused` is told why a connection was cut off before there was a request."""

    _peer: Peer
    _clock: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    #: of the request that is read: bytes after its head, and those of them that are its body
    _rest_bytes = 0
    _body_bytes = 0

    def __init__(self, *args: Any, refused: Callable[[str], None] = lambda reason: None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.logger = log
        self._refused = refused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = Peer(transport.abort)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)
        if self._peer.left is not None:
            self._peer.left()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._rest_bytes += len(data)
        super().data_received(data)
        if self._in_head:
            is_long = self._head_bytes
            if is_long and self._clock is None:  # another request on this connection, and not all of its head
                self._begin_head()
        else:
            is_long = self._rest_bytes - _CHUNKED * self._body_bytes
        if is_long > MAX_HEAD_BYTES:
            self._refuse(431, b"Request Header Fields Too Large", HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[PEER] = self._peer  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._end_head()
        self._in_head = False
        if not self.url.startswith(b"/"):
            raise ValueError("the target is no path")  # the parser makes a 400 of it
        super().on_headers_complete()
        self.headers = []  # the request has its own: what follows a body goes nowhere

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._end_head()
        super().on_message_complete()
        if not self.pipeline:  # or nobody would see the caller leave
            self.flow.resume_reading()
        self._in_head, self._head_bytes, self._rest_bytes, self._body_bytes = True, 0, 0, 0

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and self.cycle.response_complete and self._clock is None:
            self._clock = self.loop.call_later(LINGER_S, self.transport.close)
        if self._reading is None:
            self._await_reading()

    def _await_reading(self, before: int = 0) -> None:
        """Hang up unless the caller reads on; `before` is how much there was to read at the last look."""
        self._reading = None
        left = self.transport.get_write_buffer_size()
        if before and left >= before:
            self.transport.abort()
        elif left:
            self._reading = self.loop.call_later(UNREAD_S, self._await_reading, left)

    def _begin_head(self) -> None:
        self._clock = self.loop.call_later(HEAD_TIMEOUT, self._refuse, 408, b"Request Timeout", HEAD_TOO_SLOW)

    def _end_head(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as HTTP, or could be read in two ways."""
        self._refused(MALFORMED)
        super().send_400_response(msg)

    def _refuse(self, status: int, phrase: bytes, reason: str) -> None:
        """Nothing was begun that could be recorded: say why and hang up."""
        self._end_head()
        if self.transport.is_closing():
            return
        self._refused(reason)
        if getattr(self.cycle, "response_complete", True):
            self.transport.write(b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % (status, phrase))
        self.transport.close()
