"""Unguessable ids. One system call fills a buffer that serves many of them.

Every request needs several ids and each `os.urandom` is a system call; the bytes are the same kind either way. A
forked child starts with an empty buffer, so it never repeats its parent's ids.
"""

from __future__ import annotations

import os
import threading

_REFILL = 4096


class _Noise:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        with self._lock:
            if self._at + count > len(self._bytes):
                self._bytes, self._at = os.urandom(max(_REFILL, count)), 0
            self._at += count
            return self._bytes[self._at - count : self._at]

    def forget(self) -> None:
        self.__init__()  # type: ignore[misc]


_noise = _Noise()
os.register_at_fork(after_in_child=_noise.forget)


def noise(count: int) -> bytes:
    """`count` bytes from the operating system's generator, as unpredictable as `os.urandom`."""
    return _noise.take(count)


def fresh(prefix: str, count: int) -> str:
    """`prefix` and `count` random bytes in hex."""
    return prefix + _noise.take(count).hex()
