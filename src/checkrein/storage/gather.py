"""Writes on their way to the one thread that writes them: what came while it wrote becomes its next transaction.

A transaction costs a sync of the disk and turns of the thread, whatever is in it. So where several come at a time the
thread also waits a moment for more before it begins; a caller that comes alone never waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Generic, Protocol, TypeVar

from checkrein.model import StoreUnavailable
from checkrein.pending import Pending

#: how long the thread waits for more, and for how many it does not
LINGER_S = 0.001
ENOUGH = 64


class Write(Protocol):
    """What waits: `future` tells its caller what became of it."""

    future: Pending[Any]


W = TypeVar("W", bound=Write)


class Gathering(Generic[W]):
    """`store` and `writes` are what errors call them; at most `limit` may wait. All methods are thread-safe."""

    def __init__(self, store: str, writes: str, limit: int) -> None:
        self._store, self._writes = store, writes
        self._limit = limit
        self._waiting: deque[W] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._closing = False
        #: whether the thread waits to be woken
        self._idle = False
        #: whether several came for the last batch
        self._several = False

    @property
    def closing(self) -> bool:
        return self._closing

    def put(self, write: W) -> None:
        """Queue it; where that cannot be, its future says why."""
        with self._lock:
            if self._closing:
                refusal = StoreUnavailable(f"{self._store} is closed", hint="open it again")
            elif len(self._waiting) >= self._limit:
                hint = "try again in a moment"
                refusal = StoreUnavailable(f"too many {self._writes} are waiting for the disk", hint=hint)
            else:
                self._waiting.append(write)
                if self._idle:
                    self._wake.notify()
                return
        write.future.set_exception(refusal)

    def take(self, most: int) -> list[W]:
        """The next batch, in order; empty when the thread is to stop. What its caller gave up is left out."""
        batch: list[W] = []
        while not batch:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._idle = True
                    self._wake.wait()
                    self._idle = False
                if not self._waiting:
                    return []
                lingers = self._several and not self._closing and len(self._waiting) < ENOUGH
            if lingers:
                time.sleep(LINGER_S)
            with self._wake:
                taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            batch = [write for write in taken if write.future.claim()]
            self._several = len(batch) > 1
        return batch

    def close(self) -> None:
        """Take no more; the thread stops when it has written what waits."""
        with self._wake:
            self._closing = True
            self._wake.notify()
