"""What a durable write comes to, once another thread has made it.

Every request has several. A `concurrent.futures.Future` has a lock and a condition of its own, which cost as much as
the write itself; here a lock is made only for a thread that waits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, Generic, TypeVar

log = logging.getLogger("checkrein.pending")

T = TypeVar("T")


class Pending(Generic[T]):
    """What others ask of it is named as in `concurrent.futures.Future`; `claim`, then `set_result` or `set_exception`,
    are for whoever writes. All methods are thread-safe.

    There is no lock: taking the last item of a list is one step, so of two threads only one gets it.
    """

    __slots__ = ("_callbacks", "_error", "_over", "_unclaimed", "_value")

    _value: T

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Pending[T]], None]] = []
        self._unclaimed = [None]
        self._error: BaseException | None = None
        self._over = False

    # --- for whoever writes -------------------------------------------------------------------------------------

    def claim(self) -> bool:
        """Whether it is to be written; nobody can give it up any more."""
        try:
            self._unclaimed.pop()
        except IndexError:
            return False
        return True

    def set_result(self, value: T) -> None:
        self._value = value
        self._tell()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._tell()

    # --- for whoever waits --------------------------------------------------------------------------------------

    def add_done_callback(self, call: Callable[[Pending[T]], Any]) -> None:
        """Call it when this is over, in whatever thread ends it; at once if it is."""
        self._callbacks.append(call)
        if self._over:  # first in the list, then this test; who ends it does so the other way about
            self._tell()

    def cancel(self) -> bool:
        """Give it up; whether that was in time."""
        if not self.claim():
            return False
        self.set_exception(CancelledError())
        return True

    def cancelled(self) -> bool:
        return self._over and isinstance(self._error, CancelledError)

    def running(self) -> bool:
        return not self._unclaimed and not self._over

    def done(self) -> bool:
        return self._over

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why it was refused, or None; raises `TimeoutError` when it is not over by then."""
        if not self._over:
            over = threading.Lock()
            over.acquire()
            self.add_done_callback(lambda _: over.release())
            if not over.acquire(timeout=-1 if timeout is None else timeout):
                raise TimeoutError
        return self._error

    def result(self, timeout: float | None = None) -> T:
        """What was written; raises why it was refused."""
        error = self.exception(timeout)
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error, self  # the traceback holds this frame: without, nothing of it would go before a collection

    def _tell(self) -> None:
        self._over = True
        while self._callbacks:
            try:
                call = self._callbacks.pop()
            except IndexError:  # the other thread has taken it
                return
            try:
                call(self)
            except Exception:  # whoever writes goes on for the others
                log.exception("whoever waited for a write failed when it was over")
