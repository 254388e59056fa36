"""uvicorn's HTTP/1.1 protocol, with what it leaves open to hostile callers.

A head that does not come to its end is cut off, by its size and by a clock, and a caller that does not read can be hung
up on: closing a connection would wait for it to read what is still to be sent.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: what a request's head may hold, and the seconds it may take
MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT = 15.0
#: under which name a request finds the way to hang up on its caller
HANG_UP = "checkrein.hang_up"


class Http(HttpToolsProtocol):
    _clock: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._clock is None:  # the first bytes of another request on this connection
                self._begin_head()
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, b"Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[HANG_UP] = self.transport.abort  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._end_head()
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def _begin_head(self) -> None:
        self._clock = self.loop.call_later(HEAD_TIMEOUT, self._refuse, 408, b"Request Timeout")

    def _end_head(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _refuse(self, status: int, reason: bytes) -> None:
        """Nothing was begun that could be recorded: say why and hang up."""
        self._end_head()
        if self.transport.is_closing():
            return
        if getattr(self.cycle, "response_complete", True):
            self.transport.write(b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % (status, reason))
        self.transport.close()
