"""What this process decided and ran since it began, counted where it happens.

Other processes on the same store count for themselves; what they did together stands in the ledger (`metrics`).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping

import msgspec

from checkrein.model import Decision

#: upper ends of the latency buckets in microseconds; what is slower falls into one more
BUCKETS_US = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000)

#: outcome, risk level, arm
Decided = tuple[str, str, str]


class Seen(msgspec.Struct, frozen=True):
    """The counts at one moment. `buckets` has one more than `BUCKETS_US`; they are not added up."""

    decisions: Mapping[Decided, int]
    executions: Mapping[str, int]
    refused: Mapping[str, int]
    unrecorded: int
    buckets: tuple[int, ...]
    total_us: int


class Live:
    """Thread-safe; a call takes about a microsecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decisions: dict[Decided, int] = {}
        self._executions: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._unrecorded = 0
        self._buckets = [0] * (len(BUCKETS_US) + 1)
        self._total_us = 0

    def decided(self, made: Decision, latency_us: int) -> None:
        """A decision is on disk; its latency is 0 where nobody timed it."""
        key = (made.outcome.wire, made.risk.level.value, made.arm)
        bucket = bisect_left(BUCKETS_US, latency_us)
        with self._lock:
            self._decisions[key] = self._decisions.get(key, 0) + 1
            self._buckets[bucket] += latency_us > 0
            self._total_us += latency_us

    def ended(self, status: str) -> None:
        """The end of an execution is on disk."""
        with self._lock:
            self._executions[status] = self._executions.get(status, 0) + 1

    def refused(self, reason: str) -> None:
        """A request was refused before it was an action."""
        with self._lock:
            self._refused[reason] = self._refused.get(reason, 0) + 1

    def unrecorded(self) -> None:
        """A record or a payload was refused: what it was about did not run, or ended unrecorded."""
        with self._lock:
            self._unrecorded += 1

    def seen(self) -> Seen:
        with self._lock:
            return Seen(
                dict(self._decisions),
                dict(self._executions),
                dict(self._refused),
                self._unrecorded,
                tuple(self._buckets),
                self._total_us,
            )
