"""A disk in memory, under SQLite, that loses power or fails at a chosen call. It says what a real disk may do.

What was written but not synced is only pending: at a power cut every sector of it may be kept or dropped, each
by itself, so that writes are lost, reordered and torn. A failing call raises an I/O error or a full disk; after
a failed sync the system believes that its pending writes are clean, and never writes them (as Linux does).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import apsw

from checkrein.storage import writer

SECTOR = 512
#: pages
WAL_PAGES = 24
_POWERSAFE_OVERWRITE = 0x1000  # as SQLite's own unix files: bytes beside a write are not harmed by it
_numbers = itertools.count()


class Image:
    """One file: what the process sees, what is durable, and the writes between the two."""

    def __init__(self, content: bytes = b"", *, named: bool = False) -> None:
        self.seen = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes | None]] = []
        #: whether its name would survive a power cut
        self.named = named

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))
        _put(self.seen, offset, data)

    def truncate(self, size: int) -> None:
        self.pending.append((size, None))
        del self.seen[size:]

    def sync(self) -> None:
        self.named = True
        for offset, data in self.pending:
            _put(self.durable, offset, data)
        self.pending.clear()

    def cut(self, kept: Callable[[], bool]) -> None:
        """The power is gone: of what was pending, the sectors that `kept` says are on the disk."""
        for offset, data in self.pending:
            if data is None:
                if kept():
                    _put(self.durable, offset, None)
                continue
            start = 0
            while start < len(data):
                end = min(len(data), start + SECTOR - (offset + start) % SECTOR)
                if kept():
                    _put(self.durable, offset + start, data[start:end])
                start = end
        self.pending.clear()
        self.seen = bytearray(self.durable)


def _put(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class Disk(apsw.VFS):
    """`fault` hears the number and the kind of each call, and raises what it wants."""

    def __init__(self, content: dict[str, bytes] | None = None) -> None:
        self.name = f"disk-{next(_numbers)}"
        super().__init__(self.name, base="")
        self.files = {name: Image(data, named=True) for name, data in (content or {}).items()}
        self.calls = 0
        self.powered = True
        self.fault: Callable[[int, str], None] = lambda number, kind: None

    def cut_power_at(self, number: int) -> None:
        """At this call the power goes; neither it nor any later one comes back well."""

        def fault(call: int, kind: str) -> None:
            if call >= number:
                self.powered = False
                raise apsw.IOError("the power is gone")

        self.fault = fault

    def survived(self, seeded: random.Random) -> dict[str, bytes]:
        """What the next start finds on this disk after the power is gone."""
        share = seeded.choice((0.0, 0.5, 0.5, 0.9, 1.0))
        for image in self.files.values():
            image.cut(lambda: seeded.random() < share)
        return self.durable()

    def durable(self) -> dict[str, bytes]:
        """What is on the disk whatever happens."""
        return {name: bytes(image.durable) for name, image in self.files.items() if image.named}

    @contextmanager
    def mounted(self, *, synchronous: str = "") -> Iterator[None]:
        """Every connection made meanwhile is on this disk. `synchronous` overrules what the program asks for.

        Without shared memory SQLite keeps a WAL only for itself, so there can be one connection at a time; it
        copies its WAL back after a few pages, so that cuts fall into that too.
        """
        disk = self

        class Mounted(apsw.Connection):
            def __init__(self, path: str, flags: int) -> None:
                super().__init__(path, flags=flags, vfs=disk.name)
                super().pragma("locking_mode", "EXCLUSIVE")

            def pragma(self, name: str, value: Any = None, **options: Any) -> Any:
                if name == "synchronous" and synchronous:
                    value = synchronous
                return super().pragma(name, value, **options) if value is not None else super().pragma(name)

        with mock.patch.object(apsw, "Connection", Mounted), mock.patch.object(writer, "WAL_PAGES", WAL_PAGES):
            yield
        self.unregister()

    def call(self, kind: str) -> None:
        self.calls += 1
        self.fault(self.calls, kind)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        self.call("open")
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or f"temporary {self.calls}"
        flags[1] = flags[0]
        return File(self, self.files.setdefault(path, Image()))

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802
        self.call("delete")
        self.files.pop(name, None)

    def xAccess(self, name: str, flags: int) -> bool:  # noqa: N802
        return name in self.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


class File:
    """What SQLite asks of an open file. Nobody else has it open, so every lock is granted."""

    def __init__(self, disk: Disk, image: Image) -> None:
        self._disk = disk
        self._image = image

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._disk.call("read")
        return bytes(self._image.seen[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        try:
            self._disk.call("write")
        except apsw.Error:  # a part of it was written; a power cut tears it anyway
            self._image.write(offset, bytes(data[: len(data) // 2] if self._disk.powered else data))
            raise
        self._image.write(offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.call("truncate")
        self._image.truncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        try:
            self._disk.call("sync")
        except apsw.Error:
            if self._disk.powered:
                self._image.pending.clear()
            raise
        self._image.sync()

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._image.seen)

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return _POWERSAFE_OVERWRITE

    def xClose(self) -> None:  # noqa: N802
        pass
