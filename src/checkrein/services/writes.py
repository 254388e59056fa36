"""Waiting for durable writes: two that are issued at once as one, and any from an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from typing import Any, TypeVar

from checkrein.model import StoreUnavailable
from checkrein.pending import Pending

T = TypeVar("T")


class Unsealed(StoreUnavailable):
    """The records are durable, their payload is not."""


def together(written: Pending[T], sealed: Pending[None]) -> Pending[T]:
    """Over when both are: with what was written, with its error, or with `Unsealed`."""
    over: Pending[T] = Pending()
    over.claim()  # from here on nobody can cancel it

    def end(_: object) -> None:
        refused, unsealed = written.exception(), sealed.exception()
        if refused is not None:
            over.set_exception(refused)
        elif unsealed is not None:
            error = Unsealed("the payload could not be sealed", hint=getattr(unsealed, "hint", ""))
            error.__cause__ = unsealed
            over.set_exception(error)
        else:
            over.set_result(written.result())

    written.add_done_callback(lambda _: sealed.add_done_callback(end))
    return over


def landed(written: Pending[T]) -> asyncio.Future[T]:
    """What a caller on the running event loop awaits. A caller that goes away does not take the write with it."""
    loop = asyncio.get_running_loop()
    landing: _Landing | None = getattr(_here, "landing", None)
    if landing is None or landing.loop is not loop:
        landing = _here.landing = _Landing(loop)
    waiter: asyncio.Future[T] = loop.create_future()
    written.add_done_callback(functools.partial(landing.bring, waiter))
    return waiter


class _Landing:
    """Wakes a loop once for all writes that became durable together, where `asyncio.wrap_future` does for each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._over: deque[tuple[asyncio.Future[Any], Pending[Any]]] = deque()
        self._called = False

    def bring(self, waiter: asyncio.Future[Any], written: Pending[Any]) -> None:
        """Called in whatever thread ends the write."""
        self._over.append((waiter, written))
        # first in the queue, then this test; the loop does it the other way about, so that none is left behind
        if not self._called:
            self._called = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                self.loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        self._called = False
        while self._over:
            waiter, written = self._over.popleft()
            if waiter.done():  # the caller went away
                continue
            error = written.exception()
            if error is None:
                waiter.set_result(written.result())
            elif written.cancelled():
                waiter.cancel()
            else:
                waiter.set_exception(error)


_here = threading.local()
