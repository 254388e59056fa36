"""Rows that every request reads and hardly anybody writes: kept in memory for as long as no process writes one.

A count that all processes of a store map from one file says whether that holds. Whoever is about to commit such a row
makes the count odd, and the next transaction of anybody makes it even again. Both happen in the turn to write that
SQLite gives to one transaction at a time, so a process that dies in between leaves nothing behind: while the count is
odd nothing is taken from memory, and whoever has the next turn knows that the one before is over. Decision 022.
"""

from __future__ import annotations

import mmap
import os
import time
from array import array
from collections.abc import Callable, Hashable, Set
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: the rooms of these rows: keys, their earlier secrets, and what is killed
ROOMS = frozenset(("key", "key_previous", "killswitch"))
#: how long an answer is kept, so that a store that can no longer be read is noticed
KEPT_S = 0.05
#: answers that are kept
_MOST = 4096
_BYTES = 8
#: after which the count begins anew: whatever a damaged file holds, writes go on
_LARGEST = 2 ** (8 * _BYTES) - 1


class _Kept(Generic[T]):
    __slots__ = ("count", "found", "until")

    def __init__(self, count: int, found: T, until: float) -> None:
        self.count = count
        self.found = found
        self.until = until


class Standing:
    """Make it while no other process opens the store. Raises `OSError` when the file cannot be made."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _BYTES:
                os.pwrite(descriptor, bytes(_BYTES), 0)
            #: one number, whichever process writes it
            self._count = memoryview(mmap.mmap(descriptor, _BYTES)).cast("Q")
        finally:
            os.close(descriptor)
        self._kept: dict[Hashable, _Kept[Any]] = {}

    def read(self, asked: Hashable, look: Callable[[], T]) -> T:
        """What `look` finds in the store, or found when it was asked the same before and nobody has written since."""
        count = self._count[0]
        kept = self._kept.get(asked)
        if kept is not None and kept.count == count and time.monotonic() < kept.until:
            return kept.found  # type: ignore[no-any-return]
        until = time.monotonic() + KEPT_S
        found = look()
        if not count & 1 and self._count[0] == count:
            if len(self._kept) >= _MOST:
                self._kept.clear()
            self._kept[asked] = _Kept(count, found, until)
        return found

    def close(self) -> None:
        """Let go of the file; what is asked from now on is looked for."""
        self._count = memoryview(array("Q", [1]))
        self._kept.clear()

    def writing(self, rooms: Set[str]) -> None:
        """Rows of these rooms are about to be committed. Only for who has the turn to write."""
        odd = self._count[0] & 1
        if not ROOMS.isdisjoint(rooms):
            self._count[0] = self._count[0] + 1 + odd & _LARGEST  # odd, and another number than before
        elif odd:
            self._count[0] = self._count[0] + 1 & _LARGEST
