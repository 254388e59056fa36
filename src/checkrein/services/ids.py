"""Unguessable ids. One system call fills a buffer that serves many of them.

Every request needs several ids and each `os.urandom` is a system call; the bytes are the same kind either way. Each
thread has a buffer of its own, so that none waits for another; a forked child starts with an empty one, so that it
never repeats its parent's ids.
"""

from __future__ import annotations

import os
import threading
from io import BytesIO

_REFILL = 4096


class _Noise(threading.local):
    def __init__(self) -> None:
        self.left = BytesIO()

    def take(self, count: int) -> bytes:
        taken = self.left.read(count)  # one step: whatever interrupts this thread gets other bytes
        if len(taken) < count:
            left = BytesIO(os.urandom(max(_REFILL, count)))
            taken = left.read(count)
            self.left = left
        return taken


_noise = _Noise()
os.register_at_fork(after_in_child=lambda: setattr(_noise, "left", BytesIO()))


def noise(count: int) -> bytes:
    """`count` bytes from the operating system's generator, as unpredictable as `os.urandom`."""
    return _noise.take(count)


def fresh(prefix: str, count: int) -> str:
    """`prefix` and `count` random bytes in hex."""
    return prefix + _noise.take(count).hex()
