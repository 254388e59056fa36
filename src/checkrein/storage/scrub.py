"""Leave nothing in the ledger's files of rows that were overwritten.

`secure_delete` wipes a row where it stood, but a page that SQLite rearranged may keep an older copy in the gap
between its rows. So the whole table of rows is written anew: freed pages are wiped, and fresh ones hold only what
is there now. Records are never touched.
"""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from checkrein.model import StoreUnavailable
from checkrein.storage.database import connect, trouble

#: how long it waits for those who write and read
PATIENCE_S = 10.0
_TRY_S = 0.001


def scrub(path: Path) -> None:
    """Rewrite the rows of the ledger's database and empty its write-ahead log. Raises `StoreUnavailable`."""
    try:
        connection = connect(path, busy_s=0)
        try:
            connection.pragma("temp_store", "memory")
            connection.execute('CREATE TEMP TABLE kept AS SELECT * FROM "row" WHERE 0')
            begin(connection, PATIENCE_S)
            connection.execute('INSERT INTO kept SELECT * FROM "row"')
            connection.execute('DELETE FROM "row"')
            connection.execute('INSERT INTO "row" SELECT * FROM kept')
            connection.execute("COMMIT")
            empty_log(connection, path)
        finally:
            connection.close(True)
    except apsw.Error as error:
        raise trouble(error, path) from error


def begin(connection: apsw.Connection, patience_s: float) -> None:
    """Begin to write, trying so often that even a busy writer leaves a gap. Raises `apsw.BusyError`."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_TRY_S)
        else:
            return


def empty_log(connection: apsw.Connection, path: Path) -> None:
    """Fold the write-ahead log into the database and cut it to nothing. Raises `StoreUnavailable`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (apsw.BusyError, apsw.LockedError):
            if time.monotonic() >= deadline:
                raise StoreUnavailable(
                    f"`{path}-wal` still holds what was overwritten: somebody is reading it",
                    hint="end long reads, such as an export, and erase again",
                ) from None
            time.sleep(_TRY_S)
        else:
            return
