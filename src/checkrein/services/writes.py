"""Waiting for durable writes: two that are issued at once as one, and any from an event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from checkrein.model import StoreUnavailable

T = TypeVar("T")


class Unsealed(StoreUnavailable):
    """The records are durable, their payload is not."""


def together(written: Future[T], sealed: Future[None]) -> Future[T]:
    """Resolves when both are over: with what was written, with its error, or with `Unsealed`."""
    return _Both(written, sealed).over


class _Both(Generic[T]):
    def __init__(self, written: Future[T], sealed: Future[None]) -> None:
        self.over: Future[T] = Future()
        self.over.set_running_or_notify_cancel()  # from here on nobody can cancel it
        self._written = written
        self._sealed = sealed
        self._left = 2
        self._lock = threading.Lock()
        written.add_done_callback(self._one)
        sealed.add_done_callback(self._one)

    def _one(self, _: object) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        refused, unsealed = self._written.exception(), self._sealed.exception()
        if refused is not None:
            self.over.set_exception(refused)
        elif unsealed is not None:
            error = Unsealed("the payload could not be sealed", hint=getattr(unsealed, "hint", ""))
            error.__cause__ = unsealed
            self.over.set_exception(error)
        else:
            self.over.set_result(self._written.result())


def landed(written: Future[T]) -> asyncio.Future[T]:
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
        self._over: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._called = False

    def bring(self, waiter: asyncio.Future[Any], written: Future[Any]) -> None:
        """Called in whatever thread ends the write."""
        self._over.append((waiter, written))
        # first in the queue, then this test; the loop does it the other way about, so that none is left behind
        if not self._called and not self.loop.is_closed():
            self._called = True
            self.loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        self._called = False
        while self._over:
            waiter, written = self._over.popleft()
            if waiter.done():  # the caller went away
                continue
            if written.cancelled():
                waiter.cancel()
            elif (error := written.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(written.result())


_here = threading.local()
