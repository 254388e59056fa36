"""Follows the records that any process writes to a store: one that is not there yet, is upgraded, or is replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

from checkrein.ledger import Record
from checkrein.model import StoreUnavailable
from checkrein.ports import RecordQuery
from checkrein.storage.changes import SqliteChanges
from checkrein.storage.files import DataDir
from checkrein.storage.reader import SqliteReader

#: how often it looks whether anything was written, which is two system calls
EVERY_S = 0.1


class Follow:
    """Every record that fits `query`, from number `start` on, in order and each once, without an end.

    `say` hears what a person should know: that there is nothing to read yet, or that it is another log from here on.
    Times and limits of the query count as everywhere else; `close` it in the end.
    """

    def __init__(
        self, files: DataDir, query: RecordQuery, *, start: int = 0, last_id: str = "", say: Callable[[str], None]
    ) -> None:
        self._files = files
        self._query = query
        self._say = say
        #: the first number not seen yet, and the id of the record before it
        self._next, self._last_id = start, last_id
        self._reader: SqliteReader | None = None
        self._changes = SqliteChanges(files)
        self._inode = 0
        self._quiet = False

    def __iter__(self) -> Iterator[Record]:
        while True:
            if not self._changed():
                time.sleep(EVERY_S)
                continue
            try:
                yield from self._news()
                self._quiet = False
            except StoreUnavailable as error:
                self._tell(f"waiting: {error}")
                self._changes.forget()  # read again, though nothing may have been written by then
                time.sleep(EVERY_S)

    def close(self) -> None:
        """Let go of the files."""
        self._let_go()
        self._changes.close()

    def _let_go(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _changed(self) -> bool:
        """Whether somebody wrote since the last call, or the file is another one."""
        try:
            changed = self._changes.changed()
        except StoreUnavailable:
            self._tell(f"waiting for a ledger in `{self._files.path}`")
            self._let_go()
            return False
        if self._changes.inode != self._inode:
            self._inode = self._changes.inode
            self._let_go()
        return changed

    def _news(self) -> Iterator[Record]:
        if self._reader is None:
            self._reader = SqliteReader(self._files)
        reader = self._reader
        size = reader.head().size
        if self._next and _id(reader, self._next) != self._last_id:
            self._say(f"`{self._files.path}` holds another log now; it is followed from its beginning")
            self._next = 0
        if size == self._next:
            return
        last_id = _id(reader, size)
        for record in reader.records(msgspec.structs.replace(self._query, after_seq=self._next - 1, before_seq=size)):
            self._next, self._last_id = record.seq + 1, record.id
            yield record
        self._next, self._last_id = size, last_id

    def _tell(self, message: str) -> None:
        if not self._quiet:
            self._say(message)
        self._quiet = True


def _id(reader: SqliteReader, size: int) -> str:
    """The id of the last of the first `size` records; empty if there are not so many."""
    found = reader.records(RecordQuery(after_seq=size - 2, before_seq=size)) if size else iter(())
    return next((record.id for record in found), "")
