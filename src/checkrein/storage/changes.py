"""Notices that anybody, in any process, wrote to a store: two system calls a look, and nothing while nobody looks."""

from __future__ import annotations

import contextlib

import apsw

from checkrein.model import StoreUnavailable
from checkrein.storage.database import connect
from checkrein.storage.files import DataDir


class SqliteChanges:
    """See `ports.Changes`. Also notices that the file is another one: `inode` is then a new number."""

    def __init__(self, files: DataDir) -> None:
        self._files = files
        self._connection: apsw.Connection | None = None
        self._version: int | None = None
        self.inode = 0

    def changed(self) -> bool:
        """Whether somebody wrote since the last look, or the file is another one; true at the first look.

        Raises `StoreUnavailable` while there is no store.
        """
        try:
            inode = self._files.database.stat().st_ino
            if self._connection is None or inode != self.inode:
                self.close()
                self.inode = inode
                self._connection = connect(self._files.database, reads_only=True)
            before, self._version = self._version, self._connection.pragma("data_version")
        except (OSError, apsw.Error) as error:
            self.close()
            raise StoreUnavailable(f"there is no ledger to read in `{self._files.path}`", hint="try again") from error
        return before != self._version

    def forget(self) -> None:
        """The next look finds a change."""
        self._version = None

    def close(self) -> None:
        """Let go of the file; a look opens it again."""
        connection, self._connection = self._connection, None
        self._version = None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close(True)
