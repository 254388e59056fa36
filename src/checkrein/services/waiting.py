"""Waiting for people: whoever waits is woken by the record of a vote, whichever process wrote it.

Nothing of an approval lives here. One thread looks whether anybody wrote, while there is somebody who waits, and reads
the new records about approvals; who waits is a callback by approval, so ten thousand of them cost no thread and no
look more than one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from time import monotonic

import msgspec

from checkrein.flow.approval import Approval, State
from checkrein.ledger import Record
from checkrein.ledger.record import facets
from checkrein.model import LedgerInvalid, StoreUnavailable
from checkrein.ports import Clock, RecordQuery, Store
from checkrein.services.approvals import Approvals
from checkrein.services.mapping import KINDS

log = logging.getLogger("checkrein.waiting")

#: how often it looks whether anybody wrote, while somebody waits; and how long after it could not
EVERY_S, AFTER_TROUBLE_S = 0.01, 0.5
#: kinds of records that are about an approval
APPROVAL_KINDS = tuple(kind.name for kind in KINDS if kind.name.startswith("approval."))
#: who hears of every approval
ANY = ""


class Drain:
    """Set when a server begins to stop: whoever is kept waiting there is answered at once. For one event loop."""

    def __init__(self) -> None:
        self.begun = False
        self._told: set[Callable[[], None]] = set()

    def begin(self) -> None:
        self.begun = True
        for told in tuple(self._told):
            told()

    @contextmanager
    def telling(self, told: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `told` is called when it begins."""
        self._told.add(told)
        try:
            yield
        finally:
            self._told.discard(told)


class Waiting:
    """Close it before the store."""

    def __init__(self, store: Store, approvals: Approvals, clock: Clock) -> None:
        self._store = store
        self._approvals = approvals
        self._clock = clock
        self._lock = threading.Lock()
        #: who is told, by approval
        self.listeners: dict[str, set[Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None
        self._cursor = -1
        self._closed = threading.Event()

    async def settled(self, id: str, timeout_s: float, drain: Drain | None = None) -> Approval:
        """The approval once it no longer waits for people; as it then is, after `timeout_s` or when `drain` begins.

        Its state is the one a person should see. Raises `NotFound`.
        """
        id = self._approvals.get(id).id  # its beginning is enough
        loop, news, until = asyncio.get_running_loop(), asyncio.Event(), monotonic() + timeout_s

        def told() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        with self.listening(id, told), (drain or Drain()).telling(news.set):
            while True:
                news.clear()
                approval, left = self._look_at(id, until)
                if left <= 0 or self._closed.is_set() or (drain and drain.begun):
                    return approval
                try:
                    async with asyncio.timeout(left):
                        await news.wait()
                except TimeoutError:
                    continue

    def settled_sync(self, id: str, timeout_s: float) -> Approval:
        """`settled` for code without an event loop."""
        id = self._approvals.get(id).id
        news, until = threading.Event(), monotonic() + timeout_s
        with self.listening(id, news.set):
            while True:
                news.clear()
                approval, left = self._look_at(id, until)
                if left <= 0 or self._closed.is_set():
                    return approval
                news.wait(min(left, threading.TIMEOUT_MAX))

    def _look_at(self, id: str, until: float) -> tuple[Approval, float]:
        """The approval, and the seconds after which to look again at the latest; 0 if there is nothing to wait for."""
        stored, now_us = self._approvals.get(id), self._clock.now_us()
        approval = msgspec.structs.replace(stored, state=stored.status(now_us))
        if approval.state is not State.PENDING:
            return approval, 0
        return approval, min(until - monotonic(), (approval.deadline_us - now_us) / 1_000_000)

    @contextmanager
    def listening(self, id: str, told: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `told` is called, in another thread, after every record about this approval, or `ANY`.

        What was written before the block began, nobody is told of: look first thing inside.
        """
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._cursor = self.latest()
                self._thread = threading.Thread(target=self._run, name="checkrein-waiting", daemon=True)
                self._thread.start()
            self.listeners.setdefault(id, set()).add(told)
        try:
            yield
        finally:
            with self._lock:
                self.listeners[id].discard(told)
                if not self.listeners[id]:
                    del self.listeners[id]

    def latest(self) -> int:
        """The number of the last record; -1 if there is none."""
        return self._store.head().size - 1

    def since(self, seq: int, limit: int = 0) -> list[Record]:
        """Records about approvals after this number, oldest first."""
        return list(self._store.records(RecordQuery(kinds=APPROVAL_KINDS, after_seq=seq, limit=limit)))

    def close(self) -> None:
        """Wake whoever waits, and look no more. A second call does nothing."""
        self._closed.set()
        with self._lock:
            thread, waiting = self._thread, [told for listeners in self.listeners.values() for told in listeners]
        for told in waiting:
            told()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with closing(self._store.changes()) as changes:
            wait_s, behind = EVERY_S, False
            while self._wanted():
                try:
                    behind = changes.changed() or behind  # what was noticed is kept until it was read
                    if behind:
                        self._read()
                    wait_s, behind = EVERY_S, False
                except Exception as error:
                    if wait_s == EVERY_S:
                        known = isinstance(error, StoreUnavailable | LedgerInvalid)
                        log.warning("who waits for people cannot be told: %s", error, exc_info=not known)
                    wait_s = AFTER_TROUBLE_S
                self._closed.wait(wait_s)

    def _wanted(self) -> bool:
        with self._lock:
            if self.listeners and not self._closed.is_set():
                return True
            self._thread = None
            return False

    def _read(self) -> None:
        for record in self.since(self._cursor):
            self._tell(facets(record.body).approval)
            self._cursor = record.seq

    def _tell(self, id: str) -> None:
        with self._lock:
            listeners = [*self.listeners.get(id, ()), *self.listeners.get(ANY, ())]
        for told in listeners:
            told()


class Hold:
    """How long callers of one server are kept waiting for people before they are told to come back."""

    def __init__(self, waiting: Waiting, seconds: float, drain: Drain) -> None:
        self._waiting = waiting
        self._drain = drain
        self.seconds = seconds

    def within(self, seconds: int | None) -> Hold:
        """The same for a caller that waits no longer than this."""
        if seconds is None or seconds >= self.seconds:
            return self
        return Hold(self._waiting, seconds, self._drain)

    async def settled(self, id: str, timeout_s: float) -> Approval:
        """See `Waiting.settled`; the server's stop ends it too."""
        return await self._waiting.settled(id, timeout_s, self._drain)
