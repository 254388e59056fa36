"""Requests that were refused before they were an action: counted at once, told in the log and recorded by the minute.

Whoever can reach the port can be refused as often as they like, so neither the log nor the ledger grows with it: of
each reason and key there is one record a minute, and two lines in the log. What a process counted and has not recorded
yet is lost with it; nothing ran for that.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter

from checkrein.model import StoreUnavailable
from checkrein.ports import Clock, Store, Unit
from checkrein.services import records
from checkrein.services.live import Live

log = logging.getLogger("checkrein.web")

WINDOW_US = 60_000_000
#: records of one minute; beyond, a reason is told without its keys
MAX_RECORDS = 100


class Refusals:
    """Thread-safe. `note` never blocks on the disk; `tick` does, and is called every second by whoever serves."""

    def __init__(self, store: Store, clock: Clock, live: Live) -> None:
        self._store = store
        self._clock = clock
        self._live = live
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._since_us = 0

    def note(self, reason: str, key: str = "") -> None:
        """One more, by the id of the key it came with, if that was a live one."""
        self._live.refused(reason)
        with self._lock:
            if not self._seen:
                self._since_us = self._clock.now_us()
            is_first = all(reason != known for known, _ in self._seen)
            if len(self._seen) >= MAX_RECORDS and (reason, key) not in self._seen:
                key = ""
            self._seen[reason, key] += 1
        if is_first:
            log.warning("refused a request: %s%s", reason, f", key {key}" if key else "")

    def tick(self) -> None:
        """Record what was refused once its minute is over. While the store cannot write, counting goes on."""
        if self._seen and self._clock.now_us() - self._since_us >= WINDOW_US:
            with contextlib.suppress(StoreUnavailable):
                self.flush()

    def flush(self) -> None:
        """Record what was refused since the last time; raises `StoreUnavailable`, and then it is kept."""
        with self._lock:
            seen, self._seen = self._seen, Counter()
            since_us = self._since_us
        drafts = [records.refused(*what, count=count, since_us=since_us) for what, count in sorted(seen.items())]
        if not drafts:
            return
        try:
            self._store.commit(Unit(tuple(drafts))).result()
        except StoreUnavailable:
            with self._lock:
                self._seen.update(seen)
                self._since_us = since_us
            raise
        for (reason, key), count in sorted(seen.items()):
            if count > 1:
                log.warning("refused %d requests in a minute: %s%s", count, reason, f", key {key}" if key else "")
