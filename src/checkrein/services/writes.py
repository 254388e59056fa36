"""Two durable writes that are issued at once and waited for as one, so that together they cost one sync of time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Generic, TypeVar

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
