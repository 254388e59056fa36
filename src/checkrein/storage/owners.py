"""Which processes are alive: each holds a locked file, and the kernel lets go of it when the process ends.

A start that was recorded by a process that is gone has no end any more; recovery needs to know which those
are, without guessing from process ids, which return, or from time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from pathlib import Path

_TOKEN = re.compile(r"own_[0-9a-f]{32}")


class Owner:
    """This process, until `close` or its end."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.token = f"own_{secrets.token_hex(16)}"
        self._path = folder / self.token
        draft = folder / f".{self.token}"
        # locked before it has its name, so that nobody ever sees it unlocked while this process lives
        self._descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        draft.rename(self._path)

    def close(self) -> None:
        """From now on this token counts as dead. A second call does nothing."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def alive(folder: Path, token: str) -> bool:
    """Whether the process that took this token still runs. The file of a dead one is removed."""
    if not _TOKEN.fullmatch(token):
        return False
    path = folder / token
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return False
    finally:
        os.close(descriptor)
